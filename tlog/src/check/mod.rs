//! The whole log, verified offline: every CRC, position, offset, id and chain, and everything that is
//! derived against it. Nothing is changed.
//!
//! | module | what it knows |
//! |---|---|
//! | `survey` | the segments of a partition, read over whatever is damaged |
//! | `ledger` | what the frames that are left amount to, and the gaps in it |
//! | `losses` | which records are lost where, as the losses that a repair puts there |
//! | `rows` | the rows against the frames |
//!
//! Memory grows with the namespaces, and with what is damaged; not with the log.

pub(crate) mod ledger;
pub(crate) mod losses;
mod report;
mod rows;
pub(crate) mod survey;

use std::path::{Path, PathBuf};

use rustc_hash::FxHashMap;
use wire::{Frame, Loss, NamespaceId, NamespaceName, Position};

use self::losses::{LossesError, RowsOf};
pub use self::report::{Fault, FaultKind, Lost, Report, Whole};
use self::rows::RowsCheck;
use self::survey::{Survey, Surveyor};
use crate::error::{OpenError, ReadError};
use crate::folder::{self, Described};
use crate::rows::Rows;
use crate::segment::{index_path, partition_dir};
use crate::storage::{Lock, Storage};

/// Who wants to see the frames of a check: the partition, and the frame. Each partition's come in their
/// order, up to where the first of them is missing.
pub type Witness<'a> = &'a mut dyn FnMut(u16, &Frame);

/// Verifies the log of a data folder that no process has open, but for its rows. `progress` is told the
/// bytes of each segment when it has been read.
///
/// # Errors
/// Where the folder is in use or is not a data folder. What is wrong inside is in the report.
pub fn check(storage: &dyn Storage, dir: &Path, mut progress: impl FnMut(u64)) -> Result<Report, OpenError> {
    check_all(storage, dir, None, &mut |_, _| {}, &mut progress)
}

/// How many partitions a data folder has.
///
/// # Errors
/// Where it is not one.
pub fn partitions(storage: &dyn Storage, dir: &Path) -> Result<u16, OpenError> {
    Ok(folder::describe(storage, dir)?.partitions)
}

/// Verifies the log of a data folder that no process has open. Its rows are held against those that
/// come of its frames, which are made in the folder `scratch`: it must be empty, and what is left in it is
/// the caller's to delete.
///
/// # Errors
/// Where the folder is in use or is not a data folder. What is wrong inside is in the report.
pub fn check_all(
    storage: &dyn Storage,
    dir: &Path,
    scratch: Option<&Path>,
    witness: Witness<'_>,
    progress: &mut dyn FnMut(u64),
) -> Result<Report, OpenError> {
    let (_folder, report) = examine(storage, dir, scratch, witness, progress, &mut drop)?;
    Ok(report)
}

/// Looks at all of a data folder, and gives what is found of each partition to `keep`.
pub(crate) fn examine<'a>(
    storage: &'a dyn Storage,
    dir: &'a Path,
    scratch: Option<&Path>,
    witness: Witness<'_>,
    progress: &mut dyn FnMut(u64),
    keep: &mut dyn FnMut(Found),
) -> Result<(Folder<'a>, Report), OpenError> {
    let folder = Folder::open(storage, dir)?;
    folder::refuse_unfinished(storage, dir)?;
    let mut report = Report::default();
    folder.report(&mut report);
    let mut rows = match (&folder.rows, scratch) {
        (Some(real), Some(scratch)) => Some(RowsCheck::new(real, scratch, folder.partitions)?),
        _ => None,
    };
    for partition in 0..folder.partitions {
        let found = folder.survey(partition, &FxHashMap::default(), &mut report, &mut rows, witness, progress)?;
        found.report(&mut report);
        if let Some(rows) = &mut rows {
            rows.close(&found.survey, partition)?;
        }
        keep(found);
    }
    if let Some(rows) = rows {
        rows.report(&mut report)?;
    }
    Ok((folder, report))
}

/// A data folder that is being looked at. Nobody else has it.
pub(crate) struct Folder<'a> {
    pub(crate) storage: &'a dyn Storage,
    pub(crate) dir: &'a Path,
    pub(crate) partitions: u16,
    /// What is wrong with its description.
    pub(crate) description_fault: Option<String>,
    pub(crate) rows: Option<Rows>,
    /// Why the rows can't be read.
    pub(crate) rows_fault: Option<String>,
    _lock: Box<dyn Lock>,
}

/// A partition, and what is lost of it.
pub(crate) struct Found {
    pub(crate) partition: u16,
    pub(crate) dir: PathBuf,
    pub(crate) survey: Survey,
    /// For each hole the losses that fill it.
    pub(crate) losses: Result<Vec<Vec<Loss>>, LossesError>,
    /// The names of the namespaces, where something is lost.
    names: FxHashMap<NamespaceId, NamespaceName>,
}

