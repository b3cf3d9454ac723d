//! What can go wrong with the stores.

use std::io;

use tlog::{ControlError, ReadError};
use wire::Shard;

use crate::database::WriteError;
use crate::folder::FolderError;
use crate::offsets::OffsetError;

/// Why the stores could not be opened, read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoresError {
    /// The store is being rebuilt: what it holds is not all yet.
    #[error("store {0} is being rebuilt")]
    Rebuilding(Shard),
    /// The stores are closed.
    #[error("the stores are closed")]
    Closed,
    /// The folder can't be used.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// A row is not what it must be.
    #[error("the stores' row {row} is damaged: {reason}; rebuild its store")]
    Damaged {
        /// The row's key, escaped.
        row: String,
        /// What is wrong with it.
        reason: String,
    },
    /// RocksDB failed.
    #[error("the stores' rows: {0}")]
    Rows(#[from] rocksdb::Error),
    /// The log could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A control record of the log is not one.
    #[error("the log: {0}")]
    Control(#[from] ControlError),
    /// An offset row could not be read or is not one.
    #[error(transparent)]
    Offset(#[from] OffsetError),
    /// A thread could not be started.
    #[error("a thread could not be started: {0}")]
    Thread(io::Error),
}

impl From<WriteError> for StoresError {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Ended => StoresError::Closed,
            WriteError::Rows(error) => StoresError::Rows(error),
        }
    }
}

impl StoresError {
    pub(crate) fn damaged(row: &[u8], reason: &str) -> StoresError {
        StoresError::Damaged { row: row.escape_ascii().to_string(), reason: reason.to_owned() }
    }
}
