//! The log's rows in RocksDB: a materialized view of the frames, so that a head is found without
//! reading them. The folder can be deleted; it comes back from the segments.
//!
//! ```text
//! key                                  value
//! c  partition 2                       the partition's row, see [`PartitionRow`]
//! l  partition 2                       position u64: the sealed segments before it have their rows `s`
//! h  namespace 3                       its head, see [`crate::head`]
//! i  namespace 3                       generation u32, name length u16, name, configuration as JSON
//! n  name                              namespace 3
//! q  namespace 3, producer 16          the producer's state, see [`crate::producer`]
//! s  namespace 3, offset 8             base position u64 of the sealed segment in which that offset
//!                                      is the first of the namespace
//! ```
//!
//! Numbers in keys are big-endian, so that rows sort by them; in values little-endian.
//!
//! There is no write-ahead log: the segments are one. All rows are in one column family, so after a
//! crash the database holds a prefix of the batches that were written to it, and each batch carries
//! the position that it stands for. Recovery applies the frames from there on.

use std::path::{Path, PathBuf};
use std::{fs, io};

use parking_lot::Mutex;
use rocksdb::checkpoint::Checkpoint;
use rocksdb::{DB, Direction, IteratorMode, Options, WriteBatch, WriteOptions};
use wire::{NamespaceId, NamespaceName, Offset, Position, ProducerId};

use crate::control::config_json;
use crate::error::{OpenError, ReadError};
use crate::head::Head;
use crate::namespace::Namespace;
use crate::producer::ProducerState;
use crate::tables::table_options;

const WRITE_BUFFER_BYTES: usize = 16 << 20;
const BLOCK_CACHE_BYTES: usize = 32 << 20;

/// Tables that are kept open where no broker runs.
pub(crate) const OFFLINE_TABLES: usize = 64;

/// What RocksDB leaves of its limit of open files to what is no table.
const OTHER_FILES: usize = 10;
const MANIFEST_STEP_BYTES: usize = 64 << 10;

/// A row: its key and its value.
pub(crate) type Row = (Box<[u8]>, Box<[u8]>);

/// The rows of all partitions.
#[derive(Debug)]
pub(crate) struct Rows {
    db: DB,
    dir: PathBuf,
    locating: Mutex<()>,
}

/// What a partition's rows stand for, and what its sequencer needs beside the heads.
///
/// ```text
///  0  8  applied      the rows stand for all frames before this position
///  8  8  records      of all frames before it
/// 16  8  last time    of those frames, microseconds since the Unix epoch
/// 24  4  next slot    the next namespace id is slot × partitions + partition
/// 28     the head of the control stream
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PartitionRow {
    pub(crate) applied: Position,
    pub(crate) records: u64,
    pub(crate) last_time: i64,
    pub(crate) next_slot: u32,
    pub(crate) control: Head,
}

impl PartitionRow {
    /// The row of a partition without frames. Slot 0 of partition 0 is the control namespace.
    pub(crate) fn new(partition: u16) -> PartitionRow {
        let next_slot = u32::from(partition == 0);
        PartitionRow { applied: 0, records: 0, last_time: i64::MIN, next_slot, control: Head::empty(0) }
    }

    fn encode(&self) -> Vec<u8> {
        let mut row = Vec::new();
        row.extend_from_slice(&self.applied.to_le_bytes());
        row.extend_from_slice(&self.records.to_le_bytes());
        row.extend_from_slice(&self.last_time.to_le_bytes());
        row.extend_from_slice(&self.next_slot.to_le_bytes());
        row.extend_from_slice(&self.control.encode());
        row
    }

    fn decode(row: &[u8]) -> Option<PartitionRow> {
        let (applied, rest) = row.split_first_chunk::<8>()?;
        let (records, rest) = rest.split_first_chunk::<8>()?;
        let (last_time, rest) = rest.split_first_chunk::<8>()?;
        let (next_slot, rest) = rest.split_first_chunk::<4>()?;
        Some(PartitionRow {
            applied: u64::from_le_bytes(*applied),
            records: u64::from_le_bytes(*records),
            last_time: i64::from_le_bytes(*last_time),
            next_slot: u32::from_le_bytes(*next_slot),
            control: Head::decode(rest)?,
        })
    }
}

