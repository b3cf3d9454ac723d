//! The ledger's rows: a function of the log and of nothing else, and held against it offline.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use consumers::groups::{Dead, GroupConfig, GroupEvent, Progressed};
use consumers::locks::{LockEvent, LockName};
use consumers::rooms::Place;
use consumers::{Ledger, LedgerCheck, RawRow};
use rocksdb::{DB, Options as RowOptions};
use support::groups::{HandSet, Team, config, publish};
use support::rooms::{Site, room, subscriber};
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

/// Where the log is whole, as far as a check is told.
fn wholes(log: &Log) -> Vec<Whole> {
    let end = |partition| log.watermark(partition).borrow().position;
    (0..log.partitions()).map(|partition| Whole { intact: end(partition), end: end(partition) }).collect()
}

fn check(data: &Path, log: &Log, wholes: &[Whole]) -> Vec<Fault> {
    let scratch = TempDir::new().unwrap();
    let mut check = LedgerCheck::open(data, scratch.path(), log.partitions()).unwrap().unwrap();
    for partition in 0..log.partitions() {
        let mut scan = log.scan(partition, 0);
        loop {
            let frames = scan.read_blocking(10_000).unwrap();
            if frames.is_empty() {
                break;
            }
            frames.iter().for_each(|frame| check.frame(partition, frame).unwrap());
        }
    }
    check.finish(wholes).unwrap()
}

fn readable(key: &[u8]) -> String {
    key.escape_ascii().to_string()
}

/// What is said of which rows.
fn said(faults: &[Fault]) -> Vec<(String, &str)> {
    assert!(faults.iter().all(|fault| fault.kind == FaultKind::Ledger && fault.rebuilt_by.is_some()));
    faults.iter().map(|fault| (fault.key.clone().unwrap(), fault.reason.as_str())).collect()
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
    assert_eq!(check(data, &log, &wholes(&log)), []);

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
    let due = [
        (readable(altered), "it is not what the log amounts to"),
        (readable(removed), "it is missing"),
        (readable(b"l\0\0\x01\x01znumbered"), "nothing in the log says so"),
    ];
    assert_eq!(said(&check(data, &log, &wholes(&log))), due);
}

/// The kinds of rows, by their tags, but for offset rows: those say what is compared.
const KINDS: &[u8; 11] = b"adfgjklmnrs";

/// A namespace of a partition, with a group that has a dead letter, and a lock that is held beside one that is not.
async fn group_and_locks(site: &Site, partition: u16) -> Namespace {
    let log = &site.log;
    let mut names = (0..).map(|n| NamespaceName::new(&format!("n{n}")).unwrap());
    let namespace = create(log, &names.find(|name| name.partition(log.partitions()) == partition).unwrap()).await;
    site.publish(&namespace, &["k".to_owned(), String::new()]).await;
    let config = GroupConfig { dead_letter: Some(NamespaceName::new("dead").unwrap()), ..GroupConfig::default() };
    append(log, &namespace, GroupEvent::Configured { incarnation: 1, floor: 0, config }).await;
    let dead = vec![Dead::new(1, 1, "no")];
    append(log, &namespace, GroupEvent::Progressed(Progressed { dead, ..Progressed::default() })).await;

    let locks = (0..).map(|n| LockName::new(&format!("lock {n}")).unwrap());
    let mut locks = locks.filter(|lock| lock.partition(log.partitions()) == partition);
    let event = async |event: LockEvent, lock: &LockName| {
        log.append_partition_event(partition, event.encode(lock).unwrap().into()).await.unwrap().next_offset
    };
    let [held, released] = std::array::from_fn(|_| locks.next().unwrap());
    event(LockEvent::Granted { owner: "anna".into(), ttl_ms: 5 }, &held).await;
    let granted = event(LockEvent::Granted { owner: "anna".into(), ttl_ms: 5 }, &released).await;
    // A grant's token is the offset behind it.
    event(LockEvent::Released { token: granted + 1 }, &released).await;
    namespace
}

/// A ledger with rows of every kind in each of its partitions, which is closed: its rows.
async fn all_kinds(site: &mut Site) -> Vec<RawRow> {
    let partitions = site.log.partitions();
    let mut namespaces = Vec::new();
    for partition in 0..partitions {
        namespaces.push(group_and_locks(site, partition).await);
    }
    // Each subscriber is in rooms of another partition than its own.
    namespaces.rotate_left(1);
    let mut dying = Vec::new();
    for (partition, namespace) in (0..).zip(&namespaces) {
        let names = (0..).map(|n| subscriber(&format!("name {n}")));
        let mut names = names.filter(|name| name.partition(partitions) == partition);
        let [lives, freed, dies] = std::array::from_fn(|_| names.next().unwrap());
        for name in [&lives, &freed, &dies] {
            site.drive(site.rooms.put(name, vec![room(namespace, ""), room(namespace, "k")])).await.unwrap();
        }
        site.drive(site.rooms.delete(&freed)).await.unwrap();
        site.drive(site.rooms.sweep()).await.unwrap();
        dying.push(dies);
        let place = Place { namespace: namespace.id(), generation: namespace.generation(), next_offset: 2 };
        site.drive(site.rooms.ack(&lives, &[place])).await.unwrap();
    }
    // Nobody sweeps any more.
    for name in dying {
        site.drive(site.rooms.delete(&name)).await.unwrap();
    }
    site.apply();
    site.ledger.close();
    site.ledger.driver().rows().unwrap()
}

