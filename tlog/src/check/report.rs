//! What a check says.

use std::fmt;
use std::path::{Path, PathBuf};

use rustc_hash::FxHashMap;
use wire::{Frame, Generation, Loss, NamespaceId, NamespaceName, Offset, Position};

/// Most faults of what is derived that are listed; more are counted.
const MAX_LISTED: usize = 1000;

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
    /// What is wrong with what is derived: it can be made again.
    pub derived_faults: Vec<Fault>,
    /// Faults of what is derived that are not listed.
    pub more_derived_faults: u64,
    /// What was lost before, and is marked as such: readers are told.
    pub marked: Vec<Lost>,
    /// Bytes of the log whose loss is marked, and of which nobody knows what they held.
    pub unknown_bytes: u64,
    /// Files that were being made when a process ended; the next start removes them.
    pub unfinished: Vec<PathBuf>,
    /// How far each partition goes.
    pub partitions: Vec<Whole>,
}

/// How far a partition goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Whole {
    /// The position up to which every frame is there.
    pub intact: Position,
    /// The position behind the last frame.
    pub end: Position,
}

/// What is wrong with what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultKind {
    /// No frame stands where one must be.
    Frames,
    /// A segment is missing.
    Segment,
    /// A segment's header is not its own.
    Header,
    /// An index is not that of its segment.
    Index,
    /// A row is not what the log amounts to.
    Rows,
    /// A row of the stores is not what the log amounts to.
    Stores,
    /// A row of the ledger is not what the log amounts to.
    Ledger,
    /// The description of the data folder is not what it must be.
    Description,
}

impl FaultKind {
    /// One word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            FaultKind::Frames => "frames",
            FaultKind::Segment => "segment",
            FaultKind::Header => "header",
            FaultKind::Index => "index",
            FaultKind::Rows => "rows",
            FaultKind::Stores => "stores",
            FaultKind::Ledger => "ledger",
            FaultKind::Description => "description",
        }
    }
}

/// Something that is wrong, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// What it is wrong with.
    pub kind: FaultKind,
    /// The file, or the folder where it is not one file.
    pub file: PathBuf,
    /// The row's key, as it can be read.
    pub key: Option<String>,
    /// The position in the partition.
    pub position: Position,
    /// The position behind it.
    pub end: Position,
    /// What is wrong.
    pub reason: String,
    /// What is lost, as far as that is known.
    pub lost: Vec<Lost>,
    /// What makes it again, where nothing is lost.
    pub rebuilt_by: Option<&'static str>,
}

impl Fault {
    pub(crate) fn lost(kind: FaultKind, file: PathBuf, position: Position, reason: &str) -> Fault {
        let (reason, lost) = (reason.to_owned(), Vec::new());
        Fault { kind, file, key: None, position, end: position, reason, lost, rebuilt_by: None }
    }

    /// A fault of what can be made again.
    pub fn derived(
        kind: FaultKind,
        file: PathBuf,
        position: Position,
        reason: &str,
        rebuilt_by: &'static str,
    ) -> Fault {
        Fault { rebuilt_by: Some(rebuilt_by), ..Fault::lost(kind, file, position, reason) }
    }
}

/// Records that are lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lost {
    /// The partition.
    pub partition: u16,
    /// The namespace's id; 0 for the log's own control records.
    pub namespace: NamespaceId,
    /// Its name, if that is known.
    pub name: Option<NamespaceName>,
    /// Which use of the id.
    pub generation: Generation,
    /// The first offset that is lost.
    pub from: Offset,
    /// The first behind it.
    pub to: Offset,
}

impl Lost {
    pub(crate) fn new(partition: u16, loss: &Loss, name: Option<NamespaceName>) -> Lost {
        Lost {
            partition,
            namespace: loss.namespace,
            name,
            generation: loss.generation,
            from: loss.base_offset,
            to: loss.base_offset + u64::from(loss.count),
        }
    }
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Lost { partition, namespace, name, from, to, .. } = self;
        match name {
            _ if *namespace == NamespaceId::CONTROL => write!(f, "control records of partition {partition}")?,
            Some(name) => write!(f, "{name} (namespace {namespace})")?,
            None => write!(f, "namespace {namespace}")?,
        }
        match to - from {
            1 => write!(f, ", offset {from}"),
            _ => write!(f, ", offsets {from} to {}", to.saturating_sub(1)),
        }
    }
}

impl Report {
    /// Whether nothing is wrong. Losses that are marked and a torn tail are not.
    pub fn is_clean(&self) -> bool {
        self.faults.is_empty() && self.derived_faults.is_empty()
    }

    /// Adds a fault of what can be made again.
    pub fn derived(&mut self, fault: Fault) {
        if self.derived_faults.len() < MAX_LISTED {
            self.derived_faults.push(fault);
        } else {
            self.more_derived_faults += 1;
        }
    }

    /// Counts a frame that was found.
    pub(crate) fn count(&mut self, frame: &Frame) {
        self.frames += 1;
        self.bytes += frame.len() as u64;
        let Some(loss) = frame.loss() else {
            self.records += u64::from(frame.record_count());
            return;
        };
        if loss.count == 0 {
            self.unknown_bytes += frame.len() as u64;
            return;
        }
        let lost = Lost::new(self.partitions.len() as u16, &loss, None);
        let continued = self.marked.iter_mut().rev().take(1).find(|before| {
            before.namespace == lost.namespace && before.partition == lost.partition && before.to == lost.from
        });
        match continued {
            Some(before) => before.to = lost.to,
            None => self.marked.push(lost),
        }
    }

    /// Adds the names of the namespaces of which something is marked as lost.
    pub(crate) fn name(&mut self, partition: u16, names: &FxHashMap<NamespaceName, NamespaceId>) {
        if !self.marked.iter().any(|lost| lost.partition == partition) {
            return;
        }
        let by_id: FxHashMap<NamespaceId, &NamespaceName> = names.iter().map(|(name, id)| (*id, name)).collect();
        for lost in self.marked.iter_mut().filter(|lost| lost.partition == partition) {
            lost.name = by_id.get(&lost.namespace).map(|name| (*name).clone());
        }
    }

    /// Whether one of the faults is of this file.
    pub fn names(&self, file: &Path) -> bool {
        self.faults.iter().chain(&self.derived_faults).any(|fault| fault.file == file)
    }
}
