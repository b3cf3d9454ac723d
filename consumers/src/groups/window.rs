//! The records that are read and not settled, each in a slot.
//!
//! A ticket names one state of one slot, and is what tokens and timers hold. It is a serial number with
//! the slot in its low 16 bits, so it is found without a map, and once a slot has a new ticket nothing
//! that holds the old one means anything.

use std::ops::{Index, IndexMut};

use wire::limits::MAX_GROUP_WINDOW;
use wire::{Offset, Shard};

/// A record's place in the window.
pub(super) type Slot = u32;

/// No slot.
pub(super) const NONE: Slot = Slot::MAX;

/// Names one state of one slot; 0 names none.
pub(super) type Ticket = u64;

const SLOT_BITS: u32 = MAX_GROUP_WINDOW.trailing_zeros();
const SLOT_MASK: u64 = (1 << SLOT_BITS) - 1;

/// What becomes of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// It has been settled; the slot is free.
    Free,
    /// It may go out, as soon as its key lets it.
    Ready,
    /// A worker has it.
    Leased,
    /// A worker has settled it, or it was given up: that is being made durable. It doesn't lapse.
    Committing,
    /// It has failed, and waits.
    Waiting,
}

/// A record that is read and not settled.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    pub(super) offset: Offset,
    pub(super) ticket: Ticket,
    /// When the lease lapses, or the wait is over.
    pub(super) at: u64,
    pub(super) bytes: u32,
    /// How many of its deliveries have failed.
    pub(super) attempts: u32,
    /// Who has it, while somebody does.
    pub(super) worker: u32,
    /// Where order is by key: the chain of its key, and its neighbours in it.
    pub(super) chain: u32,
    pub(super) before: Slot,
    pub(super) behind: Slot,
    pub(super) shard: Shard,
    pub(super) state: State,
    /// Whether it was given up, while it is committing.
    pub(super) dead: bool,
    /// Whether there is a timer for `at`.
    pub(super) timed: bool,
}

/// The slots.
#[derive(Debug)]
pub(super) struct Window {
    entries: Vec<Entry>,
    free: Vec<Slot>,
    most: usize,
    serial: u64,
}

impl Window {
    /// A window of up to `most` records, and never more than [`MAX_GROUP_WINDOW`].
    pub(super) fn new(most: usize) -> Window {
        Window { entries: Vec::new(), free: Vec::new(), most: most.clamp(1, MAX_GROUP_WINDOW), serial: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    /// How many more records it takes in.
    pub(super) fn room(&self) -> usize {
        self.most.saturating_sub(self.len())
    }

    pub(super) fn is_full(&self) -> bool {
        self.room() == 0
    }

    /// Takes in a record that is ready. The caller has seen that the window isn't full.
    pub(super) fn insert(&mut self, offset: Offset, shard: Shard, bytes: u32, attempts: u32) -> Slot {
        let entry = Entry {
            offset,
            ticket: 0,
            at: 0,
            bytes,
            attempts,
            worker: 0,
            chain: 0,
            before: NONE,
            behind: NONE,
            shard,
            state: State::Ready,
            dead: false,
            timed: false,
        };
        match self.free.pop() {
            Some(slot) => {
                self[slot] = entry;
                slot
            }
            None => {
                self.entries.push(entry);
                (self.entries.len() - 1) as Slot
            }
        }
    }

    /// Lets go of a record that is settled.
    pub(super) fn remove(&mut self, slot: Slot) {
        self[slot].state = State::Free;
        self[slot].ticket = 0;
        self.free.push(slot);
    }

    /// Gives a slot a new ticket.
    pub(super) fn renew(&mut self, slot: Slot) -> Ticket {
        self.serial += 1;
        let ticket = self.serial << SLOT_BITS | u64::from(slot);
        self[slot].ticket = ticket;
        self[slot].timed = false;
        ticket
    }

    /// The slots that a worker has leased.
    pub(super) fn leased_to(&self, worker: u32) -> Vec<Slot> {
        let is_its = |entry: &Entry| entry.state == State::Leased && entry.worker == worker;
        (0..).zip(&self.entries).filter(|(_, entry)| is_its(entry)).map(|(slot, _)| slot).collect()
    }

    /// The slot of a record that is leased.
    pub(super) fn leased_of(&self, offset: Offset) -> Option<Slot> {
        let is_it = |entry: &Entry| entry.state == State::Leased && entry.offset == offset;
        (0..).zip(&self.entries).find(|(_, entry)| is_it(entry)).map(|(slot, _)| slot)
    }

    /// The slot whose ticket this is.
    pub(super) fn find(&self, ticket: Ticket) -> Option<Slot> {
        let slot = ticket & SLOT_MASK;
        let entry = self.entries.get(slot as usize)?;
        if ticket != 0 && entry.ticket == ticket { Some(slot as Slot) } else { None }
    }
}

impl Index<Slot> for Window {
    type Output = Entry;

    fn index(&self, slot: Slot) -> &Entry {
        &self.entries[slot as usize]
    }
}

impl IndexMut<Slot> for Window {
    fn index_mut(&mut self, slot: Slot) -> &mut Entry {
        &mut self.entries[slot as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_fits_into_a_cache_line() {
        assert!(size_of::<Entry>() <= 64);
    }

    #[test]
    fn a_ticket_names_one_state_of_a_slot() {
        let mut window = Window::new(2);
        let slot = window.insert(7, Shard(0), 1, 0);
        assert_eq!(window.find(window[slot].ticket), None);
        let first = window.renew(slot);
        assert_eq!(window.find(first), Some(slot));
        let second = window.renew(slot);
        assert_eq!((window.find(first), window.find(second)), (None, Some(slot)));
        window.remove(slot);
        assert_eq!(window.find(second), None);
        assert_eq!(window.insert(8, Shard(0), 1, 0), slot);
        assert_eq!(window.find(second), None);
        assert_eq!(window.find(0), None);
        assert_eq!(window.find(u64::MAX), None);
    }

    #[test]
    fn a_window_has_its_bound() {
        let mut window = Window::new(usize::MAX);
        for offset in 0..MAX_GROUP_WINDOW as u64 {
            assert!(!window.is_full());
            let slot = window.insert(offset, Shard(0), 1, 0);
            let ticket = window.renew(slot);
            assert_eq!(window.find(ticket), Some(slot));
        }
        assert!(window.is_full());
    }
}
