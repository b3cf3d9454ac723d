//! The load: threads of connections, and what they saw.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::Serialize;
use tokio::runtime;
use tokio::task::coop::unconstrained;

use super::connection::{Answer, Connection};
use super::pace::{End, Pace};
use super::request::Requests;
use super::{BenchArgs, BenchError};

/// Longest latency that is told apart.
const LONGEST: Duration = Duration::from_secs(600);

/// Longest text of a refusal that is kept, bytes.
const REFUSAL_BYTES: usize = 400;

/// What a load saw in the time that was measured.
#[derive(Debug, Serialize)]
pub(super) struct Figures {
    /// From the first to the last answer.
    pub(super) seconds: f64,
    /// Answers of 2xx.
    requests: u64,
    /// Records in them.
    records: u64,
    pub(super) requests_per_second: f64,
    records_per_second: f64,
    /// Of values, 10^6 bytes a second.
    megabytes_per_second: f64,
    /// Of answers of 2xx, milliseconds.
    latency_ms: Latency,
    /// Other answers, by status.
    refused: BTreeMap<u16, u64>,
    /// What the first of those said.
    #[serde(skip_serializing_if = "Option::is_none")]
    first_refusal: Option<String>,
    /// Requests that were due and had not been sent at the end.
    unsent: u64,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct Latency {
    mean: f64,
    p50: f64,
    p90: f64,
    p99: f64,
    p999: f64,
    max: f64,
}

/// Sends the load to `address`. Blocks until it is done.
pub(super) fn run(args: &BenchArgs, address: SocketAddr, requests: &Requests) -> Result<Figures, BenchError> {
    let to_error = |source| BenchError::Connection { address, source };
    let sockets = (0..args.connections).map(|_| TcpStream::connect(address)).collect::<Result<Vec<_>, _>>();
    let sockets = sockets.map_err(to_error)?;
    let began = Instant::now();
    let (measured_from, end) = match args.count {
        Some(count) => (began, End::Count(count)),
        None => {
            let measured_from = began + Duration::from_secs_f64(args.warmup);
            (measured_from, End::At(measured_from + Duration::from_secs_f64(args.duration)))
        }
    };
    let pace = Pace::new(began, end, args.rate, args.connections);
    let mut shares: Vec<Vec<(usize, TcpStream)>> = Vec::new();
    shares.resize_with(args.threads as usize, Vec::new);
    for (index, socket) in sockets.into_iter().enumerate() {
        shares[index % args.threads as usize].push((index, socket));
    }
    let mut tally = Tally::new(measured_from);
    let (pace, stride) = (&pace, args.connections as usize);
    thread::scope(|scope| {
        let spawn = |share| scope.spawn(move || send(share, stride, pace, requests, measured_from));
        let threads: Vec<_> = shares.into_iter().map(spawn).collect();
        for thread in threads {
            tally.merge(thread.join().map_err(|_| BenchError::Thread)?.map_err(to_error)?);
        }
        Ok(())
    })?;
    match tally.first_refusal {
        Some(refusal) if tally.latencies.is_empty() => Err(BenchError::Refused(refusal)),
        _ => Ok(tally.figures(args, pace.unsent())),
    }
}

/// One thread: all its connections in turn, none waiting for another.
fn send(
    sockets: Vec<(usize, TcpStream)>,
    stride: usize,
    pace: &Pace,
    requests: &Requests,
    measured_from: Instant,
) -> io::Result<Tally> {
    let runtime = runtime::Builder::new_current_thread().enable_io().build()?;
    let tally = RefCell::new(Tally::new(measured_from));
    // Nothing else runs here that a busy socket could keep waiting.
    runtime.block_on(unconstrained(async {
        let connections = sockets.into_iter().map(|(index, socket)| {
            let tally = &tally;
            async move {
                let mut connection = Connection::new(socket)?;
                let mut next = index;
                while let Some(due) = pace.next().await {
                    let (head, body) = requests.get(next);
                    let answer = connection.exchange(head, body).await?;
                    tally.borrow_mut().record(due, answer);
                    next += stride;
                }
                io::Result::Ok(())
            }
        });
        futures::future::try_join_all(connections).await
    }))?;
    Ok(tally.into_inner())
}

/// What one thread has seen so far.
#[derive(Debug)]
struct Tally {
    measured_from: Instant,
    last: Instant,
    latencies: Histogram<u64>,
    refused: BTreeMap<u16, u64>,
    first_refusal: Option<String>,
}

impl Tally {
    fn new(measured_from: Instant) -> Tally {
        Tally {
            measured_from,
            last: measured_from,
            latencies: histogram(),
            refused: BTreeMap::new(),
            first_refusal: None,
        }
    }

