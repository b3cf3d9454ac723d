//! kill -9 under load, ten times over: invariants 1, 3, 4, 5, 7, 8 and 10, seen from outside.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use reqwest::{Client, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use support::http::{self, Published};
use support::proof::{self, Proven};
use support::{Broker, Dice, client, eventually};
use tokio::task::JoinSet;

const ROUNDS: u64 = 10;
const NAMESPACES: usize = 5;
const PUBLISHERS: usize = 20;
const KEYS: u64 = 40;

/// What is published at once: keys and values. A value is like no other; none deletes its key.
type Batch = Vec<(Option<String>, Option<String>)>;

/// Publishes as fast as it is answered, and keeps book of what it was told.
struct Publisher {
    name: usize,
    /// Sends each batch under its producer's name, so that it may be sent again.
    idempotent: bool,
    dice: Dice,
    made: u64,
    epoch: u64,
    sequence: u64,
    /// What was acknowledged.
    acked: Vec<(Batch, Published)>,
    /// What was cut off, and can't be sent again: it may be in the log or not.
    unknown: Vec<Batch>,
    /// What was cut off, and will be sent again.
    again: Option<Batch>,
}

impl Publisher {
    fn new(name: usize) -> Publisher {
        Publisher {
            name,
            idempotent: name.is_multiple_of(2),
            dice: Dice::new(name as u64),
            made: 0,
            epoch: 0,
            sequence: 0,
            acked: Vec::new(),
            unknown: Vec::new(),
            again: None,
        }
    }

    fn namespace(&self) -> String {
        format!("crash-{}", self.name % NAMESPACES)
    }

    fn batch(&mut self) -> Batch {
        let count = if self.dice.below(3) == 0 { 2 + self.dice.below(30) } else { 1 };
        let mut record = || {
            self.made += 1;
            let key = (self.dice.below(4) > 0).then(|| format!("k{}", self.dice.below(KEYS)));
            let deletes = key.is_some() && self.dice.below(12) == 0;
            (key, (!deletes).then(|| format!("{}-{}", self.name, self.made)))
        };
        (0..count).map(|_| record()).collect()
    }

