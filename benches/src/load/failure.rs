//! Why there is nothing to report.

use std::io;

/// Why there is nothing to report.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// A socket, or standard output.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The server did not do what was asked.
    #[error("refused: {0}")]
    Refused(String),
    /// The server said something that is not in its protocol.
    #[error("not understood: {0}")]
    Answer(String),
    /// The arguments don't go together, or ask for what a protocol does not have.
    #[error("{0}")]
    Arguments(String),
    /// TLog's own client failed.
    #[error("{0}")]
    Client(#[from] sdk::Error),
    /// A thread ended early.
    #[error("a thread of the generator ended early")]
    Thread,
    /// What was seen is no JSON.
    #[error("{0}")]
    Json(#[from] serde_json::Error),
}

impl Failure {
    /// Bytes that were not expected, or their beginning.
    pub(crate) fn answer(bytes: &[u8]) -> Failure {
        Failure::Answer(String::from_utf8_lossy(&bytes[..bytes.len().min(300)]).into_owned())
    }
}
