//! The rows of locks that are held.
//!
//! ```text
//! key    'k' · partition u16, big-endian · the lock's name
//!
//! value   0  8  token   of its holder
//!         8  4  ttl     milliseconds: the longest time that the holder was promised
//!        12     owner   up to the end
//! ```
//!
//! The numbers of the value are little-endian. A lock that nobody holds has no row.

use std::sync::Arc;

use rocksdb::{DB, WriteBatch};
use wire::{LockName, Offset};

use crate::ledger::LedgerError;
use crate::ledger::tags;

/// What is kept of a lock that is held: a function of its events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Kept {
    pub(super) token: Offset,
    pub(super) ttl_ms: u32,
    pub(super) owner: Arc<str>,
}

impl Kept {
    fn encode(&self) -> Vec<u8> {
        [&self.token.to_le_bytes()[..], &self.ttl_ms.to_le_bytes(), self.owner.as_bytes()].concat()
    }

    fn decode(row: &[u8]) -> Option<Kept> {
        let (token, rest) = row.split_first_chunk()?;
        let (ttl_ms, owner) = rest.split_first_chunk()?;
        let owner = std::str::from_utf8(owner).ok()?.into();
        Some(Kept { token: u64::from_le_bytes(*token), ttl_ms: u32::from_le_bytes(*ttl_ms), owner })
    }
}

fn key(partition: u16, lock: &str) -> Vec<u8> {
    [&prefix(partition)[..], lock.as_bytes()].concat()
}

fn prefix(partition: u16) -> [u8; 3] {
    let [a, b] = partition.to_be_bytes();
    [tags::LOCK, a, b]
}

/// The locks of a partition that are held.
pub(super) fn held(db: &DB, partition: u16) -> Result<Vec<(LockName, Kept)>, LedgerError> {
    let prefix = prefix(partition);
    let mut held = Vec::new();
    let mut rows = db.raw_iterator();
    rows.seek(prefix);
    while let Some((key, value)) = rows.item().filter(|(key, _)| key.starts_with(&prefix)) {
        let name = LockName::from_bytes(&key[prefix.len()..]);
        let name = name.map_err(|error| LedgerError::damaged(key, &error.to_string()))?;
        held.push((name, decode(key, value)?));
        rows.next();
    }
    rows.status()?;
    Ok(held)
}

/// What is kept of a lock, if anybody holds it.
pub(super) fn read(db: &DB, partition: u16, lock: &str) -> Result<Option<Kept>, LedgerError> {
    let key = key(partition, lock);
    db.get_pinned(&key)?.map(|row| decode(&key, &row)).transpose()
}

/// Adds what is kept of a lock to a batch.
pub(super) fn write(batch: &mut WriteBatch, partition: u16, lock: &str, kept: Option<&Kept>) {
    match kept {
        Some(kept) => batch.put(key(partition, lock), kept.encode()),
        None => batch.delete(key(partition, lock)),
    }
}

fn decode(key: &[u8], row: &[u8]) -> Result<Kept, LedgerError> {
    Kept::decode(row).ok_or_else(|| LedgerError::damaged(key, "it is cut off"))
}

/// The row of a lock once more.
#[cfg(feature = "fuzzing")]
pub(crate) fn row_again(row: &[u8]) -> Option<Vec<u8>> {
    Kept::decode(row).map(|kept| kept.encode())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_row_and_key() {
        let kept = Kept { token: 0x0102, ttl_ms: 3, owner: "anna".into() };
        let golden = b"\x02\x01\0\0\0\0\0\0\x03\0\0\0anna";
        assert_eq!(kept.encode(), golden);
        assert_eq!(Kept::decode(golden), Some(kept));
        assert_eq!(Kept::decode(&golden[..11]), None);
        assert_eq!(key(0x0102, "printer"), b"k\x01\x02printer");
    }
}
