//! What can go wrong with groups.

use std::io;
use std::path::PathBuf;

use tlog::{AppendError, ControlError, ReadError};
use wire::{DraftError, Offset};

use super::event::GroupEventError;
use super::workers::TooManyWorkers;
use crate::offsets::OffsetError;

/// Why groups could not be opened, or something asked of one was not done.
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
    /// The groups' rows were made of another log, or the log has lost what they were made of.
    #[error("{dir} is of another log: {reason}; if the log is right, delete the folder, it is rebuilt from the log")]
    OtherLog {
        /// The groups' folder.
        dir: PathBuf,
        /// What does not fit.
        reason: String,
    },
    /// The folder was made by another version.
    #[error("{dir} has layout {found}, this version has {known}: delete the folder, it is rebuilt from the log")]
    Layout {
        /// The groups' folder.
        dir: PathBuf,
        /// The layout's version in the folder.
        found: u16,
        /// The version that this code knows.
        known: u16,
    },
    /// RocksDB could not open the folder.
    #[error("{dir}: {source}; if it can't be repaired, delete the folder, it is rebuilt from the log")]
    Open {
        /// The groups' folder.
        dir: PathBuf,
        /// What RocksDB says.
        source: rocksdb::Error,
    },
    /// A row is not what it must be.
    #[error("the groups' row {row} is damaged: {reason}; delete the folder, it is rebuilt from the log")]
    Damaged {
        /// The row's key, escaped.
        row: String,
        /// What is wrong with it.
        reason: String,
    },
    /// RocksDB failed.
    #[error("the groups' rows: {0}")]
    Rows(#[from] rocksdb::Error),
    /// The namespace could not be read.
    #[error("{0}")]
    Unreadable(String),
    /// The log could not be read.
    #[error(transparent)]
    Read(ReadError),
    /// What had to be durable could not be made so. Nothing was done.
    #[error(transparent)]
    Append(AppendError),
    /// A control record of the log is not one.
    #[error("the log: {0}")]
    Control(#[from] ControlError),
    /// An event of a group is not one.
    #[error(transparent)]
    Event(#[from] GroupEventError),
    /// A record can't be stored elsewhere.
    #[error(transparent)]
    Draft(#[from] DraftError),
    /// An offset row could not be read or is not one.
    #[error(transparent)]
    Offset(#[from] OffsetError),
    /// A thread could not be started.
    #[error("a thread could not be started: {0}")]
    Thread(io::Error),
}

impl GroupsError {
    pub(super) fn damaged(row: &[u8], reason: &str) -> GroupsError {
        GroupsError::Damaged { row: row.escape_ascii().to_string(), reason: reason.to_owned() }
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
