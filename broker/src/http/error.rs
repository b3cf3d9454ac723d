//! What a refused call answers: the one mapping of errors to codes, and so to HTTP.

use std::fmt::Display;

use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use consumers::StoresError;
use consumers::rooms::RoomsError;
use tlog::{AppendError, ReadError};
use wire::name::NameError;
use wire::{Code, DraftError, Problem};

/// Media type of a refusal, RFC 9457.
pub(crate) const PROBLEM_MEDIA_TYPE: &str = "application/problem+json";

/// A call that is refused, and why. Small, as it travels in results.
#[derive(Debug)]
pub(crate) struct Refusal(Box<Problem>);

impl Refusal {
    /// A refusal with this code, and what was wrong this time.
    pub(crate) fn new(code: Code, detail: impl Into<String>) -> Refusal {
        Refusal(Box::new(Problem::new(code, detail)))
    }

    /// The broker's own failure: logged, as nobody else knows of it.
    pub(crate) fn internal(error: impl Display) -> Refusal {
        let detail = error.to_string();
        tracing::error!(error = detail, "a call failed");
        Refusal::new(Code::Internal, detail)
    }

    /// A parameter, in the query or a header, that is not what it must be.
    pub(crate) fn parameter(detail: impl Into<String>) -> Refusal {
        Refusal::new(Code::InvalidParameter, detail)
    }

    /// The same, with the namespace's next offset.
    pub(crate) fn with_next_offset(mut self, next_offset: u64) -> Refusal {
        self.0.next_offset = Some(next_offset);
        self
    }

    /// The same, with the line that is the first not to be stored, and the records before it.
    pub(crate) fn at_line(mut self, line: u64, stored: u64) -> Refusal {
        (self.0.line, self.0.stored) = (Some(line), Some(stored));
        self
    }

    /// The same, with the tokens that do not hold: none did.
    pub(crate) fn with_lapsed(mut self, lapsed: Vec<String>) -> Refusal {
        (self.0.done, self.0.lapsed) = (Some(0), Some(lapsed));
        self
    }

    /// The same, with who holds the lock, and until when.
    pub(crate) fn with_holder(mut self, owner: String, expires: String) -> Refusal {
        (self.0.owner, self.0.expires) = (Some(owner), Some(expires));
        self
    }

    /// The same, said of a part of the request.
    pub(crate) fn within(mut self, part: impl Display) -> Refusal {
        self.0.detail = format!("{part}: {}", self.0.detail);
        self
    }