    fn record(&mut self, due: Instant, answer: Answer) {
        let now = Instant::now();
        if let Some(refusal) = answer.refusal {
            *self.refused.entry(answer.status).or_default() += 1;
            self.first_refusal.get_or_insert_with(|| {
                let text = String::from_utf8_lossy(&refusal[..refusal.len().min(REFUSAL_BYTES)]);
                format!("{} {text}", answer.status)
            });
        } else if due >= self.measured_from {
            self.latencies.saturating_record((now - due).as_nanos() as u64);
            self.last = now;
        }
    }

    fn merge(&mut self, other: Tally) {
        self.last = self.last.max(other.last);
        // Both were made with the same bounds, so this can't fail.
        _ = self.latencies.add(other.latencies);
        for (status, count) in other.refused {
            *self.refused.entry(status).or_default() += count;
        }
        self.first_refusal = self.first_refusal.take().or(other.first_refusal);
    }

    fn figures(self, args: &BenchArgs, unsent: u64) -> Figures {
        let seconds = (self.last - self.measured_from).as_secs_f64();
        let requests = self.latencies.len();
        let records = requests * u64::from(args.batch);
        let a_second = |count: u64| if seconds > 0.0 { count as f64 / seconds } else { 0.0 };
        let ms = |nanos: u64| nanos as f64 / 1e6;
        let at = |quantile| ms(self.latencies.value_at_quantile(quantile));
        Figures {
            seconds,
            requests,
            records,
            requests_per_second: a_second(requests),
            records_per_second: a_second(records),
            megabytes_per_second: a_second(records) * args.record_bytes as f64 / 1e6,
            latency_ms: Latency {
                mean: self.latencies.mean() / 1e6,
                p50: at(0.5),
                p90: at(0.9),
                p99: at(0.99),
                p999: at(0.999),
                max: ms(self.latencies.max()),
            },
            refused: self.refused,
            first_refusal: self.first_refusal,
            unsent,
        }
    }
}

impl Figures {
    pub(super) fn text(&self) -> String {
        let Figures { requests, records, requests_per_second, records_per_second, megabytes_per_second, .. } = self;
        let Latency { mean, p50, p90, p99, p999, max } = self.latency_ms;
        let mut text = format!(
            "  requests    {requests} ({requests_per_second:.0}/s)\n  \
             records     {records} ({records_per_second:.0}/s, {megabytes_per_second:.1} MB/s)\n  \
             latency ms  p50 {p50:.3}  p90 {p90:.3}  p99 {p99:.3}  p99.9 {p999:.3}  max {max:.3}  mean {mean:.3}\n"
        );
        if self.unsent > 0 {
            text += &format!("  unsent      {} that were due when the time was over\n", self.unsent);
        }
        for (status, count) in &self.refused {
            text += &format!("  refused     {count} with {status}\n");
        }
        if let Some(refusal) = &self.first_refusal {
            text += &format!("  the first   {refusal}\n");
        }
        text
    }
}

/// Of nanoseconds, to three digits; what is below a microsecond is one.
fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1_000, LONGEST.as_nanos() as u64, 3)
        .unwrap_or_else(|_| unreachable!("the bounds are sound"))
}
