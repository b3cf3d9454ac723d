//! The log: its partitions, opened and running, and what can be asked of them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use bytes::Bytes;
use parking_lot::Mutex;
use quick_cache::sync::Cache;
use tokio::sync::{oneshot, watch};
use tracing::{info, warn};
use wire::limits::{MAX_EVENT_BYTES, MAX_RECORD_BYTES};
use wire::{Frame, Generation, NamespaceConfig, NamespaceId, NamespaceName, Offset, Position};

use crate::driver::{Driver, Turn};
use crate::error::{AppendError, OpenError, ReadError};
use crate::folder;
use crate::follow::Follower;
use crate::head::Head;
use crate::journal::LocalJournal;
use crate::keeper::keeper;
use crate::metrics::{AppendMetrics, JournalMetrics};
use crate::namespace::Namespace;
use crate::options::{Clock, Options};
use crate::partition::{Shared, Watermark};
use crate::queue::{Append, Created, Noted, Queue, Reply, Request, Stored};
use crate::reader::{Reader, Scan};
use crate::recent::Recent;
use crate::recovery::{Recovered, Recovery};
use crate::rows::Rows;
use crate::segment::partition_dir;
use crate::segment::sealed::{self, Check, Sealed, SharedSegment};
use crate::sequencer::{Commit, Sequencer};
use crate::state::State;
use crate::storage::{Lock, Storage};

/// A log that is open. Cheap to clone; the last one dropped closes it.
#[derive(Debug, Clone)]
pub struct Log(Arc<Inner>);

/// What became of an append that is durable.
#[derive(Debug)]
pub struct Appended {
    /// The frame: offsets, ids, time and chain are in it.
    pub frame: Frame,
    /// Whether the batch had been stored before, and this was a retry.
    pub duplicate: bool,
}

#[derive(Debug)]
pub(crate) struct Inner {
    dir: PathBuf,
    storage: Arc<dyn Storage>,
    clock: Arc<dyn Clock>,
    pub(crate) rows: Arc<Rows>,
    partitions: Vec<Partition>,
    names: Cache<NamespaceName, Namespace>,
    segments: Cache<(u16, Position), SharedSegment>,
    append_metrics: AppendMetrics,
    /// Sequencers, then keepers: a keeper ends after its sequencer.
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// It has no threads, nor does it use those of others.
    pub(crate) is_driven: bool,
    _lock: Box<dyn Lock>,
}

#[derive(Debug)]
struct Partition {
    shared: Arc<Shared>,
    queue: Arc<Queue>,
}

impl Log {
    /// Opens the log of a data folder, making the folder where there is none: takes its lock,
    /// recovers every partition and starts their threads. Blocks until all of it is readable.
    pub fn open(
        dir: &Path,
        storage: Arc<dyn Storage>,
        clock: Arc<dyn Clock>,
        options: Options,
    ) -> Result<Log, OpenError> {
        let (log, driver) = Log::prepare(dir, storage, clock, options, false)?;
        *log.0.threads.lock() = driver.start()?;
        info!(dir = %dir.display(), partitions = log.partitions(), "the log is open");
        Ok(log)
    }

    /// Like [`Log::open`], but without threads: nothing is served until the driver is told to.
    pub fn open_driven(
        dir: &Path,
        storage: Arc<dyn Storage>,
        clock: Arc<dyn Clock>,
        options: Options,
    ) -> Result<(Log, Driver), OpenError> {
        Log::prepare(dir, storage, clock, options, true)
    }

    fn prepare(
        dir: &Path,
        storage: Arc<dyn Storage>,
        clock: Arc<dyn Clock>,
        options: Options,
        is_driven: bool,
    ) -> Result<(Log, Driver), OpenError> {
        options.check()?;
        let lock = folder::lock(&*storage, dir)?;
        let count = folder::partitions(&*storage, dir, &options)?;
        let rows = Arc::new(Rows::open(&dir.join("rows"), options.open_tables)?);
        let mut partitions = Vec::new();
        let mut turns = Vec::new();
        for id in 0..count {
            let recovery = Recovery {
                storage: &*storage,
                dir: partition_dir(dir, id),
                partition: id,
                segment_bytes: options.segment_bytes,
                rows: Arc::clone(&rows),
            };
            let state = State::load(id, count, Arc::clone(&rows), options.head_cache_bytes)?;
            let recovered = recovery.run(state)?;
            let (partition, turn) = assemble(recovered, recovery.dir, id, &rows, &storage, &clock, &options);
            partitions.push(partition);
            turns.push(turn);
        }
        let log = Log(Arc::new(Inner {
            dir: dir.to_owned(),
            storage,
            clock,
            rows: Arc::clone(&rows),
            partitions,
            names: Cache::new(options.cached_names),
            segments: Cache::new(options.open_segments),
            append_metrics: AppendMetrics::new(),
            threads: Mutex::default(),
            is_driven,
            _lock: lock,
        }));
        Ok((log, Driver { turns, rows }))
    }

