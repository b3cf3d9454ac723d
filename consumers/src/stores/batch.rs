//! A batch of rows: what some frames make of the stores, and the offset row that belongs to it.

use std::sync::atomic::Ordering;

use rocksdb::{DB, WriteBatch};
use wire::limits::SHARDS;
use wire::{Kind, NamespaceId, ObjectId, Record, Shard};

use crate::database::Database;
use crate::offsets::{Consumer, OffsetRow};
use crate::stores::error::StoresError;
use crate::stores::ring::Partition;
use crate::stores::rows;
use crate::stores::shards::ShardSet;

/// What the rows of a record take beside its bytes and its key, at most: their keys and headers,
/// offset and time, counters.
const ROW_BYTES: usize = 80;

/// Most objects that a namespace may have in a store to be deleted one by one. Above that a range is
/// deleted: RocksDB keeps few ranges well and many badly, and there may be many small namespaces.
const FEW_OBJECTS: u32 = 128;

/// Rows of one partition that are written together.
pub(crate) struct Batch {
    rows: WriteBatch,
    /// By how many objects each store grows, or shrinks.
    growth: [i64; SHARDS],
    key: Vec<u8>,
    value: Vec<u8>,
}

impl Batch {
    /// An empty batch, with room for these records.
    pub(crate) fn with_room(records: &[Record<'_>]) -> Batch {
        let room = |record: &Record<'_>| ROW_BYTES + record.encoded.len() + record.key.map_or(0, str::len);
        Batch {
            rows: WriteBatch::with_capacity_bytes(records.iter().map(room).sum()),
            growth: [0; SHARDS],
            key: Vec::new(),
            value: Vec::new(),
        }
    }

    /// Adds records, in the order of their ids.
    ///
    /// Of one store and namespace that is the order of the log too, so the latest object of a key is
    /// the last one put. Between them the order is free, and this one is near that of the rows: who
    /// walks the memtable finds each place near the one before.
    pub(crate) fn add(&mut self, records: &[Record<'_>]) {
        let place = |record: &Record<'_>| (record.id.shard(), record.id.namespace());
        for records in records.chunk_by(|a, b| place(a) == place(b)) {
            records.iter().for_each(|record| self.add_record(record));
            self.growth[usize::from(place(&records[0]).0.0)] += records.len() as i64;
        }
    }

    fn add_record(&mut self, record: &Record<'_>) {
        let id = record.id;
        rows::put_object(&mut self.value, record);
        self.rows.put(rows::object(id), &self.value);
        let Some(key) = record.key else { return };
        rows::latest(&mut self.key, id.shard(), id.namespace(), key.as_bytes());
        match record.kind {
            Kind::Tombstone if mutant!(ForgetTombstones) => {}
            Kind::Tombstone => self.rows.delete(&self.key),
            _ => self.rows.put(&self.key, id.counter().to_le_bytes()),
        }
    }

    /// Notes that records of a namespace were lost: its counters in these stores have holes from here on,
    /// or may have.
    pub(crate) fn add_lost(&mut self, namespace: NamespaceId, shards: ShardSet) {
        shards.iter().for_each(|shard| self.rows.put(rows::lossy(shard, namespace), b""));
    }

    /// Takes a namespace out of these stores. All its records must have been written.
    pub(crate) fn forget(&mut self, db: &DB, namespace: NamespaceId, shards: ShardSet) -> Result<(), StoresError> {
        let mut found = db.raw_iterator();
        for shard in shards.iter() {
            let lossy = rows::lossy(shard, namespace);
            let is_lossy = db.get_pinned(lossy)?.is_some();
            if is_lossy {
                self.rows.delete(lossy);
            }
            // Where none was lost there is a first object if there is any. Of a small namespace most stores have
            // none, which a filter knows.
            if !is_lossy && db.get_pinned(rows::object(ObjectId::new(shard, namespace, 1)))?.is_none() {
                continue;
            }
            found.seek_for_prev(rows::object(ObjectId::new(shard, namespace, u32::MAX)));
            let of_namespace = rows::objects_of(shard, namespace);
            let Some(key) = found.key().filter(|key| key.starts_with(&of_namespace)) else {
                found.status()?;
                continue;
            };
            let last = rows::counter_of(key).ok_or_else(|| StoresError::damaged(key, "it is no object's"))?;
            let objects = if is_lossy { count(db, &of_namespace)? } else { i64::from(last) };
            self.growth[usize::from(shard.0)] -= objects;
            let latest = rows::latest_of(shard, namespace);
            if mutant!(KeepDeletedRows) {
                continue;
            }
            if last > FEW_OBJECTS {
                if !mutant!(KeepManyObjects) {
                    delete_prefix(&mut self.rows, &of_namespace);
                }
                delete_prefix(&mut self.rows, &latest);
                continue;
            }
            for counter in 1..=last {
                self.rows.delete(rows::object(ObjectId::new(shard, namespace, counter)));
            }
            found.seek(latest);
            while let Some(key) = found.key().filter(|key| key.starts_with(&latest)) {
                self.rows.delete(key);
                found.next();
            }
            found.status()?;
        }
        Ok(())
    }

    /// Writes the batch, with the offset row that it brings the consumer to (invariant 8).
    pub(crate) fn write(
        mut self,
        db: &Database,
        partition: &Partition,
        consumer: Consumer,
        offset: &OffsetRow,
    ) -> Result<(), StoresError> {
        let grown: Vec<_> = (0..=u8::MAX)
            .map(Shard)
            .zip(self.growth)
            .filter(|(_, growth)| *growth != 0)
            .map(|(shard, growth)| {
                (shard, partition.objects(shard).load(Ordering::Relaxed).saturating_add_signed(growth))
            })
            .collect();
        for (shard, objects) in &grown {
            self.rows.put(rows::objects(*shard, partition.id), objects.to_le_bytes());
        }
        let apart = [mutant!(OffsetRowBeforeState), mutant!(StateBeforeOffsetRow)];
        let offset_alone = || {
            let mut rows = WriteBatch::default();
            offset.put(&mut rows, consumer, partition.id);
            db.write(rows)
        };
        if apart[0] {
            offset_alone()?;
        }
        if apart == [false; 2] {
            offset.put(&mut self.rows, consumer, partition.id);
        }
        db.write(self.rows)?;
        if apart[1] {
            offset_alone()?;
        }
        for (shard, objects) in grown {
            partition.objects(shard).store(objects, Ordering::Relaxed);
        }
        Ok(())
    }
}

/// How many rows have keys that begin with `prefix`.
fn count(db: &DB, prefix: &[u8]) -> Result<i64, StoresError> {
    let mut rows = db.raw_iterator();
    rows.seek(prefix);
    let mut count = 0;
    while rows.key().is_some_and(|key| key.starts_with(prefix)) {
        count += 1;
        rows.next();
    }
    rows.status()?;
    Ok(count)
}

/// Deletes all rows whose keys begin with `prefix`.
pub(crate) fn delete_prefix(rows: &mut WriteBatch, prefix: &[u8]) {
    if let Some(behind) = rows::behind(prefix) {
        rows.delete_range(prefix, &behind);
    }
}
