//! What a simulation does with a ledger that has no threads.

use std::path::Path;

use super::{Ledger, LedgerError};
use crate::database::RawRow;

/// The turns of a ledger that has no threads: see [`Ledger::open_driven`].
///
/// Dropping the ledger is as the end of the process: what was not saved is lost.
#[derive(Debug)]
pub struct LedgerDriver<'a>(pub(super) &'a Ledger);

impl LedgerDriver<'_> {
    /// Makes what was written durable, as RocksDB does by itself at any time.
    ///
    /// # Errors
    /// Where RocksDB can't.
    pub fn save(&self) -> Result<(), LedgerError> {
        Ok(self.0.rows.db.flush()?)
    }

    /// Makes what was written durable, and copies the folder to `to`, which must not exist.
    ///
    /// # Errors
    /// Where RocksDB can't.
    pub fn copy(&self, to: &Path) -> Result<(), LedgerError> {
        Ok(self.0.rows.db.copy(to)?)
    }

    /// After so many more writes the process has ended: the next ones fail.
    pub fn end_after(&self, writes: u64) {
        self.0.rows.db.end_after(writes);
    }

    /// Whether the process has ended.
    pub fn has_ended(&self) -> bool {
        self.0.rows.db.has_ended()
    }

    /// All rows.
    ///
    /// # Errors
    /// Where RocksDB can't read them.
    pub fn rows(&self) -> Result<Vec<RawRow>, LedgerError> {
        Ok(self.0.rows.db.rows()?)
    }
}
