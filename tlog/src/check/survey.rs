//! What is left of a partition: its segments read from end to end, over whatever is damaged.
//!
//! ```text
//! frame │ frame │ no frame ……………………… │ frame │ frame │ zeros, or a torn tail
//!               └───────── hole ─────────┘ found by its magic, and by that it says this very position
//! ```
//!
//! A hole ends where its segment does at the latest. In the last segment it is one only if it was
//! durable: a frame of a later commit says so, or the rows stand for more. What is not is a torn tail.

use std::io;
use std::path::{Path, PathBuf};

use bytes::{Bytes, BytesMut};
use rustc_hash::FxHashMap;
use wire::frame::{HEADER_BYTES as FRAME_HEADER_BYTES, MAGIC, PREFIX_BYTES, VERSION};
use wire::{Frame, FrameError, NamespaceId, Offset, Position};

use super::ledger::{Ledger, most_records};
use crate::error::OpenError;
use crate::segment::index::{self, Index};
use crate::segment::open::{OpenSegment, SegmentFile};
use crate::segment::scan::{FrameScan, ScanError};
use crate::segment::{HEADER_BYTES, base_of, encode_header, index_base_of, index_path, log_path};
use crate::storage::Storage;

/// How much is searched at once for the next frame.
const SEARCH_BYTES: u64 = 1 << 20;

/// Bytes that tell whether a frame may begin at a position: up to its own.
const HINT_BYTES: usize = 24;

/// Where frames were and none is.
#[derive(Debug)]
pub(crate) struct Hole {
    pub(crate) from: Position,
    pub(crate) to: Position,
    /// The segment that it lies in.
    pub(crate) segment: usize,
    pub(crate) reason: String,
    /// The offset of the next control record before it, as far as is known.
    pub(crate) control_next: Offset,
    /// The time of the last frame before it.
    pub(crate) time_micros: Option<i64>,
    /// What stood in it, if the segment's index says so.
    pub(crate) stood: Option<Vec<Stood>>,
    /// What its own bytes say: not to be relied on for more than a bound.
    pub(crate) hints: Vec<Stood>,
}

/// A frame that stood in a hole.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stood {
    pub(crate) namespace: NamespaceId,
    pub(crate) base_offset: Offset,
    /// The offset behind it, at most.
    pub(crate) next_offset: Offset,
}

/// A segment that is there, or must have been.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) base: Position,
    /// Where the next one begins, or in the last one what is durable ends.
    pub(crate) end: Position,
    pub(crate) path: PathBuf,
    pub(crate) file: Option<SegmentFile>,
    pub(crate) is_last: bool,
    pub(crate) header_is_right: bool,
    /// What is wrong with its index. Of a segment with a hole it is not known.
    pub(crate) index_fault: Option<String>,
}

/// What is left of a partition.
#[derive(Debug)]
pub(crate) struct Survey {
    pub(crate) segments: Vec<Segment>,
    pub(crate) holes: Vec<Hole>,
    pub(crate) ledger: Ledger,
    /// The position behind all that was durable.
    pub(crate) end: Position,
    pub(crate) torn_bytes: u64,
    /// Files that were being made when a process ended.
    pub(crate) unfinished: Vec<PathBuf>,
}

/// What a survey is of.
pub(crate) struct Surveyor<'a> {
    pub(crate) storage: &'a dyn Storage,
    pub(crate) dir: PathBuf,
    pub(crate) partition: u16,
    pub(crate) partitions: u16,
    /// What the rows stand for, if there are rows.
    pub(crate) applied: Position,
    /// Files that are to take the place of segments.
    pub(crate) replaced: &'a FxHashMap<Position, PathBuf>,
}

/// Who looks at the frames of a survey, in their order; `true` while there has been no hole.
pub(crate) type Visit<'a> = &'a mut dyn FnMut(&Frame, bool) -> Result<(), OpenError>;

/// A survey under way.
struct Survivors<'a, 'b> {
    of: &'a Surveyor<'a>,
    visit: Visit<'b>,
    survey: Survey,
    open: Option<Hole>,
}

pub(crate) fn io_error(file: &Path, source: io::Error) -> OpenError {
    OpenError::Io { file: file.to_owned(), source }
}

