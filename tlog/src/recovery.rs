//! Recovery: from the files of a partition to its state.
//!
//! Sealed segments are taken at the word of their indexes. The last segment is read frame by frame;
//! where it stops, what follows decides (invariant 5):
//!
//! ```text
//! frame │ frame │ zeros …                 a clean end
//! frame │ frame │ rubbish …               a torn tail: cut, and zeroed, so that nothing of it can be
//!                                         taken for a frame later
//! frame │ rubbish │ frame of a later      damage: that frame's commit distance says that what lies
//!                   commit                before was durable when it was written
//! frame │ rubbish │ rubbish …, and the    damage: rows are written after the sync only
//!         rows stand for more than this
//! ```
//!
//! A commit of many frames is one write, and a power cut may keep its end and lose its beginning. So
//! a valid frame behind rubbish does not prove damage by itself; one of a later commit does.

use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use tracing::{info, warn};
use wire::frame::VERSION;
use wire::{Frame, FrameError, Position};

use crate::error::{OpenError, ReadError};
use crate::journal::new_segment;
use crate::keeper::zero;
use crate::rows::Rows;
use crate::segment::open::{OpenSegment, SegmentFile};
use crate::segment::scan::{FrameScan, ScanError};
use crate::segment::sealed::{self, Check, Sealed, damaged};
use crate::segment::{HEADER_BYTES, base_of, encode_header};
use crate::state::{REPLAY_GATHER, State};
use crate::storage::Storage;

/// A partition as recovery finds it.
#[derive(Debug)]
pub(crate) struct Recovered {
    pub(crate) sealed: Vec<Sealed>,
    pub(crate) active: OpenSegment,
    /// The position up to which the active segment has space.
    pub(crate) full: Position,
    pub(crate) state: State,
}

/// What recovery works on.
pub(crate) struct Recovery<'a> {
    pub(crate) storage: &'a dyn Storage,
    pub(crate) dir: PathBuf,
    pub(crate) partition: u16,
    pub(crate) segment_bytes: u64,
    pub(crate) rows: Arc<Rows>,
}

