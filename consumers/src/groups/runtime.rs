//! What can be asked of groups, and which of them are in memory.
//!
//! A group is loaded from its rows when it is first asked for, once they are as of what is durable. From
//! then on it alone makes its events, so it need not follow them. What changes a group as a whole (its
//! configuration, a seek, its end) takes it out of memory once that is durable; whoever comes in between
//! waits, and loads it anew.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::future::OptionFuture;
use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use tlog::{Clock, Log, Namespace};
use tokio::sync::{Notify, OnceCell};
use tokio::time::Instant;
use wire::{Generation, NamespaceId, Offset};

use super::answers::{Ask, Configured, Done, GroupState, Leased, WorkerState};
use super::error::GroupsError;
use super::event::GroupEvent;
use super::janitor;
use super::kept::Kept;
use super::letters::read_frame;
use super::live::{Delivery, Durable, Live, State, Surroundings};
use super::metrics::GroupMetrics;
use super::rows;
use super::seek::Seek;
use super::token::Token;
use crate::ledger::Ledger;
use wire::GroupName;
use wire::group::{GroupConfig, Start};

/// How long a lease waits at least, while another reads what it asks for.
const READ_BY_OTHERS: Duration = Duration::from_millis(50);

/// The consumer groups of a log. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Groups(Arc<Inner>);

/// What groups are in memory.
#[derive(Debug)]
pub(super) struct Inner {
    pub(super) ledger: Arc<Ledger>,
    pub(super) around: Arc<Surroundings>,
    boot: AtomicU64,
    live: Mutex<FxHashMap<Key, Loading>>,
    /// Says that a group was loaded.
    pub(super) loaded: Arc<Notify>,
}

type Key = (NamespaceId, Generation, GroupName);

/// A group that is in memory, or about to be.
type Loading = Arc<OnceCell<Arc<Live>>>;

impl Groups {
    /// The groups that a ledger keeps. `boot` is a random number: tokens from before mean nothing. Within a
    /// Tokio runtime.
    pub fn new(ledger: Arc<Ledger>, clock: Arc<dyn Clock>, boot: u64) -> Groups {
        let groups = Groups::prepare(ledger, clock, boot);
        tokio::spawn(janitor::run(Arc::downgrade(&groups.0)));
        groups
    }

    /// The same, but what is due is done by [`Groups::tick`] only.
    pub fn driven(ledger: Arc<Ledger>, clock: Arc<dyn Clock>, boot: u64) -> Groups {
        let groups = Groups::prepare(ledger, clock, boot);
        tokio::spawn(janitor::begin(Arc::downgrade(&groups.0)));
        groups
    }

    /// Does what is due.
    pub fn tick(&self) {
        self.0.tick();
    }

    fn prepare(ledger: Arc<Ledger>, clock: Arc<dyn Clock>, boot: u64) -> Groups {
        let log = ledger.log().clone();
        let inner = Arc::new(Inner {
            ledger,
            around: Arc::new(Surroundings { log, clock, metrics: GroupMetrics::new() }),
            boot: AtomicU64::new(boot),
            live: Mutex::default(),
            loaded: Arc::default(),
        });
        Groups(inner)
    }

    /// The ledger that keeps them.
    pub fn ledger(&self) -> &Arc<Ledger> {
        &self.0.ledger
    }

    pub(super) fn log(&self) -> Log {
        self.0.around.log.clone()
    }

    /// Makes a group, or gives one that exists another configuration: what its workers have then is
    /// delivered again.
    ///
    /// # Errors
    /// [`GroupsError::StartDiffers`] where the group exists and began elsewhere.
    pub async fn configure(
        &self,
        namespace: &Namespace,
        group: &GroupName,
        config: GroupConfig,
    ) -> Result<Configured, GroupsError> {
        config.check().map_err(GroupsError::Config)?;
        let log = &self.0.around.log;
        let head = log.head(namespace)?.next_offset;
        let floor = match config.start {
            Start::Earliest => 0,
            Start::Latest => head,
            Start::At(offset) => offset,
        };
        // A group that is made anew has another incarnation: there is an event between the two.
        let partition = namespace.id().partition(log.partitions());
        let mut new = false;
        self.change(namespace, group, |state| {
            new = state.body.is_none();
            let incarnation = match &state.body {
                Some(body) if body.kept.config == config => return Ok(None),
                Some(body) if body.kept.config.start != config.start => return Err(GroupsError::StartDiffers),
                Some(body) => body.kept.incarnation,
                None => log.watermark(partition).borrow().records as u32,
            };
            Ok(Some(GroupEvent::Configured { incarnation, floor, config: config.clone() }))
        })
        .await?;
        Ok(Configured { new })
    }

