//! The dispatch state machine against a model that says the same in the plainest way, under any
//! interleaving of workers, time, commits that fail, and restarts.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;

use consumers::groups::{
    Dead, Dispatch, Failures, GroupConfig, Order, Pending, Progress, Progressed, Retry, Token, merged,
};
use proptest::prelude::*;
use proptest::sample::Index;
use wire::{Offset, Shard};

const MS: u64 = 1_000_000;
const LEASE_MS: u64 = 30;
const RETRY: Retry = Retry { min_ms: 10, max_ms: 25 };
const MAX_DELIVERIES: u32 = 3;
const WINDOW: usize = 24;
const WORKERS: usize = 4;
const EVERYTHING: usize = usize::MAX;

#[derive(Debug, Clone)]
enum Op {
    Offer(usize),
    Lease {
        worker: usize,
        max: usize,
        max_bytes: usize,
    },
    /// Of the tokens that hold, or of all that were ever given.
    Ack(bool, Vec<Index>),
    Nack(bool, Vec<Index>, Option<u64>),
    Extend(bool, Vec<Index>, u64),
    Commit(Index, bool),
    Advance(u64),
    Leave(usize),
    Restart,
}

fn op() -> impl Strategy<Value = Op> {
    let tokens = || (prop::bool::weighted(0.8), prop::collection::vec(any::<Index>(), 1..6));
    prop_oneof![
        3 => (1..12usize).prop_map(Op::Offer),
        6 => (0..WORKERS, 0..8usize, prop_oneof![Just(EVERYTHING), 0..25usize])
            .prop_map(|(worker, max, max_bytes)| Op::Lease { worker, max, max_bytes }),
        4 => tokens().prop_map(|(live, which)| Op::Ack(live, which)),
        3 => (tokens(), prop::option::of(0..40u64)).prop_map(|((live, which), delay)| Op::Nack(live, which, delay)),
        2 => (tokens(), 0..90u64).prop_map(|((live, which), lease)| Op::Extend(live, which, lease)),
        5 => (any::<Index>(), prop::bool::weighted(0.8)).prop_map(|(which, durable)| Op::Commit(which, durable)),
        4 => (1..35u64).prop_map(Op::Advance),
        1 => (0..WORKERS).prop_map(Op::Leave),
        1 => prop::bool::weighted(0.2).prop_map(|restart| if restart { Op::Restart } else { Op::Offer(3) }),
    ]
}

/// The log: records, or losses. A key decides the shard.
fn log() -> impl Strategy<Value = Vec<Option<(Option<u64>, u8, u32)>>> {
    // One key has as many as all others.
    let key = prop_oneof![Just(0), 0..5u64];
    let record = (prop::option::weighted(0.9, key), any::<u8>(), 1..12u32)
        .prop_map(|(key, shard, bytes)| (key, key.map_or(shard, |key| key as u8 * 50), bytes));
    prop::collection::vec(prop::option::weighted(0.93, record), 1..70)
}

#[derive(Debug, Clone, PartialEq)]
enum Life {
    Ready,
    Leased {
        token: Token,
        at: u64,
    },
    /// `fired`: its time has passed, and nothing has come of it.
    Committing {
        token: Token,
        at: u64,
        dead: bool,
        fired: bool,
    },
    Waiting {
        due: u64,
    },
    Settled,
}

#[derive(Debug)]
struct Known {
    key: Option<u64>,
    shard: u8,
    bytes: u32,
    attempts: u32,
    life: Life,
}

struct Model {
    config: GroupConfig,
    log: Vec<Option<(Option<u64>, u8, u32)>>,
    dispatch: Dispatch,
    progress: Progress,
    boot: u64,
    now: u64,
    /// What was offered and is not forgotten by a restart.
    known: BTreeMap<Offset, Known>,
    /// Up to where it was offered, and what of that had no room and is to come again.
    next: Offset,
    deferred: BTreeMap<Offset, u64>,
    attempts: BTreeMap<Offset, u32>,
    given: Vec<Token>,
    commits: Vec<Vec<Token>>,
    settled: BTreeMap<Offset, bool>,
    delivered: u64,
    redelivered: u64,
    dead: u64,
}

