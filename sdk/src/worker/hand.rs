//! The records that a worker has in hand.
//!
//! Where the group is ordered by key, those of one key run one after another; one whose lease has
//! ended, or whose handler failed, takes those behind it with it, as the broker does. Until the broker has
//! heard of a failure it may give out more of that key: they are not taken.

use std::collections::{HashMap, HashSet, VecDeque};

use crate::lease::Leased;

/// Records that run, or wait for one of their key.
#[derive(Debug)]
pub(super) struct Hand<R> {
    by_key: bool,
    /// What runs, by token.
    running: HashMap<String, Running<R>>,
    /// What waits behind a record that runs, by key.
    waiting: HashMap<String, VecDeque<Leased>>,
    /// How many wait.
    waiters: usize,
    /// Keys of which a record has failed, and the broker has not heard it yet.
    failed: HashSet<String>,
}

#[derive(Debug)]
struct Running<R> {
    key: Option<String>,
    handle: R,
}

impl<R> Hand<R> {
    pub(super) fn new(by_key: bool) -> Hand<R> {
        Hand { by_key, running: HashMap::new(), waiting: HashMap::new(), waiters: 0, failed: HashSet::new() }
    }

    /// How many records there are.
    pub(super) fn len(&self) -> usize {
        self.running.len() + self.waiters
    }

    /// Whether there is an order to be kept.
    pub(super) fn is_by_key(&self) -> bool {
        self.by_key
    }

    /// Takes a record; gives it back where it may run now.
    pub(super) fn take(&mut self, leased: Leased) -> Option<Leased> {
        let key = leased.record.key.as_ref().filter(|_| self.by_key);
        if key.is_some_and(|key| self.failed.contains(key)) {
            return None;
        }
        let Some(queue) = key.and_then(|key| self.waiting.get_mut(key)) else { return Some(leased) };
        queue.push_back(leased);
        self.waiters += 1;
        None
    }

    /// A record runs.
    pub(super) fn run(&mut self, leased: &Leased, handle: R) {
        let key = leased.record.key.clone().filter(|_| self.by_key);
        if let Some(key) = &key {
            self.waiting.entry(key.clone()).or_default();
        }
        self.running.insert(leased.token.clone(), Running { key, handle });
    }

    /// A record is done; gives the next one of its key, which may run now. Nothing is said of one that
    /// was let go before.
    pub(super) fn done(&mut self, token: &str) -> Option<Leased> {
        let key = self.running.remove(token)?.key?;
        let next = self.waiting.get_mut(&key)?.pop_front();
        match next {
            Some(_) => self.waiters -= 1,
            None => drop(self.waiting.remove(&key)),
        }
        next
    }

    /// A record that ran has failed.
    pub(super) fn fail(&mut self, token: &str) {
        let key = self.running.get(token).and_then(|running| running.key.clone());
        self.failed.extend(key);
        self.let_go(token);
    }

    /// The broker has heard of all that has failed.
    pub(super) fn failures_are_told(&mut self) {
        self.failed.clear();
    }

    /// A record has failed, or its lease has ended: those behind it of its key go, too. Gives what it ran
    /// by, if it runs.
    pub(super) fn let_go(&mut self, token: &str) -> Option<R> {
        if let Some(Running { key, handle }) = self.running.remove(token) {
            let behind = key.and_then(|key| self.waiting.remove(&key));
            self.waiters -= behind.map_or(0, |behind| behind.len());
            return Some(handle);
        }
        for queue in self.waiting.values_mut() {
            if let Some(at) = queue.iter().position(|leased| leased.token == token) {
                self.waiters -= queue.len() - at;
                queue.truncate(at);
                break;
            }
        }
        None
    }

    /// What waits will not run.
    pub(super) fn drop_waiting(&mut self) {
        self.waiting.values_mut().for_each(VecDeque::clear);
        self.waiters = 0;
    }

    /// The tokens of all that is in hand.
    pub(super) fn tokens(&self) -> Vec<String> {
        let waiting = self.waiting.values().flatten().map(|leased| &leased.token);
        self.running.keys().chain(waiting).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use wire::Kind;

    use crate::record::Record;

    fn leased(offset: u64, key: Option<&str>) -> Leased {
        let record = Record {
            namespace: None,
            offset,
            id: "3f0000010000000a".parse().unwrap(),
            key: key.map(str::to_owned),
            headers: Vec::new(),
            kind: Kind::Text,
            value: Bytes::new(),
            time_micros: 0,
        };
        Leased { record, token: offset.to_string(), delivery: 1, expires_micros: 0 }
    }

    /// Takes records as they come; answers which of them run.
    fn take(hand: &mut Hand<u64>, records: &[(u64, Option<&str>)]) -> Vec<u64> {
        let mut run = Vec::new();
        for (offset, key) in records {
            if let Some(leased) = hand.take(leased(*offset, *key)) {
                hand.run(&leased, *offset);
                run.push(*offset);
            }
        }
        run
    }

    #[test]
    fn records_of_a_key_run_one_after_another() {
        let mut hand = Hand::new(true);
        let records = [(0, Some("a")), (1, Some("b")), (2, Some("a")), (3, None), (4, None), (5, Some("a"))];
        assert_eq!(take(&mut hand, &records), [0, 1, 3, 4]);
        assert_eq!((hand.len(), hand.tokens().len()), (6, 6));
        let next = hand.done("0").unwrap();
        assert_eq!(next.record.offset, 2);
        hand.run(&next, 2);
        assert!(take(&mut hand, &[(6, Some("a"))]).is_empty());
        assert_eq!(hand.done("1"), None);
        assert_eq!(take(&mut hand, &[(7, Some("b"))]), [7]);
        assert_eq!(hand.done("3"), None);
        for due in [5, 6] {
            let next =
                hand.done(&hand.running.values().find(|r| r.key.as_deref() == Some("a")).unwrap().handle.to_string());
            let next = next.unwrap();
            assert_eq!(next.record.offset, due);
            hand.run(&next, due);
        }
        assert_eq!((hand.done("6"), hand.len()), (None, 2));
    }

    #[test]
    fn without_an_order_all_run() {
        let mut hand = Hand::new(false);
        assert_eq!(take(&mut hand, &[(0, Some("a")), (1, Some("a"))]), [0, 1]);
        assert_eq!((hand.done("0"), hand.len()), (None, 1));
    }

    #[test]
    fn what_is_let_go_takes_those_behind_it_along() {
        let all = [(0, Some("a")), (1, Some("a")), (2, Some("a")), (3, Some("b")), (4, Some("b"))];
        let mut hand = Hand::new(true);
        take(&mut hand, &all);
        assert_eq!((hand.let_go("0"), hand.len()), (Some(0), 2));
        assert_eq!((hand.let_go("0"), hand.let_go("1"), hand.done("0")), (None, None, None));
        assert_eq!(take(&mut hand, &[(0, Some("a"))]), [0], "delivered again, it runs");

        hand.fail("0");
        assert_eq!(take(&mut hand, &[(1, Some("a")), (5, Some("c"))]), [5], "given out before it was known");
        hand.failures_are_told();
        assert_eq!(take(&mut hand, &[(0, Some("a"))]), [0]);

        let mut hand = Hand::new(true);
        take(&mut hand, &all);
        assert_eq!((hand.let_go("1"), hand.len()), (None, 3));
        assert_eq!(hand.done("0"), None);
        hand.drop_waiting();
        assert_eq!((hand.len(), hand.tokens()), (1, vec!["3".to_owned()]));
    }
}
