//! What can be asked of locks.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tlog::Clock;
use tokio::sync::{OnceCell, oneshot};
use tokio::time::Instant;
use tracing::error;
use wire::limits::MAX_LOCK_TTL_MS;
use wire::{LockName, Offset};

use super::error::LocksError;
pub use super::live::Held;
use super::live::{Partition, Surroundings};
use super::metrics::LockMetrics;
use super::queue::{Asked, Waiter};
use crate::ledger::Ledger;

/// How often holders are looked for whose time is over, while any lock is held.
const TICK: Duration = Duration::from_millis(20);

/// The locks of a log. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Locks(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    around: Arc<Surroundings>,
    partitions: Vec<Loading>,
    asks: AtomicU64,
}

/// The locks of a partition, from when they are loaded on.
#[derive(Debug)]
struct Loading {
    partition: Arc<Partition>,
    loaded: OnceCell<()>,
}

/// How a lock that is held does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockState {
    /// Who holds it.
    pub held: Held,
    /// How many wait for it.
    pub waiting: usize,
}

impl Locks {
    /// The locks of the ledger's log. Those that the log says are held are so for their whole time from now on.
    /// Within a Tokio runtime; ends with the ledger.
    pub fn new(ledger: Arc<Ledger>, clock: Arc<dyn Clock>) -> Locks {
        let locks = Locks::prepare(ledger, clock);
        tokio::spawn(run(Arc::downgrade(&locks.0)));
        locks
    }

    /// The same, but the time of holders that is over is ended by [`Locks::tick`] only, and by what is asked.
    pub fn driven(ledger: Arc<Ledger>, clock: Arc<dyn Clock>) -> Locks {
        Locks::prepare(ledger, clock)
    }

    /// Ends the time of holders that is over.
    pub fn tick(&self) {
        self.0.tick();
    }

    fn prepare(ledger: Arc<Ledger>, clock: Arc<dyn Clock>) -> Locks {
        let around = Arc::new(Surroundings { ledger, clock, metrics: LockMetrics::new(), held: Arc::default() });
        let loading = |id| {
            let partition = Partition::new(id, Arc::clone(&around));
            Loading { partition: Arc::new(partition), loaded: OnceCell::new() }
        };
        let partitions = (0..around.ledger.log().partitions()).map(loading).collect();
        Locks(Arc::new(Inner { around, partitions, asks: AtomicU64::new(0) }))
    }

    /// Asks for a lock, to be held for `ttl` where nothing more is heard of the owner. Waits for it for so long, behind
    /// those that came before; durable when this returns (invariant 1). An owner that holds the lock gets its token
    /// again, and a new time. One who asks and goes away has no lock.
    ///
    /// # Errors
    /// [`LocksError::Held`] where another holds it, [`LocksError::Lost`] where the time was over before it was durable.
    pub async fn ask(&self, name: &LockName, owner: &str, ttl: Duration, wait: Duration) -> Result<Held, LocksError> {
        let until = Instant::now() + wait;
        let partition = self.partition(name).await?;
        let (reply, mut answer) = oneshot::channel();
        let id = self.0.asks.fetch_add(1, Ordering::Relaxed);
        let waiter = Waiter { id, owner: owner.into(), ttl_ms: millis(ttl), reply };
        partition.act(name, |queue, now| match queue.ask(waiter) {
            Asked::Waits => Ok(()),
            Asked::Full => Err(LocksError::TooManyWaiters),
            Asked::Holds(Waiter { ttl_ms, reply, .. }) => {
                partition.extend(name, queue, now, ttl_ms, reply);
                Ok(())
            }
        })?;
        let waiting = Waiting::new(&partition, name, id, &self.0.around.metrics);
        // One that does not wait need not be told by a timer.
        let mut in_time = !wait.is_zero();
        if !in_time && let Some(refused) = waiting.give_up() {
            return Err(refused);
        }
        loop {
            tokio::select! {
                biased;
                answer = &mut answer => return answer.map_err(|_| LocksError::Closed)?,
                () = self.0.around.ledger.closed().cancelled() => return Err(LocksError::Closed),
                () = tokio::time::sleep_until(until), if in_time => {
                    // One that is granted the lock by now will have it in a moment.
                    in_time = false;
                    if let Some(refused) = waiting.give_up() {
                        return Err(refused);
                    }
                }
            }
        }
    }

