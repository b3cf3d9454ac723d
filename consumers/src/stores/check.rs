//! The stores, held against the log offline. The rows that come of its frames, up to where each partition is
//! applied to each store, are made in a folder of their own, and compared byte for byte.
//!
//! A store that is being rebuilt has come less far than the others; its offset rows say how far.

use std::path::Path;

use rocksdb::{DB, IteratorMode};
use tlog::check::{Fault, FaultKind, Whole};
use wire::{Frame, NamespaceId, Shard};

use crate::database::Database;
use crate::findings::Findings;
use crate::folder;
use crate::offsets::{self, Consumer, OffsetRow};
use crate::stores::apply::Applier;
use crate::stores::error::StoresError;
use crate::stores::options::{OPEN_TABLES, options};
use crate::stores::ring::Partition;
use crate::stores::rows;
use crate::stores::shards::ShardSet;

/// Frames that are applied at once, bytes.
const BATCH_BYTES: usize = 1 << 20;

/// A check of the stores that is fed the log's frames.
pub struct StoresCheck {
    findings: Findings,
    real: DB,
    scratch: Database,
    partitions: Vec<Followed>,
}

/// A partition, by everyone who applies it.
struct Followed {
    partition: Partition,
    consumers: Vec<Following>,
    frames: Vec<Frame>,
    bytes: usize,
}

/// Who applies a partition to which stores, and how far.
struct Following {
    consumer: Consumer,
    shards: ShardSet,
    to: OffsetRow,
    at: OffsetRow,
}

impl StoresCheck {
    /// A check of the stores of a data folder, which is not changed; nothing where there are none, or the
    /// process that made them ended before any row was on the disk. Rows are made in `scratch`, which must
    /// be empty; what is left in it is the caller's to delete.
    ///
    /// # Errors
    /// Where they can't be opened: what they are can't be told, and they can be made again.
    pub fn open(data: &Path, scratch: &Path, partitions: u16) -> Result<Option<StoresCheck>, StoresError> {
        let dir = data.join("stores");
        if !dir.join("CURRENT").exists() {
            return Ok(None);
        }
        let failed = |source| folder::failed(&dir, source);
        let real =
            options(OPEN_TABLES).and_then(|options| DB::open_for_read_only(&options, &dir, false)).map_err(failed)?;
        if real.iterator(IteratorMode::Start).next().transpose()?.is_none() {
            return Ok(None);
        }
        let scratch =
            options(OPEN_TABLES).and_then(|options| DB::open(&options, scratch.join("stores"))).map_err(failed)?;
        let scratch = Database::new(scratch);
        scratch.put(folder::META, folder::meta(rows::VERSION, partitions))?;
        let findings = Findings::new(FaultKind::Stores, dir.clone());
        let mut check = StoresCheck { findings, real, scratch, partitions: Vec::new() };
        let mut rebuilding = Vec::new();
        for shard in (0..=u8::MAX).map(Shard) {
            if check.real.get_pinned(rows::rebuilding(shard))?.is_some() {
                check.scratch.put(rows::rebuilding(shard), b"")?;
                rebuilding.push(shard);
            }
        }
        for partition in 0..partitions {
            let followed = check.follow(partition, &rebuilding)?;
            check.partitions.push(followed);
        }
        Ok(Some(check))
    }

    fn follow(&self, partition: u16, rebuilding: &[Shard]) -> Result<Followed, StoresError> {
        let following = |consumer, shards, to| Following { consumer, shards, to, at: OffsetRow::START };
        let mut left_alone = ShardSet::NONE;
        let mut consumers = Vec::new();
        for shard in rebuilding {
            let consumer = Consumer::Rebuild(*shard);
            let Some(to) = OffsetRow::read(&self.real, consumer, partition)? else { continue };
            if to == OffsetRow::START {
                self.scratch.put(consumer.key(partition), to.encode())?;
            }
            left_alone.insert(*shard);
            consumers.push(following(consumer, ShardSet::only(*shard), to));
        }
        let live = OffsetRow::read(&self.real, Consumer::Stores, partition)?.unwrap_or(OffsetRow::START);
        consumers.push(following(Consumer::Stores, left_alone.others(), live));
        let partition = Partition::new(partition, OffsetRow::START, left_alone);
        Ok(Followed { partition, consumers, frames: Vec::new(), bytes: 0 })
    }

    /// Takes in the next frame of a partition.
    ///
    /// # Errors
    /// Where it can't be applied, or not be written to the scratch folder.
    pub fn frame(&mut self, partition: u16, frame: &Frame) -> Result<(), StoresError> {
        let Some(followed) = self.partitions.get_mut(usize::from(partition)) else { return Ok(()) };
        followed.bytes += frame.len();
        followed.frames.push(frame.clone());
        if followed.bytes < BATCH_BYTES { Ok(()) } else { followed.apply(&self.scratch) }
    }

    /// What is wrong, once all frames have been taken in. `wholes` says how far the log itself is whole.
    ///
    /// # Errors
    /// Where rows can't be read.
    pub fn finish(mut self, wholes: &[Whole]) -> Result<Vec<Fault>, StoresError> {
        let mut is_comparable = Vec::new();
        for (index, whole) in wholes.iter().enumerate() {
            let Some(followed) = self.partitions.get_mut(index) else { break };
            followed.apply(&self.scratch)?;
            let to = followed.consumers.iter().map(|following| following.to.position).max().unwrap_or(0);
            is_comparable.push(self.findings.is_comparable(index, to, whole));
        }
        let of = |key: &[u8]| partition_of(key, is_comparable.len()).and_then(|of| is_comparable.get(of).copied());
        Ok(self.findings.compare(&self.real, &self.scratch, |key| of(key).unwrap_or(true))?)
    }
}

impl Followed {
    /// Applies the frames that have gathered, by each consumer as far as it has come.
    fn apply(&mut self, scratch: &Database) -> Result<(), StoresError> {
        self.bytes = 0;
        let frames = std::mem::take(&mut self.frames);
        for Following { consumer, shards, to, at } in &mut self.consumers {
            let applied = &frames[..frames.partition_point(|frame| frame.end() <= to.position)];
            let applier = Applier { db: scratch, partition: &self.partition, consumer: *consumer, shards: *shards };
            applier.apply(applied, at)?;
        }
        Ok(())
    }
}

/// The partition that a row is of, by its key.
fn partition_of(key: &[u8], partitions: usize) -> Option<usize> {
    match *key {
        [offsets::TAG, _, _, a, b] | [b's', _, b'c', a, b] => Some(usize::from(u16::from_be_bytes([a, b]))),
        [b's', _, _, a, b, c, ..] => {
            let namespace = NamespaceId::from_be_bytes([a, b, c]);
            Some(usize::from(namespace.partition(partitions as u16)))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_of_the_partition_of_its_namespace() {
        let namespace = NamespaceId::new(6).unwrap();
        assert_eq!(partition_of(&rows::objects(Shard(1), 3), 4), Some(3));
        assert_eq!(partition_of(&rows::latest_of(Shard(1), namespace), 4), Some(2));
        assert_eq!(partition_of(&Consumer::Rebuild(Shard(9)).key(1), 4), Some(1));
        assert_eq!(partition_of(&folder::META, 4), None);
        assert_eq!(partition_of(&rows::rebuilding(Shard(1)), 4), None);
    }
}
