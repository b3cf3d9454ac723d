//! A group that is in memory: what is leased, who waits, and the events that are on their way to the log.
//!
//! Nothing here waits while it holds the lock. An event is queued at the log while the lock is held, so
//! the log has a group's events in the order in which its memory went through them; that they are durable
//! is awaited by a task of their own, which goes on when a caller has gone away.

use std::collections::VecDeque;
use std::hash::Hasher;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;
use parking_lot::Mutex;
use rustc_hash::FxHasher;
use tlog::{AppendError, Clock, Log, Namespace, ReadError, SharedFrame};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use wire::limits::MAX_GROUP_WINDOW;
use wire::{Position, Record};

use super::answers::Ask;
use super::dispatch::Dispatch;
use super::error::GroupsError;
use super::event::{Dead, GroupEvent, Progressed, merged};
use super::exchange::{Failures, Grant, Pending, Settled};
use super::frames::Frames;
use super::kept::Kept;
use super::metrics::GroupMetrics;
use super::token::Token;
use wire::GroupName;
use wire::group::Order;

/// Dead letters in one event: with their errors they stay well below its limit.
const DEAD_IN_EVENT: usize = 256;

/// While so many dead letters have not reached their namespace, nothing is leased: so they are bounded.
const MAX_LETTERS: usize = 1024;

/// How much is read of the namespace in one go, bytes.
const READ_BYTES: usize = 256 << 10;

/// An event that is queued at the log.
type Commit = Pin<Box<dyn Future<Output = Result<Position, AppendError>> + Send>>;

/// That something is durable, or why not.
pub(super) type Durable = JoinHandle<Result<Position, GroupsError>>;

/// A delivery: the grant and, where it is in memory, the record's frame and its place in it.
pub(super) type Delivery = (Grant, Option<(Arc<SharedFrame>, u32)>);

/// What a lease that waits comes to: deliveries, or nothing where the group goes.
pub(super) type Granted = oneshot::Receiver<Result<Vec<Delivery>, GroupsError>>;

/// What a group needs of its surroundings.
#[derive(Debug)]
pub(super) struct Surroundings {
    pub(super) log: Log,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) metrics: GroupMetrics,
}

/// A group that is in memory.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) namespace: Namespace,
    pub(super) name: GroupName,
    pub(super) around: Arc<Surroundings>,
    pub(super) state: Mutex<State>,
    /// Cancelled once it is no longer among the live ones: it may be loaded again.
    pub(super) gone: CancellationToken,
}

/// A group's memory.
#[derive(Debug)]
pub(super) struct State {
    /// Nothing: there is no such group.
    pub(super) body: Option<Body>,
    frames: Frames,
    pub(super) waiters: VecDeque<Waiter>,
    waiters_seen: u64,
    reading: Reading,
    /// It is about to go: whoever comes waits for [`Live::gone`], and begins anew.
    pub(super) leaving: bool,
    /// Events that are not durable yet.
    commits: usize,
    /// When it was last asked for something.
    pub(super) used: u64,
    pub(super) workers_checked: u64,
    /// After a failure: when lapsed leases are looked for again.
    pub(super) expire_at: u64,
    pub(super) publishing: bool,
    pub(super) publish_at: u64,
}

/// What a group that exists has.
#[derive(Debug)]
pub(super) struct Body {
    pub(super) kept: Kept,
    pub(super) dispatch: Dispatch,
}

/// A lease that waits for records.
#[derive(Debug)]
pub(super) struct Waiter {
    pub(super) id: u64,
    pub(super) worker: String,
    max: usize,
    max_bytes: usize,
    max_held: usize,
    reply: oneshot::Sender<Result<Vec<Delivery>, GroupsError>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reading {
    Idle,
    Busy,
    /// Busy, and there may be more than it has seen.
    Again,
}

impl State {
    pub(super) fn body(&mut self) -> Result<&mut Body, GroupsError> {
        self.body.as_mut().ok_or(GroupsError::GroupNotFound)
    }

