//! Slots of subscribers that were deleted: they are given out again once no row has their bit.

use std::collections::BTreeSet;
use std::collections::btree_map::Entry;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tracing::warn;
use wire::limits::MAX_ROOMS_A_CALL;

use super::changing::Wanted;
use super::error::RoomsError;
use super::event::{RoomEvent, Slot};
use super::rows;
use super::runtime::Inner;
use crate::ledger::tags::DEAD;

/// How long until what could not be done is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// Sweeps at the start, and whenever a subscriber was deleted, until the rooms are closed or gone.
pub(super) async fn run(rooms: Weak<Inner>) {
    while let Some(inner) = rooms.upgrade() {
        let (closed, deleted) = (inner.ledger().closed().clone(), Arc::clone(&inner.deleted));
        let swept = inner.sweep().await;
        drop(inner);
        let next = async {
            match swept {
                Ok(()) => deleted.notified().await,
                Err(error) => {
                    warn!(%error, "slots of deleted subscribers are not freed yet");
                    tokio::time::sleep(RETRY).await;
                }
            }
        };
        if closed.run_until_cancelled(next).await.is_none() {
            return;
        }
    }
}

impl Inner {
    /// Frees the slots of those that were deleted. Nobody else makes events of these slots any more.
    pub(super) async fn sweep(&self) -> Result<(), RoomsError> {
        self.all_applied().await?;
        while let Some(slot) = self.first_dead()? {
            while let Some(rooms) = self.some_joined(slot)?.filter(|_| !mutant!(SlotFreedEarly)) {
                self.note(rooms, |rooms| RoomEvent::Left { slot, rooms }).await?;
                // The rows of a namespace that is gone are gone when its end is applied.
                self.all_applied().await?;
            }
            if let Some((partition, reason)) = self.log().failed_partition() {
                // A join may be in its log that nobody can read before a restart.
                warn!(partition, reason, slot, "a slot is not freed while a partition has failed");
                return Ok(());
            }
            let home = (slot % u32::from(self.log().partitions())) as u16;
            self.note_in(home, &RoomEvent::Freed { slot }).await?;
        }
        Ok(())
    }

    /// Rooms that a slot is in, of namespaces that there are; nothing where it is in none.
    fn some_joined(&self, slot: Slot) -> Result<Option<Wanted>, RoomsError> {
        let prefix = rows::joined_by(slot);
        let mut stored = self.ledger().db().raw_iterator();
        let (mut found, mut count) = (Wanted::new(), 0);
        stored.seek(prefix);
        while let Some((key, _)) = rows::next_with(&stored, &prefix)?.filter(|_| count < MAX_ROOMS_A_CALL) {
            let (id, room) = rows::namespace_in(key)?;
            count += 1;
            if let Entry::Vacant(new) = found.entry(id)
                && let Some(namespace) = self.log().namespace_by_id(id)?
            {
                new.insert((namespace, BTreeSet::new()));
            }
            if let Some((_, keys)) = found.get_mut(&id) {
                keys.insert(room.to_owned());
            }
            stored.next();
        }
        Ok(if count > 0 { Some(found) } else { None })
    }

    fn first_dead(&self) -> Result<Option<Slot>, RoomsError> {
        let mut stored = self.ledger().db().raw_iterator();
        stored.seek([DEAD]);
        let first = rows::next_with(&stored, &[DEAD])?;
        Ok(first.map(|(key, _)| rows::slot_behind(&[DEAD], key)).transpose()?)
    }
}
