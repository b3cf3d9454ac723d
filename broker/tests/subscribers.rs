//! Durable subscribers against the real binary, each held against a model of what must come: away, moving from
//! room to room, stalled, and with the broker killed under them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use futures::StreamExt;
use sdk::{
    Client, Code, Delivered, Deliveries, DraftBuilder, Error, Event, Namespace, NamespaceConfig, NewRecord, Record,
    Rooms, Subscriber,
};
use support::sse::Events;
use support::{Broker, Dice, PATIENCE, eventually, own_address};
use tokio::time::timeout;

fn client(broker: &Broker) -> Client {
    Client::new(&broker.url("")).unwrap()
}

async fn namespace(client: &Client, name: &str) -> Namespace {
    let namespace = client.namespace(name).unwrap();
    namespace.ensure(&NamespaceConfig::default()).await.unwrap();
    namespace
}

async fn subscriber(client: &Client, name: &str, rooms: &Rooms) -> Subscriber {
    let subscriber = client.subscriber(name).unwrap();
    subscriber.put(rooms).await.unwrap();
    subscriber
}

async fn next(events: &mut Deliveries) -> Delivered {
    timeout(PATIENCE, events.next()).await.expect("something comes").expect("the stream goes on").unwrap()
}

fn record(delivered: Delivered) -> Record {
    match delivered.event {
        Event::Record(record) => record,
        Event::Reset(reset) => panic!("{reset:?}"),
    }
}

/// What must come: the offsets of each namespace, in order, each once.
#[derive(Default, Debug, PartialEq)]
struct Model(BTreeMap<String, Vec<u64>>);

impl Model {
    fn add(&mut self, namespace: &str, offset: u64) {
        self.0.entry(namespace.to_owned()).or_default().push(offset);
    }

    fn count(&self) -> usize {
        self.0.values().map(Vec::len).sum()
    }
}

/// Takes as many records as are due, acking the last one now and then; what has come, and its last token.
async fn take(
    subscriber: &Subscriber,
    events: &mut Deliveries,
    count: usize,
    ack_each: usize,
) -> (Model, Option<String>) {
    let (mut seen, mut token) = (Model::default(), None);
    for number in 1..=count {
        let delivered = next(events).await;
        token = Some(delivered.token.clone());
        if number % ack_each == 0 {
            subscriber.ack(&delivered.token).await.unwrap();
        }
        let record = record(delivered);
        seen.add(&record.namespace.unwrap(), record.offset);
    }
    (seen, token)
}

/// Nothing comes before this record, which is published now.
async fn nothing_but(events: &mut Deliveries, namespace: &Namespace, key: &str) {
    namespace.publish(&NewRecord::text("the last").with_key(key)).await.unwrap();
    assert_eq!(record(next(events).await).text(), Some("the last"));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_away_for_100_000_records_in_a_hundred_rooms_is_given_them() {
    const RECORDS: usize = 100_000;
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path());
    let client = client(&broker);
    let mut rooms = Rooms::default();
    let mut namespaces = Vec::new();
    for index in 0..4 {
        namespaces.push(namespace(&client, &format!("n{index}")).await);
    }
    for room in 0..100 {
        rooms = rooms.room(format!("n{}", room % 4), format!("k{room}"));
    }
    let away = subscriber(&client, "away", &rooms).await;
    let (mut dice, mut model) = (Dice::new(1), Model::default());
    while model.count() < RECORDS {
        let index = dice.below(4);
        let (mut batch, mut mine) = (DraftBuilder::default(), Vec::new());
        for number in 0..1 + dice.below(4_000) {
            // As many are of other rooms.
            let key = dice.below(200);
            batch.push(&NewRecord::text("some words of a record").with_key(&format!("k{key}"))).unwrap();
            if key < 100 && key % 4 == index {
                mine.push(number);
            }
        }
        let first = namespaces[index as usize].publish_batch(batch.finish().unwrap()).await.unwrap().first_offset;
        mine.iter().for_each(|number| model.add(&format!("n{index}"), first + number));
    }
    let began = Instant::now();
    let mut events = away.events().await.unwrap();
    let (seen, token) = take(&away, &mut events, model.count(), 10_000).await;
    println!("{} missed records in a hundred rooms: {:.1} s", seen.count(), began.elapsed().as_secs_f64());
    assert!(seen == model, "{} of {} came", seen.count(), model.count());
    away.ack(&token.unwrap()).await.unwrap();
    drop(broker);
}