fn namespace_key(tag: u8, namespace: NamespaceId) -> [u8; 4] {
    let [a, b, c] = namespace.to_be_bytes();
    [tag, a, b, c]
}

fn partition_key(tag: u8, partition: u16) -> [u8; 3] {
    let [a, b] = partition.to_be_bytes();
    [tag, a, b]
}

fn name_key(name: &str) -> Vec<u8> {
    [b"n", name.as_bytes()].concat()
}

fn producer_key(namespace: NamespaceId, producer: ProducerId) -> Vec<u8> {
    [&namespace_key(b'q', namespace)[..], &producer.0].concat()
}

fn segment_key(namespace: NamespaceId, offset: Offset) -> [u8; 12] {
    let mut key = [0; 12];
    key[..4].copy_from_slice(&namespace_key(b's', namespace));
    key[4..].copy_from_slice(&offset.to_be_bytes());
    key
}

fn options(open_tables: usize) -> Options {
    let mut options = Options::default();
    options.set_write_buffer_size(WRITE_BUFFER_BYTES);
    options.set_max_open_files(i32::try_from(open_tables + OTHER_FILES).unwrap_or(i32::MAX));
    options.set_keep_log_file_num(2);
    // The rows are small and opened at each start: what RocksDB would set aside for large ones costs more.
    options.set_manifest_preallocation_size(MANIFEST_STEP_BYTES);
    options.set_max_file_opening_threads(1);
    options.set_skip_stats_update_on_db_open(true);
    options.set_compression_type(rocksdb::DBCompressionType::Lz4);
    options.set_block_based_table_factory(&table_options(BLOCK_CACHE_BYTES));
    options
}

impl Rows {
    /// Opens the rows of a data folder, making them where there are none; so many of their files are kept open.
    pub(crate) fn open(dir: &Path, open_tables: usize) -> Result<Rows, OpenError> {
        let mut options = options(open_tables);
        options.create_if_missing(true);
        let db = DB::open(&options, dir).map_err(|source| OpenError::Rows { dir: dir.to_owned(), source })?;
        Ok(Rows { db, dir: dir.to_owned(), locating: Mutex::default() })
    }

    /// Opens the rows to read them, and changes nothing in their folder; nothing where there are none.
    pub(crate) fn open_to_read(dir: &Path) -> Result<Option<Rows>, OpenError> {
        if !dir.join("CURRENT").exists() {
            return Ok(None);
        }
        let db = DB::open_for_read_only(&options(OFFLINE_TABLES), dir, false);
        let db = db.map_err(|source| OpenError::Rows { dir: dir.to_owned(), source })?;
        Ok(Some(Rows { db, dir: dir.to_owned(), locating: Mutex::default() }))
    }

