//! Durable subscribers over HTTP: the calls, their shapes, bad input, the text of their streams.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod inside;
#[path = "support/losses.rs"]
mod losses;
#[path = "support/sse.rs"]
#[allow(dead_code, unreachable_pub, reason = "shared with tests that use more of it")]
mod sse;

use std::time::Duration;

use inside::{Answer, PATIENCE, TestServer, head};
use reqwest::Client;
use serde_json::{Value, json};
use sse::{Event, Events};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

const JSON: &str = "content-type: application/json";

async fn call(server: &TestServer, method: &str, call: &str, body: &Value) -> Answer {
    server.call(&format!("{method} /v1/subscribers/{call}"), &[JSON], body.to_string()).await
}

/// A server with the namespaces `n` and `m`, of a record each.
async fn start() -> TestServer {
    let server = TestServer::start().await;
    server.publish("n", r#"{"key":"a","value":"early"}"#).await;
    server.publish("m", r#"{"value":"early"}"#).await;
    server
}

fn rooms(keys: &[&str], namespaces: &[&str]) -> Value {
    let rooms: Vec<Value> = keys.iter().map(|key| json!({ "namespace": "n", "key": key })).collect();
    json!({ "rooms": rooms, "namespaces": namespaces })
}

async fn follow(server: &TestServer, name: &str, last_event_id: Option<&str>) -> Events {
    let client = Client::builder().no_proxy().build().unwrap();
    Events::connect(&client, &server.url(&format!("/v1/subscribers/{name}/events")), last_event_id).await
}

async fn next(events: &mut Events) -> Event {
    timeout(PATIENCE, events.next()).await.expect("an event comes").expect("the stream goes on")
}

/// The values of the next records, and the id of the last.
async fn values(events: &mut Events, count: usize) -> (Vec<Value>, String) {
    let (mut values, mut id) = (Vec::new(), String::new());
    for _ in 0..count {
        let event = next(events).await;
        assert_eq!(event.event, "");
        values.push(serde_json::from_str::<Value>(&event.data).unwrap()["value"].clone());
        id = event.id;
    }
    (values, id)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscriber_is_made_looked_at_moved_and_deleted() {
    let server = start().await;
    let put = call(&server, "PUT", "ann", &rooms(&["b", "a"], &["m"])).await;
    assert_eq!(put.status, 201, "{}", put.text());
    let mut info = put.json();
    let began = info.as_object_mut().unwrap().remove("began").unwrap();
    assert!(began.as_str().unwrap().ends_with('Z'), "{began}");
    let cursor = |namespace: &str| json!({ "namespace": namespace, "next_offset": 1, "head": 1 });
    let expected = json!({
        "name": "ann", "connected": false,
        "rooms": [{ "namespace": "n", "key": "a" }, { "namespace": "n", "key": "b" }], "namespaces": ["m"],
        "cursors": [cursor("m"), cursor("n")],
    });
    assert_eq!(info, expected);
    let again = call(&server, "PUT", "ann", &rooms(&["a"], &["m"])).await;
    assert_eq!((again.status, &again.json()["began"]), (200, &began), "{}", again.text());
    assert_eq!(again.json()["rooms"], json!([{ "namespace": "n", "key": "a" }]));

    assert_eq!(call(&server, "POST", "ann/join", &rooms(&["c"], &[])).await.status, 204);
    assert_eq!(call(&server, "POST", "ann/leave", &rooms(&["a", "never"], &[])).await.status, 204);
    let info = server.get("/v1/subscribers/ann").await.ok();
    assert_eq!(info["rooms"], json!([{ "namespace": "n", "key": "c" }]));
    let events = follow(&server, "ann", None).await;
    assert_eq!(server.get("/v1/subscribers/ann").await.ok()["connected"], true);
    drop(events);
    inside::eventually("it is gone", async || server.get("/v1/subscribers/ann").await.ok()["connected"] == false).await;

    for name in ["a%2Fb", "zoe", "ben"] {
        assert_eq!(call(&server, "PUT", name, &json!({})).await.status, 201);
    }
    let names = async |query: &str| {
        let page = server.get(&format!("/v1/subscribers{query}")).await.ok();
        let names = page["subscribers"].as_array().unwrap().iter().map(|listed| listed["name"].as_str().unwrap());
        (names.map(str::to_owned).collect::<Vec<_>>().join(" "), page["next"].clone())
    };
    assert_eq!(names("").await, ("a/b ann ben zoe".into(), Value::Null));
    assert_eq!(names("?limit=2").await, ("a/b ann".into(), json!("ann")));
    assert_eq!(names("?after=ann&limit=2").await, ("ben zoe".into(), Value::Null));

    let mut events = follow(&server, "ann", None).await;
    assert_eq!(server.call("DELETE /v1/subscribers/ann", &[], "").await.status, 204);
    assert_eq!(timeout(PATIENCE, events.next()).await.expect("the stream ends"), None);
    server.get("/v1/subscribers/ann").await.refused(404, "subscriber-not-found", "\"ann\"");
    assert_eq!(names("").await.0, "a/b ben zoe");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_named_and_nothing_changes() {
    let server = start().await;
    call(&server, "PUT", "ann", &rooms(&["a"], &[])).await.ok();
    for (method, at, body, status, code, says) in [
        ("PUT", "ann", r#"{"rooms":[{"namespace":"none","key":"k"}]}"#, 404, "namespace-not-found", "\"none\""),
        ("PUT", "ann", r#"{"namespaces":["m","none"]}"#, 404, "namespace-not-found", "\"none\""),
        ("PUT", "ann", r#"{"rooms":[{"namespace":"n","key":""}]}"#, 400, "invalid-key", "empty"),
        ("PUT", "ann", r#"{"namespaces":[""]}"#, 400, "invalid-name", "empty"),
        ("PUT", "ann", r#"{"room":[]}"#, 400, "unknown-field", "room"),
        ("PUT", "ann", "[]", 400, "invalid-body", "object"),
        ("PUT", "a%0Ab", "{}", 400, "invalid-subscriber", "U+000A"),
        ("PUT", "%2e", "{}", 400, "invalid-subscriber", "which no URL can name"),
        ("GET", "", "", 400, "invalid-subscriber", "empty"),
        ("GET", "none", "", 404, "subscriber-not-found", "\"none\""),
        ("GET", "none/events", "", 404, "subscriber-not-found", "\"none\""),
        ("GET", "ann?x=1", "", 400, "invalid-parameter", "\"x\""),
        ("DELETE", "none", "", 404, "subscriber-not-found", "\"none\""),
        ("POST", "none/join", r#"{"namespaces":["n"]}"#, 404, "subscriber-not-found", "\"none\""),
        ("POST", "none/leave", r#"{"namespaces":["n"]}"#, 404, "subscriber-not-found", "\"none\""),
        ("POST", "ann/ack", r#"{"id":"17"}"#, 400, "invalid-token", "\"17\""),
        ("POST", "ann/ack", r#"{"token":"17"}"#, 400, "unknown-field", "token"),
        ("POST", "ann/leaves", "{}", 404, "not-found", "nothing at"),
        ("PATCH", "ann", "{}", 405, "method-not-allowed", "PATCH"),
    ] {
        let answer = server.call(&format!("{method} /v1/subscribers/{at}"), &[JSON], body).await;
        answer.refused(status, code, says);
    }
    let keys: Vec<String> = (0..10_001).map(|key| key.to_string()).collect();
    let many = rooms(&keys.iter().map(String::as_str).collect::<Vec<_>>(), &[]);
    let refused = call(&server, "POST", "ann/join", &many).await;
    refused.refused(409, "too-many-rooms", "10001 rooms and namespaces, the limit of a call is 10000");
    let text = server.call("GET /v1/subscribers/ann/events", &["last-event-id: 7"], "").await;
    text.refused(400, "invalid-parameter", "Last-Event-ID");
    let info = server.get("/v1/subscribers/ann").await.ok();
    assert_eq!((&info["rooms"], &info["namespaces"]), (&json!([{ "namespace": "n", "key": "a" }]), &json!([])));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_acked_comes_no_more_and_a_token_is_its_subscribers() {
    let server = start().await;
    for name in ["ann", "ben"] {
        call(&server, "PUT", name, &rooms(&["a"], &["m"])).await.ok();
    }
    for value in 0..4 {
        server.publish("n", &json!([{ "key": "a", "value": value }, { "key": "b", "value": -1 }]).to_string()).await;
    }
    let mut events = follow(&server, "ann", None).await;
    let (first, of_first) = values(&mut events, 1).await;
    let (second, of_second) = values(&mut events, 1).await;
    assert_eq!((first, second), (vec![json!(0)], vec![json!(1)]));
    let ack = async |name: &str, id: &str| call(&server, "POST", &format!("{name}/ack"), &json!({ "id": id })).await;
    assert_eq!(ack("ann", &of_second).await.status, 204);
    // It does not go back, and acks as often as one likes.
    assert_eq!(ack("ann", &of_first).await.status, 204);
    assert_eq!(ack("ann", &of_second).await.status, 204);
    ack("ben", &of_second).await.refused(400, "invalid-token", "was not sent");
    let mut events = follow(&server, "ann", None).await;
    assert_eq!(values(&mut events, 1).await.0, [2]);
    // `Last-Event-ID` acks.
    let (_, last) = values(&mut events, 1).await;
    let mut events = follow(&server, "ann", Some(&last)).await;
    server.publish("m", r#"{"value":"m"}"#).await;
    assert_eq!(values(&mut events, 1).await.0, ["m"]);
    let mut events = follow(&server, "ann", None).await;
    let (seen, last) = values(&mut events, 1).await;
    assert_eq!(seen, ["m"]);
    ack("ann", &last).await;
    let cursors = server.get("/v1/subscribers/ann").await.ok()["cursors"].clone();
    let cursor =
        |namespace: &str, next: u64, head: u64| json!({ "namespace": namespace, "next_offset": next, "head": head });
    assert_eq!(cursors, json!([cursor("m", 2, 2), cursor("n", 8, 9)]));
    // The other has seen nothing of that.
    let mut events = follow(&server, "ben", None).await;
    let mut seen = values(&mut events, 5).await.0;
    seen.sort_by_key(Value::to_string);
    assert_eq!(seen, [json!("m"), json!(0), json!(1), json!(2), json!(3)]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_of_two_rooms_and_the_namespace_comes_once_and_names_its_namespace() {
    let server = start().await;
    call(&server, "PUT", "ann", &rooms(&["a", "b"], &["n", "m"])).await.ok();
    let mut events = follow(&server, "ann", None).await;
    server.publish("n", r#"[{"key":"a","value":1},{"key":"c","value":2},{"value":3}]"#).await;
    for value in 1..4 {
        let event = next(&mut events).await;
        let record: Value = serde_json::from_str(&event.data).unwrap();
        assert_eq!(
            (&record["namespace"], &record["offset"], &record["value"]),
            (&json!("n"), &json!(value), &json!(value))
        );
        assert!(!event.id.is_empty() && event.id.parse::<u64>().is_err(), "{}", event.id);
    }
    // A namespace that goes takes its rooms along; the rest goes on.
    assert_eq!(server.call("DELETE /v1/namespaces/n", &[], "").await.status, 204);
    server.publish("n", r#"{"key":"a","value":"another's"}"#).await;
    server.publish("m", r#"{"value":"m"}"#).await;
    assert_eq!(values(&mut events, 1).await.0, ["m"]);
    let info = server.get("/v1/subscribers/ann").await.ok();
    assert_eq!((&info["rooms"], &info["namespaces"]), (&json!([]), &json!(["m"])));
    call(&server, "POST", "ann/join", &rooms(&["a"], &[])).await;
    server.publish("n", r#"{"key":"a","value":"joined again"}"#).await;
    assert_eq!(values(&mut events, 1).await.0, ["joined again"]);
    server.stop().await;
}

/// What a stream has sent by the time it says this, or has ended.
async fn raw_until(stream: &mut tokio::net::TcpStream, says: &str) -> String {
    let (mut text, mut buffer) = (String::new(), [0; 4096]);
    while !text.contains(says) {
        let read = timeout(PATIENCE, stream.read(&mut buffer)).await.expect("it is said").unwrap();
        assert!(read > 0, "the stream ended: {text}");
        text.push_str(std::str::from_utf8(&buffer[..read]).unwrap());
    }
    text
}

async fn raw(server: &TestServer, name: &str) -> tokio::net::TcpStream {
    let mut stream = server.connect().await;
    let line = format!("GET /v1/subscribers/{name}/events");
    stream.write_all(head(&line, &["accept: text/event-stream"], None).as_bytes()).await.unwrap();
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_stream_ends_the_older_and_tells_it() {
    let server = start().await;
    call(&server, "PUT", "ann", &rooms(&["a"], &[])).await.ok();
    let mut older = raw(&server, "ann").await;
    let text = raw_until(&mut older, "\n\n").await;
    assert!(text.contains(": tlog\nretry: 1000\n\n"), "{text}");
    let mut newer = follow(&server, "ann", None).await;
    raw_until(&mut older, "retry: 3600000\nevent: superseded\ndata: {}\n\n").await;
    let mut rest = Vec::new();
    timeout(PATIENCE, older.read_to_end(&mut rest)).await.expect("it ends").unwrap();
    server.publish("n", r#"{"key":"a","value":1}"#).await;
    assert_eq!(values(&mut newer, 1).await.0, [1]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quiet_streams_place_moves_on() {
    let server = TestServer::start_with(|config| config.timeouts.heartbeat = Duration::from_millis(20)).await;
    server.publish("n", r#"{"key":"a","value":0}"#).await;
    call(&server, "PUT", "ann", &rooms(&["a"], &[])).await.ok();
    let mut stream = raw(&server, "ann").await;
    let first = raw_until(&mut stream, ":\nid: ").await;
    drop(first);
    // Nothing of this is for it, but a heartbeat takes it past that.
    server.publish("n", r#"[{"key":"b","value":1},{"value":2}]"#).await;
    let mut moved = None;
    while moved.is_none() {
        let text = raw_until(&mut stream, "\n\n").await;
        for id in text.lines().filter_map(|line| line.strip_prefix("id: ")).filter(|id| id.len() > 8) {
            let acked = call(&server, "POST", "ann/ack", &json!({ "id": id })).await;
            assert_eq!(acked.status, 204, "{}", acked.text());
            let info = server.get("/v1/subscribers/ann").await.ok();
            moved = Some(info["cursors"][0]["next_offset"].clone()).filter(|next| *next == 3);
        }
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_loss_is_told_to_all_who_follow_a_room_of_the_namespace() {
    let server = start().await;
    for name in ["ann", "ben"] {
        let room = if name == "ann" { "a" } else { "b" };
        call(&server, "PUT", name, &rooms(&[room], &[])).await.ok();
    }
    for value in 1..4 {
        server.publish("n", &json!([{ "key": "a", "value": value }, { "key": "b", "value": value }]).to_string()).await;
    }
    let id = server.get("/v1/namespaces/n").await.ok()["id"].as_u64().unwrap() as u32;
    let folder = server.stop().await;
    losses::lose(folder.path(), id, std::slice::from_ref(&(3..5)));
    let server = TestServer::start_in(folder, |_| {}).await;
    for (name, before, after) in [("ann", 1, 5), ("ben", 2, 6)] {
        let mut events = follow(&server, name, None).await;
        let offset = |event: &Event| serde_json::from_str::<Value>(&event.data).unwrap()["offset"].clone();
        assert_eq!(offset(&next(&mut events).await), before);
        let reset = next(&mut events).await;
        let data: Value = serde_json::from_str(&reset.data).unwrap();
        assert_eq!(reset.event, "reset");
        assert_eq!(data, json!({ "namespace": "n", "from": 3, "to": 5, "reason": "lost" }));
        assert_eq!(offset(&next(&mut events).await), after);
        // It is told once.
        let mut events = follow(&server, name, Some(&reset.id)).await;
        assert_eq!(offset(&next(&mut events).await), after);
    }
    server.stop().await;
}
