//! A lock at random, with clients that go, crashes, and a log that refuses, against what was promised: never two
//! who think that they hold it, tokens that grow, and the order of arrival.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::VecDeque;
use std::sync::Arc;

use consumers::locks::{Asked, Due, LockEvent, Queue, Waiter};
use proptest::prelude::*;

const MS: u64 = 1_000_000;
const OWNERS: [&str; 4] = ["anna", "ben", "cleo", "dora"];

#[derive(Debug, Clone)]
enum Step {
    Ask {
        owner: usize,
        ttl: u32,
    },
    /// One of those that wait goes away.
    Leave(usize),
    /// One that holds the lock, or once did, wants it for longer, or gives it back.
    Extend(usize, u32),
    Release(usize),
    Pass(u64),
    /// The first event on its way becomes durable.
    Commit,
    /// The log takes no event until it does again.
    Refuse(bool),
    /// The broker is killed; of the events on their way so many were durable.
    Crash(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0..OWNERS.len(), 1..20u32).prop_map(|(owner, ttl)| Step::Ask { owner, ttl }),
        2 => (0..8usize).prop_map(Step::Leave),
        2 => (0..8usize, 1..40u32).prop_map(|(at, ttl)| Step::Extend(at, ttl)),
        3 => (0..8usize).prop_map(Step::Release),
        3 => (0..25u64).prop_map(Step::Pass),
        8 => Just(Step::Commit),
        1 => any::<bool>().prop_map(Step::Refuse),
        1 => (0..4usize).prop_map(Step::Crash),
    ];
    prop::collection::vec(step, 1..120)
}

/// What a client was told: the lock is its, under this token, until then.
#[derive(Debug, Clone, Copy)]
struct Belief {
    owner: usize,
    token: u64,
    until: u64,
}

/// An event that is not durable yet, and who is answered when it is.
struct Commit {
    event: LockEvent,
    extended: Option<Belief>,
}

/// The clients, the log, and the broker that is looked at.
#[derive(Default)]
struct World {
    now: u64,
    queue: Queue<()>,
    on_its_way: VecDeque<Commit>,
    /// The durable events: their places are their offsets.
    log: Vec<LockEvent>,
    refusing: bool,
    asks: u64,
    /// Asks that are not answered, in the order of arrival; nothing in the place of one that has gone.
    waiting: Vec<(u64, usize, u32)>,
    beliefs: Vec<Belief>,
    last_token: Option<u64>,
    /// The log has refused to note that the holder's time is over.
    unnoted: bool,
}

impl World {
    fn take(&mut self, step: &Step) {
        self.expire();
        match *step {
            Step::Ask { owner, ttl } => self.ask(owner, ttl),
            Step::Leave(at) if !self.waiting.is_empty() => {
                let (id, ..) = self.waiting.remove(at % self.waiting.len());
                self.queue.leave(id);
            }
            Step::Extend(at, ttl) if !self.beliefs.is_empty() => {
                let Belief { owner, token, .. } = self.beliefs[at % self.beliefs.len()];
                self.extend(owner, token, ttl);
            }
            Step::Release(at) if !self.beliefs.is_empty() => self.release(self.beliefs[at % self.beliefs.len()].token),
            Step::Pass(ms) => self.now += ms * MS,
            Step::Commit => drop(self.commit()),
            Step::Refuse(refusing) => self.refusing = refusing,
            Step::Crash(durable) => self.crash(durable),
            Step::Leave(_) | Step::Extend(..) | Step::Release(_) => {}
        }
        self.drive();
        self.check();
    }

    fn ask(&mut self, owner: usize, ttl_ms: u32) {
        self.asks += 1;
        let id = self.asks;
        let holder = self.queue.holder().map(|holder| (Arc::clone(&holder.owner), holder.token));
        match self.queue.ask(Waiter { id, owner: OWNERS[owner].into(), ttl_ms, reply: () }) {
            Asked::Waits => self.waiting.push((id, owner, ttl_ms)),
            Asked::Holds(waiter) => {
                let (held_by, token) = holder.expect("it is held");
                assert_eq!(held_by, waiter.owner);
                self.extend(owner, token, ttl_ms);
            }
            Asked::Full => panic!("so many do not wait"),
        }
    }

