//! How frames become rows: the one way, for the live readers and for a rebuild.

use std::collections::BTreeSet;

use tlog::ControlEvent;
use wire::{Frame, NamespaceId, Position};

use crate::database::Database;
use crate::offsets::{Consumer, OffsetRow};
use crate::stores::batch::Batch;
use crate::stores::error::StoresError;
use crate::stores::ring::{Partition, Ring};
use crate::stores::shards::ShardSet;

/// A consumer that applies one partition to some of the stores.
pub(crate) struct Applier<'a> {
    pub(crate) db: &'a Database,
    pub(crate) partition: &'a Partition,
    pub(crate) consumer: Consumer,
    /// The stores that it writes to. Nobody else writes what this partition has in them.
    pub(crate) shards: ShardSet,
}

impl Applier<'_> {
    /// Applies frames, the first of which begins where `offset` stands, and moves it behind them.
    ///
    /// After an error `offset` is as far as rows were written; to go on there is right.
    pub(crate) fn apply(&self, frames: &[Frame], offset: &mut OffsetRow) -> Result<(), StoresError> {
        let mut ahead = *offset;
        let mut from = 0;
        for (index, frame) in frames.iter().enumerate() {
            let deleted = deleted_in(frame)?;
            if !deleted.is_empty() {
                // A delete looks for the namespace's rows, so those before it are written first.
                self.apply_records(&frames[from..index], &ahead, offset)?;
                ahead.pass(frame);
                self.apply_delete(&deleted, &ahead, offset)?;
                from = index + 1;
            } else {
                ahead.pass(frame);
            }
        }
        self.apply_records(&frames[from..], &ahead, offset)
    }

    /// Applies what the log has behind `offset`, about `max_bytes` of it, but nothing at `until` or
    /// behind.
    pub(crate) fn advance(
        &self,
        ring: &Ring,
        max_bytes: usize,
        until: Position,
        offset: &mut OffsetRow,
    ) -> Result<(), StoresError> {
        let mut frames = ring.log.scan(self.partition.id, offset.position).read_blocking(max_bytes)?;
        frames.truncate(frames.partition_point(|frame| frame.position() < until));
        self.apply(&frames, offset)
    }

    fn apply_records(&self, frames: &[Frame], behind: &OffsetRow, offset: &mut OffsetRow) -> Result<(), StoresError> {
        if frames.is_empty() {
            return Ok(());
        }
        let (lost, kept): (Vec<&Frame>, Vec<&Frame>) =
            frames.iter().filter(|frame| frame.namespace() != NamespaceId::CONTROL).partition(|frame| frame.is_loss());
        let mut records = Vec::with_capacity(kept.iter().map(|frame| frame.record_count() as usize).sum());
        let of_kept = kept.iter().flat_map(|frame| frame.records());
        records.extend(of_kept.filter(|record| self.shards.contains(record.id.shard())));
        records.sort_by_cached_key(|record| record.id);
        let mut batch = Batch::with_room(&records);
        batch.add(&records);
        let lost_in: BTreeSet<NamespaceId> = lost.iter().map(|frame| frame.namespace()).collect();
        lost_in.into_iter().for_each(|namespace| batch.add_lost(namespace, self.shards));
        batch.write(self.db, self.partition, self.consumer, behind)?;
        *offset = *behind;
        Ok(())
    }

    fn apply_delete(
        &self,
        deleted: &[NamespaceId],
        behind: &OffsetRow,
        offset: &mut OffsetRow,
    ) -> Result<(), StoresError> {
        let mut batch = Batch::with_room(&[]);
        for namespace in deleted {
            batch.forget(self.db, *namespace, self.shards)?;
        }
        batch.write(self.db, self.partition, self.consumer, behind)?;
        *offset = *behind;
        Ok(())
    }
}

/// The namespaces that a frame deletes.
fn deleted_in(frame: &Frame) -> Result<Vec<NamespaceId>, StoresError> {
    let mut deleted = Vec::new();
    if frame.namespace() == NamespaceId::CONTROL {
        for event in ControlEvent::all_in(frame) {
            if let ControlEvent::Deleted { id, .. } = event? {
                deleted.push(id);
            }
        }
    }
    Ok(deleted)
}