impl Surveyor<'_> {
    /// Reads the partition from its beginning to what was durable of it.
    pub(crate) fn run(&self, visit: Visit<'_>, progress: &mut dyn FnMut(u64)) -> Result<Survey, OpenError> {
        let (segments, unfinished) = self.segments()?;
        let survey = Survey {
            segments,
            holes: Vec::new(),
            ledger: Ledger::new(self.partition, self.partitions),
            end: 0,
            torn_bytes: 0,
            unfinished,
        };
        let mut survivors = Survivors { of: self, visit, survey, open: None };
        for index in 0..survivors.survey.segments.len() {
            let bytes = survivors.segment(index)?;
            progress(bytes);
        }
        Ok(survivors.survey)
    }

    /// The segments that are there, and those that must have been.
    fn segments(&self) -> Result<(Vec<Segment>, Vec<PathBuf>), OpenError> {
        let mut files = match self.storage.list(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            files => files.map_err(|source| io_error(&self.dir, source))?,
        };
        let unfinished = files.extract_if(.., |path| path.extension().is_some_and(|e| e == "tmp")).collect();
        let mut bases: Vec<Position> = files.iter().filter_map(|path| base_of(path)).collect();
        let mut end = self.applied;
        // A sound index whose segment is gone says where that began.
        for base in files.iter().filter_map(|path| index_base_of(path)).filter(|base| !self.replaced.contains_key(base))
        {
            if let Some(index) = self.index(base).filter(|_| !bases.contains(&base)) {
                bases.push(base);
                end = end.max(index.header().end);
            }
        }
        bases.extend(self.replaced.keys());
        if end > 0 || !bases.is_empty() {
            bases.push(0);
        }
        bases.sort_unstable();
        bases.dedup();
        let mut segments = Vec::new();
        for (at, base) in bases.iter().enumerate() {
            let next = bases.get(at + 1).copied();
            segments.push(self.open(*base, next)?);
        }
        if let Some(behind) = self.close_last(&mut segments, end)? {
            segments.push(behind);
        }
        Ok((segments, unfinished))
    }

    fn index(&self, base: Position) -> Option<Index> {
        let file = self.storage.open(&index_path(&self.dir, base)).ok()?;
        Index::open(file).ok().filter(|index| index.header().base == base && index.header().end >= base)
    }

    fn open(&self, base: Position, next: Option<Position>) -> Result<Segment, OpenError> {
        let path = log_path(&self.dir, base);
        let written_as = self.replaced.get(&base).unwrap_or(&path);
        let file = match self.storage.open(written_as) {
            Ok(file) => Some(SegmentFile { path: path.clone(), base, file }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(io_error(&path, error)),
        };
        let header_is_right = match &file {
            Some(file) => self.header_is_right(file).map_err(|source| io_error(&path, source))?,
            None => true,
        };
        let (is_last, end) = (next.is_none(), next.unwrap_or(base));
        Ok(Segment { base, end, path, file, is_last, header_is_right, index_fault: None })
    }

    fn header_is_right(&self, file: &SegmentFile) -> io::Result<bool> {
        let mut header = [0; HEADER_BYTES];
        let length = file.file.len()?.min(HEADER_BYTES as u64) as usize;
        file.file.read_at(&mut header[..length], 0)?;
        Ok(header == encode_header(self.partition, file.base))
    }

    /// Finds where the last segment ends. Where it was sealed and more was durable, another stood behind it.
    fn close_last(&self, segments: &mut [Segment], end: Position) -> Result<Option<Segment>, OpenError> {
        let Some(last) = segments.last_mut() else { return Ok(None) };
        let Some(file) = &last.file else {
            last.end = end.max(last.base);
            return Ok(None);
        };
        let durable = durable_end(file, end)?;
        last.end = durable;
        let sealed = self.index(last.base).map(|index| index.header().end).filter(|sealed| *sealed < durable);
        let Some(sealed) = sealed else {
            // In one that only just was made there may be no header yet.
            last.header_is_right |= last.end == last.base;
            return Ok(None);
        };
        if file.file.len().map_err(|source| io_error(&last.path, source))? > file.place(sealed) {
            return Ok(None);
        }
        (last.end, last.is_last) = (sealed, false);
        let mut behind = self.open(sealed, None)?;
        behind.end = durable;
        Ok(Some(behind))
    }
}

impl Survivors<'_, '_> {
    /// Reads a segment; says how many bytes of frames it has.
    fn segment(&mut self, index: usize) -> Result<u64, OpenError> {
        let Segment { base, end, file, path, is_last, .. } = &self.survey.segments[index];
        let (base, end, file, path, is_last) = (*base, *end, file.clone(), path.clone(), *is_last);
        let io = |source| io_error(&path, source);
        let holes = self.survey.holes.len();
        let mut whole = None;
        match &file {
            Some(file) => whole = self.frames(index, file, end)?,
            None if end > base => self.open_hole(index, base, "the segment that begins here is missing".to_owned()),
            None => {}
        }
        self.close_hole(end);
        if let (Some(file), true) = (&file, is_last) {
            self.survey.torn_bytes = torn_bytes(file, end).map_err(io)?;
        }
        self.survey.end = end;
        match whole {
            _ if is_last => {}
            Some(whole) if self.survey.holes.len() == holes => {
                let fault = self.of.index_fault(&whole);
                self.survey.segments[index].index_fault = fault;
            }
            _ => self.learn(index, file.as_ref(), holes).map_err(io)?,
        }
        if is_last {
            self.learn(index, file.as_ref(), holes).map_err(io)?;
        }
        Ok(end - base)
    }

