//! What is due: one task for all groups that are in memory.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tracing::{error, warn};

use super::error::GroupsError;
use super::letters;
use super::live::{Live, State};
use super::rows;
use super::runtime::Inner;

/// How often it looks, while any group is in memory.
const TICK: Duration = Duration::from_millis(20);

const SECOND: u64 = 1_000_000_000;

/// How long a group that nobody uses stays in memory, nanoseconds.
const IDLE_NANOS: u64 = 60 * SECOND;

/// A worker that has not been heard of for so long has left, nanoseconds; or for a lease, if that is longer.
const ABSENT_NANOS: u64 = 10 * SECOND;

const NANOS_PER_MS: u64 = 1_000_000;

/// Runs until the groups are closed or gone.
pub(super) async fn run(groups: Weak<Inner>) {
    let Some((stop, wake)) = groups.upgrade().map(|inner| (inner.ledger.closed().clone(), Arc::clone(&inner.loaded)))
    else {
        return;
    };
    begin(groups.clone()).await;
    while let Some(inner) = groups.upgrade() {
        let any = inner.tick();
        drop(inner);
        let next = async {
            if any {
                tokio::time::sleep(TICK).await;
            } else {
                wake.notified().await;
            }
        };
        if stop.run_until_cancelled(next).await.is_none() {
            return;
        }
    }
}

/// Does what is due once.
pub(super) async fn begin(groups: Weak<Inner>) {
    if let Err(error) = load_letters(&groups).await {
        error!(%error, "groups that have dead letters to send were not found: they send them once they are used");
    }
}

/// Loads the groups whose dead letters a crash has kept back.
async fn load_letters(groups: &Weak<Inner>) -> Result<(), GroupsError> {
    let Some(inner) = groups.upgrade() else { return Ok(()) };
    let ledger = Arc::downgrade(&inner.ledger);
    let log = inner.around.log.clone();
    drop(inner);
    for partition in 0..log.partitions() {
        let durable = log.watermark(partition).borrow().position;
        let Some(mut applied) = ledger.upgrade().map(|ledger| ledger.applied(partition)) else { return Ok(()) };
        // The sender goes with the rows.
        if applied.wait_for(|applied| applied.position >= durable).await.is_err() {
            return Ok(());
        }
    }
    let Some(ledger) = ledger.upgrade() else { return Ok(()) };
    let found = rows::with_letters(ledger.db())?;
    drop(ledger);
    for (id, group) in found {
        let Some(inner) = groups.upgrade() else { return Ok(()) };
        if let Some(namespace) = log.namespace_by_id(id)? {
            inner.live(&namespace, &group).await?;
        }
    }
    Ok(())
}

impl Inner {
    /// Does what is due. Whether any group is in memory.
    pub(super) fn tick(self: &Arc<Self>) -> bool {
        let groups = self.live_groups();
        for live in &groups {
            let state = &mut *live.state.lock();
            if state.leaving {
                continue;
            }
            let now = live.now();
            state.forget_absent();
            leave(live, state, now);
            expire(live, state, now);
            publish(live, state, now);
            let idle_for = now.saturating_sub(state.used);
            let unused = idle_for > IDLE_NANOS || state.body.is_none();
            if unused && state.is_idle() {
                state.leaving = true;
                self.remove(live);
            }
        }
        self.forget_unloaded();
        self.around.metrics.live.set(groups.len() as f64);
        !groups.is_empty()
    }
}

/// Workers that have not been heard of for too long leave.
fn leave(live: &Arc<Live>, state: &mut State, now: u64) {
    let State { body: Some(body), waiters, workers_checked, .. } = state else { return };
    if now.saturating_sub(*workers_checked) < SECOND {
        return;
    }
    *workers_checked = now;
    let absent = ABSENT_NANOS.max(body.kept.config.lease_ms.saturating_mul(NANOS_PER_MS));
    for worker in body.dispatch.figures().workers {
        let waits = waiters.iter().any(|waiter| *waiter.worker == *worker.name);
        if now.saturating_sub(worker.seen) > absent && !waits {
            body.dispatch.leave(&worker.name);
        }
    }
    live.serve(state);
}

/// Leases lapse whose time is over, and retries are due.
fn expire(live: &Arc<Live>, state: &mut State, now: u64) {
    let Some(body) = &mut state.body else { return };
    if now < state.expire_at || body.dispatch.deadline().is_none_or(|due| due > now) {
        return;
    }
    let failures = body.dispatch.expire(now);
    match live.fail(state, &failures, "the lease lapsed") {
        Ok(_) => {}
        Err(GroupsError::NamespaceNotFound) => state.body = None,
        // Records that were given up are leased, and lapse, anew.
        Err(error) => {
            state.expire_at = now.saturating_add(SECOND);
            warn!(namespace = %live.namespace.name(), group = %live.name, %error, "lapsed leases could not be noted");
        }
    }
}

fn publish(live: &Arc<Live>, state: &mut State, now: u64) {
    let due = state.body.as_ref().is_some_and(|body| !body.kept.letters.is_empty()) && now >= state.publish_at;
    if due && !state.publishing {
        state.publishing = true;
        tokio::spawn(letters::publish(Arc::clone(live)));
    }
}
