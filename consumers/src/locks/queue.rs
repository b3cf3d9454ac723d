//! One lock: who holds it, and who is next. A state machine: it reads no clock and does no I/O.
//!
//! ```text
//!              ask                  due: Grant             the grant is durable
//!   owner ───────────▶ waiters ────────────────▶ granting ──────────────────────▶ holder
//!                         │ leave                    │ failed                 released │ expire
//!                         ▼                          ▼                        ▼        ▼
//!                        gone                      gone                     free ◀── lapsed
//!                                                                            due: Release, or Grant
//! ```
//!
//! What is due becomes an event in the log, and the lock is told when the event is on its way. There is one
//! grant on its way at most, and none while the lock is held: so it never has two holders. An owner holds a
//! lock once, however often it asks: with its name it gets its token again.

use std::collections::VecDeque;
use std::sync::Arc;

use wire::Offset;
use wire::limits::MAX_LOCK_WAITERS;

const NANOS_PER_MS: u64 = 1_000_000;

/// A lock that is held, waited for, or lapsed and not yet released in the log. `R` is how a waiter is answered.
#[derive(Debug)]
pub struct Queue<R> {
    holder: Option<Holder>,
    /// The waiter whose grant is on its way to be durable.
    granting: Option<Waiter<R>>,
    waiters: VecDeque<Waiter<R>>,
    /// The token of a holder whose time is over, and that the log says holds it still.
    lapsed: Option<Offset>,
}

/// Who holds a lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// What it calls itself.
    pub owner: Arc<str>,
    /// What it shows to those that it writes to: later holders have higher ones.
    pub token: Offset,
    /// The longest time that it was promised and that is durable.
    pub ttl_ms: u32,
    /// When its time is over, monotonic nanoseconds.
    pub until: u64,
}

/// Who waits for a lock.
#[derive(Debug)]
pub struct Waiter<R> {
    /// Told from others by this.
    pub id: u64,
    /// What it calls itself.
    pub owner: Arc<str>,
    /// How long it will hold the lock where nothing more is heard of it.
    pub ttl_ms: u32,
    /// How it is answered.
    pub reply: R,
}

/// What became of an ask.
#[derive(Debug)]
pub enum Asked<R> {
    /// It waits. Perhaps it is due at once.
    Waits,
    /// The owner holds the lock already.
    Holds(Waiter<R>),
    /// As many wait as may.
    Full,
}

/// What the log is to be told next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Due {
    /// That the lock is the first waiter's.
    Grant {
        /// Its name.
        owner: Arc<str>,
        /// And its time.
        ttl_ms: u32,
    },
    /// That the lock is nobody's: its holder's time is over.
    Release {
        /// The holder's token.
        token: Offset,
    },
}

impl<R> Default for Queue<R> {
    fn default() -> Self {
        Queue { holder: None, granting: None, waiters: VecDeque::new(), lapsed: None }
    }
}

impl<R> Queue<R> {
    /// A lock that the log says is held: for its whole time from now on, as nobody knows how much of that is over.
    pub fn held(now: u64, token: Offset, owner: Arc<str>, ttl_ms: u32) -> Queue<R> {
        Queue { holder: Some(Holder { owner, token, ttl_ms, until: after(now, ttl_ms) }), ..Queue::default() }
    }

    /// Ends the time of a holder that is over. Whether it was. To be called before anything is asked.
    pub fn expire(&mut self, now: u64) -> bool {
        let over = self.holder.take_if(|holder| holder.until <= now);
        self.lapsed = over.as_ref().map(|holder| holder.token).or(self.lapsed);
        over.is_some()
    }

    /// The holder.
    pub fn holder(&self) -> Option<&Holder> {
        self.holder.as_ref()
    }

    /// The holder, if this is its token.
    pub fn holds(&self, token: Offset) -> Option<&Holder> {
        self.holder.as_ref().filter(|holder| holder.token == token)
    }

    /// Who has the lock or is about to, and until when.
    pub fn occupant(&self, now: u64) -> Option<(&Arc<str>, u64)> {
        let holder = self.holder.as_ref().map(|holder| (&holder.owner, holder.until));
        holder.or_else(|| self.granting.as_ref().map(|waiter| (&waiter.owner, after(now, waiter.ttl_ms))))
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.waiters.len() + usize::from(self.granting.is_some())
    }

    /// When the holder's time is over.
    pub fn deadline(&self) -> Option<u64> {
        self.holder.as_ref().map(|holder| holder.until)
    }

