//! What the stores' tests share: a log in memory, publishes of all kinds, and the rows on disk.
#![allow(dead_code, missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

pub mod groups;
pub mod rooms;

use std::io::IoSlice;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use consumers::{StoredRecord, Stores};
use rocksdb::{DB, IteratorMode, Options as RowOptions};
use tempfile::TempDir;
use tlog::storage::File;
use tlog::{Append, Clock, Driver, Log, Memory, Namespace, OpenError, Options, Storage};
use wire::loss::Known;
use wire::{DraftBuilder, Frame, Loss, NamespaceConfig, NamespaceName, NewRecord, Shard};

/// A clock that ticks when it is read.
#[derive(Debug, Default)]
pub struct Ticks(AtomicI64);

impl Clock for Ticks {
    fn now_micros(&self) -> i64 {
        self.0.fetch_add(1, Ordering::Relaxed)
    }

    fn monotonic_nanos(&self) -> u64 {
        self.now_micros().unsigned_abs()
    }
}

/// A log in memory that can be closed and opened again, and a folder for its rows and the stores.
pub struct Fixture {
    pub dir: TempDir,
    memory: Memory,
    options: Options,
}

impl Fixture {
    /// Two partitions, and segments so small that a few batches roll them.
    pub fn new() -> Fixture {
        Fixture::with(Options { partitions: 2, segment_bytes: 64 << 10, ..Options::default() })
    }

    pub fn with(options: Options) -> Fixture {
        Fixture { dir: TempDir::new().unwrap(), memory: Memory::new(), options }
    }

    pub fn log(&self) -> Log {
        self.open_log().unwrap()
    }

    fn open_log(&self) -> Result<Log, OpenError> {
        let storage = Arc::new(self.memory.clone());
        Log::open(&self.dir.path().join("log"), storage, Arc::new(Ticks::default()), self.options)
    }

    /// The log without threads: what is appended becomes durable when the driver is told to.
    pub fn driven(&self) -> (Log, Driver) {
        let storage = Arc::new(self.memory.clone());
        Log::open_driven(&self.dir.path().join("log"), storage, Arc::new(Ticks::default()), self.options).unwrap()
    }

    /// The log, once the last task has let go of it that still had it.
    pub async fn log_once_free(&self) -> Log {
        loop {
            match self.open_log() {
                Err(OpenError::Locked { .. }) => tokio::time::sleep(Duration::from_millis(1)).await,
                log => return log.unwrap(),
            }
        }
    }

    pub fn stores(&self, log: &Log) -> Stores {
        Stores::open(self.dir.path(), log.clone()).unwrap()
    }

    /// Puts losses where frames of the log stand, as `lose` says, and removes what is derived of the log.
    /// Nobody may have it open.
    pub fn lose(&self, lose: impl Fn(&Frame) -> Option<Loss>) {
        let dir = self.dir.path().join("log");
        for partition in 0..self.options.partitions {
            for path in self.memory.list(&dir.join(format!("partitions/{partition:03}"))).unwrap() {
                if path.extension().is_some_and(|extension| extension == "log") {
                    lose_in(&*self.memory.open(&path).unwrap(), &lose);
                } else {
                    self.memory.remove(&path).unwrap();
                }
            }
        }
        std::fs::remove_dir_all(dir.join("rows")).unwrap();
    }

    /// The stores' folder is gone.
    pub fn delete_stores(&self) {
        std::fs::remove_dir_all(self.dir.path().join("stores")).unwrap();
    }

    /// All rows of all stores, as they are on disk.
    pub fn rows(&self) -> Vec<Row> {
        rows(self.dir.path(), b"s")
    }

    /// All rows of a store, as they are on disk.
    pub fn rows_of(&self, shard: Shard) -> Vec<Row> {
        rows(self.dir.path(), &[b's', shard.0])
    }
}

