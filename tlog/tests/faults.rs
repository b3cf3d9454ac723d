//! What the log does when its storage fails, and that no ack comes before its sync (invariants 1, 6).
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};
use support::{append, create, open, read_all, small, values};
use tlog::storage::{File, Lock};
use tlog::{AppendError, Memory, Options, Storage};

/// What the storage is told to do from now on.
#[derive(Debug, Default)]
struct Orders {
    fail_writes: bool,
    fail_syncs: bool,
    full: bool,
    /// Syncs wait until this is false.
    hold_syncs: bool,
    held: usize,
}

/// Memory that fails, fills up or stalls on command.
#[derive(Debug, Clone, Default)]
struct Faulty {
    memory: Memory,
    orders: Arc<(Mutex<Orders>, Condvar)>,
}

impl Faulty {
    fn order(&self, change: impl FnOnce(&mut Orders)) {
        change(&mut self.orders.0.lock());
        self.orders.1.notify_all();
    }

    fn wait_for_held_sync(&self) {
        let mut orders = self.orders.0.lock();
        while orders.held == 0 {
            self.orders.1.wait(&mut orders);
        }
    }

    fn wrap(&self, file: Arc<dyn File>) -> Arc<dyn File> {
        Arc::new(FaultyFile { file, orders: Arc::clone(&self.orders) })
    }
}

impl Storage for Faulty {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.memory.create_dir(dir)
    }
    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        if self.orders.0.lock().full {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(self.wrap(self.memory.create(path)?))
    }
    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        Ok(self.wrap(self.memory.open(path)?))
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        self.memory.list(dir)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.memory.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.memory.remove(path)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.memory.sync_dir(dir)
    }
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Lock>> {
        self.memory.lock(path)
    }
}

#[derive(Debug)]
struct FaultyFile {
    file: Arc<dyn File>,
    orders: Arc<(Mutex<Orders>, Condvar)>,
}

impl File for FaultyFile {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_at(buffer, offset)
    }
    fn write_at(&self, buffers: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        if self.orders.0.lock().fail_writes {
            return Err(io::Error::other("no write today"));
        }
        self.file.write_at(buffers, offset)
    }
    fn sync_data(&self) -> io::Result<()> {
        let mut orders = self.orders.0.lock();
        if orders.hold_syncs {
            orders.held += 1;
            self.orders.1.notify_all();
            while orders.hold_syncs {
                self.orders.1.wait(&mut orders);
            }
            orders.held -= 1;
        }
        if orders.fail_syncs {
            return Err(io::Error::other("no sync today"));
        }
        drop(orders);
        self.file.sync_data()
    }
    fn allocate(&self, length: u64) -> io::Result<()> {
        if self.orders.0.lock().full {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.file.allocate(length)
    }
    fn truncate(&self, length: u64) -> io::Result<()> {
        self.file.truncate(length)
    }
}

