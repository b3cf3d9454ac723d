//! Every row of rooms and subscribers, drawn once. Each is a function of the frames of one partition: the
//! namespace's, or the subscriber's home.
//!
//! ```text
//! key                               value                                    made of the partition of
//! 'r' namespace 3 · key             the slots in the room: a Roaring bitset   the namespace
//! 'j' slot 4 · namespace 3 · key    generation 4 · begins at 8: the slot is   the namespace
//!                                   in the room from this offset on
//! 's' name                          slot 4 · began 8 · boot 8 · connected 8:  the subscriber
//!                                   when the last connection began, and in
//!                                   which life of the broker; 0 before any
//! 'a' slot 4 · namespace 3          generation 4 · next offset 8: it is done  the subscriber
//!                                   with all below
//! 'd' slot 4                        name: deleted, its bits are not yet gone  the subscriber
//! 'f' partition 2 · slot 4          nothing: the slot is free                 the subscriber
//! 'n' partition 2                   slots given out so far 4                  the subscriber
//! ```
//!
//! A key of no bytes is the room of the namespace as a whole. Numbers in keys are big-endian, so that rows sort
//! by them; in values little-endian. A join is merged into a room's row as the slot, 4 bytes, little-endian;
//! slots that were merged stand one behind the other. A room that nobody is in has no row.
//!
//! The slots of a partition are `partition + partitions · n`.

use roaring::RoaringBitmap;
use rocksdb::{DB, DBRawIterator, MergeOperands, Options};
use tlog::Namespace;
use wire::{Generation, NamespaceId, Offset, SubscriberName};

use super::event::Slot;
use crate::ledger::LedgerError;
use crate::ledger::tags::{ACKED, DEAD, FREE, JOINED, NEXT_SLOT, ROOM, SUBSCRIBER};

/// The key of a room's row.
pub(super) fn room(namespace: NamespaceId, key: &str) -> Vec<u8> {
    [&rooms_of(namespace), key.as_bytes()].concat()
}

/// The prefix of the rows of a namespace's rooms.
pub(super) fn rooms_of(namespace: NamespaceId) -> [u8; 4] {
    let [a, b, c] = namespace.to_be_bytes();
    [ROOM, a, b, c]
}

/// The namespace and the key of a room's row.
pub(super) fn room_in(row: &[u8]) -> Option<(NamespaceId, &str)> {
    let ([ROOM, a, b, c], key) = row.split_first_chunk()? else { return None };
    Some((NamespaceId::from_be_bytes([*a, *b, *c]), std::str::from_utf8(key).ok()?))
}

/// The prefix of the rows of what a slot has joined.
pub(super) fn joined_by(slot: Slot) -> [u8; 5] {
    of_slot(JOINED, slot)
}

/// The prefix of the rows of what a slot has joined in a namespace: the key of that for the namespace as a whole.
pub(super) fn joined_in(slot: Slot, namespace: NamespaceId) -> [u8; 8] {
    of_slot_in(JOINED, slot, namespace)
}

/// The key of the row that says since when a slot is in a room.
pub(super) fn joined(slot: Slot, namespace: NamespaceId, key: &str) -> Vec<u8> {
    [&joined_in(slot, namespace), key.as_bytes()].concat()
}

/// The key of a subscriber's row.
pub(super) fn subscriber(name: &str) -> Vec<u8> {
    [&[SUBSCRIBER], name.as_bytes()].concat()
}

/// The prefix of the rows of how far a slot is done.
pub(super) fn acked_by(slot: Slot) -> [u8; 5] {
    of_slot(ACKED, slot)
}

/// The key of the row of how far a slot is done with a namespace.
pub(super) fn acked(slot: Slot, namespace: NamespaceId) -> [u8; 8] {
    of_slot_in(ACKED, slot, namespace)
}

/// The key of the row that says that a slot's subscriber was deleted.
pub(super) fn dead(slot: Slot) -> [u8; 5] {
    of_slot(DEAD, slot)
}

/// The prefix of the rows of a partition's free slots.
pub(super) fn free_of(partition: u16) -> [u8; 3] {
    let [a, b] = partition.to_be_bytes();
    [FREE, a, b]
}

/// The key of the row of a free slot.
pub(super) fn free(partition: u16, slot: Slot) -> Vec<u8> {
    [&free_of(partition)[..], &slot.to_be_bytes()].concat()
}