    /// Publishes until the broker is gone.
    async fn run(mut self, client: Client, address: SocketAddr, answers: Arc<AtomicU64>) -> Publisher {
        loop {
            let batch = match self.again.take() {
                Some(batch) => batch,
                None => self.batch(),
            };
            let url = format!("http://{address}/v1/namespaces/{}", self.namespace());
            let mut request = request(&client, &url, &batch);
            if self.idempotent {
                request = request
                    .header("producer-id", format!("publisher {}", self.name))
                    .header("producer-epoch", self.epoch)
                    .header("producer-seq", self.sequence);
            }
            // An answer that was cut off is none.
            let answer = async { request.send().await?.text().await };
            let Ok(body) = answer.await else {
                if self.idempotent {
                    self.again = Some(batch);
                } else {
                    self.unknown.push(batch);
                }
                return self;
            };
            let published: Published = serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {body}"));
            self.acked.push((batch, published));
            self.sequence += 1;
            // Now and then a producer begins a new life.
            if self.dice.below(200) == 0 {
                (self.epoch, self.sequence) = (self.epoch + 1, 0);
            }
            answers.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// One of the forms that a publish can have.
fn request(client: &Client, url: &str, batch: &Batch) -> RequestBuilder {
    match batch.as_slice() {
        [(None, Some(value))] => {
            client.post(format!("{url}/records")).header("content-type", "text/plain").body(value.clone())
        }
        [(Some(key), Some(value))] => client.put(format!("{url}/keys/{key}")).json(value),
        [(Some(key), None)] => client.delete(format!("{url}/keys/{key}")),
        records => {
            let record = |(key, value): &(Option<String>, Option<String>)| match (key, value) {
                (Some(key), Some(value)) => json!({"key": key, "value": value}),
                (None, value) => json!({"value": value}),
                (Some(key), None) => json!({"key": key, "value": null, "tombstone": true}),
            };
            client.post(format!("{url}/records")).json(&records.iter().map(record).collect::<Vec<_>>())
        }
    }
}

/// A value as it was published: JSON where the form was JSON, text where it was not.
fn spelled(value: &[u8]) -> String {
    let text = std::str::from_utf8(value).unwrap();
    text.trim_matches('"').to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acked_is_lost_and_nothing_is_there_twice() {
    let folder = tempfile::tempdir().unwrap();
    let client = client();
    let mut dice = Dice::new(7256);
    let mut publishers: Vec<Publisher> = (0..PUBLISHERS).map(Publisher::new).collect();
    for round in 0..ROUNDS {
        let broker = Broker::start(folder.path());
        for index in 0..NAMESPACES {
            let created = client.put(broker.url(&format!("/v1/namespaces/crash-{index}"))).send().await.unwrap();
            assert_eq!(created.status(), if round == 0 { StatusCode::CREATED } else { StatusCode::OK });
        }
        let answers = Arc::new(AtomicU64::new(0));
        let mut running = JoinSet::new();
        for publisher in publishers.drain(..) {
            running.spawn(publisher.run(client.clone(), broker.address(), Arc::clone(&answers)));
        }
        let enough = 500 + dice.below(4_000);
        eventually("publishes under load", || async { answers.load(Ordering::Relaxed) >= enough }).await;
        broker.kill();
        publishers = running.join_all().await;

        let broker = Broker::start(folder.path());
        check(&client, &broker, &publishers, &mut dice).await;
        // Half of the rounds end with what the check left: a broker that was killed at rest.
        if round.is_multiple_of(2) {
            broker.kill();
        } else {
            assert!(broker.terminate().success());
        }
    }
    let checked =
        Command::new(env!("CARGO_BIN_EXE_tlog")).arg("check").arg("--data").arg(folder.path()).output().unwrap();
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
}

async fn check(client: &Client, broker: &Broker, publishers: &[Publisher], dice: &mut Dice) {
    eventually("the stores are level", || http::stores_are_level(client, broker)).await;
    let mut records = 0;
    for index in 0..NAMESPACES {
        let name = format!("crash-{index}");
        let proven = proof::rebuild(client, broker, &name).await;
        let info = http::namespace(client, broker, &name).await;
        assert_eq!((info.next_offset, info.chain), (proven.records.len() as u64, proven.chain.clone()));
        check_publishers(&proven, publishers.iter().filter(|publisher| publisher.namespace() == name));
        check_keys(client, broker, &name, &proven).await;
        check_objects(client, broker, &proven, dice).await;
        records += proven.records.len() as u64;
    }
    let states: Value = http::json(client.get(broker.url("/v1/stores")).send().await.unwrap()).await;
    let objects: u64 =
        states["stores"].as_array().unwrap().iter().map(|store| store["objects"].as_u64().unwrap()).sum();
    assert_eq!(objects, records, "the stores hold another number of objects than the log has records");
}

/// What was acked is where it was said to be; what is there was sent, and is there once.
fn check_publishers<'a>(proven: &Proven, publishers: impl Iterator<Item = &'a Publisher>) {
    let mut sent = HashSet::new();
    for publisher in publishers {
        for (batch, published) in &publisher.acked {
            let (first, next) = (published.first_offset as usize, published.next_offset as usize);
            assert_eq!(next - first, batch.len());
            let stored = proven.records.get(first..next).expect("what was acked is in the log");
            for (((key, value), id), stored) in batch.iter().zip(&published.ids).zip(stored) {
                assert_eq!((key, id), (&stored.key, &stored.id));
                assert_eq!(stored.tombstone, value.is_none());
                assert_eq!(value.as_deref().unwrap_or_default(), spelled(&stored.value));
            }
        }
        let acked = publisher.acked.iter().map(|(batch, _)| batch);
        let batches = acked.chain(&publisher.unknown).chain(&publisher.again);
        sent.extend(batches.flatten().filter_map(|(_, value)| value.clone()));
    }
    let mut seen = HashSet::new();
    for value in proven.records.iter().filter(|stored| !stored.tombstone).map(|stored| spelled(&stored.value)) {
        assert!(sent.contains(&value), "{value} was never sent");
        assert!(seen.insert(value.clone()), "{value} is there twice");
    }
}

/// The stores' latest value of each key is the log's.
async fn check_keys(client: &Client, broker: &Broker, namespace: &str, proven: &Proven) {
    let mut latest = HashMap::new();
    for (offset, stored) in proven.records.iter().enumerate() {
        if let Some(key) = &stored.key {
            latest.insert(key.clone(), (offset, stored));
        }
    }
    for (key, (offset, stored)) in latest {
        let url = broker.url(&format!("/v1/namespaces/{namespace}/keys/{key}"));
        let answer = client.get(url).send().await.unwrap();
        if stored.tombstone {
            http::expect(answer, StatusCode::NOT_FOUND).await;
        } else {
            let record: Value = http::json(answer).await;
            assert_eq!((record["offset"].as_u64(), &record["id"]), (Some(offset as u64), &json!(stored.id)));
            assert_eq!(record["value"], spelled(&stored.value));
        }
    }
}

/// Objects of the stores are the log's records, and the one before an object is its previous.
async fn check_objects(client: &Client, broker: &Broker, proven: &Proven, dice: &mut Dice) {
    let ids: HashSet<&str> = proven.records.iter().map(|stored| stored.id.as_str()).collect();
    for _ in 0..30 {
        let offset = dice.below(proven.records.len() as u64);
        let id = &proven.records[offset as usize].id;
        let record: Value =
            http::json(client.get(broker.url(&format!("/v1/objects/{id}"))).send().await.unwrap()).await;
        assert_eq!((record["offset"].as_u64(), record["id"].as_str()), (Some(offset), Some(id.as_str())));
        let previous = format!("{:016x}", u64::from_str_radix(id, 16).unwrap() - 1);
        let answer = client.get(broker.url(&format!("/v1/objects/{id}/previous"))).send().await.unwrap();
        if previous.ends_with("00000000") {
            http::expect(answer, StatusCode::NOT_FOUND).await;
        } else {
            let record: Value = http::json(answer).await;
            assert!(ids.contains(previous.as_str()));
            assert_eq!(record["id"].as_str(), Some(previous.as_str()));
        }
    }
}
