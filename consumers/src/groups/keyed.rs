//! Which record may go out next where order is by key.
//!
//! ```text
//! chain of a key     first ⇄ … ⇄ last, by offset       flying: how many of them are in flight
//!                    deferred: what follows, by offset, and is not in the window
//! queue of a shard   the first records of chains that are free
//! ```
//!
//! A chain is free where none of it is in flight and its first record is ready; then, and only then,
//! its first record stands in its shard's queue, once. Who takes it takes as many ready ones from the
//! front of the chain as it has room for, and none of the key goes out until those are settled. A
//! record without a key is a chain by itself.
//!
//! A chain may have as many records in the window as there is room for others: one that is held up
//! gets half of it, two a third each. So as long as their keys are fewer than the window has slots, there
//! is room for one that is new.

use std::collections::VecDeque;

use rustc_hash::FxHashMap;
use wire::limits::SHARDS;
use wire::{Offset, Shard};

use super::deferred::Deferred;
use super::exchange::Room;
use super::window::{NONE, Slot, State, Window};
use super::workers::ShardSet;

#[derive(Debug, Clone, Copy)]
struct Chain {
    key: Option<u64>,
    first: Slot,
    last: Slot,
    length: u32,
    flying: u32,
}

/// The chains and queues of a window's records.
#[derive(Debug)]
pub(super) struct Keyed {
    chains: Vec<Chain>,
    free: Vec<u32>,
    by_key: FxHashMap<u64, u32>,
    queues: Vec<VecDeque<Slot>>,
    /// The shards whose queue is not empty.
    waiting: ShardSet,
    /// Where the next one looks first, so that no shard of a worker is left out.
    turn: Shard,
    pub(super) deferred: Deferred,
}

impl Keyed {
    pub(super) fn new() -> Keyed {
        Keyed {
            chains: Vec::new(),
            free: Vec::new(),
            by_key: FxHashMap::default(),
            queues: vec![VecDeque::new(); SHARDS],
            waiting: ShardSet::default(),
            turn: Shard(0),
            deferred: Deferred::default(),
        }
    }

    /// Leaves a record in the log whose key has its share of a window with so much `room`; false where
    /// it is to be taken in.
    pub(super) fn defer(&mut self, key: Option<u64>, offset: Offset, room: usize) -> bool {
        let Some(chain) = key.and_then(|key| self.by_key.get(&key).copied()) else { return false };
        let length = self.chains[chain as usize].length;
        let crowded = self.deferred.has(chain) || length as usize >= room;
        if crowded {
            self.deferred.push(chain, length, offset);
        }
        crowded
    }

    /// Whether a record was left in the log, is the next of its key, and is to be taken in now.
    pub(super) fn recall(&mut self, key: Option<u64>, offset: Offset, room: usize) -> bool {
        let Some(chain) = key.and_then(|key| self.by_key.get(&key).copied()) else { return false };
        let length = self.chains[chain as usize].length;
        (length as usize) < room && self.deferred.take(chain, length, offset)
    }

    /// The offset at which to read what was left in the log: once a chain has half its share or less,
    /// as a read has many.
    pub(super) fn wants(&self, room: usize) -> Option<Offset> {
        let (length, offset) = self.deferred.shortest()?;
        (2 * (length as usize) < room).then_some(offset)
    }

    /// Takes in a record that is ready, behind all others of its key.
    pub(super) fn add(&mut self, window: &mut Window, slot: Slot, key: Option<u64>) {
        if let Some(index) = key.and_then(|key| self.by_key.get(&key).copied()) {
            let chain = &mut self.chains[index as usize];
            self.deferred.resize(index, chain.length, chain.length + 1);
            chain.length += 1;
            window[slot].chain = index;
            let last = std::mem::replace(&mut chain.last, slot);
            if last == NONE {
                chain.first = slot;
                self.queue_if_free(window, index);
            } else {
                window[last].behind = slot;
                window[slot].before = last;
            }
            return;
        }
        let alone = Chain { key, first: slot, last: slot, length: 1, flying: 0 };
        let chain = match self.free.pop() {
            Some(chain) => {
                self.chains[chain as usize] = alone;
                chain
            }
            None => {
                self.chains.push(alone);
                (self.chains.len() - 1) as u32
            }
        };
        window[slot].chain = chain;
        if let Some(key) = key {
            self.by_key.insert(key, chain);
        }
        self.queue_if_free(window, chain);
    }

