//! What was seen.

use std::fs;
use std::io::Write;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::failure::Failure;

/// Longest latency that is told apart.
const LONGEST: Duration = Duration::from_secs(600);

/// Of the system's clock of processor time: 100 wherever Linux tells it to programs.
const TICKS_PER_SECOND: f64 = 100.0;

/// Latencies, milliseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Latency {
    mean: f64,
    p50: f64,
    p90: f64,
    p99: f64,
    p999: f64,
    max: f64,
}

impl Latency {
    pub(crate) fn of(nanos: &Histogram<u64>) -> Latency {
        let ms = |nanos: u64| nanos as f64 / 1e6;
        let at = |quantile| ms(nanos.value_at_quantile(quantile));
        let mean = nanos.mean() / 1e6;
        Latency { mean, p50: at(0.5), p90: at(0.9), p99: at(0.99), p999: at(0.999), max: ms(nanos.max()) }
    }
}

/// Of nanoseconds, to three digits; what is below a microsecond is one.
pub(crate) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1_000, LONGEST.as_nanos() as u64, 3)
        .unwrap_or_else(|_| unreachable!("the bounds are sound"))
}

/// What this process has had of the processors until now, seconds; 0 where the system doesn't say.
pub(crate) fn cpu_seconds() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // Behind the name, which may have spaces, the 12th and 13th word are ticks in user mode and in the system.
    let words = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    let ticks = words.skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok());
    ticks.sum::<f64>() / TICKS_PER_SECOND
}

/// One line of JSON on standard output.
pub(crate) fn print(report: &impl Serialize) -> Result<(), Failure> {
    let mut line = serde_json::to_vec(report)?;
    line.push(b'\n');
    Ok(std::io::stdout().lock().write_all(&line)?)
}
