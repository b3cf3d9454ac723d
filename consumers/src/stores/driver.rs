//! Whose turn it is. In a broker each partition and the rebuild have a thread; a simulation gives them
//! their turns one by one, in an order of its own, and so the same run comes out of the same seed.

use std::path::Path;
use std::sync::Arc;

use crate::database::RawRow;
use crate::stores::error::StoresError;
use crate::stores::live::Live;
use crate::stores::rebuild::Rebuild;
use crate::stores::ring::Ring;

/// The turns of stores that have no threads: see [`Stores::open_driven`](crate::Stores::open_driven).
///
/// Dropping it together with the stores is as the end of the process: what was not saved is lost.
#[derive(Debug)]
pub struct StoresDriver(pub(crate) Arc<Ring>);

impl StoresDriver {
    /// Applies what a partition has next, about `max_bytes` of frames, to all stores that are not being
    /// rebuilt. Whether there was anything.
    ///
    /// # Errors
    /// As the thread of that partition would have to try again.
    pub fn apply(&mut self, partition: u16, max_bytes: usize) -> Result<bool, StoresError> {
        let Some(partition) = self.0.partitions.get(usize::from(partition)) else { return Ok(false) };
        Ok(Live::new(&self.0, partition).step(max_bytes)?.is_some())
    }

    /// Does the next step of the rebuild that is under way, if any is: a batch of about `max_bytes` of
    /// frames, the handing over of a partition, or the end. Whether there was anything.
    ///
    /// # Errors
    /// As the thread that rebuilds would have to try again.
    pub fn rebuild(&mut self, max_bytes: usize) -> Result<bool, StoresError> {
        let Some(shard) = self.0.next_rebuild() else { return Ok(false) };
        Rebuild { ring: &self.0, shard }.step(max_bytes)?;
        Ok(true)
    }

    /// Makes what was written durable, as RocksDB does by itself at any time.
    ///
    /// # Errors
    /// Where RocksDB can't.
    pub fn save(&self) -> Result<(), StoresError> {
        Ok(self.0.db.flush()?)
    }

    /// Makes what was written durable, and copies the folder to `to`, which must not exist.
    ///
    /// # Errors
    /// Where RocksDB can't.
    pub fn copy(&self, to: &Path) -> Result<(), StoresError> {
        Ok(self.0.db.copy(to)?)
    }

    /// After so many more writes the process has ended: the next ones fail.
    pub fn end_after(&self, writes: u64) {
        self.0.db.end_after(writes);
    }

    /// Whether the process has ended.
    pub fn has_ended(&self) -> bool {
        self.0.db.has_ended()
    }

    /// All rows, as they are drawn in `stores/rows.rs`.
    ///
    /// # Errors
    /// Where RocksDB can't read them.
    pub fn rows(&self) -> Result<Vec<RawRow>, StoresError> {
        Ok(self.0.db.rows()?)
    }
}
