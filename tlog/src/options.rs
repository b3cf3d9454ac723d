//! What can be chosen when a log is opened, and the clock that is passed in.

use std::fmt::Debug;

use wire::limits::{MAX_FRAME_BYTES, MAX_PARTITIONS};

use crate::error::OpenError;

/// Time, as the log is told it: below the broker nobody reads a clock.
pub trait Clock: Debug + Send + Sync + 'static {
    /// Microseconds since the Unix epoch.
    fn now_micros(&self) -> i64;

    /// Nanoseconds since some fixed moment; never goes back. Only measurements use it.
    fn monotonic_nanos(&self) -> u64;
}

/// How much gathers in memory before it goes to the rows: until one of both is reached; with 0, whatever there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gather {
    /// Rows that have changed: a namespace's head is one, up to 2 KiB, however often it has moved.
    pub rows: usize,
    /// Length of the frames that have changed them, bytes: a restart behind a crash applies these again.
    pub bytes: u64,
}

/// What can be chosen when a log is opened.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Partitions of a folder that is being made: a power of two up to 256. A folder that exists
    /// keeps its own.
    pub partitions: u16,
    /// Size of a segment, bytes; a frame that is larger gets a segment of its own size.
    pub segment_bytes: u64,
    /// Frames of each partition that are kept in memory for those who follow, bytes.
    pub tail_bytes: usize,
    /// What may wait to be written in each partition, bytes; past it an append is refused.
    pub max_waiting_bytes: usize,
    /// Heads of each partition that are kept in memory, bytes.
    pub head_cache_bytes: usize,
    /// What gathers in memory before it goes to the rows, in each partition.
    pub gather: Gather,
    /// Segments whose files are kept open.
    pub open_segments: usize,
    /// Files of the rows that are kept open.
    pub open_tables: usize,
    /// Namespaces that are kept by name, for the whole log.
    pub cached_names: usize,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            partitions: 4,
            segment_bytes: 32 << 20,
            tail_bytes: 16 << 20,
            max_waiting_bytes: 64 << 20,
            head_cache_bytes: 32 << 20,
            gather: Gather { rows: 1024, bytes: 8 << 20 },
            open_segments: 256,
            open_tables: 256,
            cached_names: 128 << 10,
        }
    }
}

/// Smallest segment, bytes.
const MIN_SEGMENT_BYTES: u64 = 4 << 10;

/// Largest segment, bytes: its index counts places in it with 32 bits.
const MAX_SEGMENT_BYTES: u64 = 2 << 30;

impl Options {
    pub(crate) fn check(&self) -> Result<(), OpenError> {
        let refuse = |reason: String| Err(OpenError::Options(reason));
        if !self.partitions.is_power_of_two() || self.partitions > MAX_PARTITIONS {
            return refuse(format!("{} partitions: it must be a power of two up to {MAX_PARTITIONS}", self.partitions));
        }
        if !(MIN_SEGMENT_BYTES..=MAX_SEGMENT_BYTES).contains(&self.segment_bytes) {
            let bounds = format!("{MIN_SEGMENT_BYTES} to {MAX_SEGMENT_BYTES}");
            return refuse(format!("a segment of {} bytes: it must be {bounds}", self.segment_bytes));
        }
        if self.max_waiting_bytes < MAX_FRAME_BYTES {
            return refuse(format!(
                "{} bytes may wait: at least one frame of {MAX_FRAME_BYTES} must be able to",
                self.max_waiting_bytes
            ));
        }
        Ok(())
    }
}
