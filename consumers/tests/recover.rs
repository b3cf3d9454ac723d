//! Crashes, deleted folders and wrong logs (invariants 7 and 8).
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::collections::BTreeMap;

use consumers::{FolderError, StoresError};
use support::{Fixture, Mixed, Row, create, rows, settled, until};
use tlog::{Log, Namespace, Options};
use wire::NamespaceId;

async fn namespaces(log: &Log, count: usize) -> Vec<Namespace> {
    let mut namespaces = Vec::new();
    for index in 0..count {
        namespaces.push(create(log, &format!("namespace {index}")).await);
    }
    namespaces
}

#[tokio::test]
async fn deleted_stores_come_back_from_the_log_to_the_same_bytes() {
    let fixture = Fixture::new();
    let log = fixture.log();
    let stores = fixture.stores(&log);
    let mut namespaces = namespaces(&log, 5).await;
    let mut mixed = Mixed::new(1);
    mixed.publish(&log, &namespaces, 200).await;
    log.delete(&namespaces.remove(2)).await.unwrap();
    mixed.publish(&log, &namespaces, 200).await;
    settled(&stores).await;
    stores.close();
    drop(stores);
    let before = fixture.rows();
    assert!(before.len() > 2_000, "{} rows", before.len());
    fixture.delete_stores();
    let stores = fixture.stores(&log);
    settled(&stores).await;
    stores.close();
    drop(stores);
    assert_same(&fixture.rows(), &before);
}

/// Equal, without printing thousands of rows where they are not.
fn assert_same(one: &[Row], other: &[Row]) {
    assert_eq!(one.len(), other.len());
    for (one, other) in one.iter().zip(other) {
        assert_eq!(one, other);
    }
}

#[tokio::test]
async fn what_a_crash_leaves_is_the_state_of_its_offset_rows_and_goes_on_from_there() {
    let fixture = Fixture::new();
    let mut log = fixture.log();
    let namespaces = namespaces(&log, 4).await;
    let mut mixed = Mixed::new(2);
    for round in 0..6 {
        let stores = fixture.stores(&log);
        let seen = || stores.states().unwrap().iter().map(|state| state.objects).sum::<u64>();
        let (before, partly) = (seen(), mixed.publish(&log, &namespaces, 300));
        partly.await;
        until(|| seen() > before).await;
        match round % 3 {
            // A crash: what is not flushed is gone. A close in the midst: all of it is there.
            0 => drop(stores),
            1 => stores.close(),
            _ => {
                settled(&stores).await;
                stores.close();
            }
        }
        assert_consistent(&fixture, &log);
        if round == 3 {
            log.close();
            drop(log);
            log = fixture.log();
        }
    }
    let stores = fixture.stores(&log);
    settled(&stores).await;
    stores.close();
    drop(stores);
    let resumed = fixture.rows();
    fixture.delete_stores();
    let stores = fixture.stores(&log);
    settled(&stores).await;
    stores.close();
    drop(stores);
    assert_same(&resumed, &fixture.rows());
}

/// Flushes in the midst of applying: what is on disk then is no state that anybody has seen closed.
/// So many records are more than all memtables hold, so at least one has been flushed.
#[tokio::test]
async fn a_crash_after_flushes_in_the_midst_leaves_a_prefix() {
    let fixture = Fixture::with(Options { partitions: 2, ..Options::default() });
    let log = fixture.log();
    let namespaces = namespaces(&log, 4).await;
    let value = "v".repeat(2_000);
    let mut mixed = Mixed::new(3);
    for index in 0..24_u64 {
        let keys: Vec<String> = (0..5_000).map(|key| format!("{}", (key * 7 + index) % 9_000)).collect();
        let records: Vec<_> = keys.iter().map(|key| wire::NewRecord::text(&value).with_key(key)).collect();
        support::append(&log, &namespaces[index as usize % 4], &records).await;
        mixed.publish(&log, &namespaces, 10).await;
    }
    let stores = fixture.stores(&log);
    until(|| stores.states().unwrap().iter().map(|state| state.objects).sum::<u64>() > 105_000).await;
    drop(stores);
    let applied = assert_consistent(&fixture, &log);
    assert!(applied > 0, "memtables were flushed while records were applied");
    let stores = fixture.stores(&log);
    settled(&stores).await;
    stores.close();
    drop(stores);
    assert_consistent(&fixture, &log);
}

