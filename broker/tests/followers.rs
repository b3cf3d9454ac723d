//! Followers over real sockets: one that is cut off at random, and ones that never read (invariant 9).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::io::Write;
use std::net::TcpStream;

use reqwest::Client;
use serde_json::{Value, json};
use support::sse::Events;
use support::{Broker, Dice, PATIENCE, client, http, proof};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;
use tokio::time::timeout;

const RECORDS: u64 = 60_000;

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_that_is_cut_off_sees_each_record_once_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path());
    let client = client();
    http::publish(&client, &broker, "cut", &json!({"value": "the first"})).await;

    let records = broker.url("/v1/namespaces/cut/records");
    let mut publishers = JoinSet::new();
    for publisher in 0..4 {
        publishers.spawn(publish(client.clone(), records.clone(), publisher, RECORDS / 4));
    }
    let (seen, cuts) = timeout(PATIENCE, follow(&client, &broker, RECORDS + 1)).await.expect("the follower keeps up");
    publishers.join_all().await;

    assert!(cuts > 10, "{cuts} cuts are too few to show anything");
    let proven = proof::rebuild(&client, &broker, "cut").await;
    assert_eq!(proven.records.len() as u64, RECORDS + 1);
    assert_eq!(seen.len(), proven.records.len());
    for (offset, (record, stored)) in seen.iter().zip(&proven.records).enumerate() {
        assert_eq!(record["offset"].as_u64(), Some(offset as u64), "a record is missing, or there twice");
        assert_eq!(record["id"], stored.id);
        assert_eq!(record["value"].to_string().as_bytes(), stored.value);
    }
}

/// Publishes records of random sizes in batches of random sizes.
async fn publish(client: Client, url: String, publisher: u64, count: u64) {
    let mut dice = Dice::new(publisher);
    let mut made = 0;
    while made < count {
        let batch = (1 + dice.below(40)).min(count - made);
        let value = |index| json!({"value": format!("{publisher}-{index} {}", "x".repeat(index as usize % 300))});
        let body: Vec<Value> = (made..made + batch).map(value).collect();
        made += batch;
        http::json::<Value>(client.post(&url).json(&body).send().await.unwrap()).await;
    }
}

/// Follows as a browser does: always the same URL, and after a cut the last id it has.
async fn follow(client: &Client, broker: &Broker, count: u64) -> (Vec<Value>, u32) {
    let url = broker.url("/v1/namespaces/cut/events?from=start");
    let mut dice = Dice::new(1);
    let (mut seen, mut last_id, mut cuts) = (Vec::new(), None, 0);
    while (seen.len() as u64) < count {
        let mut events = Events::connect(client, &url, last_id.as_deref()).await;
        for _ in 0..dice.below(2_000) {
            if seen.len() as u64 == count {
                break;
            }
            let event = events.next().await.expect("the stream goes on");
            assert_eq!(event.event, "", "a record is a plain message");
            seen.push(serde_json::from_str(&event.data).unwrap());
            last_id = Some(event.id);
        }
        cuts += 1;
    }
    (seen, cuts)
}

/// Bytes of a record's value.
const VALUE_BYTES: usize = 256 << 10;

/// Records to publish before and after the followers come: enough to fill every cache, and then much
/// more than may wait for a follower.
const WARM: usize = 800;
const MORE: usize = 1_600;

/// What the followers that never read may cost together: far below what they leave unread.
const BOUND: u64 = 200 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn followers_that_never_read_delay_nobody_and_cost_bounded_memory() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path());
    let client = client();
    publish_large(&client, &broker, WARM).await;
    let before = broker.resident_bytes();

    let follow = ["events?from=start", "events?from=end", "rebuild"];
    let stuck: Vec<TcpStream> = follow
        .iter()
        .cycle()
        .take(16)
        .map(|call| never_read(&broker, &format!("/v1/namespaces/stuck/{call}")))
        .collect();
    // One that does read, from the end on, beside them.
    let url = broker.url("/v1/namespaces/stuck/events");
    let mut reading = Events::connect(&client, &url, None).await;
    let reader = tokio::spawn(async move {
        for offset in WARM..WARM + MORE {
            assert_eq!(reading.next().await.expect("the stream goes on").id, offset.to_string());
        }
    });
    publish_large(&client, &broker, MORE).await;
    timeout(PATIENCE, reader).await.expect("the follower that reads is not delayed").unwrap();

    let after = broker.resident_bytes();
    let mib = |bytes: u64| bytes >> 20;
    println!("resident before {} MiB, with {} stuck followers {} MiB", mib(before), stuck.len(), mib(after));
    assert!(after < before + BOUND, "memory went from {} to {} MiB", mib(before), mib(after));
    assert!(broker.terminate().success(), "they don't keep it from ending either");
}

/// Asks for something, and never reads the answer.
fn never_read(broker: &Broker, path: &str) -> TcpStream {
    let mut stream = TcpStream::connect(broker.address()).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nhost: tlog\r\n\r\n").unwrap();
    stream
}

/// Publishes one by one; none may wait for anybody but the disk.
async fn publish_large(client: &Client, broker: &Broker, count: usize) {
    let url = broker.url("/v1/namespaces/stuck/records");
    for index in 0..count {
        let value = vec![index as u8; VALUE_BYTES];
        let request = client.post(&url).header("content-type", "application/octet-stream").body(value).send();
        let answer = timeout(PATIENCE, request).await.expect("a publish is not delayed").unwrap();
        http::json::<Value>(answer).await;
    }
}