#[tokio::test(flavor = "multi_thread")]
async fn rooms_are_joined_and_left_while_connected() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path());
    let client = client(&broker);
    let namespaces = [namespace(&client, "a").await, namespace(&client, "b").await];
    let mover = subscriber(&client, "mover", &Rooms::default()).await;
    let mut events = mover.events().await.unwrap();
    // Whole namespaces are the key of nothing.
    let room_of = |room: &(usize, Option<u64>)| {
        let name = ["a", "b"][room.0];
        match room.1 {
            Some(key) => Rooms::default().room(name, format!("k{key}")),
            None => Rooms::default().namespace(name),
        }
    };
    let (mut dice, mut joined) = (Dice::new(7), BTreeSet::new());
    let (mut model, mut seen) = (Model::default(), Model::default());
    for _ in 0..300 {
        let room = (dice.below(2) as usize, Some(dice.below(10)).filter(|key| *key > 0));
        match dice.below(3) {
            0 => {
                mover.join(&room_of(&room)).await.unwrap();
                joined.insert(room);
            }
            1 => {
                // What came before it leaves is due to it; what is under way then may come or not.
                while seen.count() < model.count() {
                    let record = record(next(&mut events).await);
                    seen.add(&record.namespace.unwrap(), record.offset);
                }
                mover.leave(&room_of(&room)).await.unwrap();
                joined.remove(&room);
            }
            _ => {
                for _ in 0..1 + dice.below(20) {
                    let (index, key) = (dice.below(2) as usize, dice.below(10));
                    let text = NewRecord::text("x");
                    let name = format!("k{key}");
                    let new = if key == 0 { text } else { text.with_key(&name) };
                    let published = namespaces[index].publish(&new).await.unwrap();
                    let followed = joined.contains(&(index, None)) || key > 0 && joined.contains(&(index, Some(key)));
                    if followed {
                        model.add(["a", "b"][index], published.first_offset);
                    }
                }
            }
        }
    }
    while seen.count() < model.count() {
        let record = record(next(&mut events).await);
        seen.add(&record.namespace.unwrap(), record.offset);
    }
    assert_eq!(seen, model);
    assert!(model.count() > 100, "{} are too few to show anything", model.count());
    mover.put(&Rooms::default().room("a", "last")).await.unwrap();
    nothing_but(&mut events, &namespaces[0], "last").await;
    drop(broker);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_killed_under_delivery_gives_each_record_once_in_order() {
    const RECORDS: u64 = 20_000;
    let folder = tempfile::tempdir().unwrap();
    let listen = own_address();
    let start = || Broker::try_start(Broker::command_at(&listen, folder.path(), &[])).unwrap();
    let mut broker = start();
    let client = client(&broker);
    let namespaces = [namespace(&client, "a").await, namespace(&client, "b").await, namespace(&client, "c").await];
    let mut rooms = Rooms::default().namespace("c");
    for key in 0..5 {
        rooms = rooms.room("a", format!("k{key}")).room("b", format!("k{}", key + 2));
    }
    let subscriber = subscriber(&client, "s", &rooms).await;
    let mut events = subscriber.events().await.unwrap();
    let publishing = tokio::spawn(async move {
        let publishers: Vec<_> = namespaces.iter().map(|namespace| namespace.publisher().open().unwrap()).collect();
        let mut dice = Dice::new(3);
        for number in 0..RECORDS {
            let key = format!("k{}", dice.below(10));
            let publisher = &publishers[dice.below(3) as usize];
            publisher.send(&NewRecord::text(&number.to_string()).with_key(&key)).await.unwrap();
        }
        for publisher in publishers {
            publisher.close().await.unwrap();
        }
    });
    let (mut seen, mut kills, mut token) = (Model::default(), 0, None);
    while kills < 4 {
        let delivered = next(&mut events).await;
        token = Some(delivered.token.clone());
        let record = record(delivered);
        seen.add(&record.namespace.unwrap(), record.offset);
        if seen.count() >= (kills + 1) * 2_000 {
            kills += 1;
            broker.kill();
            broker = start();
        }
    }
    publishing.await.unwrap();
    // The log says what is due.
    let mut model = Model::default();
    for (name, keys) in [("a", 0..5), ("b", 2..7), ("c", 0..10)] {
        let keys: BTreeSet<String> = keys.map(|key| format!("k{key}")).collect();
        let (namespace, mut from) = (client.namespace(name).unwrap(), 0);
        loop {
            let page = namespace.read(from, 10_000, Duration::ZERO).await.unwrap();
            if page.records.is_empty() {
                break;
            }
            let due = page.records.iter().filter(|record| keys.contains(record.key.as_deref().unwrap()));
            due.for_each(|record| model.add(name, record.offset));
            from = page.next_offset;
        }
    }
    while seen.count() < model.count() {
        let delivered = next(&mut events).await;
        token = Some(delivered.token.clone());
        let record = record(delivered);
        seen.add(&record.namespace.unwrap(), record.offset);
    }
    assert!(seen == model, "{} of {} came", seen.count(), model.count());
    // What is acked is so after another kill, and nothing comes again.
    subscriber.ack(&token.unwrap()).await.unwrap();
    drop(events);
    broker.kill();
    let broker = start();
    let mut events = subscriber.events().await.unwrap();
    nothing_but(&mut events, &client.namespace("c").unwrap(), "k1").await;
    drop(broker);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_acked_never_comes_again_and_what_is_not_does() {
    let folder = tempfile::tempdir().unwrap();
    let listen = own_address();
    let start = || Broker::try_start(Broker::command_at(&listen, folder.path(), &[])).unwrap();
    let mut broker = start();
    let client = client(&broker);
    let notes = namespace(&client, "notes").await;
    let reader = subscriber(&client, "reader", &Rooms::default().room("notes", "k")).await;
    let mut batch = DraftBuilder::default();
    for number in 0..3_000 {
        batch.push(&NewRecord::text("x").with_key(if number % 3 == 0 { "k" } else { "other" })).unwrap();
    }
    notes.publish_batch(batch.finish().unwrap()).await.unwrap();
    let (mut dice, mut acked) = (Dice::new(5), 0);
    while acked < 1_000 {
        let mut events = reader.events().await.unwrap();
        let taken = (1 + dice.below(200)).min(1_000 - acked);
        let kept = 1 + dice.below(taken);
        let mut token = None;
        for number in 0..taken {
            let delivered = next(&mut events).await;
            token = Some(delivered.token.clone()).filter(|_| number < kept).or(token);
            assert_eq!(record(delivered).offset, 3 * (acked + number));
        }
        reader.ack(&token.unwrap()).await.unwrap();
        acked += kept;
        if dice.below(4) == 0 {
            broker.kill();
            broker = start();
        }
    }
    let state = reader.state().await.unwrap();
    assert_eq!(state.cursors[0].next_offset, 2_998);
    let mut events = reader.events().await.unwrap();
    nothing_but(&mut events, &notes, "k").await;
    drop(broker);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_stream_ends_the_older() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path());
    let client = client(&broker);
    let notes = namespace(&client, "notes").await;
    let reader = subscriber(&client, "reader", &Rooms::default().room("notes", "k")).await;
    let mut streams = vec![reader.events().await.unwrap()];
    for _ in 0..20 {
        streams.push(reader.events().await.unwrap());
    }
    let mut newest = streams.pop().unwrap();
    for mut older in streams {
        let ended = timeout(PATIENCE, older.next()).await.expect("it is told").unwrap();
        assert!(matches!(ended, Err(Error::Superseded)), "{ended:?}");
        assert!(older.next().await.is_none());
    }
    nothing_but(&mut newest, &notes, "k").await;
    assert!(reader.state().await.unwrap().connected);
    reader.delete().await.unwrap();
    let gone = timeout(PATIENCE, newest.next()).await.expect("it ends").unwrap();
    assert_eq!(gone.unwrap_err().code(), Some(Code::SubscriberNotFound));
    drop(broker);
}

