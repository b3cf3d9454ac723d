//! Events become row changes: what some frames change, by whose it is.

use rocksdb::WriteBatch;
use tlog::ControlEvent;
use wire::{Frame, NamespaceId};

use super::error::LedgerError;
use super::tags::EventOf;
use crate::database::Database;
use crate::groups::Changes as GroupChanges;
use crate::locks::Changes as LockChanges;
use crate::offsets::{Consumer, OffsetRow};
use crate::rooms::{Changes as RoomChanges, Notice, Stands};

/// What was applied.
pub(super) struct Applied {
    /// How many frames.
    pub(super) frames: usize,
    /// The offset row behind them.
    pub(super) offset: OffsetRow,
    /// What those who are connected must hear of.
    pub(super) notices: Vec<Notice>,
}

/// Applies the first of these frames of a partition: what they change and the offset row behind them, in one
/// batch (invariant 8). It ends before a change of rooms that stands behind records: whom records are for is said by
/// the rooms as they are where the records stand.
pub(super) fn apply(
    db: &Database,
    [partition, partitions]: [u16; 2],
    from: &OffsetRow,
    frames: &[Frame],
) -> Result<Applied, LedgerError> {
    let mut changes = Changes::of([partition, partitions]);
    let (mut offset, mut applied) = (*from, 0);
    for frame in frames {
        let events = events_of(frame)?;
        if changes.end_before(&events) {
            break;
        }
        changes.apply(db, frame, events)?;
        offset.pass(frame);
        applied += 1;
    }
    let mut batch = WriteBatch::default();
    changes.write(&mut batch)?;
    let apart = [mutant!(LedgerOffsetRowBeforeState), mutant!(LedgerStateBeforeOffsetRow)];
    let offset_alone = || {
        let mut batch = WriteBatch::default();
        offset.put(&mut batch, Consumer::Ledger, partition);
        db.write(batch)
    };
    if apart[0] {
        offset_alone()?;
    }
    if apart == [false; 2] {
        offset.put(&mut batch, Consumer::Ledger, partition);
    }
    db.write(batch)?;
    if apart[1] {
        offset_alone()?;
    }
    Ok(Applied { frames: applied, offset, notices: changes.rooms.notices })
}

/// What some frames of a partition change.
#[derive(Debug)]
struct Changes {
    partition: u16,
    partitions: u16,
    groups: GroupChanges,
    locks: LockChanges,
    rooms: RoomChanges,
    /// Whether there were records among them.
    records: bool,
}

/// The events of a control frame; none of another.
fn events_of(frame: &Frame) -> Result<Vec<ControlEvent>, LedgerError> {
    if frame.namespace() == NamespaceId::CONTROL {
        return Ok(ControlEvent::all_in(frame).collect::<Result<_, _>>()?);
    }
    Ok(Vec::new())
}

impl Changes {
    /// No change yet of this partition, of so many.
    fn of([partition, partitions]: [u16; 2]) -> Changes {
        Changes {
            partition,
            partitions,
            groups: GroupChanges::default(),
            locks: LockChanges::of(partition),
            rooms: RoomChanges::default(),
            records: false,
        }
    }

    /// Whether what was taken in must be written before these events.
    fn end_before(&self, events: &[ControlEvent]) -> bool {
        self.records
            && !mutant!(NoCutBeforeRooms)
            && events.iter().any(|event| match event {
                ControlEvent::Created { .. } => false,
                ControlEvent::Deleted { .. } => true,
                ControlEvent::Consumers { event, .. } => EventOf::event(event) == Some(EventOf::Rooms),
            })
    }

    /// Takes in a frame, which has these events.
    fn apply(&mut self, db: &Database, frame: &Frame, events: Vec<ControlEvent>) -> Result<(), LedgerError> {
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
    fn write(&mut self, batch: &mut WriteBatch) -> Result<(), LedgerError> {
        self.locks.write(batch);
        self.rooms.write(batch);
        self.groups.write(batch)
    }
}