    /// How many partitions the folder has.
    pub fn partitions(&self) -> u16 {
        self.0.partitions()
    }

    /// The namespace of this name.
    pub fn namespace(&self, name: &str) -> Result<Option<Namespace>, ReadError> {
        if let Some(namespace) = self.0.names.get(name) {
            return Ok(Some(namespace));
        }
        let namespace = self.0.rows.namespace_named(name)?;
        if let Some(namespace) = &namespace {
            self.0.names.insert(namespace.name().clone(), namespace.clone());
        }
        Ok(namespace)
    }

    /// The namespace of this id.
    pub fn namespace_by_id(&self, id: NamespaceId) -> Result<Option<Namespace>, ReadError> {
        self.0.rows.namespace(id)
    }

    /// At most `limit` namespaces whose names begin with `prefix` and sort behind `after`, by name.
    pub fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<Namespace>, ReadError> {
        self.0.rows.list(prefix, after, limit)
    }

    /// Creates a namespace, or finds that it exists with the same configuration.
    pub async fn create(&self, name: &NamespaceName, config: NamespaceConfig) -> Result<Created, AppendError> {
        let partition = self.0.partition(name.partition(self.partitions()));
        let (name, taken) = (name.clone(), name.clone());
        let created = partition.ask(|reply| Request::Create { name, config, reply }).await?;
        self.0.names.insert(taken, created.namespace.clone());
        Ok(created)
    }

    /// Deletes a namespace: its records can't be read from when this returns.
    pub async fn delete(&self, namespace: &Namespace) -> Result<(), AppendError> {
        let partition = self.0.partition_of(namespace);
        let deleted = partition.ask(|reply| Request::Delete { namespace: namespace.clone(), reply }).await;
        if matches!(deleted, Ok(()) | Err(AppendError::NamespaceNotFound)) {
            self.0.forget(namespace);
        }
        deleted
    }

    /// Appends an event of a namespace's consumers, such as an ack; durable when this returns (invariant
    /// 1). It comes out of [`Log::scan`] as a control frame.
    ///
    /// # Errors
    /// Where the namespace does not exist any more, and as [`Log::append`].
    pub async fn append_event(&self, namespace: &Namespace, event: Bytes) -> Result<Noted, AppendError> {
        let (id, generation) = (namespace.id(), namespace.generation());
        self.0.event(self.0.partition_of(namespace), id, generation, event).await
    }

    /// Appends an event of what lives in a partition and is of no namespace, such as a lock. Its offset among
    /// the control records of the partition is never given twice (invariant 3), and only grows.
    ///
    /// # Errors
    /// As [`Log::append_event`].
    pub async fn append_partition_event(&self, partition: u16, event: Bytes) -> Result<Noted, AppendError> {
        self.0.event(self.0.partition(partition), NamespaceId::CONTROL, 0, event).await
    }

    /// Appends a batch; durable when this returns (invariant 1).
    ///
    /// Dropping the future does not undo the append.
    pub async fn append(&self, namespace: &Namespace, append: Append) -> Result<Appended, AppendError> {
        check_sizes(namespace, &append)?;
        let begun = self.0.clock.monotonic_nanos();
        let partition = self.0.partition_of(namespace);
        let stored = partition.ask(|reply| Request::Append { namespace: namespace.clone(), append, reply }).await;
        match stored {
            Ok(Stored::Now(frame)) => {
                self.0.append_metrics.acked(self.0.clock.monotonic_nanos().saturating_sub(begun));
                Ok(Appended { frame, duplicate: false })
            }
            Ok(Stored::Before(offset)) => {
                let frames = Reader::new(Arc::clone(&self.0), namespace.clone(), offset).read(1).await?;
                let first = frames.first().ok_or(AppendError::NamespaceNotFound)?;
                Ok(Appended { frame: first.frame().clone(), duplicate: true })
            }
            Err(error) => {
                if matches!(error, AppendError::NamespaceNotFound) {
                    self.0.forget(namespace);
                }
                Err(error)
            }
        }
    }

    /// A namespace's head, as of what is durable.
    pub fn head(&self, namespace: &Namespace) -> Result<Head, ReadError> {
        self.0.head(namespace)
    }

