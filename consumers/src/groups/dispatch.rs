//! What is leased to whom: a state machine without I/O, threads or a clock. Times are nanoseconds on
//! any clock that does not go back.
//!
//! ```text
//!   offer ──▶ ready ──lease──▶ leased ──settle──▶ committing ──acked──▶ gone
//!               ▲ ▲              │ ▲                 │  ▲
//!               │ └─ taken back ─┤ └──── unsettle ───┘  │ the last delivery has failed
//!               │                ├──────────────────────┘
//!            expire              │ nack, expire
//!               └─── waiting ◀───┘
//! ```
//!
//! A lease lapses in [`Dispatch::expire`] and nowhere else. So between two calls of it everyone agrees on
//! who has what, and a worker that is a moment late is in time if nobody has noticed.
//!
//! Where order is by key, a key's records are in flight at one worker at a time, from one lease, in
//! order. When one of them fails, the later ones that the worker has are taken back, without a mark
//! against them: what it had of them comes again behind the one that failed.

use std::collections::VecDeque;
use std::ops::Range;

use wire::{Offset, Shard};

use super::exchange::{Failures, Figures, Grant, Pending, Room, Settled};
use super::intake::Intake;
use super::keyed::Keyed;
use super::progress::Progress;
use super::timers::Timers;
use super::token::Token;
use super::window::{Slot, State, Window};
use super::workers::{ShardSet, TooManyWorkers, Workers};
use wire::group::{GroupConfig, Order, Retry};

const NANOS_PER_MS: u64 = 1_000_000;

/// The ready records, in the order in which they go out.
#[derive(Debug)]
enum Lanes {
    /// To anyone: first those that were out before.
    Any { again: VecDeque<Slot>, fresh: VecDeque<Slot> },
    /// To whom their shard belongs, and in the order of their key.
    Keyed(Keyed),
}

/// What is leased to whom.
#[derive(Debug)]
pub struct Dispatch {
    boot: u64,
    lease: u64,
    max_deliveries: u32,
    retry: Retry,
    intake: Intake,
    window: Window,
    lanes: Lanes,
    timers: Timers,
    workers: Workers,
    /// All of these but the workers and `full`, which it asks for, and `ready`, which is the rest.
    figures: Figures,
}

impl Dispatch {
    /// Nothing is leased. At most `window` records are read and not settled. `boot` is a number that no
    /// other of the group's has had: so tokens from before mean nothing.
    pub fn new(config: &GroupConfig, progress: &Progress, boot: u64, window: usize) -> Dispatch {
        let lanes = match config.order {
            Order::None => Lanes::Any { again: VecDeque::new(), fresh: VecDeque::new() },
            Order::Key => Lanes::Keyed(Keyed::new()),
        };
        Dispatch {
            boot,
            lease: config.lease_ms.saturating_mul(NANOS_PER_MS),
            max_deliveries: config.max_deliveries,
            retry: config.retry,
            intake: Intake::new(progress),
            window: Window::new(window),
            lanes,
            timers: Timers::default(),
            workers: Workers::default(),
            figures: Figures::default(),
        }
    }

    /// The offset to go on reading at; nothing while the window is full, or too much was left in the log.
    pub fn wants(&self) -> Option<Offset> {
        match &self.lanes {
            _ if self.window.is_full() => None,
            Lanes::Any { .. } => Some(self.intake.next()),
            Lanes::Keyed(keyed) => {
                let next = (!keyed.deferred.is_full()).then_some(self.intake.next());
                keyed.wants(self.window.room()).or(next)
            }
        }
    }

    /// Whether it has as many records in memory as it may, and none that could go out.
    fn is_full(&self) -> bool {
        let stands_still = match &self.lanes {
            Lanes::Any { again, fresh } => again.is_empty() && fresh.is_empty(),
            Lanes::Keyed(keyed) => keyed.stands_still(),
        };
        stands_still && self.wants().is_none()
    }

    /// Whether there are records to be read again.
    pub fn wants_again(&self) -> bool {
        self.wants().is_some_and(|offset| offset < self.intake.next())
    }

