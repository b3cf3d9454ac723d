//! What groups are asked, and what they answer.

use std::sync::Arc;
use std::time::Duration;

use tlog::SharedFrame;
use wire::Offset;

use super::exchange::Settled;
use super::token::Token;
use wire::group::GroupConfig;

/// What became of a group's configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Configured {
    /// Whether the group did not exist before.
    pub new: bool,
}

/// What a worker asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    /// What it calls itself.
    pub worker: String,
    /// At most so many records.
    pub max: usize,
    /// And so many bytes, but one record of any size.
    pub max_bytes: usize,
    /// At most as many as make it this many that it has, those of earlier leases included.
    pub max_held: usize,
    /// How long to wait for the first.
    pub wait: Duration,
}

/// A record that was leased.
#[derive(Debug, Clone)]
pub struct Leased {
    /// The frame that holds it.
    pub frame: Arc<SharedFrame>,
    /// Its place in the frame.
    pub index: u32,
    /// What to show to settle it.
    pub token: Token,
    /// The how-manieth delivery this is, from 1.
    pub delivery: u32,
    /// When the lease lapses, microseconds since the Unix epoch.
    pub expires_micros: i64,
}

/// Which tokens have taken effect.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Done {
    /// How many have.
    pub done: usize,
    /// These have not.
    pub lapsed: Vec<Token>,
}

/// How a group does. What it counts it counts since it was last loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupState {
    /// Its configuration.
    pub config: GroupConfig,
    /// The first offset that is not acked.
    pub floor: Offset,
    /// Records that are not acked.
    pub lag_records: u64,
    /// The age of the oldest of them, microseconds.
    pub lag_micros: i64,
    /// Records that are with workers.
    pub in_flight: u64,
    /// Deliveries.
    pub delivered: u64,
    /// Those of them that were not a record's first.
    pub redelivered: u64,
    /// Records that were given up.
    pub dead_lettered: u64,
    /// Whether it has as many records in memory as it may, or has left as many in the log, and none that could go out:
    /// nothing does until one is settled.
    pub full: bool,
    /// The workers that are present, by name.
    pub workers: Vec<WorkerState>,
}

/// How a worker does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerState {
    /// What it calls itself.
    pub name: String,
    /// Records that it has.
    pub in_flight: u64,
    /// Its last sign of life, microseconds since the Unix epoch.
    pub seen_micros: i64,
}

impl From<Settled> for Done {
    fn from(settled: Settled) -> Self {
        Done { done: settled.held.len(), lapsed: settled.lapsed }
    }
}
