//! What [`Dispatch`](super::Dispatch) is given, and what it answers.

use wire::{Offset, Shard};

use super::token::Token;
use super::workers::WorkerFigures;

/// A record that is to be worked on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pending {
    /// Its offset.
    pub offset: Offset,
    /// Its shard.
    pub shard: Shard,
    /// A hash of its key, if it has one. Two keys with one hash are worked on as if they were one.
    pub key: Option<u64>,
    /// Its size.
    pub bytes: u32,
}

/// A record that a worker has been given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grant {
    /// What the worker shows to settle it; says which record it is.
    pub token: Token,
    /// The how-manieth delivery this is, from 1.
    pub delivery: u32,
    /// When the lease lapses.
    pub expires: u64,
}

/// Which tokens have taken effect.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settled {
    /// These have.
    pub held: Vec<Token>,
    /// These have not: they have lapsed, or were never given.
    pub lapsed: Vec<Token>,
}

/// Deliveries that have failed. Offsets ascend.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Failures {
    /// Records that are delivered again, each with how many of its deliveries have failed.
    pub failed: Vec<(Offset, u32)>,
    /// Records that are given up, each with how often it was delivered. They are committing: tell
    /// [`Dispatch::acked`](super::Dispatch::acked) once that is durable.
    pub dead: Vec<(Token, u32)>,
    /// Tokens without effect.
    pub lapsed: Vec<Token>,
}

/// How a group does.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Figures {
    /// Records that are with workers, or whose ack is being made durable.
    pub in_flight: usize,
    /// Records that could go out, also those that stand behind others of their key.
    pub ready: usize,
    /// Records that have failed and wait.
    pub waiting: usize,
    /// Deliveries so far.
    pub delivered: u64,
    /// Those of them that were not a record's first.
    pub redelivered: u64,
    /// Records that were given up.
    pub dead_lettered: u64,
    /// Whether it has as many records in memory as it may, and none that could go out: nothing does until one is
    /// settled.
    pub full: bool,
    /// The workers that are present, by name.
    pub workers: Vec<WorkerFigures>,
}

/// How much more fits into a lease.
#[derive(Debug, Clone, Copy)]
pub(super) struct Room {
    records: usize,
    bytes: usize,
    empty: bool,
}

impl Room {
    /// Room for so many records, and so many bytes.
    pub(super) fn new(records: usize, bytes: usize) -> Room {
        Room { records, bytes, empty: true }
    }

    /// Whether a record of that size still goes in. The first does, however large it is.
    pub(super) fn admits(&mut self, bytes: u32) -> bool {
        let bytes = bytes as usize;
        if self.records == 0 || (bytes > self.bytes && !self.empty) {
            return false;
        }
        self.records -= 1;
        self.bytes = self.bytes.saturating_sub(bytes);
        self.empty = false;
        true
    }
}
