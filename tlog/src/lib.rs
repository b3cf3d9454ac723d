//! The log: the system of record.
//!
//! ```text
//!   append ─▶ queue ─▶ sequencer ─▶ journal ─▶ active segment        (one of each per partition)
//!                         │            │ fdatasync
//!                         ▼            ▼
//!                       state       recent ─▶ readers, scans, followers
//!                         │            │ roll
//!                         ▼            ▼
//!                       rows ◀───── keeper: seals, indexes, zeroes the next segment
//! ```
//!
//! | module | what it knows |
//! |---|---|
//! | [`log`](Log) | opening, and what can be asked |
//! | `sequencer`, `queue` | order, conditions, group commit |
//! | `journal` | where a frame becomes durable: the second seam |
//! | `state`, `head`, `producer` | what frames amount to: a pure function of them |
//! | `rows`, `tables` | that state in RocksDB, as of a position |
//! | `segment` | files of frames, their headers and indexes |
//! | `keeper` | what is done to files off the hot path |
//! | `recent`, `partition` | what readers see |
//! | `reader`, `follow` | cursors that pull, and wake-ups |
//! | `recovery` | from files back to all of the above |
//! | [`storage`] | files and syncs: the first seam |
//! | `driver` | whose turn it is: threads, or a simulation's steps |
//! | [`check`](mod@check) | the whole log, verified offline |
//! | [`repair`](mod@repair) | a damaged folder made whole: what is lost is marked, nothing is destroyed |
//!
//! # Invariants
//!
//! 1. An ack means durable: `fdatasync` has returned for every byte of the frame.
//! 2. No reader sees a record at or above the high watermark.
//! 3. A namespace's offsets have no gap and no repeat, and none is ever given twice.
//! 4. A frame is all or nothing.
//! 5. Recovery cuts only a torn tail. Damage anywhere else is an error that names file and position.
//! 6. After a failed write or sync the partition takes no more writes until a restart.
//! 7. Everything but segments can be deleted, and is rebuilt from them to the same state.
//! 8. A consumer's state and its offset row change in one atomic write.
//! 9. A slow reader delays no writer and no other reader, and costs bounded memory.
//! 10. A producer's retry is stored once, across a restart too.
//! 11. A batch is one frame: readers see all of it or none.
//! 12. A rebuild proves itself by its chain.

/// Whether the promise of this name is broken on purpose: never, without the feature `mutants`.
#[cfg(feature = "mutants")]
macro_rules! mutant {
    ($name:ident) => {
        $crate::mutants::Mutant::$name.is_active()
    };
}
#[cfg(not(feature = "mutants"))]
macro_rules! mutant {
    ($name:ident) => {
        false
    };
}

pub mod check;
mod control;
mod driver;
mod error;
mod folder;
mod follow;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod head;
mod journal;
mod keeper;
mod log;
mod metrics;
#[cfg(feature = "mutants")]
pub mod mutants;
mod namespace;
mod options;
mod partition;
mod producer;
mod queue;
mod reader;
mod recent;
mod recovery;
pub mod repair;
mod rows;
mod segment;
mod sequencer;
mod shared_frame;
mod state;
pub mod storage;
mod tables;

pub use control::{ControlError, ControlEvent};
pub use driver::Driver;
pub use error::{AppendError, OpenError, ReadError};
pub use folder::partitions_of;
pub use follow::Follower;
pub use head::Head;
pub use log::{Appended, Log};
pub use namespace::Namespace;
pub use options::{Clock, Gather, Options};
pub use partition::Watermark;
pub use queue::{Append, Created, Noted};
pub use reader::{Reader, Scan};
pub use shared_frame::{FrameText, SharedFrame};
pub use storage::{Disk, Memory, Storage};
pub use tables::table_options;
