//! The data folder: its lock, and the file that says what it is.
//!
//! ```text
//! DIR/LOCK         held while a process has the folder
//! DIR/tlog.json    {"format":1,"partitions":4}
//! DIR/partitions/  the log: see [`crate::segment`]
//! DIR/rows/        derived: see [`crate::rows`]
//! DIR/repair.json  while a repair is being finished: see [`crate::repair`]
//! DIR/aside/1/     what the first repair has moved aside, by the paths that it had
//! ```

use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use wire::limits::MAX_PARTITIONS;

use crate::error::OpenError;
use crate::options::Options;
use crate::segment::{base_of, partition_dir};
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

/// What is known of a data folder that is not being opened.
pub(crate) struct Described {
    pub(crate) partitions: u16,
    /// What is wrong with its description, where the folders of the partitions had to tell.
    pub(crate) fault: Option<String>,
}

/// The file that says what the folder is.
pub(crate) fn description_path(dir: &Path) -> PathBuf {
    dir.join("tlog.json")
}

/// The file that says which repair is to be finished.
pub(crate) fn repair_path(dir: &Path) -> PathBuf {
    dir.join("repair.json")
}

/// Refuses a folder whose repair was not finished.
pub(crate) fn refuse_unfinished(storage: &dyn Storage, dir: &Path) -> Result<(), OpenError> {
    match storage.open(&repair_path(dir)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(OpenError::Io { file: repair_path(dir), source }),
        Ok(_) => Err(OpenError::Unfinished { dir: dir.to_owned() }),
    }
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
    refuse_unfinished(storage, dir)?;
    let path = description_path(dir);
    let io = |source| OpenError::Io { file: path.clone(), source };
    let description = match storage.open(&path) {
        Ok(file) => {
            let description = read(&path, &*file)?;
            // Who wrote it may have ended before its sync.
            storage.sync_dir(dir).map_err(io)?;
            description
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let first = storage.list(&partition_dir(dir, 0)).unwrap_or_default();
            if first.iter().any(|path| base_of(path).is_some()) {
                let reason = "it is missing, and there are segments: tlog repair makes it again".to_owned();
                return Err(OpenError::Description { file: path, reason });
            }
            let description = Description { format: FORMAT, partitions: options.partitions };
            for partition in 0..description.partitions {
                storage.create_dir(&partition_dir(dir, partition)).map_err(io)?;
            }
            // A folder that was there already may be of a process that ended before its sync.
            storage.sync_dir(&dir.join("partitions")).map_err(io)?;
            // It comes last: a folder that has it is whole.
            write(storage, dir, &path, &self::description(description.partitions)).map_err(io)?;
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
    match describe(storage, dir) {
        Err(OpenError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        described => described.map(|described| Some(described.partitions)),
    }
}

/// How many partitions a folder has that is not being opened: as its description says, or else as its
/// segments do.
pub(crate) fn describe(storage: &dyn Storage, dir: &Path) -> Result<Described, OpenError> {
    let path = description_path(dir);
    let io = |source| OpenError::Io { file: path.clone(), source };
    let found = by_folders(storage, dir)?;
    let fault = match storage.open(&path) {
        Ok(file) => match read(&path, &*file) {
            Ok(Description { partitions, .. }) if found.is_none_or(|found| found <= partitions) => {
                return Ok(Described { partitions, fault: None });
            }
            Ok(Description { partitions, .. }) => OpenError::Description {
                file: path.clone(),
                reason: format!("it says {partitions} partitions, and there are segments of more"),
            },
            Err(error @ OpenError::Description { .. }) => error,
            Err(error) => return Err(error),
        },
        Err(error) => io(error),
    };
    match found {
        Some(partitions) => Ok(Described { partitions, fault: Some(fault.to_string()) }),
        None => Err(fault),
    }
}

/// How many partitions a folder has by the segments that are there; nothing where there is none.
fn by_folders(storage: &dyn Storage, dir: &Path) -> Result<Option<u16>, OpenError> {
    let mut last = None;
    for partition in 0..MAX_PARTITIONS {
        let dir = partition_dir(dir, partition);
        match storage.list(&dir) {
            Ok(files) if files.iter().any(|path| base_of(path).is_some()) => last = Some(partition),
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(OpenError::Io { file: dir, source: error });
            }
            _ => {}
        }
    }
    Ok(last.map(|last| (last + 1).next_power_of_two()))
}

/// The text of a description.
pub(crate) fn description(partitions: u16) -> String {
    serde_json::json!(Description { format: FORMAT, partitions }).to_string()
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

/// Writes a file of the data folder, whole or not at all.
pub(crate) fn write(storage: &dyn Storage, dir: &Path, path: &Path, text: &str) -> io::Result<()> {
    let unfinished = path.with_extension("json.tmp");
    match storage.remove(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = storage.create(&unfinished)?;
    file.write_at(&[IoSlice::new(text.as_bytes())], 0)?;
    file.sync_data()?;
    storage.rename(&unfinished, path)?;
    storage.sync_dir(dir)
}