/// The fixture's ledger once more, with other rows.
fn altered(fixture: &Fixture, alter: impl Fn(&DB)) -> PathBuf {
    let data = fixture.dir.path().join("altered");
    if data.exists() {
        fs::remove_dir_all(&data).unwrap();
    }
    fixture.copy_groups("altered/ledger");
    let db = DB::open(&RowOptions::default(), data.join("ledger")).unwrap();
    alter(&db);
    db.flush().unwrap();
    data
}

fn change(db: &DB, (key, row): &RawRow) {
    let mut other = row.to_vec();
    match other.last_mut() {
        Some(last) => *last ^= 1,
        None => other.push(0),
    }
    db.put(key, other).unwrap();
}

/// The files in a folder, and what is in them.
fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let paths = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    paths.map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}

/// How a row is altered, and what is said of which row then.
type Manner = (fn(&DB, &RawRow), fn(&[u8]) -> Vec<u8>, &'static str);

const MANNERS: [Manner; 3] = [
    (change, <[u8]>::to_vec, "it is not what the log amounts to"),
    (|db, (key, _)| db.delete(key).unwrap(), <[u8]>::to_vec, "it is missing"),
    (|db, (key, row)| db.put(beside(key), row).unwrap(), beside, "nothing in the log says so"),
];

/// A key that no row has: the next one.
fn beside(key: &[u8]) -> Vec<u8> {
    [key, b"\0"].concat()
}

#[tokio::test]
async fn a_row_of_any_kind_that_is_changed_missing_or_left_over_is_named_and_nothing_is_written() {
    let mut site = Site::new(1);
    let rows = all_kinds(&mut site).await;
    assert_eq!(check(site.fixture.dir.path(), &site.log, &wholes(&site.log)), []);
    for kind in KINDS {
        let of_kind: Vec<_> = rows.iter().filter(|(key, _)| key[0] == *kind).collect();
        let least = if *kind == b'm' { 1 } else { usize::from(site.log.partitions()) };
        assert!(of_kind.len() >= least, "{}: {rows:?}", kind.escape_ascii());
        for (alter, named, reason) in MANNERS {
            let data = altered(&site.fixture, |db| of_kind.iter().for_each(|row| alter(db, row)));
            let before = files(&data.join("ledger"));
            let faults = check(&data, &site.log, &wholes(&site.log));
            let due: Vec<_> = of_kind.iter().map(|(key, _)| (readable(&named(key)), reason)).collect();
            assert_eq!(said(&faults), due);
            assert_eq!(files(&data.join("ledger")), before);
        }
    }
    let unknown = altered(&site.fixture, |db| db.put(b"zero", b"").unwrap());
    let faults = check(&unknown, &site.log, &wholes(&site.log));
    assert_eq!(said(&faults), [("zero".to_owned(), "nothing in the log says so")]);
}

/// Where a part of the log is damaged, nobody can say what the rows must be that are made of it; the others are
/// compared.
#[tokio::test]
async fn rows_of_a_partition_that_is_whole_are_compared_whatever_the_others_are() {
    let mut site = Site::new(2);
    let rows = all_kinds(&mut site).await;
    let data = altered(&site.fixture, |db| {
        rows.iter().filter(|(key, _)| KINDS.contains(&key[0])).for_each(|row| change(db, row));
    });
    for partition in 0..site.log.partitions() {
        let mut wholes = wholes(&site.log);
        (0..).zip(&mut wholes).for_each(|(other, whole)| whole.intact *= u64::from(other == partition));
        let alone = TempDir::new().unwrap();
        let ledger = Ledger::open_driven(alone.path(), site.log.clone(), 16).unwrap();
        while ledger.step(partition, 1 << 20).unwrap() {}
        let its = ledger.driver().rows().unwrap();
        let its = its.iter().filter(|(key, _)| key[0] != b'm' && KINDS.contains(&key[0]));
        let due: Vec<_> = its.map(|(key, _)| (readable(key), "it is not what the log amounts to")).collect();
        assert!(due.len() > 10);
        assert_eq!(said(&check(&data, &site.log, &wholes)), due);
    }
}