    /// The folder.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    fn get<T>(&self, key: &[u8], decode: impl FnOnce(&[u8]) -> Option<T>) -> Result<Option<T>, ReadError> {
        let Some(row) = self.db.get_pinned(key)? else { return Ok(None) };
        match decode(&row) {
            Some(value) => Ok(Some(value)),
            None => Err(not_one(key)),
        }
    }

    /// A partition's row.
    pub(crate) fn partition(&self, partition: u16) -> Result<Option<PartitionRow>, ReadError> {
        self.get(&partition_key(b'c', partition), PartitionRow::decode)
    }

    /// Before which position the partition's sealed segments are located.
    pub(crate) fn located(&self, partition: u16) -> Result<Position, ReadError> {
        let row = self.get(&partition_key(b'l', partition), |row| Some(u64::from_le_bytes(row.try_into().ok()?)))?;
        Ok(row.unwrap_or(0))
    }

    /// A namespace's head; nothing where there is no such namespace.
    pub(crate) fn head(&self, namespace: NamespaceId) -> Result<Option<Head>, ReadError> {
        self.get(&namespace_key(b'h', namespace), Head::decode)
    }

    /// The heads of all namespaces of a partition, by id.
    pub(crate) fn heads_of(
        &self,
        partition: u16,
        partitions: u16,
        mut visit: impl FnMut(NamespaceId, Head),
    ) -> Result<(), ReadError> {
        for row in self.db.iterator(IteratorMode::From(b"h", Direction::Forward)) {
            let (key, row) = row?;
            let Some(([b'h'], id)) = key.split_first_chunk().map(|(tag, id)| (*tag, id)) else { break };
            let id: Result<[u8; 3], _> = id.try_into();
            let head = id.ok().and_then(|id| Some((NamespaceId::from_be_bytes(id), Head::decode(&row)?)));
            let (id, head) = head.ok_or_else(|| not_one(&key))?;
            if id.partition(partitions) == partition {
                visit(id, head);
            }
        }
        Ok(())
    }

    /// Whether all rows can be read, and those are rows on which something rests.
    pub(crate) fn verify(&self) -> Result<(), ReadError> {
        for row in self.all() {
            let (key, row) = row?;
            let is_one = match key.first() {
                Some(b'c') => PartitionRow::decode(&row).is_some(),
                Some(b'h') => key.len() == 4 && Head::decode(&row).is_some(),
                Some(b'i') => key.len() == 4 && decode_namespace(NamespaceId::CONTROL, &row).is_some(),
                _ => true,
            };
            if !is_one {
                return Err(not_one(&key));
            }
        }
        Ok(())
    }

    /// All rows, by key.
    pub(crate) fn all(&self) -> impl Iterator<Item = Result<Row, ReadError>> {
        self.db.iterator(IteratorMode::Start).map(|row| Ok(row?))
    }

    /// A namespace by its id.
    pub(crate) fn namespace(&self, id: NamespaceId) -> Result<Option<Namespace>, ReadError> {
        self.get(&namespace_key(b'i', id), |row| decode_namespace(id, row))
    }

    /// A namespace by its name.
    pub(crate) fn namespace_named(&self, name: &str) -> Result<Option<Namespace>, ReadError> {
        match self.get(&name_key(name), |row| row.try_into().ok())? {
            Some(id) => self.namespace(NamespaceId::from_be_bytes(id)),
            None => Ok(None),
        }
    }

    /// Namespaces whose names begin with `prefix` and sort behind `after`, by name.
    pub(crate) fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<Namespace>, ReadError> {
        let prefix = name_key(prefix);
        let after = after.map(name_key);
        let start = after.as_ref().map_or(&prefix, |after| after.max(&prefix));
        let mut namespaces = Vec::new();
        for row in self.db.iterator(IteratorMode::From(start, Direction::Forward)) {
            let (key, id) = row?;
            if namespaces.len() == limit || !key.starts_with(&prefix) {
                break;
            }
            if after.as_ref().is_some_and(|after| key[..] <= after[..]) {
                continue;
            }
            let id = (*id).try_into().map_err(|_| ReadError::Rows("a row of a name is not one".to_owned()))?;
            // A namespace that is deleted right now may be gone already.
            namespaces.extend(self.namespace(NamespaceId::from_be_bytes(id))?);
        }
        Ok(namespaces)
    }

    /// A producer's state in a namespace.
    pub(crate) fn producer(
        &self,
        namespace: NamespaceId,
        producer: ProducerId,
    ) -> Result<Option<ProducerState>, ReadError> {
        self.get(&producer_key(namespace, producer), ProducerState::decode)
    }

    /// The sealed segment to look for `offset` in: the last whose first offset is not past it.
    pub(crate) fn segment_of(&self, namespace: NamespaceId, offset: Offset) -> Result<Option<Position>, ReadError> {
        let key = segment_key(namespace, offset);
        let Some(row) = self.db.iterator(IteratorMode::From(&key, Direction::Reverse)).next() else { return Ok(None) };
        let (found, base) = row?;
        if found[..4] != key[..4] {
            return Ok(None);
        }
        let base = (*base).try_into().map_err(|_| ReadError::Rows("a row of a segment is not one".to_owned()))?;
        Ok(Some(u64::from_le_bytes(base)))
    }

    /// The first offsets of a namespace's next segments behind the one that [`Rows::segment_of`] finds, at most `limit`.
    pub(crate) fn segments_behind(
        &self,
        namespace: NamespaceId,
        offset: Offset,
        limit: usize,
    ) -> Result<Vec<Offset>, ReadError> {
        let after = segment_key(namespace, offset.saturating_add(1));
        let mut firsts = Vec::with_capacity(limit);
        for row in self.db.iterator(IteratorMode::From(&after, Direction::Forward)).take(limit) {
            let (key, _) = row?;
            match key.strip_prefix(&after[..4]).and_then(|first| first.try_into().ok()) {
                Some(first) => firsts.push(Offset::from_be_bytes(first)),
                None => break,
            }
        }
        Ok(firsts)
    }

    /// Writes a batch: all of it or nothing.
    pub(crate) fn write(&self, batch: RowBatch) -> Result<(), ReadError> {
        let mut options = WriteOptions::default();
        options.disable_wal(true);
        Ok(self.db.write_opt(batch.0, &options)?)
    }

    /// Writes a batch that deletes namespaces: no row of [`Rows::locate`] comes in between.
    pub(crate) fn write_deleting(&self, batch: RowBatch) -> Result<(), ReadError> {
        let _alone = self.locating.lock();
        self.write(batch)
    }

    /// Writes which namespaces have their first offset of a sealed segment where, and that the
    /// segments before `end` are located.
    pub(crate) fn locate(
        &self,
        partition: u16,
        firsts: impl Iterator<Item = (NamespaceId, Offset)>,
        base: Position,
        end: Position,
    ) -> Result<(), ReadError> {
        // A namespace that is deleted in between would leave its row behind for ever.
        let _alone = self.locating.lock();
        let mut batch = RowBatch::default();
        for (namespace, offset) in firsts {
            if self.db.get_pinned(namespace_key(b'h', namespace))?.is_some() {
                batch.put_segment(namespace, offset, base);
            }
        }
        batch.put_located(partition, end);
        self.write(batch)
    }

    /// Makes all that was written durable, and a copy of the folder.
    pub(crate) fn copy(&self, to: &Path) -> Result<(), ReadError> {
        Ok(Checkpoint::new(&self.db)?.create_checkpoint(to)?)
    }

    /// Makes all that was written durable.
    pub(crate) fn flush(&self) -> Result<(), ReadError> {
        Ok(self.db.flush()?)
    }
}