impl Model {
    fn new(order: Order, log: Vec<Option<(Option<u64>, u8, u32)>>) -> Model {
        let config = GroupConfig {
            order,
            lease_ms: LEASE_MS,
            max_deliveries: MAX_DELIVERIES,
            retry: RETRY,
            ..GroupConfig::default()
        };
        let progress = Progress::new(0);
        let dispatch = Dispatch::new(&config, &progress, 1, WINDOW);
        Model {
            config,
            log,
            dispatch,
            progress,
            boot: 1,
            now: 1,
            known: BTreeMap::new(),
            next: 0,
            deferred: BTreeMap::new(),
            attempts: BTreeMap::new(),
            given: Vec::new(),
            commits: Vec::new(),
            settled: BTreeMap::new(),
            delivered: 0,
            redelivered: 0,
            dead: 0,
        }
    }

    fn unsettled(&self) -> impl Iterator<Item = (&Offset, &Known)> {
        self.known.iter().filter(|(_, known)| known.life != Life::Settled)
    }

    fn run(&mut self, op: &Op) {
        match op {
            Op::Offer(count) => self.offer(*count),
            Op::Lease { worker, max, max_bytes } => {
                self.lease(*worker, *max, *max_bytes);
            }
            Op::Ack(live, which) => {
                let tokens = self.pick(*live, which);
                self.ack(&tokens);
            }
            Op::Nack(live, which, delay) => {
                let tokens = self.pick(*live, which);
                self.nack(&tokens, *delay);
            }
            Op::Extend(live, which, lease) => {
                let tokens = self.pick(*live, which);
                self.extend(&tokens, lease * MS);
            }
            Op::Commit(which, durable) => {
                if !self.commits.is_empty() {
                    self.commit(which.index(self.commits.len()), *durable);
                }
            }
            Op::Advance(ms) => {
                self.now += ms * MS;
                self.expire();
            }
            Op::Leave(worker) => self.dispatch.leave(&format!("w{worker}")),
            Op::Restart => self.restart(),
        }
        self.check();
    }

    fn offer(&mut self, count: usize) {
        for _ in 0..count {
            let Some(wanted) = self.dispatch.wants() else { break };
            assert!(!self.settled.contains_key(&wanted), "{wanted} was acked");
            self.check_wanted(wanted);
            // A read has a few.
            for at in wanted as usize..self.log.len().min(wanted as usize + 3) {
                let Some((key, shard, bytes)) = self.log[at] else { continue };
                let offset = at as Offset;
                let pending = Pending { offset, shard: Shard(shard), key, bytes };
                let has_room = self.room() > 0 || offset < self.next || self.settled.contains_key(&offset);
                assert_eq!(self.dispatch.offer(pending), has_room);
                if !has_room {
                    break;
                }
                self.offered(offset);
                // Once more changes nothing.
                assert!(self.dispatch.offer(pending));
            }
            let read = wanted + 3;
            if (wanted..read).all(|offset| self.log.get(offset as usize).is_none_or(Option::is_none)) {
                self.dispatch.pass(read.min(self.log.len() as Offset));
                self.next = self.next.max(read.min(self.log.len() as Offset));
            }
        }
        let acked = merged(self.dispatch.take_skipped());
        self.progress.apply(&Progressed { acked, ..Progressed::default() });
    }

    /// What goes on is read, or what was left of the key that has the fewest, once that is half its share.
    fn check_wanted(&self, wanted: Offset) {
        let heads: Vec<(usize, Offset)> =
            self.deferred.iter().map(|(offset, key)| (self.of_key(*key), *offset)).collect();
        let fewest = heads.iter().map(|(count, _)| *count).min().filter(|count| 2 * count < self.room());
        match fewest {
            Some(_) => {
                let key = self.deferred[&wanted];
                assert_eq!(Some(self.of_key(key)), fewest);
                assert_eq!(self.first_deferred(key), Some(wanted));
            }
            None => assert!(wanted >= self.next, "{wanted} was offered"),
        }
    }

