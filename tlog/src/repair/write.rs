//! The new files of a segment: its frames where they stood, and losses where frames were.

use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use wire::{Frame, Loss, Position};

use crate::segment::open::{OpenSegment, SegmentFile};
use crate::segment::scan::{FrameScan, ScanError};
use crate::segment::{HEADER_BYTES, encode_header, index};
use crate::storage::{File, Storage};

/// About how much is written at once.
const WRITE_BYTES: usize = 1 << 20;

/// A segment that is to be written anew.
#[derive(Debug)]
pub(crate) struct NewSegment {
    /// The file that it has, if there is one.
    pub(crate) file: Option<SegmentFile>,
    pub(crate) base: Position,
    pub(crate) end: Position,
    pub(crate) is_last: bool,
    /// What stands in its holes, ascending.
    pub(crate) losses: Vec<Loss>,
}

/// What a new file is called until it takes its place. A start removes it where it never does.
pub(crate) fn unfinished(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!("repair-{name}.tmp"))
}

fn create(storage: &dyn Storage, path: &Path) -> io::Result<Arc<dyn File>> {
    match storage.remove(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => storage.create(path),
    }
}

/// Writes an index, and makes it durable but for its folder's entry.
pub(crate) fn index(storage: &dyn Storage, segment: &OpenSegment, path: &Path) -> io::Result<()> {
    index::write(&*create(storage, path)?, segment)
}

/// Writes a text, and makes it durable but for its folder's entry.
pub(crate) fn text(storage: &dyn Storage, path: &Path, text: &str) -> io::Result<()> {
    let file = create(storage, path)?;
    file.write_at(&[IoSlice::new(text.as_bytes())], 0)?;
    file.sync_data()
}

impl NewSegment {
    /// Writes the segment to a file, and makes it durable but for its folder's entry.
    pub(crate) fn write(&self, storage: &dyn Storage, partition: u16, path: &Path) -> io::Result<OpenSegment> {
        let file = create(storage, path)?;
        let mut length = HEADER_BYTES as u64 + (self.end - self.base);
        if let (Some(old), true) = (&self.file, self.is_last) {
            // It goes on being written to, so it keeps its space.
            length = length.max(old.file.len()?);
        }
        file.allocate(length)?;
        file.write_at(&[IoSlice::new(&encode_header(partition, self.base))], 0)?;
        let to = SegmentFile { path: path.to_owned(), base: self.base, file };
        let mut writer = Writer { segment: OpenSegment::new(to), waiting: Vec::new(), bytes: 0 };
        for loss in &self.losses {
            self.copy(&mut writer, loss.position)?;
            writer.push(loss.encode().map_err(io::Error::other)?)?;
        }
        self.copy(&mut writer, self.end)?;
        writer.flush()?;
        writer.segment.file.file.sync_data()?;
        Ok(writer.segment)
    }

    /// Copies the frames up to `end`.
    fn copy(&self, writer: &mut Writer, end: Position) -> io::Result<()> {
        let Some(file) = &self.file else { return Ok(()) };
        if writer.segment.end == end {
            return Ok(());
        }
        let mut scan = FrameScan::new(file, writer.segment.end, end)?;
        loop {
            match scan.next() {
                Ok(Some(frame)) => writer.push(frame)?,
                Ok(None) if scan.position() == end => return Ok(()),
                Ok(None) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Err(ScanError::Io(error)) => return Err(error),
                Err(error) => return Err(io::Error::other(error.to_string())),
            }
        }
    }
}

/// Frames on their way to a file.
struct Writer {
    segment: OpenSegment,
    waiting: Vec<Frame>,
    bytes: usize,
}

impl Writer {
    fn push(&mut self, frame: Frame) -> io::Result<()> {
        if frame.position() != self.segment.end {
            return Err(io::Error::other(format!(
                "a frame of position {} comes at {}",
                frame.position(),
                self.segment.end
            )));
        }
        self.segment.push(&frame);
        self.bytes += frame.len();
        self.waiting.push(frame);
        if self.bytes < WRITE_BYTES { Ok(()) } else { self.flush() }
    }

    fn flush(&mut self) -> io::Result<()> {
        let Some(first) = self.waiting.first() else { return Ok(()) };
        let buffers: Vec<IoSlice<'_>> = self.waiting.iter().map(|frame| IoSlice::new(frame.bytes())).collect();
        let SegmentFile { file, .. } = &self.segment.file;
        file.write_at(&buffers, self.segment.file.place(first.position()))?;
        self.waiting.clear();
        self.bytes = 0;
        Ok(())
    }
}
