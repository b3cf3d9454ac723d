//! Every row of the stores, drawn once.
//!
//! ```text
//! key                                        value
//! 'm'                                        what made the others, see [`crate::folder`]
//! 'p' …                                      offset rows, see [`crate::offsets`]
//! 'r' shard 1                                empty: this store is being rebuilt
//! 's' shard 1 · 'c' · partition 2            objects 8: how many of the store's are of that partition
//! 's' shard 1 · 'g' · namespace 3            empty: records of it were lost, its counters may have holes
//! 's' shard 1 · 'k' · namespace 3 · key      counter 4 of the latest object of that key
//! 's' shard 1 · 'o' · namespace 3 · counter 4
//!                                            offset 8 · time 8 · the record, see [`wire::record`]
//! ```
//!
//! Numbers in keys are big-endian, so that rows sort by them; in values little-endian. A store is
//! the rows under `'s'` and its shard: it is wiped by deleting that one range. Objects sort by their
//! ids, keys by their bytes. A key whose latest object is a tombstone has no row `'k'`: to have been
//! deleted costs nothing, and a range need not step over it.
//!
//! There is no row for how many objects a namespace has in a store: the last one's counter says it, and nobody asks but
//! who deletes them. In layout 1 there was: a second row for each record where namespaces are many.

use wire::{FrameError, NamespaceId, ObjectId, Record, Shard};

/// The version of this layout.
pub(crate) const VERSION: u16 = 2;

/// The prefix of the rows that say which stores are being rebuilt.
pub(crate) const REBUILDING: u8 = b'r';

const STORE: u8 = b's';
const OBJECTS: u8 = b'c';
const LOSSY: u8 = b'g';
const LATEST: u8 = b'k';
const OBJECT: u8 = b'o';

/// The key of the row that says that a store is being rebuilt.
pub(crate) fn rebuilding(shard: Shard) -> [u8; 2] {
    [REBUILDING, shard.0]
}

/// The prefix of all rows of a store.
pub(crate) fn store(shard: Shard) -> [u8; 2] {
    [STORE, shard.0]
}

/// The key of the count of a store's objects that are of one partition.
pub(crate) fn objects(shard: Shard, partition: u16) -> [u8; 5] {
    let [a, b] = partition.to_be_bytes();
    [STORE, shard.0, OBJECTS, a, b]
}

/// The key of the row that says that a namespace's counters in a store may have holes. Without it there
/// are as many objects as the last counter says.
pub(crate) fn lossy(shard: Shard, namespace: NamespaceId) -> [u8; 6] {
    prefix(shard, LOSSY, namespace)
}

/// The prefix of a namespace's latest objects in a store.
pub(crate) fn latest_of(shard: Shard, namespace: NamespaceId) -> [u8; 6] {
    prefix(shard, LATEST, namespace)
}

/// Makes `row` the key of a key's latest object.
pub(crate) fn latest(row: &mut Vec<u8>, shard: Shard, namespace: NamespaceId, key: &[u8]) {
    row.clear();
    row.extend_from_slice(&latest_of(shard, namespace));
    row.extend_from_slice(key);
}

/// The prefix of a namespace's objects in a store.
pub(crate) fn objects_of(shard: Shard, namespace: NamespaceId) -> [u8; 6] {
    prefix(shard, OBJECT, namespace)
}

/// The key of an object.
pub(crate) fn object(id: ObjectId) -> [u8; 10] {
    let mut row = [0; 10];
    row[..6].copy_from_slice(&objects_of(id.shard(), id.namespace()));
    row[6..].copy_from_slice(&id.counter().to_be_bytes());
    row
}

/// The counter in the key of an object.
pub(crate) fn counter_of(object: &[u8]) -> Option<u32> {
    object.get(6..)?.try_into().ok().map(u32::from_be_bytes)
}

/// Makes `row` the value of an object.
pub(crate) fn put_object(row: &mut Vec<u8>, record: &Record<'_>) {
    row.clear();
    row.extend_from_slice(&record.offset.to_le_bytes());
    row.extend_from_slice(&record.time_micros.to_le_bytes());
    row.extend_from_slice(record.encoded);
}

