//! `tlog health`: whether a broker answers, for health checks in places that have no HTTP client.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use clap::Args;

use super::bench::BenchError;
use super::bench::resolve;

/// Longest time for each step.
const PATIENCE: Duration = Duration::from_secs(5);

/// Most of an answer to read, bytes.
const ANSWER_BYTES: u64 = 16 << 10;

/// What to ask.
#[derive(Args, Clone, Debug)]
pub(crate) struct HealthArgs {
    /// Ask whether it takes writes, not only whether it lives
    #[arg(long)]
    ready: bool,
}

/// Why a broker is not healthy.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HealthError {
    /// The URL is not one of a broker.
    #[error(transparent)]
    Url(#[from] BenchError),
    /// It can't be reached.
    #[error("{url}: {source}")]
    Io {
        /// The broker's.
        url: String,
        /// How it failed.
        source: io::Error,
    },
    /// It answers that it is not.
    #[error("{url} answers {answer}")]
    Unhealthy {
        /// The broker's.
        url: String,
        /// Status line and body.
        answer: String,
    },
}

/// Asks the broker at `url`. Blocks.
pub(crate) fn run(args: &HealthArgs, url: &str) -> Result<(), HealthError> {
    let (address, host) = resolve(url)?;
    let path = if args.ready { "/readyz" } else { "/healthz" };
    let ask = || {
        let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(stream, "GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.take(ANSWER_BYTES).read_to_string(&mut answer)?;
        Ok(answer)
    };
    let answer = ask().map_err(|source| HealthError::Io { url: url.to_owned(), source })?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.lines().next().unwrap_or_default();
    if status.starts_with("HTTP/1.1 200 ") {
        return Ok(());
    }
    Err(HealthError::Unhealthy { url: url.to_owned(), answer: format!("{status} {body}") })
}
