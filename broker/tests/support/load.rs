//! Clients that go on over kills, pauses and restarts of the broker, and keep book of what they were
//! told: publishers, half of them the SDK's, followers, readers, rebuilds of stores.
//!
//! ```text
//! Load::start ─▶ publishers, one follower a namespace, Others (readers, rebuilds)
//!   … the broker at this address dies and comes back as often as the test likes …
//! Load::stop  ─▶ Book: check() holds it against a broker
//! ```

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use reqwest::{Client, StatusCode};
use sdk::{Ack, Backoff, NewRecord};
use serde_json::Value;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::http::{self, Published};
use super::proof::{self, Proven};
use super::sse::Events;
use super::{Broker, Dice, client, eventually, stores};

/// Namespaces that are published to; both of two partitions have some.
pub const NAMESPACES: usize = 4;

/// Publishers; every other one is the SDK's.
const PUBLISHERS: usize = 6;

/// Records of one SDK publisher that wait for their acks.
const UNACKED: usize = 8;

/// How long a client waits before it tries again what has failed.
const PAUSE: Duration = Duration::from_millis(10);

/// How long an SDK client waits for an answer before it sends again, on another connection.
const SDK_TIMEOUT: Duration = Duration::from_secs(2);

/// The clients, at work.
pub struct Load {
    clients: Arc<Clients>,
    publishers: JoinSet<Sent>,
    followers: JoinSet<Followed>,
    others: Others,
}

struct Clients {
    client: Client,
    base: String,
    /// Publishers end.
    enough: CancellationToken,
    /// Followers end, each when it has seen this many records.
    heads: watch::Sender<Option<Vec<usize>>>,
    acks: Vec<AtomicU64>,
    refused: AtomicU64,
}

/// What a publisher was told.
struct Sent {
    namespace: usize,
    /// Whether all of it must be there, in this order: it was sent again until it was acknowledged.
    in_order: bool,
    /// Everything that was sent.
    values: Vec<String>,
    /// Offset, id and value.
    acked: Vec<(u64, String, String)>,
}

/// What a follower has seen, from offset 0 on, without a gap.
struct Followed {
    namespace: usize,
    values: Vec<String>,
}

/// What all clients were told.
pub struct Book {
    sent: Vec<Sent>,
    followed: Vec<Followed>,
    refused: u64,
}

/// A namespace's name.
pub fn name(namespace: usize) -> String {
    format!("load-{namespace}")
}

impl Load {
    /// Sets everyone to work on the broker at a URL, which need not be there yet.
    pub fn start(base: &str) -> Load {
        let clients = Arc::new(Clients {
            client: client(),
            base: base.to_owned(),
            enough: CancellationToken::new(),
            heads: watch::Sender::new(None),
            acks: (0..PUBLISHERS).map(|_| AtomicU64::new(0)).collect(),
            refused: AtomicU64::new(0),
        });
        let (mut publishers, mut followers) = (JoinSet::new(), JoinSet::new());
        for publisher in 0..PUBLISHERS {
            let clients = Arc::clone(&clients);
            if publisher % 2 == 0 {
                publishers.spawn(async move { clients.publish_in_order(publisher).await });
            } else {
                publishers.spawn(async move { clients.publish_once(publisher).await });
            }
        }
        for namespace in 0..NAMESPACES {
            let clients = Arc::clone(&clients);
            followers.spawn(async move { clients.follow(namespace).await });
        }
        let others = Others::start(&clients.client, base, (0..NAMESPACES).map(name));
        Load { clients, publishers, followers, others }
    }

    /// Waits until each publisher has got so many more acks.
    pub async fn progress(&self, acks: u64) {
        let from: Vec<u64> = self.clients.acks.iter().map(|acks| acks.load(Ordering::Relaxed)).collect();
        eventually("each publisher is acknowledged again", || async {
            self.clients.acks.iter().zip(&from).all(|(now, from)| now.load(Ordering::Relaxed) >= from + acks)
        })
        .await;
    }

    /// How many publishes were refused, or failed, with an answer.
    pub fn refused(&self) -> u64 {
        self.clients.refused.load(Ordering::Relaxed)
    }

    /// Ends the publishers, and then the rest, once the followers have seen all there is. A broker that
    /// works must be there.
    pub async fn stop(mut self, broker: &Broker) -> Book {
        self.clients.enough.cancel();
        let mut sent = Vec::new();
        while let Some(publisher) = self.publishers.join_next().await {
            sent.push(publisher.unwrap());
        }
        let mut heads = Vec::new();
        for namespace in 0..NAMESPACES {
            heads.push(http::namespace(&self.clients.client, broker, &name(namespace)).await.next_offset as usize);
        }
        self.clients.heads.send_replace(Some(heads));
        let mut followed = Vec::new();
        while let Some(follower) = self.followers.join_next().await {
            followed.push(follower.unwrap());
        }
        self.others.stop().await;
        Book { sent, followed, refused: self.clients.refused.load(Ordering::Relaxed) }
    }
}

