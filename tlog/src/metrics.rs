//! What the log measures of itself, through the `metrics` facade: nothing where no recorder is set.

use metrics::{Gauge, Histogram, gauge, histogram};

const NANOS: f64 = 1e-9;

/// What a journal measures: each handle is looked up once.
#[derive(Debug)]
pub(crate) struct JournalMetrics {
    frames: Histogram,
    bytes: Histogram,
    write_seconds: Histogram,
    sync_seconds: Histogram,
    watermark: Gauge,
}

impl JournalMetrics {
    pub(crate) fn new(partition: u16) -> JournalMetrics {
        JournalMetrics {
            frames: histogram!("tlog_commit_frames"),
            bytes: histogram!("tlog_commit_bytes"),
            write_seconds: histogram!("tlog_write_seconds"),
            sync_seconds: histogram!("tlog_fsync_seconds"),
            watermark: gauge!("tlog_watermark_position", "partition" => partition.to_string()),
        }
    }

    pub(crate) fn commit(&self, frames: usize, bytes: u64, write_nanos: u64, sync_nanos: u64) {
        self.frames.record(frames as f64);
        self.bytes.record(bytes as f64);
        self.write_seconds.record(write_nanos as f64 * NANOS);
        self.sync_seconds.record(sync_nanos as f64 * NANOS);
        self.watermark.increment(bytes as f64);
    }
}

/// How long an append took from its arrival to its ack.
#[derive(Debug)]
pub(crate) struct AppendMetrics {
    seconds: Histogram,
}

impl AppendMetrics {
    pub(crate) fn new() -> AppendMetrics {
        AppendMetrics { seconds: histogram!("tlog_append_seconds") }
    }

    pub(crate) fn acked(&self, nanos: u64) {
        self.seconds.record(nanos as f64 * NANOS);
    }
}
