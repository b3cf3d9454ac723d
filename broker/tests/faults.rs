//! What the broker does when the disk does not do its part, and that it waits for it when it does:
//! invariants 1, 2, 6, and the lock.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use reqwest::{Client, Response, StatusCode};
use serde_json::{Value, json};
use support::http::{self, Published};
use support::mount::Mount;
use support::strace::{Call, Strace, may_trace};
use support::{Broker, client, eventually, proof, skip};
use wire::{Code, Frame, ObjectId, Problem};

async fn post(client: &Client, broker: &Broker, namespace: &str, value: Vec<u8>) -> Response {
    let url = broker.url(&format!("/v1/namespaces/{namespace}/records"));
    client.post(url).header("content-type", "application/octet-stream").body(value).send().await.unwrap()
}

async fn problem(response: Response) -> Problem {
    assert_eq!(response.headers()["content-type"], "application/problem+json");
    serde_json::from_str(&response.text().await.unwrap()).unwrap()
}

/// Every acknowledged value is in the namespace, at its offset, with its id.
async fn check_acked(client: &Client, broker: &Broker, namespace: &str, acked: &[(Vec<u8>, Published)]) {
    let proven = proof::rebuild(client, broker, namespace).await;
    for (value, published) in acked {
        let stored = &proven.records[published.first_offset as usize];
        assert_eq!((&stored.value, &stored.id), (value, &published.ids[0]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_publishes_and_loses_nothing() {
    let Some(mount) = Mount::new(512) else {
        return skip("a full disk", "no file system may be mounted here; it needs root");
    };
    let data = mount.path().join("data");
    // Segments so large that much is acknowledged on the full disk, more than the stores can keep in memory.
    let broker = Broker::start_with(&data, &["--partitions", "1", "--segment-bytes", "100663296"]);
    let client = client();
    let mut acked = Vec::new();
    for index in 0..200_u32 {
        let value = index.to_le_bytes().repeat(100);
        acked.push((value.clone(), http::json(post(&client, &broker, "full", value).await).await));
    }

    let filler = mount.fill();
    let mut refused = 0;
    for index in 0..400_u32 {
        let value = index.to_le_bytes().repeat(200_000);
        let response = post(&client, &broker, "full", value.clone()).await;
        if response.status() == StatusCode::OK {
            assert_eq!(refused, 0, "there is space again, out of nowhere");
            acked.push((value, http::json(response).await));
            continue;
        }
        let problem = problem(response).await;
        assert_eq!((problem.code(), problem.status), (Some(Code::StorageFull), 507), "{problem:?}");
        refused += 1;
        if refused == 5 {
            break;
        }
    }
    assert_eq!(refused, 5, "the disk was never full");
    check_acked(&client, &broker, "full", &acked).await;

    std::fs::remove_file(filler).unwrap();
    let value = b"there is space".to_vec();
    let url = broker.url("/v1/namespaces/full/records");
    eventually("publishes after there is space", || async {
        client.post(&url).body(value.clone()).send().await.unwrap().status() == StatusCode::OK
    })
    .await;
    for index in 0..50_u32 {
        let value = index.to_le_bytes().repeat(50);
        acked.push((value.clone(), http::json(post(&client, &broker, "full", value).await).await));
    }
    eventually("the stores are level", || http::stores_are_level(&client, &broker)).await;
    broker.kill();

    let broker = Broker::start(&data);
    check_acked(&client, &broker, "full", &acked).await;
    eventually("the stores are level", || http::stores_are_level(&client, &broker)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_folder_is_a_clear_error_at_the_start() {
    let Some(mount) = Mount::new(192) else {
        return skip("a read-only folder", "no file system may be mounted here; it needs root");
    };
    let data = mount.path().join("data");
    let client = client();
    let broker = Broker::start_with(&data, &["--partitions", "1"]);
    let published = http::publish(&client, &broker, "ro", &json!({"key": "k", "value": 1})).await;
    assert!(broker.terminate().success());

    mount.remount("ro");
    let log = Broker::try_start(Broker::command(&data, &[])).expect_err("a broker can't write there").log;
    let last = log.lines().last().expect("it says why");
    assert!(last.contains(data.to_str().unwrap()) && last.contains("Read-only file system"), "{log}");

    mount.remount("rw");
    let broker = Broker::start(&data);
    let proven = proof::rebuild(&client, &broker, "ro").await;
    assert_eq!(proven.records[0].id, published.ids[0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_turns_read_only_fails_publishes_while_reads_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path());
    if !may_trace() {
        return skip("a disk that turns read-only", "strace is not there, or may not attach");
    }
    let client = client();
    let mut acked = Vec::new();
    for index in 0..50_u32 {
        let value = format!("value {index}").into_bytes();
        acked.push((value.clone(), http::json(post(&client, &broker, "turns", value).await).await));
    }

    let failing = Strace::fail(&broker, "pwritev,pwrite64,fdatasync", "EROFS").unwrap();
    let first = problem(post(&client, &broker, "turns", b"lost".to_vec()).await).await;
    assert_eq!(first.code(), Some(Code::WriteFailed), "{first:?}");
    assert!(first.detail.contains("Read-only file system"), "{first:?}");
    drop(failing);

    // The disk is well again, but what it has of the failed write is not known: no write until a restart.
    let second = problem(post(&client, &broker, "turns", b"refused".to_vec()).await).await;
    assert_eq!(second.code(), Some(Code::PartitionFailed), "{second:?}");
    check_acked(&client, &broker, "turns", &acked).await;
    let page = broker.url("/v1/namespaces/turns/records?from=0");
    let page: Value = http::json(client.get(page).send().await.unwrap()).await;
    assert_eq!(page["records"].as_array().unwrap().len(), acked.len(), "a record is shown that was never durable");
    assert_eq!(client.get(broker.url("/healthz")).send().await.unwrap().status(), StatusCode::OK);
    let ready = client.get(broker.url("/readyz")).send().await.unwrap();
    assert_eq!(ready.status(), StatusCode::SERVICE_UNAVAILABLE);
    broker.kill();

    let broker = Broker::start(folder.path());
    check_acked(&client, &broker, "turns", &acked).await;
    http::json::<Published>(post(&client, &broker, "turns", b"goes on".to_vec()).await).await;
    assert_eq!(client.get(broker.url("/readyz")).send().await.unwrap().status(), StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_process_on_the_same_folder_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path());
    let output = Broker::command(folder.path(), &[]).output().unwrap();
    assert!(!output.status.success());
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains(folder.path().to_str().unwrap()), "{said}");
    assert!(said.contains("in use by another"), "{said}");
    // The first one is none the worse for it.
    http::publish(&client(), &broker, "locked", &json!({"value": 1})).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ack_follows_its_fdatasync_for_one_writer() {
    acks_follow_their_fdatasync(1, 30).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ack_follows_its_fdatasync_for_64_writers() {
    acks_follow_their_fdatasync(64, 5).await;
}

/// Publishes under strace, and looks for the `fdatasync` between each frame's write and its answer's.
async fn acks_follow_their_fdatasync(writers: usize, each: usize) {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path());
    if !may_trace() {
        return skip("an ack follows its fdatasync", "strace is not there, or may not attach");
    }
    let client = client();
    let strace = Strace::trace(&broker, "pwritev,pwrite64,fdatasync,write,writev,sendto").unwrap();
    let writer = |writer| {
        let (client, broker) = (&client, &broker);
        async move {
            for n in 0..each {
                let value = format!("{writer} {n}").into_bytes();
                // Each has a namespace of its own, so that all partitions are at work.
                http::json::<Published>(post(client, broker, &format!("acks-{writer}"), value).await).await;
            }
        }
    };
    let all = join_all((0..writers).map(writer));
    tokio::time::timeout(Duration::from_secs(120), all).await.expect("every publish is answered");
    let calls = strace.finish();

    let written = frames_written(&calls);
    let acks: Vec<_> = calls.iter().filter_map(|call| Some((acked_by(call)?, call))).collect();
    assert_eq!(acks.len(), writers * each, "every answer is in the trace");
    for ((namespace, offset), answer) in acks {
        let write = written[&(namespace, offset)];
        let synced = calls.iter().any(|sync| {
            sync.name == "fdatasync"
                && sync.fd == write.fd
                && sync.succeeded
                && sync.begin > write.end
                && sync.end < answer.begin
        });
        assert!(synced, "offset {offset} of namespace {namespace} was acknowledged before it was durable");
    }
}

/// By namespace and offset, the call that wrote a record's frame.
fn frames_written(calls: &[Call]) -> HashMap<(u32, u64), &Call> {
    let mut written = HashMap::new();
    for call in calls.iter().filter(|call| call.name.starts_with("pwrite") && call.succeeded) {
        for buffer in &call.buffers {
            if let Ok(frame) = Frame::decode(Bytes::copy_from_slice(buffer)) {
                let id = (frame.namespace().get(), frame.base_offset());
                assert!(written.insert(id, call).is_none() || id.0 == 0, "a frame was written twice");
            }
        }
    }
    written
}

/// Namespace and offset of the record that an answer acknowledges.
fn acked_by(call: &Call) -> Option<(u32, u64)> {
    let bytes = call.buffers.concat();
    let text = std::str::from_utf8(&bytes).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    if !head.starts_with("HTTP/1.1 200") || call.name.starts_with('p') {
        return None;
    }
    let published: Published = serde_json::from_str(body).ok()?;
    let id: ObjectId = published.ids[0].parse().ok()?;
    Some((id.namespace().get(), published.first_offset))
}
