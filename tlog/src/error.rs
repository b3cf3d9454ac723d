//! What can go wrong, by what was asked for.

use std::io;
use std::path::PathBuf;

use wire::{Offset, Position};

/// Why a log can't be opened. Each is one line that says what to do about it, where that is known.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has the folder.
    #[error("{dir} is in use by another tlog process")]
    Locked {
        /// The data folder.
        dir: PathBuf,
    },
    /// The folder was made by a version with another layout.
    #[error("{file} says format {found}, this version reads format {known}")]
    Format {
        /// The file that says so.
        file: PathBuf,
        /// The format of the folder.
        found: u32,
        /// The format that this version reads.
        known: u32,
    },
    /// A frame was written by a later version.
    #[error("{file} has a frame of version {found} at position {position}, this version reads version {known}")]
    FrameVersion {
        /// The segment.
        file: PathBuf,
        /// The frame's position in the partition.
        position: Position,
        /// The frame's version.
        found: u8,
        /// The version that this version reads.
        known: u8,
    },
    /// The folder's description is not what it must be.
    #[error("{file} is not the description of a TLog data folder: {reason}")]
    Description {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A repair was not finished.
    #[error("a repair of {dir} was not finished: run tlog repair --data {dir}")]
    Unfinished {
        /// The data folder.
        dir: PathBuf,
    },
    /// An option is out of its bounds.
    #[error("{0}")]
    Options(String),
    /// The log is damaged at a place that was durable.
    #[error("{file} is damaged at position {position}: {reason}")]
    Damaged {
        /// The segment or the folder.
        file: PathBuf,
        /// The position in the partition.
        position: Position,
        /// What is wrong there.
        reason: String,
    },
    /// The rows stand for more than the log holds: they belong to another log.
    #[error(
        "{dir} stands for position {rows} of a partition that ends at {log}: if the log is right, delete the folder, it is rebuilt from the log; if the log has lost its end, tlog repair marks what is lost"
    )]
    RowsAhead {
        /// The folder of the rows.
        dir: PathBuf,
        /// The position that the rows stand for.
        rows: Position,
        /// The end of the log.
        log: Position,
    },
    /// RocksDB failed.
    #[error("{dir}: {source}")]
    Rows {
        /// The folder of the rows.
        dir: PathBuf,
        /// What RocksDB says.
        source: rocksdb::Error,
    },
    /// A file could not be read or written.
    #[error("{file}: {source}")]
    Io {
        /// The file.
        file: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A thread could not be started.
    #[error("a thread could not be started: {0}")]
    Thread(io::Error),
}

/// Why an append, a creation or a delete did not take place.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// The namespace does not exist, or no longer.
    #[error("the namespace does not exist")]
    NamespaceNotFound,
    /// The namespace exists with another configuration.
    #[error("the namespace exists with another configuration")]
    ConfigConflict,
    /// The next offset is another than the caller made its condition.
    #[error("the next offset is {next_offset}")]
    OffsetMismatch {
        /// The real one.
        next_offset: Offset,
    },
    /// The producer has skipped a sequence.
    #[error("the producer's next sequence is {expected}")]
    ProducerGap {
        /// The sequence that is due.
        expected: u64,
    },
    /// A later epoch of the producer has taken over.
    #[error("the producer is at epoch {epoch}")]
    ProducerFenced {
        /// The epoch that holds.
        epoch: u32,
    },
    /// The batch is stored, but too many have come since to say where.
    #[error("sequence {sequence} is stored, but too long ago to say where")]
    ProducerForgotten {
        /// The sequence.
        sequence: u64,
    },
    /// A record is over what the namespace is configured to take.
    #[error("a record is {bytes} bytes, the namespace takes {limit}")]
    RecordTooLarge {
        /// Its key, headers and value, bytes.
        bytes: usize,
        /// The namespace's limit.
        limit: u32,
    },
    /// More is waiting to be written than may wait.
    #[error("more is waiting to be written than may wait")]
    TooBusy,
    /// There is no space. Nothing was written, and it works again when there is.
    #[error("there is no space to write to: {0}")]
    StorageFull(String),
    /// An earlier write failed: the partition takes no more until a restart. Nothing was written.
    #[error("the partition takes no more writes until a restart: {0}")]
    PartitionFailed(String),
    /// This write failed: after the restart it may or may not be there.
    #[error("the write failed: {0}")]
    WriteFailed(String),
    /// No namespace id is left in the partition, or no object id in a shard.
    #[error("no id is left to give out")]
    IdsExhausted,
    /// The log is closing.
    #[error("the log is closing")]
    Closed,
    /// What had to be read first could not be.
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// Why something could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The namespace does not exist, or no longer.
    #[error("the namespace does not exist")]
    NamespaceNotFound,
    /// The offset is past the head.
    #[error("there is no such offset yet: the next is {next_offset}")]
    PastHead {
        /// The namespace's head.
        next_offset: Offset,
    },
    /// What was durable is no longer what was written.
    #[error("{file} is damaged at position {position}: {reason}")]
    Damaged {
        /// The file.
        file: PathBuf,
        /// The position in the partition.
        position: Position,
        /// What is wrong there.
        reason: String,
    },
    /// A file could not be read.
    #[error("{file}: {source}")]
    Io {
        /// The file.
        file: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// RocksDB failed, or a row is not one.
    #[error("the rows: {0}")]
    Rows(String),
    /// The log is closing.
    #[error("the log is closing")]
    Closed,
}

impl From<rocksdb::Error> for ReadError {
    fn from(error: rocksdb::Error) -> ReadError {
        ReadError::Rows(error.into_string())
    }
}
