//! Acks of a group against the real binary: an answer waits for the disk, a connection that is cut changes
//! nothing of it, and one of two workers that race for a record settles it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::collections::{BTreeSet, HashMap};
use std::io::Write as _;
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use consumers::groups::GroupEvent;
use futures::future::join_all;
use reqwest::{Client, StatusCode};
use serde_json::{Value, json};
use support::strace::{Call, Strace, may_trace};
use support::{Broker, client, skip};
use tlog::ControlEvent;
use wire::Frame;

const GROUP: &str = "/v1/namespaces/work/groups/g";

async fn call(client: &Client, broker: &Broker, what: &str, body: &Value) -> (StatusCode, Value) {
    let url = broker.url(&format!("{GROUP}/{what}"));
    let response = client.post(url).json(body).send().await.unwrap();
    (response.status(), response.json().await.unwrap())
}

/// A broker with a group `g` and so many records.
async fn start(data: &Path, records: usize, config: &Value) -> Broker {
    let broker = Broker::start(data);
    let client = client();
    let records: Vec<Value> = (0..records).map(|number| json!({ "value": number })).collect();
    let publish = client.post(broker.url("/v1/namespaces/work/records")).json(&records);
    assert_eq!(publish.send().await.unwrap().status(), StatusCode::OK);
    let put = client.put(broker.url(GROUP)).json(config);
    assert_eq!(put.send().await.unwrap().status(), StatusCode::CREATED);
    broker
}

/// Leases so many records: offsets and tokens.
async fn lease(client: &Client, broker: &Broker, worker: &str, max: usize) -> Vec<(u64, String)> {
    let ask = json!({ "worker": worker, "max": max, "wait_ms": 0 });
    let (status, leased) = call(client, broker, "lease", &ask).await;
    assert_eq!(status, StatusCode::OK, "{leased}");
    let of = |record: &Value| (record["offset"].as_u64().unwrap(), record["token"].as_str().unwrap().to_owned());
    leased["records"].as_array().unwrap().iter().map(of).collect()
}

/// By offset, the call that wrote the event of its ack.
fn acks_written(calls: &[Call]) -> HashMap<u64, &Call> {
    let mut written = HashMap::new();
    for call in calls.iter().filter(|call| call.name.starts_with("pwrite") && call.succeeded) {
        for frame in call.buffers.iter().filter_map(|buffer| Frame::decode(Bytes::copy_from_slice(buffer)).ok()) {
            for event in ControlEvent::all_in(&frame) {
                let Ok(ControlEvent::Consumers { event, .. }) = event else { continue };
                let Ok((_, GroupEvent::Progressed(progressed))) = GroupEvent::decode(&event) else { continue };
                written.extend(progressed.acked.into_iter().flatten().map(|offset| (offset, call)));
            }
        }
    }
    written
}