    fn room(&self) -> usize {
        WINDOW - self.unsettled().count()
    }

    fn of_key(&self, key: u64) -> usize {
        self.unsettled().filter(|(_, known)| known.key == Some(key)).count()
    }

    fn first_deferred(&self, key: u64) -> Option<Offset> {
        self.deferred.iter().find(|(_, of)| **of == key).map(|(offset, _)| *offset)
    }

    fn offered(&mut self, offset: Offset) {
        let (key, shard, bytes) = self.log[offset as usize].unwrap();
        let ordered = key.filter(|_| self.config.order == Order::Key);
        let (count, room) = (ordered.map_or(0, |key| self.of_key(key)), self.room());
        let first = ordered.and_then(|key| self.first_deferred(key));
        if offset < self.next {
            if first != Some(offset) || count >= room {
                return;
            }
            self.deferred.remove(&offset);
        } else {
            self.next = offset + 1;
            if self.settled.contains_key(&offset) {
                return;
            }
            if let Some(key) = ordered.filter(|_| first.is_some() || count >= room) {
                self.deferred.insert(offset, key);
                return;
            }
        }
        let attempts = self.attempts.get(&offset).copied().unwrap_or(0);
        let known = Known { key, shard, bytes, attempts, life: Life::Ready };
        assert!(self.known.insert(offset, known).is_none());
    }

    /// Whether a record may go out, the records before it in a lease given.
    fn may_go(&self, offset: Offset, worker: &str, lease: &[Offset]) -> bool {
        let known = &self.known[&offset];
        if known.life != Life::Ready {
            return false;
        }
        if self.config.order == Order::None {
            return true;
        }
        if self.dispatch.owner(Shard(known.shard)) != Some(worker) {
            return false;
        }
        let of_key = |other: &Known| known.key.is_some() && other.key == known.key;
        self.unsettled().filter(|(_, other)| of_key(other)).all(|(at, other)| {
            let flying = matches!(other.life, Life::Leased { .. } | Life::Committing { .. });
            lease.contains(at) || (!flying && *at >= offset)
        })
    }

    fn lease(&mut self, worker: usize, max: usize, max_bytes: usize) -> Vec<Token> {
        let worker = format!("w{worker}");
        let has_work = self.dispatch.has_work(&worker);
        let joined = self.dispatch.figures().workers.iter().any(|known| *known.name == *worker);
        let grants = self.dispatch.lease(self.now, &worker, max, max_bytes).unwrap();
        let mut lease: Vec<Offset> = Vec::new();
        for grant in &grants {
            let offset = grant.token.offset;
            assert!(lease.last().is_none_or(|last| *last < offset));
            assert!(self.may_go(offset, &worker, &lease), "{offset} went to {worker} behind {lease:?}");
            assert_eq!(grant.delivery, self.known[&offset].attempts + 1);
            assert_eq!(grant.expires, self.now + LEASE_MS * MS);
            assert!(!self.given.contains(&grant.token), "a token twice");
            lease.push(offset);
        }
        let bytes: usize = lease.iter().map(|offset| self.known[offset].bytes as usize).sum();
        assert!(lease.len() <= max && (bytes <= max_bytes || lease.len() == 1));
        let left = self.unsettled().filter(|(offset, _)| !lease.contains(offset));
        let left = left.filter(|(offset, _)| self.may_go(**offset, &worker, &lease)).count();
        let full = lease.len() == max || (max_bytes < EVERYTHING && !lease.is_empty());
        assert!(full || left == 0, "{left} ready ones wait while {worker} asks");
        if joined || self.config.order == Order::None {
            assert_eq!(has_work, left + lease.len() > 0);
        }
        self.delivered += grants.len() as u64;
        self.redelivered += grants.iter().filter(|grant| grant.delivery > 1).count() as u64;
        for grant in &grants {
            let known = self.known.get_mut(&grant.token.offset).unwrap();
            known.life = Life::Leased { token: grant.token, at: grant.expires };
            self.given.push(grant.token);
        }
        grants.iter().map(|grant| grant.token).collect()
    }

