//! The place where a frame becomes durable: the second seam of the log, and a narrow one.
//!
//! ```text
//!            end               end + room
//!  … │ frames │                    │
//!             ▲ the next append     ▲ needs make_room first
//! ```
//!
//! [`LocalJournal`] writes to the active segment. Another implementation will commit to a replicated
//! engine by compare-and-append ("append these if your end is P"), which is why an append names the
//! position that it continues.

use std::fmt::Debug;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use wire::Position;

use crate::keeper::{Keeper, Spare};
use crate::metrics::JournalMetrics;
use crate::options::Clock;
use crate::partition::Shared;
use crate::segment::open::SegmentFile;
use crate::segment::{HEADER_BYTES, encode_header, log_path};
use crate::shared_frame::SharedFrame;
use crate::storage::{File, Storage};

/// How many segments may wait to be sealed before no new one is made: their indexes are in memory.
const MAX_UNSEALED: usize = 8;

/// Where a partition's frames become durable.
pub(crate) trait Journal: Debug + Send {
    /// Bytes that the next append may have without want of space.
    fn room(&self) -> u64;

    /// Sees to it that there is room for this many bytes. A failure has changed nothing, and a later
    /// call may succeed: frames are not yet placed when this is asked.
    fn make_room(&mut self, bytes: u64) -> io::Result<()>;

    /// Makes frames durable that continue the journal at position `at`. They fit the room.
    ///
    /// # Errors
    /// After one the frames may be there or not, and the journal takes no more (invariant 6).
    fn append(&mut self, at: Position, frames: &[Arc<SharedFrame>]) -> io::Result<()>;
}

/// The journal on this machine: the partition's active segment.
#[derive(Debug)]
pub(crate) struct LocalJournal {
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) dir: PathBuf,
    pub(crate) segment_bytes: u64,
    pub(crate) active: SegmentFile,
    /// The position behind the last frame.
    pub(crate) end: Position,
    /// The position up to which the active segment has space.
    pub(crate) full: Position,
    pub(crate) shared: Arc<Shared>,
    pub(crate) keeper: Keeper,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) metrics: JournalMetrics,
}

impl Journal for LocalJournal {
    fn room(&self) -> u64 {
        self.full - self.end
    }

    fn make_room(&mut self, bytes: u64) -> io::Result<()> {
        if self.room() >= bytes {
            return Ok(());
        }
        if self.end == self.active.base {
            // The first frame of a segment, and larger than it: the segment grows.
            self.active.file.allocate(HEADER_BYTES as u64 + bytes)?;
            self.full = self.end + bytes;
            return Ok(());
        }
        if self.unsealed() >= MAX_UNSEALED {
            self.keeper.seal_now();
        }
        if self.unsealed() >= MAX_UNSEALED {
            return Err(io::Error::other(format!("{MAX_UNSEALED} segments wait for their index to be written")));
        }
        self.roll(bytes.max(self.segment_bytes))
    }

    fn append(&mut self, at: Position, frames: &[Arc<SharedFrame>]) -> io::Result<()> {
        assert_eq!(at, self.end, "an append continues the journal");
        let buffers: Vec<IoSlice<'_>> = frames.iter().map(|frame| IoSlice::new(frame.bytes())).collect();
        let bytes: u64 = frames.iter().map(|frame| frame.len() as u64).sum();
        assert!(bytes <= self.room(), "an append fits the room that was made");
        let begun = self.clock.monotonic_nanos();
        let write = self.active.file.write_at(&buffers, self.active.place(at));
        if !mutant!(IgnoreFailedWrite) {
            write?;
        }
        let written = self.clock.monotonic_nanos();
        let mut sync = if mutant!(AckBeforeSync) { Ok(()) } else { self.active.file.sync_data() };
        if mutant!(RetryFailedSync) && sync.is_err() {
            sync = self.active.file.sync_data();
        }
        sync?;
        let synced = self.clock.monotonic_nanos();
        self.metrics.commit(frames.len(), bytes, written - begun, synced - written);
        let half = self.active.base + (self.full - self.active.base) / 2;
        if (at..at + bytes).contains(&half) {
            self.keeper.prepare();
        }
        self.end += bytes;
        Ok(())
    }
}

impl LocalJournal {
    fn unsealed(&self) -> usize {
        self.shared.recent.read().unsealed()
    }

    /// Makes a new segment the active one, with space for `bytes` of frames.
    fn roll(&mut self, bytes: u64) -> io::Result<()> {
        let path = log_path(&self.dir, self.end);
        // Whatever becomes of this, the old segment ends here: a failure may leave a file behind that
        // says so.
        if !mutant!(OldSegmentGoesOn) {
            self.full = self.end;
        }
        let file = new_segment(&*self.storage, &self.dir, self.shared.id, self.end, bytes, self.keeper.take_spare())?;
        let active = SegmentFile { path, base: self.end, file };
        self.shared.recent.write().roll(active.clone());
        self.keeper.seal();
        self.active = active;
        self.full = self.end + bytes;
        Ok(())
    }
}

/// Makes the file of a segment: the spare, where there is one, or a new one. Its header becomes
/// durable with its first frame.
pub(crate) fn new_segment(
    storage: &dyn Storage,
    dir: &Path,
    partition: u16,
    base: Position,
    bytes: u64,
    spare: Option<Spare>,
) -> io::Result<Arc<dyn File>> {
    let Spare { path, file } = match spare {
        Some(spare) => spare,
        None => {
            let path = dir.join(NEW_SEGMENT);
            // What an earlier try left behind.
            match storage.remove(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => Spare { file: storage.create(&path)?, path },
            }
        }
    };
    let name = || {
        file.allocate(HEADER_BYTES as u64 + bytes)?;
        file.write_at(&[IoSlice::new(&encode_header(partition, base))], 0)?;
        storage.rename(&path, &log_path(dir, base))?;
        if mutant!(SkipFolderSync) { Ok(()) } else { storage.sync_dir(dir) }
    };
    if let Err(error) = name() {
        // What it holds may be what is wanting. Where this fails too, the next start removes it.
        let _ = storage.remove(&path);
        return Err(error);
    }
    Ok(file)
}

/// A segment that is being made without a spare.
const NEW_SEGMENT: &str = "new.tmp";
