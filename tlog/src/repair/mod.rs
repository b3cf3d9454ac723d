//! Repair: a data folder that is damaged becomes whole again. Nothing is destroyed: what is replaced is
//! moved aside. What is derived is made again; what is lost of the log is marked by losses in its place,
//! so that readers are told, and every other namespace is byte for byte what it was.
//!
//! ```text
//! look ─▶ plan ─▶ new files under other names, synced ─▶ read again: do they hold?
//!                                                            │ DIR/repair.json: from here on it is done
//!                                                            ▼
//!                     old files to aside/N ─▶ new files into place ─▶ repair.json to aside/N
//! ```
//!
//! | module | what it knows |
//! |---|---|
//! | `write` | the new files of a segment |
//! | `record` | `repair.json`, and carrying out what it says |

mod record;
mod write;

use std::io;
use std::path::{Path, PathBuf};

use rustc_hash::FxHashMap;
use wire::{Loss, Position};

use self::record::{Move, Record};
use self::write::{NewSegment, unfinished};
use crate::check::survey::io_error;
use crate::check::{FaultKind, Folder, Found, Lost, Report, Witness, examine};
use crate::error::OpenError;
use crate::folder;
use crate::segment::{index_path, log_path, sealed};
use crate::storage::Storage;

/// Why a folder can't be repaired. Nothing was changed, but where the message says that a repair is to be
/// finished.
#[derive(Debug, thiserror::Error)]
pub enum RepairError {
    /// The folder can't be looked at, or a file can't be read or written.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// What is lost can't be marked where it stood.
    #[error("{dir}: {reason}")]
    Unmarkable {
        /// The partition's folder.
        dir: PathBuf,
        /// Why not.
        reason: String,
    },
    /// What would be put in place is not whole itself.
    #[error("{file} would not be whole at position {position} after the repair: {reason}")]
    NotWhole {
        /// The segment.
        file: PathBuf,
        /// Where it would not be.
        position: Position,
        /// What would be wrong.
        reason: String,
    },
    /// The record of a repair is not one.
    #[error("{file} is not the record of a repair: {reason}")]
    Record {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// What is to be done to a folder. Until it is carried out nothing is changed, and nobody else has the folder.
pub struct Plan<'a> {
    folder: Folder<'a>,
    report: Report,
    segments: Vec<Segment>,
    /// Folders of derived state that are moved aside, to be made again.
    folders: Vec<String>,
    lost: Vec<Lost>,
    number: u64,
}

/// A segment that gets new files.
struct Segment {
    partition: u16,
    dir: PathBuf,
    base: Position,
    new: New,
}

enum New {
    /// Its index only.
    Index { end: Position },
    /// All of it.
    Whole(NewSegment),
}

/// What a repair has done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repaired {
    /// The folder in which what was replaced is now.
    pub aside: PathBuf,
    /// What was moved there, by the paths that it had in the data folder.
    pub moved: Vec<String>,
    /// What is marked as lost.
    pub lost: Vec<String>,
}

/// Finishes a repair that was begun, if one was.
///
/// # Errors
/// Where it can't be; it can be tried again.
pub fn finish(storage: &dyn Storage, dir: &Path) -> Result<Option<Repaired>, RepairError> {
    if !is_unfinished(storage, dir)? {
        return Ok(None);
    }
    let _lock = folder::lock(storage, dir)?;
    let record = Record::read(storage, dir)?;
    record.carry_out(storage, dir)?;
    Ok(Some(record.repaired(dir)))
}

/// Whether a repair of the folder was begun and not finished.
///
/// # Errors
/// Where that can't be told.
pub fn is_unfinished(storage: &dyn Storage, dir: &Path) -> Result<bool, RepairError> {
    match folder::refuse_unfinished(storage, dir) {
        Ok(()) => Ok(false),
        Err(OpenError::Unfinished { .. }) => Ok(true),
        Err(error) => Err(error.into()),
    }
}

