//! Namespace ids, shards and object ids.

use std::fmt;
use std::str::FromStr;

use crate::limits::NAMESPACE_IDS;

/// A record's place in its namespace: contiguous from 0, what users see.
pub type Offset = u64;

/// A frame's place in its partition, in bytes from the partition's beginning. Internal.
pub type Position = u64;

/// Which use of a namespace id this is: a slot that is given out again after a delete gets the next.
pub type Generation = u32;

/// A namespace's id, below 2^24.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NamespaceId(u32);

impl NamespaceId {
    /// The namespace of control frames. Each partition has its own stream of them.
    pub const CONTROL: NamespaceId = NamespaceId(0);

    /// The id, or nothing where it is 2^24 or more.
    pub const fn new(id: u32) -> Option<NamespaceId> {
        if id < NAMESPACE_IDS { Some(NamespaceId(id)) } else { None }
    }

    /// The id as a number.
    pub const fn get(self) -> u32 {
        self.0
    }

    /// The partition that holds this namespace, in a log of `partitions` (a power of two).
    pub const fn partition(self, partitions: u16) -> u16 {
        (self.0 & (partitions as u32 - 1)) as u16
    }

    /// The id as three big-endian bytes, so that rows sort by it.
    pub const fn to_be_bytes(self) -> [u8; 3] {
        let [_, a, b, c] = self.0.to_be_bytes();
        [a, b, c]
    }

    /// The id from three big-endian bytes.
    pub const fn from_be_bytes([a, b, c]: [u8; 3]) -> NamespaceId {
        NamespaceId(u32::from_be_bytes([0, a, b, c]))
    }
}

impl fmt::Display for NamespaceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for NamespaceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ns{}", self.0)
    }
}

/// One of the 256 shards: the first byte of the BLAKE3 hash of a record's key, or of its value
/// where it has no key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Shard(pub u8);

impl Shard {
    /// The shard of a record with this key and value.
    pub fn of(key: Option<&str>, value: &[u8]) -> Shard {
        Shard::of_content(key.map_or(value, str::as_bytes))
    }

    /// The shard of what is hashed of a record.
    pub(crate) fn of_content(content: &[u8]) -> Shard {
        Shard(blake3::hash(content).as_bytes()[0])
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// `ANNNBBBB`: shard (1 byte), namespace (3), counter (4), printed as 16 hex digits.
///
/// The counter starts at 1 and is contiguous per (shard, namespace), so an object's previous is
/// its id minus one and lies in the same store.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectId(u64);

impl ObjectId {
    /// The id of the `counter`th record of `namespace` in `shard`, counted from 1.
    pub const fn new(shard: Shard, namespace: NamespaceId, counter: u32) -> ObjectId {
        ObjectId((shard.0 as u64) << 56 | (namespace.0 as u64) << 32 | counter as u64)
    }

    /// The id as a number; its big-endian bytes sort by store, namespace, counter.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The id from its number.
    pub const fn from_u64(id: u64) -> ObjectId {
        ObjectId(id)
    }

    /// The store that holds the object.
    pub const fn shard(self) -> Shard {
        Shard((self.0 >> 56) as u8)
    }

    /// The namespace of the record.
    pub const fn namespace(self) -> NamespaceId {
        NamespaceId((self.0 >> 32) as u32 & (NAMESPACE_IDS - 1))
    }

    /// The record's number within its shard and namespace, from 1.
    pub const fn counter(self) -> u32 {
        self.0 as u32
    }

    /// The object before this one in its shard and namespace, or nothing for the first.
    pub const fn previous(self) -> Option<ObjectId> {
        if self.counter() > 1 { Some(ObjectId(self.0 - 1)) } else { None }
    }
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a text is not an object id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an object id is 16 hex digits whose last 8 are not all zero")]
pub struct ObjectIdError;

impl FromStr for ObjectId {
    type Err = ObjectIdError;

    fn from_str(text: &str) -> Result<ObjectId, ObjectIdError> {
        if text.len() != 16 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(ObjectIdError);
        }
        let id = ObjectId(u64::from_str_radix(text, 16).map_err(|_| ObjectIdError)?);
        if id.counter() == 0 { Err(ObjectIdError) } else { Ok(id) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn golden_object_id() {
        let id = ObjectId::new(Shard(0x3f), NamespaceId(1), 10);
        assert_eq!(id.to_string(), "3f0000010000000a");
        assert_eq!(id.previous(), Some(ObjectId::new(Shard(0x3f), NamespaceId(1), 9)));
        assert_eq!(ObjectId::new(Shard(0x3f), NamespaceId(1), 1).previous(), None);
    }

    #[test]
    fn a_shard_is_the_first_byte_of_blake3() {
        // BLAKE3 of the empty input begins af1349b9, of "abc" 6437b3ac: the published test vectors.
        assert_eq!(Shard::of(None, b""), Shard(0xaf));
        assert_eq!(Shard::of(None, b"abc"), Shard(0x64));
        assert_eq!(Shard::of(Some("abc"), b"anything"), Shard(0x64));
    }

    #[test]
    fn what_is_no_object_id_is_refused() {
        for text in ["", "3f", "3f0000010000000g", "+f0000010000000a", "3f00000100000000", "3f0000010000000a0"] {
            assert_eq!(text.parse::<ObjectId>(), Err(ObjectIdError), "{text}");
        }
    }

    proptest! {
        #[test]
        fn object_ids_round_trip(shard: u8, namespace in 0..NAMESPACE_IDS, counter in 1..=u32::MAX) {
            let id = ObjectId::new(Shard(shard), NamespaceId(namespace), counter);
            prop_assert_eq!(id.to_string().parse::<ObjectId>(), Ok(id));
            prop_assert_eq!((id.shard(), id.namespace(), id.counter()), (Shard(shard), NamespaceId(namespace), counter));
        }

        #[test]
        fn namespace_ids_sort_as_their_bytes(a in 0..NAMESPACE_IDS, b in 0..NAMESPACE_IDS) {
            let (a, b) = (NamespaceId(a), NamespaceId(b));
            prop_assert_eq!(a.cmp(&b), a.to_be_bytes().cmp(&b.to_be_bytes()));
            prop_assert_eq!(NamespaceId::from_be_bytes(a.to_be_bytes()), a);
        }
    }
}