/// Bytes of a record's value, and how many records there are: far more than sockets hold.
const VALUE_BYTES: usize = 256 << 10;
const LARGE: u64 = 1_600;

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_stops_reading_costs_little_and_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path());
    let client = client(&broker);
    let blobs = namespace(&client, "blobs").await;
    let value = vec![7; VALUE_BYTES];
    let publish = async |count: u64| {
        for _ in 0..count {
            blobs.publish(&NewRecord::bytes(&value).with_key("k")).await.unwrap();
        }
    };
    // Caches are full before anything is measured.
    publish(800).await;
    for name in ["one", "two", "three", "four"] {
        subscriber(&client, name, &Rooms::default().room("blobs", "k")).await;
    }
    let before = broker.resident_bytes();
    let (http, mut stalled) = (support::client(), Vec::new());
    for name in ["one", "two", "three", "four"] {
        let url = broker.url(&format!("/v1/subscribers/{name}/events"));
        stalled.push((Events::connect(&http, &url, None).await, url));
    }
    publish(LARGE).await;
    // And many small ones: what waits for a stream is not for each record, either.
    for _ in 0..10 {
        let mut batch = DraftBuilder::default();
        (0..10_000).for_each(|_| batch.push(&NewRecord::text("x").with_key("k")).unwrap());
        blobs.publish_batch(batch.finish().unwrap()).await.unwrap();
    }
    let after = broker.resident_bytes();
    println!("resident before {} MiB, with 4 stalled subscribers {} MiB", before >> 20, after >> 20);
    assert!(after < before + (100 << 20), "memory went from {} to {} MiB", before >> 20, after >> 20);
    for (events, url) in stalled.drain(..2) {
        read_on(&http, events, &url, 800..800 + LARGE + 100_000).await;
    }
    drop(broker);
}

