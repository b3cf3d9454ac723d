//! Why a command failed: one line.

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitCode, ExitStatus};

use super::bench::BenchError;
use super::health::HealthError;
use super::output::count;

/// The status where only what is derived is wrong: 1 is every other error but a command's, 2 a misspelled command line.
const DERIVED: u8 = 3;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    /// The broker refused, or could not be talked to.
    #[error(transparent)]
    Sdk(#[from] sdk::Error),
    /// The server could not be started, or did not stop in order.
    #[error(transparent)]
    Serve(#[from] broker::ServeError),
    /// The bench failed.
    #[error(transparent)]
    Bench(#[from] BenchError),
    /// The broker is not healthy.
    #[error(transparent)]
    Health(#[from] HealthError),
    /// A file, stdin or stdout.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: String,
        /// How it failed.
        source: io::Error,
    },
    /// A result can't be printed as JSON.
    #[error("the result is not JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// A line of the input is not a record.
    #[error("line {line}: {reason}; of the lines before it {} stored", count(*.stored, "record"))]
    Line {
        /// Which, from 1.
        line: u64,
        /// What is wrong with it.
        reason: String,
        /// How many records are durable.
        stored: u64,
    },
    /// Publishing failed on the way.
    #[error("{reason}; {} stored before", count(*.stored, "record"))]
    Publish {
        /// Why.
        reason: sdk::Error,
        /// How many records are known to be durable.
        stored: u64,
    },
    /// There was nothing to publish.
    #[error("the input has no record")]
    NoRecords,
    /// The data folder can't be checked.
    #[error(transparent)]
    Open(#[from] tlog::OpenError),
    /// The data folder can't be repaired.
    #[error(transparent)]
    Repair(#[from] tlog::repair::RepairError),
    /// The stores can't be checked.
    #[error("the stores: {0}")]
    Stores(#[from] consumers::StoresError),
    /// The ledger can't be checked.
    #[error(transparent)]
    Ledger(#[from] consumers::LedgerError),
    /// A check has found that nothing is lost, and that something derived is wrong.
    #[error("nothing is lost; what is derived is wrong in {faults} place(s), and can be made again")]
    Derived {
        /// How many.
        faults: usize,
    },
    /// A check has found damage.
    #[error("the log is damaged in {faults} place(s)")]
    Damaged {
        /// How many.
        faults: usize,
    },
    /// A command that was run while a lock was held has failed: its status is this process's.
    #[error("the command ended with {0}")]
    Command(ExitStatus),
    /// The lock was lost while a command ran.
    #[error("the lock {0:?} was lost, and so the command was ended")]
    LockLost(String),
    /// Told to end before there was anything to do.
    #[error("told to end")]
    Interrupted,
    /// The key has no value.
    #[error("the key {0:?} has no value")]
    NoValue(String),
}

impl CliError {
    pub(crate) fn io(what: impl Into<String>, source: io::Error) -> CliError {
        CliError::Io { what: what.into(), source }
    }

    /// The status that the process ends with.
    pub(crate) fn status(&self) -> ExitCode {
        match self {
            CliError::Derived { .. } => ExitCode::from(DERIVED),
            // As shells have it: what a signal has ended has 128 and the signal's number.
            CliError::Command(status) => {
                let code = status.code().or_else(|| Some(128 + status.signal()?));
                code.and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from)
            }
            _ => ExitCode::FAILURE,
        }
    }

    /// Whether the reader of stdout has gone, which is no failure.
    pub(crate) fn is_closed_pipe(&self) -> bool {
        matches!(self, CliError::Io { source, .. } if source.kind() == io::ErrorKind::BrokenPipe)
    }
}