/// The offset whose ack is answered: each was asked for together with a token that is no one's and says which.
fn answered(call: &Call) -> Option<u64> {
    let bytes = call.buffers.concat();
    let (head, body) = std::str::from_utf8(&bytes).ok()?.split_once("\r\n\r\n")?;
    if !head.starts_with("HTTP/1.1 200") || call.name.starts_with('p') {
        return None;
    }
    let answer: Value = serde_json::from_str(body).ok()?;
    assert_eq!(answer["done"], 1);
    answer["lapsed"][0].as_str()?.strip_prefix("of ")?.parse().ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ack_is_answered_behind_its_fdatasync() {
    const RECORDS: usize = 60;
    let folder = tempfile::tempdir().unwrap();
    let broker = start(folder.path(), RECORDS, &json!({})).await;
    if !may_trace() {
        return skip("an ack is answered behind its fdatasync", "strace is not there, or may not attach");
    }
    let client = client();
    let leased = lease(&client, &broker, "w", RECORDS).await;
    assert_eq!(leased.len(), RECORDS);
    let strace = Strace::trace(&broker, "pwritev,pwrite64,fdatasync,write,writev,sendto").unwrap();
    let (client, broker) = (&client, &broker);
    // Alone at first, then many at once.
    for acks in leased[..10].chunks(1).chain([&leased[10..]]) {
        let acks = acks.iter().map(|(offset, token)| async move {
            let body = json!({ "tokens": [token, format!("of {offset}")] });
            assert_eq!(call(client, broker, "ack", &body).await.0, StatusCode::OK);
        });
        tokio::time::timeout(Duration::from_secs(120), join_all(acks)).await.expect("every ack is answered");
    }
    let calls = strace.finish();
    let written = acks_written(&calls);
    let answers: Vec<(u64, &Call)> = calls.iter().filter_map(|call| Some((answered(call)?, call))).collect();
    // The end of the last call may come when strace has let go already.
    assert!((RECORDS - 1..=RECORDS).contains(&answers.len()), "{} answers are in the trace", answers.len());
    for (offset, answer) in answers {
        let write = written[&offset];
        let is_its = |sync: &Call| sync.name == "fdatasync" && sync.fd == write.fd && sync.succeeded;
        let synced = calls.iter().any(|sync| is_its(sync) && sync.begin > write.end && sync.end < answer.begin);
        assert!(synced, "the ack of offset {offset} was answered before it was durable");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ack_whose_connection_is_cut_can_be_sent_again_and_nothing_comes_twice() {
    const RECORDS: usize = 120;
    let folder = tempfile::tempdir().unwrap();
    let broker = start(folder.path(), RECORDS, &json!({ "lease_ms": 600_000 })).await;
    let client = client();
    let mut done: BTreeSet<u64> = BTreeSet::new();
    for round in 0..RECORDS / 3 {
        let leased = lease(&client, &broker, "w", 3).await;
        let (acked, kept) = leased.split_at(2);
        let tokens: Vec<&String> = acked.iter().map(|(_, token)| token).collect();
        let body = json!({ "tokens": tokens }).to_string();
        let mut stream = TcpStream::connect(broker.url("").strip_prefix("http://").unwrap()).unwrap();
        let head = format!("POST {GROUP}/ack HTTP/1.1\r\nhost: t\r\ncontent-type: application/json\r\n");
        stream.write_all(format!("{head}content-length: {}\r\n\r\n{body}", body.len()).as_bytes()).unwrap();
        // It goes away at once, or after a while that grows.
        std::thread::sleep(Duration::from_micros(100 * round as u64 % 2_000));
        drop(stream);
        // Whoever was first: done now, or done before.
        let (status, again) = call(&client, &broker, "ack", &json!({ "tokens": tokens })).await;
        let lapsed = again["lapsed"].as_array().unwrap().len() as u64;
        assert_eq!(again["done"].as_u64().unwrap() + lapsed, 2, "{again}");
        assert_eq!(status, if lapsed == 2 { StatusCode::CONFLICT } else { StatusCode::OK });
        // The first may still be under way: it is durable before anything else of the group is.
        let (_, nacked) = call(&client, &broker, "nack", &json!({ "tokens": [kept[0].1], "delay_ms": 0 })).await;
        assert_eq!(nacked["done"], 1);
        assert!(acked.iter().all(|(offset, _)| done.insert(*offset)), "{acked:?} came again");
    }
    broker.kill();
    let broker = Broker::start(folder.path());
    let rest: BTreeSet<u64> =
        lease(&client, &broker, "w", RECORDS).await.into_iter().map(|(offset, _)| offset).collect();
    assert!(rest.is_disjoint(&done), "they come again: {:?}", rest.intersection(&done));
    assert_eq!(rest.len() + done.len(), RECORDS);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_workers_that_ack_a_record_the_one_that_has_it_does() {
    let folder = tempfile::tempdir().unwrap();
    let broker = start(folder.path(), 1, &json!({ "lease_ms": 40 })).await;
    let client = client();
    for round in 0..10 {
        // There is one record at a time.
        let wait = |worker| json!({ "worker": worker, "max": 1, "wait_ms": 10_000 });
        let (_, first) = call(&client, &broker, "lease", &wait("first")).await;
        let (_, second) = call(&client, &broker, "lease", &wait("second")).await;
        let [first, second] = [first, second].map(|leased| leased["records"][0].clone());
        assert_eq!(first["offset"], second["offset"], "round {round}");
        let [first, second] = [first, second].map(|record| record["token"].as_str().unwrap().to_owned());
        let extend = json!({ "tokens": [second], "lease_ms": 60_000 });
        let (status, _) = call(&client, &broker, "extend", &extend).await;
        if status == StatusCode::CONFLICT {
            // This machine is slow: the second lease has lapsed, too.
            continue;
        }
        let acks = [&first, &second, &first, &second].map(|token| {
            let (client, broker, body) = (&client, &broker, json!({ "tokens": [token] }));
            async move { call(client, broker, "ack", &body).await.1 }
        });
        let done: Vec<u64> = join_all(acks).await.iter().map(|answer| answer["done"].as_u64().unwrap()).collect();
        assert_eq!((done[0] + done[2], done[1] + done[3]), (0, 1), "{done:?}");
        let publish = client.post(broker.url("/v1/namespaces/work/records")).json(&json!({ "value": round }));
        assert_eq!(publish.send().await.unwrap().status(), StatusCode::OK);
    }
}