    fn pick(&self, live: bool, which: &[Index]) -> Vec<Token> {
        let leased = self.known.values().filter_map(|known| match known.life {
            Life::Leased { token, .. } => Some(token),
            _ => None,
        });
        let from: Vec<Token> = if live { leased.collect() } else { self.given.clone() };
        if from.is_empty() { Vec::new() } else { which.iter().map(|index| from[index.index(from.len())]).collect() }
    }

    fn holds(&self, token: &Token) -> bool {
        let life = self.known.get(&token.offset).map(|known| &known.life);
        matches!(life, Some(Life::Leased { token: held, .. }) if held == token)
    }

    fn ack(&mut self, tokens: &[Token]) {
        let (mut held, mut lapsed) = (Vec::new(), Vec::new());
        for token in tokens {
            if !self.holds(token) {
                lapsed.push(*token);
                continue;
            }
            held.push(*token);
            let known = self.known.get_mut(&token.offset).unwrap();
            if let Life::Leased { token, at } = known.life {
                known.life = Life::Committing { token, at, dead: false, fired: false };
            }
        }
        let settled = self.dispatch.settle(self.now, tokens);
        assert_eq!((&settled.held, settled.lapsed), (&held, lapsed));
        self.commits.push(held);
    }

    fn commit(&mut self, which: usize, durable: bool) {
        let tokens = self.commits.swap_remove(which);
        for token in &tokens {
            let known = self.known.get_mut(&token.offset).unwrap();
            let Life::Committing { token: committing, at, dead, fired } = known.life else {
                panic!("{} is not committing", token.offset)
            };
            assert_eq!(committing, *token);
            if durable {
                known.life = Life::Settled;
                self.dead += u64::from(dead);
                assert!(!dead || known.attempts + 1 == MAX_DELIVERIES);
                assert_eq!(self.settled.insert(token.offset, dead), None, "{} was acked twice", token.offset);
                let acked = std::iter::once(token.offset..token.offset + 1).filter(|_| !dead).collect();
                let dead = [Dead::new(token.offset, MAX_DELIVERIES, "")].into_iter().filter(|_| dead).collect();
                self.progress.apply(&Progressed { acked, dead, failed: Vec::new() });
            } else {
                known.life = Life::Leased { token: committing, at: if fired { self.now } else { at } };
            }
        }
        if durable {
            self.dispatch.acked(&tokens);
            self.dispatch.acked(&tokens);
        } else {
            self.dispatch.unsettle(self.now, &tokens);
        }
    }

    fn nack(&mut self, tokens: &[Token], delay: Option<u64>) {
        let lapsed = tokens.iter().filter(|token| !self.holds(token)).copied().collect();
        let mut held: Vec<Token> = tokens.iter().filter(|token| self.holds(token)).copied().collect();
        held.sort_unstable();
        held.dedup();
        let mut expected = Failures { lapsed, ..Failures::default() };
        for token in held {
            let attempts = self.known[&token.offset].attempts + 1;
            let wait = delay.unwrap_or_else(|| [0, 10, 20, 25][attempts.min(3) as usize]);
            self.fail(token, Some(self.now + wait * MS), &mut expected);
        }
        let failures = self.dispatch.nack(self.now, tokens, delay.map(|delay| delay * MS));
        assert_eq!(failures, expected);
        self.take_failures(&failures);
    }

