//! The batches that are on their way: which is sent when, and what an answer means for the others.
//! No I/O and no clock, so that every order of failures can be tried in a test.
//!
//! ```text
//!         push            due                 stored, and all before it
//!   ──▶  Due  ──────▶  Sending  ──▶ Stored  ──────────────────────────▶  gone
//!         ▲               │
//!         └───────────────┘ failed, or a gap
//! ```
//!
//! Batches are numbered, and the broker takes only the next number of a producer. So one that
//! overtakes another is refused as a gap and goes again once the other is stored; and after a
//! failure only the first one goes, alone, until it is stored.
//!
//! A batch that overtakes was sent for nothing. How often that happens is a matter of the network
//! and the machines, so the window finds out how many may be on their way: a gap halves their
//! number, and each [`GROW_AFTER`] batches without one add one.

use std::collections::VecDeque;

/// So many batches are stored without a gap before one more may be on its way.
const GROW_AFTER: usize = 16;

/// The batches on their way, in the order of their sequence.
#[derive(Debug)]
pub(crate) struct Window<B> {
    slots: VecDeque<Slot<B>>,
    /// The sequence of the first slot.
    first: u64,
    /// Most batches that may ever be on their way.
    limit: usize,
    /// Most that may be at the moment.
    width: usize,
    /// How many were stored since the width last changed.
    smooth: usize,
    /// Send only the first: at the beginning, as it makes the namespace and the producer known, and
    /// after a failure.
    alone: bool,
}

#[derive(Debug)]
struct Slot<B> {
    /// Taken out once it is stored.
    batch: Option<B>,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Due,
    Sending {
        /// All before it were stored when it was sent.
        was_first: bool,
    },
    Stored,
}

/// What a gap means for the batch that met it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Gap {
    /// It overtook another one and goes again.
    Overtook,
    /// All before it were stored, and the broker does not know of them.
    Lost,
}

impl<B> Window<B> {
    /// An empty window of at most `limit` batches, whose first will have sequence 0.
    pub(crate) fn new(limit: usize) -> Window<B> {
        Window { slots: VecDeque::new(), first: 0, limit, width: limit, smooth: 0, alone: true }
    }

