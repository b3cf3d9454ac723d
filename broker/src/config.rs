//! What a server is told when it starts, and why it may not start.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Connections that are served at once; more wait to be accepted.
const MAX_CONNECTIONS: usize = 10_000;

/// What a server is told when it starts.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// The data folder; made where it is missing.
    pub data: PathBuf,
    /// The log's options, such as the partitions of a folder that is being made.
    pub log: tlog::Options,
    /// Origins whose pages may call the broker from a browser, such as `https://example.org`, or
    /// `*` for all. None: no page may.
    pub cors_origins: Vec<String>,
    /// Connections that are served at once, at least 1; more wait to be accepted.
    pub max_connections: usize,
    /// How long the server waits for what.
    pub timeouts: Timeouts,
}

impl ServerConfig {
    /// The defaults, for this address and folder.
    pub fn new(listen: SocketAddr, data: impl Into<PathBuf>) -> ServerConfig {
        ServerConfig {
            listen,
            data: data.into(),
            log: tlog::Options::default(),
            cors_origins: Vec::new(),
            max_connections: MAX_CONNECTIONS,
            timeouts: Timeouts::default(),
        }
    }
}

/// Most partitions that a new folder gets where nobody says how many.
const MOST_PARTITIONS: usize = 16;

/// How many partitions serve a machine of so many cores well: half of them, rounded up to a power of two.
///
/// Each has a thread that sequences and syncs, and what it commits at once shares that cost. More of them than cores that
/// can serve them commit less at once, and gain nothing by it.
pub fn partitions_for(cores: usize) -> u16 {
    cores.div_ceil(2).next_power_of_two().clamp(1, MOST_PARTITIONS) as u16
}

/// How long the server waits for what.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// From a connection's beginning to the end of its first request's header.
    pub head: Duration,
    /// From an answer to the end of the next request's header: how long a connection may idle.
    pub idle: Duration,
    /// Between two pieces of a request's body.
    pub body: Duration,
    /// How long a client may take nothing of what is being sent to it.
    pub stall: Duration,
    /// Between two heartbeats of an event stream.
    pub heartbeat: Duration,
    /// How long requests may go on after shutdown has begun.
    pub drain: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Timeouts {
            head: Duration::from_secs(10),
            idle: Duration::from_secs(75),
            body: Duration::from_secs(30),
            stall: Duration::from_secs(120),
            heartbeat: Duration::from_secs(15),
            drain: Duration::from_secs(20),
        }
    }
}

/// Why a server does not start, or did not stop in order. Each is one line.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address can't be listened on.
    #[error("can't listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// What is configured as an origin is not one.
    #[error("{0:?} is not an origin, such as https://example.org")]
    Origin(String),
    /// No connection may be served.
    #[error("max_connections is 0, it must be at least 1")]
    NoConnections,
    /// The process may open too few files.
    #[error(
        "this process may open {files} files, and a log of {partitions} partitions needs {needed} or more: raise the limit (ulimit -n)"
    )]
    TooFewFiles {
        /// How many it may open.
        files: u64,
        /// How many are needed.
        needed: u64,
        /// Partitions of the data folder.
        partitions: u16,
    },
    /// The log can't be opened.
    #[error(transparent)]
    Log(#[from] tlog::OpenError),
    /// The stores can't be opened.
    #[error("the stores: {0}")]
    Stores(#[from] consumers::StoresError),
    /// The ledger can't be opened.
    #[error("the ledger: {0}")]
    Ledger(#[from] consumers::LedgerError),
    /// The system gives no random numbers.
    #[error("the system gives no random numbers: {0}")]
    NoRandomness(String),
    /// Another recorder of metrics is installed in this process.
    #[error("metrics can't be recorded: {0}")]
    Metrics(String),
    /// A task of the server failed.
    #[error("a task failed: {0}")]
    Task(#[from] tokio::task::JoinError),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_half_as_many_partitions_as_cores() {
        let of = [0, 1, 2, 3, 4, 6, 8, 12, 16, 31, 32, 192].map(|cores| (cores, partitions_for(cores)));
        let due =
            [(0, 1), (1, 1), (2, 1), (3, 2), (4, 2), (6, 4), (8, 4), (12, 8), (16, 8), (31, 16), (32, 16), (192, 16)];
        assert_eq!(of, due);
    }
}
