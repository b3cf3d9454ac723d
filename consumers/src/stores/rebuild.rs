//! Wiping one store and making it again from the log, while the other 255 serve.
//!
//! ```text
//!  rebuild(shard): with all turns held, in one batch
//!     − the store's rows
//!     + its row 'r': reads answer that it is being rebuilt
//!     + an offset row at 0 in each partition: the live readers leave the store alone
//!  then, in the background, partition by partition
//!     apply from the offset row on, to this store only, as far as the live reader has come
//!     with its turn held: the rest, then − the offset row: the live reader applies the store again
//!  at last − its row 'r'
//! ```
//!
//! Who applies a partition to a store is said by the offset row alone: the rebuild while there is
//! one, else the live reader. It changes only while the turn is held, when both stand at the same
//! position, so no record is lost, applied twice or applied out of order. The rows are in the same
//! batches as the state, so all of this holds after a crash too: opening finds the rows and goes on.

use std::sync::atomic::Ordering;

use rocksdb::WriteBatch;
use tracing::{error, info, warn};
use wire::Shard;

use crate::insist::insist;
use crate::offsets::{Consumer, OffsetRow};
use crate::stores::apply::Applier;
use crate::stores::batch::delete_prefix;
use crate::stores::error::StoresError;
use crate::stores::metrics;
use crate::stores::ring::{Partition, Ring};
use crate::stores::rows;
use crate::stores::shards::ShardSet;

/// How near the live reader a rebuild comes before it takes its turn: bytes of frames, so a few
/// milliseconds of the live reader's time.
const HANDOVER_BYTES: u64 = 2 << 20;

impl Ring {
    /// Wipes a store, and has it rebuilt.
    ///
    /// Where that is already under way nothing changes: it was wiped when that began, and what it
    /// holds now comes from the log.
    pub(crate) fn begin_rebuild(&self, shard: Shard) -> Result<(), StoresError> {
        let mut rebuilding = self.rebuilding.lock();
        if self.stop.is_cancelled() {
            return Err(StoresError::Closed);
        }
        if rebuilding.contains(shard) {
            return Ok(());
        }
        // Only one that holds `rebuilding` takes more than one turn, so this can't lock up.
        let mut turns: Vec<_> = self.partitions.iter().map(|partition| partition.turn.lock()).collect();
        let mut rows = WriteBatch::default();
        if !mutant!(RebuildOverOld) {
            delete_prefix(&mut rows, &rows::store(shard));
        }
        rows.put(rows::rebuilding(shard), b"");
        for partition in &self.partitions {
            OffsetRow::START.put(&mut rows, Consumer::Rebuild(shard), partition.id);
        }
        self.whole(shard).begin_rebuild();
        self.db.write(rows)?;
        for (turn, partition) in turns.iter_mut().zip(&self.partitions) {
            turn.rebuilding.insert(shard);
            partition.objects(shard).store(0, Ordering::Relaxed);
        }
        rebuilding.insert(shard);
        drop(turns);
        info!(%shard, "the store is wiped, and will be rebuilt from the log");
        self.rebuild.notify_one();
        // So that a crash does not undo what was answered to have begun.
        if let Err(error) = self.flush() {
            warn!(%shard, %error, "that the store is to be rebuilt is not saved yet");
        }
        Ok(())
    }

    /// The store that is rebuilt now, if any is.
    pub(crate) fn next_rebuild(&self) -> Option<Shard> {
        self.rebuilding.lock().iter().next()
    }

    fn flush(&self) -> Result<(), StoresError> {
        // A process that has ended at its last write saves nothing any more.
        if mutant!(RebuildNotSaved) || self.db.has_ended() {
            return Ok(());
        }
        Ok(self.db.flush()?)
    }
}

/// Rebuilds what is to be rebuilt, one store after another, until the stores are closed.
pub(crate) fn run(ring: &Ring) {
    let errors = metrics::errors("rebuild");
    loop {
        match ring.next_rebuild() {
            Some(shard) => insist(
                &ring.stop,
                || Rebuild { ring, shard }.run(),
                |error| {
                    errors.increment(1);
                    error!(%shard, %error, "the store can't be rebuilt, and is tried again");
                },
            ),
            None => {
                let _ = ring.wait(ring.rebuild.notified());
            }
        }
        if ring.stop.is_cancelled() {
            return;
        }
    }
}

