//! Opening the stores: what their rows say is checked against the log before anything goes on.

use std::path::Path;
use std::sync::atomic::Ordering;

use parking_lot::Mutex;
use tlog::Log;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use wire::Shard;
use wire::limits::SHARDS;

use crate::folder;
use crate::offsets::{Consumer, OffsetRow};
use crate::stores::error::StoresError;
use crate::stores::options::{options, writes_directly};
use crate::stores::ring::{Partition, Ring};
use crate::stores::rows;
use crate::stores::shards::ShardSet;
use crate::stores::whole::Whole;

impl Ring {
    /// Opens the stores in `dir`, as far as they have come. No thread is started.
    pub(crate) fn open(dir: &Path, log: Log, open_tables: usize) -> Result<Ring, StoresError> {
        let options = options(open_tables).map(|mut options| {
            options.set_use_direct_io_for_flush_and_compaction(writes_directly(dir));
            options
        });
        let mut ring = Ring {
            dir: dir.to_owned(),
            db: folder::open(dir, options)?,
            log,
            partitions: Vec::new(),
            rebuilding: Mutex::default(),
            wholes: [const { Whole::new() }; SHARDS],
            rebuild: Notify::new(),
            stop: CancellationToken::new(),
        };
        folder::check_meta::<StoresError>(&ring.db, dir, rows::VERSION, ring.log.partitions())?;
        let rebuilding = ring.read_rebuilding()?;
        for id in 0..ring.log.partitions() {
            let partition = ring.read_partition(id, rebuilding)?;
            ring.partitions.push(partition);
        }
        rebuilding.iter().for_each(|shard| ring.whole(shard).begin_rebuild());
        *ring.rebuilding.lock() = rebuilding;
        Ok(ring)
    }

    fn read_rebuilding(&self) -> Result<ShardSet, StoresError> {
        let mut rebuilding = ShardSet::NONE;
        let mut rows = self.db.raw_iterator();
        rows.seek([rows::REBUILDING]);
        while let Some([rows::REBUILDING, shard]) = rows.key() {
            rebuilding.insert(Shard(*shard));
            rows.next();
        }
        rows.status()?;
        Ok(rebuilding)
    }

    fn read_partition(&self, id: u16, rebuilding: ShardSet) -> Result<Partition, StoresError> {
        let offset = folder::offset::<StoresError>(&self.db, &self.dir, &self.log, Consumer::Stores, id)?;
        let mut left_alone = ShardSet::NONE;
        for shard in rebuilding.iter() {
            if OffsetRow::read(&self.db, Consumer::Rebuild(shard), id)?.is_some() && !mutant!(ForgetRebuilds) {
                left_alone.insert(shard);
            }
        }
        let partition = Partition::new(id, offset, left_alone);
        for shard in (0..=u8::MAX).map(Shard) {
            let row = rows::objects(shard, id);
            if let (Some(value), false) = (self.db.get_pinned(row)?, mutant!(ForgetCounts)) {
                let objects = rows::count(&value).ok_or_else(|| StoresError::damaged(&row, "it is not a count"))?;
                partition.objects(shard).store(objects, Ordering::Relaxed);
            }
        }
        Ok(partition)
    }
}
