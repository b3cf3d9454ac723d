//! Opening the stores: what their rows say is checked against the log before anything goes on.

use std::path::Path;
use std::sync::atomic::Ordering;

use parking_lot::Mutex;
use rocksdb::{DB, WriteBatch};
use tlog::Log;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use wire::Shard;

use crate::database::Database;
use crate::offsets::{Consumer, OffsetError, OffsetRow};
use crate::stores::error::StoresError;
use crate::stores::options::{options, writes_directly};
use crate::stores::ring::{Partition, Ring};
use crate::stores::rows;
use crate::stores::shards::ShardSet;

impl Ring {
    /// Opens the stores in `dir`, as far as they have come. No thread is started.
    pub(crate) fn open(dir: &Path, log: Log, open_tables: usize) -> Result<Ring, StoresError> {
        let failed = |source| StoresError::Open { dir: dir.to_owned(), source };
        let mut options = options(open_tables).map_err(failed)?;
        options.set_use_direct_io_for_flush_and_compaction(writes_directly(dir));
        let db = DB::open(&options, dir).map_err(failed)?;
        let mut ring = Ring {
            dir: dir.to_owned(),
            db: Database::new(db),
            log,
            partitions: Vec::new(),
            rebuilding: Mutex::default(),
            rebuild: Notify::new(),
            stop: CancellationToken::new(),
        };
        ring.check_meta()?;
        let rebuilding = ring.read_rebuilding()?;
        for id in 0..ring.log.partitions() {
            let partition = ring.read_partition(id, rebuilding)?;
            ring.partitions.push(partition);
        }
        *ring.rebuilding.lock() = rebuilding;
        Ok(ring)
    }

    /// The first row of all says what made the others, so that there is no other where it is missing.
    fn check_meta(&self) -> Result<(), StoresError> {
        let partitions = self.log.partitions();
        let Some(row) = self.db.get_pinned(rows::META)? else {
            let mut batch = WriteBatch::default();
            batch.put(rows::META, rows::meta(partitions));
            return Ok(self.db.write(batch)?);
        };
        let (found, of) = rows::read_meta(&row).ok_or_else(|| StoresError::damaged(&rows::META, "it is malformed"))?;
        if found != rows::VERSION {
            return Err(StoresError::Layout { dir: self.dir.clone(), found, known: rows::VERSION });
        }
        if of != partitions {
            return Err(self.other_log(format!("it has {of} partitions, the log has {partitions}")));
        }
        Ok(())
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
        let offset = OffsetRow::read(&self.db, Consumer::Stores, id)?.unwrap_or(OffsetRow::START);
        offset.verify(&self.log, id).map_err(|error| match error {
            OffsetError::PastEnd { .. } | OffsetError::OtherFrame { .. } => self.other_log(error.to_string()),
            error => error.into(),
        })?;
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

    fn other_log(&self, reason: String) -> StoresError {
        StoresError::OtherLog { dir: self.dir.clone(), reason }
    }
}
