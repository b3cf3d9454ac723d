//! What reads a segment and its index, for the fuzzers: from bytes alone. No part of the interface.

use std::io::IoSlice;
use std::path::Path;
use std::sync::Arc;

use wire::{Frame, NamespaceId, Offset, Position};

use crate::error::ReadError;
use crate::recovery::{Tail, tail_behind};
use crate::segment::index::{self, IndexError};
use crate::segment::open::SegmentFile;
use crate::segment::scan::FrameScan;
use crate::segment::sealed;
use crate::storage::{File, Memory, Storage};

/// An index that was opened.
#[derive(Debug)]
pub struct Index(index::Index);

impl Index {
    /// Opens an index.
    pub fn open(bytes: &[u8]) -> Result<Index, String> {
        index::Index::open(file(bytes)).map(Index).map_err(|error| error.to_string())
    }

    /// A namespace's frames: base offset, place and length of each.
    pub fn entries(&self, namespace: NamespaceId) -> Result<Vec<(Offset, u32, u32)>, String> {
        let entries = self.0.entries(namespace).map_err(|error: IndexError| error.to_string())?;
        Ok(entries.iter().map(|entry| (entry.base_offset, entry.at, entry.length)).collect())
    }

    /// Each namespace and the first offset of it.
    pub fn firsts(&self) -> Vec<(NamespaceId, Offset)> {
        self.0.firsts().unwrap_or_default()
    }
}

fn file(bytes: &[u8]) -> Arc<dyn File> {
    // Memory refuses neither a new file nor a write.
    let file = Memory::new().create(Path::new("file"));
    #[expect(clippy::unwrap_used, reason = "memory takes every write")]
    let file = file.and_then(|file| file.write_at(&[IoSlice::new(bytes)], 0).map(|()| file)).unwrap();
    file
}

/// A segment of these bytes.
#[derive(Debug)]
pub struct Segment(SegmentFile);

impl Segment {
    /// The segment with this base.
    pub fn new(bytes: &[u8], base: Position) -> Segment {
        Segment(SegmentFile { path: "segment".into(), base, file: file(bytes) })
    }

    /// The frames from a position on up to another, and why no more came, if that was no end.
    pub fn scan(&self, from: Position, end: Position) -> (Vec<Frame>, Option<String>) {
        let mut frames = Vec::new();
        let mut scan = match FrameScan::new(&self.0, from, end) {
            Ok(scan) => scan,
            Err(error) => return (frames, Some(error.to_string())),
        };
        loop {
            match scan.next() {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => return (frames, None),
                Err(error) => return (frames, Some(error.to_string())),
            }
        }
    }

    /// The bytes of its index, if its frames reach up to `end`.
    pub fn index(&self, end: Position) -> Result<Vec<u8>, ReadError> {
        sealed::index_again(&self.0, end).map(|segment| index::encode(&segment))
    }

    /// The position of the frame that proves that what is at `end` was durable, if there is one.
    pub fn durable_behind(&self, end: Position) -> Option<Position> {
        match tail_behind(&self.0, end) {
            Ok(Tail::Damaged { later }) => Some(later),
            _ => None,
        }
    }
}