/// The key of the row of how many slots a partition has given out.
pub(super) fn next_slot(partition: u16) -> [u8; 3] {
    let [a, b] = partition.to_be_bytes();
    [NEXT_SLOT, a, b]
}

fn of_slot(tag: u8, slot: Slot) -> [u8; 5] {
    let [a, b, c, d] = slot.to_be_bytes();
    [tag, a, b, c, d]
}

fn of_slot_in(tag: u8, slot: Slot, namespace: NamespaceId) -> [u8; 8] {
    let ([a, b, c, d], [e, f, g]) = (slot.to_be_bytes(), namespace.to_be_bytes());
    [tag, a, b, c, d, e, f, g]
}

/// What is kept of a subscriber.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Subscribed {
    /// Its bit in the bitsets.
    pub(super) slot: Slot,
    /// When it was made.
    pub(super) began_micros: i64,
    /// In which life of the broker its last connection began.
    pub(super) boot: u64,
    /// When that was.
    pub(super) connected_micros: i64,
}

impl Subscribed {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut row = self.slot.to_le_bytes().to_vec();
        row.extend_from_slice(&self.began_micros.to_le_bytes());
        row.extend_from_slice(&self.boot.to_le_bytes());
        row.extend_from_slice(&self.connected_micros.to_le_bytes());
        row
    }

    pub(super) fn decode(key: &[u8], row: &[u8]) -> Result<Subscribed, LedgerError> {
        let mut parts = Parts(row);
        let decoded = (|| {
            Some(Subscribed {
                slot: u32::from_le_bytes(parts.take()?),
                began_micros: i64::from_le_bytes(parts.take()?),
                boot: u64::from_le_bytes(parts.take()?),
                connected_micros: i64::from_le_bytes(parts.take()?),
            })
        })();
        decoded.filter(|_| parts.0.is_empty()).ok_or_else(|| LedgerError::damaged(key, "it is no subscriber"))
    }

    /// The subscriber of this name, if there is one.
    pub(super) fn read(db: &DB, name: &str) -> Result<Option<Subscribed>, LedgerError> {
        let key = subscriber(name);
        db.get_pinned(&key)?.map(|row| Subscribed::decode(&key, &row)).transpose()
    }
}

/// An offset in a use of a namespace's id: where a join begins, how far an ack goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Since {
    pub(super) generation: Generation,
    pub(super) offset: Offset,
}

impl Since {
    pub(super) fn encode(self) -> Vec<u8> {
        [&self.generation.to_le_bytes()[..], &self.offset.to_le_bytes()].concat()
    }

    pub(super) fn decode(key: &[u8], row: &[u8]) -> Result<Since, LedgerError> {
        let mut parts = Parts(row);
        let decoded = (|| {
            let generation = u32::from_le_bytes(parts.take()?);
            Some(Since { generation, offset: u64::from_le_bytes(parts.take()?) })
        })();
        decoded.filter(|_| parts.0.is_empty()).ok_or_else(|| LedgerError::damaged(key, "it is no offset"))
    }

    /// What stands in the row of this key, if there is one.
    pub(super) fn read(db: &DB, key: &[u8]) -> Result<Option<Since>, LedgerError> {
        db.get_pinned(key)?.map(|row| Since::decode(key, &row)).transpose()
    }
}

struct Parts<'a>(&'a [u8]);

impl Parts<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (part, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*part)
    }
}

/// Encodes how many slots a partition has given out.
pub(super) fn decode_count(key: &[u8], row: &[u8]) -> Result<u32, LedgerError> {
    row.try_into().map(u32::from_le_bytes).map_err(|_| LedgerError::damaged(key, "it is no count"))
}

/// The slot in the key of a row whose key ends with it.
pub(super) fn slot_behind(prefix: &[u8], key: &[u8]) -> Result<Slot, LedgerError> {
    let slot = key.strip_prefix(prefix).and_then(|rest| rest.try_into().ok());
    slot.map(Slot::from_be_bytes).ok_or_else(|| LedgerError::damaged(key, "it names no slot"))
}

/// The namespace and the rest in a key behind tag and slot.
pub(super) fn namespace_in(key: &[u8]) -> Result<(NamespaceId, &str), LedgerError> {
    let rest = key.get(5..).and_then(|rest| rest.split_first_chunk());
    let found = rest.and_then(|(id, rest)| Some((NamespaceId::from_be_bytes(*id), std::str::from_utf8(rest).ok()?)));
    found.ok_or_else(|| LedgerError::damaged(key, "it names no room"))
}

