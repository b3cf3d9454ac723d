//! The locks of a partition that are in memory: those that are held or waited for.
//!
//! Nothing here waits while it holds the lock on them. An event is queued at the log while they are locked, so
//! the log has the events of a lock in the order in which its memory went through them; that they are durable is
//! awaited by a task of their own, which goes on when a caller has gone away.

use std::collections::BTreeSet;
use std::collections::hash_map::Entry;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;
use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use tlog::{AppendError, Clock, Noted};
use tokio::sync::{Notify, oneshot};
use wire::{LockName, Offset};

use super::error::LocksError;
use super::event::{LockEvent, token_at};
use super::metrics::LockMetrics;
use super::queue::{Due, Holder, Queue};
use super::rows;
use crate::ledger::Ledger;

/// An event that is queued at the log.
type Commit = Pin<Box<dyn Future<Output = Result<Noted, AppendError>> + Send>>;

/// How who asks is answered.
pub(super) type Reply = oneshot::Sender<Result<Held, LocksError>>;

/// A lock that is held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// By whom.
    pub owner: Arc<str>,
    /// What its holder shows: later holders have higher ones.
    pub token: Offset,
    /// Until when, if nothing more is heard of the holder: microseconds since the Unix epoch.
    pub expires_micros: i64,
}

/// What locks need of their surroundings.
#[derive(Debug)]
pub(super) struct Surroundings {
    pub(super) ledger: Arc<Ledger>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) metrics: LockMetrics,
    /// Says that a lock is held.
    pub(super) held: Arc<Notify>,
}

/// A partition's locks.
#[derive(Debug)]
pub(super) struct Partition {
    id: u16,
    around: Arc<Surroundings>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    locks: FxHashMap<LockName, Queue<Reply>>,
    /// When the time of each holder is over.
    deadlines: BTreeSet<(u64, LockName)>,
}

impl Partition {
    pub(super) fn new(id: u16, around: Arc<Surroundings>) -> Partition {
        Partition { id, around, state: Mutex::default() }
    }

    /// Takes up the locks that the log says are held, once the rows are as of all that is durable.
    pub(super) async fn load(&self) -> Result<(), LocksError> {
        self.around.ledger.wait_durable(self.id).await?;
        let held = rows::held(self.around.ledger.db(), self.id)?;
        let state = &mut *self.state.lock();
        let now = self.around.clock.monotonic_nanos();
        for (name, rows::Kept { token, owner, ttl_ms }) in held {
            let ttl_ms = if mutant!(HeldBriefly) { 1 } else { ttl_ms };
            let queue = Queue::held(now, token, owner, ttl_ms);
            state.deadlines.extend(queue.deadline().map(|due| (due, name.clone())));
            state.locks.insert(name, queue);
        }
        self.around.held.notify_one();
        Ok(())
    }

    /// How many locks are held or waited for.
    pub(super) fn live(&self) -> usize {
        self.state.lock().locks.len()
    }

    /// Ends the time of holders that is over.
    pub(super) fn tick(self: &Arc<Self>) {
        let now = self.around.clock.monotonic_nanos();
        // A lock at a time, so that calls come in between.
        loop {
            let state = &mut *self.state.lock();
            let Some((_, name)) = state.deadlines.first().filter(|(due, _)| *due <= now) else { return };
            let name = name.clone();
            self.change(state, &name, now, |_| ());
        }
    }

    /// Does something with a lock, and then what is due.
    pub(super) fn act<T>(self: &Arc<Self>, name: &LockName, act: impl FnOnce(&mut Queue<Reply>, u64) -> T) -> T {
        let state = &mut *self.state.lock();
        let now = self.around.clock.monotonic_nanos();
        let seen = if mutant!(LapsedHolderActs) { 0 } else { now };
        self.change(state, name, seen, |queue| act(queue, now))
    }

    fn change<T>(
        self: &Arc<Self>,
        state: &mut State,
        name: &LockName,
        now: u64,
        act: impl FnOnce(&mut Queue<Reply>) -> T,
    ) -> T {
        let State { locks, deadlines } = state;
        let mut entry = match locks.entry(name.clone()) {
            Entry::Occupied(entry) => entry,
            Entry::Vacant(entry) => entry.insert_entry(Queue::default()),
        };
        let queue = entry.get_mut();
        let before = queue.deadline();
        if queue.expire(now) {
            self.around.metrics.lapsed.increment(1);
        }
        let done = act(queue);
        self.drive(name, queue);
        let then = queue.deadline();
        if before != then {
            if let Some(due) = before {
                deadlines.remove(&(due, name.clone()));
            }
            if let Some(due) = then {
                deadlines.insert((due, name.clone()));
                self.around.held.notify_one();
            }
        }
        if queue.is_free() {
            entry.remove();
        }
        done
    }