/// Compares the rows on disk with the frames before the offset rows on disk, record by record.
/// Returns how many records that is.
fn assert_consistent(fixture: &Fixture, log: &Log) -> u64 {
    let mut objects = BTreeMap::new();
    let mut latest = BTreeMap::new();
    let number = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().unwrap());
    let mut control = 0;
    let mut counted = 0;
    for (key, row) in rows(fixture.dir.path(), b"p\0") {
        let partition = u16::from_be_bytes([key[3], key[4]]);
        let (position, records) = (number(&row[..8]), number(&row[8..16]));
        let mut scan = log.scan(partition, 0);
        let mut seen = 0;
        while scan.position() < position {
            for frame in scan.read_blocking(1).unwrap() {
                seen += u64::from(frame.record_count());
                if frame.namespace() == NamespaceId::CONTROL {
                    control += u64::from(frame.record_count());
                    continue;
                }
                for record in frame.records() {
                    let (shard, namespace) = (record.id.shard().0, record.id.namespace().to_be_bytes());
                    objects.insert(
                        [&[b's', shard, b'o'][..], &namespace, &record.id.counter().to_be_bytes()].concat(),
                        record.encoded.to_vec(),
                    );
                    if let Some(key) = record.key {
                        let row = [&[b's', shard, b'k'][..], &namespace, key.as_bytes()].concat();
                        match record.kind {
                            wire::Kind::Tombstone => latest.remove(&row),
                            _ => latest.insert(row, record.id.counter().to_le_bytes().to_vec()),
                        };
                    }
                }
            }
        }
        assert_eq!(scan.position(), position, "an offset row stands where a frame ends");
        assert_eq!(seen, records);
    }
    for (key, value) in fixture.rows() {
        match key[2] {
            b'o' => assert_eq!(objects.remove(&key).as_deref(), Some(&value[16..])),
            b'k' => assert_eq!(latest.remove(&key), Some(value)),
            b'c' => counted += number(&value),
            _ => panic!("an unknown row {}", key.escape_ascii()),
        }
    }
    assert!(objects.is_empty() && latest.is_empty(), "rows are missing");
    let applied: u64 = rows(fixture.dir.path(), b"p\0").iter().map(|(_, row)| number(&row[8..16])).sum();
    assert_eq!(counted, applied - control);
    applied
}

#[tokio::test]
async fn stores_of_another_log_are_refused() {
    let fixture = Fixture::new();
    let log = fixture.log();
    let spaces = namespaces(&log, 4).await;
    Mixed::new(4).publish(&log, &spaces, 20).await;
    let stores = fixture.stores(&log);
    settled(&stores).await;
    stores.close();
    drop(stores);
    let refused = |log: Log, why: &str| {
        let error = consumers::Stores::open(fixture.dir.path(), log).unwrap_err();
        assert!(matches!(error, StoresError::Folder(FolderError::OtherLog { .. })), "{error}");
        let error = error.to_string();
        assert!(error.contains(why) && error.contains("delete the folder"), "{error}");
    };

    let short = Fixture::new();
    refused(short.log(), "which ends at 0");

    let long = Fixture::new();
    let other_log = long.log();
    let spaces = namespaces(&other_log, 4).await;
    Mixed::new(6).publish(&other_log, &spaces, 60).await;
    refused(other_log, "is not there");

    let wide = Fixture::with(Options { partitions: 4, ..Options::default() });
    refused(wide.log(), "2 partitions");

    let stores = fixture.stores(&log);
    settled(&stores).await;
}

#[tokio::test]
async fn a_log_of_the_same_shape_is_not_the_same_log() {
    let fixture = Fixture::new();
    let (log, twin) = (fixture.log(), Fixture::new());
    let twin_log = twin.log();
    for (log, value) in [(&log, "one"), (&twin_log, "two")] {
        let namespace = create(log, "twin").await;
        support::append(log, &namespace, &[wire::NewRecord::text(value)]).await;
    }
    let stores = fixture.stores(&log);
    settled(&stores).await;
    stores.close();
    drop(stores);
    let error = consumers::Stores::open(fixture.dir.path(), twin_log).unwrap_err();
    assert!(error.to_string().contains("another frame has its place"), "{error}");
}

#[tokio::test]
async fn another_layout_is_refused() {
    let fixture = Fixture::new();
    let log = fixture.log();
    let stores = fixture.stores(&log);
    stores.close();
    drop(stores);
    {
        let db = rocksdb::DB::open(&rocksdb::Options::default(), fixture.dir.path().join("stores")).unwrap();
        db.put(b"m", [1, 0, 2, 0]).unwrap();
    }
    let error = consumers::Stores::open(fixture.dir.path(), log).unwrap_err();
    assert!(matches!(error, StoresError::Folder(FolderError::Layout { found: 1, known: 2, .. })), "{error}");
}