    /// Ends a group.
    ///
    /// # Errors
    /// [`GroupsError::GroupNotFound`] where there is none.
    pub async fn delete(&self, namespace: &Namespace, group: &GroupName) -> Result<(), GroupsError> {
        self.change(namespace, group, |state| state.body().map(|_| Some(GroupEvent::Deleted))).await
    }

    /// Moves a group: acks and failures are forgotten, and what its workers have is no longer theirs.
    ///
    /// # Errors
    /// [`GroupsError::PastHead`] where there is no such offset yet.
    pub async fn seek(&self, namespace: &Namespace, group: &GroupName, to: Seek) -> Result<Offset, GroupsError> {
        let floor = to.resolve(&self.0.around.log, namespace).await?;
        self.change(namespace, group, |state| state.body().map(|_| Some(GroupEvent::Moved { floor }))).await?;
        Ok(floor)
    }

    /// At most `limit` groups of a namespace whose names sort behind `after`, by name.
    pub fn list(
        &self,
        namespace: &Namespace,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(GroupName, GroupConfig)>, GroupsError> {
        let groups = rows::list(self.0.ledger.db(), namespace, after, limit)?;
        Ok(groups.into_iter().map(|(name, kept)| (name, kept.config)).collect())
    }

    /// Leases records to a worker; none where none came in time.
    ///
    /// # Errors
    /// [`GroupsError::NamespaceNotFound`], also where it is deleted in the meantime.
    pub async fn lease(&self, namespace: &Namespace, group: &GroupName, ask: Ask) -> Result<Vec<Leased>, GroupsError> {
        let mut deadline = Instant::now() + ask.wait;
        let inner = &self.0;
        // It follows first and reads then: what comes in between is not missed.
        let follower = inner.around.log.follower(std::slice::from_ref(namespace));
        loop {
            let (live, (id, mut granted), reading) = self
                .act(namespace, group, |live, state| {
                    let waiting = live.wait(state, &ask)?;
                    Ok((Arc::clone(live), waiting, live.read_on(state)))
                })
                .await?;
            if reading.is_none() {
                // Another reads, and serves this one too.
                deadline = deadline.max(Instant::now() + READ_BY_OTHERS);
            }
            let mut has_read = reading.is_none();
            let mut reading = OptionFuture::from(reading);
            let granted = loop {
                tokio::select! {
                    biased;
                    granted = &mut granted => break granted,
                    () = inner.ledger.closed().cancelled() => return Err(GroupsError::Closed),
                    _ = &mut reading, if !has_read => has_read = true,
                    () = follower.changed() => drop(live.read_on(&mut live.state.lock())),
                    () = tokio::time::sleep_until(deadline), if has_read => {
                        let state = &mut *live.state.lock();
                        let Some(at) = state.waiters.iter().position(|waiter| waiter.id == id) else { continue };
                        drop(state.waiters.remove(at));
                        // Whoever has asked is here, also where its turn did not come while another read.
                        state.body()?.dispatch.arrive(live.now(), &ask.worker)?;
                        return Ok(Vec::new());
                    }
                }
            };
            match granted {
                Ok(deliveries) => return self.deliver(&live, deliveries?).await,
                // The group goes, and comes again.
                Err(_) => live.gone.cancelled().await,
            }
        }
    }

    async fn deliver(&self, live: &Live, deliveries: Vec<Delivery>) -> Result<Vec<Leased>, GroupsError> {
        let clock = &self.0.around.clock;
        let (now, now_micros) = (clock.monotonic_nanos(), clock.now_micros());
        let mut leased: Vec<Leased> = Vec::with_capacity(deliveries.len());
        for (grant, found) in deliveries {
            let offset = grant.token.offset;
            let before = leased.last().map(|last| Arc::clone(&last.frame));
            let (frame, index) = match (found, before) {
                (Some(found), _) => found,
                (None, Some(frame)) if (frame.base_offset()..frame.next_offset()).contains(&offset) => {
                    let index = (offset - frame.base_offset()) as u32;
                    (frame, index)
                }
                (None, _) => {
                    let frame = read_frame(&self.0.around.log, &live.namespace, offset).await?;
                    let index = (offset - frame.base_offset()) as u32;
                    (frame, index)
                }
            };
            let expires_micros = now_micros.saturating_add((grant.expires.saturating_sub(now) / 1000).cast_signed());
            leased.push(Leased { frame, index, token: grant.token, delivery: grant.delivery, expires_micros });
        }
        Ok(leased)
    }

    /// Records of these tokens are done; durable when this returns (invariant 1).
    ///
    /// # Errors
    /// Where it could not be made durable: then the leases go on.
    pub async fn ack(&self, namespace: &Namespace, group: &GroupName, tokens: Vec<Token>) -> Result<Done, GroupsError> {
        let tokens = once(tokens);
        let (settled, durable) = self.act(namespace, group, |live, state| live.ack(state, &tokens)).await?;
        if !mutant!(GroupAckBeforeDurable) {
            wait(durable).await?;
        }
        Ok(settled.into())
    }

    /// Records of these tokens have failed: they are delivered again after `delay`, or else the later the
    /// more often they have failed. Durable when this returns.
    ///
    /// # Errors
    /// Where it could not be made durable.
    pub async fn nack(
        &self,
        namespace: &Namespace,
        group: &GroupName,
        tokens: Vec<Token>,
        delay: Option<Duration>,
        error: Option<String>,
    ) -> Result<Done, GroupsError> {
        let tokens = once(tokens);
        let delay = delay.map(|delay| u64::try_from(delay.as_nanos()).unwrap_or(u64::MAX));
        let error = error.unwrap_or_default();
        let (lapsed, durable) = self
            .act(namespace, group, |live, state| {
                let failures = state.body()?.dispatch.nack(live.now(), &tokens, delay);
                let durable = live.fail(state, &failures, &error)?;
                Ok((failures.lapsed, durable))
            })
            .await?;
        wait(durable).await?;
        Ok(Done { done: tokens.len() - lapsed.len(), lapsed })
    }

    /// Leases of these tokens go on for so long from now on, or for as long as the group's leases do.
    pub async fn extend(
        &self,
        namespace: &Namespace,
        group: &GroupName,
        tokens: Vec<Token>,
        lease: Option<Duration>,
    ) -> Result<Done, GroupsError> {
        let tokens = once(tokens);
        self.act(namespace, group, |live, state| {
            let body = state.body()?;
            let lease = lease.unwrap_or(Duration::from_millis(body.kept.config.lease_ms));
            let lease = u64::try_from(lease.as_nanos()).unwrap_or(u64::MAX);
            Ok(body.dispatch.extend(live.now(), &tokens, lease).into())
        })
        .await
    }

    /// A worker says goodbye: what it has is ready for others at once.
    pub async fn leave(&self, namespace: &Namespace, group: &GroupName, worker: &str) -> Result<(), GroupsError> {
        self.act(namespace, group, |live, state| {
            Live::dismiss(state, worker);
            state.body()?.dispatch.release(worker);
            live.serve(state);
            Ok(())
        })
        .await
    }

    /// How a group does.
    ///
    /// # Errors
    /// [`GroupsError::GroupNotFound`] where there is none.
    pub async fn state(&self, namespace: &Namespace, group: &GroupName) -> Result<GroupState, GroupsError> {
        let Surroundings { log, clock, .. } = &*self.0.around;
        let head = log.head(namespace)?.next_offset;
        let (now, now_micros) = (clock.monotonic_nanos(), clock.now_micros());
        let mut found = self
            .act(namespace, group, |_, state| {
                let body = state.body()?;
                let figures = body.dispatch.figures();
                let worker = |worker: super::WorkerFigures| WorkerState {
                    name: worker.name.to_string(),
                    in_flight: worker.in_flight as u64,
                    seen_micros: now_micros - (now.saturating_sub(worker.seen) / 1000).cast_signed(),
                };
                Ok(GroupState {
                    config: body.kept.config.clone(),
                    floor: body.kept.progress.floor(),
                    lag_records: body.kept.progress.unacked(head),
                    lag_micros: 0,
                    in_flight: figures.in_flight as u64,
                    delivered: figures.delivered,
                    redelivered: figures.redelivered,
                    dead_lettered: figures.dead_lettered,
                    full: figures.full,
                    workers: figures.workers.into_iter().map(worker).collect(),
                })
            })
            .await?;
        if found.floor < head {
            let oldest = read_frame(log, namespace, found.floor).await?;
            found.lag_micros = now_micros.saturating_sub(oldest.time_micros()).max(0);
        }
        Ok(found)
    }

    /// Does something with a group that is in memory; loads it if it is not.
    pub(super) async fn act<T>(
        &self,
        namespace: &Namespace,
        group: &GroupName,
        mut act: impl FnMut(&Arc<Live>, &mut State) -> Result<T, GroupsError>,
    ) -> Result<T, GroupsError> {
        loop {
            let live = self.0.live(namespace, group).await?;
            if let Some(done) = live.act(&mut act) {
                return done;
            }
            live.gone.cancelled().await;
        }
    }

    /// Changes a group as a whole, if there is an event that says how: it leaves memory, and the event is
    /// in the rows when this returns. Who waits for records goes on with the group as it is then.
    pub(super) async fn change(
        &self,
        namespace: &Namespace,
        group: &GroupName,
        mut how: impl FnMut(&mut State) -> Result<Option<GroupEvent>, GroupsError>,
    ) -> Result<(), GroupsError> {
        let durable = self
            .act(namespace, group, |live, state| {
                let Some(event) = how(state)? else { return Ok(None) };
                let commit = live.queue(&event)?;
                state.leaving = true;
                state.waiters.clear();
                let (inner, live) = (Arc::clone(&self.0), Arc::clone(live));
                Ok(Some(tokio::spawn(async move {
                    let durable = commit.await;
                    inner.remove(&live);
                    Ok(durable?)
                })))
            })
            .await?;
        let partition = namespace.id().partition(self.0.around.log.partitions());
        match wait(durable).await? {
            Some(position) => Ok(self.0.ledger.wait_applied(partition, position).await?),
            None => Ok(()),
        }
    }
}

impl Live {
    /// Does something, unless the group is about to go.
    fn act<T>(
        self: &Arc<Self>,
        act: &mut impl FnMut(&Arc<Live>, &mut State) -> Result<T, GroupsError>,
    ) -> Option<Result<T, GroupsError>> {
        let state = &mut *self.state.lock();
        if state.leaving {
            return None;
        }
        state.used = self.now();
        Some(act(self, state))
    }
}

impl Inner {
    /// A group in memory; loads it if it is not.
    pub(super) async fn live(&self, namespace: &Namespace, group: &GroupName) -> Result<Arc<Live>, GroupsError> {
        let key = (namespace.id(), namespace.generation(), group.clone());
        let loading = Arc::clone(self.live.lock().entry(key).or_default());
        let load = async {
            let kept = self.read(namespace, group).await?;
            let boot = self.boot.fetch_add(1, Ordering::Relaxed);
            let live = Live::new(namespace.clone(), group.clone(), kept, boot, Arc::clone(&self.around));
            Ok::<_, GroupsError>(Arc::new(live))
        };
        let is_new = !loading.initialized();
        let live = loading.get_or_try_init(|| load).await.cloned();
        if is_new {
            self.loaded.notify_one();
        }
        live
    }

