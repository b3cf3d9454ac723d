//! Readers: cursors that pull. From the tail while they keep up, from segments when they lag.

use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::future::join_all;
use wire::{Frame, Offset, Position};

use crate::error::ReadError;
use crate::log::Inner;
use crate::namespace::Namespace;
use crate::recent::{At, Found, first_bytes};
use crate::segment::open::{Entry, SegmentFile, entries_from};
use crate::segment::scan::{FrameScan, ScanError};
use crate::segment::sealed::{Sealed, damaged};
use crate::shared_frame::SharedFrame;

/// How far apart two frames may be to be read in one go: reading what lies between costs less than
/// a second call.
const MAX_GAP_BYTES: u32 = 16 << 10;

/// How much is read in one go, bytes.
const MAX_RUN_BYTES: u32 = 1 << 20;

/// How often a search is done again that a roll, a sealing or an append overtook.
const MAX_SEARCHES: usize = 8;

/// How many segments are read side by side at most.
const MAX_WIDTH: usize = 16;

/// A cursor over a namespace.
#[derive(Debug, Clone)]
pub struct Reader {
    log: Arc<Inner>,
    namespace: Namespace,
    offset: Offset,
    /// How many segments the next read of what is not in memory takes side by side: one, and more while they hold
    /// little of the namespace, since otherwise a replay would wait for the disk several times a segment, one after
    /// the other.
    width: usize,
}

impl Reader {
    pub(crate) fn new(log: Arc<Inner>, namespace: Namespace, offset: Offset) -> Reader {
        Reader { log, namespace, offset, width: 1 }
    }

    /// Where the cursor stands.
    pub fn offset(&self) -> Offset {
        self.offset
    }

    /// The frames from the cursor on, about `max_bytes` of them and at least one if there is one,
    /// and moves the cursor behind them. None: the cursor is at the head.
    ///
    /// Frames come whole, so the first may begin before the cursor.
    ///
    /// # Errors
    /// Where the namespace does not exist any more, or what was durable can't be read.
    pub fn read_blocking(&mut self, max_bytes: usize) -> Result<Vec<Arc<SharedFrame>>, ReadError> {
        for search in 0..MAX_SEARCHES {
            let found = self.find(max_bytes);
            let frames = match found {
                Found::Frames(frames) => frames,
                Found::InFile(file, entries) => read_frames(&file, &entries, &self.namespace)?,
                Found::AtHead => return Ok(Vec::new()),
                Found::Deleted => return Err(ReadError::NamespaceNotFound),
                Found::NotRecent => {
                    if self.log.head(&self.namespace)?.next_offset <= self.offset {
                        return Ok(Vec::new());
                    }
                    match self.read_sealed(max_bytes) {
                        // It may be the index that is damaged. All of it has been checked since.
                        Err(ReadError::Damaged { .. }) if search == 0 => continue,
                        read => read?,
                    }
                }
            };
            // A segment may end before the cursor: the rest has moved since the search began.
            if frames.last().is_some_and(|last| last.next_offset() > self.offset) {
                return self.advance(frames);
            }
        }
        let partition = self.namespace.id().partition(self.log.partitions());
        Err(ReadError::Damaged {
            file: self.log.partition_dir(partition),
            position: 0,
            reason: format!("offset {} of namespace {} is in no segment", self.offset, self.namespace.id()),
        })
    }

    /// Like [`Reader::read_blocking`]; what is not in memory is read on the blocking pool.
    pub async fn read(&mut self, max_bytes: usize) -> Result<Vec<Arc<SharedFrame>>, ReadError> {
        match self.find(max_bytes) {
            Found::Frames(frames) => self.advance(frames),
            Found::AtHead => Ok(Vec::new()),
            Found::Deleted => Err(ReadError::NamespaceNotFound),
            Found::InFile(..) | Found::NotRecent => self.read_wide(max_bytes).await,
        }
    }

