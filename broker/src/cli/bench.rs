//! `tlog bench`: a load generator over real HTTP, and the machine's own limits beside it.
//!
//! | module | what it knows |
//! |---|---|
//! | [`request`] | the bytes of the requests, made before the clock starts |
//! | [`connection`] | one keep-alive HTTP/1.1 connection, one request at a time |
//! | [`pace`] | when a request is to be sent: closed loop, or a fixed rate |
//! | [`load`] | threads of connections, and what they saw |
//! | [`empty`] | a server that does nothing, to tell HTTP's cost from the log's |
//! | [`limits`] | what the disk can do |

pub(super) mod empty;

mod connection;
mod limits;
mod load;
mod pace;
mod request;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde::Serialize;

use super::error::CliError;
use super::{output, progress};
use limits::Limits;
use load::Figures;
pub(in crate::cli) use request::resolve;

/// What to send, how fast, and for how long.
#[derive(Args, Clone, Debug)]
pub(crate) struct BenchArgs {
    /// Connections. Each has one request in flight, so this is also how many are
    #[arg(long, short, visible_alias = "in-flight", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    connections: u32,
    /// Records in a request
    #[arg(long, short, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    batch: u32,
    /// Bytes of each record's value
    #[arg(long, short, default_value_t = 256)]
    record_bytes: usize,
    /// Seconds to measure
    #[arg(long, short, default_value_t = 10.0, value_parser = seconds)]
    duration: f64,
    /// Seconds to send before that, unmeasured; --count has none
    #[arg(long, default_value_t = 1.0, value_parser = seconds)]
    warmup: f64,
    /// Send this many requests, instead of for a time
    #[arg(long, conflicts_with = "duration")]
    count: Option<u64>,
    /// Open loop: requests a second, whatever the answers do. A latency then counts from when its
    /// request was due. Without this, each connection sends when it has its answer
    #[arg(long, value_parser = rate)]
    rate: Option<f64>,
    /// The form of a request; raw (one record) or frames (a batch) if not given
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// Namespaces to spread the requests over
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    namespaces: u32,
    /// What the namespaces' names begin with
    #[arg(long, default_value = "bench")]
    prefix: String,
    /// Keys to draw from; 0 for records without keys
    #[arg(long, default_value_t = 0)]
    keys: u32,
    /// Threads that send
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    threads: u32,
    /// Send to this path, instead of the namespaces'
    #[arg(long)]
    target_path: Option<String>,
    /// First send the same to a server that does nothing, and give the ratio
    #[arg(long)]
    baseline: bool,
    /// Only measure what the disk under this folder can do
    #[arg(long, value_name = "DIR")]
    limits: Option<PathBuf>,
}

/// How records are put into a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Format {
    /// The body is the value
    Raw,
    /// A JSON object, or an array of them
    Json,
    /// An encoded batch: what the clients send
    Frames,
}

/// Why a bench could not be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BenchError {
    /// The arguments don't go together.
    #[error("{0}")]
    Arguments(String),
    /// The URL is not one of a broker.
    #[error("{url} is not the URL of a broker: {reason}")]
    Url {
        /// As it was given.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A connection broke.
    #[error("{address}: {source}")]
    Connection {
        /// Of the server.
        address: SocketAddr,
        /// How.
        source: io::Error,
    },
    /// The disk, or the server that does nothing.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: String,
        /// How it failed.
        source: io::Error,
    },
    /// No request did what it should, so there is nothing to report.
    #[error("every request was refused, the first with {0}")]
    Refused(String),
    /// A thread that sends broke.
    #[error("a thread of the load generator ended early")]
    Thread,
}

/// What a bench saw.
#[derive(Debug, Serialize)]
struct Report {
    url: String,
    connections: u32,
    batch: u32,
    record_bytes: usize,
    format: Format,
    rate: Option<f64>,
    #[serde(flatten)]
    figures: Figures,
    /// The same against a server that does nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    baseline: Option<Figures>,
    /// Requests a second, as a part of the baseline's.
    #[serde(skip_serializing_if = "Option::is_none")]
    of_baseline: Option<f64>,
}

/// Runs the bench against the broker at `url` and prints what it saw. Blocks; has threads of its own.
pub(crate) fn run(args: &BenchArgs, url: &str, json: bool) -> Result<(), CliError> {
    if let Some(dir) = &args.limits {
        let limits = said(format!("writing and syncing under {}", dir.display()), || Limits::measure(dir))
            .map_err(|source| CliError::io(dir.display().to_string(), source))?;
        return output::print(if json { output::json_line(&limits)? } else { limits.text() }.as_bytes());
    }
    let report = measure(args, url)?;
    output::print(if json { output::json_line(&report)? } else { report.text() }.as_bytes())
}

fn measure(args: &BenchArgs, url: &str) -> Result<Report, BenchError> {
    let format = args.format.unwrap_or(if args.batch == 1 { Format::Raw } else { Format::Frames });
    let (address, host) = resolve(url)?;
    let requests = request::Requests::new(args, format, &host)?;
    let baseline = match args.baseline {
        true => {
            let server = empty::EmptyServer::start()?;
            let load = || load::run(args, server.address(), &requests);
            Some(said("load on a server that does nothing".to_owned(), load)?)
        }
        false => None,
    };
    let figures = said(format!("load on {url}"), || load::run(args, address, &requests))?;
    let of_baseline = baseline.as_ref().map(|baseline| figures.requests_per_second / baseline.requests_per_second);
    Ok(Report {
        url: url.to_owned(),
        connections: args.connections,
        batch: args.batch,
        record_bytes: args.record_bytes,
        format,
        rate: args.rate,
        figures,
        baseline,
        of_baseline,
    })
}

/// Does some work, and says so on a terminal meanwhile.
fn said<T>(what: String, work: impl FnOnce() -> T) -> T {
    let bar = progress::unbounded();
    bar.set_message(what);
    bar.enable_steady_tick(Duration::from_millis(100));
    let done = work();
    bar.finish_and_clear();
    done
}

impl Report {
    fn text(&self) -> String {
        let form = match self.format {
            Format::Raw => "raw",
            Format::Json => "JSON",
            Format::Frames => "frames",
        };
        let pace = self.rate.map_or("closed loop".to_owned(), |rate| format!("open loop at {rate}/s"));
        let mut text = format!(
            "{}: {} connections, {} × {} B as {form}, {pace}, {:.1} s\n{}",
            self.url,
            self.connections,
            self.batch,
            self.record_bytes,
            self.figures.seconds,
            self.figures.text()
        );
        if let (Some(baseline), Some(ratio)) = (&self.baseline, self.of_baseline) {
            text += "a server that does nothing, with the same generator:\n";
            text += &baseline.text();
            text += &format!("  ratio       {ratio:.2} of its requests/s\n");
        }
        text
    }
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds: f64 = text.trim_end_matches('s').parse().map_err(|_| "a number of seconds".to_owned())?;
    if (0.0..=86_400.0).contains(&seconds) { Ok(seconds) } else { Err("0 to 86400 seconds".to_owned()) }
}

fn rate(text: &str) -> Result<f64, String> {
    let rate: f64 = text.parse().map_err(|_| "a number of requests a second".to_owned())?;
    if (0.001..=1e7).contains(&rate) { Ok(rate) } else { Err("0.001 to 10000000 requests a second".to_owned()) }
}
