//! What happens to a lock and must survive: events of the partition that the lock lives in, which are
//! control records of no namespace. Behind the control record's own header:
//!
//! ```text
//! 0  1  event       16 granted · 17 extended · 18 released
//! 1  1  length      of the lock's name
//! 2     name        of the lock
//!       granted:    ttl u32, milliseconds · owner, up to the end
//!       extended:   token u64 · ttl u32, milliseconds
//!       released:   token u64
//! ```
//!
//! Numbers are little-endian. The token of a grant is not in it: see [`token_at`].

use std::sync::Arc;

use wire::limits::MAX_LOCK_TTL_MS;
use wire::name::check_owner;
use wire::{LockName, NameError, Offset};

const GRANTED: u8 = 16;
const EXTENDED: u8 = 17;
const RELEASED: u8 = 18;

/// The kinds of events, which say whose they are.
#[cfg(test)]
const TAGS: std::ops::RangeInclusive<u8> = GRANTED..=RELEASED;

/// The fencing token of a grant that stands at this offset of its partition's control records: the offset behind
/// it, which is never given twice and only grows (invariant 3). No token is 0, so who has seen none may begin there.
pub(super) fn token_at(offset: Offset) -> Offset {
    offset + 1
}

/// Something that happened to a lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LockEvent {
    /// It is this owner's, and no other's any more. Where the event stands makes the token.
    Granted {
        /// Who holds it.
        owner: Arc<str>,
        /// For how long, where nothing more is heard of the owner.
        ttl_ms: u32,
    },
    /// Its holder was promised a longer time than any before.
    Extended {
        /// The holder's token.
        token: Offset,
        /// That time.
        ttl_ms: u32,
    },
    /// Its holder has given it back, or its time is over.
    Released {
        /// The holder's token.
        token: Offset,
    },
}

/// Why an event can't be written or read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LockEventError {
    /// The lock's or the owner's name is not one.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A time is out of bounds.
    #[error("a lock is held for {0} ms, it must be 1 to {MAX_LOCK_TTL_MS}")]
    Ttl(u32),
    /// The bytes are not an event.
    #[error("a lock's event is not one: {0}")]
    Malformed(&'static str),
}

const CUT_OFF: LockEventError = LockEventError::Malformed("it is cut off");

impl LockEvent {
    /// The event of a lock as bytes.
    ///
    /// # Errors
    /// Where it would not be read back.
    pub fn encode(&self, lock: &LockName) -> Result<Vec<u8>, LockEventError> {
        let tag = match self {
            LockEvent::Granted { .. } => GRANTED,
            LockEvent::Extended { .. } => EXTENDED,
            LockEvent::Released { .. } => RELEASED,
        };
        let mut bytes = vec![tag, lock.len() as u8];
        bytes.extend_from_slice(lock.as_bytes());
        match self {
            LockEvent::Granted { owner, ttl_ms } => {
                check_owner(owner)?;
                bytes.extend_from_slice(&checked_ttl(*ttl_ms)?.to_le_bytes());
                bytes.extend_from_slice(owner.as_bytes());
            }
            LockEvent::Extended { token, ttl_ms } => {
                bytes.extend_from_slice(&token.to_le_bytes());
                bytes.extend_from_slice(&checked_ttl(*ttl_ms)?.to_le_bytes());
            }
            LockEvent::Released { token } => bytes.extend_from_slice(&token.to_le_bytes()),
        }
        Ok(bytes)
    }

    /// Reads an event, and which lock it is of.
    ///
    /// # Errors
    /// Where the bytes are not an event.
    pub fn decode(bytes: &[u8]) -> Result<(LockName, LockEvent), LockEventError> {
        let ([tag, length], rest) = bytes.split_first_chunk().ok_or(CUT_OFF)?;
        let (lock, rest) = rest.split_at_checked(usize::from(*length)).ok_or(CUT_OFF)?;
        let lock = LockName::from_bytes(lock)?;
        let (event, rest) = match *tag {
            GRANTED => {
                let (ttl_ms, owner) = decode_ttl(rest)?;
                let owner = std::str::from_utf8(owner).map_err(|_| NameError::NotUtf8 { what: "the owner's name" })?;
                check_owner(owner)?;
                (LockEvent::Granted { owner: owner.into(), ttl_ms }, &[][..])
            }
            EXTENDED => {
                let (token, rest) = decode_token(rest)?;
                let (ttl_ms, rest) = decode_ttl(rest)?;
                (LockEvent::Extended { token, ttl_ms }, rest)
            }
            RELEASED => {
                let (token, rest) = decode_token(rest)?;
                (LockEvent::Released { token }, rest)
            }
            _ => return Err(LockEventError::Malformed("it is of an unknown kind")),
        };
        if rest.is_empty() { Ok((lock, event)) } else { Err(LockEventError::Malformed("bytes follow it")) }
    }
}

