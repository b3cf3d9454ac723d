//! Many namespaces of few records: what each costs in memory.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use futures::{StreamExt, stream};
use reqwest::Client;
use serde_json::{Value, json};
use support::{Broker, client, http};

const NAMESPACES: usize = 100_000;

/// Records of each.
const RECORDS: u64 = 10;

/// Requests at once.
const AT_ONCE: usize = 64;

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_thousand_namespaces_are_read_back_one_by_one() {
    let folder = tempfile::tempdir().unwrap();
    let client = client();
    let broker = Broker::start(folder.path());
    // Fills some of what has a fixed size, so that less than all of it is counted as the namespaces'.
    for_all(0..NAMESPACES / 10, |index| publish(&client, &broker, index)).await;
    let before = broker.resident_bytes();
    for_all(NAMESPACES / 10..NAMESPACES, |index| publish(&client, &broker, index)).await;
    // The tail caches and the stores' write buffers fill meanwhile: 10 records a namespace.
    report("created and published to", &broker, before, 4096);
    let before = broker.resident_bytes();
    for_all(0..NAMESPACES, |index| read(&client, &broker, index)).await;
    report("read back", &broker, before, 1024);
    assert!(broker.terminate().success());

    // What is left without those is the index, as far as it is in memory.
    let broker = Broker::start(folder.path());
    let before = broker.resident_bytes();
    for_all(0..NAMESPACES, |index| read(&client, &broker, index)).await;
    report("read back after a restart", &broker, before, 1024);
}

async fn for_all<F: Future<Output = ()>>(range: std::ops::Range<usize>, call: impl FnMut(usize) -> F) {
    stream::iter(range).map(call).buffer_unordered(AT_ONCE).collect::<()>().await;
}

fn report(what: &str, broker: &Broker, before: u64, bound: u64) {
    let after = broker.resident_bytes();
    let each = after.saturating_sub(before) / NAMESPACES as u64;
    let (before, after) = (before >> 20, after >> 20);
    println!("{NAMESPACES} namespaces {what}: {before} to {after} MiB resident, {each} bytes a namespace");
    assert!(each <= bound, "{each} bytes a namespace are more than {bound}");
}

async fn publish(client: &Client, broker: &Broker, index: usize) {
    let record = |n| json!({"key": format!("key {n}"), "value": {"namespace": index, "n": n}});
    let body: Value = (0..RECORDS).map(record).collect();
    let published = http::publish(client, broker, &format!("many%2F{index}"), &body).await;
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
