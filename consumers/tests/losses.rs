//! Stores of a log that has lost records: they hold what is left, know what is not, and go on.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::cell::Cell;

use bytes::Bytes;
use consumers::Stores;
use support::{Fixture, append, create, loss_of, settled};
use tlog::{Log, Namespace};
use wire::loss::Known;
use wire::{Frame, NamespaceId, NewRecord, ObjectId, Shard};

/// Batches of three records of one key, and so of one shard.
async fn publish(log: &Log, namespace: &Namespace, batches: u64) {
    for _ in 0..batches {
        let records: Vec<NewRecord<'_>> = (0..3).map(|_| NewRecord::text("value").with_key("key")).collect();
        append(log, namespace, &records).await;
    }
}

fn lose(fixture: &Fixture, namespace: NamespaceId, lost: impl Fn(&Frame) -> bool) {
    fixture.lose(|frame| {
        let known = Known::Counters { unlisted: frame.record_count(), listed: Vec::new() };
        (frame.namespace() == namespace && lost(frame)).then(|| loss_of(frame, known))
    });
}

fn objects(stores: &Stores) -> u64 {
    stores.states().unwrap().iter().map(|state| state.objects).sum()
}

#[tokio::test]
async fn what_is_left_is_held_and_counted_and_goes_when_its_namespace_does() {
    let shard = Shard::of(Some("key"), b"");
    // Few objects are deleted one by one, many at once.
    for batches in [10, 100] {
        let fixture = Fixture::new();
        let log = fixture.log();
        let (lossy, whole) = (create(&log, "lossy").await, create(&log, "whole").await);
        publish(&log, &lossy, batches).await;
        publish(&log, &whole, 3).await;
        log.close();
        drop(log);
        // The second to fourth batch, and the last.
        let lost = |frame: &Frame| (3..12).contains(&frame.base_offset()) || frame.next_offset() == batches * 3;
        lose(&fixture, lossy.id(), lost);

        let log = fixture.log();
        let stores = fixture.stores(&log);
        settled(&stores).await;
        assert_eq!(objects(&stores), batches * 3 - 12 + 9);
        let id = |counter| ObjectId::new(shard, lossy.id(), counter);
        let found = |id| stores.object(id).unwrap().map(|stored| stored.record().unwrap().offset);
        let previous = |id| stores.previous(id).unwrap().map(|stored| stored.record().unwrap().offset);
        assert_eq!((found(id(3)), found(id(4)), found(id(12)), found(id(13))), (Some(2), None, None, Some(12)));
        assert_eq!((previous(id(3)), previous(id(13)), previous(id(14))), (Some(1), None, Some(12)));
        let latest = stores.latest(&lossy, "key").unwrap().unwrap();
        assert_eq!(latest.record().unwrap().offset, batches * 3 - 4, "the latest that is left");
        // One that is lost counts as seen.
        stores.wait_applied(&lossy, batches * 3 - 1).await.unwrap();

        // They are opened where they stand: right behind a loss.
        stores.close();
        drop(stores);
        let rows = fixture.rows();
        let stores = fixture.stores(&log);
        settled(&stores).await;
        publish(&log, &lossy, 1).await;
        settled(&stores).await;
        let latest = stores.latest(&lossy, "key").unwrap().unwrap();
        assert_eq!((latest.record().unwrap().offset, latest.id().counter() as u64), (batches * 3 + 2, batches * 3 + 3));

        // A store that is made anew is the same.
        stores.rebuild(shard).unwrap();
        settled(&stores).await;
        assert_eq!(objects(&stores), batches * 3 - 12 + 9 + 3);
        log.delete(&lossy).await.unwrap();
        settled(&stores).await;
        assert_eq!(objects(&stores), 9);
        stores.close();
        drop(stores);
        assert!(rows.iter().any(|(key, _)| key[3..].starts_with(&lossy.id().to_be_bytes())));
        let left = fixture.rows();
        assert!(!left.iter().any(|(key, _)| key[2] != b'c' && key[3..].starts_with(&lossy.id().to_be_bytes())));
    }
}

#[tokio::test]
async fn a_delete_that_is_known_to_have_been_lost_is_applied() {
    let fixture = Fixture::new();
    let log = fixture.log();
    let (kept, deleted) = (create(&log, "kept").await, create(&log, "deleted").await);
    publish(&log, &kept, 2).await;
    publish(&log, &deleted, 5).await;
    log.delete(&deleted).await.unwrap();
    publish(&log, &kept, 2).await;
    log.close();
    drop(log);
    let lost = Cell::new(0);
    fixture.lose(|frame| {
        let events: Vec<Bytes> = frame.records().map(|record| Bytes::copy_from_slice(record.value)).collect();
        let is_delete = frame.namespace() == NamespaceId::CONTROL && events.iter().any(|event| event[0] == 2);
        lost.set(lost.get() + u32::from(is_delete));
        is_delete.then(|| loss_of(frame, Known::Events(events)))
    });
    assert_eq!(lost.get(), 1);
    let log = fixture.log();
    assert!(log.namespace("deleted").unwrap().is_none());
    let stores = fixture.stores(&log);
    settled(&stores).await;
    assert_eq!(objects(&stores), 12);
}
