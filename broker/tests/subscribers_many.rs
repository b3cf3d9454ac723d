//! Many subscribers and many rooms: who is woken, in which order, and what a quiet room costs.
//!
//! `TLOG_ROOMS=1000000 cargo test --release -p broker --test subscribers_many -- --nocapture` has a million rooms.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::path::Path;
use std::time::Instant;

use futures::StreamExt;
use futures::future::join_all;
use sdk::{Client, Deliveries, DraftBuilder, Event, Namespace, NamespaceConfig, NewRecord, Rooms, Subscriber};
use support::{Broker, Dice, PATIENCE};
use tokio::time::timeout;

/// How many subscribers are connected at one time.
const CONNECTED: u64 = 1_000;

/// How many calls are under way at one time.
const AT_ONCE: usize = 32;

fn client(broker: &Broker) -> Client {
    Client::new(&broker.url("")).unwrap()
}

async fn namespace(client: &Client, name: &str) -> Namespace {
    let namespace = client.namespace(name).unwrap();
    namespace.ensure(&NamespaceConfig::default()).await.unwrap();
    namespace
}

/// Connects a subscriber of each of these rooms of `n`.
async fn connected(client: &Client, rooms: impl Iterator<Item = String>) -> Vec<Deliveries> {
    let connect = |(number, room): (usize, String)| {
        let subscriber = client.subscriber(&format!("s{number}")).unwrap();
        async move {
            subscriber.put(&Rooms::default().room("n", room)).await.unwrap();
            subscriber.events().await.unwrap()
        }
    };
    futures::stream::iter(rooms.enumerate().map(connect)).buffered(AT_ONCE).collect().await
}

