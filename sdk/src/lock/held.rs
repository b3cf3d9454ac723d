//! A lock that is held: a task extends it long before its time is over, as long as the broker can be reached.

use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};
use wire::{LockName, Offset, Retry};

use super::Lock;
use crate::error::Error;

/// How long to wait after an extension has failed, at most.
const RETRY: Duration = Duration::from_millis(250);

/// A lock that is held, and kept so. Dropped, it is given back in the background, which nobody sees succeed: so
/// [`HeldLock::release`] is better.
///
/// Nothing can keep a lock for a process that hangs, or for one that no broker hears: see
/// [`HeldLock::lost`], and show the [`HeldLock::token`] to whatever is written to, so that it can refuse
/// all who come with a lower one than it has seen.
#[derive(Debug)]
pub struct HeldLock {
    lock: Lock,
    owner: String,
    token: Offset,
    lost: watch::Receiver<bool>,
    alive: JoinHandle<()>,
    released: bool,
}

impl HeldLock {
    /// Keeps a lock that is held for `ttl` from `since` on.
    pub(super) fn keep(lock: Lock, owner: String, token: Offset, ttl: Duration, since: Instant) -> HeldLock {
        let (lose, lost) = watch::channel(false);
        let alive = tokio::spawn(keep_alive(lock.clone(), token, ttl, since, lose));
        HeldLock { lock, owner, token, lost, alive, released: false }
    }

    /// The lock's name.
    pub fn name(&self) -> &LockName {
        &self.lock.name
    }

    /// What the owner calls itself.
    pub fn owner(&self) -> &str {
        &self.owner
    }

    /// The fencing token: higher than that of every holder before.
    pub fn token(&self) -> Offset {
        self.token
    }

    /// Whether the lock may be another's by now.
    pub fn is_lost(&self) -> bool {
        *self.lost.borrow()
    }

    /// Waits until the lock may be another's: its time is over, as the broker could not be reached, or it was
    /// released by someone else.
    pub async fn lost(&self) {
        let mut lost = self.lost.clone();
        // The sender goes without a word only where its runtime ends: then nothing keeps the lock.
        drop(lost.wait_for(|lost| *lost).await);
    }

    /// Gives the lock back; durable when this returns.
    ///
    /// # Errors
    /// [`wire::Code::LockLost`] where it was not held any more.
    pub async fn release(mut self) -> Result<(), Error> {
        self.alive.abort();
        let released = self.lock.release(self.token).await;
        self.released = true;
        released
    }
}

impl Drop for HeldLock {
    fn drop(&mut self) {
        self.alive.abort();
        if self.released || self.is_lost() {
            return;
        }
        if let Ok(runtime) = Handle::try_current() {
            let (lock, token) = (self.lock.clone(), self.token);
            runtime.spawn(async move {
                if let Err(error) = lock.release(token).await {
                    tracing::debug!(lock = %lock.name, %error, "a lock was dropped and could not be released");
                }
            });
        }
    }
}

/// How often a lock is extended: often enough that one lost request does no harm.
pub(super) fn extend_every(ttl: Duration) -> Duration {
    (ttl / 3).max(Duration::from_millis(1))
}

/// Extends a lock until it is lost. The time that the broker grants begins when it hears of the request, so it
/// surely is not over when that long has passed since the request was sent.
async fn keep_alive(lock: Lock, token: Offset, ttl: Duration, mut since: Instant, lose: watch::Sender<bool>) {
    let every = extend_every(ttl);
    loop {
        let over = since + ttl;
        sleep_until((since + every).min(over)).await;
        since = loop {
            let sent = Instant::now();
            let timeout = every.min(over.saturating_duration_since(sent)).min(lock.client.inner.timeout);
            match lock.extend(token, ttl, timeout).await {
                Ok(()) => break sent,
                Err(error) if error.retry() != Retry::Never && Instant::now() < over => {
                    tracing::debug!(lock = %lock.name, %error, "trying again to extend the lock");
                    sleep(RETRY.min(every / 4)).await;
                }
                Err(error) => {
                    tracing::warn!(lock = %lock.name, %error, "the lock is lost");
                    lose.send_replace(true);
                    return;
                }
            }
        };
    }
}