/// The subscriber's name in the key of its row.
pub(super) fn name_in(key: &[u8]) -> Result<SubscriberName, LedgerError> {
    let name = key.get(1..).and_then(|name| SubscriberName::from_bytes(name).ok());
    name.ok_or_else(|| LedgerError::damaged(key, "it names no subscriber"))
}

/// The slots in a room.
pub(super) fn slots_in(db: &DB, key: &[u8]) -> Result<RoaringBitmap, LedgerError> {
    let Some(row) = db.get_pinned(key)? else { return Ok(RoaringBitmap::new()) };
    decode_slots(key, &row)
}

/// Reads the row of a room.
pub(super) fn decode_slots(key: &[u8], row: &[u8]) -> Result<RoaringBitmap, LedgerError> {
    RoaringBitmap::deserialize_from(row).map_err(|error| LedgerError::damaged(key, &error.to_string()))
}

/// The row of a room.
pub(super) fn encode_slots(slots: &RoaringBitmap) -> Vec<u8> {
    let mut row = Vec::with_capacity(slots.serialized_size());
    // A vector takes whatever is written to it.
    let _ = slots.serialize_into(&mut row);
    row
}

/// Whether there is a row whose key begins so.
pub(super) fn any_with(db: &DB, prefix: &[u8]) -> Result<bool, LedgerError> {
    let mut rows = db.raw_iterator();
    rows.seek(prefix);
    Ok(next_with(&rows, prefix)?.is_some())
}

/// A row's key, and what it holds.
pub(super) type KeyAndRow<'a> = (&'a [u8], &'a [u8]);

/// The row at which an iterator stands, if its key begins so.
pub(super) fn next_with<'a>(rows: &'a DBRawIterator<'_>, prefix: &[u8]) -> Result<Option<KeyAndRow<'a>>, LedgerError> {
    rows.status()?;
    Ok(rows.item().filter(|(key, _)| key.starts_with(prefix)))
}

/// The namespaces in which a slot has a room, ascending: one seek each, however many rooms.
pub(super) fn namespaces_of(db: &DB, slot: Slot) -> Result<Vec<NamespaceId>, LedgerError> {
    let prefix = joined_by(slot);
    let mut rows = db.raw_iterator();
    let mut found = Vec::new();
    rows.seek(prefix);
    while let Some((key, _)) = next_with(&rows, &prefix)? {
        let (namespace, _) = namespace_in(key)?;
        found.push(namespace);
        // No key has the byte 0xff, as it is UTF-8.
        rows.seek([&joined_in(slot, namespace)[..], &[0xff]].concat());
    }
    Ok(found)
}

/// The least offset from which on a slot is in a room of a namespace.
pub(super) fn first_join(db: &DB, slot: Slot, namespace: &Namespace) -> Result<Option<Offset>, LedgerError> {
    let prefix = joined_in(slot, namespace.id());
    let mut rows = db.raw_iterator();
    let mut first = None;
    rows.seek(prefix);
    while let Some((key, row)) = next_with(&rows, &prefix)? {
        let since = Since::decode(key, row)?;
        if since.generation == namespace.generation() && first.is_none_or(|first| since.offset < first) {
            first = Some(since.offset);
        }
        rows.next();
    }
    Ok(first)
}

/// How joins become part of a room's row. One that is damaged stays unreadable, so that nothing is lost in silence.
pub(crate) fn set_merge(options: &mut Options) {
    options.set_merge_operator("rooms", full_merge, partial_merge);
}

fn full_merge(_: &[u8], row: Option<&[u8]>, joins: &MergeOperands) -> Option<Vec<u8>> {
    let mut slots = match row {
        Some(row) => RoaringBitmap::deserialize_from(row).ok()?,
        None => RoaringBitmap::new(),
    };
    for join in joins {
        let (joined, []) = join.as_chunks() else { return None };
        slots.extend(joined.iter().map(|slot| Slot::from_le_bytes(*slot)));
    }
    Some(encode_slots(&slots))
}

fn partial_merge(_: &[u8], _: Option<&[u8]>, joins: &MergeOperands) -> Option<Vec<u8>> {
    Some(joins.into_iter().collect::<Vec<_>>().concat())
}

