//! Whose an event is, and whose a row: by their first byte.
//!
//! ```text
//! event   1..=5     of a group                          groups/event.rs
//!         16..=18   of a lock                           locks/event.rs
//!         32..=63   of rooms and of subscribers         rooms/event.rs
//!
//! row     'm'       what made the rows                  folder.rs
//!         'p'       offset rows                         offsets.rs
//!         'g' 'l'   groups, their dead letters          groups/rows.rs
//!         'k'       locks that are held                 locks/rows.rs
//!         'r' 'j'   who is in a room, what one joined   rooms/rows.rs
//!         's' 'a'   subscribers, how far they are       rooms/rows.rs
//!         'd' 'f' 'n'  slots: dead, free, the next      rooms/rows.rs
//! ```

/// A group.
pub(crate) const GROUP: u8 = b'g';

/// A dead letter of a group.
pub(crate) const LETTER: u8 = b'l';

/// A lock that is held.
pub(crate) const LOCK: u8 = b'k';

/// The slots in a room.
pub(crate) const ROOM: u8 = b'r';

/// That a slot is in a room.
pub(crate) const JOINED: u8 = b'j';

/// A subscriber.
pub(crate) const SUBSCRIBER: u8 = b's';

/// How far a subscriber is done with a namespace.
pub(crate) const ACKED: u8 = b'a';

/// A slot whose subscriber was deleted.
pub(crate) const DEAD: u8 = b'd';

/// A slot that is free.
pub(crate) const FREE: u8 = b'f';

/// How many slots a partition has given out.
pub(crate) const NEXT_SLOT: u8 = b'n';

/// Whose an event is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EventOf {
    /// A group.
    Group,
    /// A lock.
    Lock,
    /// Rooms, or a subscriber.
    Rooms,
}

impl EventOf {
    /// Whose an event is, if its kind is known.
    pub(crate) fn event(bytes: &[u8]) -> Option<EventOf> {
        match bytes.first()? {
            1..=5 => Some(EventOf::Group),
            16..=18 => Some(EventOf::Lock),
            32..=63 => Some(EventOf::Rooms),
            _ => None,
        }
    }
}
