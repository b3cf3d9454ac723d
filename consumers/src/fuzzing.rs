//! What reads the ledger's events and rows, for the fuzzers: from bytes alone. No part of the interface.

use crate::ledger::tags::{EventOf, GROUP, LETTER, LOCK, ROOM};
use crate::locks::LockEvent;
use crate::{groups, locks, rooms};

/// An event once more as bytes; why not, where it is none. Nothing where it is of nobody.
pub fn event(bytes: &[u8]) -> Option<Result<Vec<u8>, String>> {
    let said = |error: &dyn std::error::Error| error.to_string();
    Some(match EventOf::event(bytes)? {
        EventOf::Group => groups::GroupEvent::decode(bytes)
            .and_then(|(group, event)| event.encode(group))
            .map_err(|error| said(&error)),
        EventOf::Lock => {
            LockEvent::decode(bytes).and_then(|(lock, event)| event.encode(&lock)).map_err(|error| said(&error))
        }
        EventOf::Rooms => rooms::event_again(bytes).map_err(|error| said(&error)),
    })
}

/// The value of a row with this key once more as bytes, and whether there is but one spelling of it; nothing where
/// key or value is none.
pub fn row(key: &[u8], value: &[u8]) -> Option<(Vec<u8>, bool)> {
    match *key.first()? {
        GROUP => groups::row_again(key, value).map(|again| (again, false)),
        LETTER => groups::letter_again(key, value).map(|again| (again, true)),
        LOCK => locks::row_again(value).map(|again| (again, true)),
        tag => rooms::row_again(key, value).map(|again| (again, tag != ROOM)),
    }
}