impl Recovery<'_> {
    /// Recovers the partition; `state` is what the rows stand for.
    pub(crate) fn run(&self, mut state: State) -> Result<Recovered, OpenError> {
        let bases = self.segments()?;
        let Some((last, before)) = bases.split_last() else {
            return self.first_segment(state);
        };
        let sealed = self.sealed(before, *last)?;
        let file = sealed::open_file(self.storage, &self.dir, *last)?;
        let active = self.last_segment(&file, state.end())?;
        if state.end() > active.end && !mutant!(BelieveRowsAhead) {
            let dir = self.rows.dir().to_owned();
            return Err(OpenError::RowsAhead { dir, rows: state.end(), log: active.end });
        }
        if state.end() < active.end {
            self.replay(&mut state, &sealed, &active)?;
        }
        self.locate(&sealed)?;
        let length = active.file.file.len().map_err(|source| io_error(&active.file.path, source))?;
        let full = active.end.max(*last + length.saturating_sub(HEADER_BYTES as u64));
        Ok(Recovered { sealed, active, full, state })
    }

    fn io(&self, source: io::Error) -> OpenError {
        io_error(&self.dir, source)
    }

    /// The bases of the partition's segments, ascending. What was being made when the process ended
    /// is removed, and what it had renamed is made durable: it may have ended before its own sync.
    fn segments(&self) -> Result<Vec<Position>, OpenError> {
        let files = self.storage.list(&self.dir).map_err(|source| self.io(source))?;
        for unfinished in files.iter().filter(|path| path.extension().is_some_and(|extension| extension == "tmp")) {
            self.storage.remove(unfinished).map_err(|source| io_error(unfinished, source))?;
        }
        if !mutant!(SkipFolderSyncAtStart) {
            self.storage.sync_dir(&self.dir).map_err(|source| self.io(source))?;
        }
        let mut bases: Vec<Position> = files.iter().filter_map(|path| base_of(path)).collect();
        bases.sort_unstable();
        Ok(bases)
    }

    fn first_segment(&self, state: State) -> Result<Recovered, OpenError> {
        if state.end() > 0 {
            let dir = self.rows.dir().to_owned();
            return Err(OpenError::RowsAhead { dir, rows: state.end(), log: 0 });
        }
        let path = crate::segment::log_path(&self.dir, 0);
        let file = new_segment(self.storage, &self.dir, self.partition, 0, self.segment_bytes, None)
            .map_err(|source| io_error(&path, source))?;
        zero(&*file, HEADER_BYTES as u64, HEADER_BYTES as u64 + self.segment_bytes)
            .and_then(|()| file.sync_data())
            .map_err(|source| io_error(&path, source))?;
        let active = OpenSegment::new(SegmentFile { path, base: 0, file });
        Ok(Recovered { sealed: Vec::new(), active, full: self.segment_bytes, state })
    }

    /// Where the sealed segments begin and end: each where the one before it ends.
    fn sealed(&self, bases: &[Position], last: Position) -> Result<Vec<Sealed>, OpenError> {
        let mut sealed = Vec::with_capacity(bases.len());
        for (at, base) in bases.iter().enumerate() {
            let due = sealed.last().map_or(0, |before: &Sealed| before.end);
            if *base != due {
                return Err(self.hole(due, *base));
            }
            let next = bases.get(at + 1).copied().unwrap_or(last);
            match sealed::index_header(self.storage, &self.dir, *base) {
                Some(header) if header.end == next => {}
                Some(header) if header.end < next => return Err(self.hole(header.end, next)),
                _ => self.seal_again(*base, next)?,
            }
            sealed.push(Sealed { base: *base, end: next });
        }
        let due = sealed.last().map_or(0, |before| before.end);
        if last == due { Ok(sealed) } else { Err(self.hole(due, last)) }
    }

    fn hole(&self, due: Position, found: Position) -> OpenError {
        let reason = format!("the segment that begins here is missing, the next one begins at {found}");
        OpenError::Damaged { file: self.dir.clone(), position: due, reason }
    }

    /// Makes the index of a segment that is not the last, whose frames must reach up to the next.
    fn seal_again(&self, base: Position, next: Position) -> Result<(), OpenError> {
        let file = sealed::open_file(self.storage, &self.dir, base)?;
        let segment = sealed::index_again(&file, next)?;
        info!(segment = %file.path.display(), "the index is made again");
        sealed::seal(self.storage, &self.dir, &segment).map_err(|source| io_error(&file.path, source))
    }

    /// Reads the last segment, cuts a torn tail, and makes sure that what is left is durable.
    fn last_segment(&self, file: &SegmentFile, applied: Position) -> Result<OpenSegment, OpenError> {
        let io = |source| io_error(&file.path, source);
        let mut segment = OpenSegment::new(file.clone());
        let mut last_commit = Vec::new();
        let header_is_right = file.has_header(self.partition).map_err(io)?;
        let mut scan = FrameScan::new(file, file.base, Position::MAX).map_err(io)?;
        let stopped_by = loop {
            match scan.next() {
                Ok(Some(frame)) => {
                    let same_write =
                        last_commit.last().is_some_and(|last: &Frame| last.commit_start() == frame.commit_start());
                    if !same_write {
                        last_commit.clear();
                    }
                    segment.push(&frame);
                    last_commit.push(frame);
                }
                Ok(None) => break "the file ends".to_owned(),
                Err(ScanError::Io(source)) => return Err(io(source)),
                // It is whole, so it was written by a later version: nothing is torn here.
                Err(ScanError::Frame(FrameError::BadVersion(found))) => {
                    let (file, position) = (file.path.clone(), scan.position());
                    return Err(OpenError::FrameVersion { file, position, found, known: VERSION });
                }
                Err(error) => break error.to_string(),
            }
        };
        if !header_is_right && segment.end > file.base {
            return Err(damaged(file, file.base, "the segment's header is not its own").into());
        }
        self.cut_tail(&segment, applied, &stopped_by)?;
        self.write_again(&segment, &last_commit, header_is_right).map_err(io)?;
        Ok(segment)
    }

    /// Zeroes what follows the last frame, once it is sure that none of it was durable.
    fn cut_tail(&self, segment: &OpenSegment, applied: Position, stopped_by: &str) -> Result<(), OpenError> {
        let file = &segment.file;
        let io = |source| io_error(&file.path, source);
        let bytes = match tail_behind(file, segment.end).map_err(io)? {
            Tail::Clean => return Ok(()),
            Tail::Torn { .. } if applied > segment.end => return Err(damaged(file, segment.end, stopped_by).into()),
            Tail::Torn { bytes } => bytes,
            Tail::Damaged { later } => {
                let reason = format!("{stopped_by}; it was durable when position {later} was written");
                return Err(damaged(file, segment.end, reason).into());
            }
        };
        warn!(
            segment = %file.path.display(), position = segment.end, bytes, reason = stopped_by,
            "cut a torn tail: a write that was never acknowledged"
        );
        let from = file.place(segment.end);
        if mutant!(KeepTornTail) {
            return Ok(());
        }
        let cut = || {
            // The file gives its tail up and gets a new one, so that even where the sync fails nothing of
            // the old one is left on the disk that memory shows as zeros.
            let length = file.file.len()?;
            file.file.truncate(from)?;
            file.file.allocate(length)?;
            zero(&*file.file, from, from + bytes)?;
            file.file.sync_data()
        };
        cut().map_err(io)
    }

    /// Writes the last commit once more. Its sync may never have returned, or have failed and left
    /// pages that look clean and are not on the disk; only a write and a sync that returns tell.
    fn write_again(&self, segment: &OpenSegment, last_commit: &[Frame], header_is_right: bool) -> io::Result<()> {
        let file = &segment.file;
        if mutant!(SkipWriteAgain) {
            return Ok(());
        }
        if !header_is_right {
            file.file.write_at(&[IoSlice::new(&encode_header(self.partition, file.base))], 0)?;
        }
        if let Some(first) = last_commit.first() {
            let buffers: Vec<IoSlice<'_>> = last_commit.iter().map(|frame| IoSlice::new(frame.bytes())).collect();
            file.file.write_at(&buffers, file.place(first.position()))?;
        }
        file.file.sync_data()
    }

    /// Applies the frames that the rows do not yet stand for.
    fn replay(&self, state: &mut State, sealed: &[Sealed], active: &OpenSegment) -> Result<(), OpenError> {
        let from = state.end();
        let behind = sealed.partition_point(|sealed| sealed.end <= from);
        for sealed in &sealed[behind..] {
            let file = sealed::open_file(self.storage, &self.dir, sealed.base)?;
            replay_segment(state, &file, sealed.end)?;
        }
        replay_segment(state, &active.file, active.end)?;
        if state.end() > from {
            info!(partition = self.partition, from, to = state.end(), "replayed");
            state.write()?;
        }
        Ok(())
    }

    /// Writes the rows of sealed segments that have none yet.
    fn locate(&self, sealed: &[Sealed]) -> Result<(), OpenError> {
        let located = self.rows.located(self.partition)?;
        for sealed in sealed.iter().filter(|sealed| sealed.base >= located) {
            let segment = sealed::open(self.storage, &self.dir, self.partition, *sealed, Check::Whole)?;
            let firsts = segment.index.firsts().map_err(|source| io_error(&segment.file.path, source))?;
            self.rows.locate(self.partition, firsts.into_iter(), sealed.base, sealed.end)?;
        }
        Ok(())
    }
}

