//! What the groups measure of themselves, through the `metrics` facade: nothing where no recorder is
//! set. Totals only: there may be any number of groups.

use metrics::{Counter, Gauge, counter, gauge};

/// The totals over all groups.
#[derive(Debug)]
pub(super) struct GroupMetrics {
    /// Groups that are in memory.
    pub(super) live: Gauge,
    /// Records that were given to workers.
    pub(super) delivered: Counter,
    /// Records whose ack is durable.
    pub(super) acked: Counter,
    /// Deliveries that have failed.
    pub(super) failed: Counter,
    /// Records that were given up.
    pub(super) dead: Counter,
    /// Dead letters that are in their namespace.
    pub(super) letters: Counter,
}

impl GroupMetrics {
    pub(super) fn new() -> GroupMetrics {
        GroupMetrics {
            live: gauge!("tlog_group_live"),
            delivered: counter!("tlog_group_delivered_records_total"),
            acked: counter!("tlog_group_acked_records_total"),
            failed: counter!("tlog_group_failed_deliveries_total"),
            dead: counter!("tlog_group_dead_records_total"),
            letters: counter!("tlog_group_dead_letters_total"),
        }
    }
}
