//! What the tests of rooms share: a ledger that is driven step by step, rows as they are, and connections that are
//! read from.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::ops::Range;
use std::sync::Arc;

use consumers::rooms::{Connection, Part, Room, Rooms, RoomsError, SubscriberName};
use consumers::{Ledger, OPEN_TABLES};
use futures::FutureExt;
use roaring::RoaringBitmap;
use tlog::{Log, Namespace, ReadError};
use wire::NewRecord;

use super::{Fixture, Ticks, append};

/// A log with a ledger that nobody applies but who drives it.
pub struct Site {
    pub fixture: Fixture,
    pub log: Log,
    pub ledger: Arc<Ledger>,
    pub rooms: Rooms,
    seed: u64,
}

impl Site {
    pub fn new(seed: u64) -> Site {
        let fixture = Fixture::new();
        let log = fixture.log();
        let (ledger, rooms) = open(&fixture, &log);
        Site { fixture, log, ledger, rooms, seed: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1 }
    }

    /// The ledger is closed, perhaps deleted, and opened again.
    pub fn restart(&mut self, delete: bool) {
        self.ledger.close();
        let other = self.fixture.dir.path().join("other");
        // The lock on the folder goes with the last who holds it.
        self.rooms = Rooms::driven(Ledger::open_driven(&other, self.log.clone(), OPEN_TABLES).unwrap(), clock(), 0);
        self.ledger = Arc::clone(self.rooms.ledger());
        if delete {
            std::fs::remove_dir_all(self.fixture.dir.path().join("ledger")).unwrap();
        }
        (self.ledger, self.rooms) = open(&self.fixture, &self.log);
        std::fs::remove_dir_all(other).unwrap();
    }

    pub fn random(&mut self, below: u64) -> u64 {
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 7;
        self.seed ^= self.seed << 17;
        (self.seed >> 11) % below
    }

    pub fn chance(&mut self, percent: u64) -> bool {
        self.random(100) < percent
    }

    /// Awaits something, and applies the log meanwhile.
    pub async fn drive<T>(&self, work: impl Future<Output = T>) -> T {
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                biased;
                done = &mut work => return done,
                () = tokio::task::yield_now() => {}
            }
            self.apply();
        }
    }

    /// Waits for appends that nobody waits for any more, and applies all. The end of a subscriber that there is not
    /// changes nothing.
    pub async fn settle(&self) {
        for partition in 0..self.log.partitions() {
            self.log.append_partition_event(partition, (&b"\x21\x06nobody"[..]).into()).await.unwrap();
        }
        self.apply();
    }

    /// Applies all that is durable.
    pub fn apply(&self) {
        for partition in 0..self.log.partitions() {
            while self.ledger.step(partition, 2_000).unwrap() {}
        }
    }

    /// Publishes records with these keys; an empty one is none. Their offsets.
    pub async fn publish(&self, namespace: &Namespace, keys: &[String]) -> Range<u64> {
        let records: Vec<NewRecord<'_>> = keys
            .iter()
            .map(|key| if key.is_empty() { NewRecord::text("v") } else { NewRecord::text("v").with_key(key) })
            .collect();
        let last = append(&self.log, namespace, &records).await;
        last + 1 - keys.len() as u64..last + 1
    }

    pub fn rows(&self) -> Rows {
        Rows::new(&self.ledger)
    }
}

/// How many histories are tried.
pub fn seeds(default: u64) -> u64 {
    std::env::var("TLOG_ROOMS_SEEDS").map_or(default, |seeds| seeds.parse().unwrap())
}

fn clock() -> Arc<Ticks> {
    Arc::default()
}

fn open(fixture: &Fixture, log: &Log) -> (Arc<Ledger>, Rooms) {
    let ledger = Ledger::open_driven(fixture.dir.path(), log.clone(), OPEN_TABLES).unwrap();
    (Arc::clone(&ledger), Rooms::driven(ledger, clock(), 7))
}

pub fn subscriber(name: &str) -> SubscriberName {
    SubscriberName::new(name).unwrap()
}

/// A room; of an empty key: the namespace as a whole.
pub fn room(namespace: &Namespace, key: &str) -> Room {
    Room { namespace: namespace.clone(), key: Some(key.to_owned()).filter(|key| !key.is_empty()) }
}

/// The next part, if it is there.
pub fn next_now(connection: &mut Connection) -> Option<Result<Part, RoomsError>> {
    connection.next().now_or_never()
}

