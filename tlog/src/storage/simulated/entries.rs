//! The folders of the simulated disk: which name stands for which file, now and after a power cut.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::rng::Rng;

pub(super) type FileId = u64;

/// What has happened in a folder since it was synced.
#[derive(Debug, Clone)]
enum Change {
    Made(PathBuf, FileId),
    Renamed(PathBuf, PathBuf, FileId),
    Removed(PathBuf),
}

impl Change {
    fn folder(&self) -> Option<&Path> {
        match self {
            Change::Made(path, _) | Change::Renamed(path, ..) | Change::Removed(path) => path.parent(),
        }
    }

    fn apply(self, files: &mut BTreeMap<PathBuf, FileId>) {
        match self {
            Change::Made(path, id) => {
                files.insert(path, id);
            }
            Change::Renamed(from, to, id) => {
                if files.get(&from) == Some(&id) {
                    files.remove(&from);
                }
                files.insert(to, id);
            }
            Change::Removed(path) => {
                files.remove(&path);
            }
        }
    }
}

#[derive(Debug, Clone, Default)]
pub(super) struct Entries {
    folders: BTreeSet<PathBuf>,
    files: BTreeMap<PathBuf, FileId>,
    durable: BTreeMap<PathBuf, FileId>,
    pending: Vec<Change>,
}

impl Entries {
    pub(super) fn make_folder(&mut self, dir: &Path) {
        self.folders.extend(dir.ancestors().map(Path::to_owned));
    }

    pub(super) fn has_folder(&self, dir: &Path) -> bool {
        self.folders.contains(dir)
    }

    pub(super) fn get(&self, path: &Path) -> Option<FileId> {
        self.files.get(path).copied()
    }

    /// The file that a name stands for after a power cut that loses whatever it can.
    pub(super) fn get_durable(&self, path: &Path) -> Option<FileId> {
        self.durable.get(path).copied()
    }

    pub(super) fn list(&self, dir: &Path) -> Vec<PathBuf> {
        self.files.keys().filter(|path| path.parent() == Some(dir)).cloned().collect()
    }

    pub(super) fn all(&self) -> impl Iterator<Item = (&PathBuf, FileId)> {
        self.files.iter().map(|(path, id)| (path, *id))
    }

    fn change(&mut self, change: Change) {
        change.clone().apply(&mut self.files);
        self.pending.push(change);
    }

    pub(super) fn make(&mut self, path: &Path, id: FileId) {
        self.change(Change::Made(path.to_owned(), id));
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path, id: FileId) {
        self.change(Change::Renamed(from.to_owned(), to.to_owned(), id));
    }

    pub(super) fn remove(&mut self, path: &Path) {
        self.change(Change::Removed(path.to_owned()));
    }

    pub(super) fn sync(&mut self, dir: &Path) {
        let (synced, rest) = std::mem::take(&mut self.pending).into_iter().partition(|c| c.folder() == Some(dir));
        self.pending = rest;
        let synced: Vec<Change> = synced;
        synced.into_iter().for_each(|change| change.apply(&mut self.durable));
    }

    /// Keeps each change that was not synced by a chance of `percent`. Returns how many were lost.
    pub(super) fn power_cut(&mut self, rng: &mut Rng, percent: u64) -> u64 {
        let mut lost = 0;
        for change in std::mem::take(&mut self.pending) {
            if rng.chance(percent, 100) {
                change.apply(&mut self.durable);
            } else {
                lost += 1;
            }
        }
        self.files.clone_from(&self.durable);
        lost
    }
}
