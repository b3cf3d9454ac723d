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
}

impl LiveMetrics {
    pub(crate) fn new(partition: u16) -> LiveMetrics {
        LiveMetrics {
            lag: gauge!("tlog_store_lag_records", "partition" => partition.to_string()),
            applied: counter!("tlog_store_applied_records_total"),
            seconds: histogram!("tlog_store_apply_seconds"),
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
}

/// How often applying has failed and was tried again, by who applies: a partition, or the rebuild.
pub(crate) fn errors(reader: &str) -> Counter {
    counter!("tlog_store_apply_errors_total", "reader" => reader.to_owned())
}
