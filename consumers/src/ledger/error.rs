//! What can go wrong with the ledger.

use std::io;

use tlog::{ControlError, ReadError};

use crate::database::WriteError;
use crate::folder::FolderError;
use crate::groups::GroupEventError;
use crate::locks::LockEventError;
use crate::offsets::OffsetError;
use crate::rooms::RoomEventError;

/// Why the ledger could not be opened, or its rows not be made or read.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The ledger is closed.
    #[error("the ledger is closed")]
    Closed,
    /// The folder can't be used.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// A row is not what it must be.
    #[error("the ledger's row {row} is damaged: {reason}; delete the folder, it is rebuilt from the log")]
    Damaged {
        /// The row's key, escaped.
        row: String,
        /// What is wrong with it.
        reason: String,
    },
    /// RocksDB failed.
    #[error("the ledger's rows: {0}")]
    Rows(#[from] rocksdb::Error),
    /// The log could not be read.
    #[error(transparent)]
    Read(ReadError),
    /// A control record of the log is not one.
    #[error("the log: {0}")]
    Control(#[from] ControlError),
    /// An event is of nobody that is known: a later version wrote it.
    #[error("the log has an event of an unknown kind: {kind:?}")]
    UnknownEvent {
        /// Its first byte.
        kind: Option<u8>,
    },
    /// An event of a group is not one.
    #[error(transparent)]
    GroupEvent(#[from] GroupEventError),
    /// An event of a lock is not one.
    #[error(transparent)]
    LockEvent(#[from] LockEventError),
    /// An event of rooms or of a subscriber is not one.
    #[error(transparent)]
    RoomEvent(#[from] RoomEventError),
    /// An offset row could not be read or is not one.
    #[error(transparent)]
    Offset(#[from] OffsetError),
    /// A thread could not be started.
    #[error("a thread could not be started: {0}")]
    Thread(io::Error),
}

impl From<WriteError> for LedgerError {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Ended => LedgerError::Closed,
            WriteError::Rows(error) => LedgerError::Rows(error),
        }
    }
}

impl LedgerError {
    pub(crate) fn damaged(row: &[u8], reason: &str) -> LedgerError {
        LedgerError::Damaged { row: row.escape_ascii().to_string(), reason: reason.to_owned() }
    }
}

impl From<ReadError> for LedgerError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Closed => LedgerError::Closed,
            error => LedgerError::Read(error),
        }
    }
}
