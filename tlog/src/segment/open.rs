//! A segment whose index is still in memory: the active one, and those that are being sealed.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use rustc_hash::FxHashMap;
use wire::{Frame, NamespaceId, Offset, Position};

use super::{HEADER_BYTES, encode_header};
use crate::storage::File;

/// Where a frame stands in its segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The offset of its first record.
    pub(crate) base_offset: Offset,
    /// Its position minus the segment's base.
    pub(crate) at: u32,
    /// Its length, bytes.
    pub(crate) length: u32,
}

/// Entries of the frames that hold offsets from `from` on. `entries` ascend and have no gaps.
pub(crate) fn entries_from(entries: &[Entry], from: Offset) -> &[Entry] {
    let behind = entries.partition_point(|entry| entry.base_offset <= from);
    &entries[behind.saturating_sub(1)..]
}

/// The file of a segment: what reading frames by their entries needs.
#[derive(Debug, Clone)]
pub(crate) struct SegmentFile {
    pub(crate) path: PathBuf,
    pub(crate) base: Position,
    pub(crate) file: Arc<dyn File>,
}

impl SegmentFile {
    /// Whether it begins as a segment of this partition does that has this base.
    pub(crate) fn has_header(&self, partition: u16) -> io::Result<bool> {
        let mut header = [0; HEADER_BYTES];
        if self.file.len()? < HEADER_BYTES as u64 {
            return Ok(false);
        }
        self.file.read_at(&mut header, 0)?;
        Ok(header == encode_header(partition, self.base))
    }

    /// The place in the file of a position in the partition.
    pub(crate) fn place(&self, position: Position) -> u64 {
        HEADER_BYTES as u64 + (position - self.base)
    }
}

/// A namespace's frames in a segment.
#[derive(Debug, Default)]
pub(crate) struct FramesOf {
    /// Where they are, in order; at least one.
    pub(crate) entries: Vec<Entry>,
    /// The offset behind the last.
    pub(crate) next_offset: Offset,
}

/// A segment with its index in memory.
#[derive(Debug)]
pub(crate) struct OpenSegment {
    pub(crate) file: SegmentFile,
    /// The position behind its last frame.
    pub(crate) end: Position,
    frames: u32,
    namespaces: FxHashMap<NamespaceId, FramesOf>,
}

impl OpenSegment {
    pub(crate) fn new(file: SegmentFile) -> OpenSegment {
        OpenSegment { end: file.base, file, frames: 0, namespaces: FxHashMap::default() }
    }

    /// Adds the frame that stands at the segment's end. A loss that only fills its place holds nothing
    /// of a namespace, and nobody looks for it.
    pub(crate) fn push(&mut self, frame: &Frame) {
        debug_assert_eq!(frame.position(), self.end, "a segment has no gaps");
        self.end = frame.end();
        if frame.record_count() == 0 {
            return;
        }
        let at = (frame.position() - self.file.base) as u32;
        let entry = Entry { base_offset: frame.base_offset(), at, length: frame.len() as u32 };
        let frames = self.namespaces.entry(frame.namespace()).or_default();
        frames.entries.push(entry);
        frames.next_offset = frame.next_offset();
        self.frames += 1;
    }

    /// How many frames its index has.
    pub(crate) fn frames(&self) -> u32 {
        self.frames
    }

    /// A namespace's frames in it, if it has any.
    pub(crate) fn frames_of(&self, namespace: NamespaceId) -> Option<&FramesOf> {
        self.namespaces.get(&namespace)
    }

    /// All namespaces with frames in it, ascending by id, and where their frames are.
    pub(crate) fn namespaces(&self) -> Vec<(NamespaceId, &[Entry])> {
        let entries = self.namespaces.iter().map(|(id, frames)| (*id, frames.entries.as_slice()));
        let mut namespaces: Vec<_> = entries.collect();
        namespaces.sort_unstable_by_key(|(id, _)| *id);
        namespaces
    }
}
