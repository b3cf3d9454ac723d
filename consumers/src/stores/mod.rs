//! The 256 stores: what the records of each shard amount to, over all namespaces.
//!
//! All stand in one RocksDB. A thread per partition reads the log and applies it to all of them; one
//! more rebuilds stores that are asked for.

mod apply;
mod batch;
mod check;
mod driver;
mod error;
mod live;
mod metrics;
mod open;
pub(crate) mod options;
mod range;
mod read;
mod rebuild;
mod ring;
mod rows;
mod shards;
mod state;
mod whole;

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle, Thread};

use parking_lot::Mutex;
use tlog::{Log, Namespace};
use tracing::{error, info, warn};
use wire::{ObjectId, Offset, Position, Shard};

pub use self::check::StoresCheck;
pub use self::driver::StoresDriver;
pub use self::error::StoresError;
pub use self::options::OPEN_TABLES;
pub use self::range::{KeyPage, KeyRange};
pub use self::read::{NotInMemory, StoredRecord};
use self::ring::Ring;
pub use self::state::StoreState;

/// The stores of a log. Cheap to clone.
///
/// Reads block, for as long as RocksDB takes. When the last one is dropped without a
/// [`Stores::close`], what was not yet flushed is read from the log again on opening.
#[derive(Clone)]
pub struct Stores(Arc<Running>);