    /// A cursor over a namespace, at `from`.
    ///
    /// # Errors
    /// [`ReadError::PastHead`] where there is no such offset yet, and it is not the next.
    pub fn reader(&self, namespace: &Namespace, from: Offset) -> Result<Reader, ReadError> {
        let next_offset = self.head(namespace)?.next_offset;
        if from > next_offset {
            return Err(ReadError::PastHead { next_offset });
        }
        Ok(Reader::new(Arc::clone(&self.0), namespace.clone(), from))
    }

    /// Wake-ups for one namespace or many.
    pub fn follower(&self, namespaces: &[Namespace]) -> Follower {
        let followed = namespaces.iter().map(|namespace| {
            let shared = &self.0.partition_of(namespace).shared;
            (Arc::clone(shared), namespace.id())
        });
        Follower::new(followed.collect())
    }

    /// Wakes followers of namespaces that many follow, for as long as this is polled, so that the partition's
    /// sequencer need not. Once for a partition.
    pub async fn wake_many(&self, partition: u16) {
        self.0.shared(partition).followers.wake_many().await;
    }

    /// A cursor over all frames of a partition, at a position where a frame begins.
    pub fn scan(&self, partition: u16, from: Position) -> Scan {
        Scan::new(Arc::clone(&self.0), partition, from)
    }

    /// The high watermark of a partition, and word of its moves.
    pub fn watermark(&self, partition: u16) -> watch::Receiver<Watermark> {
        self.0.shared(partition).watermark.subscribe()
    }

    /// The position behind the frame that holds `offset`; nothing where there is no such offset yet.
    pub fn position_behind(&self, namespace: &Namespace, offset: Offset) -> Result<Option<Position>, ReadError> {
        let mut reader = Reader::new(Arc::clone(&self.0), namespace.clone(), offset);
        Ok(reader.read_blocking(1)?.first().map(|frame| frame.end()))
    }

    /// A partition that takes no writes, and why.
    pub fn failed_partition(&self) -> Option<(u16, String)> {
        (0..self.partitions()).find_map(|partition| Some((partition, self.failure(partition)?)))
    }

    /// Why a partition takes no writes, if it does not.
    pub fn failure(&self, partition: u16) -> Option<String> {
        self.0.partition(partition).shared.failure().map(str::to_owned)
    }

    /// Serves what waits, takes no more, and ends the threads. Blocks until that is done.
    pub fn close(&self) {
        self.0.close();
    }
}

impl Inner {
    pub(crate) fn partitions(&self) -> u16 {
        self.partitions.len() as u16
    }

    fn partition(&self, id: u16) -> &Partition {
        &self.partitions[usize::from(id)]
    }

    fn partition_of(&self, namespace: &Namespace) -> &Partition {
        self.partition(namespace.id().partition(self.partitions()))
    }

    pub(crate) fn shared(&self, partition: u16) -> &Arc<Shared> {
        &self.partition(partition).shared
    }

    async fn event(
        &self,
        partition: &Partition,
        id: NamespaceId,
        generation: Generation,
        event: Bytes,
    ) -> Result<Noted, AppendError> {
        if event.len() > MAX_EVENT_BYTES {
            return Err(AppendError::RecordTooLarge { bytes: event.len(), limit: MAX_EVENT_BYTES as u32 });
        }
        partition.ask(|reply| Request::Event { id, generation, event, reply }).await
    }

    pub(crate) fn partition_dir(&self, partition: u16) -> PathBuf {
        partition_dir(&self.dir, partition)
    }

    pub(crate) fn head(&self, namespace: &Namespace) -> Result<Head, ReadError> {
        let (moved, is_deleted) = {
            let recent = self.partition_of(namespace).shared.recent.read();
            (recent.head(namespace.id()).cloned(), recent.is_deleted(namespace.id()))
        };
        let head = match moved {
            Some(head) => Some(head),
            // The rows may not say so yet.
            None if is_deleted => None,
            // What is not here any more is in the rows by now.
            None => self.rows.head(namespace.id())?.map(|head| head.seen()),
        };
        match head {
            Some(head) if head.generation == namespace.generation() => Ok(head),
            _ => {
                self.forget(namespace);
                Err(ReadError::NamespaceNotFound)
            }
        }
    }

    /// Drops a namespace that does not exist any more from the names.
    fn forget(&self, namespace: &Namespace) {
        self.names.remove_if(&**namespace.name(), |cached| cached == namespace);
    }