impl Clients {
    /// Each record once, in order, whatever happens to the broker.
    async fn publish_in_order(&self, publisher: usize) -> Sent {
        let backoff = Backoff { min: PAUSE, max: PAUSE * 10, give_up_after: Duration::MAX };
        let client = sdk::Client::builder(&self.base).timeout(SDK_TIMEOUT).backoff(backoff).build().unwrap();
        let to = client.namespace(&name(publisher % NAMESPACES)).unwrap().publisher().in_flight(4).open().unwrap();
        let mut values = Values::new(publisher);
        let mut sent = Sent::new(publisher, true);
        let mut unacked: Vec<(String, Ack)> = Vec::new();
        while !self.enough.is_cancelled() {
            let (key, value) = values.next();
            let record = NewRecord::text(&value);
            let record = key.as_deref().map_or(record, |key| record.with_key(key));
            let ack = to.send(&record).await.unwrap();
            sent.values.push(value.clone());
            unacked.push((value, ack));
            if unacked.len() == UNACKED {
                let (value, ack) = unacked.remove(0);
                sent.acknowledged(value, ack).await;
                self.acks[publisher].fetch_add(1, Ordering::Relaxed);
            }
        }
        for (value, ack) in unacked {
            sent.acknowledged(value, ack).await;
        }
        to.close().await.unwrap();
        sent
    }