/// How many follow one namespace, and how many records they are sent.
const MANY: usize = 300;
const TOLD: usize = 60;

#[tokio::test(flavor = "multi_thread")]
async fn many_are_told_of_each_record_while_others_come_and_go() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path());
    let client = client();
    http::publish(&client, &broker, "many", &json!({"value": "the first"})).await;

    let url = broker.url("/v1/namespaces/many/events?from=1");
    let mut followers = JoinSet::new();
    for number in 0..MANY {
        let mut events = Events::connect(&client, &url, None).await;
        // Every third goes when it has seen some, and another one comes in its place.
        let (client, url, goes_after) = (client.clone(), url.clone(), (number % 3 == 0).then_some(number % TOLD));
        followers.spawn(async move {
            let mut seen = 0;
            while seen < TOLD {
                if goes_after == Some(seen) {
                    events = Events::connect(&client, &url, Some(&seen.to_string())).await;
                }
                seen += 1;
                assert_eq!(events.next().await.expect("the stream goes on").id, seen.to_string());
            }
        });
    }
    for number in 0..TOLD {
        http::publish(&client, &broker, "many", &json!({"value": number})).await;
    }
    timeout(PATIENCE, followers.join_all()).await.expect("each is told of each");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_follower_is_sent_is_http_to_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path());
    let client = client();
    http::publish(&client, &broker, "raw", &json!({"value": "ä"})).await;
    let events = "/v1/namespaces/raw/events?from=start";

    // Followed by the first request of a connection; by a later one; and asked for what it would be.
    let mut first = Raw::connect(&broker).await;
    first.say("GET", events).await;
    let head = first.until("\r\n\r\n").await.to_lowercase();
    for line in [
        "http/1.1 200 ok\r\n",
        "\r\ntransfer-encoding: chunked\r\n",
        "\r\nconnection: close\r\n",
        "\r\ncontent-type: text/event-stream\r\n",
        "\r\nx-content-type-options: nosniff\r\n",
        " gmt\r\n",
    ] {
        assert!(head.contains(line), "{line:?} is not in {head:?}");
    }
    let mut later = Raw::connect(&broker).await;
    later.say("GET", "/healthz").await;
    later.until("\r\n\r\n").await;
    later.say("GET", events).await;
    let mut asked = Raw::connect(&broker).await;
    asked.say("HEAD", events).await;
    asked.until("\r\n\r\n").await;
    asked.say("GET", "/healthz").await;
    assert!(asked.until("\r\n\r\n").await.starts_with("HTTP/1.1 200"), "an answer to HEAD has no body");

    let mut body = first.until("\n\n\r\n").await;
    body += &first.until("\n\n\r\n").await;
    later.until("\"ä\"").await;
    client.delete(broker.url("/v1/namespaces/raw")).send().await.unwrap().error_for_status().unwrap();
    body += &first.until("0\r\n\r\n").await;
    first.until_closed().await;
    later.until("0\r\n\r\n").await;
    let text = unchunked(&body);
    assert!(text.starts_with(": tlog\nretry: ") && text.contains("\n\nid: 0\ndata: {\"offset\":0,"), "{text:?}");
    assert!(text.ends_with("Z\"}\n\n"), "{text:?}");
}

/// A connection on which HTTP is spelled out.
struct Raw {
    stream: tokio::net::TcpStream,
    read: Vec<u8>,
}

impl Raw {
    async fn connect(broker: &Broker) -> Raw {
        Raw { stream: tokio::net::TcpStream::connect(broker.address()).await.unwrap(), read: Vec::new() }
    }

    async fn say(&mut self, method: &str, path: &str) {
        self.stream.write_all(format!("{method} {path} HTTP/1.1\r\nhost: tlog\r\n\r\n").as_bytes()).await.unwrap();
    }

    /// What comes, up to and with this.
    async fn until(&mut self, mark: &str) -> String {
        loop {
            let found = self.read.windows(mark.len()).position(|window| window == mark.as_bytes());
            if let Some(at) = found {
                let rest = self.read.split_off(at + mark.len());
                return String::from_utf8(std::mem::replace(&mut self.read, rest)).unwrap();
            }
            let read = timeout(PATIENCE, self.stream.read_buf(&mut self.read)).await.expect("more comes").unwrap();
            assert!(read > 0, "it ends before {mark:?}: {:?}", String::from_utf8_lossy(&self.read));
        }
    }

    async fn until_closed(&mut self) {
        let left = timeout(PATIENCE, self.stream.read_to_end(&mut self.read)).await.expect("it is closed").unwrap();
        assert_eq!((left, self.read.len()), (0, 0));
    }
}

/// The bytes of a chunked body that has ended.
fn unchunked(mut body: &str) -> String {
    let mut text = String::new();
    loop {
        let (length, rest) = body.split_once("\r\n").unwrap();
        let length = usize::from_str_radix(length, 16).unwrap();
        text.push_str(&rest[..length]);
        body = rest[length..].strip_prefix("\r\n").unwrap();
        if length == 0 {
            assert_eq!(body, "");
            return text;
        }
    }
}
