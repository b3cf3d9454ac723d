//! Wiping one store and making it again from the log, while the other 255 serve.
//!
//! ```text
//!  rebuild(shard): with all turns held, in one batch
//!     − the store's rows
//!     + its row 'r': reads answer that it is being rebuilt
//!     + an offset row at 0 in each partition: the live readers leave the store alone
//!  then, in the background, partition by partition
//!     apply from the offset row on, to this store only, as far as the live reader has come
//!     with its turn held: the rest, then − the offset row: the live reader applies the store again
//!  at last − its row 'r'
//! ```
//!
//! Who applies a partition to a store is said by the offset row alone: the rebuild while there is
//! one, else the live reader. It changes only while the turn is held, when both stand at the same
//! position, so no record is lost, applied twice or applied out of order. The rows are in the same
//! batches as the state, so all of this holds after a crash too: opening finds the rows and goes on.

use std::sync::atomic::Ordering;

use rocksdb::WriteBatch;
use tracing::{error, info, warn};
use wire::Shard;

use crate::offsets::{Consumer, OffsetRow};
use crate::stores::apply::Applier;
use crate::stores::batch::delete_prefix;
use crate::stores::error::StoresError;
use crate::stores::ring::{Partition, Ring};
use crate::stores::rows;
use crate::stores::shards::ShardSet;

/// How near the live reader a rebuild comes before it takes its turn: bytes of frames, so a few
/// milliseconds of the live reader's time.
const HANDOVER_BYTES: u64 = 2 << 20;

impl Ring {
    /// Wipes a store, and has it rebuilt.
    ///
    /// Where that is already under way nothing changes: it was wiped when that began, and what it
    /// holds now comes from the log.
    pub(crate) fn begin_rebuild(&self, shard: Shard) -> Result<(), StoresError> {
        let mut rebuilding = self.rebuilding.lock();
        if self.stop.is_cancelled() {
            return Err(StoresError::Closed);
        }
        if rebuilding.contains(shard) {
            return Ok(());
        }
        // Only one that holds `rebuilding` takes more than one turn, so this can't lock up.
        let mut turns: Vec<_> = self.partitions.iter().map(|partition| partition.turn.lock()).collect();
        let mut rows = WriteBatch::default();
        delete_prefix(&mut rows, &rows::store(shard));
        rows.put(rows::rebuilding(shard), b"");
        for partition in &self.partitions {
            OffsetRow::START.put(&mut rows, Consumer::Rebuild(shard), partition.id);
        }
        self.write(rows)?;
        for (turn, partition) in turns.iter_mut().zip(&self.partitions) {
            turn.rebuilding.insert(shard);
            partition.objects(shard).store(0, Ordering::Relaxed);
        }
        rebuilding.insert(shard);
        drop(turns);
        info!(%shard, "the store is wiped, and will be rebuilt from the log");
        self.rebuild.notify_one();
        // So that a crash does not undo what was answered to have begun.
        if let Err(error) = self.db.flush() {
            warn!(%shard, %error, "that the store is to be rebuilt is not saved yet");
        }
        Ok(())
    }
}

/// Rebuilds what is to be rebuilt, one store after another, until the stores are closed.
pub(crate) fn run(ring: &Ring) {
    loop {
        let next = ring.rebuilding.lock().iter().next();
        match next {
            Some(shard) => ring.insist(
                || Rebuild { ring, shard }.run(),
                |error| error!(%shard, %error, "the store can't be rebuilt, and is tried again"),
            ),
            None => {
                let _ = ring.wait(ring.rebuild.notified());
            }
        }
        if ring.stop.is_cancelled() {
            return;
        }
    }
}

struct Rebuild<'a> {
    ring: &'a Ring,
    shard: Shard,
}

impl Rebuild<'_> {
    /// Rebuilds the store, from where it stands. Returns early where the stores are closed.
    fn run(&self) -> Result<(), StoresError> {
        for partition in &self.ring.partitions {
            self.apply_partition(partition)?;
            if self.ring.stop.is_cancelled() {
                return Ok(());
            }
        }
        let mut rows = WriteBatch::default();
        rows.delete(rows::rebuilding(self.shard));
        self.ring.write(rows)?;
        self.ring.rebuilding.lock().remove(self.shard);
        info!(shard = %self.shard, "the store is rebuilt");
        Ok(())
    }

    /// Applies a partition to the store up to where the live reader is, and hands over to it.
    fn apply_partition(&self, partition: &Partition) -> Result<(), StoresError> {
        let consumer = Consumer::Rebuild(self.shard);
        let Some(mut offset) = OffsetRow::read(&self.ring.db, consumer, partition.id)? else { return Ok(()) };
        let applier = Applier { ring: self.ring, partition, consumer, shards: ShardSet::only(self.shard) };
        let mut scan = self.ring.log.scan(partition.id, offset.position);
        loop {
            let live = partition.applied.borrow().position;
            if live.saturating_sub(offset.position) <= HANDOVER_BYTES {
                break;
            }
            if self.ring.stop.is_cancelled() {
                return Ok(());
            }
            applier.advance(&mut scan, live, &mut offset)?;
        }
        let mut turn = partition.turn.lock();
        while offset.position < turn.offset.position {
            applier.advance(&mut scan, turn.offset.position, &mut offset)?;
        }
        let mut rows = WriteBatch::default();
        rows.delete(consumer.key(partition.id));
        self.ring.write(rows)?;
        turn.rebuilding.remove(self.shard);
        Ok(())
    }
}
