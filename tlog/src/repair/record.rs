//! `DIR/repair.json`: what a repair has yet to do. Once it is there the repair is decided, and until all of
//! it is done the folder is not opened. Then it is kept beside what was moved, and says what was done.
//!
//! ```text
//! {"number": 1,
//!  "folders": [{"from": "rows", "to": "aside/1/rows"}],
//!  "aside": [{"from": "partitions/000/00000000000000000000.log", "to": "aside/1/partitions/000/0….log"}],
//!  "into_place": [{"from": "partitions/000/repair-0….log.tmp", "to": "partitions/000/0….log"}],
//!  "lost": ["orders (namespace 1), offsets 3 to 5"]}
//! ```
//!
//! All paths are in the data folder. Every step can be done twice: what is aside already is not moved
//! again, and nothing comes into place before all that it replaces is aside and durably so.

use std::collections::BTreeSet;
use std::io;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{RepairError, Repaired};
use crate::check::survey::io_error;
use crate::error::OpenError;
use crate::folder;
use crate::rows;
use crate::storage::Storage;

/// Most repairs whose leftovers are kept apart.
const MAX_NUMBER: u64 = 1 << 20;

/// Longest record that is read, bytes.
const MAX_RECORD_BYTES: u64 = 64 << 20;

/// A file or folder that gets another path.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Move {
    from: String,
    to: String,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    number: u64,
    pub(crate) folders: Vec<Move>,
    aside: Vec<Move>,
    into_place: Vec<Move>,
    lost: Vec<String>,
}

pub(crate) fn exists(storage: &dyn Storage, path: &Path) -> Result<bool, RepairError> {
    match storage.open(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(io_error(path, source).into()),
    }
}

fn aside(dir: &Path, number: u64) -> PathBuf {
    dir.join("aside").join(number.to_string())
}

fn kept(dir: &Path, number: u64) -> PathBuf {
    aside(dir, number).join("repair.json")
}

/// The number of the next repair of a folder.
pub(crate) fn next_number(storage: &dyn Storage, dir: &Path) -> Result<u64, RepairError> {
    for number in 1..MAX_NUMBER {
        if !exists(storage, &kept(dir, number))? {
            return Ok(number);
        }
    }
    Err(RepairError::Record { file: dir.join("aside"), reason: "it is full".to_owned() })
}

impl Move {
    pub(crate) fn aside(number: u64, path: &str) -> Move {
        Move { from: path.to_owned(), to: format!("aside/{number}/{path}") }
    }
}

impl Record {
    pub(crate) fn new(number: u64, lost: Vec<String>) -> Record {
        Record { number, folders: Vec::new(), aside: Vec::new(), into_place: Vec::new(), lost }
    }

    /// A file takes the place of another, if that exists.
    pub(crate) fn replace(&mut self, path: String, by: String, exists: bool) {
        if exists {
            self.aside.push(Move::aside(self.number, &path));
        }
        self.into_place.push(Move { from: by, to: path });
    }

    /// Removes what was written, where it can't come into place.
    pub(crate) fn discard(&self, storage: &dyn Storage, dir: &Path) {
        for step in &self.into_place {
            // Where this fails too, the next start removes it.
            let _ = storage.remove(&dir.join(&step.from));
        }
    }

    /// Writes the record: from here on the repair is decided.
    pub(crate) fn write(&self, storage: &dyn Storage, dir: &Path) -> Result<(), RepairError> {
        self.make_folders(storage, dir)?;
        let path = folder::repair_path(dir);
        let text = serde_json::json!(self).to_string();
        Ok(folder::write(storage, dir, &path, &text).map_err(|source| io_error(&path, source))?)
    }

    pub(crate) fn read(storage: &dyn Storage, dir: &Path) -> Result<Record, RepairError> {
        let path = folder::repair_path(dir);
        let io = |source| RepairError::from(io_error(&path, source));
        let wrong = |reason: String| RepairError::Record { file: path.clone(), reason };
        let file = storage.open(&path).map_err(io)?;
        let mut text = vec![0; file.len().map_err(io)?.min(MAX_RECORD_BYTES) as usize];
        file.read_at(&mut text, 0).map_err(io)?;
        let record: Record = serde_json::from_slice(&text).map_err(|error| wrong(error.to_string()))?;
        let moves = || record.folders.iter().chain(&record.aside).chain(&record.into_place);
        let outside = moves().flat_map(|step| [&step.from, &step.to]).find(|path| !is_inside(path));
        match outside {
            Some(outside) => Err(wrong(format!("{outside} is not in the data folder"))),
            None => Ok(record),
        }
    }

    fn make_folders(&self, storage: &dyn Storage, dir: &Path) -> Result<(), RepairError> {
        let parents = self.aside.iter().filter_map(|step| dir.join(&step.to).parent().map(Path::to_owned));
        let folders: BTreeSet<PathBuf> = parents.chain([aside(dir, self.number)]).collect();
        for folder in folders {
            storage.create_dir(&folder).map_err(|source| io_error(&folder, source))?;
        }
        Ok(())
    }

    /// Does what the record says, as far as it is not yet done.
    pub(crate) fn carry_out(&self, storage: &dyn Storage, dir: &Path) -> Result<(), RepairError> {
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source: io::Error| io_error(&path, source)
        };
        self.make_folders(storage, dir)?;
        for Move { from, to } in &self.folders {
            rows::move_folder(&dir.join(from), &dir.join(to)).map_err(io(&dir.join(from)))?;
        }
        for Move { from, to } in &self.aside {
            let (from, to) = (dir.join(from), dir.join(to));
            if !exists(storage, &to)? {
                storage.rename(&from, &to).map_err(io(&from))?;
            }
        }
        sync(storage, dir, &self.aside)?;
        for Move { from, to } in &self.into_place {
            let (from, to) = (dir.join(from), dir.join(to));
            if exists(storage, &from)? {
                storage.rename(&from, &to).map_err(io(&to))?;
            } else if !exists(storage, &to)? {
                return Err(io(&to)(io::ErrorKind::NotFound.into()).into());
            }
        }
        sync(storage, dir, &self.into_place)?;
        let (done, kept) = (folder::repair_path(dir), kept(dir, self.number));
        storage.rename(&done, &kept).map_err(io(&done))?;
        for folder in [aside(dir, self.number), dir.to_owned()] {
            storage.sync_dir(&folder).map_err(io(&folder))?;
        }
        Ok(())
    }

    pub(crate) fn repaired(&self, dir: &Path) -> Repaired {
        let moved = self.folders.iter().chain(&self.aside).map(|step| step.from.clone());
        Repaired { aside: aside(dir, self.number), moved: moved.collect(), lost: self.lost.clone() }
    }
}

fn is_inside(path: &str) -> bool {
    Path::new(path).components().all(|part| matches!(part, Component::Normal(_)))
}

/// Makes the new paths durable.
fn sync(storage: &dyn Storage, dir: &Path, moves: &[Move]) -> Result<(), OpenError> {
    let paths = moves.iter().flat_map(|step| [&step.to, &step.from]);
    let folders: BTreeSet<PathBuf> = paths.filter_map(|path| dir.join(path).parent().map(Path::to_owned)).collect();
    for folder in folders {
        storage.sync_dir(&folder).map_err(|source| io_error(&folder, source))?;
    }
    Ok(())
}