    /// Takes in a record, in the order of offsets from where it was wanted. What was taken in or acked before
    /// is passed over, and so are offsets that are left out: they are lost. Says whether there was room.
    pub fn offer(&mut self, record: Pending) -> bool {
        let Pending { offset, key, .. } = record;
        let room = self.window.room();
        if offset < self.intake.next() {
            if let Lanes::Keyed(keyed) = &mut self.lanes
                && keyed.recall(key, offset, room)
            {
                self.take_in(record);
            }
            return true;
        }
        self.pass(offset);
        if !self.intake.was_acked(offset) {
            let deferred = match &mut self.lanes {
                _ if room == 0 => return false,
                Lanes::Keyed(keyed) if keyed.deferred.is_full() => return false,
                Lanes::Keyed(keyed) => keyed.defer(key, offset, room),
                Lanes::Any { .. } => false,
            };
            if !deferred {
                self.take_in(record);
            }
        }
        let reads_again = self.has_deferred();
        self.intake.go_behind(offset, reads_again);
        true
    }

    fn take_in(&mut self, Pending { offset, shard, key, bytes }: Pending) {
        let slot = self.window.insert(offset, shard, bytes, self.intake.attempts(offset));
        match &mut self.lanes {
            Lanes::Any { fresh, .. } => fresh.push_back(slot),
            Lanes::Keyed(keyed) => keyed.add(&mut self.window, slot, key),
        }
    }

    fn has_deferred(&self) -> bool {
        matches!(&self.lanes, Lanes::Keyed(keyed) if !keyed.deferred.is_empty())
    }

    /// There are no more records before `offset`: those that have not been offered are lost.
    pub fn pass(&mut self, offset: Offset) {
        self.intake.pass(offset);
    }

    /// Takes what was passed over and will never be acked. It has to go into the progress as if it
    /// were, else the floor would stay below it.
    pub fn take_skipped(&mut self) -> Vec<Range<Offset>> {
        self.intake.take_skipped()
    }

    /// A sign of life of a worker, which joins with its first.
    ///
    /// # Errors
    /// Where there are too many workers.
    pub fn arrive(&mut self, now: u64, worker: &str) -> Result<(), TooManyWorkers> {
        self.workers.arrive(worker, now).map(drop)
    }

    /// Gives a worker up to `max` records of `max_bytes` together, by offset; but one of any size,
    /// where there is one. A worker joins with its first lease, also with one of none.
    ///
    /// # Errors
    /// Where there are too many workers.
    pub fn lease(
        &mut self,
        now: u64,
        worker: &str,
        max: usize,
        max_bytes: usize,
    ) -> Result<Vec<Grant>, TooManyWorkers> {
        let worker = self.workers.arrive(worker, now)?;
        let mut room = Room::new(max, max_bytes);
        let mut taken = Vec::new();
        match &mut self.lanes {
            Lanes::Any { again, fresh } => {
                take(again, &self.window, &mut room, &mut taken);
                take(fresh, &self.window, &mut room, &mut taken);
            }
            Lanes::Keyed(keyed) => keyed.take(&self.window, self.workers.shards(worker), &mut room, &mut taken),
        }
        self.workers.given(worker, taken.len());
        self.figures.in_flight += taken.len();
        self.figures.delivered += taken.len() as u64;
        let expires = now.saturating_add(self.lease);
        let mut grants: Vec<Grant> = taken.into_iter().map(|slot| self.grant(slot, worker, expires)).collect();
        grants.sort_unstable_by_key(|grant| grant.token.offset);
        Ok(grants)
    }

    fn grant(&mut self, slot: Slot, worker: u32, expires: u64) -> Grant {
        self.window.renew(slot);
        let entry = &mut self.window[slot];
        entry.state = State::Leased;
        entry.worker = worker;
        entry.at = expires;
        let token = Token { offset: entry.offset, lease: entry.ticket, boot: self.boot };
        let delivery = entry.attempts.saturating_add(1);
        self.figures.redelivered += u64::from(delivery > 1);
        self.timers.set_lease(&mut self.window, slot);
        Grant { token, delivery, expires }
    }

    /// Whether a lease would give the worker something now. Where order is by key, one that has not joined
    /// has no shards, and so nothing.
    pub fn has_work(&self, worker: &str) -> bool {
        match &self.lanes {
            Lanes::Any { again, fresh } => !again.is_empty() || !fresh.is_empty(),
            Lanes::Keyed(keyed) => {
                let shards = self.workers.find(worker).map_or(ShardSet::default(), |w| self.workers.shards(w));
                keyed.has(shards)
            }
        }
    }