/// The offsets of the next records of a stream.
async fn offsets(events: &mut Deliveries, count: usize) -> Vec<u64> {
    let mut offsets = Vec::new();
    while offsets.len() < count {
        let delivered = timeout(PATIENCE, events.next()).await.expect("something comes").expect("it goes on").unwrap();
        match delivered.event {
            Event::Record(record) => offsets.push(record.offset),
            Event::Reset(reset) => panic!("{reset:?}"),
        }
    }
    offsets
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_in_one_room_are_given_each_record_once_in_order() {
    const RECORDS: u64 = 50;
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path());
    let client = client(&broker);
    let n = namespace(&client, "n").await;
    let streams = connected(&client, (0..CONNECTED).map(|_| "room".to_owned())).await;
    let began = Instant::now();
    let readers = streams
        .into_iter()
        .map(|mut events| tokio::spawn(async move { offsets(&mut events, RECORDS as usize + 1).await }));
    let readers: Vec<_> = readers.collect();
    let mut due = Vec::new();
    for number in 0..RECORDS {
        n.publish(&NewRecord::text("x").with_key(&format!("other {number}"))).await.unwrap();
        due.push(n.publish(&NewRecord::text("x").with_key("room")).await.unwrap().first_offset);
    }
    // Who had been given one too many would have it before this.
    due.push(n.publish(&NewRecord::text("last").with_key("room")).await.unwrap().first_offset);
    for seen in join_all(readers).await {
        assert_eq!(seen.unwrap(), due);
    }
    println!(
        "{CONNECTED} in one room, {} deliveries: {:.2} s",
        CONNECTED * (RECORDS + 1),
        began.elapsed().as_secs_f64()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_rooms_of_one_are_given_each_its_own() {
    const RECORDS: u64 = 20_000;
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path());
    let client = client(&broker);
    let n = namespace(&client, "n").await;
    let streams = connected(&client, (0..CONNECTED).map(|room| format!("room {room}"))).await;
    let began = Instant::now();
    let (mut dice, mut due) = (Dice::new(11), vec![Vec::new(); CONNECTED as usize]);
    let mut published = 0;
    while published < RECORDS {
        let count = 1 + dice.below(100);
        let (mut batch, mut of) = (DraftBuilder::default(), Vec::new());
        for _ in 0..count {
            // As many are of rooms that nobody is in.
            let room = dice.below(2 * CONNECTED);
            of.push(room);
            batch.push(&NewRecord::text("x").with_key(&format!("room {room}"))).unwrap();
        }
        let first = n.publish_batch(batch.finish().unwrap()).await.unwrap().first_offset;
        for (offset, room) in (first..).zip(of).filter(|(_, room)| *room < CONNECTED) {
            due[room as usize].push(offset);
        }
        published += count;
    }
    let deliveries: usize = due.iter().map(Vec::len).sum();
    let read = async |(mut events, due): (Deliveries, Vec<u64>)| {
        assert_eq!(offsets(&mut events, due.len()).await, due);
        events
    };
    let mut streams = join_all(streams.into_iter().zip(due).map(read)).await;
    println!("{CONNECTED} rooms of one, {deliveries} deliveries: {:.2} s", began.elapsed().as_secs_f64());
    // Nobody has anything else.
    let last = n.publish(&NewRecord::text("x").with_key("room 7")).await.unwrap().first_offset;
    assert_eq!(offsets(&mut streams[7], 1).await, [last]);
    for (room, events) in streams.iter_mut().enumerate() {
        assert!(futures::poll!(events.next()).is_pending(), "{room}");
    }
}

/// Rooms that two subscribers have joined: as many as the environment says.
fn rooms() -> u64 {
    std::env::var("TLOG_ROOMS").map_or(20_000, |rooms| rooms.parse().expect("TLOG_ROOMS is a number"))
}

/// Rooms of one subscriber, and of one call.
const OF_ONE: u64 = 100_000;
const A_CALL: u64 = 10_000;

fn room(number: u64) -> String {
    format!("room {number:07}")
}

#[tokio::test(flavor = "multi_thread")]
async fn quiet_rooms_cost_a_row_and_a_publish_wakes_who_is_there() {
    let rooms = rooms();
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let broker = Broker::start(folder.path());
    let client = client(&broker);
    let n = namespace(&client, "n").await;
    for number in 0..100 {
        n.publish(&NewRecord::text("x").with_key(&room(number))).await.unwrap();
    }
    let began = Instant::now();
    let before = broker.resident_bytes();
    let mut pairs = Vec::new();
    for first in (0..rooms).step_by(OF_ONE as usize) {
        let pair = [join_from(&client, "a", first, rooms).await, join_from(&client, "b", first, rooms).await];
        pairs.push(pair);
    }
    let joined = broker.resident_bytes();
    println!(
        "{rooms} rooms of two, joined in {:.1} s; resident {} MiB, {} MiB before",
        began.elapsed().as_secs_f64(),
        joined >> 20,
        before >> 20
    );
    assert!(broker.terminate().success());
    println!("on disk: {:.1} bytes a room", bytes_in(&folder.path().join("ledger")) as f64 / rooms as f64);
    let broker = Broker::start(folder.path());
    let client = self::client(&broker);
    let n = namespace(&client, "n").await;
    n.publish(&NewRecord::text("x").with_key("nobody's")).await.unwrap();
    let restarted = broker.resident_bytes();
    println!("resident after a restart: {} MiB", restarted >> 20);

    // All are connected; each of these records is for two of them.
    let mut streams = Vec::new();
    for subscriber in pairs.iter().flatten() {
        streams.push(client.subscriber(subscriber.name()).unwrap().events().await.unwrap());
    }
    // `nobody's` has been passed over once this is there.
    let last = n.publish(&NewRecord::text("x").with_key(&room(0))).await.unwrap().first_offset;
    for stream in &mut streams[..2] {
        assert_eq!(offsets(stream, 1).await, [last]);
    }
    let mut dice = Dice::new(13);
    let settled = wakes(&broker).await;
    const PUBLISHED: u64 = 500;
    for _ in 0..PUBLISHED {
        let number = dice.below(rooms);
        let offset = n.publish(&NewRecord::text("x").with_key(&room(number))).await.unwrap().first_offset;
        for of_pair in 0..2 {
            let stream = &mut streams[(number / OF_ONE) as usize * 2 + of_pair];
            assert_eq!(offsets(stream, 1).await, [offset]);
        }
    }
    assert_eq!(wakes(&broker).await - settled, 2 * PUBLISHED, "each publish wakes two");
    for stream in &mut streams {
        assert!(futures::poll!(stream.next()).is_pending());
    }
    let after = broker.resident_bytes();
    println!("resident with all {} connected, after {PUBLISHED} publishes: {} MiB", streams.len(), after >> 20);
    // RocksDB's caches fill: what is bounded does not grow with the rooms.
    assert!(after < before + (256 << 20), "{} MiB from {} MiB", after >> 20, before >> 20);
}

/// A subscriber of the rooms from a first one on.
async fn join_from(client: &Client, name: &str, first: u64, rooms: u64) -> Subscriber {
    let subscriber = client.subscriber(&format!("{name}{first}")).unwrap();
    subscriber.put(&Rooms::default()).await.unwrap();
    let end = rooms.min(first + OF_ONE);
    for begin in (first..end).step_by(A_CALL as usize) {
        let of_call = begin..end.min(begin + A_CALL);
        let joined = of_call.fold(Rooms::default(), |joined, number| joined.room("n", room(number)));
        subscriber.join(&joined).await.unwrap();
    }
    subscriber
}

/// Bytes that a folder's files take on the disk.
fn bytes_in(folder: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let mut bytes = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let metadata = entry.metadata().unwrap();
        bytes += if metadata.is_dir() { bytes_in(&entry.path()) } else { metadata.blocks() * 512 };
    }
    bytes
}

/// How often streams of rooms were woken.
async fn wakes(broker: &Broker) -> u64 {
    let text = reqwest::get(broker.url("/metrics")).await.unwrap().text().await.unwrap();
    let value = text.lines().find_map(|line| line.strip_prefix("tlog_room_wakeups_total "));
    value.map_or(0, |value| value.parse().unwrap())
}
