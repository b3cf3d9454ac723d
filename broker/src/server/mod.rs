//! The server: opens the data folder, listens, and stops in order.
//!
//! ```text
//! bind ─▶ run: accept ─▶ one task a connection (connection.rs)
//!          │ shutdown
//!          ├─ no more connections; streams and waits end; requests in flight are answered
//!          ├─ what is still open after `drain` is cut off
//!          └─ ledger, stores, then log: closed
//! ```

mod connection;
mod files;
mod follower;
mod stall;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use consumers::groups::Groups;
use consumers::locks::Locks;
use consumers::rooms::Rooms;
use consumers::{Ledger, OPEN_TABLES, Stores};
use tlog::storage::Disk;
use tlog::{Clock, Log};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock::SystemClock;
use crate::config::{ServeError, ServerConfig};
use crate::http;
use crate::http::body::BodyBudget;
use crate::http::outgoing::Outgoing;
use crate::http::reads::Reads;
use crate::state::Broker;
use crate::telemetry;
use connection::Connections;

/// How long to wait before accepting again, after accepting has failed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How often the log is asked whether a partition has failed, and the metrics are tidied up.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// A server that listens, on an open data folder.
#[derive(Debug)]
pub struct Server {
    config: ServerConfig,
    listener: TcpListener,
    address: SocketAddr,
    broker: Arc<Broker>,
    connections: Arc<Connections>,
    /// Connections that are served at once, within the limit of open files.
    connections_at_once: usize,
}

/// Serves until `shutdown` is cancelled and everything in flight has ended.
///
/// # Errors
/// Where the server can't be started, or did not stop in order.
pub async fn serve(config: ServerConfig, shutdown: CancellationToken) -> Result<(), ServeError> {
    Server::bind(config).await?.run(shutdown).await
}

impl Server {
    /// Opens the data folder and listens. Connections are taken when [`Server::run`] is called.
    ///
    /// # Errors
    /// Where address, folder or configuration do not allow it; nothing is left open.
    pub async fn bind(config: ServerConfig) -> Result<Server, ServeError> {
        if config.max_connections == 0 {
            return Err(ServeError::NoConnections);
        }
        let cors = http::cors(&config.cors_origins)?;
        let not_listening = |source| ServeError::Listen { address: config.listen, source };
        let listener = TcpListener::bind(config.listen).await.map_err(not_listening)?;
        let address = listener.local_addr().map_err(not_listening)?;
        let metrics = telemetry::install()?;
        let opening = config.clone();
        // Tokens of another life of the broker hold no more: this tells them apart.
        let boot = getrandom::u64().map_err(|error| ServeError::NoRandomness(error.to_string()))?;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
        let logs_clock = Arc::clone(&clock);
        let opened = tokio::task::spawn_blocking(move || open(&opening, logs_clock)).await??;
        let Opened { log, stores, ledger, connections_at_once } = opened;
        let broker = Arc::new(Broker {
            log,
            stores,
            groups: Groups::new(Arc::clone(&ledger), Arc::clone(&clock), boot),
            locks: Locks::new(Arc::clone(&ledger), Arc::clone(&clock)),
            rooms: Rooms::new(Arc::clone(&ledger), clock, boot),
            ledger,
            closing: CancellationToken::new(),
            timeouts: config.timeouts,
            bodies: BodyBudget::default(),
            outgoing: Outgoing::default(),
            reads: Reads::default(),
            metrics,
        });
        let connections =
            Arc::new(Connections::new(http::router(&broker, cors), config.timeouts, broker.outgoing.clone()));
        Ok(Server { config, listener, address, broker, connections, connections_at_once })
    }