fn replay_segment(state: &mut State, file: &SegmentFile, end: Position) -> Result<(), OpenError> {
    let wrong = |position, reason: String| OpenError::from(damaged(file, position, reason));
    let mut scan =
        FrameScan::new(file, state.end().max(file.base), end).map_err(|source| io_error(&file.path, source))?;
    loop {
        let position = scan.position();
        let frame = match scan.next() {
            Ok(Some(frame)) => frame,
            Ok(None) if position == end => return Ok(()),
            Ok(None) => return Err(wrong(position, "the segment ends too early".to_owned())),
            Err(ScanError::Io(source)) => return Err(io_error(&file.path, source)),
            Err(error) => return Err(wrong(position, error.to_string())),
        };
        if let Some(contradiction) = state.contradiction(&frame)? {
            return Err(wrong(position, contradiction));
        }
        state.apply(&frame).map_err(|error| wrong(position, error.to_string()))?;
        if state.has_gathered(REPLAY_GATHER) {
            state.write()?;
        }
    }
}

/// What follows the last frame of the last segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tail {
    /// Zeros.
    Clean,
    /// Up to so many bytes of a write that was not durable.
    Torn { bytes: u64 },
    /// What was durable when the frame at position `later` was written.
    Damaged { later: Position },
}

/// Judges what follows `end`, the position behind the last frame of the last segment.
pub(crate) fn tail_behind(file: &SegmentFile, end: Position) -> io::Result<Tail> {
    let from = file.place(end);
    let mut rest = vec![0; file.file.len()?.saturating_sub(from) as usize];
    file.file.read_at(&mut rest, from)?;
    let Some(last_used) = rest.iter().rposition(|byte| *byte != 0) else { return Ok(Tail::Clean) };
    Ok(match frame_of_later_commit(&Bytes::from(rest), end) {
        Some(later) if !mutant!(CutDamage) => Tail::Damaged { later },
        _ => Tail::Torn { bytes: last_used as u64 + 1 },
    })
}

/// The position of a whole frame in `rest`, which begins at `position`, whose commit began behind
/// `position`: so what is at `position` was durable. One of a later version is taken for one.
///
/// What is not in its place is not read: values may be full of what looks like the beginning of a long
/// frame, and to take the CRC of each would take hours.
fn frame_of_later_commit(rest: &Bytes, position: Position) -> Option<Position> {
    memchr::memmem::find_iter(rest, &wire::frame::MAGIC).find_map(|at| {
        let place = position + at as u64;
        if Frame::claimed_position(&rest[at..]) != Some(place) {
            return None;
        }
        let length = Frame::length(&rest[at..]).ok().filter(|length| at + length <= rest.len())?;
        let frame = match Frame::decode(rest.slice(at..at + length)) {
            // It is whole, and whether it is of a later commit only a later version can tell.
            Err(FrameError::BadVersion(_)) => return Some(place),
            frame => frame.ok()?,
        };
        (frame.commit_start() > position).then_some(place)
    })
}

fn io_error(file: &Path, source: io::Error) -> OpenError {
    OpenError::Io { file: file.to_owned(), source }
}

impl From<ReadError> for OpenError {
    fn from(error: ReadError) -> OpenError {
        match error {
            ReadError::Damaged { file, position, reason } => OpenError::Damaged { file, position, reason },
            ReadError::Io { file, source } => OpenError::Io { file, source },
            other => OpenError::Options(other.to_string()),
        }
    }
}
