//! What can go wrong, and whether to try again.

use std::time::Duration;

use wire::json::Lost;
use wire::{Code, DraftError, FrameError, NameError, Offset, Problem, Retry};

use crate::verify::VerifyError;

/// Why a call failed. Each answers [`Error::retry`]; its `Display` is one line.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The address is not one of a broker.
    #[error("{url:?} is not a broker's address: {reason}")]
    Address {
        /// The address that was given.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A namespace's name, a key or a header is not one.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A name or key is `.` or `..`, which no URL can carry: it would be taken for a folder.
    #[error("{0:?} can't be a part of a URL")]
    NotAddressable(String),
    /// A record or batch is not one, found before anything was sent.
    #[error(transparent)]
    Draft(#[from] DraftError),
    /// The broker refused, and says why.
    #[error("{}", .problem.detail)]
    Problem {
        /// Its answer.
        problem: Box<Problem>,
        /// How long it asks to wait before the next attempt.
        retry_after: Option<Duration>,
    },
    /// Whoever answered is no broker, or is none that this client understands.
    #[error("unexpected answer with status {status}: {body}")]
    Status {
        /// The HTTP status.
        status: u16,
        /// The beginning of the body.
        body: String,
    },
    /// No connection came about: nothing was sent.
    #[error("no connection to {url}: {reason}")]
    Connect {
        /// The broker's address.
        url: String,
        /// What the system says.
        reason: String,
    },
    /// The connection broke after something may have been sent.
    #[error("the connection broke: {0}")]
    Broken(String),
    /// No answer came in time.
    #[error("no answer came within {0:?}")]
    Timeout(Duration),
    /// The answer makes no sense.
    #[error("the answer is not as expected: {0}")]
    Reply(String),
    /// Bytes that should be frames are not.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// A rebuild did not prove itself.
    #[error(transparent)]
    Verify(#[from] VerifyError),
    /// A subscription's offsets are not contiguous: records are missing, or came twice.
    #[error("offset {found} came where {expected} was due")]
    OffsetGap {
        /// The offset that was due, or the lowest that could be.
        expected: Offset,
        /// The offset that came.
        found: Offset,
    },
    /// Records were lost: the log was damaged, and repaired without them. It is told once, so that
    /// nobody takes what is left for the whole.
    #[error("records were lost: {0}")]
    Lost(Lost),
    /// The system gives no random numbers, and so no producer id.
    #[error("the system gives no random numbers: {0}")]
    NoRandomness(String),
    /// A newer connection of the same subscriber has taken over.
    #[error("a newer connection of this subscriber has taken over")]
    Superseded,
    /// The publisher or worker was closed, or its task was dropped with its runtime.
    #[error("the publisher or worker is closed")]
    Closed,
}

impl Error {
    /// Whether sending the same request again is safe, and may help.
    pub fn retry(&self) -> Retry {
        match self {
            Error::Problem { problem, .. } => problem.retry,
            Error::Connect { .. } => Retry::Safe,
            // A gateway that has no broker behind it at the moment.
            Error::Status { status: 502..=504, .. } => Retry::Unknown,
            Error::Broken(_) | Error::Timeout(_) | Error::Reply(_) => Retry::Unknown,
            Error::Address { .. }
            | Error::Name(_)
            | Error::NotAddressable(_)
            | Error::Draft(_)
            | Error::Status { .. }
            | Error::Frame(_)
            | Error::Verify(_)
            | Error::OffsetGap { .. }
            | Error::Lost(_)
            | Error::NoRandomness(_)
            | Error::Superseded
            | Error::Closed => Retry::Never,
        }
    }

    /// The broker's answer, where it is the broker that refused.
    pub fn problem(&self) -> Option<&Problem> {
        match self {
            Error::Problem { problem, .. } => Some(problem),
            _ => None,
        }
    }

    /// The code of the broker's answer, where this version knows it.
    pub fn code(&self) -> Option<Code> {
        self.problem()?.code()
    }

    /// How long the broker asks to wait before the next attempt.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Error::Problem { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// What a failed request to `url` means; `timeout` is how long it was given.
    pub(crate) fn from_request(error: &reqwest::Error, url: &str, timeout: Duration) -> Error {
        let reason = root_cause(error);
        if error.is_connect() {
            Error::Connect { url: url.to_owned(), reason }
        } else if error.is_timeout() {
            Error::Timeout(timeout)
        } else if error.is_builder() {
            Error::Address { url: url.to_owned(), reason }
        } else {
            Error::Broken(reason)
        }
    }
}

/// The innermost error: the outer ones only say that something failed.
fn root_cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