/// Moves a folder of rows, unless that is done. RocksDB keeps its own files, beside the storage.
pub(crate) fn move_folder(from: &Path, to: &Path) -> io::Result<()> {
    if !from.exists() || to.exists() {
        return Ok(());
    }
    for folder in [to, from].into_iter().filter_map(Path::parent) {
        fs::create_dir_all(folder)?;
    }
    fs::rename(from, to)?;
    for folder in [to, from].into_iter().filter_map(Path::parent) {
        fs::File::open(folder)?.sync_all()?;
    }
    Ok(())
}

/// The partition that a row is of, by its key.
pub(crate) fn partition_of(key: &[u8], partitions: u16) -> Option<u16> {
    match *key {
        [b'c' | b'l', a, b] => Some(u16::from_be_bytes([a, b])),
        [b'h' | b'i' | b'q' | b's', a, b, c, ..] => Some(NamespaceId::from_be_bytes([a, b, c]).partition(partitions)),
        [b'n', ref name @ ..] => Some(NamespaceName::from_bytes(name).ok()?.partition(partitions)),
        _ => None,
    }
}

fn not_one(key: &[u8]) -> ReadError {
    ReadError::Rows(format!("the row {} is not one", key.escape_ascii()))
}

fn encode_namespace(namespace: &Namespace) -> Vec<u8> {
    let mut row = namespace.generation().to_le_bytes().to_vec();
    row.extend_from_slice(&(namespace.name().len() as u16).to_le_bytes());
    row.extend_from_slice(namespace.name().as_bytes());
    row.extend_from_slice(config_json(namespace.config()).as_bytes());
    row
}

fn decode_namespace(id: NamespaceId, row: &[u8]) -> Option<Namespace> {
    let (generation, rest) = row.split_first_chunk::<4>()?;
    let (length, rest) = rest.split_first_chunk::<2>()?;
    let (name, config) = rest.split_at_checked(usize::from(u16::from_le_bytes(*length)))?;
    let name = NamespaceName::from_bytes(name).ok()?;
    Some(Namespace::new(id, u32::from_le_bytes(*generation), name, serde_json::from_slice(config).ok()?))
}

/// Rows that are written together.
#[derive(Default)]
pub(crate) struct RowBatch(WriteBatch);

impl RowBatch {
    pub(crate) fn put_partition(&mut self, partition: u16, row: &PartitionRow) {
        self.0.put(partition_key(b'c', partition), row.encode());
    }

    pub(crate) fn put_located(&mut self, partition: u16, before: Position) {
        self.0.put(partition_key(b'l', partition), before.to_le_bytes());
    }

