//! Events become row changes: what some frames change, by whose it is.

use rocksdb::{DB, WriteBatch};
use tlog::ControlEvent;
use wire::{Frame, NamespaceId};

use super::error::LedgerError;
use super::tags::EventOf;
use crate::groups::Changes as GroupChanges;
use crate::locks::Changes as LockChanges;

/// What some frames of a partition change.
#[derive(Debug)]
pub(super) struct Changes {
    groups: GroupChanges,
    locks: LockChanges,
}

impl Changes {
    /// No change yet.
    pub(super) fn of(partition: u16) -> Changes {
        Changes { groups: GroupChanges::default(), locks: LockChanges::of(partition) }
    }

    /// Takes in a frame.
    pub(super) fn apply(&mut self, db: &DB, frame: &Frame) -> Result<(), LedgerError> {
        if frame.namespace() != NamespaceId::CONTROL {
            return Ok(());
        }
        for event in ControlEvent::all_in(frame) {
            match event? {
                ControlEvent::Created { .. } => {}
                ControlEvent::Deleted { id, .. } => self.groups.forget(db, id)?,
                ControlEvent::Consumers { id, generation, next_offset, event } => match EventOf::event(&event) {
                    Some(EventOf::Group) => self.groups.take(db, id, generation, &event)?,
                    Some(EventOf::Lock) => self.locks.take(db, next_offset, &event)?,
                    None => return Err(LedgerError::UnknownEvent { kind: event.first().copied() }),
                },
            }
        }
        Ok(())
    }

    /// Adds all of it to a batch.
    pub(super) fn write(&mut self, batch: &mut WriteBatch) -> Result<(), LedgerError> {
        self.locks.write(batch);
        self.groups.write(batch)
    }
}
