//! What can go wrong with groups.

use tlog::{AppendError, ReadError};
use wire::{DraftError, Offset};

use super::event::GroupEventError;
use super::workers::TooManyWorkers;
use crate::ledger::LedgerError;

/// Why something asked of a group was not done.
#[derive(Debug, thiserror::Error)]
pub enum GroupsError {
    /// There is no group of this name.
    #[error("the group does not exist")]
    GroupNotFound,
    /// The namespace does not exist, or no longer.
    #[error("the namespace does not exist")]
    NamespaceNotFound,
    /// The group exists, and began elsewhere.
    #[error("the group exists and began elsewhere: to go on from another offset, seek")]
    StartDiffers,
    /// A setting is out of its bounds.
    #[error("{0}")]
    Config(String),
    /// There is no such offset yet.
    #[error("there is no such offset yet: the next is {next_offset}")]
    PastHead {
        /// The namespace's head.
        next_offset: Offset,
    },
    /// The group has no namespace for dead letters.
    #[error("the group has no dead_letter namespace, so there is nothing to send back")]
    NoDeadLetters,
    /// The group has as many workers as it may.
    #[error(transparent)]
    TooManyWorkers(#[from] TooManyWorkers),
    /// The groups are closed.
    #[error("the groups are closed")]
    Closed,
    /// The namespace could not be read.
    #[error("{0}")]
    Unreadable(String),
    /// The log could not be read.
    #[error(transparent)]
    Read(ReadError),
    /// What had to be durable could not be made so. Nothing was done.
    #[error(transparent)]
    Append(AppendError),
    /// An event of a group is not one.
    #[error(transparent)]
    Event(#[from] GroupEventError),
    /// A record can't be stored elsewhere.
    #[error(transparent)]
    Draft(#[from] DraftError),
    /// What is kept of the groups could not be read.
    #[error(transparent)]
    Ledger(LedgerError),
}

impl From<LedgerError> for GroupsError {
    fn from(error: LedgerError) -> Self {
        match error {
            LedgerError::Closed => GroupsError::Closed,
            error => GroupsError::Ledger(error),
        }
    }
}

impl From<ReadError> for GroupsError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::NamespaceNotFound => GroupsError::NamespaceNotFound,
            ReadError::PastHead { next_offset } => GroupsError::PastHead { next_offset },
            ReadError::Closed => GroupsError::Closed,
            error => GroupsError::Read(error),
        }
    }
}

impl From<AppendError> for GroupsError {
    fn from(error: AppendError) -> Self {
        match error {
            AppendError::NamespaceNotFound => GroupsError::NamespaceNotFound,
            AppendError::Closed => GroupsError::Closed,
            AppendError::Read(error) => error.into(),
            error => GroupsError::Append(error),
        }
    }
}
