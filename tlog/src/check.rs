//! The whole log, verified offline: every CRC, position, offset, id and chain, and every index
//! against its segment. Nothing is changed.

use std::path::{Path, PathBuf};

use rustc_hash::FxHashMap;
use wire::{Frame, NamespaceId, Position};

use crate::control::ControlEvent;
use crate::error::OpenError;
use crate::folder;
use crate::head::Head;
use crate::recovery::{Tail, tail_behind};
use crate::segment::open::{OpenSegment, SegmentFile};
use crate::segment::scan::{FrameScan, ScanError};
use crate::segment::{base_of, index, index_path, log_path, partition_dir};
use crate::storage::Storage;

/// What a check found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Segments read.
    pub segments: u64,
    /// Frames read.
    pub frames: u64,
    /// Records in them, control records too.
    pub records: u64,
    /// Namespaces that exist.
    pub namespaces: u64,
    /// Bytes of all frames.
    pub bytes: u64,
    /// Bytes behind the last frames that a start will cut: writes that were never acknowledged.
    pub torn_bytes: u64,
    /// What is wrong with the log itself: something is lost.
    pub faults: Vec<Fault>,
    /// What is wrong with what is derived: it can be made again, and a start does so.
    pub derived_faults: Vec<Fault>,
}

/// Something that is wrong, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The file.
    pub file: PathBuf,
    /// The position in the partition.
    pub position: Position,
    /// What is wrong.
    pub reason: String,
}

/// Verifies the log of a data folder that no process has open. `progress` is told the bytes of each
/// segment when it has been read.
///
/// A partition is read up to its first fault: what follows can't be held against what was lost.
///
/// # Errors
/// Where the folder is in use or is not a data folder. What is wrong inside is in the report.
pub fn check(storage: &dyn Storage, dir: &Path, mut progress: impl FnMut(u64)) -> Result<Report, OpenError> {
    let partitions = folder::read_partitions(storage, dir)?;
    let _lock = folder::lock(storage, dir)?;
    let mut report = Report::default();
    for partition in 0..partitions {
        let dir = partition_dir(dir, partition);
        let mut check = PartitionCheck { storage, dir, report: &mut report, heads: FxHashMap::default(), end: 0 };
        check.run(&mut progress)?;
        report.namespaces += check.heads.len().saturating_sub(1) as u64;
    }
    Ok(report)
}

struct PartitionCheck<'a> {
    storage: &'a dyn Storage,
    dir: PathBuf,
    report: &'a mut Report,
    heads: FxHashMap<NamespaceId, Head>,
    end: Position,
}

impl PartitionCheck<'_> {
    fn run(&mut self, progress: &mut impl FnMut(u64)) -> Result<(), OpenError> {
        self.heads.insert(NamespaceId::CONTROL, Head::empty(0));
        let io = |source| OpenError::Io { file: self.dir.clone(), source };
        let files = self.storage.list(&self.dir).map_err(io)?;
        let mut bases: Vec<Position> = files.iter().filter_map(|path| base_of(path)).collect();
        bases.sort_unstable();
        for (at, base) in bases.iter().enumerate() {
            if *base != self.end {
                let reason = format!("the segment that begins here is missing, the next one begins at {base}");
                self.fault(&self.dir.clone(), self.end, reason);
                return Ok(());
            }
            let path = log_path(&self.dir, *base);
            let file = self.storage.open(&path).map_err(|source| OpenError::Io { file: path.clone(), source })?;
            let file = SegmentFile { path, base: *base, file };
            let is_last = at + 1 == bases.len();
            let Some(segment) = self.segment(&file, is_last)? else { return Ok(()) };
            if let Some(next) = bases.get(at + 1) {
                let length =
                    segment.file.file.len().map_err(|source| OpenError::Io { file: file.path.clone(), source })?;
                if segment.end < *next && length > file.place(segment.end) {
                    let reason = format!("no frame stands here, and the next segment begins at {next}");
                    self.fault(&file.path, segment.end, reason);
                    return Ok(());
                }
                self.index(&segment);
            }
            self.end = segment.end;
            progress(segment.end - base);
        }
        Ok(())
    }

    fn fault(&mut self, file: &Path, position: Position, reason: String) {
        self.report.faults.push(Fault { file: file.to_owned(), position, reason });
    }

    /// Reads a segment to its end; nothing where it has a fault.
    fn segment(&mut self, file: &SegmentFile, is_last: bool) -> Result<Option<OpenSegment>, OpenError> {
        let io = |source| OpenError::Io { file: file.path.clone(), source };
        let mut segment = OpenSegment::new(file.clone());
        let mut scan = FrameScan::new(file, file.base, Position::MAX).map_err(io)?;
        self.report.segments += 1;
        let stopped_by = loop {
            match scan.next() {
                Ok(Some(frame)) => {
                    if let Some(reason) = self.frame(&frame) {
                        self.fault(&file.path, frame.position(), reason);
                        return Ok(None);
                    }
                    segment.push(&frame);
                }
                Ok(None) => break None,
                Err(ScanError::Io(source)) => return Err(io(source)),
                Err(error) => break Some(error),
            }
        };
        let Some(reason) = stopped_by else { return Ok(Some(segment)) };
        match tail_behind(file, segment.end).map_err(io)? {
            Tail::Clean => Ok(Some(segment)),
            Tail::Torn { bytes } if is_last => {
                self.report.torn_bytes += bytes;
                Ok(Some(segment))
            }
            Tail::Torn { .. } | Tail::Damaged { .. } => {
                self.fault(&file.path, segment.end, reason.to_string());
                Ok(None)
            }
        }
    }

    /// Holds a frame against those before it; says what does not follow.
    fn frame(&mut self, frame: &Frame) -> Option<String> {
        let Some(head) = self.heads.get_mut(&frame.namespace()) else {
            return Some(format!("namespace {} does not exist", frame.namespace()));
        };
        if let Some(contradiction) = head.contradiction(frame) {
            return Some(contradiction);
        }
        head.advance(frame);
        self.report.frames += 1;
        self.report.records += u64::from(frame.record_count());
        self.report.bytes += frame.len() as u64;
        if frame.namespace() != NamespaceId::CONTROL {
            return None;
        }
        frame.records().find_map(|record| match ControlEvent::decode(&record) {
            Ok(ControlEvent::Created { id, generation, .. }) => {
                let existed = self.heads.insert(id, Head::empty(generation)).is_some();
                existed.then(|| format!("namespace {id} is created and exists"))
            }
            Ok(ControlEvent::Consumers { .. }) => None,
            Ok(ControlEvent::Deleted { id, .. }) => {
                let existed = self.heads.remove(&id).is_some();
                (!existed).then(|| format!("namespace {id} is deleted and does not exist"))
            }
            Err(error) => Some(error.to_string()),
        })
    }

    /// Holds the index of a segment against its frames.
    fn index(&mut self, segment: &OpenSegment) {
        let path = index_path(&self.dir, segment.file.base);
        let expected = index::encode(segment);
        let read = self.storage.open(&path).and_then(|file| {
            let mut bytes = vec![0; file.len()?.min(expected.len() as u64 + 1) as usize];
            file.read_at(&mut bytes, 0).map(|()| bytes)
        });
        let reason = match read {
            Ok(bytes) if bytes == expected => return,
            Ok(_) => "the index is not that of its segment".to_owned(),
            Err(error) => error.to_string(),
        };
        self.report.derived_faults.push(Fault { file: path, position: segment.file.base, reason });
    }
}