    /// The holder wants the lock for `ttl` from now on, or for the longest time that it asked for before.
    ///
    /// # Errors
    /// [`LocksError::Lost`] where the token is not the holder's.
    pub async fn extend(&self, name: &LockName, token: Offset, ttl: Option<Duration>) -> Result<Held, LocksError> {
        let partition = self.partition(name).await?;
        let (reply, answer) = oneshot::channel();
        partition.act(name, |queue, now| match queue.holds(token) {
            Some(holder) => {
                let ttl_ms = ttl.map_or(holder.ttl_ms, millis);
                partition.extend(name, queue, now, ttl_ms, reply);
                Ok(())
            }
            None => Err(LocksError::Lost),
        })?;
        answer.await.map_err(|_| LocksError::Closed)?
    }

    /// The holder gives the lock back; durable when this returns.
    ///
    /// # Errors
    /// [`LocksError::Lost`] where the token is not the holder's.
    pub async fn release(&self, name: &LockName, token: Offset) -> Result<(), LocksError> {
        let partition = self.partition(name).await?;
        let commit = partition.act(name, |queue, _| partition.release(name, queue, token))?;
        if !mutant!(ReleaseBeforeDurable) {
            commit.await?;
        }
        Ok(())
    }

    /// Who holds a lock, if anyone does.
    ///
    /// # Errors
    /// Where that can't be known.
    pub async fn state(&self, name: &LockName) -> Result<Option<LockState>, LocksError> {
        let partition = self.partition(name).await?;
        Ok(partition.act(name, |queue, now| {
            let held = queue.holder().map(|holder| partition.held(holder, now))?;
            Some(LockState { held, waiting: queue.waiting() })
        }))
    }

    async fn partition(&self, name: &LockName) -> Result<Arc<Partition>, LocksError> {
        let partitions = &self.0.partitions;
        let loading = &partitions[usize::from(name.partition(self.0.around.ledger.log().partitions()))];
        loading.load().await?;
        Ok(Arc::clone(&loading.partition))
    }
}

impl Inner {
    /// Ends the time of holders that is over. How many locks are held or waited for.
    fn tick(&self) -> usize {
        let mut live = 0;
        for Loading { partition, .. } in &self.partitions {
            partition.tick();
            live += partition.live();
        }
        self.around.metrics.live.set(live as f64);
        live
    }
}

impl Loading {
    async fn load(&self) -> Result<(), LocksError> {
        self.loaded.get_or_try_init(|| self.partition.load()).await.copied()
    }
}

/// Ends the time of holders that is over, until the locks are gone or the ledger is closed.
async fn run(locks: Weak<Inner>) {
    let Some(inner) = locks.upgrade() else { return };
    // Not what is around: nothing here keeps the ledger open.
    let (closed, held) = (inner.around.ledger.closed().clone(), Arc::clone(&inner.around.held));
    for loading in &inner.partitions {
        match loading.load().await {
            Ok(_) => {}
            Err(LocksError::Closed) => return,
            Err(error) => {
                error!(%error, "locks that are held were not found: their time begins once they are asked for");
            }
        }
    }
    drop(inner);
    while let Some(inner) = locks.upgrade() {
        let live = inner.tick();
        drop(inner);
        let next = async {
            if live > 0 {
                tokio::time::sleep(TICK).await;
            } else {
                held.notified().await;
            }
        };
        if closed.run_until_cancelled(next).await.is_none() {
            return;
        }
    }
}

/// One that waits. When it goes away, whatever the reason, the next moves up.
struct Waiting<'a> {
    partition: &'a Arc<Partition>,
    name: &'a LockName,
    id: u64,
    metrics: &'a LockMetrics,
}

impl<'a> Waiting<'a> {
    fn new(partition: &'a Arc<Partition>, name: &'a LockName, id: u64, metrics: &'a LockMetrics) -> Waiting<'a> {
        metrics.waiting.increment(1.0);
        Waiting { partition, name, id, metrics }
    }

    /// Its wait is over: why it does not have the lock. Nothing, if it or its name is granted the lock already.
    fn give_up(&self) -> Option<LocksError> {
        self.partition.act(self.name, |queue, now| {
            queue.give_up(self.id)?;
            let (owner, until) = queue.occupant(now)?;
            Some(LocksError::Held { owner: owner.to_string(), expires_micros: self.partition.time_of(until, now) })
        })
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.metrics.waiting.decrement(1.0);
        self.partition.act(self.name, |queue, _| queue.leave(self.id));
    }
}

/// A time, in milliseconds as they are kept: never shorter than what was asked for.
fn millis(ttl: Duration) -> u32 {
    u32::try_from(ttl.as_nanos().div_ceil(1_000_000)).unwrap_or(MAX_LOCK_TTL_MS).clamp(1, MAX_LOCK_TTL_MS)
}
