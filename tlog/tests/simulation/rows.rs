//! The folder of the rows over crashes. RocksDB has its own files and keeps its own promises; what a
//! crash leaves of it is modelled by whole folders: as it is, as it was at some earlier moment, or
//! nothing at all.

use std::fs;
use std::path::{Path, PathBuf};

use tlog::Driver;
use tlog::storage::simulated::Rng;

/// Copies of the rows that are kept at once.
const MOST_COPIES: usize = 3;

/// What becomes of the rows at a crash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// All that was written.
    Kept,
    /// What was there at an earlier moment.
    Older,
    Lost,
}

/// The rows of a data folder, and copies of them from earlier.
#[derive(Debug)]
pub struct RowsFolder {
    dir: PathBuf,
    copies: Vec<PathBuf>,
    made: u64,
}

impl RowsFolder {
    pub fn new(data: &Path) -> RowsFolder {
        RowsFolder { dir: data.join("rows"), copies: Vec::new(), made: 0 }
    }

    fn next_copy(&mut self) -> PathBuf {
        self.made += 1;
        let copy = self.dir.with_file_name(format!("rows-{}", self.made));
        if self.copies.len() == MOST_COPIES {
            fs::remove_dir_all(self.copies.remove(0)).unwrap();
        }
        self.copies.push(copy.clone());
        copy
    }

    /// Keeps what a flush right now would leave.
    pub fn remember(&mut self, driver: &Driver) {
        let copy = self.next_copy();
        driver.copy_rows(&copy).unwrap();
    }

    /// Decides what a crash leaves. The log is closed.
    pub fn crash(&mut self, rng: &mut Rng) -> Fate {
        match rng.below(4) {
            0 => {
                self.remove();
                Fate::Lost
            }
            1 if !self.copies.is_empty() => {
                self.remove();
                copy_dir(&self.copies[rng.index(self.copies.len())], &self.dir);
                Fate::Older
            }
            _ => Fate::Kept,
        }
    }

    /// Puts the folder aside, to be restored as often as it takes. The log is closed.
    pub fn save(&self) {
        copy_dir(&self.dir, &self.saved());
    }

    pub fn restore(&self) {
        self.remove();
        copy_dir(&self.saved(), &self.dir);
    }

    fn saved(&self) -> PathBuf {
        self.dir.with_file_name("rows-saved")
    }

    fn remove(&self) {
        if self.dir.exists() {
            fs::remove_dir_all(&self.dir).unwrap();
        }
    }
}

fn copy_dir(from: &Path, to: &Path) {
    if !from.exists() {
        return;
    }
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}