    /// Whether nothing could go out to anyone.
    pub(super) fn stands_still(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Whether there is something for a worker with these shards.
    pub(super) fn has(&self, shards: ShardSet) -> bool {
        !self.waiting.and(shards).is_empty()
    }

    /// Takes out what a worker with these shards gets: of each key in order. They are in flight then.
    pub(super) fn take(&mut self, window: &Window, shards: ShardSet, room: &mut Room, taken: &mut Vec<Slot>) {
        while let Some(shard) = self.waiting.and(shards).next(self.turn) {
            let queue = &mut self.queues[usize::from(shard.0)];
            let Some(first) = queue.front().copied() else { return };
            if !room.admits(window[first].bytes) {
                return;
            }
            queue.pop_front();
            if queue.is_empty() {
                self.waiting.remove(shard);
            }
            self.turn = Shard(shard.0.wrapping_add(1));
            let flying = &mut self.chains[window[first].chain as usize].flying;
            let mut slot = first;
            loop {
                taken.push(slot);
                *flying += 1;
                slot = window[slot].behind;
                if slot == NONE || window[slot].state != State::Ready || !room.admits(window[slot].bytes) {
                    break;
                }
            }
            if mutant!(TwoOfAKey) && slot != NONE && window[slot].state == State::Ready {
                self.queues[usize::from(shard.0)].push_back(slot);
                self.waiting.insert(shard);
                return;
            }
        }
    }

    /// Takes back what of the key is leased behind a record: ready again, and unknown to who had it.
    pub(super) fn take_back(&mut self, window: &mut Window, slot: Slot) -> Vec<Slot> {
        let chain = window[slot].chain;
        let mut back = Vec::new();
        let mut behind = window[slot].behind;
        while behind != NONE {
            if window[behind].state == State::Leased {
                window[behind].state = State::Ready;
                window.renew(behind);
                back.push(behind);
            }
            behind = window[behind].behind;
        }
        self.chains[chain as usize].flying -= back.len() as u32;
        back
    }

    /// A record is in flight no more and stays: it is ready, or waits.
    pub(super) fn landed(&mut self, window: &Window, slot: Slot) {
        let chain = window[slot].chain;
        self.chains[chain as usize].flying -= 1;
        self.queue_if_free(window, chain);
    }

    /// A record that has waited is ready.
    pub(super) fn waited(&mut self, window: &Window, slot: Slot) {
        let chain = window[slot].chain;
        if self.chains[chain as usize].first == slot {
            self.queue_if_free(window, chain);
        }
    }

    /// A record that was in flight is settled, and about to go.
    pub(super) fn settled(&mut self, window: &mut Window, slot: Slot) {
        let (index, before, behind) = (window[slot].chain, window[slot].before, window[slot].behind);
        let chain = &mut self.chains[index as usize];
        self.deferred.resize(index, chain.length, chain.length - 1);
        chain.length -= 1;
        chain.flying -= 1;
        if before == NONE {
            chain.first = behind;
        } else {
            window[before].behind = behind;
        }
        if behind == NONE {
            chain.last = before;
        } else {
            window[behind].before = before;
        }
        if chain.first != NONE {
            self.queue_if_free(window, index);
            return;
        }
        if self.deferred.has(index) {
            return;
        }
        if let Some(key) = chain.key {
            self.by_key.remove(&key);
        }
        self.free.push(index);
    }

    fn queue_if_free(&mut self, window: &Window, chain: u32) {
        let Chain { first, flying, .. } = self.chains[chain as usize];
        if flying == 0 && window[first].state == State::Ready {
            let shard = window[first].shard;
            self.queues[usize::from(shard.0)].push_back(first);
            self.waiting.insert(shard);
        }
    }
}
