//! The data folder: its lock, and the file that says what it is.
//!
//! ```text
//! DIR/LOCK         held while a process has the folder
//! DIR/tlog.json    {"format":1,"partitions":4}
//! DIR/partitions/  the log: see [`crate::segment`]
//! DIR/rows/        derived: see [`crate::rows`]
//! ```

use std::io::{self, IoSlice};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::OpenError;
use crate::options::Options;
use crate::segment::partition_dir;
use crate::storage::{File, Lock, Storage};

/// The layout that this version reads and writes.
const FORMAT: u32 = 1;

/// Longest description that is read, bytes.
const MAX_DESCRIPTION_BYTES: u64 = 4096;

/// A field that this version does not know may change what the others mean, so it is refused.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Description {
    format: u32,
    partitions: u16,
}

/// Takes the lock of a data folder, making the folder where there is none.
pub(crate) fn lock(storage: &dyn Storage, dir: &Path) -> Result<Box<dyn Lock>, OpenError> {
    storage.create_dir(dir).map_err(|source| OpenError::Io { file: dir.to_owned(), source })?;
    let path = dir.join("LOCK");
    storage.lock(&path).map_err(|source| match source.kind() {
        io::ErrorKind::WouldBlock => OpenError::Locked { dir: dir.to_owned() },
        _ => OpenError::Io { file: path, source },
    })
}

/// How many partitions a locked folder has. One that is new gets as many as the options say.
pub(crate) fn partitions(storage: &dyn Storage, dir: &Path, options: &Options) -> Result<u16, OpenError> {
    let path = dir.join("tlog.json");
    let io = |source| OpenError::Io { file: path.clone(), source };
    let description = match storage.open(&path) {
        Ok(file) => {
            let description = read(&path, &*file)?;
            // Who wrote it may have ended before its sync.
            storage.sync_dir(dir).map_err(io)?;
            description
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let description = Description { format: FORMAT, partitions: options.partitions };
            for partition in 0..description.partitions {
                storage.create_dir(&partition_dir(dir, partition)).map_err(io)?;
            }
            // A folder that was there already may be of a process that ended before its sync.
            storage.sync_dir(&dir.join("partitions")).map_err(io)?;
            // It comes last: a folder that has it is whole.
            write(storage, dir, &path, &description).map_err(io)?;
            description
        }
        Err(error) => return Err(io(error)),
    };
    Ok(description.partitions)
}

/// How many partitions a data folder has; nothing where it is still to be made.
///
/// # Errors
/// Where its description can't be read, or is not one.
pub fn partitions_of(storage: &dyn Storage, dir: &Path) -> Result<Option<u16>, OpenError> {
    match read_partitions(storage, dir) {
        Err(OpenError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        partitions => partitions.map(Some),
    }
}

/// How many partitions a folder has that is not being opened.
pub(crate) fn read_partitions(storage: &dyn Storage, dir: &Path) -> Result<u16, OpenError> {
    let path = dir.join("tlog.json");
    let io = |source| OpenError::Io { file: path.clone(), source };
    let file = storage.open(&path).map_err(io)?;
    Ok(read(&path, &*file)?.partitions)
}

fn read(path: &Path, file: &dyn File) -> Result<Description, OpenError> {
    let io = |source| OpenError::Io { file: path.to_owned(), source };
    let mut text = vec![0; file.len().map_err(io)?.min(MAX_DESCRIPTION_BYTES) as usize];
    file.read_at(&mut text, 0).map_err(io)?;
    let wrong = |reason: String| OpenError::Description { file: path.to_owned(), reason };
    let value: serde_json::Value = serde_json::from_slice(&text).map_err(|error| wrong(error.to_string()))?;
    // A newer format may have other fields, so the format is read first.
    let found = value.get("format").and_then(serde_json::Value::as_u64).unwrap_or(0) as u32;
    if found != FORMAT {
        return Err(OpenError::Format { file: path.to_owned(), found, known: FORMAT });
    }
    let description: Description = serde_json::from_value(value).map_err(|error| wrong(error.to_string()))?;
    let options = Options { partitions: description.partitions, ..Options::default() };
    options.check().map_err(|error| wrong(error.to_string()))?;
    Ok(description)
}

fn write(storage: &dyn Storage, dir: &Path, path: &Path, description: &Description) -> io::Result<()> {
    let unfinished = path.with_extension("json.tmp");
    match storage.remove(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = storage.create(&unfinished)?;
    file.write_at(&[IoSlice::new(serde_json::json!(description).to_string().as_bytes())], 0)?;
    file.sync_data()?;
    storage.rename(&unfinished, path)?;
    storage.sync_dir(dir)
}
