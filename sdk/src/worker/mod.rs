//! A worker: leases records, gives each to a handler, and acks or gives back what becomes of it.
//!
//! | file | what it knows |
//! |---|---|
//! | [`hand`] | the records in hand, and which of them may run |
//! | [`driver`] | the task: leases, handlers, acks, extensions |
//!
//! A record may be delivered more than once: where a worker or the broker dies between the work and its
//! ack, for one. A handler must bear that.

mod driver;
mod hand;

use std::fmt::Display;
use std::future::Future;
use std::time::Duration;

use futures::FutureExt;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use wire::limits::MAX_LEASED;
use wire::name::check_worker;

use crate::backoff::Backoff;
use crate::error::Error;
use crate::group::Group;
use crate::lease::Leased;
use crate::publisher::random_id;
use driver::Driver;

/// Settings of a [`Worker`].
#[derive(Clone, Debug)]
pub struct WorkerBuilder {
    group: Group,
    name: Option<String>,
    concurrency: usize,
    backoff: Backoff,
}

/// What a worker has done.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Worked {
    /// Records that are acked.
    pub acked: u64,
    /// Records that were given back, as their handler failed.
    pub failed: u64,
    /// Records whose lease had ended before the broker heard what became of them. They are
    /// delivered again, unless it had heard it, and the answer was lost.
    pub lapsed: u64,
}

impl WorkerBuilder {
    pub(crate) fn new(group: Group) -> WorkerBuilder {
        WorkerBuilder { group, name: None, concurrency: 8, backoff: Backoff::default().forever() }
    }

    /// What the worker calls itself, 1 to 255 bytes; if not set, a random name. No two that work at one
    /// time may have the same.
    pub fn name(self, name: impl Into<String>) -> WorkerBuilder {
        WorkerBuilder { name: Some(name.into()), ..self }
    }

    /// Most handlers that run at once, and most records that are in hand; 8 if not set.
    pub fn concurrency(self, handlers: usize) -> WorkerBuilder {
        WorkerBuilder { concurrency: handlers.clamp(1, MAX_LEASED), ..self }
    }

    /// How leases are asked for again where the broker was away; without an end if not set.
    pub fn backoff(self, backoff: Backoff) -> WorkerBuilder {
        WorkerBuilder { backoff, ..self }
    }

    /// Starts to work, as a task of the tokio runtime in which it is called. Each record goes to
    /// `handler`: what it answers acks the record, or gives it back with the error. Where the group is
    /// ordered by key, records of one key go to it one after another.
    ///
    /// A handler's future is dropped where its lease has ended, as the record is someone else's by then. One
    /// that panics has failed.
    ///
    /// # Errors
    /// [`wire::Code::GroupNotFound`] where there is no such group.
    pub async fn start<H, F, E>(self, handler: H) -> Result<Worker, Error>
    where
        H: Fn(Leased) -> F + Send + 'static,
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Display,
    {
        let name = match self.name {
            Some(name) => name,
            None => random_id()?,
        };
        check_worker(&name)?;
        let config = self.group.state().await?.config;
        let handler = move |leased| handler(leased).map(|done| done.map_err(|error| error.to_string()));
        let (stop, stopped) = watch::channel(false);
        let driver = Driver::new(self.group, name.clone(), &config, self.concurrency, self.backoff, stopped);
        Ok(Worker { name, stop, task: tokio::spawn(driver.run(handler)) })
    }
}

/// A worker that works. Dropped without [`Worker::drain`] it ends at once, handlers in their midst; what
/// it has in hand is delivered again when its leases end.
#[derive(Debug)]
pub struct Worker {
    name: String,
    stop: watch::Sender<bool>,
    task: JoinHandle<Result<Worked, Error>>,
}

impl Worker {
    /// What it calls itself.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Takes no more records, waits for the handlers that run, acks, and says goodbye to the group.
    ///
    /// # Errors
    /// Why the worker had ended before.
    pub async fn drain(mut self) -> Result<Worked, Error> {
        self.stop.send_replace(true);
        self.ended().await
    }

    /// Waits until the worker ends by itself, which it does only where it can't go on.
    ///
    /// # Errors
    /// Why: the group was deleted, for one.
    pub async fn ended(&mut self) -> Result<Worked, Error> {
        (&mut self.task).await.unwrap_or(Err(Error::Closed))
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// How often leases are extended: often enough that one lost request does no harm.
fn extend_every(lease_ms: u64) -> Duration {
    Duration::from_millis((lease_ms / 3).max(1))
}