    fn expire(&mut self) {
        let mut over: Vec<Token> = Vec::new();
        for known in self.known.values_mut() {
            match &mut known.life {
                Life::Leased { token, at } if *at <= self.now => over.push(*token),
                Life::Committing { at, fired, .. } if *at <= self.now => *fired = true,
                Life::Waiting { due } if *due <= self.now => known.life = Life::Ready,
                _ => {}
            }
        }
        let mut expected = Failures::default();
        for token in over {
            self.fail(token, None, &mut expected);
        }
        let failures = self.dispatch.expire(self.now);
        assert_eq!(failures, expected);
        self.take_failures(&failures);
        assert!(self.dispatch.deadline().is_none_or(|at| at > self.now));
    }

    fn fail(&mut self, token: Token, due: Option<u64>, expected: &mut Failures) {
        if !self.holds(&token) {
            return;
        }
        let key = self.known[&token.offset].key;
        if self.config.order == Order::Key && key.is_some() {
            for (_, later) in self.known.range_mut(token.offset + 1..).filter(|(_, later)| later.key == key) {
                if matches!(later.life, Life::Leased { .. }) {
                    later.life = Life::Ready;
                }
            }
        }
        let known = self.known.get_mut(&token.offset).unwrap();
        let Life::Leased { at, .. } = known.life else { unreachable!() };
        if known.attempts + 1 == MAX_DELIVERIES {
            known.life = Life::Committing { token, at, dead: true, fired: at <= self.now && due.is_none() };
            expected.dead.push((token, MAX_DELIVERIES));
        } else {
            known.attempts += 1;
            known.life = due.map_or(Life::Ready, |due| Life::Waiting { due });
            expected.failed.push((token.offset, known.attempts));
        }
    }

    fn take_failures(&mut self, failures: &Failures) {
        let failed = failures.failed.clone();
        self.attempts.extend(failed.iter().copied());
        self.progress.apply(&Progressed { failed, ..Progressed::default() });
        self.commits.push(failures.dead.iter().map(|(token, _)| *token).collect());
    }

    fn extend(&mut self, tokens: &[Token], lease: u64) {
        let (held, lapsed): (Vec<Token>, Vec<Token>) = tokens.iter().partition(|token| self.holds(token));
        let settled = self.dispatch.extend(self.now, tokens, lease);
        assert_eq!((&settled.held, settled.lapsed), (&held, lapsed));
        for token in held {
            self.known.get_mut(&token.offset).unwrap().life = Life::Leased { token, at: self.now + lease };
        }
    }

    /// What is durable stays, everything else is forgotten.
    fn restart(&mut self) {
        let bytes = self.progress.encode().unwrap();
        self.progress = Progress::decode(&bytes).unwrap();
        self.boot += 1;
        self.dispatch = Dispatch::new(&self.config, &self.progress, self.boot, WINDOW);
        self.known.clear();
        self.deferred.clear();
        self.next = self.progress.floor();
        self.commits.clear();
        (self.delivered, self.redelivered, self.dead) = (0, 0, 0);
    }

    fn check(&mut self) {
        let figures = self.dispatch.figures();
        let count = |is: fn(&Life) -> bool| self.known.values().filter(|known| is(&known.life)).count();
        let in_flight = count(|life| matches!(life, Life::Leased { .. } | Life::Committing { .. }));
        assert_eq!(figures.in_flight, in_flight);
        assert_eq!(figures.ready, count(|life| *life == Life::Ready));
        assert_eq!(figures.waiting, count(|life| matches!(life, Life::Waiting { .. })));
        assert_eq!(
            (figures.delivered, figures.redelivered, figures.dead_lettered),
            (self.delivered, self.redelivered, self.dead)
        );
        let unsettled = self.unsettled().count();
        assert!(unsettled <= WINDOW);
        assert_eq!(self.dispatch.wants().is_none(), unsettled == WINDOW);
        let could_go = self.config.order == Order::None && figures.ready > 0;
        assert!(!figures.full || unsettled == WINDOW && !could_go);
        let deadline = self.known.values().filter_map(|known| match known.life {
            Life::Leased { at, .. } | Life::Committing { at, fired: false, .. } => Some(at),
            Life::Waiting { due } => Some(due),
            _ => None,
        });
        assert_eq!(self.dispatch.deadline(), deadline.min());
    }