    /// Reads from the cursor on, and from the next segments side by side, each its share of `max_bytes`.
    async fn read_wide(&mut self, max_bytes: usize) -> Result<Vec<Arc<SharedFrame>>, ReadError> {
        let mut begins = vec![self.offset];
        if self.width > 1 {
            let (reader, behind) = (self.clone(), self.width - 1);
            begins.extend(
                self.apart(move || reader.log.rows.segments_behind(reader.namespace.id(), reader.offset, behind))
                    .await?,
            );
        }
        let share = max_bytes / begins.len();
        let parts = begins.iter().map(|begin| {
            let mut reader = Reader { offset: *begin, ..self.clone() };
            self.apart(move || reader.read_blocking(share))
        });
        let mut frames = Vec::new();
        let mut is_cut = false;
        for (begin, part) in begins.iter().zip(join_all(parts).await) {
            // Where the segment before holds more than its share this one is not next; what is wrong with it is said
            // when the cursor is there.
            is_cut = *begin != self.offset || (part.is_err() && !frames.is_empty());
            if is_cut {
                break;
            }
            frames.extend(self.advance(part?)?);
        }
        let bytes: usize = frames.iter().map(|frame| frame.len()).sum();
        if is_cut {
            self.width = (self.width / 2).max(1);
        } else if bytes < max_bytes / 2 {
            self.width = (self.width * 4).min(MAX_WIDTH);
        }
        Ok(frames)
    }

    /// Does what may wait for the disk on the blocking pool; where the log is driven there is none.
    async fn apart<T: Send + 'static>(
        &self,
        read: impl FnOnce() -> Result<T, ReadError> + Send + 'static,
    ) -> Result<T, ReadError> {
        if self.log.is_driven {
            return read();
        }
        tokio::task::spawn_blocking(read).await.map_err(|_| ReadError::Closed)?
    }

    fn find(&self, max_bytes: usize) -> Found {
        let id = self.namespace.id();
        self.log.shared(id.partition(self.log.partitions())).recent.read().find(id, self.offset, max_bytes)
    }

    fn advance(&mut self, frames: Vec<Arc<SharedFrame>>) -> Result<Vec<Arc<SharedFrame>>, ReadError> {
        if frames.first().is_some_and(|first| first.generation() != self.namespace.generation()) {
            return Err(ReadError::NamespaceNotFound);
        }
        if let Some(last) = frames.last() {
            self.offset = last.next_offset();
        }
        Ok(frames)
    }

    fn read_sealed(&self, max_bytes: usize) -> Result<Vec<Arc<SharedFrame>>, ReadError> {
        let Some(sealed) = self.log.sealed_with(&self.namespace, self.offset)? else { return Ok(Vec::new()) };
        let read = || {
            let entries = sealed.entries(self.namespace.id())?;
            let rest = entries_from(&entries, self.offset);
            let wanted = first_bytes(rest, max_bytes);
            let frames = read_frames(&sealed.file, wanted, &self.namespace)?;
            // While these are sent the disk looks for the next.
            will_read(&sealed.file, first_bytes(&rest[wanted.len()..], max_bytes));
            // Frames that the index has skipped would be a gap that nobody notices, and those before the cursor come twice.
            let mut due = frames.first().map_or(self.offset, |first| first.base_offset().min(self.offset));
            for frame in &frames {
                if frame.base_offset() != due || frame.next_offset() <= self.offset {
                    return Err(damaged(
                        &sealed.file,
                        frame.position(),
                        format!("the index does not lead to offset {due}"),
                    ));
                }
                due = frame.next_offset();
            }
            Ok(frames)
        };
        let read = read();
        let found =
            read.as_ref().is_ok_and(|frames| frames.last().is_some_and(|last| last.next_offset() > self.offset));
        if !found {
            let reopened = self.log.reopen(self.namespace.id().partition(self.log.partitions()), sealed.file.base);
            // Of two errors the first: it says what was not as it must be.
            return read.and_then(|frames| reopened.map(|()| frames));
        }
        read
    }
}

/// Reads frames by their entries, checking that each is the one that the index means.
fn read_frames(
    file: &SegmentFile,
    entries: &[Entry],
    namespace: &Namespace,
) -> Result<Vec<Arc<SharedFrame>>, ReadError> {
    let mut frames = Vec::with_capacity(entries.len());
    let mut rest = entries;
    // What lies apart is asked for at once, so that the disk has all of it to do and not one after the other.
    will_read(file, if entries.is_empty() { entries } else { next_run(entries).2 });
    while !rest.is_empty() {
        let (run, span, later) = next_run(rest);
        let bytes = read_span(file, span.clone())?;
        for entry in run {
            let at = (entry.at - span.start) as usize;
            let position = file.base + u64::from(entry.at);
            let frame = Frame::decode(bytes.slice(at..at + entry.length as usize))
                .map_err(|error| damaged(file, position, error))?;
            let is_meant = frame.position() == position
                && frame.namespace() == namespace.id()
                && frame.base_offset() == entry.base_offset;
            if !is_meant {
                return Err(damaged(file, position, "another frame than the index says"));
            }
            frames.push(Arc::new(SharedFrame::new(frame)));
        }
        rest = later;
    }
    Ok(frames)
}