    /// Reads what is kept of a group, once all of the log that is durable by now is applied.
    async fn read(&self, namespace: &Namespace, name: &GroupName) -> Result<Option<Kept>, GroupsError> {
        self.ledger.wait_durable(namespace.id().partition(self.ledger.log().partitions())).await?;
        let kept = rows::read(self.ledger.db(), namespace.id(), name)?;
        Ok(kept.filter(|kept| kept.generation == namespace.generation()))
    }

    /// Takes a group out of memory.
    pub(super) fn remove(&self, live: &Live) {
        let key = (live.namespace.id(), live.namespace.generation(), live.name.clone());
        let mut groups = self.live.lock();
        if groups.get(&key).and_then(|loading| loading.get()).is_some_and(|there| std::ptr::eq(&**there, live)) {
            groups.remove(&key);
        }
        drop(groups);
        live.gone.cancel();
    }

    /// The groups that are in memory.
    pub(super) fn live_groups(&self) -> Vec<Arc<Live>> {
        self.live.lock().values().filter_map(|loading| loading.get().cloned()).collect()
    }

    /// Forgets groups that could not be loaded, and that nobody is loading.
    pub(super) fn forget_unloaded(&self) {
        self.live.lock().retain(|_, loading| loading.initialized() || Arc::strong_count(loading) > 1);
    }
}

/// Each token once, in its place.
fn once(mut tokens: Vec<Token>) -> Vec<Token> {
    let mut seen = HashSet::with_capacity(tokens.len());
    tokens.retain(|token| seen.insert(*token));
    tokens
}

/// Waits until all is durable; says up to where, if there was anything.
async fn wait(durable: impl IntoIterator<Item = Durable>) -> Result<Option<wire::Position>, GroupsError> {
    let mut up_to = None;
    for durable in durable {
        up_to = up_to.max(Some(durable.await.map_err(|_| GroupsError::Closed)??));
    }
    Ok(up_to)
}
