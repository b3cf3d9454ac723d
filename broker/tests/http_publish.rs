//! Publishing: what bodies become, on what conditions, and that a retry is stored once.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod inside;

use inside::{Answer, TestServer, head};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use wire::{Draft, DraftBuilder, NewRecord};

const JSON: &str = "content-type: application/json";
const NDJSON: &str = "content-type: application/x-ndjson";
const FRAMES: &str = "content-type: application/vnd.tlog.frames";
const POST: &str = "POST /v1/namespaces/n/records";

async fn values(server: &TestServer) -> Vec<Value> {
    let page = server.get("/v1/namespaces/n/records").await.ok();
    let strip = |record: &Value| {
        let mut record = record.as_object().unwrap().clone();
        for field in ["offset", "id", "time"] {
            assert!(record.remove(field).is_some());
        }
        Value::Object(record)
    };
    page["records"].as_array().unwrap().iter().map(strip).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn values_are_read_as_what_they_were_published_as() {
    let server = TestServer::start().await;
    let posts: [(&str, &str, &[u8]); 8] = [
        (POST, JSON, br#"{"key":"k","value":{"a": [1,2.50]},"headers":{"h":"x"}}"#),
        (POST, JSON, br#"{"value":null}"#),
        (POST, JSON, br#"{"key":"k","value":null,"tombstone":true}"#),
        (POST, JSON, br#"{"value_base64":"AAH/"}"#),
        ("POST /v1/namespaces/n/records?key=a%2Fb+c", "content-type: text/plain; charset=utf-8", "grüße".as_bytes()),
        (POST, "content-type: text/plain", b"\xff"),
        (POST, "content-type: image/png", b"\x89PNG"),
        (POST, "x-no: content-type", b"[1]"),
    ];
    for (offset, (line, content_type, body)) in posts.into_iter().enumerate() {
        let reply = server.call(line, &[content_type], body).await.ok();
        assert_eq!((reply["first_offset"].as_u64(), reply["ids"].as_array().unwrap().len()), (Some(offset as u64), 1));
    }
    let expected = [
        json!({"key":"k","value":{"a":[1,2.5]},"headers":{"h":"x"}}),
        json!({"value":null}),
        json!({"key":"k","value":null,"tombstone":true}),
        json!({"value_base64":"AAH/"}),
        json!({"key":"a/b c","value":"grüße"}),
        json!({"value_base64":"/w=="}),
        json!({"value_base64":"iVBORw=="}),
        json!({"value_base64":"WzFd"}),
    ];
    assert_eq!(values(&server).await, expected);
    let page = server.get("/v1/namespaces/n/records").await.text();
    assert!(page.contains(r#""value":{"a": [1,2.50]}"#), "JSON is kept as it was written: {page}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_one_frame_in_json_and_in_binary() {
    let server = TestServer::start().await;
    let reply = server.publish("n", r#"[{"value":1},{"key":"k","value":"two"}]"#).await;
    assert_eq!((&reply["first_offset"], &reply["next_offset"]), (&json!(0), &json!(2)));
    assert_eq!(reply.get("duplicate"), None);
    let mut builder = DraftBuilder::default();
    builder.push(&NewRecord::text("three")).unwrap();
    builder.push(&NewRecord::bytes(&[4])).unwrap();
    let reply = server.call(POST, &[FRAMES], builder.finish().unwrap().encode()).await.ok();
    assert_eq!((&reply["first_offset"], &reply["next_offset"]), (&json!(2), &json!(4)));
    let namespace = server.get("/v1/namespaces/n").await.ok();
    assert_eq!((&namespace["next_offset"], &namespace["chain"]), (&json!(4), &reply["chain"]));
    let page = server.get("/v1/namespaces/n/records").await.ok();
    let ids: Vec<&Value> = page["records"].as_array().unwrap().iter().map(|record| &record["id"]).collect();
    assert_eq!(ids[2..], reply["ids"].as_array().unwrap().iter().collect::<Vec<_>>());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn if_match_appends_only_at_that_offset() {
    let server = TestServer::start().await;
    let publish = async |condition: &str| server.call(POST, &[JSON, condition], r#"{"value":1}"#).await;
    let problem = publish("if-match: \"3\"").await.refused(412, "offset-mismatch", "0");
    assert_eq!(problem["next_offset"], 0);
    assert_eq!(server.next_offset("n").await, None, "a condition that fails creates nothing");
    publish("if-match: \"0\"").await.ok();
    assert_eq!(publish("if-match: 0").await.refused(412, "offset-mismatch", "1")["next_offset"], 1);
    publish("if-match: 1").await.ok();
    assert_eq!(server.next_offset("n").await, Some(2));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_producers_retry_is_stored_once() {
    let server = TestServer::start().await;
    let publish = async |epoch: u32, sequence: u64, value: &str| {
        let headers =
            ["producer-id: p".to_owned(), format!("producer-epoch: {epoch}"), format!("producer-seq: {sequence}")];
        let headers: Vec<&str> = headers.iter().map(String::as_str).chain([JSON]).collect();
        server.call(POST, &headers, format!("{{\"value\":{value}}}")).await
    };
    publish(0, 1, "0").await.refused(409, "producer-gap", "next sequence is 0");
    assert_eq!(server.next_offset("n").await, None, "a gap creates nothing");
    let first = publish(0, 0, "1").await.ok();
    let again = publish(0, 0, "1").await.ok();
    assert_eq!((&again["duplicate"], &again["ids"], &again["chain"]), (&json!(true), &first["ids"], &first["chain"]));
    publish(0, 2, "2").await.refused(409, "producer-gap", "next sequence is 1");
    publish(1, 0, "3").await.ok();
    publish(0, 1, "4").await.refused(409, "producer-fenced", "epoch 1");
    assert_eq!(values(&server).await, [json!({"value":1}), json!({"value":3})]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ndjson_of_any_length_is_stored_in_batches() {
    let server = TestServer::start().await;
    let lines: String = (0..25_000).map(|i| format!("{{\"key\":\"k{}\",\"value\":{i}}}\r\n\n", i % 7)).collect();
    let reply = server.call(POST, &[NDJSON], lines.trim_end()).await.ok();
    assert_eq!(
        (&reply["first_offset"], &reply["next_offset"], &reply["records"]),
        (&json!(0), &json!(25_000), &json!(25_000))
    );
    let batches = reply["batches"].as_u64().unwrap();
    assert!((6..=25).contains(&batches), "{batches} batches");
    assert_eq!(server.get("/v1/namespaces/n").await.ok()["chain"], reply["chain"]);
    let last = server.get("/v1/namespaces/n/records?from=24999").await.ok();
    assert_eq!(last["records"][0]["value"], 24_999);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_does_not_end_its_line_is_not_stored() {
    let server = TestServer::start().await;
    let body = "{\"value\":1}\n{\"value\":2}{\"value\":3}\n";
    let problem = server.call(POST, &[NDJSON], body).await.refused(400, "invalid-body", "line 2");
    assert_eq!((&problem["line"], &problem["stored"]), (&json!(2), &json!(1)));
    assert_eq!(values(&server).await, [json!({"value":1})]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ndjson_is_stored_while_it_is_still_being_sent() {
    let server = TestServer::start().await;
    let mut stream = server.connect().await;
    let head = head(POST, &[NDJSON, "transfer-encoding: chunked"], None);
    stream.write_all(head.as_bytes()).await.unwrap();
    for stored in 1..4 {
        stream.write_all(b"c\r\n{\"value\":1}\n\r\n").await.unwrap();
        inside::eventually("the line is stored", async || server.next_offset("n").await == Some(stored)).await;
    }
    stream.write_all(b"0\r\n\r\n").await.unwrap();
    assert_eq!(Answer::read(&mut stream).await.ok()["records"], 3);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_line_is_named_and_what_stands_before_it_stays() {
    let server = TestServer::start().await;
    let lines = |count: usize| "{\"value\":1}\n".repeat(count);
    let cases = [
        (lines(2500) + "{\"value\":\n" + &lines(3), 2501, 2500, "invalid-body", "line 2501: the JSON is broken"),
        ("\n{\"value\":1}\n\n{\"ttl\":1}".to_owned(), 4, 1, "unknown-field", "\"ttl\""),
        (lines(1) + "[]", 2, 1, "invalid-body", "line 2"),
        ("{\"value\":1,\"key\":\"\"}\n".to_owned(), 1, 0, "invalid-key", "line 1: the key is empty"),
    ];
    let mut next_offset = 0;
    for (body, line, stored, code, says) in cases {
        let answer = server.call(POST, &[NDJSON], &body).await;
        let problem = answer.refused(400, code, says);
        assert_eq!((&problem["line"], &problem["stored"]), (&json!(line), &json!(stored)));
        next_offset += stored;
        assert_eq!(server.next_offset("n").await, Some(next_offset));
    }
    let long = format!("{{\"value\":1}}\n{{\"value\":\"{}\"}}\n", "x".repeat(2 << 20));
    let problem = server.call(POST, &[NDJSON], long).await.refused(413, "record-too-large", "line 2");
    assert_eq!((&problem["line"], &problem["stored"]), (&json!(2), &json!(1)));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ndjson_keeps_to_its_conditions() {
    let server = TestServer::start().await;
    let first_broken = server.call(POST, &[NDJSON], "{}\n").await;
    assert_eq!(first_broken.refused(400, "invalid-body", "value is missing")["stored"], 0);
    let body = "{\"value\":1}\n".repeat(3000);
    server.call(POST, &[NDJSON, "if-match: 1"], &body).await.refused(412, "offset-mismatch", "0");
    let producer = ["producer-id: p", "producer-epoch: 0", "producer-seq: 0", NDJSON];
    server.call(POST, &producer, &body).await.refused(400, "invalid-producer", "NDJSON takes no producer");
    server.call(POST, &[NDJSON], "\n \r\n").await.refused(400, "empty-batch", "no record");
    assert_eq!(server.next_offset("n").await, None);
    assert_eq!(server.call(POST, &[NDJSON, "if-match: 0"], &body).await.ok()["records"], 3000);
    let problem = server.call(POST, &[NDJSON, "if-match: 0"], &body).await.refused(412, "offset-mismatch", "3000");
    assert_eq!((&problem["line"], &problem["stored"]), (&json!(1), &json!(0)));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_over_the_namespaces_own_limit_is_refused() {
    let server = TestServer::start().await;
    let created = server.call("PUT /v1/namespaces/n", &[], "{\"max_record_bytes\":10}").await;
    assert_eq!((created.status, created.json()["config"]["max_record_bytes"].as_u64()), (201, Some(10)));
    server.publish("n", r#"{"value":"12345678"}"#).await;
    let large = r#"{"value":"123456789"}"#;
    server.call(POST, &[JSON], large).await.refused(413, "record-too-large", "11 bytes");
    let lines = format!("{{\"value\":1}}\n{large}\n");
    let problem = server.call(POST, &[NDJSON], lines).await.refused(413, "record-too-large", "line 2");
    assert_eq!(problem["stored"], 1);
    assert_eq!(server.next_offset("n").await, Some(2));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_placed_frame_is_not_published() {
    let server = TestServer::start().await;
    server.publish("n", r#"{"value":1}"#).await;
    let page = server.call("GET /v1/namespaces/n/records", &["accept: application/vnd.tlog.frames"], "").await;
    server.call(POST, &[FRAMES], &page.body).await.refused(400, "invalid-body", "already been given a place");
    let mut draft = Draft::of(&NewRecord::text("x")).unwrap().encode();
    *draft.last_mut().unwrap() ^= 1;
    server.call(POST, &[FRAMES], &draft).await.refused(400, "invalid-body", "CRC");
    server.call(POST, &[FRAMES], &draft[..20]).await.refused(400, "invalid-body", "cut off");
    assert_eq!(server.next_offset("n").await, Some(1));
    server.stop().await;
}
