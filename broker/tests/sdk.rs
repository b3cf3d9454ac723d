//! The Rust client against a real broker: what its own tests can't see with a fake one.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::collections::BTreeMap;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use sdk::{
    Append, Client, Code, DraftBuilder, Error, Event, Kind, NamespaceConfig, NewRecord, Range, Record, Retry,
    Sequenced, Shard, StartAt,
};
use support::{Broker, eventually};
use tempfile::TempDir;

fn start() -> (Broker, TempDir, Client) {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path());
    let client = Client::new(&broker.url("")).unwrap();
    (broker, folder, client)
}

fn batch(values: impl IntoIterator<Item = String>) -> sdk::Draft {
    let mut builder = DraftBuilder::default();
    values.into_iter().for_each(|value| builder.push(&NewRecord::text(&value)).unwrap());
    builder.finish().unwrap()
}

fn record(event: Option<Result<Event, Error>>) -> Record {
    match event {
        Some(Ok(Event::Record(record))) => record,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_namespace_is_made_described_listed_and_deleted() {
    let (_broker, _folder, client) = start();
    let orders = client.namespace("orders/ä b?#%").unwrap();
    let error = orders.info().await.unwrap_err();
    assert_eq!((error.code(), error.retry()), (Some(Code::NamespaceNotFound), Retry::Never));
    let config = NamespaceConfig { max_record_bytes: 1000 };
    assert_eq!(orders.ensure(&config).await.unwrap(), sdk::Ensured::Created);
    assert_eq!(orders.ensure(&config).await.unwrap(), sdk::Ensured::Existed);
    let error = orders.ensure(&NamespaceConfig::default()).await.unwrap_err();
    assert_eq!(error.code(), Some(Code::ConfigConflict));
    let info = orders.info().await.unwrap();
    assert_eq!((info.name.as_str(), info.next_offset, info.config), ("orders/ä b?#%", 0, config));
    assert_eq!(client.namespaces("orders/").try_collect::<Vec<_>>().await.unwrap(), [info]);
    orders.delete().await.unwrap();
    assert_eq!(orders.info().await.unwrap_err().code(), Some(Code::NamespaceNotFound));
}

#[tokio::test]
async fn a_long_list_comes_in_pages() {
    let (_broker, _folder, client) = start();
    let names: Vec<String> = (0..1100).map(|number| format!("n{number:04}")).collect();
    let ensure = |name: String| {
        let namespace = client.namespace(&name).unwrap();
        async move { namespace.ensure(&NamespaceConfig::default()).await.map(drop) }
    };
    futures::stream::iter(names.clone()).map(ensure).buffer_unordered(64).try_collect::<()>().await.unwrap();
    let listed: Vec<String> = client.namespaces("n").map_ok(|info| info.name).try_collect().await.unwrap();
    assert_eq!(listed, names);
}

#[tokio::test]
async fn a_batch_is_appended_on_conditions() {
    let (_broker, _folder, client) = start();
    let log = client.namespace("log").unwrap();
    let at = |offset| Append { if_next_offset: Some(offset), ..Append::default() };
    let first = log.append(batch(["a".into(), "b".into()]), at(0)).await.unwrap();
    assert_eq!((first.first_offset, first.next_offset, first.ids.len(), first.duplicate), (0, 2, 2, false));
    let error = log.append(batch(["c".into()]), at(1)).await.unwrap_err();
    assert_eq!((error.code(), error.problem().unwrap().next_offset), (Some(Code::OffsetMismatch), Some(2)));
    let producer =
        |epoch, sequence| Append { producer: Some(Sequenced { id: "producer", epoch, sequence }), ..Append::default() };
    let sent = log.append(batch(["c".into()]), producer(1, 0)).await.unwrap();
    let again = log.append(batch(["c".into()]), producer(1, 0)).await.unwrap();
    assert_eq!((sent.first_offset, again.first_offset, again.duplicate), (2, 2, true));
    let error = log.append(batch(["e".into()]), producer(1, 2)).await.unwrap_err();
    assert_eq!(error.code(), Some(Code::ProducerGap));
    log.append(batch(["d".into()]), producer(2, 0)).await.unwrap();
    let error = log.append(batch(["e".into()]), producer(1, 1)).await.unwrap_err();
    assert_eq!(error.code(), Some(Code::ProducerFenced));
    assert_eq!(log.info().await.unwrap().next_offset, 4);
}

#[tokio::test]
async fn pages_are_read_and_the_next_record_waited_for() {
    let (_broker, _folder, client) = start();
    let log = client.namespace("log").unwrap();
    log.publish_batch(batch((0..50).map(|number| number.to_string()))).await.unwrap();
    let page = log.read(10, 20, Duration::ZERO).await.unwrap();
    let values: Vec<&str> = page.records.iter().map(|record| record.text().unwrap()).collect();
    assert_eq!(values, (10..30).map(|number| number.to_string()).collect::<Vec<_>>());
    assert_eq!((page.next_offset, page.head), (30, 50));
    assert!(log.read(50, 20, Duration::ZERO).await.unwrap().records.is_empty());
    assert_eq!(log.read(51, 20, Duration::ZERO).await.unwrap_err().code(), Some(Code::OffsetPastHead));
    let waiting = log.read(50, 20, Duration::from_secs(30));
    let headers = [("trace".into(), "7".into())];
    let publish = async { log.publish(&NewRecord::json("{\"a\":1}").with_key("k").with_headers(&headers)).await };
    let (page, published) = tokio::join!(waiting, publish);
    let (page, published) = (page.unwrap(), published.unwrap());
    assert_eq!((page.records[0].id, page.records[0].kind), (published.ids[0], Kind::Json));
    assert_eq!(page.records[0].headers, [("trace".to_owned(), "7".to_owned())]);
}

#[tokio::test]
async fn many_namespaces_are_followed_over_one_connection_and_through_a_restart() {
    let (broker, folder, client) = start();
    let names: Vec<String> = (0..5).map(|number| format!("many/{number}")).collect();
    for name in &names {
        client.namespace(name).unwrap().publish(&NewRecord::text("before")).await.unwrap();
    }
    let mut events = client.subscribe(&names).open().await.unwrap();
    let mut due: BTreeMap<String, u64> = names.iter().map(|name| (name.clone(), 1)).collect();
    let mut take = |record: Record| {
        let due = due.get_mut(record.namespace.as_deref().unwrap()).unwrap();
        assert_eq!(record.offset, *due);
        *due += 1;
    };
    // Nothing has come yet: what comes while the broker is away is not lost.
    let address = broker.address().to_string();
    broker.kill();
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_tlog"));
    command.arg("serve").arg("--data").arg(folder.path()).args(["--listen", &address]);
    let broker = Broker::try_start(command).unwrap();
    for round in 0..3 {
        for name in &names {
            client.namespace(name).unwrap().publish(&NewRecord::text(&round.to_string())).await.unwrap();
        }
        for _ in 0..names.len() {
            take(record(events.next().await));
        }
    }
    drop(broker);
}

#[tokio::test]
async fn keys_are_put_read_ranged_over_and_deleted() {
    let (_broker, _folder, client) = start();
    let table = client.namespace("table").unwrap();
    let keys: Vec<String> = (0..2500).map(|number| format!("k/{number:05}")).collect();
    let publisher = table.publisher().open().unwrap();
    for (key, number) in keys.iter().zip(0..) {
        drop(publisher.send(&NewRecord::json(&format!("{number}")).with_key(key)).await.unwrap());
    }
    publisher.close().await.unwrap();
    let other = table.put("other", &NewRecord::bytes(b"\0\xff")).await.unwrap();

    let found = table.latest("other", Some(other.first_offset)).await.unwrap().unwrap();
    assert_eq!(
        (found.offset, found.id, found.kind, &found.value[..]),
        (2500, other.ids[0], Kind::Bytes, &b"\0\xff"[..])
    );
    assert_eq!(table.latest("nothing", None).await.unwrap(), None);
    let error = client.namespace("none").unwrap().latest("k", None).await.unwrap_err();
    assert_eq!(error.code(), Some(Code::NamespaceNotFound));
    assert!(matches!(table.latest("..", None).await, Err(Error::NotAddressable(_))));

    let ranged = |range: Range| table.range(range).map_ok(|record| record.key.unwrap()).try_collect::<Vec<String>>();
    assert_eq!(ranged(Range::prefix("k/")).await.unwrap(), keys);
    let range = Range { from: Some("k/00010".into()), to: Some("k/00013".into()), ..Range::all() };
    assert_eq!(ranged(range).await.unwrap(), keys[10..13]);

    let deleted = table.delete_key("k/00011").await.unwrap();
    assert_eq!(table.latest("k/00011", Some(deleted.first_offset)).await.unwrap(), None);
    assert_eq!(ranged(Range::prefix("k/0001")).await.unwrap().len(), 9);
}

#[tokio::test]
async fn objects_are_walked_back_to_the_first_and_a_store_is_rebuilt() {
    let (_broker, _folder, client) = start();
    let table = client.namespace("table").unwrap();
    let mut last = table.put("key", &NewRecord::text("0")).await.unwrap();
    for number in 1..5 {
        last = table.put("key", &NewRecord::text(&number.to_string())).await.unwrap();
    }
    table.latest("key", Some(last.first_offset)).await.unwrap();
    let shard = Shard::of(Some("key"), b"");
    let walk = async || {
        let mut values = Vec::new();
        let mut next = client.object(last.ids[0]).await.unwrap();
        while let Some(record) = next {
            assert_eq!((record.id.shard(), record.namespace.as_deref()), (shard, Some("table")));
            values.push(record.text().unwrap().to_owned());
            next = client.previous(record.id).await.unwrap();
        }
        values
    };
    assert_eq!(walk().await, ["4", "3", "2", "1", "0"]);

    client.rebuild_store(shard).await.unwrap();
    eventually("the store is rebuilt", async || {
        client.stores().await.unwrap().iter().all(|store| !store.rebuilding && store.lag == 0)
    })
    .await;
    assert_eq!(walk().await, ["4", "3", "2", "1", "0"]);
}

#[tokio::test]
async fn what_a_publisher_sends_is_what_a_rebuild_proves() {
    let (_broker, _folder, client) = start();
    let log = client.namespace("log").unwrap();
    let mut events = log.subscribe().from(StartAt::Start).open().await;
    assert_eq!(events.as_ref().unwrap_err().code(), Some(Code::NamespaceNotFound));
    log.ensure(&NamespaceConfig::default()).await.unwrap();
    events = log.subscribe().from(StartAt::Start).open().await;

    let publisher = log.publisher().batch_records(100).in_flight(8).open().unwrap();
    let mut acks = Vec::new();
    for number in 0..20_000 {
        acks.push(publisher.send(&NewRecord::text(&number.to_string())).await.unwrap());
    }
    for (ack, offset) in acks.into_iter().zip(0..) {
        assert_eq!(ack.await.unwrap().offset, offset);
    }
    let progress = publisher.close().await.unwrap();
    assert_eq!((progress.records, progress.next_offset), (20_000, Some(20_000)));

    let mut rebuild = log.rebuild();
    let mut due = 0;
    while let Some(frame) = rebuild.next().await.unwrap() {
        for record in sdk::records(&frame) {
            assert_eq!(record.text(), Some(due.to_string().as_str()));
            due += 1;
        }
    }
    let (proof, info) = (rebuild.proof().cloned().unwrap(), log.info().await.unwrap());
    assert_eq!((proof.records, proof.chain, proof.bytes), (20_000, info.chain, info.bytes));
    let mut events = events.unwrap();
    for offset in 0..20_000 {
        assert_eq!(record(events.next().await).offset, offset);
    }
}