fn lose_in(segment: &dyn File, lose: &impl Fn(&Frame) -> Option<Loss>) {
    let mut bytes = vec![0; segment.len().unwrap() as usize];
    segment.read_at(&mut bytes, 0).unwrap();
    let mut at = 64;
    while let Some(Ok(length)) = bytes.get(at..).filter(|rest| rest.len() >= 12).map(Frame::length) {
        let frame = Frame::decode(bytes[at..at + length].to_vec().into()).unwrap();
        if let Some(loss) = lose(&frame) {
            segment.write_at(&[IoSlice::new(loss.encode().unwrap().bytes())], at as u64).unwrap();
        }
        at += length;
    }
}

/// The loss of a frame, of which this is known.
pub fn loss_of(frame: &Frame, known: Known) -> Loss {
    Loss {
        position: frame.position(),
        length: frame.len(),
        namespace: frame.namespace(),
        generation: frame.generation(),
        base_offset: frame.base_offset(),
        count: frame.record_count(),
        time_micros: frame.time_micros(),
        known,
    }
}

/// A row: key and value.
pub type Row = (Vec<u8>, Vec<u8>);

/// The stores' rows on disk whose keys begin so. Nobody may have them open.
pub fn rows(dir: &Path, prefix: &[u8]) -> Vec<Row> {
    rows_in(&dir.join("stores"), prefix)
}

/// The rows in a folder whose keys begin so. Nobody may have them open.
pub fn rows_in(dir: &Path, prefix: &[u8]) -> Vec<Row> {
    let db = DB::open_for_read_only(&RowOptions::default(), dir, false).unwrap();
    let rows = db.iterator(IteratorMode::Start).map(|row| row.unwrap());
    rows.filter(|(key, _)| key.starts_with(prefix)).map(|(key, value)| (key.into(), value.into())).collect()
}

pub async fn create(log: &Log, name: &str) -> Namespace {
    log.create(&NamespaceName::new(name).unwrap(), NamespaceConfig::default()).await.unwrap().namespace
}

/// Appends records as one batch; returns the offset of the last.
pub async fn append(log: &Log, namespace: &Namespace, records: &[NewRecord<'_>]) -> u64 {
    let mut builder = DraftBuilder::default();
    records.iter().for_each(|record| builder.push(record).unwrap());
    let draft = builder.finish().unwrap();
    log.append(namespace, Append::new(draft)).await.unwrap().frame.next_offset() - 1
}

/// Appends records, in batches of a few, and waits until the stores have them.
pub async fn publish(log: &Log, stores: &Stores, namespace: &Namespace, records: &[NewRecord<'_>]) {
    for batch in records.chunks(7) {
        let last = append(log, namespace, batch).await;
        stores.wait_applied(namespace, last).await.unwrap();
    }
}

/// Waits until every store has seen all of the log, and none is being rebuilt.
pub async fn settled(stores: &Stores) {
    until(|| stores.states().unwrap().iter().all(|state| state.lag == 0 && !state.rebuilding)).await;
}

/// Waits for a condition.
pub async fn until(condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), wait).await.expect("the condition did not come about in time");
}

/// Key and value of a record.
pub fn text(stored: &StoredRecord) -> (Option<String>, String) {
    let record = stored.record().unwrap();
    (record.key.map(str::to_owned), String::from_utf8(record.value.to_vec()).unwrap())
}

/// Many records: keys that come again, tombstones among them, some records without a key.
pub struct Mixed(u64);

impl Mixed {
    pub fn new(seed: u64) -> Mixed {
        Mixed(seed | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Appends so many records to some of the namespaces.
    pub async fn publish(&mut self, log: &Log, namespaces: &[Namespace], batches: usize) {
        for _ in 0..batches {
            let namespace = &namespaces[self.next() as usize % namespaces.len()];
            let made: Vec<(u64, String, String)> = (0..=self.next() % 40)
                .map(|_| (self.next() % 10, format!("key {}", self.next() % 300), format!("value {}", self.next())))
                .collect();
            let records: Vec<NewRecord<'_>> = made
                .iter()
                .map(|(kind, key, value)| match kind {
                    0 => NewRecord::tombstone(key),
                    1 => NewRecord::text(value),
                    _ => NewRecord::text(value).with_key(key),
                })
                .collect();
            append(log, namespace, &records).await;
        }
    }
}