    /// The sealed segment to look for an offset in.
    pub(crate) fn sealed_with(
        &self,
        namespace: &Namespace,
        offset: Offset,
    ) -> Result<Option<SharedSegment>, ReadError> {
        let partition = namespace.id().partition(self.partitions());
        let Some(base) = self.rows.segment_of(namespace.id(), offset)? else { return Ok(None) };
        match self.shared(partition).recent.read().sealed_at(base) {
            Some(sealed) => self.sealed(partition, sealed).map(Some),
            None => Ok(None),
        }
    }

    /// A sealed segment, opened if it is not.
    pub(crate) fn sealed(&self, partition: u16, sealed: Sealed) -> Result<SharedSegment, ReadError> {
        let open = || self.open_sealed(partition, sealed, Check::Header);
        self.segments.get_or_insert_with(&(partition, sealed.base), open)
    }

    fn open_sealed(&self, partition: u16, sealed: Sealed, check: Check) -> Result<SharedSegment, ReadError> {
        sealed::open(&*self.storage, &self.partition_dir(partition), partition, sealed, check).map(Arc::new)
    }

    /// Opens a sealed segment anew in which something was not as it must be, checking all of its index.
    pub(crate) fn reopen(&self, partition: u16, base: Position) -> Result<(), ReadError> {
        self.segments.remove(&(partition, base));
        let sealed = self.shared(partition).recent.read().sealed_at(base);
        if let Some(sealed) = sealed {
            let segment = self.open_sealed(partition, sealed, Check::Whole)?;
            self.segments.insert((partition, base), segment);
        }
        Ok(())
    }

    fn close(&self) {
        for partition in &self.partitions {
            partition.queue.close();
        }
        let threads = std::mem::take(&mut *self.threads.lock());
        if threads.is_empty() {
            return;
        }
        for thread in threads {
            if thread.join().is_err() {
                warn!("a thread of the log ended in a panic");
            }
        }
        for partition in &self.partitions {
            partition.shared.followers.wake_all();
        }
        if let Err(error) = self.rows.flush() {
            warn!(%error, "the rows could not be flushed, the next start replays more");
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.close();
    }
}

impl Partition {
    async fn ask<T>(&self, request: impl FnOnce(Reply<T>) -> Request) -> Result<T, AppendError> {
        if let Some(reason) = self.shared.failure() {
            return Err(AppendError::PartitionFailed(reason.to_owned()));
        }
        let (reply, answer) = oneshot::channel();
        self.queue.push(request(reply))?;
        // No answer means that the sequencer ended before it came to this request.
        answer.await.unwrap_or(Err(AppendError::Closed))
    }
}

/// Puts a partition together that has been recovered: what its readers and writers see of it, and
/// what its threads do.
fn assemble(
    recovered: Recovered,
    dir: PathBuf,
    id: u16,
    rows: &Arc<Rows>,
    storage: &Arc<dyn Storage>,
    clock: &Arc<dyn Clock>,
    options: &Options,
) -> (Partition, Turn) {
    let Recovered { sealed, active, full, state } = recovered;
    let watermark = Watermark { position: state.end(), records: state.records() };
    let (end, file) = (active.end, active.file.clone());
    let shared = Arc::new(Shared::new(id, Recent::new(sealed, active, options.tail_bytes), watermark));
    let segment_bytes = options.segment_bytes;
    let (keeper, chores) =
        keeper(Arc::clone(storage), dir.clone(), segment_bytes, Arc::clone(&shared), Arc::clone(rows));
    let journal = LocalJournal {
        storage: Arc::clone(storage),
        dir,
        segment_bytes,
        active: file,
        end,
        full,
        shared: Arc::clone(&shared),
        keeper,
        clock: Arc::clone(clock),
        metrics: JournalMetrics::new(id),
    };
    let sequencer = Sequencer {
        state,
        journal: Box::new(journal),
        shared: Arc::clone(&shared),
        clock: Arc::clone(clock),
        commit: Commit::default(),
        gather: options.gather,
        rows_behind: false,
    };
    let queue = Arc::new(Queue::new(options.max_waiting_bytes));
    (Partition { shared, queue: Arc::clone(&queue) }, Turn { queue, sequencer, chores })
}

/// Checks a batch against what its namespace is configured to take.
fn check_sizes(namespace: &Namespace, append: &Append) -> Result<(), AppendError> {
    let limit = namespace.config().max_record_bytes;
    if limit as usize >= MAX_RECORD_BYTES {
        return Ok(());
    }
    let sizes = append.draft.records().map(|record| {
        let headers: usize = record.headers.map(|(name, value)| name.len() + value.len()).sum();
        record.key.map_or(0, str::len) + headers + record.value.len()
    });
    match sizes.max() {
        Some(bytes) if bytes > limit as usize => Err(AppendError::RecordTooLarge { bytes, limit }),
        _ => Ok(()),
    }
}
