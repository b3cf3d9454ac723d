//! kill -9 at random under publishers, readers and store rebuilds, ten times over: invariants 1, 3, 4, 5, 7, 8 and 10, seen from outside.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use reqwest::{Client, RequestBuilder, StatusCode};
use serde_json::json;
use support::http::{self, Published};
use support::load::Others;
use support::proof::{self, Proven};
use support::stores::{self, spelled};
use support::{Broker, Dice, client, eventually, folder};
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
        let others = Others::start(&client, &broker.url(""), (0..NAMESPACES).map(|index| format!("crash-{index}")));
        let enough = 500 + dice.below(4_000);
        eventually("publishes under load", || async { answers.load(Ordering::Relaxed) >= enough }).await;
        broker.kill();
        publishers = running.join_all().await;
        others.stop().await;

        let broker = Broker::start(folder.path());
        check(&client, &broker, &publishers, &mut dice).await;
        // Half of the rounds end with what the check left: a broker that was killed at rest.
        if round.is_multiple_of(2) {
            broker.kill();
        } else {
            assert!(broker.terminate().success());
        }
    }
    folder::check(folder.path());
}

async fn check(client: &Client, broker: &Broker, publishers: &[Publisher], dice: &mut Dice) {
    let mut namespaces = Vec::new();
    for index in 0..NAMESPACES {
        let name = format!("crash-{index}");
        let proven = proof::rebuild(client, broker, &name).await;
        let info = http::namespace(client, broker, &name).await;
        assert_eq!((info.next_offset, info.chain), (proven.records.len() as u64, proven.chain.clone()));
        check_publishers(&proven, publishers.iter().filter(|publisher| publisher.namespace() == name));
        namespaces.push((name, proven));
    }
    stores::check(client, broker, &namespaces, dice).await;
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
