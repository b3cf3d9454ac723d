//! A folder of what is derived, over crashes: the rows of the log, the stores. RocksDB has its own files
//! and keeps its own promises; what a crash leaves of it is modelled by whole folders: as it is, as it
//! was at some earlier moment, or nothing at all.

use std::fs;
use std::path::{Path, PathBuf};

use tlog::storage::simulated::Rng;

/// Copies that are kept at once.
const MOST_COPIES: usize = 3;

/// What becomes of the folder at a crash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// All that was written.
    Kept,
    /// What was there at an earlier moment.
    Older,
    Lost,
}

/// A folder, and copies of it from earlier.
#[derive(Debug)]
pub struct Folder {
    dir: PathBuf,
    copies: Vec<PathBuf>,
    made: u64,
}

impl Folder {
    pub fn new(dir: PathBuf) -> Folder {
        Folder { dir, copies: Vec::new(), made: 0 }
    }

    /// Keeps what a crash right now would leave: where to copy it to. What was copied first is given up.
    pub fn next_copy(&mut self) -> &Path {
        self.made += 1;
        if self.copies.len() == MOST_COPIES {
            fs::remove_dir_all(self.copies.remove(0)).unwrap();
        }
        self.copies.push(self.beside(&self.made.to_string()));
        &self.copies[self.copies.len() - 1]
    }

    /// Decides what a crash leaves. Nobody has the folder open.
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

    /// Puts the folder aside, to be restored as often as it takes. Nobody has it open.
    pub fn save(&self) {
        copy_dir(&self.dir, &self.beside("saved"));
    }

    pub fn restore(&self) {
        self.remove();
        copy_dir(&self.beside("saved"), &self.dir);
    }

    fn beside(&self, what: &str) -> PathBuf {
        let name = self.dir.file_name().unwrap().to_string_lossy();
        self.dir.with_file_name(format!("{name}-{what}"))
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
