//! What the groups' tests share: a clock that is set by hand, workers, and what they see.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use consumers::groups::{Ask, GroupConfig, GroupName, Groups, Leased, Retry, Token};
use consumers::{Ledger, OPEN_TABLES};
use tlog::{Clock, Log, Namespace};
use wire::NewRecord;

use super::{Fixture, Row, append, rows_in};

/// A clock that stands still until it is moved.
#[derive(Debug, Default)]
pub struct HandSet(AtomicU64);

impl HandSet {
    pub fn advance_ms(&self, ms: u64) {
        self.0.fetch_add(ms * 1_000_000, Ordering::SeqCst);
    }
}

impl Clock for HandSet {
    fn now_micros(&self) -> i64 {
        (self.monotonic_nanos() / 1000).cast_signed()
    }

    fn monotonic_nanos(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

/// A group and who asks for it.
#[derive(Debug, Clone)]
pub struct Team {
    pub groups: Groups,
    pub namespace: Namespace,
    pub name: GroupName,
}

static BOOT: AtomicU64 = AtomicU64::new(1000);

impl Fixture {
    pub fn groups(&self, log: &Log, clock: &Arc<HandSet>) -> Groups {
        let clock: Arc<dyn Clock> = Arc::clone(clock) as _;
        let ledger = Ledger::open(self.dir.path(), log.clone(), OPEN_TABLES).unwrap();
        Groups::new(ledger, clock, BOOT.fetch_add(1 << 32, Ordering::SeqCst))
    }

    /// The groups' rows on disk. Nobody may have them open.
    pub fn group_rows(&self) -> Vec<Row> {
        rows_in(&self.dir.path().join("ledger"), b"")
    }

    pub fn delete_groups(&self) {
        std::fs::remove_dir_all(self.dir.path().join("ledger")).unwrap();
    }

    pub fn copy_groups(&self, to: &str) {
        copy(&self.dir.path().join("ledger"), &self.dir.path().join(to));
    }

    pub fn restore_groups(&self, from: &str) {
        self.delete_groups();
        copy(&self.dir.path().join(from), &self.dir.path().join("ledger"));
    }
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// Leases of a second, retries at once.
pub fn config() -> GroupConfig {
    GroupConfig { lease_ms: 1_000, retry: Retry { min_ms: 0, max_ms: 0 }, ..GroupConfig::default() }
}

pub fn name(name: &str) -> GroupName {
    GroupName::new(name).unwrap()
}

impl Team {
    pub async fn new(groups: &Groups, namespace: &Namespace, group: &str, config: GroupConfig) -> Team {
        groups.configure(namespace, &name(group), config).await.unwrap();
        Team::existing(groups, namespace, group)
    }

    pub fn existing(groups: &Groups, namespace: &Namespace, group: &str) -> Team {
        Team { groups: groups.clone(), namespace: namespace.clone(), name: name(group) }
    }

    /// What there is for a worker now.
    pub async fn lease(&self, worker: &str, max: usize) -> Vec<Leased> {
        self.lease_within(worker, max, Duration::ZERO).await
    }

    pub async fn lease_within(&self, worker: &str, max: usize, wait: Duration) -> Vec<Leased> {
        let ask = Ask { worker: worker.to_owned(), max, max_bytes: 1 << 20, max_held: usize::MAX, wait };
        self.groups.lease(&self.namespace, &self.name, ask).await.unwrap()
    }

    /// Acks; all must take effect.
    pub async fn ack(&self, leased: &[Leased]) {
        let done = self.groups.ack(&self.namespace, &self.name, tokens(leased)).await.unwrap();
        assert_eq!((done.done, done.lapsed), (leased.len(), Vec::new()));
    }

    /// Acks; none may take effect.
    pub async fn ack_late(&self, leased: &[Leased]) {
        let done = self.groups.ack(&self.namespace, &self.name, tokens(leased)).await.unwrap();
        assert_eq!((done.done, done.lapsed.len()), (0, leased.len()));
    }

    pub async fn nack(&self, leased: &[Leased], delay: Option<Duration>, error: &str) -> usize {
        let error = Some(error.to_owned());
        self.groups.nack(&self.namespace, &self.name, tokens(leased), delay, error).await.unwrap().done
    }

    pub async fn floor(&self) -> u64 {
        self.groups.state(&self.namespace, &self.name).await.unwrap().floor
    }
}

pub fn tokens(leased: &[Leased]) -> Vec<Token> {
    leased.iter().map(|leased| leased.token).collect()
}

pub fn offsets(leased: &[Leased]) -> Vec<u64> {
    leased.iter().map(|leased| leased.token.offset).collect()
}

/// Value and headers of a record.
pub fn content(leased: &Leased) -> (String, BTreeMap<String, String>) {
    let record = leased.frame.records().nth(leased.index as usize).unwrap();
    assert_eq!(record.offset, leased.token.offset);
    let headers = record.headers.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    (String::from_utf8(record.value.to_vec()).unwrap(), headers)
}

/// Publishes so many records, in batches of five, with the keys that `key` gives them.
pub async fn publish(log: &Log, namespace: &Namespace, count: u64, key: impl Fn(u64) -> Option<String>) {
    let records: Vec<(Option<String>, String)> = (0..count).map(|index| (key(index), format!("v{index}"))).collect();
    for batch in records.chunks(5) {
        let batch: Vec<NewRecord<'_>> =
            batch.iter().map(|(key, value)| NewRecord { key: key.as_deref(), ..NewRecord::text(value) }).collect();
        append(log, namespace, &batch).await;
    }
}