struct Running {
    ring: Arc<Ring>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Stores {
    /// Opens the stores of a log in the folder `stores` of `dir`, making them where there are none,
    /// and goes on applying the log. Blocking.
    ///
    /// # Errors
    /// Where the folder can't be read, or is not of this log.
    pub fn open(dir: &Path, log: Log) -> Result<Stores, StoresError> {
        Stores::open_within(dir, log, OPEN_TABLES)
    }

    /// The same; at most so many of the stores' files are kept open.
    ///
    /// # Errors
    /// As [`Stores::open`].
    pub fn open_within(dir: &Path, log: Log, open_tables: usize) -> Result<Stores, StoresError> {
        // From here on a return ends the threads that were started.
        let (stores, driver) = Stores::open_driven(dir, log, open_tables)?;
        for index in 0..driver.0.partitions.len() {
            stores.0.start(format!("stores-{index:03}"), move |ring| live::run(ring, &ring.partitions[index]))?;
        }
        stores.0.start("stores-rebuild".to_owned(), rebuild::run)?;
        info!(dir = %driver.0.dir.display(), "the stores are open");
        Ok(stores)
    }

    /// Like [`Stores::open_within`], but without threads: nothing is applied or rebuilt until the driver is
    /// told to.
    ///
    /// # Errors
    /// Where the folder can't be read, or is not of this log.
    pub fn open_driven(dir: &Path, log: Log, open_tables: usize) -> Result<(Stores, StoresDriver), StoresError> {
        let ring = Arc::new(Ring::open(&dir.join("stores"), log, open_tables)?);
        let running = Running { ring: Arc::clone(&ring), threads: Mutex::default() };
        Ok((Stores(Arc::new(running)), StoresDriver(ring)))
    }

    /// The latest record of a key; nothing where the key has none, or its latest is a tombstone.
    ///
    /// # Errors
    /// [`StoresError::Rebuilding`] where the key's store is not whole.
    pub fn latest(&self, namespace: &Namespace, key: &str) -> Result<Option<StoredRecord>, StoresError> {
        self.0.ring.view().latest(namespace.id(), key)
    }

    /// The same, where all that it takes is in memory; it does not block.
    ///
    /// # Errors
    /// [`NotInMemory`] where it is not, and where the key's store is being rebuilt: [`Stores::latest`] knows.
    pub fn latest_in_memory(&self, namespace: &Namespace, key: &str) -> Result<Option<StoredRecord>, NotInMemory> {
        self.0.ring.latest_in_memory(namespace.id(), key)
    }

    /// The record of an id.
    ///
    /// # Errors
    /// [`StoresError::Rebuilding`] where its store is not whole.
    pub fn object(&self, id: ObjectId) -> Result<Option<StoredRecord>, StoresError> {
        self.0.ring.view().object(id)
    }

    /// The record before this id, in its shard and namespace; nothing before the first.
    ///
    /// # Errors
    /// [`StoresError::Rebuilding`] where its store is not whole.
    pub fn previous(&self, id: ObjectId) -> Result<Option<StoredRecord>, StoresError> {
        match id.previous() {
            Some(previous) => self.object(previous),
            None => Ok(None),
        }
    }

    /// A page of the latest records of a namespace's keys, in the order of keys, as of one moment.
    ///
    /// # Errors
    /// [`StoresError::Rebuilding`] where any store is not whole: its keys would be missing.
    pub fn range(&self, namespace: &Namespace, range: &KeyRange) -> Result<KeyPage, StoresError> {
        self.0.ring.view().range(namespace.id(), range)
    }

    /// Waits until the stores have seen a namespace's record at `offset`, which may not have been
    /// appended yet. How long that may take is the caller's to bound.
    ///
    /// # Errors
    /// Where the namespace is deleted, or the stores are closed.
    pub async fn wait_applied(&self, namespace: &Namespace, offset: Offset) -> Result<(), StoresError> {
        let ring = &self.0.ring;
        let wait = async {
            let behind = ring.appended(namespace, offset).await?;
            let partition = ring.partition_of(namespace.id());
            let mut applied = partition.applied.subscribe();
            // It may be letting records gather, and has not seen yet that somebody waits.
            partition.thread.get().into_iter().for_each(Thread::unpark);
            applied.wait_for(|applied| applied.position >= behind).await.map(drop).map_err(|_| StoresError::Closed)
        };
        ring.stop.run_until_cancelled(wait).await.unwrap_or(Err(StoresError::Closed))
    }

    /// The state of each of the 256 stores, in order.
    pub fn states(&self) -> Result<Vec<StoreState>, StoresError> {
        self.0.ring.states()
    }

    /// Wipes a store, and rebuilds it from the log in the background; the other stores serve on, and
    /// reads of this one are [`StoresError::Rebuilding`] until it is whole. Stores are rebuilt one
    /// after another. A crash or a close does not end a rebuild: opening goes on with it.
    ///
    /// Of a store that is being rebuilt already nothing changes. Blocking, for some milliseconds.
    ///
    /// # Errors
    /// Where the store could not be wiped: then it is as it was.
    pub fn rebuild(&self, shard: Shard) -> Result<(), StoresError> {
        self.0.ring.begin_rebuild(shard)
    }

    /// Ends the threads and saves what is applied. Reads still work. Blocking.
    pub fn close(&self) {
        self.0.end_threads();
        if let Err(error) = self.0.ring.db.flush() {
            warn!(%error, "the stores could not be flushed, the next start applies more of the log");
        }
    }
}

impl fmt::Debug for Stores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stores").field("dir", &self.0.ring.dir).finish_non_exhaustive()
    }
}

impl Ring {
    /// Waits until a namespace has a record at `offset`, and says where its frame ends.
    async fn appended(&self, namespace: &Namespace, offset: Offset) -> Result<Position, StoresError> {
        // It follows first and looks then: what comes in between is not missed.
        let follower = self.log.follower(std::slice::from_ref(namespace));
        loop {
            let (log, of) = (self.log.clone(), namespace.clone());
            let look = tokio::task::spawn_blocking(move || log.position_behind(&of, offset));
            match look.await.map_err(|_| StoresError::Closed)?? {
                Some(behind) => return Ok(behind),
                None => follower.changed().await,
            }
        }
    }
}

impl Running {
    fn start(&self, name: String, run: impl FnOnce(&Ring) + Send + 'static) -> Result<(), StoresError> {
        let ring = Arc::clone(&self.ring);
        let thread = Builder::new().name(name).spawn(move || run(&ring)).map_err(StoresError::Thread)?;
        self.threads.lock().push(thread);
        Ok(())
    }

    fn end_threads(&self) {
        self.ring.stop.cancel();
        for thread in std::mem::take(&mut *self.threads.lock()) {
            thread.thread().unpark();
            if thread.join().is_err() {
                error!("a thread of the stores ended in a panic");
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end_threads();
    }
}