impl<'a> Plan<'a> {
    /// Looks at a folder as [`crate::check::check_all`] does, and plans what there is to do.
    ///
    /// # Errors
    /// Where the folder can't be looked at, or what is lost can't be marked.
    pub fn make(
        storage: &'a dyn Storage,
        dir: &'a Path,
        scratch: Option<&Path>,
        witness: Witness<'_>,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Plan<'a>, RepairError> {
        let mut partitions = Vec::new();
        let (folder, report) = examine(storage, dir, scratch, witness, progress, &mut |found| partitions.push(found))?;
        let number = record::next_number(storage, dir)?;
        let (segments, folders, lost) = (Vec::new(), Vec::new(), Vec::new());
        let mut plan = Plan { folder, report, segments, folders, lost, number };
        for found in partitions {
            plan.partition(found)?;
        }
        let rows_are_wrong = plan.report.derived_faults.iter().any(|fault| fault.kind == FaultKind::Rows);
        if plan.loses() || rows_are_wrong {
            plan.set_aside("rows");
        }
        Ok(plan)
    }

    /// What the look has found.
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// Whether something of the log is lost, so that whatever was made of it must be made again.
    pub fn loses(&self) -> bool {
        !self.report.faults.is_empty()
    }

    /// Moves a folder of derived state aside, one in the data folder, if it is there.
    pub fn set_aside(&mut self, name: &str) {
        if self.folder.dir.join(name).exists() {
            self.folders.push(name.to_owned());
        }
    }

    /// What will be marked as lost.
    pub fn lost(&self) -> &[Lost] {
        &self.lost
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.segments.is_empty() && self.folders.is_empty() && self.folder.description_fault.is_none()
    }

    /// What will be replaced, by paths in the data folder.
    pub fn replaced(&self) -> Vec<String> {
        let description = self.folder.description_fault.iter().map(|_| folder::description_path(self.folder.dir));
        let segments = self.segments.iter().map(|segment| match &segment.new {
            New::Index { .. } => index_path(&segment.dir, segment.base),
            New::Whole(_) => log_path(&segment.dir, segment.base),
        });
        let paths = description.chain(segments).map(|path| self.relative(&path));
        paths.chain(self.folders.iter().cloned()).collect()
    }

    fn relative(&self, path: &Path) -> String {
        path.strip_prefix(self.folder.dir).unwrap_or(path).display().to_string()
    }

    fn partition(&mut self, found: Found) -> Result<(), RepairError> {
        self.lost.extend((0..found.survey.holes.len()).flat_map(|hole| found.lost(hole)));
        let Found { partition, dir, survey, losses, .. } = found;
        let unmarkable = |reason: String| RepairError::Unmarkable { dir: dir.clone(), reason };
        let mut losses = losses.map_err(|error| unmarkable(error.to_string()))?.into_iter();
        let mut by_segment: FxHashMap<usize, Vec<Loss>> = FxHashMap::default();
        for hole in &survey.holes {
            by_segment.entry(hole.segment).or_default().extend(losses.next().into_iter().flatten());
        }
        for (at, segment) in survey.segments.into_iter().enumerate() {
            let losses = by_segment.remove(&at).unwrap_or_default();
            let base = segment.base;
            let new = if !losses.is_empty() || (!segment.header_is_right && segment.file.is_some()) {
                if segment.end - base > u64::from(u32::MAX) {
                    let reason = format!("the segment at position {base} would be larger than a segment may be");
                    return Err(unmarkable(reason));
                }
                New::Whole(NewSegment { file: segment.file, base, end: segment.end, is_last: segment.is_last, losses })
            } else if segment.index_fault.is_some() {
                New::Index { end: segment.end }
            } else {
                continue;
            };
            self.segments.push(Segment { partition, dir: dir.clone(), base, new });
        }
        Ok(())
    }

    /// Does it.
    ///
    /// # Errors
    /// Where a file can't be written, or what was written does not hold: then nothing is changed.
    pub fn carry_out(mut self) -> Result<Repaired, RepairError> {
        let (storage, dir) = (self.folder.storage, self.folder.dir);
        let mut record = Record::new(self.number, self.lost.iter().map(ToString::to_string).collect());
        if let Err(error) = self.write(&mut record).and_then(|replaced| self.verify(&replaced)) {
            record.discard(storage, dir);
            return Err(error);
        }
        // From here on nobody reads the rows that may be moved.
        self.folder.rows = None;
        record.write(storage, dir)?;
        record.carry_out(storage, dir)?;
        Ok(record.repaired(dir))
    }

    /// Writes the new files, and on record what is to become of them. Says which take the place of which segments.
    fn write(&self, record: &mut Record) -> Result<Vec<FxHashMap<Position, PathBuf>>, RepairError> {
        let (storage, dir) = (self.folder.storage, self.folder.dir);
        let mut replaced = vec![FxHashMap::default(); usize::from(self.folder.partitions)];
        for segment in &self.segments {
            let io = |path: &Path| {
                let path = path.to_owned();
                move |source: io::Error| io_error(&path, source)
            };
            let (log, index) = (log_path(&segment.dir, segment.base), index_path(&segment.dir, segment.base));
            storage.create_dir(&segment.dir).map_err(io(&segment.dir))?;
            let indexed = match &segment.new {
                New::Index { end } => {
                    let file = sealed::open_file(storage, &segment.dir, segment.base).map_err(OpenError::from)?;
                    Some(sealed::index_again(&file, *end).map_err(OpenError::from)?)
                }
                New::Whole(new) => {
                    record.replace(self.relative(&log), self.relative(&unfinished(&log)), self.exists(&log)?);
                    let whole = new.write(storage, segment.partition, &unfinished(&log)).map_err(io(&log))?;
                    replaced[usize::from(segment.partition)].insert(segment.base, unfinished(&log));
                    (!new.is_last).then_some(whole)
                }
            };
            if let Some(indexed) = indexed {
                record.replace(self.relative(&index), self.relative(&unfinished(&index)), self.exists(&index)?);
                write::index(storage, &indexed, &unfinished(&index)).map_err(io(&index))?;
            }
            storage.sync_dir(&segment.dir).map_err(io(&segment.dir))?;
        }
        if self.folder.description_fault.is_some() {
            let path = folder::description_path(dir);
            record.replace(self.relative(&path), self.relative(&unfinished(&path)), self.exists(&path)?);
            let text = folder::description(self.folder.partitions);
            write::text(storage, &unfinished(&path), &text).map_err(|source| io_error(&path, source))?;
            storage.sync_dir(dir).map_err(|source| io_error(dir, source))?;
        }
        record.folders.extend(self.folders.iter().map(|name| Move::aside(self.number, name)));
        Ok(replaced)
    }

    fn exists(&self, path: &Path) -> Result<bool, RepairError> {
        record::exists(self.folder.storage, path)
    }

    /// Reads the partitions as they would be: there must be nothing left to repair.
    fn verify(&self, replaced: &[FxHashMap<Position, PathBuf>]) -> Result<(), RepairError> {
        for (partition, replaced) in replaced.iter().enumerate().filter(|(_, replaced)| !replaced.is_empty()) {
            let partition = partition as u16;
            let mut report = Report::default();
            let Found { survey, .. } =
                self.folder.survey(partition, replaced, &mut report, &mut None, &mut |_, _| {}, &mut |_| {})?;
            let wrong_header = survey.segments.iter().find(|segment| !segment.header_is_right);
            let wrong = survey.holes.first().map(|hole| (hole.segment, hole.from, hole.reason.clone()));
            if let Some((segment, position, reason)) = wrong {
                return Err(RepairError::NotWhole { file: survey.segments[segment].path.clone(), position, reason });
            }
            if let Some(segment) = wrong_header {
                let reason = "its header is not its own".to_owned();
                return Err(RepairError::NotWhole { file: segment.path.clone(), position: segment.base, reason });
            }
            let end = self.report.partitions.get(usize::from(partition)).map_or(0, |whole| whole.end);
            if survey.end != end {
                let (file, reason) = (self.folder.dir.to_owned(), format!("it would end at {}", survey.end));
                return Err(RepairError::NotWhole { file, position: end, reason });
            }
        }
        Ok(())
    }
}
