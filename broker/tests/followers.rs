//! Followers over real sockets: one that is cut off at random, and ones that never read (invariant 9).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::io::Write;
use std::net::TcpStream;

use reqwest::Client;
use serde_json::{Value, json};
use support::sse::Events;
use support::{Broker, Dice, PATIENCE, client, http, proof};
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
const BOUND: u64 = 100 << 20;

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