    /// As the runtime does it: the log is told first, where it must be.
    fn extend(&mut self, owner: usize, token: u64, ttl_ms: u32) {
        let Some(holder) = self.queue.holds(token) else { return };
        assert_eq!(&*holder.owner, OWNERS[owner], "a token is one owner's");
        let until = self.now + u64::from(ttl_ms) * MS;
        let belief = Belief { owner, token, until };
        if ttl_ms <= holder.ttl_ms {
            self.queue.extend(self.now, ttl_ms);
            return self.believe(belief);
        }
        if !self.refusing {
            self.queue.extend(self.now, ttl_ms);
            self.shorten(belief);
            let event = LockEvent::Extended { token, ttl_ms };
            self.on_its_way.push_back(Commit { event, extended: Some(belief) });
        }
    }

    fn release(&mut self, token: u64) {
        if self.queue.holds(token).is_some() && !self.refusing {
            self.on_its_way.push_back(Commit { event: LockEvent::Released { token }, extended: None });
            self.queue.release();
            self.beliefs.retain(|belief| belief.token != token);
            for commit in &mut self.on_its_way {
                // The client has given it back: it does not believe what comes later.
                commit.extended.take_if(|belief| belief.token == token);
            }
        }
    }

    /// The first event on its way is durable.
    fn commit(&mut self) -> Option<()> {
        let Commit { event, extended } = self.on_its_way.pop_front()?;
        let token = self.log.len() as u64;
        self.log.push(event.clone());
        if let LockEvent::Granted { .. } = event {
            assert!(self.last_token.is_none_or(|last| last < token), "tokens grow");
            self.last_token = Some(token);
            let answered = self.queue.granted(self.now, token).into_iter().map(|waiter| waiter.id);
            let mut any = false;
            for (at, id) in answered.enumerate() {
                let Some(known) = self.waiting.iter().position(|(waiting, ..)| *waiting == id) else { continue };
                let (_, owner, ttl_ms) = self.waiting.remove(known);
                any = true;
                if at == 0 {
                    self.believe(Belief { owner, token, until: self.now + u64::from(ttl_ms) * MS });
                } else {
                    self.extend(owner, token, ttl_ms);
                }
            }
            if !any {
                self.queue.abandon();
                assert!(self.queue.holder().is_none(), "nobody is left to hold it");
            }
        }
        if let LockEvent::Extended { token, ttl_ms } = event {
            self.queue.extended(token, ttl_ms);
        }
        if let Some(belief) = extended {
            self.believe(belief);
        }
        Some(())
    }

    /// Memory goes, and with it every connection. What clients believe stays.
    fn crash(&mut self, durable: usize) {
        let durable = durable.min(self.on_its_way.len());
        let kept: Vec<LockEvent> = self.on_its_way.drain(..).take(durable).map(|commit| commit.event).collect();
        self.log.extend(kept);
        self.waiting.clear();
        self.last_token = self.log.len().checked_sub(1).map(|last| last as u64).max(self.last_token);
        self.unnoted = false;
        self.queue = match self.kept() {
            Some((token, owner, ttl_ms)) => Queue::held(self.now, token, owner, ttl_ms),
            None => Queue::default(),
        };
        self.refusing = false;
    }

    /// What is kept of the durable events: the definition, without rows.
    fn kept(&self) -> Option<(u64, Arc<str>, u32)> {
        let mut held: Option<(u64, Arc<str>, u32)> = None;
        for (offset, event) in self.log.iter().enumerate() {
            match event {
                LockEvent::Granted { owner, ttl_ms } => held = Some((offset as u64, Arc::clone(owner), *ttl_ms)),
                LockEvent::Extended { token, ttl_ms } => {
                    held = held
                        .map(|(held, owner, ttl)| (held, owner, if held == *token { ttl.max(*ttl_ms) } else { ttl }));
                }
                LockEvent::Released { token } => held = held.filter(|(held, ..)| held != token),
            }
        }
        held
    }

    fn believe(&mut self, belief: Belief) {
        self.shorten(belief);
        if belief.until > self.now {
            self.beliefs.push(belief);
        }
    }