/// Asks for frames that are to be read.
fn will_read(file: &SegmentFile, entries: &[Entry]) {
    let mut rest = entries;
    while !rest.is_empty() {
        let (_, span, later) = next_run(rest);
        file.file.will_read(file.place(file.base + u64::from(span.start)), u64::from(span.end - span.start));
        rest = later;
    }
}

/// The first entries that are worth reading in one go, the span that they take, and those behind.
fn next_run(entries: &[Entry]) -> (&[Entry], Range<u32>, &[Entry]) {
    let begin = entries[0].at;
    let mut end = begin;
    let mut count = 0;
    for entry in entries {
        let entry_end = entry.at + entry.length;
        if count > 0 && (entry.at - end > MAX_GAP_BYTES || entry_end - begin > MAX_RUN_BYTES) {
            break;
        }
        end = entry_end;
        count += 1;
    }
    let (run, later) = entries.split_at(count);
    (run, begin..end, later)
}

fn read_span(file: &SegmentFile, span: Range<u32>) -> Result<Bytes, ReadError> {
    let mut buffer = BytesMut::zeroed((span.end - span.start) as usize);
    let place = file.place(file.base + u64::from(span.start));
    file.file.read_at(&mut buffer, place).map_err(|source| ReadError::Io { file: file.path.clone(), source })?;
    Ok(buffer.freeze())
}

/// A cursor over all frames of a partition, control frames too, up to the high watermark.
#[derive(Debug)]
pub struct Scan {
    log: Arc<Inner>,
    partition: u16,
    position: Position,
}

impl Scan {
    pub(crate) fn new(log: Arc<Inner>, partition: u16, position: Position) -> Scan {
        Scan { log, partition, position }
    }

    /// Where the cursor stands.
    pub fn position(&self) -> Position {
        self.position
    }

    /// The frames from the cursor on, about `max_bytes` of them and at least one if there is one,
    /// and moves the cursor behind them. None: the cursor is at the high watermark.
    ///
    /// # Errors
    /// Where the cursor is not where a frame begins, or what was durable can't be read.
    pub fn read_blocking(&mut self, max_bytes: usize) -> Result<Vec<Frame>, ReadError> {
        // The place is found first and read after; a segment that is sealed in between keeps its file.
        let at = self.log.shared(self.partition).recent.read().at(self.position, max_bytes);
        let frames = match at {
            At::Nothing => Vec::new(),
            At::Frames(frames) => frames.iter().map(|frame| frame.frame().clone()).collect(),
            At::InFile(file, end) => scan_frames(&file, self.position, end, max_bytes)?,
            At::InSealed(Sealed { base, end }) => {
                let sealed = self.log.sealed(self.partition, Sealed { base, end })?;
                scan_frames(&sealed.file, self.position, end, max_bytes)?
            }
        };
        if let Some(last) = frames.last() {
            self.position = last.end();
        }
        Ok(frames)
    }
}

fn scan_frames(file: &SegmentFile, from: Position, end: Position, max_bytes: usize) -> Result<Vec<Frame>, ReadError> {
    let io = |source| ReadError::Io { file: file.path.clone(), source };
    let mut scan = FrameScan::new(file, from, end).map_err(io)?;
    let mut frames = Vec::new();
    while scan.position() - from < max_bytes as u64 {
        match scan.next() {
            Ok(Some(frame)) => frames.push(frame),
            Ok(None) if scan.position() == end => break,
            Ok(None) => return Err(damaged(file, scan.position(), "the segment ends too early")),
            Err(ScanError::Io(source)) => return Err(io(source)),
            Err(error) => return Err(damaged(file, scan.position(), error)),
        }
    }
    Ok(frames)
}