    /// How many batches were stored, without a hole.
    pub(crate) fn stored(&self) -> u64 {
        self.first
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Whether another batch could be sent at once.
    pub(crate) fn has_room(&self) -> bool {
        let width = if self.alone { 1 } else { self.width };
        self.slots.len() < width && self.slots.iter().all(|slot| slot.state != State::Due)
    }

    /// Adds the next batch, to be sent.
    pub(crate) fn push(&mut self, batch: B) {
        self.slots.push_back(Slot { batch: Some(batch), state: State::Due });
    }

    /// The next batch to be sent, and its sequence; from now on it counts as being sent.
    pub(crate) fn due(&mut self) -> Option<(u64, &B)> {
        let among = if self.alone { 1 } else { self.slots.len() };
        let index = self.slots.iter().take(among).position(|slot| slot.state == State::Due)?;
        let slot = &mut self.slots[index];
        slot.state = State::Sending { was_first: index == 0 };
        slot.batch.as_ref().map(|batch| (self.first + index as u64, batch))
    }

    /// A batch is stored; gives it back, to be told.
    pub(crate) fn stored_now(&mut self, sequence: u64) -> Option<B> {
        let slot = self.slot(sequence)?;
        slot.state = State::Stored;
        let batch = slot.batch.take();
        self.smooth += 1;
        if self.smooth >= GROW_AFTER {
            self.smooth = 0;
            self.width = self.limit.min(self.width + 1);
        }
        while self.slots.front().is_some_and(|slot| slot.state == State::Stored) {
            self.slots.pop_front();
            self.first += 1;
            self.alone = false;
        }
        batch
    }

    /// A batch may or may not be stored, and goes again.
    pub(crate) fn failed(&mut self, sequence: u64) {
        self.alone = true;
        if let Some(slot) = self.slot(sequence) {
            slot.state = State::Due;
        }
    }

    /// A batch was refused, as one before it was not there yet.
    pub(crate) fn gap(&mut self, sequence: u64) -> Gap {
        match self.slot(sequence).map(|slot| slot.state) {
            Some(State::Sending { was_first: true }) => Gap::Lost,
            _ => {
                self.failed(sequence);
                self.width = (self.width / 2).max(1);
                self.smooth = 0;
                // Where all before it were stored in the meantime, there is nothing to wait for.
                self.alone = sequence > self.first;
                Gap::Overtook
            }
        }
    }

    /// All batches that are not stored, first to last.
    pub(crate) fn drain(&mut self) -> impl Iterator<Item = B> {
        self.slots.drain(..).filter_map(|slot| slot.batch)
    }

    fn slot(&mut self, sequence: u64) -> Option<&mut Slot<B>> {
        let index = sequence.checked_sub(self.first)?;
        self.slots.get_mut(usize::try_from(index).ok()?)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn window(batches: u64) -> Window<u64> {
        let mut window = Window::new(4);
        (0..batches).for_each(|batch| window.push(batch));
        window
    }

    fn sent(window: &mut Window<u64>) -> Vec<u64> {
        std::iter::from_fn(|| window.due().map(|(sequence, _)| sequence)).collect()
    }

    #[test]
    fn the_first_goes_alone_and_then_as_many_as_the_limit() {
        let mut window = Window::new(3);
        assert!(window.has_room());
        window.push(0);
        assert!(!window.has_room());
        assert_eq!(sent(&mut window), [0]);
        assert!(!window.has_room());
        assert_eq!(window.stored_now(0), Some(0));
        for batch in 1..4 {
            assert!(window.has_room());
            window.push(batch);
            assert_eq!(sent(&mut window), [batch]);
        }
        assert!(!window.has_room());
    }

    #[test]
    fn one_that_overtook_goes_again_once_the_other_is_stored() {
        let mut window = window(3);
        assert_eq!(sent(&mut window), [0]);
        window.stored_now(0);
        assert_eq!(sent(&mut window), [1, 2]);
        assert_eq!(window.gap(2), Gap::Overtook);
        assert!(sent(&mut window).is_empty());
        window.stored_now(1);
        assert_eq!(sent(&mut window), [2]);
        assert_eq!(window.gap(2), Gap::Lost);
    }

    #[test]
    fn a_gap_that_is_told_late_is_not_a_loss() {
        let mut window = window(2);
        sent(&mut window);
        window.alone = false;
        assert_eq!(sent(&mut window), [1]);
        window.stored_now(0);
        assert_eq!(window.gap(1), Gap::Overtook);
        assert_eq!(sent(&mut window), [1]);
    }

    #[test]
    fn gaps_narrow_the_window_and_smooth_going_widens_it() {
        let mut window = window(4);
        sent(&mut window);
        window.stored_now(0);
        sent(&mut window);
        window.gap(3);
        assert_eq!(window.width, 2);
        window.gap(2);
        assert_eq!(window.width, 1);
        let mut next = 4;
        for sequence in 1..40 {
            window.stored_now(sequence);
            if window.slots.is_empty() {
                window.push(next);
                next += 1;
            }
            sent(&mut window);
        }
        assert_eq!(window.width, 3);
    }

    #[test]
    fn after_a_failure_the_first_goes_alone_and_the_rest_in_order() {
        let mut window = window(4);
        sent(&mut window);
        window.alone = false;
        assert_eq!(sent(&mut window), [1, 2, 3]);
        window.failed(1);
        window.gap(3);
        window.failed(0);
        assert_eq!(sent(&mut window), [0]);
        assert_eq!(window.stored_now(2), Some(2));
        assert!(sent(&mut window).is_empty());
        assert_eq!(window.stored_now(0), Some(0));
        assert_eq!(sent(&mut window), [1, 3]);
        assert_eq!(window.stored(), 1);
        window.stored_now(1);
        assert_eq!(window.stored(), 3);
        assert_eq!(window.drain().collect::<Vec<_>>(), [3]);
    }

    proptest! {
        /// A broker that takes only the next number, a network that loses requests and answers and
        /// delivers in any order: everything is stored once, in order, and told once.
        #[test]
        fn everything_is_stored_once_and_in_order(dice: Vec<(usize, u8)>) {
            let total = 12u64;
            let (mut window, mut next) = (Window::new(4), 0u64);
            let (mut flying, mut stored, mut told) = (Vec::new(), Vec::new(), Vec::new());
            // Once the dice are used up the network is a good one.
            let mut dice = dice.into_iter().chain(std::iter::repeat((0, 255)));
            while window.stored() < total {
                while next < total && window.has_room() {
                    window.push(next);
                    next += 1;
                    flying.extend(window.due().map(|(sequence, _)| sequence));
                }
                flying.extend(sent(&mut window));
                prop_assert!(!flying.is_empty(), "it goes on");
                let (pick, luck) = dice.next().unwrap();
                let sequence = flying.remove(pick % flying.len());
                let arrives = luck > 60;
                let due = stored.len() as u64;
                if arrives && sequence == due {
                    stored.push(sequence);
                }
                let answered = luck > 120;
                match (arrives && answered, sequence <= due) {
                    (false, _) => window.failed(sequence),
                    (true, true) => told.extend(window.stored_now(sequence)),
                    (true, false) => prop_assert_eq!(window.gap(sequence), Gap::Overtook),
                }
            }
            prop_assert_eq!(&stored, &(0..total).collect::<Vec<_>>());
            told.sort_unstable();
            prop_assert_eq!(told, stored);
        }
    }
}
