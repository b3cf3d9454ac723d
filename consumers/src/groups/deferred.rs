//! Records that were read and not taken into the window, as their key had its share of it: only their
//! offsets are kept, and they are read again once there is room for them.
//!
//! So a key whose records pile up, behind one that fails or a worker that is slow, leaves room for those
//! behind it in the log.

use std::collections::{BTreeSet, VecDeque};

use rustc_hash::FxHashMap;
use wire::Offset;
use wire::limits::MAX_GROUP_DEFERRED;

/// What chains have left in the log, by chain.
#[derive(Debug, Default)]
pub(super) struct Deferred {
    /// Never empty, and in order.
    offsets: FxHashMap<u32, VecDeque<Offset>>,
    /// The same chains, by how many records they have in the window.
    by_length: BTreeSet<(u32, u32)>,
    count: usize,
}

impl Deferred {
    pub(super) fn is_full(&self) -> bool {
        self.count >= MAX_GROUP_DEFERRED
    }

    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Whether a chain has left records in the log.
    pub(super) fn has(&self, chain: u32) -> bool {
        !self.is_empty() && self.offsets.contains_key(&chain)
    }

    /// Leaves the next record of a chain in the log. The chain has `length` others in the window.
    pub(super) fn push(&mut self, chain: u32, length: u32, offset: Offset) {
        self.by_length.insert((length, chain));
        self.offsets.entry(chain).or_default().push_back(offset);
        self.count += 1;
    }

    /// Takes the first one of a chain, if it is this one.
    pub(super) fn take(&mut self, chain: u32, length: u32, offset: Offset) -> bool {
        let Some(offsets) = self.offsets.get_mut(&chain).filter(|offsets| offsets.front() == Some(&offset)) else {
            return false;
        };
        offsets.pop_front();
        self.count -= 1;
        if offsets.is_empty() {
            self.offsets.remove(&chain);
            self.by_length.remove(&(length, chain));
        }
        true
    }

    /// A chain has another number of records in the window.
    pub(super) fn resize(&mut self, chain: u32, before: u32, now: u32) {
        if !self.is_empty() && self.by_length.remove(&(before, chain)) {
            self.by_length.insert((now, chain));
        }
    }

    /// The first record of the chain that has the fewest in the window, and how many these are.
    pub(super) fn shortest(&self) -> Option<(u32, Offset)> {
        let (length, chain) = self.by_length.first()?;
        Some((*length, *self.offsets.get(chain)?.front()?))
    }
}