    /// The code.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn code(&self) -> Option<Code> {
        self.0.code()
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let busy = status == StatusCode::TOO_MANY_REQUESTS;
        // Strings and numbers are always JSON.
        let body = serde_json::to_vec(&self.0).unwrap_or_default();
        let mut response = (status, body).into_response();
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(PROBLEM_MEDIA_TYPE));
        if busy {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

impl From<AppendError> for Refusal {
    fn from(error: AppendError) -> Refusal {
        let code = match error {
            AppendError::Read(error) => return error.into(),
            AppendError::OffsetMismatch { next_offset } => {
                return Refusal::new(Code::OffsetMismatch, error.to_string()).with_next_offset(next_offset);
            }
            AppendError::NamespaceNotFound => Code::NamespaceNotFound,
            AppendError::ConfigConflict => Code::ConfigConflict,
            AppendError::ProducerGap { .. } => Code::ProducerGap,
            AppendError::ProducerFenced { .. } => Code::ProducerFenced,
            AppendError::ProducerForgotten { .. } => Code::ProducerForgotten,
            AppendError::RecordTooLarge { .. } => Code::RecordTooLarge,
            AppendError::TooBusy => Code::TooBusy,
            AppendError::StorageFull(_) => Code::StorageFull,
            AppendError::PartitionFailed(_) => Code::PartitionFailed,
            AppendError::WriteFailed(_) => Code::WriteFailed,
            AppendError::IdsExhausted => Code::IdsExhausted,
            AppendError::Closed => Code::ShuttingDown,
        };
        Refusal::new(code, error.to_string())
    }
}

impl From<ReadError> for Refusal {
    fn from(error: ReadError) -> Refusal {
        let code = match error {
            ReadError::PastHead { next_offset } => {
                return Refusal::new(Code::OffsetPastHead, error.to_string()).with_next_offset(next_offset);
            }
            ReadError::NamespaceNotFound => Code::NamespaceNotFound,
            ReadError::Closed => Code::ShuttingDown,
            ReadError::Damaged { .. } => {
                tracing::error!(%error, "the log is damaged");
                Code::Damaged
            }
            ReadError::Io { .. } | ReadError::Rows(_) => return Refusal::internal(error),
        };
        Refusal::new(code, error.to_string())
    }
}

impl From<DraftError> for Refusal {
    fn from(error: DraftError) -> Refusal {
        let code = match error {
            DraftError::Name(error) => return error.into(),
            DraftError::RecordTooLarge { .. } => Code::RecordTooLarge,
            DraftError::BatchTooLarge | DraftError::TooManyRecords => Code::BatchTooLarge,
            DraftError::Empty => Code::EmptyBatch,
            DraftError::TombstoneWithoutKey => Code::InvalidKey,
            DraftError::TombstoneWithValue
            | DraftError::NotText
            | DraftError::NotJson(_)
            | DraftError::WrongShard
            | DraftError::AlreadyPlaced
            | DraftError::Frame(_) => Code::InvalidBody,
        };
        Refusal::new(code, error.to_string())
    }
}

impl From<NameError> for Refusal {
    fn from(error: NameError) -> Refusal {
        let code = match &error {
            NameError::TooManyHeaders { .. } | NameError::TwiceInHeaders { .. } => Code::InvalidHeaders,
            NameError::Empty { what }
            | NameError::TooLong { what, .. }
            | NameError::NotUtf8 { what }
            | NameError::Dots { what, .. }
            | NameError::Control { what, .. } => match *what {
                "the namespace's name" => Code::InvalidName,
                "the key" => Code::InvalidKey,
                "the producer's id" => Code::InvalidProducer,
                _ => Code::InvalidHeaders,
            },
        };
        Refusal::new(code, error.to_string())
    }
}

impl From<serde_json::Error> for Refusal {
    /// For what is written; what is read has errors of its own.
    fn from(error: serde_json::Error) -> Refusal {
        Refusal::internal(error)
    }
}

impl From<tokio::task::JoinError> for Refusal {
    fn from(error: tokio::task::JoinError) -> Refusal {
        Refusal::internal(error)
    }
}

impl From<RoomsError> for Refusal {
    fn from(error: RoomsError) -> Refusal {
        let code = match error {
            RoomsError::PastHead { next_offset, .. } => {
                return Refusal::new(Code::OffsetPastHead, error.to_string()).with_next_offset(next_offset);
            }
            RoomsError::Read(error) => return error.into(),
            RoomsError::Append(error) => return error.into(),
            RoomsError::SubscriberNotFound => Code::SubscriberNotFound,
            RoomsError::NamespaceNotFound(_) => Code::NamespaceNotFound,
            RoomsError::TooManyRooms { .. } | RoomsError::TooManyNamespaces { .. } => Code::TooManyRooms,
            RoomsError::Closed => Code::ShuttingDown,
            error => return Refusal::internal(error),
        };
        Refusal::new(code, error.to_string())
    }
}

impl From<StoresError> for Refusal {
    fn from(error: StoresError) -> Refusal {
        match error {
            StoresError::Rebuilding(_) => Refusal::new(Code::StoreRebuilding, error.to_string()),
            StoresError::Closed => Refusal::new(Code::ShuttingDown, error.to_string()),
            StoresError::Read(error) => error.into(),
            error => Refusal::internal(error),
        }
    }
}
