//! What can be read from the stores.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use consumers::{KeyRange, NotInMemory, Stores, StoresError};
use support::{Fixture, append, create, publish, settled, text};
use tlog::ReadError;
use wire::{NewRecord, ObjectId, Shard};

#[tokio::test]
async fn the_latest_record_of_a_key_is_read_and_a_tombstone_ends_it() {
    let fixture = Fixture::new();
    let log = fixture.log();
    let stores = fixture.stores(&log);
    let (one, other) = (create(&log, "one").await, create(&log, "other").await);
    assert_eq!(stores.latest(&one, "k").unwrap(), None);
    for value in 0..100 {
        publish(&log, &stores, &one, &[NewRecord::text(&value.to_string()).with_key("k")]).await;
        let latest = stores.latest(&one, "k").unwrap().unwrap();
        assert_eq!(text(&latest), (Some("k".to_owned()), value.to_string()));
        assert_eq!(latest.record().unwrap().offset, value);
    }
    assert_eq!(stores.latest(&other, "k").unwrap(), None, "another namespace has keys of its own");
    let in_one_batch =
        [NewRecord::text("a").with_key("k"), NewRecord::tombstone("k"), NewRecord::text("b").with_key("l")];
    publish(&log, &stores, &one, &in_one_batch).await;
    assert_eq!(stores.latest(&one, "k").unwrap(), None, "a tombstone deletes");
    assert_eq!(text(&stores.latest(&one, "l").unwrap().unwrap()).1, "b");
    publish(&log, &stores, &one, &[NewRecord::text("again").with_key("k")]).await;
    assert_eq!(text(&stores.latest(&one, "k").unwrap().unwrap()).1, "again");
}

#[tokio::test]
async fn what_is_on_disk_is_left_to_who_may_wait() {
    let fixture = Fixture::new();
    let log = fixture.log();
    let stores = fixture.stores(&log);
    let namespace = create(&log, "cold").await;
    // Opening reads the count of each store. Large values, so that the last is in another block of the file.
    let values = ["a", "b", "c"].map(|value| value.repeat(20_000));
    publish(&log, &stores, &namespace, &values.each_ref().map(|value| NewRecord::text(value).with_key("k"))).await;
    publish(&log, &stores, &namespace, &[NewRecord::text("1").with_key("l"), NewRecord::tombstone("l")]).await;
    let in_memory = |stores: &Stores, key: &str| stores.latest_in_memory(&namespace, key);
    assert_eq!(in_memory(&stores, "l"), Ok(None), "a tombstone ends it here, too");
    let written = in_memory(&stores, "k").expect("what was just written is in memory").unwrap();
    assert_eq!(text(&written), (Some("k".to_owned()), values[2].clone()));
    stores.close();
    drop(stores);

    let stores = fixture.stores(&log);
    settled(&stores).await;
    assert_eq!(in_memory(&stores, "k"), Err(NotInMemory));
    assert_eq!(stores.latest(&namespace, "k").unwrap().as_ref(), Some(&written));
    assert_eq!(in_memory(&stores, "k"), Ok(Some(written)), "it has been read from there");
}

#[tokio::test]
async fn an_object_is_read_by_its_id_and_previous_walks_back_to_the_first() {
    let fixture = Fixture::new();
    let log = fixture.log();
    let stores = fixture.stores(&log);
    let namespace = create(&log, "walk").await;
    let values: Vec<String> = (0..500).map(|value| format!("value {value}")).collect();
    let mut last = [const { None::<ObjectId> }; 256];
    for values in values.chunks(9) {
        let records: Vec<_> = values.iter().map(|value| NewRecord::text(value)).collect();
        publish(&log, &stores, &namespace, &records).await;
    }
    let mut reader = log.reader(&namespace, 0).unwrap();
    for frame in reader.read_blocking(usize::MAX).unwrap() {
        for record in frame.records() {
            let stored = stores.object(record.id).unwrap().unwrap();
            assert_eq!(stored.record().unwrap(), record);
            assert_eq!(stored.id(), record.id);
            let before = &mut last[usize::from(record.id.shard().0)];
            assert_eq!(stores.previous(record.id).unwrap().map(|stored| stored.id()), *before);
            *before = Some(record.id);
        }
    }
    let mut walked = 0;
    for id in last.into_iter().flatten() {
        let mut next = stores.object(id).unwrap();
        while let Some(stored) = next {
            walked += 1;
            next = stores.previous(stored.id()).unwrap();
        }
    }
    assert_eq!(walked, values.len());
    assert_eq!(stores.object(ObjectId::new(Shard(0), namespace.id(), 1_000_000)).unwrap(), None);
}

