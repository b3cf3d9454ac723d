//! What the locks measure of themselves, through the `metrics` facade: nothing where no recorder is set.
//! Totals only: there may be any number of locks.

use metrics::{Counter, Gauge, counter, gauge};

/// The totals over all locks.
#[derive(Debug)]
pub(super) struct LockMetrics {
    /// Locks that are held or waited for.
    pub(super) live: Gauge,
    /// Owners that wait.
    pub(super) waiting: Gauge,
    /// Grants that are durable.
    pub(super) granted: Counter,
    /// Holders that gave their lock back.
    pub(super) released: Counter,
    /// Holders that were not heard of in time, or had gone before they were answered.
    pub(super) lapsed: Counter,
}

impl LockMetrics {
    pub(super) fn new() -> LockMetrics {
        LockMetrics {
            live: gauge!("tlog_lock_live"),
            waiting: gauge!("tlog_lock_waiting"),
            granted: counter!("tlog_lock_granted_total"),
            released: counter!("tlog_lock_released_total"),
            lapsed: counter!("tlog_lock_lapsed_total"),
        }
    }
}
