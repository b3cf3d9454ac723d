//! How the stores are.

use std::sync::atomic::Ordering;

use wire::Shard;

use crate::offsets::{Consumer, OffsetRow};
use crate::stores::error::StoresError;
use crate::stores::ring::Ring;

/// How a store is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreState {
    /// Which store.
    pub shard: Shard,
    /// Objects in it: all records of its shard, of namespaces that exist.
    pub objects: u64,
    /// Records in the log that its reader has not gone past yet, of whichever shard they are.
    pub lag: u64,
    /// Whether it is being rebuilt, and so not readable.
    pub rebuilding: bool,
}

impl Ring {
    /// The state of each of the 256 stores, in order.
    pub(crate) fn states(&self) -> Result<Vec<StoreState>, StoresError> {
        let rebuilding = *self.rebuilding.lock();
        // What is applied is read first: the log moves on, so a lag is never below zero.
        let applied: Vec<u64> = self.partitions.iter().map(|partition| partition.applied.borrow().records).collect();
        let mut states = Vec::new();
        for shard in (0..=u8::MAX).map(Shard) {
            let mut state = StoreState { shard, objects: 0, lag: 0, rebuilding: rebuilding.contains(shard) };
            for (partition, applied) in self.partitions.iter().zip(&applied) {
                let rebuilt = match state.rebuilding {
                    true => OffsetRow::read(&self.db, Consumer::Rebuild(shard), partition.id)?,
                    false => None,
                };
                let seen = rebuilt.map_or(*applied, |row| row.records);
                let end = self.log.watermark(partition.id).borrow().records;
                state.lag += end.saturating_sub(seen);
                state.objects += partition.objects(shard).load(Ordering::Relaxed);
            }
            states.push(state);
        }
        Ok(states)
    }
}
