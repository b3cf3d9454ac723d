//! Many namespaces of few records: what each costs in memory.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::path::Path;
use std::time::Instant;

use futures::{StreamExt, stream};
use reqwest::Client;
use serde_json::{Value, json};
use support::{Broker, client, http};

const RECORDS: u64 = 10;

/// Requests at once.
const AT_ONCE: usize = 64;

#[tokio::test(flavor = "multi_thread")]
async fn five_thousand_namespaces_are_read_back_one_by_one() {
    let folder = tempfile::tempdir().unwrap();
    create_and_read(folder.path(), 5_000).await;
}

/// Takes minutes: `cargo test --release -p broker --test many_namespaces -- --ignored --nocapture`
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes; make bench runs it"]
async fn a_hundred_thousand_namespaces_are_read_back_one_by_one() {
    let folder = tempfile::tempdir().unwrap();
    create_and_read(folder.path(), 100_000).await;
}

async fn create_and_read(folder: &Path, count: usize) {
    let client = client();
    let broker = Broker::start(folder);
    // Fills what has a fixed size, so that only what grows with the number is left to see.
    for_all(0..count / 10, |index| publish(&client, &broker, index)).await;
    let before = broker.resident_bytes();
    let began = Instant::now();
    for_all(count / 10..count, |index| publish(&client, &broker, index)).await;
    report("created and published to", &broker, count - count / 10, before, began);

    let (before, began) = (broker.resident_bytes(), Instant::now());
    for_all(0..count, |index| read(&client, &broker, index)).await;
    report("read back", &broker, count, before, began);
    assert!(broker.terminate().success());

    let broker = Broker::start(folder);
    let (before, began) = (broker.resident_bytes(), Instant::now());
    for_all(0..count, |index| read(&client, &broker, index)).await;
    report("read back after a restart", &broker, count, before, began);
}

async fn for_all<F: Future<Output = ()>>(range: std::ops::Range<usize>, call: impl FnMut(usize) -> F) {
    stream::iter(range).map(call).buffer_unordered(AT_ONCE).collect::<()>().await;
}

fn report(what: &str, broker: &Broker, count: usize, before: u64, began: Instant) {
    let after = broker.resident_bytes();
    let each = after.saturating_sub(before) / count as u64;
    println!(
        "{count} namespaces {what} in {:.1} s: {} to {} MiB resident, {each} bytes a namespace",
        began.elapsed().as_secs_f64(),
        before >> 20,
        after >> 20
    );
    assert!(each < 16 << 10, "{each} bytes a namespace are too many");
}

async fn publish(client: &Client, broker: &Broker, index: usize) {
    let record = |n| json!({"key": format!("key {n}"), "value": {"namespace": index, "n": n}});
    let body: Value = (0..RECORDS).map(record).collect();
    let published = http::publish(client, broker, &format!("many/{index}").replace('/', "%2F"), &body).await;
    assert_eq!((published.first_offset, published.next_offset), (0, RECORDS));
}

async fn read(client: &Client, broker: &Broker, index: usize) {
    let url = broker.url(&format!("/v1/namespaces/many%2F{index}/records?from=0"));
    let page: Value = http::json(client.get(url).send().await.unwrap()).await;
    assert_eq!((&page["next_offset"], &page["head"]), (&json!(RECORDS), &json!(RECORDS)));
    let records = page["records"].as_array().unwrap();
    assert_eq!(records.len() as u64, RECORDS);
    for (n, record) in records.iter().enumerate() {
        assert_eq!(record["offset"], n);
        assert_eq!(record["value"], json!({"namespace": index, "n": n}));
    }
}