#[tokio::test]
async fn objects_and_lag_are_counted() {
    let fixture = Fixture::new();
    let log = fixture.log();
    let stores = fixture.stores(&log);
    let namespace = create(&log, "count").await;
    let values: Vec<String> = (0..300).map(|value| value.to_string()).collect();
    let records: Vec<_> = values.iter().map(|value| NewRecord::text(value).with_key("the same")).collect();
    publish(&log, &stores, &namespace, &records).await;
    settled(&stores).await;
    let states = stores.states().unwrap();
    assert_eq!(states.len(), 256);
    let shard = Shard::of(Some("the same"), b"");
    for (index, state) in states.iter().enumerate() {
        assert_eq!(usize::from(state.shard.0), index);
        assert_eq!((state.lag, state.rebuilding), (0, false));
        assert_eq!(state.objects, if state.shard == shard { 300 } else { 0 });
    }
    stores.close();
    drop(stores);
    let again = fixture.stores(&log).states().unwrap();
    assert_eq!(again, states, "the counts are kept");
}

#[tokio::test]
async fn waiting_ends_when_the_record_is_applied_and_not_before_it_exists() {
    let fixture = Fixture::new();
    let log = fixture.log();
    let stores = fixture.stores(&log);
    let namespace = create(&log, "wait").await;
    let (waiting, of) = (stores.clone(), namespace.clone());
    let waiter = tokio::spawn(async move {
        waiting.wait_applied(&of, 1).await.unwrap();
        waiting.latest(&of, "k").unwrap().map(|latest| text(&latest).1)
    });
    append(&log, &namespace, &[NewRecord::text("0").with_key("k")]).await;
    stores.wait_applied(&namespace, 0).await.unwrap();
    tokio::task::yield_now().await;
    assert!(!waiter.is_finished(), "offset 1 does not exist");
    append(&log, &namespace, &[NewRecord::text("1").with_key("k")]).await;
    assert_eq!(waiter.await.unwrap().as_deref(), Some("1"));
}

#[tokio::test]
async fn waiting_ends_with_an_error_when_the_namespace_is_deleted_or_the_stores_are_closed() {
    let fixture = Fixture::new();
    let log = fixture.log();
    let stores = fixture.stores(&log);
    let (gone, stays) = (create(&log, "gone").await, create(&log, "stays").await);
    let wait_for = |namespace: &tlog::Namespace| {
        let (stores, namespace) = (stores.clone(), namespace.clone());
        tokio::spawn(async move { stores.wait_applied(&namespace, 7).await })
    };
    let (on_gone, on_stays) = (wait_for(&gone), wait_for(&stays));
    log.delete(&gone).await.unwrap();
    let deleted = on_gone.await.unwrap();
    assert!(matches!(deleted, Err(StoresError::Read(ReadError::NamespaceNotFound))), "{deleted:?}");
    stores.close();
    let closed = on_stays.await.unwrap();
    assert!(matches!(closed, Err(StoresError::Closed)), "{closed:?}");
    assert!(matches!(stores.rebuild(Shard(0)), Err(StoresError::Closed)));
}

#[tokio::test]
async fn a_deleted_namespace_leaves_no_row_and_takes_nothing_else_along() {
    let fixture = Fixture::new();
    let log = fixture.log();
    let stores = fixture.stores(&log);
    // In the same partition, so that one batch holds records of both, and a control frame.
    let mut namespaces = Vec::new();
    for index in 0.. {
        let namespace = create(&log, &format!("namespace {index}")).await;
        if namespace.id().partition(log.partitions()) == 0 {
            namespaces.push(namespace);
        }
        if namespaces.len() == 3 {
            break;
        }
    }
    let [small, large, stays] = &namespaces[..] else { panic!("three were made") };
    let values: Vec<String> = (0..200).map(|value| value.to_string()).collect();
    let keyed: Vec<_> = values.iter().map(|value| NewRecord::text(value).with_key(value)).collect();
    let same: Vec<_> = values.iter().map(|value| NewRecord::text(value).with_key("same")).collect();
    stores.close();
    drop(stores);
    append(&log, small, &keyed).await;
    append(&log, stays, &keyed).await;
    append(&log, large, &same).await;
    append(&log, large, &keyed).await;
    log.delete(small).await.unwrap();
    append(&log, stays, &same).await;
    log.delete(large).await.unwrap();
    let stores = fixture.stores(&log);
    settled(&stores).await;
    for namespace in [small, large] {
        assert_eq!(stores.latest(namespace, "7").unwrap(), None);
        assert_eq!(stores.range(namespace, &KeyRange::default()).unwrap().records, []);
    }
    assert_eq!(stores.range(stays, &KeyRange::default()).unwrap().records.len(), 201);
    assert_eq!(stores.states().unwrap().iter().map(|state| state.objects).sum::<u64>(), 400);
    stores.close();
    drop(stores);
    let ids = [small, large].map(|namespace| namespace.id().to_be_bytes());
    let left = fixture.rows().into_iter().find(|(key, _)| key.len() >= 6 && ids.iter().any(|id| key[3..6] == *id));
    assert_eq!(left, None);
}
