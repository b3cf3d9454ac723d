//! Reading a segment frame by frame from a position on, checking each: what recovery, a rebuild of
//! an index, a partition's consumers and the offline check do.

use std::io;

use bytes::{Bytes, BytesMut};
use wire::frame::PREFIX_BYTES;
use wire::{Frame, FrameError, Position};

use super::open::SegmentFile;

/// How much is read at once.
const CHUNK_BYTES: usize = 1 << 20;

/// A cursor over the frames of a segment.
#[derive(Debug)]
pub(crate) struct FrameScan<'a> {
    segment: &'a SegmentFile,
    position: Position,
    /// Where to stop: a position, or the end of the file if that comes first.
    end: Position,
    /// Bytes of the file from `position` on.
    buffer: Bytes,
}

/// Why a scan can't go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ScanError {
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("the frame says that it belongs at position {0}")]
    Misplaced(Position),
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl<'a> FrameScan<'a> {
    /// A cursor at `position`, which must be where a frame begins, up to `end`. Where the file has been cut
    /// before `position` there is nothing.
    pub(crate) fn new(segment: &'a SegmentFile, position: Position, end: Position) -> io::Result<FrameScan<'a>> {
        let file_end = segment.base + segment.file.len()?.saturating_sub(super::HEADER_BYTES as u64);
        Ok(FrameScan { segment, position, end: end.min(file_end), buffer: Bytes::new() })
    }

    /// The position behind the last frame read.
    pub(crate) fn position(&self) -> Position {
        self.position
    }

    /// The next frame; nothing at the end.
    pub(crate) fn next(&mut self) -> Result<Option<Frame>, ScanError> {
        if self.position >= self.end {
            return Ok(None);
        }
        self.fill(PREFIX_BYTES)?;
        let length = Frame::length(&self.buffer)?;
        self.fill(length)?;
        if self.buffer.len() < length {
            return Err(FrameError::Truncated { need: length, have: self.buffer.len() }.into());
        }
        let frame = Frame::decode(self.buffer.slice(..length))?;
        if frame.position() != self.position {
            return Err(ScanError::Misplaced(frame.position()));
        }
        self.buffer = self.buffer.slice(length..);
        self.position += length as u64;
        Ok(Some(frame))
    }

    /// Sees to it that the buffer holds at least `length` bytes, or all up to the end.
    fn fill(&mut self, length: usize) -> io::Result<()> {
        let left = self.end - self.position;
        if self.buffer.len() >= length || self.buffer.len() as u64 == left {
            return Ok(());
        }
        let size = left.min(length.max(CHUNK_BYTES) as u64) as usize;
        let mut buffer = BytesMut::zeroed(size);
        self.segment.file.read_at(&mut buffer, self.segment.place(self.position))?;
        self.buffer = buffer.freeze();
        Ok(())
    }
}