/// Reads a stream to the end of these offsets, over another connection where the broker has given it up.
async fn read_on(http: &reqwest::Client, mut events: Events, url: &str, due: std::ops::Range<u64>) {
    let mut last: Option<String> = None;
    for offset in due {
        let event = loop {
            match timeout(PATIENCE, events.next()).await.expect("something comes") {
                Some(event) => break event,
                None => events = Events::connect(http, url, last.as_deref()).await,
            }
        };
        let prefix = format!("{{\"namespace\":\"blobs\",\"offset\":{offset},");
        assert!(event.data.starts_with(&prefix), "{}", &event.data[..60]);
        last = Some(event.id);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_of_keys_is_woken_by_its_own_alone() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path());
    let client = client(&broker);
    let notes = namespace(&client, "notes").await;
    let mut events = notes.subscribe().key("mine").key("mine too").open().await.unwrap();
    let wakes = async || wakes(&broker).await;
    let before = wakes().await;
    for number in 0..200 {
        notes.publish(&NewRecord::text("x").with_key(&format!("other {number}"))).await.unwrap();
    }
    notes.publish(&NewRecord::text("x").with_key("mine too")).await.unwrap();
    let event = timeout(PATIENCE, events.next()).await.expect("it comes").unwrap().unwrap();
    assert!(matches!(event, Event::Record(record) if record.offset == 200));
    assert_eq!(wakes().await - before, 1);
    drop(broker);
}

/// How often streams of rooms were woken.
async fn wakes(broker: &Broker) -> u64 {
    let text = reqwest::get(broker.url("/metrics")).await.unwrap().text().await.unwrap();
    let value = text.lines().find_map(|line| line.strip_prefix("tlog_room_wakeups_total "));
    value.map_or(0, |value| value.parse().unwrap())
}

fn tlog(broker: &Broker, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tlog"));
    command
        .args(args)
        .env("TLOG_URL", broker.url(""))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn said(broker: &Broker, args: &[&str]) -> (bool, String, String) {
    let output = tlog(broker, args).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.success(), text(output.stdout), text(output.stderr))
}

#[tokio::test(flavor = "multi_thread")]
async fn tlog_subscribe_prints_what_was_missed_and_acks_it() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path());
    let client = client(&broker);
    let (orders, prices) = (namespace(&client, "shop/orders").await, namespace(&client, "prices").await);
    let args = ["subscribe", "ann", "--room", "shop%2Forders/o%2F1", "--namespace", "prices", "-n", "2"];
    let first = tlog(&broker, &args).spawn().unwrap();
    eventually("it is connected", async || {
        client.subscriber("ann").unwrap().state().await.is_ok_and(|state| state.connected)
    })
    .await;
    for key in ["o/1", "o/2", "o/1", "o/1"] {
        orders.publish(&NewRecord::text("tea").with_key(key)).await.unwrap();
    }
    let output = tokio::task::spawn_blocking(move || first.wait_with_output()).await.unwrap().unwrap();
    let offsets = |text: &str| -> Vec<u64> {
        let records = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        records.map(|record| record["offset"].as_u64().unwrap()).collect()
    };
    assert!(output.status.success(), "{output:?}");
    assert_eq!(offsets(std::str::from_utf8(&output.stdout).unwrap()), [0, 2]);
    prices.publish(&NewRecord::json("17")).await.unwrap();
    let (_, text, _) = said(&broker, &["subscribe", "ann", "-n", "2"]);
    let mut seen = offsets(&text);
    seen.sort_unstable();
    assert_eq!(seen, [0, 3]);
    assert!(text.contains("\"namespace\":\"prices\""), "{text}");

    let (_, table, _) = said(&broker, &["subscribers"]);
    let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows, [["ROOMS", "WHOLE", "BEHIND", "CONNECTED", "SUBSCRIBER"], ["1", "1", "0", "no", "ann"]]);
    let (_, one, _) = said(&broker, &["subscribers", "ann"]);
    assert!(one.contains("shop/orders o/1\n") && one.contains("4            4  shop/orders\n"), "{one}");
    let (_, json, _) = said(&broker, &["subscribers", "--json"]);
    assert_eq!(
        serde_json::from_str::<sdk::SubscriberState>(&json).unwrap(),
        client.subscriber("ann").unwrap().state().await.unwrap()
    );
    assert_eq!(said(&broker, &["subscribers", "ann", "--delete"]).1, "ann is deleted\n");
    let (succeeded, _, error) = said(&broker, &["subscribe", "ann"]);
    assert_eq!((succeeded, error.as_str()), (false, "tlog: there is no subscriber \"ann\"\n"));
    let (succeeded, _, error) = said(&broker, &["subscribe", "ann", "--namespace", "none"]);
    assert_eq!((succeeded, error.as_str()), (false, "tlog: there is no namespace \"none\"\n"));
    drop(broker);
}
