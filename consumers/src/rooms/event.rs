//! What happens to rooms and subscribers and must survive: events. Those of a subscriber are of its home
//! partition, which its name says; joins and leaves are of the namespace whose rooms they are, so that the
//! control record around them says which, and from which offset on. Behind that:
//!
//! ```text
//! 0  1  event       32 created · 33 deleted · 34 acked · 35 connected · 36 freed · 40 joined · 41 left
//!       created:    name, time i64, microseconds
//!       deleted:    name
//!       acked:      name, places: count varint, each: namespace varint, generation varint, next offset varint
//!       connected:  name, boot u64, time i64, microseconds,
//!                   gone: count varint, each: namespace varint
//!       freed:      slot u32
//!       joined, left:
//!                   slot u32, rooms: count varint, each: length varint, key
//!
//!       a name:     length 1, name
//!       a room:     its key; of no bytes: the namespace as a whole
//! ```
//!
//! Fixed numbers are little-endian; `ledger/codec.rs` draws varints. Places, gone namespaces and rooms ascend
//! and come once, so that each event has one spelling.

use wire::limits::{MAX_EVENT_BYTES, MAX_KEY_BYTES};
use wire::name::check_key;
use wire::{Generation, NameError, NamespaceId, Offset, SubscriberName};

use super::Place;
use crate::ledger::codec::{Malformed, Reader, put_varint};

const CREATED: u8 = 32;
const DELETED: u8 = 33;
const ACKED: u8 = 34;
const CONNECTED: u8 = 35;
const FREED: u8 = 36;
const JOINED: u8 = 40;
const LEFT: u8 = 41;

/// A subscriber's small integer: its bit in the bitsets.
pub type Slot = u32;

/// Something that happened to rooms or subscribers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RoomEvent {
    /// The subscriber exists from here on.
    Created {
        /// Its name.
        name: SubscriberName,
        /// When, microseconds since 1970.
        began_micros: i64,
    },
    /// The subscriber does not exist from here on. Its slot is not free yet.
    Deleted {
        /// Its name.
        name: SubscriberName,
    },
    /// The subscriber is done with all below these places.
    Acked {
        /// Its name.
        name: SubscriberName,
        /// One a namespace, ascending.
        places: Vec<Place>,
    },
    /// A connection of the subscriber has begun.
    Connected {
        /// Its name.
        name: SubscriberName,
        /// In which life of the broker.
        boot: u64,
        /// When, microseconds since 1970.
        time_micros: i64,
        /// Namespaces that it has no room of any more, ascending: where it was in them is forgotten.
        gone: Vec<NamespaceId>,
    },
    /// No row has the bit of this slot any more.
    Freed {
        /// The slot.
        slot: Slot,
    },
    /// A slot is in these rooms from here on.
    Joined {
        /// The slot.
        slot: Slot,
        /// The keys of the rooms, ascending; an empty one is the namespace as a whole.
        rooms: Vec<String>,
    },
    /// A slot is not in these rooms from here on.
    Left {
        /// The slot.
        slot: Slot,
        /// The keys of the rooms, ascending; an empty one is the namespace as a whole.
        rooms: Vec<String>,
    },
}