fn checked_ttl(ttl_ms: u32) -> Result<u32, LockEventError> {
    if (1..=MAX_LOCK_TTL_MS).contains(&ttl_ms) { Ok(ttl_ms) } else { Err(LockEventError::Ttl(ttl_ms)) }
}

fn decode_ttl(bytes: &[u8]) -> Result<(u32, &[u8]), LockEventError> {
    let (ttl_ms, rest) = bytes.split_first_chunk().ok_or(CUT_OFF)?;
    Ok((checked_ttl(u32::from_le_bytes(*ttl_ms))?, rest))
}

fn decode_token(bytes: &[u8]) -> Result<(Offset, &[u8]), LockEventError> {
    let (token, rest) = bytes.split_first_chunk().ok_or(CUT_OFF)?;
    Ok((u64::from_le_bytes(*token), rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lock() -> LockName {
        LockName::new("printer").unwrap()
    }

    #[test]
    fn golden_bytes() {
        let granted = LockEvent::Granted { owner: "anna".into(), ttl_ms: 0x0102 };
        let extended = LockEvent::Extended { token: 7, ttl_ms: 3 };
        let released = LockEvent::Released { token: 7 };
        for (event, golden) in [
            (granted, &b"\x10\x07printer\x02\x01\0\0anna"[..]),
            (extended, b"\x11\x07printer\x07\0\0\0\0\0\0\0\x03\0\0\0"),
            (released, b"\x12\x07printer\x07\0\0\0\0\0\0\0"),
        ] {
            assert_eq!(event.encode(&lock()).unwrap(), golden);
            assert_eq!(LockEvent::decode(golden), Ok((lock(), event)));
        }
    }

    #[test]
    fn what_is_no_event_is_refused() {
        for bytes in [
            &b""[..],
            b"\x10",
            b"\x13\x01l",
            b"\x10\x02l",
            b"\x10\0\x01\0\0\0o",
            b"\x10\x01l\x01\0\0\0",
            b"\x10\x01l\0\0\0\0o",
            b"\x10\x01l\xff\xff\xff\xffo",
            b"\x10\x01l\x01\0\0\0\xff",
            b"\x10\x01\n\x01\0\0\0o",
            b"\x11\x01l\x01\0\0\0\0\0\0\0\x01\0\0",
            b"\x11\x01l\x01\0\0\0\0\0\0\0\x01\0\0\0x",
            b"\x12\x01l\x01\0\0\0\0\0\0",
            b"\x12\x01l\x01\0\0\0\0\0\0\0x",
        ] {
            assert!(LockEvent::decode(bytes).is_err(), "{}", bytes.escape_ascii());
        }
        for owner in ["", "a\nb", &"o".repeat(256)] {
            assert!(LockEvent::Granted { owner: owner.into(), ttl_ms: 1 }.encode(&lock()).is_err(), "{owner:?}");
        }
        assert!(LockEvent::Extended { token: 1, ttl_ms: MAX_LOCK_TTL_MS + 1 }.encode(&lock()).is_err());
    }

    fn events() -> impl Strategy<Value = LockEvent> {
        let ttl = 1..=MAX_LOCK_TTL_MS;
        prop_oneof![
            ("[a-zäß東 ]{1,60}", ttl.clone())
                .prop_map(|(owner, ttl_ms)| LockEvent::Granted { owner: owner.into(), ttl_ms }),
            (any::<u64>(), ttl).prop_map(|(token, ttl_ms)| LockEvent::Extended { token, ttl_ms }),
            any::<u64>().prop_map(|token| LockEvent::Released { token }),
        ]
    }

    proptest! {
        #[test]
        fn events_come_back_and_have_one_spelling(name in "[a-zäß東/]{1,60}", event in events()) {
            let name = LockName::new(&name).unwrap();
            let bytes = event.encode(&name).unwrap();
            prop_assert_eq!(LockEvent::decode(&bytes), Ok((name, event)));
        }

        #[test]
        fn any_bytes_are_an_event_or_refused(tag in TAGS, mut bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            bytes.insert(0, tag);
            if let Ok((name, event)) = LockEvent::decode(&bytes) {
                prop_assert_eq!(event.encode(&name).unwrap(), bytes);
            }
        }
    }
}
