//! What the stores do when the log can't be read: they try again, and skip nothing.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use consumers::Stores;
use support::{Ticks, append, create, settled, until};
use tempfile::TempDir;
use tlog::storage::{File, Lock};
use tlog::{Log, Memory, Options, Storage};
use wire::NewRecord;

/// Memory whose reads fail as often as they are told to.
#[derive(Debug, Clone, Default)]
struct Unreadable {
    memory: Memory,
    failures: Arc<AtomicU32>,
}

#[derive(Debug)]
struct UnreadableFile {
    file: Arc<dyn File>,
    failures: Arc<AtomicU32>,
}

impl Unreadable {
    fn wrap(&self, file: Arc<dyn File>) -> Arc<dyn File> {
        Arc::new(UnreadableFile { file, failures: Arc::clone(&self.failures) })
    }
}

impl Storage for Unreadable {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.memory.create_dir(dir)
    }
    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
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

impl File for UnreadableFile {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let left = |failures: u32| failures.checked_sub(1);
        match self.failures.fetch_update(Ordering::Relaxed, Ordering::Relaxed, left) {
            Ok(_) => Err(io::Error::other("the disk is tired")),
            Err(_) => self.file.read_at(buffer, offset),
        }
    }
    fn write_at(&self, buffers: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        self.file.write_at(buffers, offset)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }
    fn allocate(&self, length: u64) -> io::Result<()> {
        self.file.allocate(length)
    }
    fn truncate(&self, length: u64) -> io::Result<()> {
        self.file.truncate(length)
    }
}

#[tokio::test]
async fn what_can_not_be_read_is_tried_again_and_not_skipped() {
    let dir = TempDir::new().unwrap();
    let storage = Unreadable::default();
    // No frame is kept in memory, so that every read is one of a file.
    let options = Options { partitions: 1, tail_bytes: 0, segment_bytes: 16 << 10, ..Options::default() };
    let log_dir = dir.path().join("log");
    let log = Log::open(&log_dir, Arc::new(storage.clone()), Arc::new(Ticks::default()), options).unwrap();
    let namespace = create(&log, "tired").await;
    for value in 0..1_000 {
        append(&log, &namespace, &[NewRecord::text(&value.to_string()).with_key("k")]).await;
    }
    storage.failures.store(3, Ordering::Relaxed);
    let stores = Stores::open(dir.path(), log.clone()).unwrap();
    until(|| storage.failures.load(Ordering::Relaxed) == 0).await;
    settled(&stores).await;
    assert_eq!(stores.states().unwrap().iter().map(|state| state.objects).sum::<u64>(), 1_000);
    assert_eq!(stores.latest(&namespace, "k").unwrap().unwrap().record().unwrap().offset, 999);
}

#[tokio::test]
async fn stores_that_can_not_go_on_say_so_by_their_lag_and_still_close() {
    let dir = TempDir::new().unwrap();
    let storage = Unreadable::default();
    let options = Options { partitions: 1, tail_bytes: 0, segment_bytes: 16 << 10, ..Options::default() };
    let log_dir = dir.path().join("log");
    let log = Log::open(&log_dir, Arc::new(storage.clone()), Arc::new(Ticks::default()), options).unwrap();
    let namespace = create(&log, "stuck").await;
    for value in 0..1_000 {
        append(&log, &namespace, &[NewRecord::text(&value.to_string())]).await;
    }
    storage.failures.store(u32::MAX, Ordering::Relaxed);
    let stores = Stores::open(dir.path(), log.clone()).unwrap();
    until(|| storage.failures.load(Ordering::Relaxed) < u32::MAX - 1).await;
    assert!(stores.states().unwrap().iter().all(|state| state.lag > 0));
    stores.close();
    assert!(stores.states().unwrap().iter().all(|state| state.lag > 0));
}
