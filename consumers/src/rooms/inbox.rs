//! What waits for a connection: bounded hints of what there is for it, and never the records themselves. So one
//! that stalls costs a few KB (invariant 9).

use std::collections::VecDeque;
use std::ops::Range;

use parking_lot::Mutex;
use tokio::sync::Notify;
use wire::{Generation, NamespaceId, Offset};

use super::Place;

/// Hints that wait for one connection. What is more it looks for by itself.
const MAX_HINTS: usize = 1_024;

/// These records of a namespace are for the connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hint {
    pub(super) namespace: NamespaceId,
    pub(super) generation: Generation,
    pub(super) offsets: Range<Offset>,
}

/// Why a connection has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// A newer one of the same subscriber has begun.
    Replaced,
    /// Its subscriber was deleted.
    SubscriberDeleted,
    /// The namespace that it follows was deleted.
    NamespaceDeleted,
}

/// What is to be known before anything else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum News {
    /// The subscriber is durably done with all below this place.
    Acked(Place),
    /// Nothing else will come.
    Ended(Ended),
}

/// What hints there are.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// One.
    Hint(Hint),
    /// There were too many: the connection must look for itself.
    TooMany,
    /// None.
    Nothing,
}

#[derive(Debug, Default)]
struct Held {
    hints: VecDeque<Hint>,
    too_many: bool,
    acked: Vec<Place>,
    ended: Option<Ended>,
}

/// What waits for a connection.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    held: Mutex<Held>,
    arrived: Notify,
}

impl Inbox {
    /// Adds a hint. Whether there was room for it.
    pub(super) fn hint(&self, namespace: NamespaceId, generation: Generation, offsets: Range<Offset>) -> bool {
        let mut held = self.held.lock();
        if held.too_many {
            return false;
        }
        match held.hints.back_mut() {
            Some(last)
                if (last.namespace, last.generation, last.offsets.end) == (namespace, generation, offsets.start) =>
            {
                last.offsets.end = offsets.end;
                return true;
            }
            _ => {}
        }
        let room = held.hints.len() < MAX_HINTS;
        if room {
            held.hints.push_back(Hint { namespace, generation, offsets });
        } else {
            held.empty();
            held.too_many = true;
        }
        drop(held);
        self.arrived.notify_one();
        room
    }

    /// Hints may be missing from here on: the connection must look for itself.
    pub(super) fn lose_track(&self) {
        let mut held = self.held.lock();
        held.empty();
        held.too_many = true;
        drop(held);
        self.arrived.notify_one();
    }

    /// The subscriber is durably done with all below these places.
    pub(super) fn acked(&self, places: &[Place]) {
        let mut held = self.held.lock();
        for place in places {
            match held.acked.iter_mut().find(|known| known.namespace == place.namespace) {
                Some(known) => *known = (*known).max(*place),
                None => held.acked.push(*place),
            }
        }
        drop(held);
        self.arrived.notify_one();
    }

    pub(super) fn end(&self, why: Ended) {
        self.held.lock().ended.get_or_insert(why);
        self.arrived.notify_one();
    }

    /// Takes news.
    pub(super) fn news(&self) -> Option<News> {
        let mut held = self.held.lock();
        held.ended.map(News::Ended).or_else(|| held.acked.pop().map(News::Acked))
    }

    /// Takes the next hint.
    pub(super) fn take(&self) -> Taken {
        let mut held = self.held.lock();
        if held.too_many {
            return Taken::TooMany;
        }
        held.hints.pop_front().map_or(Taken::Nothing, Taken::Hint)
    }

    /// Whether no hint waits, and none is missing.
    pub(super) fn is_quiet(&self) -> bool {
        let held = self.held.lock();
        held.hints.is_empty() && !held.too_many
    }

    /// The connection looks for itself: it needs to be told of what comes from here on.
    pub(super) fn begin_anew(&self) {
        let mut held = self.held.lock();
        held.empty();
        held.too_many = false;
    }

    /// Returns once something has arrived since the last call returned.
    pub(super) async fn arrived(&self) {
        self.arrived.notified().await;
    }
}

impl Held {
    /// Gives back the memory, too.
    fn empty(&mut self) {
        self.hints = VecDeque::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(id: u32) -> NamespaceId {
        NamespaceId::new(id).unwrap()
    }

    fn hint(inbox: &Inbox, namespace: u32, offsets: Range<Offset>) -> bool {
        inbox.hint(id(namespace), 0, offsets)
    }

    #[test]
    fn hints_that_continue_each_other_are_one() {
        let inbox = Inbox::default();
        assert!(inbox.is_quiet());
        hint(&inbox, 1, 4..5);
        hint(&inbox, 1, 5..9);
        hint(&inbox, 2, 9..10);
        hint(&inbox, 1, 9..10);
        let taken: Vec<Taken> = std::iter::repeat_with(|| inbox.take()).take(4).collect();
        let hint = |namespace, offsets| Taken::Hint(Hint { namespace: id(namespace), generation: 0, offsets });
        assert_eq!(taken, [hint(1, 4..9), hint(2, 9..10), hint(1, 9..10), Taken::Nothing]);
    }

    #[test]
    fn too_many_hints_are_none_until_the_connection_has_looked() {
        let inbox = Inbox::default();
        for offset in 0..MAX_HINTS as u64 {
            assert!(hint(&inbox, 1, 2 * offset..2 * offset + 1));
        }
        assert!(!hint(&inbox, 1, 9_999..10_000));
        assert!(!hint(&inbox, 1, 10_001..10_002));
        assert_eq!((inbox.take(), inbox.take(), inbox.is_quiet()), (Taken::TooMany, Taken::TooMany, false));
        assert_eq!(inbox.held.lock().hints.capacity(), 0);
        inbox.begin_anew();
        assert!(inbox.is_quiet());
        assert!(hint(&inbox, 1, 10_003..10_004));
        inbox.end(Ended::Replaced);
        inbox.end(Ended::SubscriberDeleted);
        assert_eq!(inbox.news(), Some(News::Ended(Ended::Replaced)));
    }

    #[test]
    fn of_acks_of_a_namespace_the_highest_counts() {
        let inbox = Inbox::default();
        let place = |next_offset| Place { namespace: id(1), generation: 0, next_offset };
        inbox.acked(&[place(4)]);
        inbox.acked(&[place(9)]);
        inbox.acked(&[place(7)]);
        assert_eq!((inbox.news(), inbox.news()), (Some(News::Acked(place(9))), None));
    }
}