    fn frames(&mut self, index: usize, file: &SegmentFile, end: Position) -> Result<Option<OpenSegment>, OpenError> {
        let io = |source| io_error(&file.path, source);
        let mut whole = Some(OpenSegment::new(file.clone()));
        let mut position = file.base;
        loop {
            let mut scan = FrameScan::new(file, position, end).map_err(io)?;
            let (at, reason, behind) = loop {
                let at = scan.position();
                match scan.next() {
                    Ok(Some(frame)) => match self.survey.ledger.judge(&frame) {
                        None => self.take(&frame, &mut whole)?,
                        Some(reason) => break (at, reason, frame.end()),
                    },
                    Ok(None) if at == end => return Ok(whole),
                    Ok(None) => break (at, "the segment ends too early".to_owned(), end),
                    Err(ScanError::Io(source)) => return Err(io(source)),
                    Err(ScanError::Frame(FrameError::BadVersion(found))) => {
                        return Err(later_version(file, at, found));
                    }
                    Err(error) => break (at, error.to_string(), at + 1),
                }
            };
            whole = None;
            self.open_hole(index, at, reason);
            match next_frame(file, behind, end)? {
                Some(frame) => position = frame.position(),
                None => return Ok(None),
            }
        }
    }

    fn take(&mut self, frame: &Frame, whole: &mut Option<OpenSegment>) -> Result<(), OpenError> {
        self.close_hole(frame.position());
        if let Some(whole) = whole {
            whole.push(frame);
        }
        self.survey.ledger.take(frame);
        (self.visit)(frame, self.survey.holes.is_empty())
    }

    fn open_hole(&mut self, segment: usize, from: Position, reason: String) {
        if self.open.is_some() {
            return;
        }
        let ledger = &mut self.survey.ledger;
        let (control_next, time_micros) = (ledger.control_next(), ledger.last_time);
        ledger.open_hole(from);
        let (stood, hints) = (None, Vec::new());
        self.open = Some(Hole { from, to: from, segment, reason, control_next, time_micros, stood, hints });
    }

    fn close_hole(&mut self, to: Position) {
        if let Some(mut hole) = self.open.take() {
            hole.to = to;
            self.survey.ledger.close_hole(to);
            self.survey.holes.push(hole);
        }
    }

    /// Looks what stood in the holes of a segment, from `first` on.
    fn learn(&mut self, index: usize, file: Option<&SegmentFile>, first: usize) -> io::Result<()> {
        let segment = &mut self.survey.segments[index];
        let (base, end) = (segment.base, segment.end);
        let found = self.of.index(base).filter(|index| index.header().end == end);
        let rows = found.map(|index| index.all()).and_then(Result::ok);
        for hole in &mut self.survey.holes[first..] {
            if let Some(rows) = &rows {
                let within = |at: u32| (hole.from..hole.to).contains(&(base + u64::from(at)));
                let stood = rows.iter().enumerate().filter(|(_, (_, entry))| within(entry.at));
                hole.stood = Some(
                    stood
                        .map(|(at, (namespace, entry))| {
                            let next = rows.get(at + 1).filter(|(other, _)| other == namespace);
                            let most = entry.base_offset + most_records(u64::from(entry.length));
                            let next_offset = next.map_or(most, |(_, next)| next.base_offset);
                            Stood { namespace: *namespace, base_offset: entry.base_offset, next_offset }
                        })
                        .collect(),
                );
            } else if let Some(file) = file {
                hole.hints = hints(file, hole)?;
            }
        }
        Ok(())
    }
}

impl Surveyor<'_> {
    /// What is wrong with the index of a whole segment.
    fn index_fault(&self, segment: &OpenSegment) -> Option<String> {
        if self.replaced.contains_key(&segment.file.base) {
            return None;
        }
        let expected = index::encode(segment);
        let read = self.storage.open(&index_path(&self.dir, segment.file.base)).and_then(|file| {
            let mut bytes = vec![0; file.len()?.min(expected.len() as u64 + 1) as usize];
            file.read_at(&mut bytes, 0).map(|()| bytes)
        });
        match read {
            Ok(bytes) if bytes == expected => None,
            Ok(_) => Some("it is not the index of its segment".to_owned()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Some("the index is missing".to_owned()),
            Err(error) => Some(error.to_string()),
        }
    }
}

/// What a frame of a later version is to a check: whole, and no damage, but nothing that it can judge.
fn later_version(file: &SegmentFile, position: Position, found: u8) -> OpenError {
    OpenError::FrameVersion { file: file.path.clone(), position, found, known: VERSION }
}