/// Reads the beginning of a part and moves past it. The records that are for the connection, with their keys.
pub async fn read(log: &Log, connection: &mut Connection, part: &Part, max_bytes: usize) -> Vec<(u64, String)> {
    let read = async {
        let mut reader = log.reader(&part.namespace, part.offsets.start)?;
        reader.read(max_bytes).await
    };
    let frames = match read.await {
        Ok(frames) => frames,
        Err(ReadError::NamespaceNotFound) => {
            connection.advance(part.offsets.end, false);
            return Vec::new();
        }
        Err(error) => panic!("{error}"),
    };
    let mut found = Vec::new();
    for frame in &frames {
        for (offset, record) in (frame.base_offset()..).zip(frame.records()) {
            if part.wants(offset, record.key).unwrap() {
                found.push((offset, record.key.unwrap_or_default().to_owned()));
            }
        }
    }
    connection.advance(frames.last().unwrap().next_offset(), !found.is_empty());
    found
}

/// The rows of rooms and subscribers, read by what is drawn in `rooms/rows.rs`.
#[derive(Debug, Default, PartialEq)]
pub struct Rows {
    /// Namespace and key in bytes, and the slots in it.
    pub rooms: BTreeMap<Vec<u8>, BTreeSet<u32>>,
    /// Slot, namespace and key in bytes.
    pub joined: BTreeSet<(u32, Vec<u8>)>,
    /// Slots by name.
    pub subscribers: BTreeMap<String, u32>,
    pub acked: BTreeSet<u32>,
    pub dead: BTreeSet<u32>,
    pub free: BTreeSet<u32>,
    /// By partition.
    pub given: BTreeMap<u16, u32>,
}

fn slot(bytes: &[u8]) -> u32 {
    u32::from_be_bytes(bytes[..4].try_into().unwrap())
}

impl Rows {
    fn new(ledger: &Ledger) -> Rows {
        let mut rows = Rows::default();
        for (key, row) in ledger.driver().rows().unwrap() {
            let behind = &key[1..];
            match key[0] {
                b'r' => {
                    let slots = RoaringBitmap::deserialize_from(&*row).unwrap();
                    rows.rooms.insert(behind.to_vec(), slots.into_iter().collect());
                }
                b'j' => drop(rows.joined.insert((slot(behind), behind[4..].to_vec()))),
                b's' => {
                    let name = String::from_utf8(behind.to_vec()).unwrap();
                    rows.subscribers.insert(name, u32::from_le_bytes(row[..4].try_into().unwrap()));
                }
                b'a' => drop(rows.acked.insert(slot(behind))),
                b'd' => drop(rows.dead.insert(slot(behind))),
                b'f' => drop(rows.free.insert(slot(&behind[2..]))),
                b'n' => {
                    let partition = u16::from_be_bytes(behind.try_into().unwrap());
                    rows.given.insert(partition, u32::from_le_bytes((&*row).try_into().unwrap()));
                }
                _ => {}
            }
        }
        rows
    }

    /// What must hold of the rows whatever has happened, once all of the log is applied.
    pub fn check(&self, partitions: u16) {
        assert!(self.rooms.values().all(|slots| !slots.is_empty()), "a room that nobody is in has a row");
        let in_rooms: BTreeSet<_> =
            self.rooms.iter().flat_map(|(room, slots)| slots.iter().map(move |slot| (*slot, room.clone()))).collect();
        assert_eq!(in_rooms, self.joined, "the two sides of who is in what");
        let live: Vec<u32> = self.subscribers.values().copied().collect();
        let mut given: Vec<u32> = live.iter().chain(&self.dead).chain(&self.free).copied().collect();
        given.sort_unstable();
        let mut all: Vec<u32> = self
            .given
            .iter()
            .flat_map(|(partition, count)| (0..*count).map(|n| u32::from(*partition) + n * u32::from(partitions)))
            .collect();
        all.sort_unstable();
        assert_eq!(given, all, "each slot that was given out is of one subscriber, or dead, or free");
        let bits: BTreeSet<u32> = self.joined.iter().map(|(slot, _)| *slot).chain(self.acked.clone()).collect();
        assert!(bits.is_disjoint(&self.free), "a free slot has bits: {self:?}");
        assert!(self.acked.is_subset(&live.into_iter().collect()), "{self:?}");
    }
}