/// A row once more.
#[cfg(feature = "fuzzing")]
pub(crate) fn row_again(key: &[u8], row: &[u8]) -> Option<Vec<u8>> {
    match *key.first()? {
        ROOM => {
            room_in(key)?;
            decode_slots(key, row).ok().map(|slots| encode_slots(&slots))
        }
        SUBSCRIBER => {
            name_in(key).ok()?;
            Subscribed::decode(key, row).ok().map(|subscribed| subscribed.encode())
        }
        JOINED | ACKED => {
            namespace_in(key).ok()?;
            Since::decode(key, row).ok().map(Since::encode)
        }
        DEAD => slot_behind(&[DEAD], key).ok().map(|_| row.to_vec()),
        FREE => slot_behind(key.get(..3)?, key).ok().map(|_| row.to_vec()),
        NEXT_SLOT => decode_count(key, row).ok().map(|count| count.to_le_bytes().to_vec()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id() -> NamespaceId {
        NamespaceId::new(0x01_0203).unwrap()
    }

    #[test]
    fn golden_keys() {
        assert_eq!(room(id(), "k"), b"r\x01\x02\x03k");
        assert_eq!(room(id(), ""), b"r\x01\x02\x03");
        assert_eq!(room_in(b"r\x01\x02\x03k"), Some((id(), "k")));
        assert_eq!(joined(0x0405, id(), "k"), b"j\0\0\x04\x05\x01\x02\x03k");
        assert_eq!(namespace_in(b"j\0\0\x04\x05\x01\x02\x03k").unwrap(), (id(), "k"));
        assert_eq!(subscriber("ann"), b"sann");
        assert_eq!(acked(0x0405, id()), *b"a\0\0\x04\x05\x01\x02\x03");
        assert_eq!(dead(0x0405), *b"d\0\0\x04\x05");
        assert_eq!(free(0x0102, 0x0405), b"f\x01\x02\0\0\x04\x05");
        assert_eq!(slot_behind(&free_of(0x0102), b"f\x01\x02\0\0\x04\x05").unwrap(), 0x0405);
        assert_eq!(next_slot(0x0102), *b"n\x01\x02");
    }

    #[test]
    fn golden_values() {
        let subscribed = Subscribed { slot: 1, began_micros: 2, boot: 3, connected_micros: 4 };
        let row = subscribed.encode();
        assert_eq!(row, b"\x01\0\0\0\x02\0\0\0\0\0\0\0\x03\0\0\0\0\0\0\0\x04\0\0\0\0\0\0\0");
        assert_eq!(Subscribed::decode(b"s", &row).unwrap(), subscribed);
        assert!(Subscribed::decode(b"s", &row[1..]).is_err());
        let since = Since { generation: 2, offset: 0x0102 };
        assert_eq!(since.encode(), b"\x02\0\0\0\x02\x01\0\0\0\0\0\0");
        assert_eq!(Since::decode(b"j", &since.encode()).unwrap(), since);
        assert!(Since::decode(b"j", b"").is_err());
    }

    #[test]
    fn a_room_of_two_takes_twenty_bytes() {
        let slots = RoaringBitmap::from_iter([5, 1]);
        let row = encode_slots(&slots);
        assert_eq!(row, b"\x3a\x30\0\0\x01\0\0\0\0\0\x01\0\x10\0\0\0\x01\0\x05\0");
        assert_eq!(decode_slots(b"r", &row).unwrap(), slots);
        assert!(decode_slots(b"r", &row[..9]).is_err());
    }

    #[test]
    fn joins_are_merged_in_any_grouping() {
        let dir = tempfile::tempdir().unwrap();
        let mut options = Options::default();
        options.create_if_missing(true);
        set_merge(&mut options);
        let db = DB::open(&options, dir.path()).unwrap();
        for (at, slot) in [7u32, 9, 7, 70_000, 1].into_iter().enumerate() {
            db.merge(b"r", slot.to_le_bytes()).unwrap();
            if at % 2 == 1 {
                db.flush().unwrap();
            }
        }
        db.compact_range::<&[u8], &[u8]>(None, None);
        db.merge(b"r", [2u32.to_le_bytes(), 3u32.to_le_bytes()].concat()).unwrap();
        assert_eq!(slots_in(&db, b"r").unwrap(), RoaringBitmap::from_iter([1, 2, 3, 7, 9, 70_000]));
        db.put(b"x", b"rubbish").unwrap();
        db.merge(b"x", 1u32.to_le_bytes()).unwrap();
        assert!(slots_in(&db, b"x").is_err());
    }
}