    /// An owner believes what it asked for last.
    fn shorten(&mut self, belief: Belief) {
        let coming = self.on_its_way.iter_mut().filter_map(|commit| commit.extended.as_mut());
        for known in self.beliefs.iter_mut().chain(coming).filter(|known| known.token == belief.token) {
            known.until = known.until.min(belief.until);
        }
    }

    fn expire(&mut self) {
        self.queue.expire(self.now);
        self.beliefs.retain(|belief| belief.until > self.now);
    }

    /// Tells the log what is due, as the runtime does.
    fn drive(&mut self) {
        self.expire();
        while let Some(due) = self.queue.due() {
            match due {
                Due::Grant { owner, ttl_ms } => {
                    let first = self.waiting.first().map(|(_, owner, ttl)| (OWNERS[*owner], *ttl));
                    assert_eq!(first, Some((&*owner, ttl_ms)), "the first to come is the first to be served");
                    assert!(self.beliefs.is_empty(), "{owner} is next, and another holds it: {:?}", self.beliefs);
                    if self.refusing {
                        let refused = self.queue.refuse().unwrap();
                        assert_eq!(self.waiting.remove(0).0, refused.id);
                    } else {
                        self.queue.grant();
                        self.unnoted = false;
                        let event = LockEvent::Granted { owner, ttl_ms };
                        self.on_its_way.push_back(Commit { event, extended: None });
                    }
                }
                Due::Release { token } => {
                    self.unnoted |= self.refusing;
                    if !self.refusing {
                        self.on_its_way.push_back(Commit { event: LockEvent::Released { token }, extended: None });
                    }
                    self.queue.release();
                }
            }
        }
    }

    fn check(&self) {
        let granting =
            self.on_its_way.iter().filter(|commit| matches!(commit.event, LockEvent::Granted { .. })).count();
        assert!(granting <= 1, "one grant is on its way at most");
        for pair in self.beliefs.windows(2) {
            assert_eq!(
                (pair[0].owner, pair[0].token),
                (pair[1].owner, pair[1].token),
                "two hold it: {:?}",
                self.beliefs
            );
        }
        if let Some(belief) = self.beliefs.first() {
            let holder = self.queue.holder().expect("who was told that it holds it does");
            assert_eq!((&*holder.owner, holder.token), (OWNERS[belief.owner], belief.token));
        }
        if !self.waiting.is_empty() {
            assert!(self.queue.holder().is_some() || granting == 1, "somebody waits for a lock that is free");
        }
        if let Some(holder) = self.queue.holder() {
            let waits = self.waiting.iter().any(|(_, owner, _)| OWNERS[*owner] == &*holder.owner);
            assert!(!waits, "{} waits for what it holds", holder.owner);
        }
        if self.queue.is_free() && self.on_its_way.is_empty() && !self.unnoted {
            assert_eq!(self.kept(), None, "the log knows that it is free");
        }
        let free = self.queue.holder().is_none() && granting == 0 && self.waiting.is_empty();
        assert_eq!(self.queue.is_free(), free, "what is free is forgotten");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, ..ProptestConfig::default() })]

    #[test]
    fn one_holds_it_at_a_time_and_each_in_its_turn(steps in steps()) {
        let mut world = World::default();
        for step in &steps {
            world.take(step);
        }
        // Once nobody asks any more, all that wait are served.
        world.refusing = false;
        let waiting = world.waiting.len();
        for _ in 0..2 * waiting {
            while !world.on_its_way.is_empty() {
                world.take(&Step::Commit);
            }
            world.take(&Step::Pass(50));
        }
        prop_assert!(world.waiting.is_empty());
    }
}

#[test]
fn an_extension_that_rests_on_one_that_is_not_durable_is_not_promised() {
    let mut world = World::default();
    // The broker is killed between the two: neither may have been answered.
    for step in [
        Step::Ask { owner: 0, ttl: 1 },
        Step::Commit,
        Step::Extend(0, 20),
        Step::Extend(0, 20),
        Step::Crash(0),
        Step::Pass(1),
        Step::Ask { owner: 1, ttl: 1 },
    ] {
        world.take(&step);
    }
}
