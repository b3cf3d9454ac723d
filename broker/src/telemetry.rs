//! Metrics: the recorder that gathers them, their buckets, and those of the broker itself.
//!
//! The log and the stores record theirs through the same recorder, and describe them. Durations are
//! histograms in seconds, sizes histograms in powers of two.

use std::sync::OnceLock;

use consumers::StoreState;
use metrics::{Counter, Gauge, counter, describe_counter, describe_gauge, gauge};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};

use crate::config::ServeError;

const CONNECTIONS: &str = "tlog_http_connections";
const RESPONSES: &str = "tlog_http_responses_total";
const SUBSCRIBERS: &str = "tlog_subscribers";
const STORE_LAG: &str = "tlog_store_lag";
const STORES_REBUILDING: &str = "tlog_stores_rebuilding";

/// Upper bounds of buckets for durations, seconds.
const SECONDS: [f64; 18] = [
    0.000_05, 0.000_1, 0.000_2, 0.000_3, 0.000_5, 0.001, 0.002, 0.003, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0,
    2.0, 5.0,
];

/// Upper bounds of buckets for counts of frames and records.
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
        .set_buckets_for_metric(suffix("_records"), &COUNTS)?
        .build_recorder();
    let handle = recorder.handle();
    metrics::set_global_recorder(recorder)?;
    describe_gauge!(CONNECTIONS, "Connections that are open.");
    describe_counter!(RESPONSES, "Responses, by the class of their status.");
    describe_gauge!(SUBSCRIBERS, "Event streams that are open.");
    describe_gauge!(STORE_LAG, "Records in the log that the store which is furthest behind has not looked at.");
    describe_gauge!(STORES_REBUILDING, "Stores that are being rebuilt.");
    Ok(handle)
}

/// Sets what is only measured when the metrics are asked for.
pub(crate) fn stores(states: &[StoreState]) {
    let lag = states.iter().map(|state| state.lag).max().unwrap_or(0);
    let rebuilding = states.iter().filter(|state| state.rebuilding).count();
    gauge!(STORE_LAG).set(lag as f64);
    gauge!(STORES_REBUILDING).set(rebuilding as f64);
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

    /// An event stream.
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
