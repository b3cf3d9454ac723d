//! The task of a worker. One of each kind of request is on its way at most: while an ack is, the next
//! ones gather, so that batches grow with the load and nothing waits for the sake of batching.

use std::collections::HashMap;
use std::future::{Future, pending};
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::sync::watch;
use tokio::task::{AbortHandle, Id, JoinError, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep_until, timeout};
use wire::group::{GroupConfig, Order};
use wire::limits::MAX_TOKENS;

use super::hand::Hand;
use super::{Worked, extend_every};
use crate::backoff::{Attempts, Backoff};
use crate::error::Error;
use crate::group::Group;
use crate::http::Repeat;
use crate::lease::{Leased, Settled};

/// How long one request for records waits for a first one.
const LEASE_WAIT: Duration = Duration::from_secs(20);

/// The same, at most, where order is by key: a failure is told only once no request is on its way, so that what
/// the broker had given out before it heard of the failure is known by then.
const ORDERED_LEASE_WAIT: Duration = Duration::from_secs(1);

/// How a handler ended; nothing of one that was stopped.
type Finished = Result<(Id, Result<(), String>), JoinError>;

/// A request that is on its way, if one is.
type OnItsWay<T> = Option<BoxFuture<'static, Result<T, Error>>>;

pub(super) struct Driver {
    group: Group,
    name: String,
    concurrency: usize,
    extend_every: Duration,
    stopped: watch::Receiver<bool>,
    /// Nothing more is leased.
    stopping: bool,
    attempts: Attempts,
    /// After a failed lease: none is asked for before.
    pause: Option<Instant>,
    hand: Hand<AbortHandle>,
    handlers: JoinSet<Result<(), String>>,
    /// Which record a handler runs for.
    tokens: HashMap<Id, String>,
    /// What is to be acked.
    acks: Vec<String>,
    /// What is to be given back, and why.
    nacks: Vec<(String, String)>,
    leasing: OnItsWay<Vec<Leased>>,
    /// What was being leased when the worker was told to stop.
    last_leasing: OnItsWay<Vec<Leased>>,
    acking: OnItsWay<Settled>,
    nacking: OnItsWay<Settled>,
    extending: OnItsWay<Settled>,
    worked: Worked,
    /// Why it can't go on.
    failure: Option<Error>,
}

impl Driver {
    pub(super) fn new(
        group: Group,
        name: String,
        config: &GroupConfig,
        concurrency: usize,
        backoff: Backoff,
        stopped: watch::Receiver<bool>,
    ) -> Driver {
        Driver {
            group,
            name,
            concurrency,
            extend_every: extend_every(config.lease_ms),
            stopped,
            stopping: false,
            attempts: Attempts::new(backoff),
            pause: None,
            hand: Hand::new(config.order == Order::Key),
            handlers: JoinSet::new(),
            tokens: HashMap::new(),
            acks: Vec::new(),
            nacks: Vec::new(),
            leasing: None,
            last_leasing: None,
            acking: None,
            nacking: None,
            extending: None,
            worked: Worked::default(),
            failure: None,
        }
    }