/// The record in the value of an object.
pub(crate) fn record(id: ObjectId, row: &[u8]) -> Result<Record<'_>, FrameError> {
    let cut_off = FrameError::Malformed("an object's row is cut off");
    let (offset, rest) = row.split_first_chunk().ok_or(cut_off)?;
    let (time, encoded) = rest.split_first_chunk().ok_or(cut_off)?;
    let (offset, time) = (u64::from_le_bytes(*offset), i64::from_le_bytes(*time));
    let record = Record::decode(encoded, id.namespace(), offset, time)?;
    if record.id != id || record.encoded.len() != encoded.len() {
        return Err(FrameError::Malformed("the record is another than its row says"));
    }
    Ok(record)
}

/// The counter in the value of a latest row.
pub(crate) fn counter(row: &[u8]) -> Option<u32> {
    row.try_into().ok().map(u32::from_le_bytes)
}

/// The count in the value of an objects row.
pub(crate) fn count(row: &[u8]) -> Option<u64> {
    row.try_into().ok().map(u64::from_le_bytes)
}

/// The first key behind all keys that begin with `prefix`; nothing where there is none.
pub(crate) fn behind(prefix: &[u8]) -> Option<Vec<u8>> {
    let end = prefix.iter().rposition(|byte| *byte < 0xff)?;
    let mut behind = prefix[..=end].to_vec();
    behind[end] += 1;
    Some(behind)
}

fn prefix(shard: Shard, kind: u8, namespace: NamespaceId) -> [u8; 6] {
    let [a, b, c] = namespace.to_be_bytes();
    [STORE, shard.0, kind, a, b, c]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use wire::{Draft, NewRecord};

    use super::*;

    const SHARD: Shard = Shard(0x3f);

    fn namespace() -> NamespaceId {
        NamespaceId::new(0x01_0203).unwrap()
    }

    #[test]
    fn golden_keys() {
        let mut key = b"what was there".to_vec();
        latest(&mut key, SHARD, namespace(), b"o-17");
        assert_eq!(key, b"s\x3fk\x01\x02\x03o-17");
        assert_eq!(rebuilding(SHARD), *b"r\x3f");
        assert_eq!(store(SHARD), *b"s\x3f");
        assert_eq!(objects(SHARD, 0x0102), *b"s\x3fc\x01\x02");
        assert_eq!(latest_of(SHARD, namespace()), *b"s\x3fk\x01\x02\x03");
        assert_eq!(lossy(SHARD, namespace()), *b"s\x3fg\x01\x02\x03");
        assert_eq!(objects_of(SHARD, namespace()), *b"s\x3fo\x01\x02\x03");
        let object = object(ObjectId::new(SHARD, namespace(), 0x04050607));
        assert_eq!(object, *b"s\x3fo\x01\x02\x03\x04\x05\x06\x07");
        assert_eq!((counter_of(&object), counter_of(&object[..9])), (Some(0x04050607), None));
    }

    #[test]
    fn golden_object_and_round_trip() {
        let draft = Draft::of(&NewRecord::text("v").with_key("k")).unwrap();
        let drafted = draft.records().next().unwrap();
        let record_of = Record { offset: 0x0102, time_micros: -2, ..drafted };
        let mut row = Vec::new();
        put_object(&mut row, &record_of);
        let mut golden = b"\x02\x01\0\0\0\0\0\0\xfe\xff\xff\xff\xff\xff\xff\xff".to_vec();
        golden.extend_from_slice(drafted.encoded);
        assert_eq!(row, golden);
        assert_eq!(record(record_of.id, &row), Ok(record_of));
        let other = ObjectId::new(Shard(drafted.id.shard().0 ^ 1), drafted.id.namespace(), 0);
        assert!(record(other, &row).is_err());
        row.push(0);
        assert!(record(record_of.id, &row).is_err());
        assert!(record(record_of.id, &row[..15]).is_err());
    }

    #[test]
    fn a_prefix_ends_where_the_next_begins() {
        assert_eq!(behind(b"s\x00"), Some(b"s\x01".to_vec()));
        assert_eq!(behind(b"s\xff"), Some(b"t".to_vec()));
        assert_eq!(behind(b"\xff\xff"), None);
    }

    proptest! {
        #[test]
        fn behind_is_the_least_bound(prefix in proptest::collection::vec(0xfd_u8.., 0..4), rest: Vec<u8>, other: Vec<u8>) {
            let with = [prefix.clone(), rest].concat();
            match behind(&prefix) {
                Some(behind) => {
                    prop_assert!(with < behind);
                    prop_assert!(other.starts_with(&prefix) == (prefix <= other && other < behind));
                }
                None => prop_assert!(prefix.iter().all(|byte| *byte == 0xff)),
            }
        }
    }
}
