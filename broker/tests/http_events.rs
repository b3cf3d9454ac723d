//! Following: events of one namespace and of many, resumed where they were cut off.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod inside;
#[path = "support/sse.rs"]
#[allow(dead_code, unreachable_pub, reason = "shared with tests that use more of it")]
mod sse;

use std::time::Duration;

use inside::{PATIENCE, TestServer, head};
use reqwest::Client;
use serde_json::{Value, json};
use sse::Events;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

fn client() -> Client {
    Client::builder().no_proxy().build().unwrap()
}

/// The next event's id, offset, value and namespace.
async fn next(events: &mut Events) -> (String, Value) {
    let event = timeout(PATIENCE, events.next()).await.expect("an event comes").expect("the stream goes on");
    assert_eq!(event.event, "");
    (event.id, serde_json::from_str(&event.data).unwrap())
}

async fn offset(events: &mut Events) -> u64 {
    let (id, record) = next(events).await;
    assert_eq!(id, record["offset"].to_string());
    record["offset"].as_u64().unwrap()
}

/// Everything that a stream has sent by the time it says this.
async fn raw_until(server: &TestServer, line: &str, headers: &[&str], says: &str) -> String {
    let mut stream = server.connect().await;
    stream.write_all(head(line, headers, None).as_bytes()).await.unwrap();
    let mut text = String::new();
    let mut buffer = [0; 4096];
    while !text.contains(says) {
        let read = timeout(PATIENCE, stream.read(&mut buffer)).await.expect("it is said").unwrap();
        assert!(read > 0, "the stream ended: {text}");
        text.push_str(std::str::from_utf8(&buffer[..read]).unwrap());
    }
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_sees_what_is_published() {
    let server = TestServer::start().await;
    server.publish("n", r#"[{"value":0},{"key":"k","value":"1\r\ndata: x"}]"#).await;
    let url = server.url("/v1/namespaces/n/events");
    let mut from_end = Events::connect(&client(), &url, None).await;
    let mut from_start = Events::connect(&client(), &format!("{url}?from=start"), None).await;
    let mut from_1 = Events::connect(&client(), &format!("{url}?from=1"), None).await;
    server.publish("n", r#"{"value":2}"#).await;
    assert_eq!((offset(&mut from_start).await, offset(&mut from_start).await), (0, 1));
    let (_, record) = next(&mut from_1).await;
    assert_eq!((&record["key"], &record["value"]), (&json!("k"), &json!("1\r\ndata: x")));
    assert_eq!((offset(&mut from_start).await, offset(&mut from_1).await, offset(&mut from_end).await), (2, 2, 2));
    server.publish("n", "[{\"value\":3},{\"value\":[\n4,\r\n5]}]").await;
    for events in [&mut from_start, &mut from_1, &mut from_end] {
        assert_eq!(offset(events).await, 3);
        assert_eq!(next(events).await.1["value"], json!([4, 5]));
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_opens_at_once_and_says_where_it_stands() {
    let server = TestServer::start_with(|config| config.timeouts.heartbeat = Duration::from_millis(20)).await;
    server.call("PUT /v1/namespaces/n", &[], "").await.ok();
    let get = "GET /v1/namespaces/n/events";
    let text = raw_until(&server, get, &["accept: text/event-stream"], ":\nid: -1\n\n").await.to_lowercase();
    for header in ["content-type: text/event-stream", "cache-control: no-store", "x-accel-buffering: no"] {
        assert!(text.contains(&format!("\r\n{header}\r\n")), "{header}: {text}");
    }
    assert!(text.contains(": tlog\nretry: 1000\nid: -1\n\n"), "{text}");
    // Published between two connections, and not lost though nothing had been seen.
    server.publish("n", r#"[{"value":0},{"value":1}]"#).await;
    let text = raw_until(&server, get, &["last-event-id: -1"], "id: 1\n").await;
    assert!(text.contains("retry: 1000\n\n") && text.contains("id: 0\ndata: {\"offset\":0"), "{text}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn last_event_id_resumes_behind_it_and_beats_from() {
    let server = TestServer::start().await;
    server.publish("n", r#"[{"value":0},{"value":1},{"value":2}]"#).await;
    let url = server.url("/v1/namespaces/n/events?from=start");
    for (id, expected) in [("0", 1), ("1", 2), ("2", 3)] {
        let mut events = Events::connect(&client(), &url, Some(id)).await;
        if expected == 3 {
            server.publish("n", r#"{"value":3}"#).await;
        }
        assert_eq!(offset(&mut events).await, expected);
    }
    let mut events = Events::connect(&client(), &url, Some("")).await;
    assert_eq!(offset(&mut events).await, 0);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_that_is_cut_off_sees_each_record_once() {
    const RECORDS: u64 = 3_000;
    let server = TestServer::start().await;
    server.call("PUT /v1/namespaces/n", &[], "").await.ok();
    let url = server.url("/v1/namespaces/n/events?from=start");
    let follower = async {
        let (client, mut last, mut expected) = (client(), None, 0);
        while expected < RECORDS {
            let mut events = Events::connect(&client, &url, last.as_deref()).await;
            // Cut off after another number of records each time.
            for _ in 0..1 + expected * 7919 % 211 {
                if expected == RECORDS {
                    break;
                }
                let (id, record) = next(&mut events).await;
                assert_eq!(record["value"].as_u64(), Some(expected));
                (last, expected) = (Some(id), expected + 1);
            }
        }
    };
    let publisher = async {
        let mut next = 0;
        while next < RECORDS {
            let end = RECORDS.min(next + 1 + next % 13);
            let batch: Vec<Value> = (next..end).map(|value| json!({"value": value})).collect();
            server.publish("n", &Value::from(batch).to_string()).await;
            next = end;
        }
    };
    tokio::join!(follower, publisher);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_choose_records() {
    let server = TestServer::start_with(|config| config.timeouts.heartbeat = Duration::from_millis(20)).await;
    server.publish("n", r#"[{"key":"a","value":0},{"key":"b","value":1},{"value":2},{"key":"c d","value":3}]"#).await;
    let url = server.url("/v1/namespaces/n/events?from=start&key=a&key=c+d");
    let mut events = Events::connect(&client(), &url, None).await;
    assert_eq!((offset(&mut events).await, offset(&mut events).await), (0, 3));
    server.publish("n", r#"[{"key":"b","value":4},{"key":"a","value":5}]"#).await;
    assert_eq!(offset(&mut events).await, 5);
    // None of these is for the follower, but a heartbeat takes it past them.
    server.publish("n", r#"[{"key":"b","value":6},{"value":7}]"#).await;
    raw_until(&server, "GET /v1/namespaces/n/events?from=6&key=a", &[], ":\nid: 7\n\n").await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_with_its_namespace() {
    let server = TestServer::start().await;
    server.publish("n", r#"{"value":0}"#).await;
    server.publish("m", r#"{"value":0}"#).await;
    let one = server.url("/v1/namespaces/n/events?from=start");
    let many = server.url("/v1/events?namespace=n&namespace=m&from=start");
    let mut one = Events::connect(&client(), &one, None).await;
    let mut many = Events::connect(&client(), &many, None).await;
    next(&mut one).await;
    next(&mut many).await;
    next(&mut many).await;
    assert_eq!(server.call("DELETE /v1/namespaces/n", &[], "").await.status, 204);
    assert_eq!(timeout(PATIENCE, one.next()).await.expect("it ends"), None);
    assert_eq!(timeout(PATIENCE, many.next()).await.expect("it ends"), None);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_namespaces_come_over_one_connection_and_resume() {
    let server = TestServer::start().await;
    for name in ["a", "b", "c%2F%22"] {
        server.publish(name, r#"[{"value":0},{"value":1}]"#).await;
    }
    let url = server.url("/v1/events?namespace=a&namespace=c%2F%22&namespace=a&from=start");
    // Cut off after each event: every record comes once, each namespace in order.
    let (mut last, mut seen) = (None, Vec::new());
    for _ in 0..4 {
        let mut events = Events::connect(&client(), &url, last.as_deref()).await;
        let (id, record) = next(&mut events).await;
        seen.push((record["namespace"].as_str().unwrap().to_owned(), record["offset"].as_u64().unwrap()));
        last = Some(id);
    }
    seen.sort();
    assert_eq!(seen, [("a".into(), 0), ("a".into(), 1), ("c/\"".into(), 0), ("c/\"".into(), 1)]);

    // With the same token: what is new in `a`; and all of `b`, which the token does not know.
    server.publish("a", r#"{"value":2}"#).await;
    let url = server.url("/v1/events?namespace=b&namespace=a&from=start");
    let mut events = Events::connect(&client(), &url, last.as_deref()).await;
    let mut seen = Vec::new();
    for _ in 0..3 {
        let (_, record) = next(&mut events).await;
        seen.push((record["namespace"].as_str().unwrap().to_owned(), record["value"].as_u64().unwrap()));
    }
    seen.sort();
    assert_eq!(seen, [("a".into(), 2), ("b".into(), 0), ("b".into(), 1)]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_many_that_saw_nothing_resumes_too() {
    let server = TestServer::start().await;
    server.publish("a", r#"{"value":0}"#).await;
    server.call("PUT /v1/namespaces/b", &[], "").await.ok();
    let get = "GET /v1/events?namespace=a&namespace=b";
    let text = raw_until(&server, get, &[], "\n\n").await;
    let token = text.lines().find_map(|line| line.strip_prefix("id: ")).expect("the opening has a token").to_owned();
    server.publish("b", r#"{"value":"b0"}"#).await;
    server.publish("a", r#"{"value":"a1"}"#).await;
    let mut events = Events::connect(&client(), &server.url(&get[4..]), Some(&token)).await;
    let mut values = vec![next(&mut events).await.1["value"].clone(), next(&mut events).await.1["value"].clone()];
    values.sort_by_key(Value::to_string);
    assert_eq!(values, ["a1", "b0"]);

    // A namespace that was deleted and made anew is another: its records begin at `from`.
    server.call("DELETE /v1/namespaces/b", &[], "").await;
    server.publish("b", r#"{"value":"new"}"#).await;
    let url = server.url("/v1/events?namespace=b&from=start");
    let mut events = Events::connect(&client(), &url, Some(&token)).await;
    assert_eq!(next(&mut events).await.1["value"], "new");
    server.stop().await;
}