impl<'a> Folder<'a> {
    pub(crate) fn open(storage: &'a dyn Storage, dir: &'a Path) -> Result<Folder<'a>, OpenError> {
        let Described { partitions, fault } = folder::describe(storage, dir)?;
        let lock = folder::lock(storage, dir)?;
        // Of rows that can't all be read nothing is believed.
        let rows = Rows::open_to_read(&dir.join("rows"));
        let read =
            rows.and_then(|rows| rows.map(|rows| rows.verify().map(|()| rows)).transpose().map_err(OpenError::from));
        let (rows, rows_fault) = match read {
            Ok(rows) => (rows, None),
            Err(error) => (None, Some(error.to_string())),
        };
        Ok(Folder { storage, dir, partitions, description_fault: fault, rows, rows_fault, _lock: lock })
    }

    fn report(&self, report: &mut Report) {
        if let Some(reason) = &self.description_fault {
            let file = folder::description_path(self.dir);
            report.derived(Fault::derived(FaultKind::Description, file, 0, reason, "tlog repair"));
        }
        if let Some(reason) = &self.rows_fault {
            let file = self.dir.join("rows");
            report.derived(Fault::derived(FaultKind::Rows, file, 0, reason, "tlog repair and the next start"));
        }
    }

    /// Reads a partition, and learns what is lost of it.
    pub(crate) fn survey(
        &self,
        partition: u16,
        replaced: &FxHashMap<Position, PathBuf>,
        report: &mut Report,
        rows: &mut Option<RowsCheck<'_>>,
        witness: Witness<'_>,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Found, OpenError> {
        // A row that can't be read tells nothing; the check of the rows says so.
        let row = self.rows.as_ref().and_then(|rows| rows.partition(partition).ok()).flatten();
        let dir = partition_dir(self.dir, partition);
        let surveyor = Surveyor {
            storage: self.storage,
            dir: dir.clone(),
            partition,
            partitions: self.partitions,
            applied: row.as_ref().map_or(0, |row| row.applied),
            replaced,
        };
        let mut visit = |frame: &Frame, whole: bool| {
            report.count(frame);
            if whole {
                if let Some(rows) = rows {
                    rows.frame(partition, frame)?;
                }
                witness(partition, frame);
            }
            Ok(())
        };
        let mut survey = surveyor.run(&mut visit, progress)?;
        let of = self.rows.as_ref().zip(row);
        let of = of.map(|(rows, row)| RowsOf { rows, applied: row.applied, control: row.control });
        let losses = losses::losses(&mut survey, (partition, self.partitions), of);
        let names = if survey.holes.is_empty() {
            FxHashMap::default()
        } else {
            survey.ledger.names.iter().map(|(name, id)| (*id, name.clone())).collect()
        };
        Ok(Found { partition, dir, survey, losses, names })
    }
}

impl Found {
    /// The losses of a hole that say what is lost.
    pub(crate) fn lost(&self, hole: usize) -> Vec<Lost> {
        let named = |id: NamespaceId| self.names.get(&id).cloned();
        let losses = self.losses.as_ref().ok().and_then(|losses| losses.get(hole));
        let lost = losses.into_iter().flatten().filter(|loss| loss.count > 0);
        lost.map(|loss| Lost::new(self.partition, loss, named(loss.namespace))).collect()
    }

    fn report(&self, report: &mut Report) {
        let Survey { segments, holes, ledger, end, torn_bytes, unfinished } = &self.survey;
        report.segments += segments.iter().filter(|segment| segment.file.is_some()).count() as u64;
        report.namespaces += ledger.left.len() as u64 - 1;
        report.torn_bytes += torn_bytes;
        report.unfinished.extend(unfinished.iter().cloned());
        let intact = holes.first().map_or(*end, |hole| hole.from);
        report.partitions.push(Whole { intact, end: *end });
        report.name(self.partition, &ledger.names);
        for segment in segments {
            if !segment.header_is_right && segment.file.is_some() {
                let (path, reason) = (segment.path.clone(), "the segment's header is not its own");
                report.derived(Fault::derived(FaultKind::Header, path, segment.base, reason, "tlog repair"));
            }
            if let Some(reason) = &segment.index_fault {
                let path = index_path(&self.dir, segment.base);
                let by = "tlog repair, or when it is next opened";
                report.derived(Fault::derived(FaultKind::Index, path, segment.base, reason, by));
            }
        }
        for (at, hole) in holes.iter().enumerate() {
            let segment = &segments[hole.segment];
            let kind = if segment.file.is_some() { FaultKind::Frames } else { FaultKind::Segment };
            let file = if segment.file.is_some() { segment.path.clone() } else { self.dir.clone() };
            let mut fault = Fault::lost(kind, file, hole.from, &hole.reason);
            fault.end = hole.to;
            fault.lost = self.lost(at);
            report.faults.push(fault);
        }
        if let Err(error) = &self.losses {
            report.faults.push(Fault::lost(FaultKind::Frames, self.dir.clone(), *end, &error.to_string()));
        }
    }
}

impl From<LossesError> for OpenError {
    fn from(error: LossesError) -> OpenError {
        match error {
            LossesError::Rows(error) => error.into(),
            other => ReadError::Rows(other.to_string()).into(),
        }
    }
}
