//! Events become row changes: what some frames change, by whose it is.

use rocksdb::{DB, WriteBatch};
use tlog::ControlEvent;
use wire::{Frame, NamespaceId};

use super::error::LedgerError;
use super::tags::EventOf;
use crate::groups::Changes as GroupChanges;
use crate::locks::Changes as LockChanges;
use crate::rooms::{Changes as RoomChanges, Stands};

/// What some frames of a partition change.
#[derive(Debug)]
pub(super) struct Changes {
    partition: u16,
    partitions: u16,
    groups: GroupChanges,
    locks: LockChanges,
    pub(super) rooms: RoomChanges,
    /// Whether there were records among them.
    records: bool,
}

/// The events of a control frame; none of another.
pub(super) fn events_of(frame: &Frame) -> Result<Vec<ControlEvent>, LedgerError> {
    if frame.namespace() == NamespaceId::CONTROL {
        return Ok(ControlEvent::all_in(frame).collect::<Result<_, _>>()?);
    }
    Ok(Vec::new())
}

impl Changes {
    /// No change yet of this partition, of so many.
    pub(super) fn of([partition, partitions]: [u16; 2]) -> Changes {
        Changes {
            partition,
            partitions,
            groups: GroupChanges::default(),
            locks: LockChanges::of(partition),
            rooms: RoomChanges::default(),
            records: false,
        }
    }

    /// Whether what was taken in must be written before these events: who records are for is said by the rooms as
    /// they are where the records stand.
    pub(super) fn end_before(&self, events: &[ControlEvent]) -> bool {
        self.records
            && events.iter().any(|event| match event {
                ControlEvent::Created { .. } => false,
                ControlEvent::Deleted { .. } => true,
                ControlEvent::Consumers { event, .. } => EventOf::event(event) == Some(EventOf::Rooms),
            })
    }

    /// Takes in a frame, which has these events.
    pub(super) fn apply(&mut self, db: &DB, frame: &Frame, events: Vec<ControlEvent>) -> Result<(), LedgerError> {
        self.records |= frame.namespace() != NamespaceId::CONTROL;
        for event in events {
            match event {
                ControlEvent::Created { .. } => {}
                ControlEvent::Deleted { id, .. } => {
                    self.groups.forget(db, id)?;
                    self.rooms.forget(db, id)?;
                }
                ControlEvent::Consumers { id, generation, next_offset, event } => match EventOf::event(&event) {
                    Some(EventOf::Group) => self.groups.take(db, id, generation, &event)?,
                    Some(EventOf::Lock) => self.locks.take(db, next_offset, &event)?,
                    Some(EventOf::Rooms) => {
                        let Changes { partition, partitions, .. } = *self;
                        let at = Stands { partition, partitions, namespace: id, generation, next_offset };
                        self.rooms.take(db, at, &event)?;
                    }
                    None => return Err(LedgerError::UnknownEvent { kind: event.first().copied() }),
                },
            }
        }
        Ok(())
    }

    /// Adds all of it to a batch.
    pub(super) fn write(&mut self, batch: &mut WriteBatch) -> Result<(), LedgerError> {
        self.locks.write(batch);
        self.rooms.write(batch);
        self.groups.write(batch)
    }
}
