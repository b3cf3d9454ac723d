//! What the stores measure of themselves, through the `metrics` facade: nothing where no recorder
//! is set.

use std::time::Instant;

use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};

/// What the reader of a partition measures: each handle is looked up once.
#[derive(Debug)]
pub(crate) struct LiveMetrics {
    lag: Gauge,
    applied: Counter,
    seconds: Histogram,
    errors: Counter,
}

impl LiveMetrics {
    pub(crate) fn new(partition: u16) -> LiveMetrics {
        let partition = partition.to_string();
        LiveMetrics {
            lag: gauge!("tlog_store_lag_records", "partition" => partition.clone()),
            applied: counter!("tlog_store_applied_records_total"),
            seconds: histogram!("tlog_store_apply_seconds"),
            errors: counter!("tlog_store_apply_errors_total", "partition" => partition),
        }
    }

    /// So many records were applied, in one batch that was begun then.
    pub(crate) fn applied(&self, records: u64, begun: Instant) {
        self.applied.increment(records);
        self.seconds.record(begun.elapsed());
    }

    /// So many records are in the log that are not applied.
    pub(crate) fn lag(&self, records: u64) {
        self.lag.set(records as f64);
    }

    pub(crate) fn failed(&self) {
        self.errors.increment(1);
    }
}
