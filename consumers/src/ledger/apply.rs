//! Events become row changes: what some frames change, by whose it is.

use rocksdb::{DB, WriteBatch};
use tlog::ControlEvent;
use wire::{Frame, NamespaceId};

use super::error::LedgerError;
use super::tags::EventOf;
use crate::groups::Changes as GroupChanges;

/// What some frames change.
#[derive(Debug, Default)]
pub(super) struct Changes {
    groups: GroupChanges,
}

impl Changes {
    /// Takes in a frame.
    pub(super) fn apply(&mut self, db: &DB, frame: &Frame) -> Result<(), LedgerError> {
        if frame.namespace() != NamespaceId::CONTROL {
            return Ok(());
        }
        for event in ControlEvent::all_in(frame) {
            match event? {
                ControlEvent::Created { .. } => {}
                ControlEvent::Deleted { id, .. } => self.groups.forget(db, id)?,
                ControlEvent::Consumers { id, generation, event, .. } => match EventOf::event(&event) {
                    Some(EventOf::Group) => self.groups.take(db, id, generation, &event)?,
                    None => return Err(LedgerError::UnknownEvent { kind: event.first().copied() }),
                },
            }
        }
        Ok(())
    }

    /// Adds all of it to a batch.
    pub(super) fn write(&mut self, batch: &mut WriteBatch) -> Result<(), LedgerError> {
        self.groups.write(batch)
    }
}