    /// Tells the log what is due.
    fn drive(self: &Arc<Self>, name: &LockName, queue: &mut Queue<Reply>) {
        while let Some(due) = queue.due() {
            match due {
                Due::Grant { owner, ttl_ms } => match self.queue(name, &LockEvent::Granted { owner, ttl_ms }) {
                    Ok(commit) => {
                        queue.grant();
                        tokio::spawn(Arc::clone(self).granted(name.clone(), commit));
                    }
                    Err(error) => {
                        // Who has gone need not be told.
                        queue.refuse().map(|waiter| waiter.reply.send(Err(error)));
                    }
                },
                Due::Release { token } => {
                    // A row that stays where the log refuses goes with the next holder, or after a restart.
                    if let Err(error) = self.queue(name, &LockEvent::Released { token }) {
                        tracing::warn!(lock = %name, %error, "that a lock has lapsed could not be noted");
                    }
                    queue.release();
                }
            }
        }
    }

    /// Waits until a grant is durable, and answers it.
    async fn granted(self: Arc<Self>, name: LockName, commit: Commit) {
        let noted = commit.await;
        self.act(&name, |queue, now| match noted {
            Ok(noted) => {
                self.around.metrics.granted.increment(1);
                let mut answered = queue.granted(now, token_at(noted.next_offset)).into_iter();
                let held = queue.holder().map(|holder| self.held(holder, now));
                let first = answered.next().zip(held).map(|(first, held)| first.reply.send(Ok(held)));
                let mut any = matches!(first, Some(Ok(())));
                for waiter in answered.filter(|waiter| !waiter.reply.is_closed()) {
                    any = true;
                    self.extend(&name, queue, now, waiter.ttl_ms, waiter.reply);
                }
                if !any {
                    queue.abandon();
                    self.around.metrics.lapsed.increment(1);
                }
            }
            Err(error) => drop(queue.failed().map(|waiter| waiter.reply.send(Err(error.into())))),
        });
    }

    /// Gives the holder a new time. One that is longer than what the log says must be durable before the holder is told.
    pub(super) fn extend(
        self: &Arc<Self>,
        name: &LockName,
        queue: &mut Queue<Reply>,
        now: u64,
        ttl_ms: u32,
        reply: Reply,
    ) {
        let Some(Holder { token, ttl_ms: durable, .. }) = queue.holder().cloned() else { return };
        let is_longer = ttl_ms > durable && !mutant!(ExtensionNotKept);
        let longer = is_longer.then(|| self.queue(name, &LockEvent::Extended { token, ttl_ms })).transpose();
        let commit = match longer {
            Ok(commit) => commit,
            Err(error) => return drop(reply.send(Err(error))),
        };
        queue.extend(now, ttl_ms);
        let Some(commit) = commit else {
            let held = queue.holder().map(|holder| self.held(holder, now));
            return drop(held.map(|held| reply.send(Ok(held))));
        };
        let (partition, name) = (Arc::clone(self), name.clone());
        tokio::spawn(async move {
            // The time may be over by now, or shorter, where its owner has asked for less meanwhile.
            let answer = commit.await.map_err(LocksError::from).and_then(|_| {
                partition.act(&name, |queue, now| {
                    queue.extended(token, ttl_ms);
                    queue.holds(token).map(|holder| partition.held(holder, now)).ok_or(LocksError::Lost)
                })
            });
            // Who has gone need not be told.
            drop(reply.send(answer));
        });
    }

    /// The holder gives the lock back. Durable when the answer is waited for.
    pub(super) fn release(
        &self,
        name: &LockName,
        queue: &mut Queue<Reply>,
        token: Offset,
    ) -> Result<Commit, LocksError> {
        if queue.holds(token).is_none() {
            return Err(LocksError::Lost);
        }
        let commit = self.queue(name, &LockEvent::Released { token })?;
        queue.release();
        self.around.metrics.released.increment(1);
        Ok(commit)
    }

    /// A holder as others see it.
    pub(super) fn held(&self, holder: &Holder, now: u64) -> Held {
        let Holder { owner, token, until, .. } = holder;
        Held { owner: Arc::clone(owner), token: *token, expires_micros: self.time_of(*until, now) }
    }

    /// A moment of the monotonic clock as a time, microseconds since the Unix epoch.
    pub(super) fn time_of(&self, moment: u64, now: u64) -> i64 {
        let left = (moment.saturating_sub(now) / 1000).cast_signed();
        self.around.clock.now_micros().saturating_add(left)
    }

    /// Queues an event at the log, behind all that were queued before.
    fn queue(&self, name: &LockName, event: &LockEvent) -> Result<Commit, LocksError> {
        let bytes = Bytes::from(event.encode(name)?);
        let (log, partition) = (self.around.ledger.log().clone(), self.id);
        let mut commit: Commit = Box::pin(async move { log.append_partition_event(partition, bytes).await });
        // The first poll puts it into the partition's queue, or is refused.
        match commit.as_mut().now_or_never() {
            None => Ok(commit),
            Some(Ok(noted)) => Ok(Box::pin(std::future::ready(Ok(noted)))),
            Some(Err(error)) => Err(error.into()),
        }
    }
}
