//! What the benches share: batches to append, and a log on the disk to append them to.
//!
//! `cargo bench -p benches` measures frames, appends, replay and the stores by themselves;
//! `compare.py` and `load` measure the broker as a whole, beside its peers and what the machine can do.
#![allow(clippy::unwrap_used, reason = "a bench that can't be made should stop")]

use std::path::Path;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use tempfile::TempDir;
use tlog::{Append, Clock, Disk, Log, Namespace, Options};
use tokio::runtime::Runtime;
use wire::{Draft, DraftBuilder, NamespaceConfig, NamespaceName, NewRecord};

/// Bytes of each value.
pub const VALUE_BYTES: usize = 256;

/// Records in a batch.
pub const BATCH_RECORDS: usize = 1_000;

/// The time as the system tells it.
#[derive(Debug)]
struct SystemClock(Instant);

impl Clock for SystemClock {
    fn now_micros(&self) -> i64 {
        SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_micros() as i64)
    }

    fn monotonic_nanos(&self) -> u64 {
        self.0.elapsed().as_nanos() as u64
    }
}

/// A log in a folder that is removed with it.
#[derive(Debug)]
pub struct BenchLog {
    /// The log.
    pub log: Log,
    /// Its data folder.
    pub folder: TempDir,
    /// What to await its calls on.
    pub runtime: Runtime,
}

fn open(folder: &Path) -> Log {
    Log::open(folder, Arc::new(Disk), Arc::new(SystemClock(Instant::now())), Options::default()).unwrap()
}

impl BenchLog {
    /// An empty log with the default options, in a new folder under `parent`. That should be on a disk: where a
    /// temporary folder is memory, a sync costs nothing.
    pub fn under(parent: &str) -> BenchLog {
        let folder = TempDir::new_in(parent).unwrap();
        let log = open(folder.path());
        BenchLog { log, folder, runtime: Runtime::new().unwrap() }
    }

    /// A namespace, created where it does not exist.
    pub fn namespace(&self, name: &str) -> Namespace {
        let name = NamespaceName::new(name).unwrap();
        self.runtime.block_on(self.log.create(&name, NamespaceConfig::default())).unwrap().namespace
    }

    /// Appends batches of [`BATCH_RECORDS`] records to a namespace. Each record has one of `keys` keys; 0 for none.
    pub fn fill(&self, namespace: &Namespace, batches: usize, keys: usize) {
        self.runtime.block_on(async {
            for index in 0..batches {
                append(&self.log, namespace, batch(index, BATCH_RECORDS, keys)).await;
            }
        });
    }
}

impl Drop for BenchLog {
    fn drop(&mut self) {
        self.log.close();
    }
}

/// Appends a batch, and waits until it is durable.
pub async fn append(log: &Log, namespace: &Namespace, draft: Draft) {
    log.append(namespace, Append { draft, producer: None, if_next_offset: None }).await.unwrap();
}

/// A batch whose values differ from those of any other `index`.
pub fn batch(index: usize, records: usize, keys: usize) -> Draft {
    let mut builder = DraftBuilder::with_capacity(records * (VALUE_BYTES + 64));
    let mut value = vec![b'v'; VALUE_BYTES];
    for n in index * records..(index + 1) * records {
        value[..8].copy_from_slice(&n.to_le_bytes());
        let key = (keys > 0).then(|| format!("key {:08}", n.wrapping_mul(2_654_435_761) % keys));
        let record = NewRecord::bytes(&value);
        builder.push(&key.as_deref().map_or(record, |key| record.with_key(key))).unwrap();
    }
    builder.finish().unwrap()
}
