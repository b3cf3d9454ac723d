//! When leases lapse and retries are due.
//!
//! Leases all last equally long, so most deadlines come in order: they stand in a queue, and only the
//! others in a heap. A timer is not taken out when what it was for is over; it has gone stale then, as
//! [`Window::find`] or its time says. Stale ones go once they are first in line, or are the most.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use super::window::{Slot, Ticket, Window};

/// Below so many timers nobody looks for stale ones.
const FEW: usize = 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Timer {
    at: u64,
    ticket: Ticket,
}

impl Timer {
    /// The slot that it is still good for.
    fn slot(&self, window: &Window) -> Option<Slot> {
        window.find(self.ticket).filter(|slot| window[*slot].timed && window[*slot].at == self.at)
    }
}

/// The timers of a window's slots.
#[derive(Debug, Default)]
pub(super) struct Timers {
    in_order: VecDeque<Timer>,
    others: BinaryHeap<Reverse<Timer>>,
}

impl Timers {
    /// Sets the timer of a lease that was just given, for the slot's `at`.
    pub(super) fn set_lease(&mut self, window: &mut Window, slot: Slot) {
        let timer = self.arm(window, slot);
        if self.in_order.back().is_none_or(|last| last.at <= timer.at) {
            self.in_order.push_back(timer);
        } else {
            self.others.push(Reverse(timer));
        }
    }

    /// Sets another timer, for the slot's `at`. The one that the slot has may not be for the same time.
    pub(super) fn set(&mut self, window: &mut Window, slot: Slot) {
        let timer = self.arm(window, slot);
        self.others.push(Reverse(timer));
    }

    fn arm(&mut self, window: &mut Window, slot: Slot) -> Timer {
        window[slot].timed = true;
        if self.in_order.len() + self.others.len() > FEW + 2 * window.len() {
            // At least half of them are stale, so that each is looked at twice at most.
            self.in_order.retain(|timer| timer.slot(window).is_some());
            self.others.retain(|Reverse(timer)| timer.slot(window).is_some());
        }
        Timer { at: window[slot].at, ticket: window[slot].ticket }
    }

    /// Takes a slot whose time has come. It has no timer then.
    pub(super) fn pop(&mut self, window: &mut Window, now: u64) -> Option<Slot> {
        self.deadline(window).filter(|at| *at <= now)?;
        let timer = match (self.in_order.front().copied(), self.others.peek()) {
            (Some(first), Some(Reverse(other))) if *other < first => self.others.pop().map(|Reverse(other)| other),
            (Some(_), _) => self.in_order.pop_front(),
            (None, _) => self.others.pop().map(|Reverse(other)| other),
        };
        let slot = timer?.slot(window)?;
        window[slot].timed = false;
        Some(slot)
    }

    /// When the next one is due.
    pub(super) fn deadline(&mut self, window: &Window) -> Option<u64> {
        while self.in_order.front().is_some_and(|timer| timer.slot(window).is_none()) {
            self.in_order.pop_front();
        }
        while self.others.peek().is_some_and(|Reverse(timer)| timer.slot(window).is_none()) {
            self.others.pop();
        }
        let in_order = self.in_order.front().map(|timer| timer.at);
        let other = self.others.peek().map(|Reverse(timer)| timer.at);
        in_order.into_iter().chain(other).min()
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.in_order.len() + self.others.len()
    }
}

#[cfg(test)]
mod tests {
    use wire::Shard;

    use super::*;

    #[test]
    fn slots_come_when_they_are_due_and_stale_timers_never() {
        let mut window = Window::new(8);
        let mut timers = Timers::default();
        let slots: Vec<Slot> = (0..4).map(|offset| window.insert(offset, Shard(0), 1, 0)).collect();
        for (slot, at) in slots.iter().zip([30, 10, 20, 40]) {
            window.renew(*slot);
            window[*slot].at = at;
            timers.set_lease(&mut window, *slot);
        }
        window.renew(slots[2]);
        window[slots[3]].at = 50;
        timers.set(&mut window, slots[3]);
        assert_eq!(timers.deadline(&window), Some(10));
        assert_eq!(timers.pop(&mut window, 9), None);
        assert_eq!(timers.pop(&mut window, 30), Some(slots[1]));
        assert_eq!(timers.pop(&mut window, 30), Some(slots[0]));
        assert_eq!(timers.pop(&mut window, 30), None);
        assert_eq!(timers.deadline(&window), Some(50));
        assert_eq!(timers.pop(&mut window, 50), Some(slots[3]));
        assert_eq!(timers.deadline(&window), None);
    }

    #[test]
    fn stale_timers_do_not_pile_up() {
        let mut window = Window::new(8);
        let mut timers = Timers::default();
        let stuck = window.insert(0, Shard(0), 1, 0);
        window.renew(stuck);
        timers.set_lease(&mut window, stuck);
        for at in 1..100_000 {
            let slot = window.insert(at, Shard(0), 1, 0);
            window.renew(slot);
            window[slot].at = at;
            timers.set_lease(&mut window, slot);
            window.remove(slot);
            assert!(timers.len() <= FEW + 2 * 8);
        }
        assert_eq!(timers.deadline(&window), Some(0));
    }
}