    /// Forgets who does not wait any more.
    pub(super) fn forget_absent(&mut self) {
        self.waiters.retain(|waiter| !waiter.reply.is_closed());
    }

    /// Whether nothing would be lost if it were loaded again.
    pub(super) fn is_idle(&self) -> bool {
        let busy = |body: &Body| body.dispatch.is_busy() || !body.kept.letters.is_empty();
        self.waiters.is_empty()
            && self.commits == 0
            && !self.publishing
            && self.reading == Reading::Idle
            && !self.body.as_ref().is_some_and(busy)
    }
}

impl Live {
    pub(super) fn new(
        namespace: Namespace,
        name: GroupName,
        kept: Option<Kept>,
        boot: u64,
        around: Arc<Surroundings>,
    ) -> Live {
        let body = kept.map(|kept| {
            let dispatch = Dispatch::new(&kept.config, &kept.progress, boot, MAX_GROUP_WINDOW);
            Body { kept, dispatch }
        });
        let state = State {
            body,
            frames: Frames::default(),
            waiters: VecDeque::new(),
            waiters_seen: 0,
            reading: Reading::Idle,
            leaving: false,
            commits: 0,
            used: around.clock.monotonic_nanos(),
            workers_checked: 0,
            expire_at: 0,
            publishing: false,
            publish_at: 0,
        };
        Live { namespace, name, around, state: Mutex::new(state), gone: CancellationToken::new() }
    }

    pub(super) fn now(&self) -> u64 {
        self.around.clock.monotonic_nanos()
    }

    /// Queues an event at the log, behind all that were queued before.
    pub(super) fn queue(&self, event: &GroupEvent) -> Result<Commit, GroupsError> {
        let bytes = Bytes::from(event.encode(&self.name)?);
        let (log, namespace) = (self.around.log.clone(), self.namespace.clone());
        let mut commit: Commit =
            Box::pin(async move { log.append_event(&namespace, bytes).await.map(|noted| noted.end) });
        // The first poll puts it into the partition's queue, or is refused.
        match commit.as_mut().now_or_never() {
            None => Ok(commit),
            Some(Ok(position)) => Ok(Box::pin(std::future::ready(Ok(position)))),
            Some(Err(error)) => Err(error.into()),
        }
    }

    /// Makes durable what has been done; `tokens` are committing until then.
    pub(super) fn progress(
        self: &Arc<Self>,
        state: &mut State,
        progressed: Progressed,
        tokens: Vec<Token>,
    ) -> Result<Durable, GroupsError> {
        let event = GroupEvent::Progressed(progressed);
        let commit = match self.queue(&event) {
            Ok(commit) => commit,
            Err(error) => {
                state.body()?.dispatch.unsettle(self.now(), &tokens);
                return Err(error);
            }
        };
        state.commits += 1;
        let live = Arc::clone(self);
        Ok(tokio::spawn(async move {
            let durable = commit.await.map_err(GroupsError::from);
            let GroupEvent::Progressed(progressed) = event else { return durable };
            live.progressed(durable.is_ok(), progressed, &tokens);
            durable
        }))
    }

    fn progressed(self: &Arc<Self>, durable: bool, progressed: Progressed, tokens: &[Token]) {
        let state = &mut *self.state.lock();
        state.commits -= 1;
        let Some(body) = &mut state.body else { return };
        if !durable {
            body.dispatch.unsettle(self.now(), tokens);
            return;
        }
        let metrics = &self.around.metrics;
        metrics.failed.increment((progressed.failed.len() + progressed.dead.len()) as u64);
        metrics.dead.increment(progressed.dead.len() as u64);
        metrics.acked.increment((tokens.len() - progressed.dead.len()) as u64);
        let was_full = body.dispatch.wants().is_none();
        body.dispatch.acked(tokens);
        body.kept.progressed(progressed);
        state.frames.forget_below(body.kept.progress.floor());
        let more = was_full || body.dispatch.wants_again();
        self.serve(state);
        if more && !state.waiters.is_empty() {
            self.read_on(state);
        }
    }