    /// Workers that do their work, until all is done.
    fn drain(&mut self) {
        for _ in 0..20 * self.log.len() + 20 {
            while !self.commits.is_empty() {
                self.commit(0, true);
            }
            self.offer(WINDOW);
            let before = self.delivered;
            for worker in 0..WORKERS {
                let tokens = self.lease(worker, 5, EVERYTHING);
                self.ack(&tokens);
            }
            self.check();
            if self.delivered == before && self.commits.iter().all(Vec::is_empty) {
                self.commits.clear();
                match self.dispatch.deadline() {
                    Some(at) => {
                        self.now = self.now.max(at);
                        self.expire();
                    }
                    None => break,
                }
            }
        }
        let records = (0..self.log.len() as u64).filter(|offset| self.log[*offset as usize].is_some());
        assert_eq!(self.settled.keys().copied().collect::<Vec<_>>(), records.collect::<Vec<_>>());
        assert_eq!(self.progress, Progress::new(self.log.len() as u64));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn any_interleaving_is_as_the_model_says(
        key: bool,
        log in log(),
        ops in prop::collection::vec(op(), 1..150),
    ) {
        let mut model = Model::new(if key { Order::Key } else { Order::None }, log);
        ops.iter().for_each(|op| model.run(op));
        model.drain();
    }
}

fn offered(order: Order, keys: &[Option<u64>]) -> Model {
    let log = keys.iter().map(|key| Some((*key, key.unwrap_or(0) as u8, 1))).collect();
    let mut model = Model::new(order, log);
    model.offer(keys.len());
    model
}

#[test]
fn a_poison_record_holds_up_its_key_and_no_other() {
    let mut model = offered(Order::Key, &[Some(1), Some(1), Some(2), None, Some(2), Some(1)]);
    for delivery in 1..=MAX_DELIVERIES {
        let tokens = model.lease(0, 100, EVERYTHING);
        let offsets: Vec<Offset> = tokens.iter().map(|token| token.offset).collect();
        if delivery == 1 {
            assert_eq!(offsets, [0, 1, 2, 3, 4, 5]);
            model.ack(&tokens[2..5]);
            model.commit(0, true);
        } else {
            assert_eq!(offsets, [0, 1, 5]);
        }
        model.nack(&tokens[..1], None);
        assert!(model.lease(0, 100, EVERYTHING).is_empty());
        model.now = model.dispatch.deadline().unwrap_or(model.now);
        model.expire();
    }
    // Given up, but not yet durably so: the key waits.
    assert!(model.lease(0, 100, EVERYTHING).is_empty());
    model.commits.retain(|tokens| !tokens.is_empty());
    model.commit(0, true);
    assert_eq!(model.dispatch.figures().dead_lettered, 1);
    assert_eq!(model.lease(0, 100, EVERYTHING).iter().map(|token| token.offset).collect::<Vec<_>>(), [1, 5]);
}

/// A key with far more records than the window holds, all held up: others go on, however many come behind it,
/// and it goes on itself, in order, once it can.
#[test]
fn a_hot_key_that_is_held_up_leaves_room_for_others() {
    let keys: Vec<Option<u64>> = (0..500).map(|offset| Some(if offset % 50 == 49 { offset } else { 0 })).collect();
    let mut model = offered(Order::Key, &keys);
    let held = model.lease(0, 1, EVERYTHING);
    assert_eq!(held[0].offset, 0);
    let mut others = Vec::new();
    for _ in 0..100 {
        model.offer(10);
        let tokens = model.lease(0, 100, EVERYTHING);
        others.extend(tokens.iter().map(|token| token.offset));
        model.ack(&tokens);
        model.commit(0, true);
    }
    assert_eq!(others, (49..500).step_by(50).collect::<Vec<_>>());
    model.ack(&held);
    model.drain();
}

#[test]
fn what_is_in_flight_stays_where_it_is_when_shards_move() {
    let mut model = offered(Order::Key, &[Some(1), Some(1), Some(1)]);
    let first = model.lease(0, 1, EVERYTHING);
    model.dispatch.leave("w0");
    assert!(model.lease(1, 9, EVERYTHING).is_empty(), "its key is in flight");
    model.ack(&first);
    model.commit(0, true);
    assert_eq!(model.lease(1, 9, EVERYTHING).len(), 2);
}

#[test]
fn a_late_token_changes_nothing() {
    let mut model = offered(Order::None, &[None]);
    let late = model.lease(0, 1, EVERYTHING);
    model.now += LEASE_MS * MS;
    model.expire();
    let held = model.lease(1, 1, EVERYTHING);
    assert_eq!(model.dispatch.settle(model.now, &late).lapsed, late);
    assert_eq!(model.dispatch.extend(model.now, &late, MS).lapsed, late);
    assert_eq!(model.dispatch.nack(model.now, &late, None).lapsed, late);
    let other_boot: Token = format!("{}7", held[0]).parse().unwrap();
    assert_eq!(model.dispatch.settle(model.now, &[other_boot]).lapsed, [other_boot]);
    model.check();
    assert_eq!(model.dispatch.settle(model.now, &held).held, held);
}

/// Takes in as many records as it will, with these keys: how many.
fn fill(dispatch: &mut Dispatch, key: impl Fn(Offset) -> Option<u64>) -> usize {
    let record = |offset| Pending { offset, shard: Shard(0), key: key(offset), bytes: 1 };
    let taken = (0..).take_while(|offset| dispatch.wants().is_some() && dispatch.offer(record(*offset))).count();
    assert!(!dispatch.offer(record(taken as Offset)));
    assert_eq!(dispatch.wants(), None);
    taken
}

/// Leases all that can go out: then the group is full.
fn lease_all(dispatch: &mut Dispatch) -> Vec<Token> {
    assert!(!dispatch.figures().full);
    let grants = dispatch.lease(0, "w", usize::MAX, EVERYTHING).unwrap();
    assert!(dispatch.figures().full);
    grants.iter().map(|grant| grant.token).collect()
}

#[test]
fn the_window_is_bounded_whatever_is_offered() {
    for order in [Order::None, Order::Key] {
        let config = GroupConfig { order, ..GroupConfig::default() };
        let mut dispatch = Dispatch::new(&config, &Progress::new(0), 1, usize::MAX);
        assert_eq!(fill(&mut dispatch, Some), wire::limits::MAX_GROUP_WINDOW);
        let held = lease_all(&mut dispatch);
        assert_eq!(held.len(), wire::limits::MAX_GROUP_WINDOW);
        dispatch.settle(0, &held[..1]);
        dispatch.acked(&held[..1]);
        assert_eq!((dispatch.wants(), dispatch.figures().full), (Some(held.len() as Offset), false));
    }
}

/// A key has half of the window, and then what is left of it in the log has its bound.
#[test]
fn what_is_left_in_the_log_is_bounded_whatever_is_offered() {
    let config = GroupConfig { order: Order::Key, ..GroupConfig::default() };
    let mut dispatch = Dispatch::new(&config, &Progress::new(0), 1, usize::MAX);
    let taken = wire::limits::MAX_GROUP_WINDOW / 2;
    assert_eq!(fill(&mut dispatch, |_| Some(7)), taken + wire::limits::MAX_GROUP_DEFERRED);
    let held = lease_all(&mut dispatch);
    assert_eq!(held.len(), taken);
    dispatch.settle(0, &held);
    dispatch.acked(&held);
    // The first that was left comes next.
    assert_eq!((dispatch.wants(), dispatch.figures().full), (Some(taken as Offset), false));
    assert!(dispatch.wants_again());
}
