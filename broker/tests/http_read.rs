//! Reading: pages in each media type, long polls, rebuilds, and looking at namespaces.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod inside;

use bytes::Bytes;
use inside::{Answer, TestServer, head};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use wire::{Chain, Frame, FrameDecoder, StreamItem, Trailer};

async fn publish_batches(server: &TestServer, batches: &[usize]) {
    let mut next = 0;
    for size in batches {
        let records: Vec<Value> = (next..next + size).map(|i| json!({"key": format!("k{i}"), "value": i})).collect();
        server.publish("n", &Value::from(records).to_string()).await;
        next += size;
    }
}

fn offsets(page: &Value) -> Vec<u64> {
    page["records"].as_array().unwrap().iter().map(|record| record["offset"].as_u64().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_follow_one_another() {
    let server = TestServer::start().await;
    publish_batches(&server, &[3, 1, 4]).await;
    let mut from = 0;
    for (size, next) in [(3, 3), (3, 6), (2, 8), (0, 8)] {
        let page = server.get(&format!("/v1/namespaces/n/records?from={from}&limit=3")).await.ok();
        assert_eq!(offsets(&page), (from..next).collect::<Vec<_>>());
        assert_eq!((offsets(&page).len(), &page["next_offset"], &page["head"]), (size, &json!(next), &json!(8)));
        from = next;
    }
    assert_eq!(offsets(&server.get("/v1/namespaces/n/records").await.ok()), (0..8).collect::<Vec<_>>());
    let end = server.get("/v1/namespaces/n/records?from=end").await.ok();
    assert_eq!((offsets(&end).len(), &end["next_offset"]), (0, &json!(8)));
    assert_eq!(offsets(&server.get("/v1/namespaces/n/records?from=start&limit=1").await.ok()), [0]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_comes_in_what_is_accepted() {
    let server = TestServer::start().await;
    publish_batches(&server, &[3, 2]).await;
    server.publish("n", "{\"value\":{\"a\":\n1}}").await;
    let get = "GET /v1/namespaces/n/records?from=1&limit=3";
    let lines = server.call(get, &["accept: text/html;q=1, application/x-ndjson;q=0.9, */*;q=0.1"], "").await;
    assert_eq!(lines.header("content-type"), Some("application/x-ndjson"));
    assert_eq!((lines.header("tlog-next-offset"), lines.header("tlog-head")), (Some("4"), Some("6")));
    let read: Vec<u64> =
        lines.text().lines().map(|l| serde_json::from_str::<Value>(l).unwrap()["offset"].as_u64().unwrap()).collect();
    assert_eq!(read, [1, 2, 3]);
    let folded = server.call("GET /v1/namespaces/n/records?from=5", &["accept: application/x-ndjson"], "").await.text();
    assert_eq!(folded.lines().count(), 1, "{folded}");
    assert!(folded.contains(r#""value":{"a": 1}"#), "{folded}");

    let frames = server.call(get, &["accept: application/vnd.tlog.frames"], "").await;
    assert_eq!(frames.header("content-type"), Some("application/vnd.tlog.frames"));
    assert_eq!((frames.header("tlog-next-offset"), frames.header("tlog-head")), (Some("5"), Some("6")));
    let items = decode(&frames.body);
    let bounds: Vec<(u64, u64)> = frames_of(&items).map(|f| (f.base_offset(), f.next_offset())).collect();
    assert_eq!(bounds, [(0, 3), (3, 5)]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn head_answers_as_get_does_without_a_body() {
    let server = TestServer::start().await;
    publish_batches(&server, &[2]).await;
    for path in ["/v1/namespaces/n", "/v1/namespaces/n/records", "/healthz", "/openapi.json"] {
        let (get, head) = (server.get(path).await, server.call(&format!("HEAD {path}"), &[], "").await);
        assert_eq!((head.status, head.header("content-length")), (200, get.header("content-length")), "{path}");
        assert!(head.body.is_empty() && !get.body.is_empty());
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_poll_ends_with_a_record_or_with_its_time() {
    let server = TestServer::start().await;
    publish_batches(&server, &[1]).await;
    let empty = server.get("/v1/namespaces/n/records?from=1&wait=20").await.ok();
    assert_eq!((offsets(&empty).len(), &empty["next_offset"]), (0, &json!(1)));
    let mut waiting = server.connect().await;
    waiting.write_all(head("GET /v1/namespaces/n/records?from=1&wait=60000", &[], None).as_bytes()).await.unwrap();
    server.publish("m", r#"{"value":"another namespace"}"#).await;
    server.publish("n", r#"{"value":"awaited"}"#).await;
    let page = Answer::read(&mut waiting).await.ok();
    assert_eq!((offsets(&page), &page["records"][0]["value"]), (vec![1], &json!("awaited")));

    let mut waiting = server.connect().await;
    waiting.write_all(head("GET /v1/namespaces/n/records?from=2&wait=60000", &[], None).as_bytes()).await.unwrap();
    server.call("DELETE /v1/namespaces/n", &[], "").await;
    Answer::read(&mut waiting).await.refused(404, "namespace-not-found", "does not exist");
    server.stop().await;
}

fn decode(bytes: &[u8]) -> Vec<StreamItem> {
    let mut decoder = FrameDecoder::default();
    decoder.push(bytes);
    let mut items = Vec::new();
    while let Some(item) = decoder.next().unwrap() {
        items.push(item);
    }
    assert_eq!(decoder.pending(), 0);
    items
}

fn frames_of(items: &[StreamItem]) -> impl Iterator<Item = &Frame> {
    items.iter().filter_map(|item| match item {
        StreamItem::Frame(frame) => Some(frame),
        StreamItem::Trailer(_) => None,
    })
}

/// Checks that frames lead from one offset to another, and the chain with them.
fn proven(items: &[StreamItem], mut next: u64, mut chain: Chain) -> Trailer {
    for frame in frames_of(items) {
        assert_eq!(frame.base_offset(), next);
        next = frame.next_offset();
        chain = frame.chain_after(&chain);
        assert_eq!(frame.chain(), chain);
    }
    let Some(StreamItem::Trailer(trailer)) = items.last() else { panic!("no trailer") };
    assert_eq!((trailer.next_offset, trailer.chain, trailer.frames), (next, chain, items.len() as u64 - 1));
    *trailer
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_proves_itself() {
    let server = TestServer::start().await;
    server.call("PUT /v1/namespaces/n", &[], "").await.ok();
    let empty = decode(&server.get("/v1/namespaces/n/rebuild").await.body);
    assert_eq!(proven(&empty, 0, Chain::EMPTY).next_offset, 0);

    // Small frames that are gathered, a large one that is not, and more than one read.
    let mut sizes = vec![1; 40];
    sizes.extend([9_000, 3, 9_000, 9_000, 9_000, 9_000, 9_000, 9_000, 5, 9_000]);
    publish_batches(&server, &sizes).await;
    let answer = server.get("/v1/namespaces/n/rebuild").await;
    assert_eq!(answer.header("content-type"), Some("application/vnd.tlog.frames"));
    let items = decode(&answer.body);
    let trailer = proven(&items, 0, Chain::EMPTY);
    let info = server.get("/v1/namespaces/n").await.ok();
    assert_eq!(
        (info["next_offset"].as_u64(), info["chain"].as_str()),
        (Some(trailer.next_offset), Some(&*trailer.chain.to_string()))
    );
    assert_eq!((trailer.first_offset, trailer.namespace.get()), (0, info["id"].as_u64().unwrap() as u32));

    // From the middle of a frame: it begins with the frame that holds the offset.
    let before = frames_of(&items).find(|frame| frame.next_offset() == 40).unwrap().chain();
    let part = decode(&server.get("/v1/namespaces/n/rebuild?from=77").await.body);
    assert_eq!(proven(&part, 40, before).first_offset, 40);
    let none = decode(&server.get(&format!("/v1/namespaces/n/rebuild?from={}", trailer.next_offset)).await.body);
    assert_eq!((none.len(), proven(&none, trailer.next_offset, trailer.chain).first_offset), (1, trailer.next_offset));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_of_a_page_are_those_of_the_log() {
    let server = TestServer::start().await;
    publish_batches(&server, &[2]).await;
    let page = server.call("GET /v1/namespaces/n/records", &["accept: application/vnd.tlog.frames"], "").await;
    let frame = Frame::decode(Bytes::from(page.body)).unwrap();
    let rebuilt = decode(&server.get("/v1/namespaces/n/rebuild").await.body);
    assert_eq!(Some(&frame), frames_of(&rebuilt).next());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn namespaces_are_created_ensured_listed_and_deleted() {
    let server = TestServer::start().await;
    let put = async |name: &str, config: &str| server.call(&format!("PUT /v1/namespaces/{name}"), &[], config).await;
    let created = put("a%2Fb", "").await;
    assert_eq!(
        (created.status, &created.json()["name"], &created.json()["next_offset"]),
        (201, &json!("a/b"), &json!(0))
    );
    assert_eq!(created.json()["chain"], "0".repeat(64));
    assert_eq!(put("a%2Fb", "{}").await.status, 200);
    put("a%2Fb", "{\"max_record_bytes\":7}").await.refused(409, "config-conflict", "another configuration");
    for name in ["c", "a", "b"] {
        put(name, "").await.ok();
    }
    let names = async |query: &str| {
        let page = server.get(&format!("/v1/namespaces{query}")).await.ok();
        let names: Vec<Value> = page["namespaces"].as_array().unwrap().iter().map(|n| n["name"].clone()).collect();
        (Value::from(names), page["next"].clone())
    };
    assert_eq!(names("").await, (json!(["a", "a/b", "b", "c"]), Value::Null));
    assert_eq!(names("?limit=2").await, (json!(["a", "a/b"]), json!("a/b")));
    assert_eq!(names("?limit=2&after=a%2Fb").await, (json!(["b", "c"]), Value::Null));
    assert_eq!(names("?prefix=a").await, (json!(["a", "a/b"]), Value::Null));

    server.publish("a", r#"{"value":1}"#).await;
    let before = server.get("/v1/namespaces/a").await.ok();
    assert!(before["bytes"].as_u64().unwrap() > 0);
    assert_eq!(server.call("DELETE /v1/namespaces/a", &[], "").await.status, 204);
    server.get("/v1/namespaces/a").await.refused(404, "namespace-not-found", "\"a\"");
    server.publish("a", r#"{"value":2}"#).await;
    let after = server.get("/v1/namespaces/a").await.ok();
    assert_eq!(after["next_offset"], 1);
    assert_ne!((&before["id"], &before["generation"]), (&after["id"], &after["generation"]));
    server.stop().await;
}