/// Why an event can't be written or read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RoomEventError {
    /// A name or key is not one.
    #[error(transparent)]
    Name(#[from] NameError),
    /// It is larger than its limit.
    #[error("an event of rooms is {bytes} bytes, the limit is {MAX_EVENT_BYTES}")]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// The bytes are not an event.
    #[error("an event of rooms is not one: {0}")]
    Malformed(&'static str),
}

impl From<Malformed> for RoomEventError {
    fn from(Malformed(what): Malformed) -> Self {
        RoomEventError::Malformed(what)
    }
}

const DO_NOT_ASCEND: RoomEventError = RoomEventError::Malformed("what it lists does not ascend");

impl RoomEvent {
    /// The event as bytes.
    ///
    /// # Errors
    /// Where it would not be read back.
    pub fn encode(&self) -> Result<Vec<u8>, RoomEventError> {
        let mut bytes = Vec::new();
        match self {
            RoomEvent::Created { name, began_micros } => {
                put_name(&mut bytes, CREATED, name);
                bytes.extend_from_slice(&began_micros.to_le_bytes());
            }
            RoomEvent::Deleted { name } => put_name(&mut bytes, DELETED, name),
            RoomEvent::Acked { name, places } => {
                put_name(&mut bytes, ACKED, name);
                put_places(&mut bytes, places)?;
            }
            RoomEvent::Connected { name, boot, time_micros, gone } => {
                put_name(&mut bytes, CONNECTED, name);
                bytes.extend_from_slice(&boot.to_le_bytes());
                bytes.extend_from_slice(&time_micros.to_le_bytes());
                put_varint(&mut bytes, gone.len() as u64);
                ascending(gone.iter())?;
                gone.iter().for_each(|namespace| put_varint(&mut bytes, u64::from(namespace.get())));
            }
            RoomEvent::Freed { slot } => put_slot(&mut bytes, FREED, *slot),
            RoomEvent::Joined { slot, rooms } => put_rooms(&mut bytes, JOINED, *slot, rooms)?,
            RoomEvent::Left { slot, rooms } => put_rooms(&mut bytes, LEFT, *slot, rooms)?,
        }
        if bytes.len() > MAX_EVENT_BYTES {
            return Err(RoomEventError::TooLarge { bytes: bytes.len() });
        }
        Ok(bytes)
    }

    /// Reads an event.
    ///
    /// # Errors
    /// Where the bytes are not one.
    pub fn decode(bytes: &[u8]) -> Result<RoomEvent, RoomEventError> {
        if bytes.len() > MAX_EVENT_BYTES {
            return Err(RoomEventError::TooLarge { bytes: bytes.len() });
        }
        let mut reader = Reader(bytes);
        let event = match reader.byte()? {
            CREATED => RoomEvent::Created { name: name(&mut reader)?, began_micros: time(&mut reader)? },
            DELETED => RoomEvent::Deleted { name: name(&mut reader)? },
            ACKED => RoomEvent::Acked { name: name(&mut reader)?, places: places(&mut reader)? },
            CONNECTED => RoomEvent::Connected {
                name: name(&mut reader)?,
                boot: u64::from_le_bytes(reader.array()?),
                time_micros: time(&mut reader)?,
                gone: gone(&mut reader)?,
            },
            FREED => RoomEvent::Freed { slot: slot(&mut reader)? },
            JOINED => RoomEvent::Joined { slot: slot(&mut reader)?, rooms: rooms(&mut reader)? },
            LEFT => RoomEvent::Left { slot: slot(&mut reader)?, rooms: rooms(&mut reader)? },
            _ => return Err(RoomEventError::Malformed("it is of an unknown kind")),
        };
        reader.end()?;
        Ok(event)
    }
}

/// How many bytes a room takes in an event, at most.
pub(super) fn room_bytes(key: &str) -> usize {
    key.len() + 2
}

fn ascending<T: Ord>(mut items: impl Iterator<Item = T>) -> Result<(), RoomEventError> {
    let Some(mut last) = items.next() else { return Ok(()) };
    for item in items {
        if item <= last {
            return Err(DO_NOT_ASCEND);
        }
        last = item;
    }
    Ok(())
}

fn put_name(bytes: &mut Vec<u8>, tag: u8, name: &SubscriberName) {
    bytes.extend_from_slice(&[tag, name.len() as u8]);
    bytes.extend_from_slice(name.as_bytes());
}

fn put_slot(bytes: &mut Vec<u8>, tag: u8, slot: Slot) {
    bytes.push(tag);
    bytes.extend_from_slice(&slot.to_le_bytes());
}

fn put_places(bytes: &mut Vec<u8>, places: &[Place]) -> Result<(), RoomEventError> {
    ascending(places.iter().map(|place| place.namespace))?;
    put_varint(bytes, places.len() as u64);
    for place in places {
        put_varint(bytes, u64::from(place.namespace.get()));
        put_varint(bytes, u64::from(place.generation));
        put_varint(bytes, place.next_offset);
    }
    Ok(())
}

fn put_rooms(bytes: &mut Vec<u8>, tag: u8, slot: Slot, rooms: &[String]) -> Result<(), RoomEventError> {
    put_slot(bytes, tag, slot);
    ascending(rooms.iter())?;
    put_varint(bytes, rooms.len() as u64);
    for room in rooms {
        check_room(room)?;
        put_varint(bytes, room.len() as u64);
        bytes.extend_from_slice(room.as_bytes());
    }
    Ok(())
}

/// Checks a room: a key, or the namespace as a whole.
fn check_room(room: &str) -> Result<(), NameError> {
    if room.is_empty() { Ok(()) } else { check_key(room) }
}

fn name(reader: &mut Reader<'_>) -> Result<SubscriberName, RoomEventError> {
    let length = reader.byte()?;
    Ok(SubscriberName::from_bytes(reader.take(usize::from(length))?)?)
}

fn time(reader: &mut Reader<'_>) -> Result<i64, Malformed> {
    Ok(i64::from_le_bytes(reader.array()?))
}

fn slot(reader: &mut Reader<'_>) -> Result<Slot, Malformed> {
    Ok(Slot::from_le_bytes(reader.array()?))
}

fn namespace(reader: &mut Reader<'_>) -> Result<NamespaceId, Malformed> {
    NamespaceId::new(reader.varint_u32()?).ok_or(Malformed("a namespace's id is 2^24 or more"))
}

fn places(reader: &mut Reader<'_>) -> Result<Vec<Place>, RoomEventError> {
    let mut places = Vec::with_capacity(reader.count(3)?);
    for _ in 0..places.capacity() {
        let namespace = namespace(reader)?;
        let generation: Generation = reader.varint_u32()?;
        let next_offset: Offset = reader.varint()?;
        places.push(Place { namespace, generation, next_offset });
    }
    ascending(places.iter().map(|place| place.namespace))?;
    Ok(places)
}

fn gone(reader: &mut Reader<'_>) -> Result<Vec<NamespaceId>, RoomEventError> {
    let mut gone = Vec::with_capacity(reader.count(1)?);
    for _ in 0..gone.capacity() {
        gone.push(namespace(reader)?);
    }
    ascending(gone.iter())?;
    Ok(gone)
}

fn rooms(reader: &mut Reader<'_>) -> Result<Vec<String>, RoomEventError> {
    let mut rooms = Vec::with_capacity(reader.count(1)?);
    for _ in 0..rooms.capacity() {
        let length = reader.varint_u32()? as usize;
        if length > MAX_KEY_BYTES {
            return Err(NameError::TooLong { what: "the key", bytes: length, limit: MAX_KEY_BYTES }.into());
        }
        let room = std::str::from_utf8(reader.take(length)?).map_err(|_| NameError::NotUtf8 { what: "the key" })?;
        check_room(room)?;
        rooms.push(room.to_owned());
    }
    ascending(rooms.iter())?;
    Ok(rooms)
}

/// An event once more.
#[cfg(feature = "fuzzing")]
pub(crate) fn event_again(bytes: &[u8]) -> Result<Vec<u8>, RoomEventError> {
    RoomEvent::decode(bytes)?.encode()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(name: &str) -> SubscriberName {
        SubscriberName::new(name).unwrap()
    }

    fn id(id: u32) -> NamespaceId {
        NamespaceId::new(id).unwrap()
    }

    fn encoded(event: &RoomEvent) -> Vec<u8> {
        let bytes = event.encode().unwrap();
        assert_eq!(RoomEvent::decode(&bytes), Ok(event.clone()));
        bytes
    }

    #[test]
    fn golden_bytes_and_round_trip() {
        let created = RoomEvent::Created { name: name("ann"), began_micros: 0x0102 };
        assert_eq!(encoded(&created), b"\x20\x03ann\x02\x01\0\0\0\0\0\0");
        assert_eq!(encoded(&RoomEvent::Deleted { name: name("ann") }), b"\x21\x03ann");
        let place = |namespace, next_offset| Place { namespace: id(namespace), generation: 2, next_offset };
        let acked = RoomEvent::Acked { name: name("a"), places: vec![place(1, 300), place(200, 0)] };
        assert_eq!(encoded(&acked), b"\x22\x01a\x02\x01\x02\xac\x02\xc8\x01\x02\0");
        let connected = RoomEvent::Connected { name: name("a"), boot: 7, time_micros: 9, gone: vec![id(1), id(3)] };
        assert_eq!(encoded(&connected), b"\x23\x01a\x07\0\0\0\0\0\0\0\x09\0\0\0\0\0\0\0\x02\x01\x03");
        assert_eq!(encoded(&RoomEvent::Freed { slot: 0x0102 }), b"\x24\x02\x01\0\0");
        let joined = RoomEvent::Joined { slot: 3, rooms: vec![String::new(), "k".to_owned()] };
        assert_eq!(encoded(&joined), b"\x28\x03\0\0\0\x02\0\x01k");
        assert_eq!(encoded(&RoomEvent::Left { slot: 3, rooms: vec!["k".to_owned()] }), b"\x29\x03\0\0\0\x01\x01k");
    }

    #[test]
    fn what_is_no_event_is_refused() {
        for (bytes, named) in [
            (&b""[..], "it is cut off"),
            (b"\x25", "unknown kind"),
            (b"\x21\0", "the subscriber's name is empty"),
            (b"\x21\x02..", "which no URL can name"),
            (b"\x21\x01\xff", "is not UTF-8"),
            (b"\x21\x01ax", "bytes follow it"),
            (b"\x22\x01a\x02\x01\0\0\x01\0\0", "does not ascend"),
            (b"\x22\x01a\x01\x80\x80\x80\x08\0\0", "2^24 or more"),
            (b"\x28\0\0\0\0\xff\xff\xff\xff\x0f", "it is cut off"),
            (b"\x28\0\0\0\0\x02\x01b\x01a", "does not ascend"),
            (b"\x28\0\0\0\0\x01\x01\n", "control character"),
            (b"\x28\0\0\0\0\x01\x81\x08k", "the key is 1025 bytes"),
        ] {
            let error = RoomEvent::decode(bytes).unwrap_err().to_string();
            assert!(error.contains(named), "{bytes:?}: {error}");
        }
        let twice = RoomEvent::Left { slot: 0, rooms: vec!["a".to_owned(), "a".to_owned()] };
        assert_eq!(twice.encode(), Err(DO_NOT_ASCEND));
        let many = (0..600).map(|n| format!("{n:01024}")).collect();
        assert!(matches!(RoomEvent::Joined { slot: 0, rooms: many }.encode(), Err(RoomEventError::TooLarge { .. })));
    }

    fn event() -> impl Strategy<Value = RoomEvent> {
        let names = "[a-z/é]{1,20}".prop_map(|text| name(&text));
        let places =
            prop::collection::btree_map(0..1u32 << 24, (any::<u32>(), any::<u64>()), 0..9).prop_map(|places| {
                let place = |(namespace, (generation, next_offset))| Place {
                    namespace: id(namespace),
                    generation,
                    next_offset,
                };
                places.into_iter().map(place).collect()
            });
        let gone = prop::collection::btree_set(0..1u32 << 24, 0..9);
        let rooms = prop::collection::btree_set("[a-zé]{0,9}", 0..9).prop_map(|rooms| rooms.into_iter().collect());
        (names, places, gone, rooms, any::<u32>(), any::<i64>(), any::<u64>(), 0..7u8).prop_map(
            |(name, places, gone, rooms, slot, time_micros, boot, kind)| match kind {
                0 => RoomEvent::Created { name, began_micros: time_micros },
                1 => RoomEvent::Deleted { name },
                2 => RoomEvent::Acked { name, places },
                3 => RoomEvent::Connected { name, boot, time_micros, gone: gone.into_iter().map(id).collect() },
                4 => RoomEvent::Freed { slot },
                5 => RoomEvent::Joined { slot, rooms },
                _ => RoomEvent::Left { slot, rooms },
            },
        )
    }

    proptest! {
        #[test]
        fn events_round_trip(event in event()) {
            let bytes = event.encode().unwrap();
            prop_assert_eq!(RoomEvent::decode(&bytes), Ok(event));
        }

        /// Cut, flipped and made-up bytes are refused, or are the one spelling of another event.
        #[test]
        fn hostile_bytes_are_refused_or_canonical(
            event in event(),
            at: prop::sample::Index,
            flip: u8,
            cut: prop::sample::Index,
            made_up in prop::collection::vec(any::<u8>(), 0..60),
        ) {
            let mut bytes = event.encode().unwrap();
            let index = at.index(bytes.len());
            bytes[index] ^= flip;
            bytes.truncate(cut.index(bytes.len() + 1));
            for bytes in [bytes, made_up] {
                if let Ok(event) = RoomEvent::decode(&bytes) {
                    prop_assert_eq!(event.encode().unwrap(), bytes);
                }
            }
        }
    }
}