/// A store's rebuild, which stands where the store's rows say.
pub(crate) struct Rebuild<'a> {
    pub(crate) ring: &'a Ring,
    pub(crate) shard: Shard,
}

impl Rebuild<'_> {
    /// Rebuilds the store. Returns early where the stores are closed.
    fn run(&self) -> Result<(), StoresError> {
        while !self.ring.stop.is_cancelled() && !self.step(self.ring.batch_bytes())? {}
        Ok(())
    }

    /// Does what comes next, with about `max_bytes` of frames at a time. Whether the store is whole.
    pub(crate) fn step(&self, max_bytes: usize) -> Result<bool, StoresError> {
        for partition in &self.ring.partitions {
            if let Some(offset) = OffsetRow::read(&self.ring.db, Consumer::Rebuild(self.shard), partition.id)? {
                self.apply(partition, offset, max_bytes)?;
                return Ok(false);
            }
        }
        let mut rows = WriteBatch::default();
        rows.delete(rows::rebuilding(self.shard));
        self.ring.db.write(rows)?;
        self.ring.whole(self.shard).end_rebuild();
        self.ring.rebuilding.lock().remove(self.shard);
        info!(shard = %self.shard, "the store is rebuilt");
        Ok(true)
    }

    /// Brings the store nearer to where a partition's live reader is, or hands over to that reader.
    fn apply(&self, partition: &Partition, mut offset: OffsetRow, max_bytes: usize) -> Result<(), StoresError> {
        let consumer = Consumer::Rebuild(self.shard);
        let applier = Applier { db: &self.ring.db, partition, consumer, shards: ShardSet::only(self.shard) };
        let live = partition.applied.borrow().position;
        if live.saturating_sub(offset.position) > HANDOVER_BYTES.min(max_bytes as u64) {
            return applier.advance(self.ring, max_bytes, live, &mut offset);
        }
        let mut turn = partition.turn.lock();
        let end = match () {
            () if mutant!(HandOverEarly) => turn.offset.frame,
            () if mutant!(HandOverLate) => self.ring.log.watermark(partition.id).borrow().position,
            () => turn.offset.position,
        };
        while offset.position < end {
            applier.advance(self.ring, max_bytes, end, &mut offset)?;
        }
        let mut rows = WriteBatch::default();
        rows.delete(consumer.key(partition.id));
        self.ring.db.write(rows)?;
        turn.rebuilding.remove(self.shard);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use rocksdb::IteratorMode;
    use tempfile::TempDir;
    use tlog::{Append, Clock, Log, Memory, Namespace, Options};
    use wire::{Draft, NamespaceConfig, NamespaceName, NewRecord, Record};

    use super::*;
    use crate::stores::live::Live;
    use crate::stores::options::OPEN_TABLES;
    use crate::stores::range::KeyRange;
    use crate::stores::read::NotInMemory;

    #[derive(Debug)]
    struct StoppedClock;

    impl Clock for StoppedClock {
        fn now_micros(&self) -> i64 {
            0
        }
        fn monotonic_nanos(&self) -> u64 {
            0
        }
    }

    /// A namespace in each of two partitions.
    async fn log(dir: &Path) -> (Log, [Namespace; 2]) {
        let options = Options { partitions: 2, ..Options::default() };
        let log = Log::open(dir, Arc::new(Memory::new()), Arc::new(StoppedClock), options).unwrap();
        let mut found = [None, None];
        for name in (0..).map(|index: u32| index.to_string()) {
            let created = log.create(&NamespaceName::new(&name).unwrap(), NamespaceConfig::default()).await.unwrap();
            let partition = created.namespace.id().partition(2);
            found[usize::from(partition)] = Some(created.namespace);
            if let [Some(a), Some(b)] = &found {
                return (log, [a.clone(), b.clone()]);
            }
        }
        unreachable!("some name is of each partition")
    }

    /// Publishes to both, so that every store gets some.
    async fn publish(log: &Log, namespaces: &[Namespace], value: &str) {
        for namespace in namespaces {
            for key in 0..700 {
                let draft = Draft::of(&NewRecord::text(value).with_key(&key.to_string())).unwrap();
                log.append(namespace, Append::new(draft)).await.unwrap();
            }
        }
    }

    /// Does what the live readers do, as far as the log goes now.
    fn live(ring: &Ring) {
        for partition in &ring.partitions {
            while Live::new(ring, partition).step(10_000).unwrap().is_some() {}
        }
    }

    type Row = (Box<[u8]>, Box<[u8]>);

    fn rows_of(ring: &Ring, shard: Shard) -> Vec<Row> {
        let rows = ring.db.iterator(IteratorMode::Start).map(|row| row.unwrap());
        rows.filter(|(key, _)| key.starts_with(&rows::store(shard))).collect()
    }

    /// A key of that store.
    fn key_of(shard: Shard) -> String {
        (0..700).map(|key: u32| key.to_string()).find(|key| Shard::of(Some(key), b"") == shard).unwrap()
    }

    /// The value of a key of that store. What was read is in memory, so it is found there too.
    fn read(ring: &Ring, namespace: &Namespace, of: Shard) -> Result<String, StoresError> {
        let key = key_of(of);
        let latest = ring.view().latest(namespace.id(), &key);
        let in_memory = ring.latest_in_memory(namespace.id(), &key);
        assert_eq!(in_memory.as_ref().ok(), latest.as_ref().ok());
        let latest = latest?.unwrap();
        let by_id = ring.view().object(latest.id())?.unwrap();
        assert_eq!(latest, by_id);
        let Record { value, .. } = latest.record()?;
        Ok(String::from_utf8(value.to_vec()).unwrap())
    }

    /// Reads without a snapshot, where a rebuild begins, ends, or does both, between two rows.
    #[tokio::test]
    async fn a_read_of_several_moments_is_of_a_store_that_was_whole() {
        let dir = TempDir::new().unwrap();
        let (log, namespaces) = log(&dir.path().join("log")).await;
        let ring = Ring::open(&dir.path().join("stores"), log.clone(), OPEN_TABLES).unwrap();
        publish(&log, &namespaces, "one").await;
        live(&ring);
        let (shard, other) = (Shard(0x3f), Shard(0x40));
        let rebuild = || Rebuild { ring: &ring, shard }.run().unwrap();
        let is_read = || ring.latest_in_memory(namespaces[0].id(), &key_of(shard)).is_ok();
        // Whether a read is answered in which that happens.
        let with = |meanwhile: &dyn Fn(), of: Shard| {
            let read = || {
                meanwhile();
                Some(())
            };
            ring.whole(of).throughout(read).is_some()
        };

        assert!(with(&|| assert!(is_read()), shard));
        assert!(!with(&|| ring.begin_rebuild(shard).unwrap(), shard), "a rebuild has begun");
        assert!(!with(&|| panic!("it is known not to be whole"), shard));
        assert!(with(&|| assert!(!is_read()), other), "the others serve");
        rebuild();
        assert!(with(&|| assert!(is_read()), shard), "it is whole again");
        let from_begin_to_end = || {
            ring.begin_rebuild(shard).unwrap();
            rebuild();
        };
        assert!(!with(&from_begin_to_end, shard), "it is whole again, and was not all the while");
        assert_eq!(read(&ring, &namespaces[0], shard).unwrap(), "one");

        // A wipe that fails leaves the store as it was, for those who look at the rows.
        ring.db.end_after(0);
        assert!(matches!(ring.begin_rebuild(shard), Err(StoresError::Closed)));
        assert!(!is_read());
        assert!(ring.view().latest(namespaces[0].id(), &key_of(shard)).unwrap().is_some());
    }

    #[tokio::test]
    async fn an_object_that_is_missing_is_left_to_who_sees_one_moment() {
        let dir = TempDir::new().unwrap();
        let (log, namespaces) = log(&dir.path().join("log")).await;
        let ring = Ring::open(&dir.path().join("stores"), log.clone(), OPEN_TABLES).unwrap();
        publish(&log, &namespaces, "one").await;
        live(&ring);
        let (namespace, key) = (namespaces[0].id(), key_of(Shard(0x3f)));
        let id = ring.latest_in_memory(namespace, &key).unwrap().unwrap().id();
        let mut batch = WriteBatch::default();
        batch.delete(rows::object(id));
        ring.db.write(batch).unwrap();
        assert_eq!(ring.latest_in_memory(namespace, &key), Err(NotInMemory));
        assert!(matches!(ring.view().latest(namespace, &key), Err(StoresError::Damaged { .. })));
    }

    #[tokio::test]
    async fn a_rebuild_step_by_step() {
        let dir = TempDir::new().unwrap();
        let (log, namespaces) = log(&dir.path().join("log")).await;
        let stores = dir.path().join("stores");
        let (shard, other) = (Shard(0x3f), Shard(0x40));
        let mut ring = Ring::open(&stores, log.clone(), OPEN_TABLES).unwrap();
        let state = |ring: &Ring, shard: Shard| ring.states().unwrap()[usize::from(shard.0)];
        publish(&log, &namespaces, "one").await;
        live(&ring);
        let objects = state(&ring, shard).objects;
        assert_eq!(read(&ring, &namespaces[0], shard).unwrap(), "one");

        ring.begin_rebuild(shard).unwrap();
        ring.begin_rebuild(shard).unwrap();
        assert!(matches!(read(&ring, &namespaces[0], shard), Err(StoresError::Rebuilding(of)) if of == shard));
        let range = ring.view().range(namespaces[0].id(), &KeyRange::default());
        assert!(matches!(range, Err(StoresError::Rebuilding(of)) if of == shard));
        assert_eq!(read(&ring, &namespaces[0], other).unwrap(), "one");
        let wiped = state(&ring, shard);
        assert_eq!((wiped.objects, wiped.rebuilding, rows_of(&ring, shard).len()), (0, true, 0));
        assert_eq!(wiped.lag, (0..2).map(|id| log.watermark(id).borrow().records).sum::<u64>());
        assert_eq!((state(&ring, other).lag, state(&ring, other).rebuilding), (0, false));

        publish(&log, &namespaces, "two").await;
        live(&ring);
        assert_eq!(rows_of(&ring, shard), [], "the live readers leave the store alone");
        assert_eq!(read(&ring, &namespaces[1], other).unwrap(), "two");

        let first = || OffsetRow::read(&ring.db, Consumer::Rebuild(shard), 0).unwrap();
        while first().is_some() {
            assert!(!Rebuild { ring: &ring, shard }.step(10_000).unwrap());
        }
        assert_eq!(state(&ring, shard).objects, objects, "half of it, twice");
        publish(&log, &namespaces, "three").await;
        live(&ring);
        assert_eq!(state(&ring, shard).objects, objects / 2 * 3, "one partition is live again");
        assert!(matches!(read(&ring, &namespaces[0], shard), Err(StoresError::Rebuilding(_))));

        // A crash: what was not flushed is lost, who applies what is not.
        ring.db.flush().unwrap();
        publish(&log, &namespaces, "four").await;
        live(&ring);
        drop(ring);
        ring = Ring::open(&stores, log.clone(), OPEN_TABLES).unwrap();
        assert!(matches!(read(&ring, &namespaces[0], shard), Err(StoresError::Rebuilding(_))));
        let left_alone: Vec<bool> =
            ring.partitions.iter().map(|partition| partition.turn.lock().rebuilding.contains(shard)).collect();
        assert_eq!(left_alone, [false, true]);
        live(&ring);
        Rebuild { ring: &ring, shard }.run().unwrap();
        publish(&log, &namespaces, "five").await;
        live(&ring);
        assert_eq!(read(&ring, &namespaces[0], shard).unwrap(), "five");
        assert_eq!(read(&ring, &namespaces[1], shard).unwrap(), "five");
        assert_eq!((state(&ring, shard).lag, state(&ring, shard).rebuilding), (0, false));

        let fresh = Ring::open(&dir.path().join("fresh"), log, OPEN_TABLES).unwrap();
        live(&fresh);
        for shard in [shard, other] {
            assert_eq!(rows_of(&ring, shard), rows_of(&fresh, shard));
        }
        assert_eq!(ring.states().unwrap(), fresh.states().unwrap());
    }
}