    /// Where the server listens: the real port where port 0 was asked for.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `shutdown` is cancelled, then stops: requests in flight are answered, event
    /// streams end, log and stores are closed.
    ///
    /// # Errors
    /// Where the stop was not in order; the log itself is safe even then.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), ServeError> {
        let Server { config, listener, address, broker, connections, connections_at_once } = self;
        tracing::info!(%address, data = %config.data.display(), partitions = broker.log.partitions(), "serving");
        let kill = CancellationToken::new();
        let tracker = TaskTracker::new();
        let watch = tracker.spawn(watch(Arc::clone(&broker)));
        for partition in 0..broker.log.partitions() {
            let (log, closing) = (broker.log.clone(), broker.closing.clone());
            tracker.spawn(async move { closing.run_until_cancelled(log.wake_many(partition)).await });
        }
        let places = Arc::new(Semaphore::new(connections_at_once.min(Semaphore::MAX_PERMITS)));
        loop {
            let accepted = tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                accepted = accept(&listener, &places) => accepted,
            };
            if let Some((stream, place)) = accepted {
                let connections = Arc::clone(&connections);
                let (closing, kill) = (broker.closing.clone(), kill.clone());
                tracker.spawn(async move {
                    connections.serve(stream, closing, kill).await;
                    drop(place);
                });
            }
        }
        drop(listener);
        tracing::info!(%address, "stopping");
        broker.closing.cancel();
        tracker.close();
        if timeout(config.timeouts.drain, tracker.wait()).await.is_err() {
            tracing::warn!(open = tracker.len(), "cutting off what is still open");
            kill.cancel();
            tracker.wait().await;
        }
        watch.await?;
        tokio::task::spawn_blocking(move || {
            broker.ledger.close();
            broker.stores.close();
            broker.log.close();
        })
        .await?;
        tracing::info!(%address, "stopped");
        Ok(())
    }
}

/// What a data folder is made into.
struct Opened {
    log: Log,
    stores: Stores,
    ledger: Arc<Ledger>,
    /// How many connections there may be beside them.
    connections_at_once: usize,
}

/// Blocking: recovers the log, and opens stores and ledger.
fn open(config: &ServerConfig, clock: Arc<dyn Clock>) -> Result<Opened, ServeError> {
    let partitions = tlog::partitions_of(&Disk, &config.data)?.unwrap_or(config.log.partitions);
    let shares = files::share_out(config, partitions)?;
    let options = tlog::Options {
        open_segments: config.log.open_segments.min(shares.segments),
        open_tables: config.log.open_tables.min(shares.tables),
        ..config.log
    };
    let connections_at_once = config.max_connections.min(shares.connections);
    let log = Log::open(&config.data, Arc::new(Disk), clock, options)?;
    let opened =
        Stores::open_within(&config.data, log.clone(), OPEN_TABLES.min(shares.tables)).map_err(ServeError::from);
    let opened = opened.and_then(|stores| match Ledger::open(&config.data, log.clone(), shares.tables) {
        Ok(ledger) => Ok((stores, ledger)),
        Err(error) => {
            stores.close();
            Err(error.into())
        }
    });
    match opened {
        Ok((stores, ledger)) => Ok(Opened { log, stores, ledger, connections_at_once }),
        Err(error) => {
            log.close();
            Err(error)
        }
    }
}

/// The next connection, once there is a place for it. Nothing where accepting failed.
async fn accept(listener: &TcpListener, places: &Arc<Semaphore>) -> Option<(TcpStream, OwnedSemaphorePermit)> {
    // The semaphore is never closed.
    let place = Arc::clone(places).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, _)) => Some((stream, place)),
        Err(error) => {
            tracing::warn!(%error, "a connection can't be accepted");
            sleep(ACCEPT_PAUSE).await;
            None
        }
    }
}

/// Says it, once, when a partition fails; keeps the metrics from growing where nobody reads them.
async fn watch(broker: Arc<Broker>) {
    let mut ticks = interval(WATCH_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut said = None;
    loop {
        tokio::select! {
            () = broker.closing.cancelled() => return,
            _ = ticks.tick() => {}
        }
        broker.metrics.run_upkeep();
        let failed = broker.log.failed_partition();
        if let Some((partition, reason)) = failed.as_ref().filter(|_| failed != said) {
            tracing::error!(partition, reason, "a partition takes no more writes until a restart");
        }
        said = failed;
    }
}
