//! A RocksDB of what is derived, and every write to it.

use std::fmt;
use std::ops::Deref;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use rocksdb::checkpoint::Checkpoint;
use rocksdb::{DB, DBPinnableSlice, IteratorMode, ReadOptions, ReadTier, WriteBatch};

use crate::stores::options::unlogged;

/// A row as it is kept: its key and its value.
pub type RawRow = (Box<[u8]>, Box<[u8]>);

/// Why a batch was not written.
#[derive(Debug)]
pub(crate) enum WriteError {
    /// The process has ended: only in a simulation.
    Ended,
    /// RocksDB failed.
    Rows(rocksdb::Error),
}

/// The database. It is read as RocksDB is, and written only by [`Database::write`].
pub(crate) struct Database {
    db: DB,
    in_memory: ReadOptions,
    /// Writes that are done before the process has ended: as many as there are, but in a simulation.
    writes_left: AtomicU64,
}

impl Database {
    /// A database that is open.
    pub(crate) fn new(db: DB) -> Database {
        let mut in_memory = ReadOptions::default();
        in_memory.set_read_tier(ReadTier::BlockCache);
        Database { db, in_memory, writes_left: AtomicU64::new(u64::MAX) }
    }

    /// A row, without a look at the disk: an error of the kind [`rocksdb::ErrorKind::Incomplete`] where that would
    /// take one.
    pub(crate) fn get_in_memory(&self, row: &[u8]) -> Result<Option<DBPinnableSlice<'_>>, rocksdb::Error> {
        self.db.get_pinned_opt(row, &self.in_memory)
    }

    /// Writes a batch: all of it or nothing, behind all that was written before (invariant 8).
    pub(crate) fn write(&self, batch: WriteBatch) -> Result<(), WriteError> {
        let left = |writes: u64| writes.checked_sub(1);
        self.writes_left.try_update(Ordering::Relaxed, Ordering::Relaxed, left).map_err(|_| WriteError::Ended)?;
        self.db.write_opt(batch, &unlogged()).map_err(WriteError::Rows)
    }

    /// Makes what was written durable, and copies the folder to `to`, which must not exist.
    pub(crate) fn copy(&self, to: &Path) -> Result<(), rocksdb::Error> {
        Checkpoint::new(&self.db)?.create_checkpoint(to)
    }

    /// All rows.
    pub(crate) fn rows(&self) -> Result<Vec<RawRow>, rocksdb::Error> {
        self.db.iterator(IteratorMode::Start).collect()
    }

    /// Ends the process, as far as the database goes, after so many writes more.
    pub(crate) fn end_after(&self, writes: u64) {
        self.writes_left.store(writes, Ordering::Relaxed);
    }

    /// Whether the process has ended.
    pub(crate) fn has_ended(&self) -> bool {
        self.writes_left.load(Ordering::Relaxed) == 0
    }
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Database").field("db", &self.db).finish_non_exhaustive()
    }
}

impl Deref for Database {
    type Target = DB;

    fn deref(&self) -> &DB {
        &self.db
    }
}
