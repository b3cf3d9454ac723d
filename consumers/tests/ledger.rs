//! The ledger's rows: a function of the log and of nothing else, and held against it offline.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::path::Path;
use std::sync::Arc;

use consumers::groups::{Dead, GroupConfig, GroupEvent, Progressed};
use consumers::{Ledger, LedgerCheck, RawRow};
use rocksdb::{DB, Options as RowOptions};
use support::groups::{HandSet, Team, config, publish};
use support::{Fixture, create};
use tempfile::TempDir;
use tlog::check::{Fault, FaultKind, Whole};
use tlog::{Log, Namespace};
use wire::NamespaceName;

async fn append(log: &Log, namespace: &Namespace, event: GroupEvent) {
    log.append_event(namespace, event.encode("g").unwrap().into()).await.unwrap();
}

/// The rows of a ledger that applies so many of the first frames one by one, and the others at once.
fn rows(log: &Log, one_by_one: usize) -> Vec<RawRow> {
    let folder = TempDir::new().unwrap();
    let ledger = Ledger::open_driven(folder.path(), log.clone(), 16).unwrap();
    for partition in 0..log.partitions() {
        for _ in 0..one_by_one {
            ledger.step(partition, 1).unwrap();
        }
        while ledger.step(partition, 1 << 20).unwrap() {}
    }
    ledger.driver().rows().unwrap()
}

/// Whatever of it falls into one batch.
#[tokio::test]
async fn a_group_that_ends_and_is_made_anew_has_its_own_letters() {
    let fixture = Fixture::new();
    let log = fixture.log();
    let namespace = create(&log, "orders").await;
    let dead_letter = Some(NamespaceName::new("dead").unwrap());
    for incarnation in 1..3_u32 {
        let config = GroupConfig { dead_letter: dead_letter.clone(), ..GroupConfig::default() };
        append(&log, &namespace, GroupEvent::Configured { incarnation, floor: 0, config }).await;
        let dead = (0..3).map(|offset| Dead::new(10 * u64::from(incarnation) + offset, 1, "no")).collect();
        append(&log, &namespace, GroupEvent::Progressed(Progressed { dead, ..Progressed::default() })).await;
        if incarnation == 1 {
            append(&log, &namespace, GroupEvent::Deleted).await;
        }
    }
    append(&log, &namespace, GroupEvent::Published { offsets: vec![20] }).await;
    let due = rows(&log, 100);
    let letters = |rows: &[RawRow]| rows.iter().filter(|(key, _)| key[0] == b'l').count();
    assert_eq!(letters(&due), 2);
    for one_by_one in 0..8 {
        assert_eq!(rows(&log, one_by_one), due, "{one_by_one} frames one by one");
    }
}

fn check(data: &Path, log: &Log) -> Vec<Fault> {
    let scratch = TempDir::new().unwrap();
    let mut check = LedgerCheck::open(data, scratch.path(), log.partitions()).unwrap().unwrap();
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

#[tokio::test]
async fn what_is_so_is_no_fault_and_what_is_not_is_named() {
    let fixture = Fixture::new();
    let (log, clock) = (fixture.log(), Arc::new(HandSet::default()));
    let data = fixture.dir.path();
    assert!(LedgerCheck::open(data, data, log.partitions()).unwrap().is_none());
    let groups = fixture.groups(&log, &clock);
    let mut namespaces = Vec::new();
    for index in 0..4 {
        let namespace = create(&log, &format!("namespace {index}")).await;
        publish(&log, &namespace, 20, |_| None).await;
        for group in ["a", "b"] {
            let team = Team::new(&groups, &namespace, group, config()).await;
            let leased = team.lease("w", 10).await;
            team.ack(&leased[3..]).await;
            team.nack(&leased[..1], None, "no").await;
        }
        namespaces.push(namespace);
    }
    log.delete(&namespaces.remove(0)).await.unwrap();
    groups.state(&namespaces[0], &support::groups::name("a")).await.unwrap();
    groups.ledger().close();
    drop(groups);
    for namespace in &namespaces {
        // The log has gone on, and the rows stand for what they say.
        append(&log, namespace, GroupEvent::Deleted).await;
    }
    assert_eq!(check(data, &log), []);

    let found = fixture.group_rows();
    let groups: Vec<_> = found.iter().filter(|(key, _)| key[0] == b'g').collect();
    let (altered, removed) = (&groups[1].0, &groups[4].0);
    {
        let db = DB::open(&RowOptions::default(), data.join("ledger")).unwrap();
        let mut other = groups[1].1.to_vec();
        *other.last_mut().unwrap() ^= 1;
        db.put(altered, other).unwrap();
        db.delete(removed).unwrap();
        db.put(b"l\0\0\x01\x01znumbered", b"who?").unwrap();
        db.flush().unwrap();
    }
    let faults = check(data, &log);
    assert!(faults.iter().all(|fault| fault.kind == FaultKind::Ledger && fault.rebuilt_by.is_some()));
    let said: Vec<_> = faults.iter().map(|fault| (fault.key.clone().unwrap(), fault.reason.as_str())).collect();
    let readable = |key: &[u8]| key.escape_ascii().to_string();
    let due = [
        (readable(altered), "it is not what the log amounts to"),
        (readable(removed), "it is missing"),
        (readable(b"l\0\0\x01\x01znumbered"), "nothing in the log says so"),
    ];
    assert_eq!(said, due);
}
