//! Events become row changes.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use rocksdb::{DB, WriteBatch};
use wire::{LockName, Offset};

use super::event::{LockEvent, token_at};
use super::rows::{self, Kept};
use crate::ledger::LedgerError;

/// What some frames of a partition change: its locks as they become.
#[derive(Debug)]
pub(crate) struct Changes {
    partition: u16,
    touched: BTreeMap<LockName, Option<Kept>>,
}

impl Changes {
    /// No change yet.
    pub(crate) fn of(partition: u16) -> Changes {
        Changes { partition, touched: BTreeMap::new() }
    }

    /// Takes in an event, which stands at `offset` in the partition's control records.
    pub(crate) fn take(&mut self, db: &DB, offset: Offset, event: &[u8]) -> Result<(), LedgerError> {
        let (lock, event) = LockEvent::decode(event)?;
        let kept = match self.touched.entry(lock) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => {
                let kept = rows::read(db, self.partition, new.key())?;
                new.insert(kept)
            }
        };
        Kept::apply(kept, offset, event);
        Ok(())
    }

    /// Adds the rows to a batch.
    pub(crate) fn write(&self, batch: &mut WriteBatch) {
        for (lock, kept) in &self.touched {
            rows::write(batch, self.partition, lock, kept.as_ref());
        }
    }
}

impl Kept {
    /// What is kept after an event, which stands at `offset` in its partition's control records. What a
    /// holder says that is one no more changes nothing.
    pub(super) fn apply(kept: &mut Option<Kept>, offset: Offset, event: LockEvent) {
        match event {
            LockEvent::Granted { owner, ttl_ms } => *kept = Some(Kept { token: token_at(offset), ttl_ms, owner }),
            LockEvent::Extended { token, ttl_ms } => {
                if let Some(kept) = kept.as_mut().filter(|kept| kept.token == token) {
                    kept.ttl_ms = kept.ttl_ms.max(ttl_ms);
                }
            }
            LockEvent::Released { token } => drop(kept.take_if(|kept| kept.token == token)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_holder_of_the_token_changes_what_is_kept() {
        let granted = |owner: &str| LockEvent::Granted { owner: owner.into(), ttl_ms: 5 };
        let kept = |token, ttl_ms, owner: &str| Some(Kept { token, ttl_ms, owner: owner.into() });
        let mut now = None;
        for (offset, event, then) in [
            (3, LockEvent::Released { token: 4 }, None),
            (4, granted("anna"), kept(5, 5, "anna")),
            (5, LockEvent::Extended { token: 4, ttl_ms: 9 }, kept(5, 5, "anna")),
            (6, LockEvent::Extended { token: 5, ttl_ms: 9 }, kept(5, 9, "anna")),
            (7, LockEvent::Extended { token: 5, ttl_ms: 8 }, kept(5, 9, "anna")),
            (8, granted("ben"), kept(9, 5, "ben")),
            (9, LockEvent::Released { token: 5 }, kept(9, 5, "ben")),
            (10, LockEvent::Released { token: 9 }, None),
        ] {
            Kept::apply(&mut now, offset, event);
            assert_eq!(now, then, "after {offset}");
        }
    }
}
