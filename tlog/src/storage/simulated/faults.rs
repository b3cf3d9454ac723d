//! What can go wrong with the simulated disk, how often it shall, and how often it did.

use std::fmt;

/// A kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    /// A read fails.
    ReadError,
    /// A write fails; some of its sectors may have been written.
    WriteError,
    /// A file's sync fails; some of what it was to write is durable, and all looks as if it were.
    SyncError,
    /// A folder's sync fails, or a file can't be made, renamed or removed.
    FolderError,
    /// No space is left to make a file, to allocate, or in the midst of a write that makes a file longer.
    NoSpace,
    /// A read returns a bit that is not so on the disk.
    FlippedRead,
    /// An operation takes seconds.
    Slow,
    /// The process ends: at a sync, where it is planned, or at the operation that
    /// [`Simulated::stop_after`](super::Simulated::stop_after) says.
    Stop,
    /// The power is cut.
    PowerCut,
    /// A write of a sector, or a change of a length, that a power cut lost.
    LostWrite,
    /// A name that was made, changed or removed, and that a power cut lost.
    LostEntry,
    /// A sector that a failed sync left in memory alone, and that memory gave up.
    Evicted,
    /// A bit of what is durable is turned.
    FlippedBit,
    /// An older version of a sector comes back.
    StaleBlock,
    /// A sector is written over another's place.
    MisdirectedWrite,
}

impl Fault {
    /// All kinds.
    pub const ALL: [Fault; 15] = [
        Fault::ReadError,
        Fault::WriteError,
        Fault::SyncError,
        Fault::FolderError,
        Fault::NoSpace,
        Fault::FlippedRead,
        Fault::Slow,
        Fault::Stop,
        Fault::PowerCut,
        Fault::LostWrite,
        Fault::LostEntry,
        Fault::Evicted,
        Fault::FlippedBit,
        Fault::StaleBlock,
        Fault::MisdirectedWrite,
    ];
}

/// How often each fault comes by itself: so many times in 10,000 operations that can have it. Only
/// the kinds up to [`Fault::Slow`] do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Faults([u16; Fault::ALL.len()]);

impl Faults {
    /// These, with another chance of one kind.
    #[must_use]
    pub fn with(mut self, fault: Fault, in_10_000: u16) -> Faults {
        self.0[fault as usize] = in_10_000;
        self
    }

    pub(super) fn chance(&self, fault: Fault) -> u64 {
        u64::from(self.0[fault as usize])
    }
}

/// How many faults there were, by kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FaultCounts([u64; Fault::ALL.len()]);

impl FaultCounts {
    pub(super) fn add(&mut self, fault: Fault, count: u64) {
        self.0[fault as usize] += count;
    }

    /// How many of a kind.
    pub fn of(&self, fault: Fault) -> u64 {
        self.0[fault as usize]
    }

    pub(super) fn without(mut self, other: &FaultCounts) -> FaultCounts {
        self.0.iter_mut().zip(other.0).for_each(|(mine, others)| *mine = mine.saturating_sub(others));
        self
    }

    /// Adds the counts of another disk.
    pub fn add_all(&mut self, other: &FaultCounts) {
        self.0.iter_mut().zip(other.0).for_each(|(mine, others)| *mine += others);
    }
}

impl fmt::Display for FaultCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = Fault::ALL.iter().filter(|fault| self.of(**fault) > 0);
        let counts: Vec<String> = counts.map(|fault| format!("{fault:?} {}", self.of(*fault))).collect();
        f.write_str(&counts.join(", "))
    }
}