    pub(super) async fn run<H, F>(mut self, handler: H) -> Result<Worked, Error>
    where
        H: Fn(Leased) -> F + Send,
        F: Future<Output = Result<(), String>> + Send + 'static,
    {
        let mut ticks = interval_at(Instant::now() + self.extend_every, self.extend_every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut stopped = self.stopped.clone();
        while !self.is_done() {
            self.ask();
            tokio::select! {
                Ok(_) = stopped.wait_for(|stop| *stop), if !self.stopping => self.stop(),
                Some(ended) = self.handlers.join_next_with_id() => {
                    if let Some(next) = self.finished(ended) {
                        self.start(&handler, &next);
                    }
                }
                leased = answer(&mut self.leasing) => {
                    for leased in self.leased(leased) {
                        if let Some(leased) = self.hand.take(leased) {
                            self.start(&handler, &leased);
                        }
                    }
                }
                settled = answer(&mut self.acking) => self.worked.acked += self.settled(settled),
                settled = answer(&mut self.nacking) => {
                    self.worked.failed += self.settled(settled);
                    if self.nacks.is_empty() {
                        self.hand.failures_are_told();
                    }
                }
                extended = answer(&mut self.extending) => self.extended(extended),
                _ = ticks.tick() => self.extend(),
                () = until(self.pause) => self.pause = None,
            }
        }
        // Where this fails, its leases end by themselves.
        let left = self.goodbye().await;
        match (self.failure, left) {
            (Some(error), _) => Err(error),
            (None, Err(error)) => {
                tracing::debug!(worker = self.name, %error, "the goodbye was not heard");
                Ok(self.worked)
            }
            (None, Ok(())) => Ok(self.worked),
        }
    }

    /// Leaves. A lease that is still asked for may be granted before the goodbye is heard, or be waiting,
    /// and is then answered by it: what comes of it is given back by another.
    async fn goodbye(&mut self) -> Result<(), Error> {
        let left = self.group.leave(&self.name).await;
        let Some(leasing) = self.last_leasing.take() else { return left };
        if timeout(LEASE_WAIT, leasing).await.is_ok_and(|leased| leased.is_ok_and(|leased| leased.is_empty())) {
            return left;
        }
        self.group.leave(&self.name).await
    }

    fn is_done(&self) -> bool {
        let told = self.acks.is_empty() && self.nacks.is_empty() && self.acking.is_none() && self.nacking.is_none();
        self.stopping && self.handlers.is_empty() && told
    }

    /// No more leases; what waits behind others will not run. What has just been leased is given back by
    /// the goodbye.
    fn stop(&mut self) {
        self.stopping = true;
        self.last_leasing = self.leasing.take();
        self.hand.drop_waiting();
    }

    /// Sends the requests that are due.
    fn ask(&mut self) {
        let room = self.concurrency.saturating_sub(self.hand.len());
        let ordered = self.hand.is_by_key();
        let untold = ordered && (self.nacking.is_some() || !self.nacks.is_empty());
        let wanted = room > 0 && self.pause.is_none() && !self.stopping && !untold;
        if wanted && self.leasing.is_none() {
            let (group, name) = (self.group.clone(), self.name.clone());
            // Well within a lease, so that the failure is told before that ends.
            let wait = if ordered { ORDERED_LEASE_WAIT.min(self.extend_every) } else { LEASE_WAIT };
            self.leasing = Some(Box::pin(async move { group.lease(&name, room, wait).await }));
        }
        if self.acking.is_none() && !self.acks.is_empty() {
            let group = self.group.clone();
            let tokens = self.acks.drain(..self.acks.len().min(MAX_TOKENS)).collect::<Vec<_>>();
            self.acking = Some(Box::pin(async move { group.ack(&tokens).await }));
        }
        let may_tell = !ordered || self.leasing.is_none();
        if self.nacking.is_none() && !self.nacks.is_empty() && may_tell {
            // Those that failed alike go together.
            let group = self.group.clone();
            let why = self.nacks[0].1.clone();
            let alike = self.nacks.extract_if(.., |(_, error)| *error == why).take(MAX_TOKENS);
            let tokens = alike.map(|(token, _)| token).collect::<Vec<_>>();
            self.nacking = Some(Box::pin(async move { group.nack(&tokens, None, Some(&why)).await }));
        }
    }

    fn start<H, F>(&mut self, handler: &H, leased: &Leased)
    where
        H: Fn(Leased) -> F,
        F: Future<Output = Result<(), String>> + Send + 'static,
    {
        let handle = self.handlers.spawn(handler(leased.clone()));
        self.tokens.insert(handle.id(), leased.token.clone());
        self.hand.run(leased, handle);
    }

    /// A handler has ended; gives the record that may run now.
    fn finished(&mut self, ended: Finished) -> Option<Leased> {
        let (id, outcome) = match ended {
            Ok(ended) => ended,
            Err(error) if error.is_cancelled() => (error.id(), Ok(())),
            Err(error) => (error.id(), Err("the handler panicked".to_owned())),
        };
        // One that was stopped has let go of its token.
        let token = self.tokens.remove(&id)?;
        match outcome {
            Ok(()) => {
                let next = self.hand.done(&token);
                self.acks.push(token);
                next
            }
            Err(error) => {
                self.hand.fail(&token);
                self.nacks.push((token, error));
                None
            }
        }
    }

    fn leased(&mut self, leased: Result<Vec<Leased>, Error>) -> Vec<Leased> {
        match leased {
            Ok(leased) => {
                self.attempts.succeeded();
                leased
            }
            Err(error) => {
                self.failed(error);
                Vec::new()
            }
        }
    }

    /// Leases, acks and all else go on later, if they may.
    fn failed(&mut self, error: Error) {
        let wait = if Repeat::Always.allows(&error) { self.attempts.failed(&error) } else { None };
        match wait {
            Some(wait) => {
                tracing::warn!(group = %self.group.name(), %error, ?wait, "the worker tries again");
                self.pause = Some(Instant::now() + wait);
            }
            None => {
                self.stop();
                self.failure = Some(error);
            }
        }
    }

    /// What was heard of acks or nacks; answers how many took effect. Those of which nothing was heard in all
    /// the time that the client tries are delivered again, if they were not settled.
    fn settled(&mut self, settled: Result<Settled, Error>) -> u64 {
        match settled {
            Ok(settled) => {
                self.worked.lapsed += settled.lapsed.len() as u64;
                settled.done
            }
            Err(error) => {
                self.failed(error);
                0
            }
        }
    }

    fn extend(&mut self) {
        let mut tokens = self.hand.tokens();
        if self.extending.is_some() || tokens.is_empty() {
            return;
        }
        tokens.truncate(MAX_TOKENS);
        let group = self.group.clone();
        self.extending = Some(Box::pin(async move { group.extend(&tokens, None).await }));
    }

    fn extended(&mut self, extended: Result<Settled, Error>) {
        let settled = match extended {
            Ok(settled) => settled,
            // The next tick tries again.
            Err(error) => return tracing::warn!(group = %self.group.name(), %error, "leases are not extended"),
        };
        for token in settled.lapsed {
            if let Some(handler) = self.hand.let_go(&token) {
                tracing::warn!(group = %self.group.name(), token, "a lease has ended, its handler is stopped");
                self.tokens.remove(&handler.id());
                handler.abort();
                self.worked.lapsed += 1;
            }
        }
    }
}

/// The answer to a request, once it is there.
async fn answer<T>(request: &mut OnItsWay<T>) -> Result<T, Error> {
    let Some(on_its_way) = request else { return pending().await };
    let answer = on_its_way.await;
    *request = None;
    answer
}

async fn until(pause: Option<Instant>) {
    match pause {
        Some(instant) => sleep_until(instant).await,
        None => pending().await,
    }
}
