//! A folder of rows that are derived from a log: what shows that it is this log's, and of this version.
//!
//! ```text
//! 'm'    layout version 2 · partitions of the log 2, little-endian
//! ```
//!
//! The first row of all says what made the others, so that there is no other where it is missing. Behind it the offset
//! rows prove that what was applied is what the log has.

use std::path::{Path, PathBuf};

use rocksdb::{DB, Error, Options, WriteBatch};
use tlog::Log;

use crate::database::{Database, WriteError};
use crate::offsets::{Consumer, OffsetError, OffsetRow};

/// The first row's key.
pub(crate) const META: [u8; 1] = [b'm'];

/// Why a folder of what is derived from the log can't be used.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// The rows were made of another log, or the log has lost what they were made of.
    #[error("{dir} is of another log: {reason}; if the log is right, delete the folder, it is rebuilt from the log")]
    OtherLog {
        /// The folder.
        dir: PathBuf,
        /// What does not fit.
        reason: String,
    },
    /// The folder was made by another version.
    #[error("{dir} has layout {found}, this version has {known}: delete the folder, it is rebuilt from the log")]
    Layout {
        /// The folder.
        dir: PathBuf,
        /// The layout's version in the folder.
        found: u16,
        /// The version that this code knows.
        known: u16,
    },
    /// What made the rows can't be told.
    #[error("{dir}: its first row is malformed; delete the folder, it is rebuilt from the log")]
    Malformed {
        /// The folder.
        dir: PathBuf,
    },
    /// RocksDB could not open the folder.
    #[error("{dir}: {source}; if it can't be repaired, delete the folder, it is rebuilt from the log")]
    Open {
        /// The folder.
        dir: PathBuf,
        /// What RocksDB says.
        source: Error,
    },
}

/// The first row of rows in this layout, of a log of so many partitions.
pub(crate) fn meta(version: u16, partitions: u16) -> [u8; 4] {
    let ([a, b], [c, d]) = (version.to_le_bytes(), partitions.to_le_bytes());
    [a, b, c, d]
}

/// Opens the database in a folder.
pub(crate) fn open(dir: &Path, options: Result<Options, Error>) -> Result<Database, FolderError> {
    let db = options.and_then(|options| DB::open(&options, dir)).map_err(|source| failed(dir, source))?;
    Ok(Database::new(db))
}

/// That RocksDB could not open a folder.
pub(crate) fn failed(dir: &Path, source: Error) -> FolderError {
    FolderError::Open { dir: dir.to_owned(), source }
}

/// Checks that the rows in a folder are in this layout, and of a log of so many partitions. Says so where there are
/// no rows yet.
pub(crate) fn check_meta<E>(db: &Database, dir: &Path, version: u16, partitions: u16) -> Result<(), E>
where
    E: From<FolderError> + From<Error> + From<WriteError>,
{
    let dir = || dir.to_owned();
    let Some(row) = db.get_pinned(META)? else {
        let mut batch = WriteBatch::default();
        batch.put(META, meta(version, partitions));
        return Ok(db.write(batch)?);
    };
    let [a, b, c, d] = (&*row).try_into().map_err(|_| FolderError::Malformed { dir: dir() })?;
    let (found, of) = (u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d]));
    if found != version {
        return Err(FolderError::Layout { dir: dir(), found, known: version }.into());
    }
    if of != partitions {
        let reason = format!("it has {of} partitions, the log has {partitions}");
        return Err(FolderError::OtherLog { dir: dir(), reason }.into());
    }
    Ok(())
}

/// How far a consumer has come in a partition, which must be of this log.
pub(crate) fn offset<E>(db: &DB, dir: &Path, log: &Log, consumer: Consumer, partition: u16) -> Result<OffsetRow, E>
where
    E: From<FolderError> + From<OffsetError>,
{
    let offset = OffsetRow::read(db, consumer, partition)?.unwrap_or(OffsetRow::START);
    offset.verify(log, partition).map_err(|error| match error {
        OffsetError::PastEnd { .. } | OffsetError::OtherFrame { .. } => {
            E::from(FolderError::OtherLog { dir: dir.to_owned(), reason: error.to_string() })
        }
        error => error.into(),
    })?;
    Ok(offset)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_meta() {
        assert_eq!(META, *b"m");
        assert_eq!(meta(1, 0x0104), [1, 0, 4, 1]);
    }
}
