//! What the stores must hold, as plain maps: each record that is not of a deleted namespace, once, and
//! the last one of each key. Their rows follow from the maps by the layout that is documented in
//! `consumers/src/stores/rows.rs`, and by nothing else (invariant 7).

use std::collections::{BTreeMap, BTreeSet};

use consumers::{RawRow, StoredRecord};
use wire::{Frame, Kind, NamespaceId, ObjectId, Shard};

use crate::model::{Model, PartitionModel};

/// How far the stores are, by their offset rows: the one thing that is taken at their word. All other
/// rows must be what the frames before say (invariant 8).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// By partition: the position up to which it is applied, where any of it is.
    pub live: BTreeMap<u16, u64>,
    /// The stores that are being rebuilt.
    pub rebuilding: BTreeSet<u8>,
    /// By store and partition: how far its rebuild is, where it has not handed over.
    pub rebuilds: BTreeMap<(u8, u16), u64>,
}

impl Seen {
    pub fn in_rows(rows: &[RawRow]) -> Seen {
        let mut seen = Seen::default();
        for (key, value) in rows {
            let position = || u64::from_le_bytes(value[..8].try_into().unwrap());
            match **key {
                [b'p', 0, 0, a, b] => drop(seen.live.insert(u16::from_be_bytes([a, b]), position())),
                [b'p', 1, shard, a, b] => drop(seen.rebuilds.insert((shard, u16::from_be_bytes([a, b])), position())),
                [b'r', shard] => drop(seen.rebuilding.insert(shard)),
                _ => {}
            }
        }
        seen
    }

    pub fn live(&self, partition: u16) -> u64 {
        self.live.get(&partition).copied().unwrap_or(0)
    }

    /// Up to where a store has a partition.
    pub fn of(&self, shard: u8, partition: u16) -> u64 {
        self.rebuilds.get(&(shard, partition)).copied().unwrap_or_else(|| self.live(partition))
    }
}

/// A record in a store.
#[derive(Debug, Clone, PartialEq)]
pub struct Object {
    pub offset: u64,
    pub time: i64,
    pub encoded: Vec<u8>,
}

impl Object {
    pub fn of(stored: &StoredRecord) -> Object {
        let record = stored.record().unwrap();
        Object { offset: record.offset, time: record.time_micros, encoded: record.encoded.to_vec() }
    }
}

/// What the stores must hold.
#[derive(Debug, Default)]
pub struct StoresModel {
    /// By shard, namespace and counter.
    pub objects: BTreeMap<(u8, NamespaceId, u32), Object>,
    pub latest: BTreeMap<(NamespaceId, String), ObjectId>,
    /// By shard and partition: how many objects. None where there never was one.
    pub counts: BTreeMap<(u8, u16), u64>,
}

impl StoresModel {
    /// The stores of a log, as far as they have seen it.
    pub fn new(model: &Model, seen: &Seen) -> StoresModel {
        let mut stores = StoresModel::default();
        for (partition, state) in (0..).zip(&model.partitions) {
            for frame in &state.frames {
                match state.deletes.get(&frame.position()) {
                    Some(namespace) => stores.delete(*namespace, partition, frame, seen),
                    None if frame.namespace() == NamespaceId::CONTROL => {}
                    None => stores.add(partition, frame, seen),
                }
            }
        }
        stores
    }

    fn add(&mut self, partition: u16, frame: &Frame, seen: &Seen) {
        for record in frame.records() {
            let (shard, namespace) = (record.id.shard().0, record.id.namespace());
            if seen.of(shard, partition) < frame.end() {
                continue;
            }
            let object = Object { offset: record.offset, time: record.time_micros, encoded: record.encoded.to_vec() };
            self.objects.insert((shard, namespace, record.id.counter()), object);
            *self.counts.entry((shard, partition)).or_insert(0) += 1;
            if let Some(key) = record.key {
                let key = (namespace, key.to_owned());
                match record.kind {
                    Kind::Tombstone => self.latest.remove(&key),
                    _ => self.latest.insert(key, record.id),
                };
            }
        }
    }

    fn delete(&mut self, namespace: NamespaceId, partition: u16, frame: &Frame, seen: &Seen) {
        let is_left = |shard: u8, of: NamespaceId| of != namespace || seen.of(shard, partition) < frame.end();
        let counts = &mut self.counts;
        self.objects.retain(|(shard, of, _), _| {
            let left = is_left(*shard, *of);
            if !left {
                *counts.get_mut(&(*shard, partition)).unwrap() -= 1;
            }
            left
        });
        self.latest.retain(|(of, _), id| is_left(id.shard().0, *of));
    }

    pub fn object(&self, id: ObjectId) -> Option<&Object> {
        self.objects.get(&(id.shard().0, id.namespace(), id.counter()))
    }

    /// All rows, by their keys.
    pub fn rows(&self, model: &Model, seen: &Seen) -> BTreeMap<Vec<u8>, Vec<u8>> {
        let mut rows = BTreeMap::new();
        let count = model.partitions.len() as u16;
        rows.insert(b"m".to_vec(), [[2, 0], count.to_le_bytes()].concat());
        let place = |partition: u16| &model.partitions[usize::from(partition)];
        for (partition, position) in &seen.live {
            let key = [&[b'p', 0, 0][..], &partition.to_be_bytes()].concat();
            rows.insert(key, offset_row(place(*partition), *position));
        }
        for ((shard, partition), position) in &seen.rebuilds {
            let key = [&[b'p', 1, *shard][..], &partition.to_be_bytes()].concat();
            rows.insert(key, offset_row(place(*partition), *position));
        }
        rows.extend(seen.rebuilding.iter().map(|shard| (vec![b'r', *shard], Vec::new())));
        let row = |shard: u8, kind: u8, rest: &[u8]| [&[b's', shard, kind][..], rest].concat();
        for ((shard, partition), objects) in &self.counts {
            rows.insert(row(*shard, b'c', &partition.to_be_bytes()), objects.to_le_bytes().to_vec());
        }
        for ((namespace, key), id) in &self.latest {
            let rest = [&namespace.to_be_bytes()[..], key.as_bytes()].concat();
            rows.insert(row(id.shard().0, b'k', &rest), id.counter().to_le_bytes().to_vec());
        }
        for ((shard, namespace, counter), object) in &self.objects {
            let namespace = namespace.to_be_bytes();
            let value = [&object.offset.to_le_bytes()[..], &object.time.to_le_bytes(), &object.encoded].concat();
            rows.insert(row(*shard, b'o', &[&namespace[..], &counter.to_be_bytes()].concat()), value);
        }
        rows
    }

    /// How many objects a store has.
    pub fn count(&self, shard: Shard) -> u64 {
        self.counts.range((shard.0, 0)..=(shard.0, u16::MAX)).map(|(_, count)| count).sum()
    }
}

/// Records in a partition's frames before a position, and the last of these frames.
pub fn before(partition: &PartitionModel, position: u64) -> (u64, Option<&Frame>) {
    let frames = &partition.frames[..partition.frames.partition_point(|frame| frame.end() <= position)];
    (frames.iter().map(|frame| u64::from(frame.record_count())).sum(), frames.last())
}

/// The offset row that stands for a position; where no frame ends there it is one that no row equals.
pub fn offset_row(partition: &PartitionModel, position: u64) -> Vec<u8> {
    let (records, last) = before(partition, position);
    let (end, begin, chain) = last.map_or((0, 0, [0; 32]), |last| (last.end(), last.position(), last.chain().0));
    [&end.to_le_bytes()[..], &records.to_le_bytes(), &begin.to_le_bytes(), &chain].concat()
}