    /// Each record sent once: what is cut off may be there or not.
    async fn publish_once(&self, publisher: usize) -> Sent {
        let mut values = Values::new(publisher);
        let mut sent = Sent::new(publisher, false);
        let url = format!("{}/v1/namespaces/{}/records", self.base, name(publisher % NAMESPACES));
        while !self.enough.is_cancelled() {
            let (key, value) = values.next();
            sent.values.push(value.clone());
            let query = key.map_or(String::new(), |key| format!("?key={key}"));
            let request = self.client.post(format!("{url}{query}")).header("content-type", "text/plain");
            let answer = async {
                let answer = request.body(value.clone()).send().await?;
                Ok::<_, reqwest::Error>((answer.status(), answer.text().await?))
            };
            match answer.await {
                Ok((StatusCode::OK, body)) => {
                    let Published { first_offset, ids, .. } = serde_json::from_str(&body).unwrap();
                    sent.acked.push((first_offset, ids[0].clone(), value));
                    self.acks[publisher].fetch_add(1, Ordering::Relaxed);
                }
                Ok((status, body)) => {
                    assert!(serde_json::from_str::<wire::Problem>(&body).is_ok(), "{status}: {body}");
                    self.refused.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(PAUSE).await;
                }
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
        sent
    }

    /// Follows from the start, and resumes by `Last-Event-ID`, until it has seen all.
    async fn follow(&self, namespace: usize) -> Followed {
        let mut followed = Followed { namespace, values: Vec::new() };
        let url = format!("{}/v1/namespaces/{}/events?from=start", self.base, name(namespace));
        let mut heads = self.heads.subscribe();
        let is_done = |seen: usize, heads: &Option<Vec<usize>>| heads.as_ref().is_some_and(|to| to[namespace] == seen);
        while !is_done(followed.values.len(), &heads.borrow()) {
            let last = followed.values.len().checked_sub(1).map(|last| last.to_string());
            let request = self.client.get(&url).header("accept", "text/event-stream");
            let request = last.iter().fold(request, |request, last| request.header("last-event-id", last));
            let Some(response) = request.send().await.ok().filter(|response| response.status() == StatusCode::OK)
            else {
                tokio::time::sleep(PAUSE).await;
                continue;
            };
            let mut events = Events::from_response(response);
            while !is_done(followed.values.len(), &heads.borrow_and_update()) {
                let event = tokio::select! {
                    event = events.next() => event,
                    _ = heads.changed() => continue,
                };
                let Some(event) = event else { break };
                assert_eq!((event.event.as_str(), event.id), ("", followed.values.len().to_string()), "a gap");
                let record: Value = serde_json::from_str(&event.data).unwrap();
                followed.values.push(record["value"].as_str().unwrap().to_owned());
            }
        }
        followed
    }
}

impl Sent {
    fn new(publisher: usize, in_order: bool) -> Sent {
        Sent { namespace: publisher % NAMESPACES, in_order, values: Vec::new(), acked: Vec::new() }
    }

    async fn acknowledged(&mut self, value: String, ack: Ack) {
        let receipt = ack.await.unwrap();
        self.acked.push((receipt.offset, receipt.id.to_string(), value));
    }
}

impl Book {
    /// How many publishes were refused, or failed, with an answer.
    pub fn refused(&self) -> u64 {
        self.refused
    }

    /// How many records were acknowledged.
    pub fn acked(&self) -> usize {
        self.sent.iter().map(|sent| sent.acked.len()).sum()
    }

    /// Holds what the clients were told against what a broker has: the log, proven, and the stores. There
    /// may be no other namespaces.
    pub async fn check(&self, broker: &Broker) {
        let namespaces = self.check_log(broker).await;
        stores::check(&client(), broker, &namespaces, &mut Dice::new(7)).await;
    }

    /// The same, of the log alone. Answers what is in the namespaces.
    pub async fn check_log(&self, broker: &Broker) -> Vec<(String, Proven)> {
        let client = client();
        let mut namespaces = Vec::new();
        for namespace in 0..NAMESPACES {
            let proven = proof::rebuild(&client, broker, &name(namespace)).await;
            self.check_namespace(namespace, &proven);
            namespaces.push((name(namespace), proven));
        }
        namespaces
    }

    fn check_namespace(&self, namespace: usize, proven: &Proven) {
        let stored: Vec<&str> =
            proven.records.iter().map(|record| std::str::from_utf8(&record.value).unwrap()).collect();
        let mut due = HashSet::new();
        for sent in self.sent.iter().filter(|sent| sent.namespace == namespace) {
            for (offset, id, value) in &sent.acked {
                let at = *offset as usize;
                assert_eq!(stored.get(at), Some(&value.as_str()), "what was acked at {offset} is not there");
                assert_eq!(&proven.records[at].id, id);
            }
            due.extend(sent.values.iter().map(String::as_str));
            if sent.in_order {
                let own: HashSet<&str> = sent.values.iter().map(String::as_str).collect();
                let found: Vec<&str> = stored.iter().copied().filter(|value| own.contains(value)).collect();
                assert_eq!(found, sent.values, "an SDK publisher's records are not there once each, in order");
            }
        }
        let mut seen = HashSet::new();
        for value in &stored {
            assert!(due.contains(value), "{value:.20} was never sent");
            assert!(seen.insert(value), "{value:.20} is there twice");
        }
        for followed in self.followed.iter().filter(|followed| followed.namespace == namespace) {
            assert_eq!(followed.values, stored, "a follower has seen something else");
        }
    }
}

/// Values that are like no other, of lengths that fill segments, and their keys.
struct Values {
    publisher: usize,
    made: u64,
    dice: Dice,
}

impl Values {
    fn new(publisher: usize) -> Values {
        Values { publisher, made: 0, dice: Dice::new(publisher as u64) }
    }

    fn next(&mut self) -> (Option<String>, String) {
        self.made += 1;
        let key = (self.dice.below(4) > 0).then(|| format!("k{}", self.dice.below(10)));
        let padding = ".".repeat(self.dice.below(3_000) as usize);
        (key, format!("{}-{}{padding}", self.publisher, self.made))
    }
}

/// Who publishes nothing, but must not be in the way: readers of pages and keys, and rebuilds of stores.
/// They take it as it comes that the broker is away.
pub struct Others {
    enough: CancellationToken,
    running: JoinSet<Option<()>>,
}

impl Others {
    /// Sets them to work.
    pub fn start(client: &Client, base: &str, namespaces: impl Iterator<Item = String>) -> Others {
        let (enough, mut running) = (CancellationToken::new(), JoinSet::new());
        for name in namespaces {
            let reading = read(client.clone(), format!("{base}/v1/namespaces/{name}"));
            running.spawn(enough.clone().run_until_cancelled_owned(reading));
        }
        let rebuilding = rebuild_stores(client.clone(), format!("{base}/v1/stores"));
        running.spawn(enough.clone().run_until_cancelled_owned(rebuilding));
        Others { enough, running }
    }

    /// Ends them; fails where one of them saw what may not be.
    pub async fn stop(mut self) {
        self.enough.cancel();
        while let Some(ended) = self.running.join_next().await {
            ended.unwrap();
        }
    }
}

/// Reads a namespace page by page, again and again: offsets never have a gap.
async fn read(client: Client, url: String) {
    let mut from = 0;
    loop {
        let request = client.get(format!("{url}/records?from={from}&limit=500"));
        let page = async {
            let answer = request.send().await?;
            Ok::<_, reqwest::Error>((answer.status(), answer.json::<Value>().await?))
        };
        if let Ok((status, page)) = page.await {
            assert_ne!(status, StatusCode::RANGE_NOT_SATISFIABLE, "what was read before is gone: {page}");
            let records = page["records"].as_array().map_or(&[][..], Vec::as_slice);
            for (record, offset) in records.iter().zip(from..) {
                assert_eq!(record["offset"].as_u64(), Some(offset), "a reader sees a gap");
            }
            from = if records.is_empty() { 0 } else { from + records.len() as u64 };
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Rebuilds one store after the other.
async fn rebuild_stores(client: Client, url: String) {
    for shard in (0..256).cycle() {
        let asked = client.post(format!("{url}/{shard}/rebuild")).send().await;
        let mut rebuilding = asked.is_ok_and(|answer| answer.status() == StatusCode::ACCEPTED);
        while rebuilding {
            tokio::time::sleep(PAUSE).await;
            let states = async { client.get(&url).send().await?.json::<Value>().await };
            // Where the broker is away, the next one is asked for when it is back.
            rebuilding = states.await.is_ok_and(|states| states["stores"][shard]["rebuilding"] == true);
        }
        tokio::time::sleep(PAUSE).await;
    }
}
