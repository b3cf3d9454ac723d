//! Sealed segments: sealing one, opening one, and making its index again where it is lost.

use std::fmt::Display;
use std::io;
use std::path::Path;
use std::sync::Arc;

use tracing::warn;
use wire::{NamespaceId, Position};

use super::index::{self, Index, IndexError, IndexHeader};
use super::open::{Entry, OpenSegment, SegmentFile};
use super::scan::{FrameScan, ScanError};
use super::{HEADER_BYTES, index_path, log_path};
use crate::error::ReadError;
use crate::storage::Storage;

/// A sealed segment that is open for reading.
#[derive(Debug)]
pub(crate) struct SealedSegment {
    pub(crate) file: SegmentFile,
    pub(crate) index: Index,
}

impl SealedSegment {
    /// A namespace's frames in the segment, in order.
    pub(crate) fn entries(&self, namespace: NamespaceId) -> Result<Vec<Entry>, ReadError> {
        let path = || self.file.path.with_extension("idx");
        self.index.entries(namespace).map_err(|error| match error {
            IndexError::Io(source) => ReadError::Io { file: path(), source },
            IndexError::Invalid(reason) => {
                ReadError::Damaged { file: path(), position: self.file.base, reason: reason.to_owned() }
            }
        })
    }
}

/// Where a sealed segment begins and ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sealed {
    pub(crate) base: Position,
    pub(crate) end: Position,
}

/// Opens the file of a segment.
pub(crate) fn open_file(storage: &dyn Storage, dir: &Path, base: Position) -> Result<SegmentFile, ReadError> {
    let path = log_path(dir, base);
    let file = storage.open(&path).map_err(|source| ReadError::Io { file: path.clone(), source })?;
    Ok(SegmentFile { path, base, file })
}

/// How much of an index is checked when its segment is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Check {
    /// Its header: who reads by it holds each frame against what is due.
    Header,
    /// All of it.
    Whole,
}

/// Opens a sealed segment of a partition. An index that is missing or found to be damaged is made again.
///
/// # Errors
/// Where it can't be read, or is another segment, written over this one.
pub(crate) fn open(
    storage: &dyn Storage,
    dir: &Path,
    partition: u16,
    sealed: Sealed,
    check: Check,
) -> Result<SealedSegment, ReadError> {
    let open_index = |file| match check {
        Check::Header => Index::open_unchecked(file),
        Check::Whole => Index::open(file),
    };
    let file = open_file(storage, dir, sealed.base)?;
    let path = index_path(dir, sealed.base);
    let index_file = storage.open(&path);
    // Both are asked for before either is waited for.
    file.file.will_read(0, HEADER_BYTES as u64);
    if let Ok(index) = &index_file {
        Index::will_open(&**index);
    }
    let has_header = file.has_header(partition).map_err(|source| ReadError::Io { file: file.path.clone(), source })?;
    if !has_header {
        return Err(damaged(&file, sealed.base, "the segment's header is not its own"));
    }
    let index = match index_file {
        // That it can't be opened, as where too many files are, says nothing of what is in it.
        Err(source) if source.kind() != io::ErrorKind::NotFound => return Err(ReadError::Io { file: path, source }),
        opened => opened.map_err(IndexError::Io).and_then(open_index),
    };
    let index = match index {
        Ok(index) if (index.header().base, index.header().end) == (sealed.base, sealed.end) => index,
        other => {
            let reason = other.err().map_or("it is of another segment".to_owned(), |error| error.to_string());
            warn!(index = %path.display(), reason, "an index is made again from its segment");
            let segment = index_again(&file, sealed.end)?;
            let io = |source| ReadError::Io { file: path.clone(), source };
            write_index(storage, dir, &segment).map_err(io)?;
            let remade = storage.open(&path).map_err(IndexError::Io).and_then(Index::open);
            remade.map_err(|error| io(io::Error::other(error.to_string())))?
        }
    };
    Ok(SealedSegment { file, index })
}

/// What the index of a segment says of it, if there is an index whose header is sound.
pub(crate) fn index_header(storage: &dyn Storage, dir: &Path, base: Position) -> Option<IndexHeader> {
    let file = storage.open(&index_path(dir, base)).ok()?;
    IndexHeader::read(&*file).ok().filter(|header| header.base == base)
}

/// Scans a segment from its base up to `end`, which must be where a frame ends.
pub(crate) fn index_again(file: &SegmentFile, end: Position) -> Result<OpenSegment, ReadError> {
    let mut segment = OpenSegment::new(file.clone());
    let io = |source| ReadError::Io { file: file.path.clone(), source };
    let mut scan = FrameScan::new(file, file.base, end).map_err(io)?;
    loop {
        match scan.next() {
            Ok(Some(frame)) => segment.push(&frame),
            Ok(None) if scan.position() == end => return Ok(segment),
            Ok(None) => return Err(damaged(file, scan.position(), "the segment ends too early")),
            Err(ScanError::Io(source)) => return Err(io(source)),
            Err(error) => return Err(damaged(file, scan.position(), error)),
        }
    }
}

/// The error of a segment that is damaged at a position.
pub(crate) fn damaged(file: &SegmentFile, position: Position, reason: impl Display) -> ReadError {
    ReadError::Damaged { file: file.path.clone(), position, reason: reason.to_string() }
}

/// Writes the index of a segment beside it, whole or not at all.
pub(crate) fn write_index(storage: &dyn Storage, dir: &Path, segment: &OpenSegment) -> io::Result<()> {
    let path = index_path(dir, segment.file.base);
    let unfinished = path.with_extension("idx.tmp");
    match storage.remove(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = storage.create(&unfinished)?;
    index::write(&*file, segment)?;
    storage.rename(&unfinished, &path)?;
    storage.sync_dir(dir)
}

/// Seals a segment: cuts off the zeros behind its last frame, and writes its index.
pub(crate) fn seal(storage: &dyn Storage, dir: &Path, segment: &OpenSegment) -> io::Result<()> {
    let file = &segment.file;
    file.file.truncate(file.place(segment.end) - u64::from(mutant!(SealTooShort)))?;
    file.file.sync_data()?;
    write_index(storage, dir, segment)
}

/// A sealed segment, shared by those who read it.
pub(crate) type SharedSegment = Arc<SealedSegment>;