/// The first whole frame at `from` or behind, and before `end`, that says that it belongs there.
fn next_frame(file: &SegmentFile, from: Position, end: Position) -> Result<Option<Frame>, OpenError> {
    let io = |source| io_error(&file.path, source);
    let end = end.min(file.base + file.file.len().map_err(io)?.saturating_sub(HEADER_BYTES as u64));
    let mut begin = from;
    while begin + (HINT_BYTES as u64) < end {
        let mut part = vec![0; (end - begin).min(SEARCH_BYTES) as usize];
        file.file.read_at(&mut part, file.place(begin)).map_err(io)?;
        for at in memchr::memmem::find_iter(&part, &MAGIC) {
            let position = begin + at as u64;
            let Some(hint) = part.get(at..at + HINT_BYTES) else { break };
            let says = hint[16..].first_chunk().map(|field| u64::from_le_bytes(*field));
            let Ok(length) = Frame::length(&hint[..PREFIX_BYTES]) else { continue };
            if says != Some(position) || position + length as u64 > end {
                continue;
            }
            let mut bytes = BytesMut::zeroed(length);
            file.file.read_at(&mut bytes, file.place(position)).map_err(io)?;
            match Frame::decode(bytes.freeze()) {
                Ok(frame) => return Ok(Some(frame)),
                Err(FrameError::BadVersion(found)) => return Err(later_version(file, position, found)),
                Err(_) => {}
            }
        }
        // The next part begins so early that what is cut off at the end of this one is seen whole.
        begin += (part.len() - HINT_BYTES) as u64;
    }
    Ok(None)
}

/// The position behind all that was durable in the last segment. `applied` is what others stand for.
fn durable_end(file: &SegmentFile, applied: Position) -> Result<Position, OpenError> {
    let io = |source| io_error(&file.path, source);
    let mut position = file.base;
    loop {
        let mut scan = FrameScan::new(file, position, Position::MAX).map_err(io)?;
        let end = loop {
            match scan.next() {
                Ok(Some(_)) => {}
                Err(ScanError::Io(error)) => return Err(io(error)),
                Err(ScanError::Frame(FrameError::BadVersion(found))) => {
                    return Err(later_version(file, scan.position(), found));
                }
                Ok(None) | Err(_) => break scan.position(),
            }
        };
        let mut later = next_frame(file, end + 1, Position::MAX)?;
        let first = later.as_ref().map(Frame::position);
        // One of a later commit, behind whatever lies in between, proves what stands before it.
        while let Some(frame) = later.take_if(|frame| frame.commit_start() <= end) {
            later = next_frame(file, frame.end(), Position::MAX)?;
        }
        position = match (later, first) {
            (Some(_), Some(first)) => first,
            _ if applied <= end => return Ok(end),
            (None, Some(first)) if first < applied => first,
            _ => applied,
        };
        if position >= file.base + file.file.len().map_err(io)?.saturating_sub(HEADER_BYTES as u64) {
            return Ok(position);
        }
    }
}

/// Bytes behind what was durable that are not zero.
fn torn_bytes(file: &SegmentFile, end: Position) -> io::Result<u64> {
    let (mut from, to) = (file.place(end), file.file.len()?);
    let (begin, mut torn) = (from, 0);
    while from < to {
        let mut part = vec![0; (to - from).min(SEARCH_BYTES) as usize];
        file.file.read_at(&mut part, from)?;
        if let Some(at) = part.iter().rposition(|byte| *byte != 0) {
            torn = from + at as u64 + 1 - begin;
        }
        from += part.len() as u64;
    }
    Ok(torn)
}

/// What the headers in a hole say, one behind the other, as far as they look like those of frames that
/// stood there.
fn hints(file: &SegmentFile, hole: &Hole) -> io::Result<Vec<Stood>> {
    let mut hints = Vec::new();
    let mut position = hole.from;
    let end = hole.to.min(file.base + file.file.len()?.saturating_sub(HEADER_BYTES as u64));
    while position + (FRAME_HEADER_BYTES as u64) < end {
        let mut header = BytesMut::zeroed(FRAME_HEADER_BYTES);
        file.file.read_at(&mut header, file.place(position))?;
        let header: Bytes = header.freeze();
        let field = |at: usize| header[at..].first_chunk().map_or(0, |field| u64::from_le_bytes(*field));
        let says_so = header[..4] == MAGIC && field(16) == position;
        let Some(length) = Frame::length(&header).ok().filter(|_| says_so).map(|length| length as u64) else { break };
        let (base_offset, count) = (field(72), field(104) >> 32);
        let records = count.min(most_records(length));
        if let (Some(namespace), Some(next_offset)) =
            (NamespaceId::new(field(64) as u32), base_offset.checked_add(records))
        {
            hints.push(Stood { namespace, base_offset, next_offset });
        }
        position += length;
    }
    Ok(hints)
}