    pub(crate) fn put_head(&mut self, namespace: NamespaceId, head: &Head) {
        self.0.put(namespace_key(b'h', namespace), head.encode());
    }

    pub(crate) fn put_producer(&mut self, namespace: NamespaceId, producer: ProducerId, state: &ProducerState) {
        self.0.put(producer_key(namespace, producer), state.encode());
    }

    pub(crate) fn put_namespace(&mut self, namespace: &Namespace) {
        self.0.put(namespace_key(b'i', namespace.id()), encode_namespace(namespace));
        self.0.put(name_key(namespace.name()), namespace.id().to_be_bytes());
    }

    /// Removes all rows of a namespace.
    pub(crate) fn delete_namespace(&mut self, namespace: &Namespace) {
        let id = namespace.id();
        self.0.delete(name_key(namespace.name()));
        self.0.delete(namespace_key(b'i', id));
        if !mutant!(KeepDeletedHead) {
            self.0.delete(namespace_key(b'h', id));
        }
        for tag in [b'q', b's'] {
            let begin = namespace_key(tag, id);
            let end = match NamespaceId::new(id.get() + 1) {
                Some(next) => namespace_key(tag, next),
                None => namespace_key(tag + 1, NamespaceId::CONTROL),
            };
            self.0.delete_range(&begin[..], &end[..]);
        }
    }

    pub(crate) fn put_segment(&mut self, namespace: NamespaceId, first_offset: Offset, base: Position) {
        self.0.put(segment_key(namespace, first_offset), base.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::NamespaceConfig;

    fn ns(id: u32) -> NamespaceId {
        NamespaceId::new(id).unwrap()
    }

    #[test]
    fn golden_keys() {
        assert_eq!(partition_key(b'c', 0x0102), *b"c\x01\x02");
        assert_eq!(namespace_key(b'h', ns(0x010203)), *b"h\x01\x02\x03");
        assert_eq!(name_key("a"), b"na");
        assert_eq!(segment_key(ns(0x010203), 9), *b"s\x01\x02\x03\0\0\0\0\0\0\0\x09");
        assert_eq!(producer_key(ns(1), ProducerId([b'p'; 16])), b"q\0\0\x01pppppppppppppppp");
        let row = PartitionRow { applied: 1, records: 2, last_time: 3, next_slot: 4, control: Head::empty(0) };
        assert_eq!(row.encode()[..28], *b"\x01\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\x03\0\0\0\0\0\0\0\x04\0\0\0");
        assert_eq!(PartitionRow::decode(&row.encode()), Some(row));
    }

    #[test]
    fn namespaces_are_listed_by_name_and_leave_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let rows = Rows::open(dir.path(), 256).unwrap();
        let named: Vec<Namespace> = ["a", "b/1", "b/2", "b/3", "c"]
            .iter()
            .zip(1..)
            .map(|(name, id)| Namespace::new(ns(id), 1, NamespaceName::new(name).unwrap(), NamespaceConfig::default()))
            .collect();
        let mut batch = RowBatch::default();
        for namespace in &named {
            batch.put_namespace(namespace);
            batch.put_head(namespace.id(), &Head::empty(1));
            batch.put_segment(namespace.id(), 0, 77);
            batch.put_segment(namespace.id(), 100, 88);
        }
        rows.write(batch).unwrap();
        let list = |prefix, after, limit| rows.list(prefix, after, limit).unwrap();
        assert_eq!(list("", None, 10), named);
        assert_eq!(list("b", None, 2), named[1..3]);
        assert_eq!(list("b", Some("b/2"), 10), named[3..4]);
        assert_eq!(list("", Some("c"), 10), []);
        assert_eq!(rows.namespace_named("b/2").unwrap(), Some(named[2].clone()));
        let segment = |offset| rows.segment_of(ns(2), offset).unwrap();
        assert_eq!((segment(0), segment(99), segment(100), segment(5000)), (Some(77), Some(77), Some(88), Some(88)));

        let mut batch = RowBatch::default();
        batch.delete_namespace(&named[1]);
        rows.write(batch).unwrap();
        assert_eq!(rows.namespace_named("b/1").unwrap(), None);
        assert_eq!(rows.head(ns(2)).unwrap(), None);
        assert_eq!(rows.segment_of(ns(2), 500).unwrap(), None);
        assert_eq!(rows.segment_of(ns(3), 500).unwrap(), Some(88));
    }
}
