//! The stores, held against the log while nobody has them open.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use consumers::StoresCheck;
use rocksdb::{DB, Options as RowOptions};
use support::{Fixture, Mixed, create, rows, settled};
use tempfile::TempDir;
use tlog::Log;
use tlog::check::{Fault, Whole};
use wire::Shard;

fn check(fixture: &Fixture, log: &Log) -> Vec<Fault> {
    let scratch = TempDir::new().unwrap();
    let mut check = StoresCheck::open(fixture.dir.path(), scratch.path(), log.partitions()).unwrap().unwrap();
    let mut wholes = Vec::new();
    for partition in 0..log.partitions() {
        let end = log.watermark(partition).borrow().position;
        wholes.push(Whole { intact: end, end });
        let mut scan = log.scan(partition, 0);
        loop {
            let frames = scan.read_blocking(10_000).unwrap();
            if frames.is_empty() {
                break;
            }
            frames.iter().for_each(|frame| check.frame(partition, frame).unwrap());
        }
    }
    check.finish(&wholes).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_so_is_no_fault_and_what_is_not_is_named() {
    let fixture = Fixture::new();
    let log = fixture.log();
    let mut namespaces = Vec::new();
    for index in 0..6 {
        namespaces.push(create(&log, &format!("namespace {index}")).await);
    }
    let stores = fixture.stores(&log);
    Mixed::new(1).publish(&log, &namespaces, 200).await;
    log.delete(&namespaces.remove(0)).await.unwrap();
    Mixed::new(2).publish(&log, &namespaces, 100).await;
    settled(&stores).await;
    // Many rebuilds are under way when the stores are closed: they are so far and no further.
    (0..200).for_each(|shard| stores.rebuild(Shard(shard)).unwrap());
    stores.close();
    drop(stores);
    assert!(!rows(fixture.dir.path(), b"r").is_empty(), "some are still being rebuilt");
    Mixed::new(3).publish(&log, &namespaces, 20).await;
    assert_eq!(check(&fixture, &log), [], "the log has gone on, and the stores stand for what they say");

    let found = rows(fixture.dir.path(), b"s");
    let (altered, removed) = (&found[found.len() / 3].0, &found[found.len() / 2].0);
    {
        let db = DB::open(&RowOptions::default(), fixture.dir.path().join("stores")).unwrap();
        db.put(altered, b"other").unwrap();
        db.delete(removed).unwrap();
        db.flush().unwrap();
    }
    let faults = check(&fixture, &log);
    let said: Vec<_> = faults.iter().map(|fault| (fault.key.clone().unwrap(), fault.reason.as_str())).collect();
    let readable = |key: &[u8]| key.escape_ascii().to_string();
    assert_eq!(said, [(readable(altered), "it is not what the log amounts to"), (readable(removed), "it is missing")]);
    fixture.delete_stores();
    assert!(StoresCheck::open(fixture.dir.path(), fixture.dir.path(), 2).unwrap().is_none());
    // A process that ended before anything of its stores was on the disk.
    drop(fixture.stores(&log));
    assert!(rows(fixture.dir.path(), b"").is_empty());
    assert!(StoresCheck::open(fixture.dir.path(), fixture.dir.path(), 2).unwrap().is_none());
}
