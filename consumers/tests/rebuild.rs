//! Rebuilding one store while records are published and the others serve (invariant 7).
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use consumers::{NotInMemory, Stores, StoresError};
use support::{Fixture, Mixed, append, create, settled, until};
use tlog::Namespace;
use wire::{NewRecord, Shard};

/// The shard of a key that is written over and over.
const HOT: &str = "hot";

#[tokio::test(flavor = "multi_thread")]
async fn a_store_is_rebuilt_to_the_same_bytes_while_records_are_published() {
    let fixture = Fixture::new();
    let log = fixture.log();
    let stores = fixture.stores(&log);
    let mut namespaces = Vec::new();
    for index in 0..6 {
        namespaces.push(create(&log, &format!("namespace {index}")).await);
    }
    Mixed::new(1).publish(&log, &namespaces, 300).await;
    let enough = Arc::new(AtomicBool::new(false));
    let publisher = {
        let (log, mut namespaces, enough) = (log.clone(), namespaces.clone(), Arc::clone(&enough));
        tokio::spawn(async move {
            let mut mixed = Mixed::new(2);
            let mut rounds = 0;
            while !enough.load(Ordering::Relaxed) {
                mixed.publish(&log, &namespaces, 10).await;
                append(&log, &namespaces[0], &[NewRecord::text(&rounds.to_string()).with_key(HOT)]).await;
                rounds += 1;
                if rounds % 10 == 0 && namespaces.len() > 2 {
                    log.delete(&namespaces.remove(1)).await.unwrap();
                }
            }
        })
    };
    // The latest value of a key never goes back, whatever is rebuilt meanwhile.
    let watcher = {
        let (stores, namespace, enough) = (stores.clone(), namespaces[0].clone(), Arc::clone(&enough));
        tokio::task::spawn_blocking(move || watch(&stores, &namespace, &enough))
    };
    let hot = Shard::of(Some(HOT), b"");
    for shard in [Shard(0), hot, Shard(0xff), hot, hot, Shard(7), Shard(8)] {
        stores.rebuild(shard).unwrap();
        stores.rebuild(shard).unwrap();
        if shard != Shard(7) {
            let whole = || !stores.states().unwrap()[usize::from(shard.0)].rebuilding;
            until(whole).await;
        }
    }
    settled_rebuilds(&stores).await;
    enough.store(true, Ordering::Relaxed);
    publisher.await.unwrap();
    let (seen, in_memory) = watcher.await.unwrap();
    assert!(seen > 0 && in_memory > 0, "{seen} {in_memory}");
    settled(&stores).await;
    stores.close();
    drop(stores);
    let rebuilt = fixture.rows();
    fixture.delete_stores();
    let stores = fixture.stores(&log);
    settled(&stores).await;
    stores.close();
    drop(stores);
    for (rebuilt, fresh) in rebuilt.iter().zip(fixture.rows().iter()) {
        assert_eq!(rebuilt, fresh);
    }
    assert_eq!(rebuilt.len(), fixture.rows().len());
}

/// Reads a key in both ways, and holds that it never goes back. Where it was seen last, and how often it was read
/// from memory.
fn watch(stores: &Stores, namespace: &Namespace, enough: &AtomicBool) -> (u64, u64) {
    let (mut seen, mut in_memory) = (0, 0);
    for in_turn in [true, false].into_iter().cycle() {
        if enough.load(Ordering::Relaxed) {
            break;
        }
        let latest = match stores.latest_in_memory(namespace, HOT) {
            Ok(latest) if in_turn => {
                in_memory += 1;
                Ok(latest)
            }
            Ok(_) | Err(NotInMemory) => stores.latest(namespace, HOT),
        };
        match latest {
            Ok(None) => assert_eq!(seen, 0, "the key had a value"),
            Ok(Some(latest)) => {
                let offset = latest.record().unwrap().offset;
                assert!(offset >= seen, "{offset} after {seen}");
                seen = offset;
            }
            Err(StoresError::Rebuilding(_)) => {}
            Err(error) => panic!("{error}"),
        }
    }
    (seen, in_memory)
}

async fn settled_rebuilds(stores: &consumers::Stores) {
    until(|| stores.states().unwrap().iter().all(|state| !state.rebuilding)).await;
}

#[tokio::test]
async fn every_store_can_be_asked_for_at_once() {
    let fixture = Fixture::new();
    let log = fixture.log();
    let stores = fixture.stores(&log);
    let namespace = create(&log, "all").await;
    Mixed::new(9).publish(&log, std::slice::from_ref(&namespace), 100).await;
    settled(&stores).await;
    let before = stores.states().unwrap();
    for shard in 0..=u8::MAX {
        stores.rebuild(Shard(shard)).unwrap();
    }
    settled(&stores).await;
    assert_eq!(stores.states().unwrap(), before);
}

#[tokio::test]
async fn a_rebuild_goes_on_after_a_crash() {
    let fixture = Fixture::new();
    let log = fixture.log();
    let namespace = create(&log, "crash").await;
    let mut mixed = Mixed::new(4);
    mixed.publish(&log, std::slice::from_ref(&namespace), 500).await;
    let stores = fixture.stores(&log);
    settled(&stores).await;
    stores.close();
    drop(stores);
    let whole = fixture.rows_of(Shard(5));
    assert!(!whole.is_empty());
    for _ in 0..5 {
        let stores = fixture.stores(&log);
        stores.rebuild(Shard(5)).unwrap();
        drop(stores);
    }
    let stores = fixture.stores(&log);
    settled(&stores).await;
    stores.close();
    drop(stores);
    assert_eq!(fixture.rows_of(Shard(5)), whole);
}
