//! What a partition's readers see of it: where its segments are, the index of those that are not
//! yet sealed, and the tail: its last frames, in memory.
//!
//! ```text
//!  sealed, sealed, …  │  sealing, …  │  active            position ─▶
//!  index in a file    │  index in memory
//!                              └────── tail ──────┘
//!                                                 ▲ high watermark
//! ```
//!
//! Only what is durable comes in here (invariant 2), so whatever is found may be shown.

use std::collections::VecDeque;
use std::sync::Arc;

use rustc_hash::FxHashMap;
use wire::{NamespaceId, Offset, Position};

use crate::head::Head;
use crate::segment::open::{Entry, OpenSegment, SegmentFile, entries_from};
use crate::segment::sealed::Sealed;
use crate::shared_frame::SharedFrame;

/// The last frames of a partition, without a gap.
#[derive(Debug)]
struct Tail {
    frames: VecDeque<Arc<SharedFrame>>,
    bytes: usize,
    most_bytes: usize,
}

impl Tail {
    fn push(&mut self, frame: Arc<SharedFrame>) {
        self.bytes += frame.len();
        self.frames.push_back(frame);
        while self.bytes > self.most_bytes {
            let Some(oldest) = self.frames.pop_front() else { break };
            self.bytes -= oldest.len();
        }
    }

    fn begin(&self) -> Option<Position> {
        self.frames.front().map(|frame| frame.position())
    }

    fn index_of(&self, position: Position) -> Option<usize> {
        self.frames.binary_search_by_key(&position, |frame| frame.position()).ok()
    }
}

/// Where a namespace's frames from some offset on are.
#[derive(Debug)]
pub(crate) enum Found {
    /// In the tail.
    Frames(Vec<Arc<SharedFrame>>),
    /// In a segment, at these places.
    InFile(SegmentFile, Vec<Entry>),
    /// There are none yet.
    AtHead,
    /// In a sealed segment, or the namespace has no frame in any other.
    NotRecent,
    /// The namespace has been deleted.
    Deleted,
}

/// Where a partition's frames from some position on are.
#[derive(Debug)]
pub(crate) enum At {
    /// In the tail.
    Frames(Vec<Arc<SharedFrame>>),
    /// In the file of a segment that is not sealed, up to this position.
    InFile(SegmentFile, Position),
    /// In a sealed segment.
    InSealed(Sealed),
    /// There are none yet.
    Nothing,
}

/// What a partition's readers see of it.
#[derive(Debug)]
pub(crate) struct Recent {
    sealed: Vec<Sealed>,
    sealing: VecDeque<Arc<OpenSegment>>,
    active: OpenSegment,
    tail: Tail,
    /// Heads that have moved and whose rows are not yet written.
    moved: FxHashMap<NamespaceId, Head>,
    /// Namespaces that were deleted, with the position up to which unsealed segments may hold frames
    /// of theirs.
    deleted: FxHashMap<NamespaceId, Position>,
}

impl Recent {
    pub(crate) fn new(sealed: Vec<Sealed>, active: OpenSegment, tail_bytes: usize) -> Recent {
        let tail = Tail { frames: VecDeque::new(), bytes: 0, most_bytes: tail_bytes };
        Recent {
            sealed,
            sealing: VecDeque::new(),
            active,
            tail,
            moved: FxHashMap::default(),
            deleted: FxHashMap::default(),
        }
    }

    /// Takes in a frame that has become durable.
    pub(crate) fn push(&mut self, frame: Arc<SharedFrame>) {
        self.active.push(&frame);
        self.tail.push(frame);
    }

    /// Takes in where a head has moved to, together with the frames that moved it: who sees one must
    /// not miss the other.
    pub(crate) fn set_head(&mut self, namespace: NamespaceId, head: Head) {
        self.moved.insert(namespace, head);
    }

    /// Takes in that the rows say where all heads are.
    pub(crate) fn rows_written(&mut self) {
        self.moved.clear();
    }

    /// A head that has moved since the rows were written.
    pub(crate) fn head(&self, namespace: NamespaceId) -> Option<&Head> {
        self.moved.get(&namespace)
    }

    /// Whether a namespace is known to have been deleted.
    pub(crate) fn is_deleted(&self, namespace: NamespaceId) -> bool {
        self.deleted.contains_key(&namespace)
    }

