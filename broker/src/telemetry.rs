//! Metrics: the recorder that gathers them, their buckets, and those of the broker itself.
//!
//! The log and the stores record theirs through the same recorder, and know nothing of it; what theirs
//! mean is told here. Durations are histograms in seconds, counts and sizes histograms in powers of two.

use std::sync::OnceLock;

use metrics::{Counter, Gauge, counter, describe_counter, describe_gauge, describe_histogram, gauge};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};

use crate::config::ServeError;

const CONNECTIONS: &str = "tlog_http_connections";
const RESPONSES: &str = "tlog_http_responses_total";
const SUBSCRIBERS: &str = "tlog_subscribers";
const ROOM_WAKES: &str = "tlog_room_wakeups_total";

/// Upper bounds of buckets for durations, seconds.
const SECONDS: [f64; 18] = [
    0.000_05, 0.000_1, 0.000_2, 0.000_3, 0.000_5, 0.001, 0.002, 0.003, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0,
    2.0, 5.0,
];

/// Upper bounds of buckets for counts.
const COUNTS: [f64; 12] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 1024.0, 4096.0, 16384.0];

/// Upper bounds of buckets for sizes, bytes.
const BYTES: [f64; 9] = [256.0, 1024.0, 4096.0, 16384.0, 65536.0, 262_144.0, 1_048_576.0, 4_194_304.0, 16_777_216.0];

/// The recorder of this process, installed on the first call.
pub(crate) fn install() -> Result<PrometheusHandle, ServeError> {
    static RECORDER: OnceLock<Result<PrometheusHandle, String>> = OnceLock::new();
    RECORDER.get_or_init(|| recorder().map_err(|error| error.to_string())).clone().map_err(ServeError::Metrics)
}

fn recorder() -> Result<PrometheusHandle, BuildError> {
    let suffix = |text: &str| Matcher::Suffix(text.to_owned());
    let recorder = PrometheusBuilder::new()
        .set_buckets_for_metric(suffix("_seconds"), &SECONDS)?
        .set_buckets_for_metric(suffix("_bytes"), &BYTES)?
        .set_buckets_for_metric(suffix("_frames"), &COUNTS)?
        .build_recorder();
    let handle = recorder.handle();
    metrics::set_global_recorder(recorder)?;
    describe();
    Ok(handle)
}

/// Says what each metric means.
fn describe() {
    describe_gauge!(CONNECTIONS, "Connections that are open.");
    describe_counter!(RESPONSES, "Responses, by the class of their status.");
    describe_gauge!(SUBSCRIBERS, "Event streams that are open, and long polls that wait.");
    describe_counter!(ROOM_WAKES, "Times that a stream of a subscriber, or of a follower of keys, was woken.");
    describe_gauge!("tlog_room_connections", "Subscribers and followers of keys that are connected.");
    describe_counter!("tlog_room_hints_total", "Times that one of them was told of records.");
    describe_counter!("tlog_room_overflows_total", "Times that one had to look for itself, as too much waited for it.");
    describe_counter!("tlog_room_row_reads_total", "Rows of rooms that were read for published records.");
    describe_histogram!("tlog_append_seconds", "From the arrival of a batch at the sequencer to its ack.");
    describe_histogram!("tlog_commit_frames", "Frames that one write and one fdatasync made durable.");
    describe_histogram!("tlog_commit_bytes", "Bytes that one write and one fdatasync made durable.");
    describe_histogram!("tlog_write_seconds", "Time of the write of a commit.");
    describe_histogram!("tlog_fsync_seconds", "Time of the fdatasync of a commit.");
    describe_gauge!("tlog_watermark_position", "High watermark: bytes of a partition that are durable.");
    describe_gauge!("tlog_store_lag_records", "Records of a partition that the stores have not applied.");
    describe_counter!("tlog_store_applied_records_total", "Records that the stores have applied.");
    describe_histogram!("tlog_store_apply_seconds", "Time to apply a batch of frames to the stores.");
    describe_counter!("tlog_store_apply_errors_total", "Batches that could not be applied; they are tried again.");
    describe_gauge!("tlog_group_live", "Consumer groups that are in memory: those at work.");
    describe_counter!("tlog_group_delivered_records_total", "Records that workers were given.");
    describe_counter!("tlog_group_acked_records_total", "Records that workers have acked.");
    describe_counter!("tlog_group_failed_deliveries_total", "Deliveries that a nack or a lapsed lease ended.");
    describe_counter!("tlog_group_dead_records_total", "Records that are given up on after their last delivery.");
    describe_counter!("tlog_group_dead_letters_total", "Dead letters that were published.");
    describe_gauge!("tlog_lock_live", "Locks that are held or waited for.");
    describe_gauge!("tlog_lock_waiting", "Owners that wait for a lock.");
    describe_counter!("tlog_lock_granted_total", "Grants of a lock.");
    describe_counter!("tlog_lock_released_total", "Locks that their holder gave back.");
    describe_counter!("tlog_lock_lapsed_total", "Locks whose holder was not heard of in time, or had gone.");
    describe_counter!(
        "tlog_ledger_apply_errors_total",
        "Events that could not be applied to rows; they are tried again."
    );
}

/// How often streams of subscribers and of followers of keys were woken.
pub(crate) fn room_wakes() -> Counter {
    counter!(ROOM_WAKES)
}

/// Responses by the class of their status.
#[derive(Debug)]
pub(crate) struct Responses([Counter; 5]);

impl Responses {
    /// Counters of the recorder that is installed.
    pub(crate) fn new() -> Responses {
        Responses(["1xx", "2xx", "3xx", "4xx", "5xx"].map(|class| counter!(RESPONSES, "class" => class)))
    }

    /// Counts a response.
    pub(crate) fn count(&self, status: axum::http::StatusCode) {
        if let Some(counter) = self.0.get(usize::from(status.as_u16() / 100) - 1) {
            counter.increment(1);
        }
    }
}

/// Something that is open as long as this lives, and is counted so.
pub(crate) struct Open(Gauge);

impl Open {
    /// A connection.
    pub(crate) fn connection() -> Open {
        Open::counted(gauge!(CONNECTIONS))
    }

    /// An event stream, or a long poll that waits.
    pub(crate) fn subscriber() -> Open {
        Open::counted(gauge!(SUBSCRIBERS))
    }

    fn counted(gauge: Gauge) -> Open {
        gauge.increment(1);
        Open(gauge)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.decrement(1);
    }
}