fn one_partition() -> Options {
    Options { partitions: 1, segment_bytes: 1 << 20, ..Options::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_ack_and_no_sight_of_a_record_before_its_sync_has_returned() {
    for writers in [1, 64] {
        let dir = tempfile::tempdir().unwrap();
        let storage = Arc::new(Faulty::default());
        let log = open(dir.path(), &storage, one_partition()).unwrap();
        let orders = create(&log, "orders").await;
        let before = *log.watermark(0).borrow();
        storage.order(|orders| orders.hold_syncs = true);
        let appends: Vec<_> = (0..writers)
            .map(|writer| {
                let (log, orders) = (log.clone(), orders.clone());
                tokio::spawn(async move { append(&log, &orders, &[&writer.to_string()]).await.unwrap() })
            })
            .collect();
        storage.wait_for_held_sync();
        // The bytes are written, the sync has not returned: nobody is told, nobody sees.
        assert!(appends.iter().all(|append| !append.is_finished()));
        assert_eq!(log.head(&orders).unwrap().next_offset, 0);
        assert!(log.reader(&orders, 0).unwrap().read_blocking(1).unwrap().is_empty());
        assert_eq!(*log.watermark(0).borrow(), before);
        storage.order(|orders| orders.hold_syncs = false);
        for append in appends {
            append.await.unwrap();
        }
        assert_eq!(read_all(&log, &orders).len(), writers);
    }
}

#[tokio::test]
async fn a_failed_write_or_sync_ends_writing_and_a_restart_recovers() {
    let failures: [fn(&mut Orders); 2] = [|orders| orders.fail_writes = true, |orders| orders.fail_syncs = true];
    for fail in failures {
        let dir = tempfile::tempdir().unwrap();
        let storage = Arc::new(Faulty::default());
        let log = open(dir.path(), &storage, one_partition()).unwrap();
        let orders = create(&log, "orders").await;
        append(&log, &orders, &["durable"]).await.unwrap();
        storage.order(fail);
        let failed = append(&log, &orders, &["unsure"]).await;
        assert!(matches!(failed, Err(AppendError::WriteFailed(_))), "{failed:?}");
        storage.order(|orders| *orders = Orders::default());
        // The storage works again, but what it holds is unknown: no write is tried (invariant 6).
        let refused = append(&log, &orders, &["later"]).await;
        assert!(matches!(refused, Err(AppendError::PartitionFailed(_))), "{refused:?}");
        assert!(log.failed_partition().is_some());
        assert_eq!(values(&read_all(&log, &orders)), ["durable"]);
        drop(log);
        let log = open(dir.path(), &storage, one_partition()).unwrap();
        append(&log, &orders, &["after"]).await.unwrap();
        let all = values(&read_all(&log, &orders));
        assert!(all == ["durable", "after"] || all == ["durable", "unsure", "after"], "{all:?}");
    }
}

#[tokio::test]
async fn a_full_storage_refuses_changes_nothing_and_works_again_when_there_is_space() {
    let dir = tempfile::tempdir().unwrap();
    let storage = Arc::new(Faulty::default());
    let log = open(dir.path(), &storage, small()).unwrap();
    let orders = create(&log, "orders").await;
    append(&log, &orders, &[&"v".repeat(3000)]).await.unwrap();
    storage.order(|orders| orders.full = true);
    let mut acked = 1;
    let refused = loop {
        match append(&log, &orders, &[&"v".repeat(3000)]).await {
            Ok(_) => acked += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, AppendError::StorageFull(_)), "{refused:?}");
    assert!(log.failed_partition().is_none());
    assert_eq!(read_all(&log, &orders).len(), acked);
    storage.order(|orders| orders.full = false);
    let next = append(&log, &orders, &[&"w".repeat(3000)]).await.unwrap();
    assert_eq!(next.frame.base_offset(), acked as u64);
    drop(log);
    let log = open(dir.path(), &storage, small()).unwrap();
    assert_eq!(read_all(&log, &orders).len(), acked + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_is_bounded_and_past_the_bound_an_append_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let storage = Arc::new(Faulty::default());
    let options = Options { max_waiting_bytes: wire::limits::MAX_FRAME_BYTES, ..one_partition() };
    let log = open(dir.path(), &storage, options).unwrap();
    let orders = create(&log, "orders").await;
    storage.order(|orders| orders.hold_syncs = true);
    let value = "v".repeat(1 << 20);
    let mut appends = Vec::new();
    // One is at the sync, some wait, and the next is refused.
    appends.push(tokio::spawn({
        let (log, orders) = (log.clone(), orders.clone());
        async move { append(&log, &orders, &["first"]).await }
    }));
    storage.wait_for_held_sync();
    for _ in 0..40 {
        let (log, orders, value) = (log.clone(), orders.clone(), value.clone());
        appends.push(tokio::spawn(async move { append(&log, &orders, &[&value]).await }));
    }
    let mut refused = 0;
    while refused == 0 {
        tokio::task::yield_now().await;
        refused = appends.iter().filter(|append| append.is_finished()).count();
    }
    storage.order(|orders| orders.hold_syncs = false);
    let mut stored = 0;
    for append in appends {
        match append.await.unwrap() {
            Ok(_) => stored += 1,
            Err(error) => assert!(matches!(error, AppendError::TooBusy), "{error:?}"),
        }
    }
    assert!(stored < 41);
    assert_eq!(read_all(&log, &orders).len(), stored);
}
