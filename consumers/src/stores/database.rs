//! The one RocksDB of the stores, and every write to it.

use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering};

use rocksdb::{DB, WriteBatch};

use crate::stores::error::StoresError;
use crate::stores::options::unlogged;

/// The database. It is read as RocksDB is, and written only by [`Database::write`].
#[derive(Debug)]
pub(crate) struct Database {
    db: DB,
    /// Writes that are done before the process has ended: as many as there are, but in a simulation.
    writes_left: AtomicU64,
}

impl Database {
    /// A database that is open.
    pub(crate) fn new(db: DB) -> Database {
        Database { db, writes_left: AtomicU64::new(u64::MAX) }
    }

    /// Writes a batch: all of it or nothing, behind all that was written before (invariant 8).
    pub(crate) fn write(&self, batch: WriteBatch) -> Result<(), StoresError> {
        let left = |writes: u64| writes.checked_sub(1);
        self.writes_left.try_update(Ordering::Relaxed, Ordering::Relaxed, left).map_err(|_| StoresError::Closed)?;
        Ok(self.db.write_opt(batch, &unlogged())?)
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

impl Deref for Database {
    type Target = DB;

    fn deref(&self) -> &DB {
        &self.db
    }
}