    /// Hides the frames of a namespace that has been deleted.
    pub(crate) fn delete(&mut self, namespace: NamespaceId) {
        self.moved.remove(&namespace);
        self.deleted.insert(namespace, self.active.end);
    }

    /// Makes a new segment the active one; returns the one that is to be sealed.
    pub(crate) fn roll(&mut self, file: SegmentFile) -> Arc<OpenSegment> {
        let full = Arc::new(std::mem::replace(&mut self.active, OpenSegment::new(file)));
        self.sealing.push_back(Arc::clone(&full));
        full
    }

    /// Takes in that the oldest of the segments that are being sealed is sealed.
    pub(crate) fn seal(&mut self) {
        let Some(segment) = self.sealing.pop_front() else { return };
        self.sealed.push(Sealed { base: segment.file.base, end: segment.end });
        self.deleted.retain(|_, position| *position > segment.end);
    }

    /// How many segments wait to be sealed.
    pub(crate) fn unsealed(&self) -> usize {
        self.sealing.len()
    }

    /// The segment whose sealing is due.
    pub(crate) fn next_to_seal(&self) -> Option<Arc<OpenSegment>> {
        self.sealing.front().cloned()
    }

    /// The sealed segment with this base.
    pub(crate) fn sealed_at(&self, base: Position) -> Option<Sealed> {
        let at = self.sealed.binary_search_by_key(&base, |sealed| sealed.base).ok()?;
        self.sealed.get(at).copied()
    }

    fn unsealed_segments(&self) -> impl Iterator<Item = &OpenSegment> {
        // Newest first.
        std::iter::once(&self.active).chain(self.sealing.iter().rev().map(AsRef::as_ref))
    }

    /// Finds the frames of a namespace from `offset` on: at least one if there is one, and about as
    /// many as `max_bytes`, all in one place.
    pub(crate) fn find(&self, namespace: NamespaceId, offset: Offset, max_bytes: usize) -> Found {
        if self.is_deleted(namespace) {
            return Found::Deleted;
        }
        for segment in self.unsealed_segments() {
            let Some(frames) = segment.frames_of(namespace) else { continue };
            if offset >= frames.next_offset {
                return Found::AtHead;
            }
            if frames.entries[0].base_offset <= offset {
                let wanted = first_bytes(entries_from(&frames.entries, offset), max_bytes);
                return self.take(segment, wanted);
            }
        }
        Found::NotRecent
    }

    fn take(&self, segment: &OpenSegment, entries: &[Entry]) -> Found {
        let position = |entry: &Entry| segment.file.base + u64::from(entry.at);
        let tail_begin = self.tail.begin().unwrap_or(Position::MAX);
        if entries.first().is_some_and(|first| position(first) < tail_begin) {
            return Found::InFile(segment.file.clone(), entries.to_vec());
        }
        // They often stand next to each other.
        let mut next = 0;
        let frame = |entry| {
            let due = position(entry);
            let is_next = self.tail.frames.get(next).is_some_and(|frame| frame.position() == due);
            let at = if is_next { next } else { self.tail.index_of(due)? };
            next = at + 1;
            self.tail.frames.get(at).map(Arc::clone)
        };
        Found::Frames(entries.iter().filter_map(frame).collect())
    }

    /// Finds the partition's frames from `position` on, in one place.
    pub(crate) fn at(&self, position: Position, max_bytes: usize) -> At {
        if position >= self.active.end {
            return At::Nothing;
        }
        if let Some(first) = self.tail.index_of(position) {
            let mut bytes = 0;
            let frames = self.tail.frames.range(first..).take_while(|frame| {
                let more = bytes < max_bytes;
                bytes += frame.len();
                more
            });
            return At::Frames(frames.cloned().collect());
        }
        if let Some(segment) = self.unsealed_segments().find(|segment| segment.file.base <= position) {
            return At::InFile(segment.file.clone(), segment.end);
        }
        let behind = self.sealed.partition_point(|sealed| sealed.base <= position);
        match behind.checked_sub(1) {
            Some(at) => At::InSealed(self.sealed[at]),
            None => At::Nothing,
        }
    }
}

/// The first entries that together have `max_bytes`, or the first alone.
pub(crate) fn first_bytes(entries: &[Entry], max_bytes: usize) -> &[Entry] {
    let mut bytes = 0;
    let more = entries.iter().skip(1).position(|entry| {
        bytes += entry.length as usize;
        bytes >= max_bytes
    });
    match more {
        Some(more) => &entries[..=more],
        None => entries,
    }
}