    /// Records of these tokens are done.
    pub(super) fn ack(
        self: &Arc<Self>,
        state: &mut State,
        tokens: &[Token],
    ) -> Result<(Settled, Option<Durable>), GroupsError> {
        let settled = state.body()?.dispatch.settle(self.now(), tokens);
        if settled.held.is_empty() {
            return Ok((settled, None));
        }
        let acked = merged(settled.held.iter().map(|token| token.offset..token.offset + 1).collect());
        let durable = self.progress(state, Progressed { acked, ..Progressed::default() }, settled.held.clone())?;
        Ok((settled, Some(durable)))
    }

    /// Deliveries have failed, for this reason: each event that says so is queued.
    pub(super) fn fail(
        self: &Arc<Self>,
        state: &mut State,
        failures: &Failures,
        error: &str,
    ) -> Result<Vec<Durable>, GroupsError> {
        let error = if state.body()?.kept.config.dead_letter.is_some() { error } else { "" };
        let mut events: Vec<(Progressed, Vec<Token>)> = Vec::new();
        let mut dead_letters = failures.dead.clone();
        dead_letters.sort_unstable();
        for dead in dead_letters.chunks(DEAD_IN_EVENT) {
            let tokens = dead.iter().map(|(token, _)| *token).collect();
            let dead = dead.iter().map(|(token, deliveries)| Dead::new(token.offset, *deliveries, error)).collect();
            events.push((Progressed { dead, ..Progressed::default() }, tokens));
        }
        if !failures.failed.is_empty() {
            let mut failed = failures.failed.clone();
            failed.sort_unstable();
            events.push((Progressed { failed, ..Progressed::default() }, Vec::new()));
        }
        // All are tried, also where one is refused: what is not queued has to be unsettled.
        let queued: Vec<_> =
            events.into_iter().map(|(progressed, tokens)| self.progress(state, progressed, tokens)).collect();
        self.serve(state);
        queued.into_iter().collect()
    }

    /// Waits for records for a worker.
    pub(super) fn wait(self: &Arc<Self>, state: &mut State, ask: &Ask) -> Result<(u64, Granted), GroupsError> {
        state.body()?;
        let Ask { worker, max, max_bytes, max_held, .. } = ask;
        let (max, max_bytes, max_held) = (*max, *max_bytes, *max_held);
        let (reply, granted) = oneshot::channel();
        state.waiters_seen += 1;
        let id = state.waiters_seen;
        state.waiters.push_back(Waiter { id, worker: worker.clone(), max, max_bytes, max_held, reply });
        Ok((id, granted))
    }

    /// Who waits for this worker gets nothing.
    pub(super) fn dismiss(state: &mut State, worker: &str) {
        let (dismissed, others) = state.waiters.drain(..).partition::<VecDeque<_>, _>(|waiter| waiter.worker == worker);
        state.waiters = others;
        for waiter in dismissed {
            // Who has gone away need not hear it.
            let _ = waiter.reply.send(Ok(Vec::new()));
        }
    }

    /// Gives those who wait what there is, first come, first served.
    pub(super) fn serve(&self, state: &mut State) {
        let now = self.now();
        let State { body: Some(body), waiters, frames, .. } = state else { return };
        if body.kept.letters.len() >= MAX_LETTERS {
            return;
        }
        let mut index = 0;
        while index < waiters.len() {
            let Waiter { worker, max, max_bytes, max_held, reply, .. } = &waiters[index];
            let max = (*max).min(max_held.saturating_sub(body.dispatch.held(worker)));
            let granted = match reply.is_closed() {
                true => Ok(Vec::new()),
                false => body.dispatch.lease(now, worker, max, *max_bytes),
            };
            if !reply.is_closed() && granted.as_ref().is_ok_and(Vec::is_empty) {
                index += 1;
                continue;
            }
            let Some(waiter) = waiters.remove(index) else { return };
            let deliver = |grant: Grant| (grant, frames.find(grant.token.offset));
            let granted = granted.map(|grants| grants.into_iter().map(deliver).collect::<Vec<_>>());
            self.around.metrics.delivered.increment(granted.as_ref().map_or(0, Vec::len) as u64);
            // Who went away in this moment has leases that lapse.
            let _ = waiter.reply.send(granted.map_err(GroupsError::from));
        }
    }