    /// Takes the records of these tokens as done, which is still to be made durable: until
    /// [`Dispatch::acked`] or [`Dispatch::unsettle`] they don't lapse.
    pub fn settle(&mut self, now: u64, tokens: &[Token]) -> Settled {
        let mut settled = Settled { held: Vec::with_capacity(tokens.len()), lapsed: Vec::new() };
        for token in tokens {
            match self.holder(now, token) {
                Some(slot) => {
                    self.window[slot].state = State::Committing;
                    settled.held.push(*token);
                }
                None if mutant!(AckLapsedToken) => match self.window.leased_of(token.offset) {
                    Some(slot) => {
                        self.window[slot].state = State::Committing;
                        settled.held.push(self.token(slot));
                    }
                    None => settled.lapsed.push(*token),
                },
                None => settled.lapsed.push(*token),
            }
        }
        settled
    }

    /// That these are done, or given up, is durable. What is not committing is passed over.
    pub fn acked(&mut self, tokens: &[Token]) {
        for token in tokens {
            let Some(slot) = self.find(token, State::Committing) else { continue };
            if let Lanes::Keyed(keyed) = &mut self.lanes {
                keyed.settled(&mut self.window, slot);
            }
            self.workers.done(self.window[slot].worker);
            self.figures.in_flight -= 1;
            self.figures.dead_lettered += u64::from(self.window[slot].dead);
            self.window.remove(slot);
        }
    }

    /// That these are done, or given up, could not be made durable: they are leased as before. What would
    /// have lapsed in the meantime is due to lapse now.
    pub fn unsettle(&mut self, now: u64, tokens: &[Token]) {
        for token in tokens {
            let Some(slot) = self.find(token, State::Committing) else { continue };
            let entry = &mut self.window[slot];
            entry.state = State::Leased;
            entry.dead = false;
            if !entry.timed {
                entry.at = now;
                self.timers.set(&mut self.window, slot);
            }
        }
    }

    /// The worker has failed: the records wait for `delay`, or else the longer the more often they
    /// have failed. They are taken by offset, so that where order is by key and a worker gives back several
    /// of one key, the first has failed and the others have not been tried.
    pub fn nack(&mut self, now: u64, tokens: &[Token], delay: Option<u64>) -> Failures {
        let mut failures = Failures::default();
        let mut held: Vec<(Token, Slot)> = Vec::with_capacity(tokens.len());
        for token in tokens {
            match self.holder(now, token) {
                Some(slot) => held.push((*token, slot)),
                None => failures.lapsed.push(*token),
            }
        }
        held.sort_unstable();
        held.dedup();
        for (token, slot) in held {
            if self.find(&token, State::Leased).is_some() {
                let wait = delay.unwrap_or_else(|| {
                    let attempts = self.window[slot].attempts.saturating_add(1);
                    self.retry.wait_ms(attempts).saturating_mul(NANOS_PER_MS)
                });
                self.fail(slot, Some(now.saturating_add(wait)), &mut failures);
            }
        }
        failures
    }

    /// The leases last for `lease` from now on.
    pub fn extend(&mut self, now: u64, tokens: &[Token], lease: u64) -> Settled {
        let mut settled = Settled::default();
        let at = now.saturating_add(lease);
        for token in tokens {
            let Some(slot) = self.holder(now, token) else {
                settled.lapsed.push(*token);
                continue;
            };
            if self.window[slot].at != at {
                self.window[slot].at = at;
                self.timers.set(&mut self.window, slot);
            }
            settled.held.push(*token);
        }
        settled
    }

    /// Leases whose time is over lapse: the records are ready again at once, or given up. Retries
    /// whose time has come are ready. To be called whenever [`Dispatch::deadline`] has come.
    pub fn expire(&mut self, now: u64) -> Failures {
        let mut failures = Failures::default();
        let mut lapsed: Vec<(Token, Slot)> = Vec::new();
        while let Some(slot) = self.timers.pop(&mut self.window, now) {
            match self.window[slot].state {
                State::Leased => lapsed.push((self.token(slot), slot)),
                State::Waiting => {
                    self.window[slot].state = State::Ready;
                    self.figures.waiting -= 1;
                    match &mut self.lanes {
                        Lanes::Any { again, .. } => again.push_back(slot),
                        Lanes::Keyed(keyed) => keyed.waited(&self.window, slot),
                    }
                }
                State::Free | State::Ready | State::Committing => {}
            }
        }
        lapsed.sort_unstable();
        for (token, slot) in lapsed {
            // One that stands behind another of its key has been taken back with it.
            if self.find(&token, State::Leased).is_some() {
                self.fail(slot, None, &mut failures);
            }
        }
        failures
    }