    /// Whether it is free, and may be forgotten.
    pub fn is_free(&self) -> bool {
        self.holder.is_none() && self.granting.is_none() && self.waiters.is_empty() && self.lapsed.is_none()
    }

    /// An owner asks for the lock.
    pub fn ask(&mut self, waiter: Waiter<R>) -> Asked<R> {
        match &self.holder {
            Some(holder) if holder.owner == waiter.owner => Asked::Holds(waiter),
            _ if self.waiters.len() >= MAX_LOCK_WAITERS => Asked::Full,
            _ if mutant!(LastInLineFirst) => {
                self.waiters.push_front(waiter);
                Asked::Waits
            }
            _ => {
                self.waiters.push_back(waiter);
                Asked::Waits
            }
        }
    }

    /// A waiter goes, if it is not granted the lock already.
    pub fn leave(&mut self, id: u64) -> Option<Waiter<R>> {
        let at = self.waiters.iter().position(|waiter| waiter.id == id)?;
        self.waiters.remove(at)
    }

    /// A waiter's time is over: it goes, if it is not granted the lock already, or about to hold it under its name.
    pub fn give_up(&mut self, id: u64) -> Option<Waiter<R>> {
        let owner = self.waiters.iter().find(|waiter| waiter.id == id).map(|waiter| &waiter.owner);
        if self.granting.as_ref().map(|granting| &granting.owner) == owner { None } else { self.leave(id) }
    }

    /// What the log is to be told, if anything. Then [`Queue::grant`], [`Queue::refuse`] or [`Queue::release`] says
    /// what became of it.
    pub fn due(&self) -> Option<Due> {
        if self.holder.is_some() || self.granting.is_some() {
            return None;
        }
        match (self.waiters.front(), self.lapsed) {
            // What is granted is no longer whose it was before: the log need not be told that as well.
            (Some(Waiter { owner, ttl_ms, .. }), _) => Some(Due::Grant { owner: Arc::clone(owner), ttl_ms: *ttl_ms }),
            (None, Some(token)) => Some(Due::Release { token }),
            (None, None) => None,
        }
    }

    /// The grant that was due is on its way.
    pub fn grant(&mut self) {
        self.granting = self.waiters.pop_front();
        self.lapsed = None;
    }

    /// The grant that was due can't be: gives the waiter that it was for.
    pub fn refuse(&mut self) -> Option<Waiter<R>> {
        self.waiters.pop_front()
    }

    /// The grant that was on its way is durable. Gives those to be answered: the one that it was for, and who else
    /// waits under its name, as they hold the lock now too.
    pub fn granted(&mut self, now: u64, token: Offset) -> Vec<Waiter<R>> {
        let Some(first) = self.granting.take() else { return Vec::new() };
        let token = if mutant!(TokensBeginAnew) { first.id + 1 } else { token };
        let (owner, ttl_ms) = (Arc::clone(&first.owner), first.ttl_ms);
        let (same, others) = self.waiters.drain(..).partition(|waiter| waiter.owner == owner);
        self.waiters = others;
        self.holder = Some(Holder { owner, token, ttl_ms, until: after(now, ttl_ms) });
        let mut answered = vec![first];
        answered.extend::<VecDeque<_>>(same);
        answered
    }

    /// The grant that was on its way did not become durable: gives the waiter that it was for.
    pub fn failed(&mut self) -> Option<Waiter<R>> {
        self.granting.take()
    }

    /// The holder's time is `ttl_ms` from now on. Where that is longer than what is durable, the log has been told, and
    /// the holder is told once [`Queue::extended`] is.
    pub fn extend(&mut self, now: u64, ttl_ms: u32) {
        if let Some(holder) = &mut self.holder {
            holder.until = after(now, ttl_ms);
        }
    }

    /// It is durable that the holder of this token was promised such a time.
    pub fn extended(&mut self, token: Offset, ttl_ms: u32) {
        if let Some(holder) = self.holder.as_mut().filter(|holder| holder.token == token) {
            holder.ttl_ms = holder.ttl_ms.max(ttl_ms);
        }
    }

    /// Nobody is left of those that the lock was granted to: it passes on as if their time were over.
    pub fn abandon(&mut self) {
        self.lapsed = self.holder.take().map(|holder| holder.token);
    }

    /// The lock is nobody's. The log has been told.
    pub fn release(&mut self) {
        (self.holder, self.lapsed) = (None, None);
    }
}

fn after(now: u64, ttl_ms: u32) -> u64 {
    now.saturating_add(u64::from(ttl_ms) * NANOS_PER_MS)
}