    /// Reads what the namespace has next and serves those who wait, until they are, or there is no more.
    /// Only one task reads at a time.
    pub(super) fn read_on(self: &Arc<Self>, state: &mut State) -> Option<JoinHandle<()>> {
        if state.reading != Reading::Idle {
            state.reading = Reading::Again;
            return None;
        }
        state.reading = Reading::Busy;
        let live = Arc::clone(self);
        Some(tokio::spawn(async move { live.read().await }))
    }

    async fn read(self: Arc<Self>) {
        loop {
            let Some(from) = self.next_read() else { return };
            let frames = async {
                let mut reader = self.around.log.reader(&self.namespace, from)?;
                reader.read(READ_BYTES).await
            };
            let go_on = match frames.await {
                Ok(frames) => self.offer(&frames),
                // The group begins at an offset that is still to come.
                Err(ReadError::PastHead { .. }) => self.offer(&[]),
                Err(error) => return self.unreadable(&error.into()),
            };
            if !go_on {
                return;
            }
        }
    }

    /// Where to read on; nothing where nobody needs it.
    fn next_read(self: &Arc<Self>) -> Option<u64> {
        let state = &mut *self.state.lock();
        let enough = |body: &Body, waiter: &Waiter| body.dispatch.ready() >= waiter.max && state.frames.is_full();
        let first = state.waiters.front().zip(state.body.as_ref());
        if first.is_some_and(|(waiter, body)| enough(body, waiter)) {
            self.serve(state);
        }
        let wanted = match (&state.body, state.waiters.is_empty() || state.leaving) {
            (Some(body), false) => body.dispatch.wants(),
            _ => None,
        };
        if wanted.is_none() {
            self.serve(state);
            state.reading = Reading::Idle;
        }
        wanted
    }

    /// Takes frames in that were read; none: that was all. Whether there may be more.
    fn offer(self: &Arc<Self>, read: &[Arc<SharedFrame>]) -> bool {
        let state = &mut *self.state.lock();
        let Some(body) = state.body.as_mut().filter(|_| !state.leaving) else {
            state.reading = Reading::Idle;
            return false;
        };
        for frame in read {
            if frame.is_loss() {
                body.dispatch.pass(frame.next_offset());
                continue;
            }
            let keyed = body.kept.config.order == Order::Key;
            if frame.records().all(|record| body.dispatch.offer(pending(&record, keyed))) {
                state.frames.add(frame);
                continue;
            }
            state.frames.add(frame);
            break;
        }
        let skipped = merged(body.dispatch.take_skipped());
        if !skipped.is_empty() {
            // What was lost never comes; where this fails, the next load finds it again.
            let _ = self.progress(state, Progressed { acked: skipped, ..Progressed::default() }, Vec::new());
        }
        self.serve(state);
        if read.is_empty() {
            let again = state.reading == Reading::Again;
            state.reading = if again { Reading::Busy } else { Reading::Idle };
            return again;
        }
        true
    }

    fn unreadable(&self, error: &GroupsError) {
        let state = &mut *self.state.lock();
        state.reading = Reading::Idle;
        if matches!(error, GroupsError::NamespaceNotFound) {
            state.body = None;
        }
        for waiter in state.waiters.drain(..) {
            let _ = waiter.reply.send(Err(match error {
                GroupsError::NamespaceNotFound => GroupsError::NamespaceNotFound,
                GroupsError::Closed => GroupsError::Closed,
                error => GroupsError::Unreadable(error.to_string()),
            }));
        }
    }
}

fn pending(record: &Record<'_>, keyed: bool) -> Pending {
    let hash = |key: &str| {
        let mut hasher = FxHasher::default();
        hasher.write(key.as_bytes());
        hasher.finish()
    };
    let key = record.key.filter(|_| keyed).map(hash);
    Pending { offset: record.offset, shard: record.id.shard(), key, bytes: record.encoded.len() as u32 }
}