    /// When [`Dispatch::expire`] is next due.
    pub fn deadline(&mut self) -> Option<u64> {
        self.timers.deadline(&self.window)
    }

    /// A worker leaves, or has not been seen for too long: its shards go to the others. What it has in
    /// flight stays with it until that is settled or lapses.
    pub fn leave(&mut self, worker: &str) {
        self.workers.leave(worker);
    }

    /// A worker says goodbye: it leaves, and what it has is ready at once, without a mark against it.
    pub fn release(&mut self, worker: &str) {
        let Some(index) = self.workers.find(worker) else { return };
        let mut held = self.window.leased_to(index);
        self.workers.leave(worker);
        held.sort_unstable_by_key(|slot| self.window[*slot].offset);
        for slot in held {
            self.window[slot].state = State::Ready;
            self.window.renew(slot);
            self.figures.in_flight -= 1;
            self.workers.done(index);
            match &mut self.lanes {
                Lanes::Any { again, .. } => again.push_back(slot),
                Lanes::Keyed(keyed) => keyed.landed(&self.window, slot),
            }
        }
    }

    /// Records that could go out, also those that stand behind others of their key.
    pub fn ready(&self) -> usize {
        self.window.len() - self.figures.in_flight - self.figures.waiting
    }

    /// Whether records are with workers, wait, or are being made durable.
    pub fn is_busy(&self) -> bool {
        self.figures.in_flight + self.figures.waiting > 0
    }

    /// The worker to whom the records of a shard go, where order is by key.
    pub fn owner(&self, shard: Shard) -> Option<&str> {
        self.workers.owner_name(shard)
    }

    /// How many records a worker has.
    pub fn held(&self, worker: &str) -> usize {
        self.workers.held(worker)
    }

    /// How the group does.
    pub fn figures(&self) -> Figures {
        let (full, workers) = (self.is_full(), self.workers.figures());
        Figures { ready: self.ready(), full, workers, ..self.figures.clone() }
    }

    /// A delivery has failed. The record waits until `due`, or is ready at once.
    fn fail(&mut self, slot: Slot, due: Option<u64>, failures: &mut Failures) {
        if let Lanes::Keyed(keyed) = &mut self.lanes {
            let back = keyed.take_back(&mut self.window, slot);
            self.figures.in_flight -= back.len();
            back.iter().for_each(|slot| self.workers.done(self.window[*slot].worker));
        }
        let token = self.token(slot);
        let entry = &mut self.window[slot];
        let deliveries = entry.attempts.saturating_add(1);
        if deliveries >= self.max_deliveries {
            entry.state = State::Committing;
            entry.dead = true;
            failures.dead.push((token, deliveries));
            return;
        }
        entry.attempts = deliveries;
        failures.failed.push((entry.offset, deliveries));
        self.figures.in_flight -= 1;
        self.workers.done(entry.worker);
        entry.state = State::Ready;
        self.window.renew(slot);
        if let Some(due) = due {
            self.window[slot].state = State::Waiting;
            self.window[slot].at = due;
            self.figures.waiting += 1;
            self.timers.set(&mut self.window, slot);
        }
        match &mut self.lanes {
            Lanes::Any { again, .. } if due.is_none() => again.push_back(slot),
            Lanes::Any { .. } => {}
            Lanes::Keyed(keyed) => keyed.landed(&self.window, slot),
        }
    }

    /// The slot whose lease a token is; to have shown it is a sign of life.
    fn holder(&mut self, now: u64, token: &Token) -> Option<Slot> {
        let slot = self.find(token, State::Leased)?;
        self.workers.seen(self.window[slot].worker, now);
        Some(slot)
    }

    fn find(&self, token: &Token, state: State) -> Option<Slot> {
        let slot = self.window.find(token.lease)?;
        let entry = &self.window[slot];
        if token.boot == self.boot && entry.offset == token.offset && entry.state == state { Some(slot) } else { None }
    }

    fn token(&self, slot: Slot) -> Token {
        let entry = &self.window[slot];
        Token { offset: entry.offset, lease: entry.ticket, boot: self.boot }
    }
}

fn take(queue: &mut VecDeque<Slot>, window: &Window, room: &mut Room, taken: &mut Vec<Slot>) {
    while let Some(slot) = queue.front().copied() {
        if !room.admits(window[slot].bytes) {
            return;
        }
        queue.pop_front();
        taken.push(slot);
    }
}
