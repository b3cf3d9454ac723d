//! The ring of stores, as its threads share it.

use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::AtomicU64;
use std::thread::Thread;

use futures::executor::block_on;
use parking_lot::Mutex;
use tlog::{Log, Watermark};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use wire::limits::SHARDS;
use wire::{NamespaceId, Shard};

use crate::database::Database;
use crate::offsets::OffsetRow;
use crate::stores::shards::ShardSet;
use crate::stores::whole::Whole;

/// Frames that all partitions together may be applying, bytes.
const APPLYING_BYTES: usize = 16 << 20;

/// Frames that one partition applies at once, bytes: enough that what a batch costs by itself does
/// not count, and not so many that a batch takes long.
const BATCH_BYTES: [usize; 2] = [128 << 10, 4 << 20];

/// What the threads of the stores share.
#[derive(Debug)]
pub(crate) struct Ring {
    pub(crate) dir: PathBuf,
    pub(crate) db: Database,
    pub(crate) log: Log,
    pub(crate) partitions: Vec<Partition>,
    /// The stores that are being rebuilt, as their rows say. Taken before any turn.
    pub(crate) rebuilding: Mutex<ShardSet>,
    /// The same, for reads that take no lock. By shard.
    pub(crate) wholes: [Whole; SHARDS],
    /// Says that there is a store to rebuild.
    pub(crate) rebuild: Notify,
    pub(crate) stop: CancellationToken,
}

/// A partition of the log, as the stores follow it.
#[derive(Debug)]
pub(crate) struct Partition {
    pub(crate) id: u16,
    /// Held by who moves the partition's offset row or says who may write which of its rows.
    pub(crate) turn: Mutex<Turn>,
    /// Up to where the stores have it, but for those that are being rebuilt.
    pub(crate) applied: watch::Sender<Watermark>,
    /// Who applies it, to be unparked by those who wait.
    pub(crate) thread: OnceLock<Thread>,
    /// Objects that each store has of it. An entry is written by whoever applies that store's rows.
    pub(crate) objects: [AtomicU64; SHARDS],
}

/// How far a partition is applied, and to which stores.
#[derive(Debug)]
pub(crate) struct Turn {
    /// The stores' offset row.
    pub(crate) offset: OffsetRow,
    /// The stores that leave this partition to their rebuild.
    pub(crate) rebuilding: ShardSet,
}

impl Ring {
    /// The partition that holds a namespace.
    pub(crate) fn partition_of(&self, namespace: NamespaceId) -> &Partition {
        &self.partitions[usize::from(namespace.partition(self.partitions.len() as u16))]
    }

    /// Whether a store is whole.
    pub(crate) fn whole(&self, shard: Shard) -> &Whole {
        &self.wholes[usize::from(shard.0)]
    }

    /// Frames that a partition applies at once, bytes.
    pub(crate) fn batch_bytes(&self) -> usize {
        let [least, most] = BATCH_BYTES;
        (APPLYING_BYTES / self.partitions.len()).clamp(least, most)
    }

    /// Waits for a future, or for the stores to be closed: then nothing.
    pub(crate) fn wait<T>(&self, until: impl Future<Output = T>) -> Option<T> {
        block_on(self.stop.run_until_cancelled(until))
    }
}

impl Partition {
    pub(crate) fn new(id: u16, offset: OffsetRow, rebuilding: ShardSet) -> Partition {
        Partition {
            id,
            turn: Mutex::new(Turn { offset, rebuilding }),
            applied: watch::Sender::new(offset.watermark()),
            thread: OnceLock::new(),
            objects: [const { AtomicU64::new(0) }; SHARDS],
        }
    }

    /// The objects of a store that are of this partition.
    pub(crate) fn objects(&self, shard: Shard) -> &AtomicU64 {
        &self.objects[usize::from(shard.0)]
    }
}
