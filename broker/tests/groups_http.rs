//! Consumer groups over HTTP: the calls, their shapes, bad input, leases as a stream.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod inside;

use inside::{Answer, PATIENCE, TestServer, eventually, head};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;

const JSON: &str = "content-type: application/json";

/// The address of a call on the group `g` of the namespace `n`.
fn on_group(method: &str, call: &str) -> String {
    format!("{method} /v1/namespaces/n/groups/g{call}")
}

async fn post(server: &TestServer, call: &str, body: &Value) -> Answer {
    server.call(&on_group("POST", call), &[JSON], body.to_string()).await
}

/// A server with records in `n`, and a group `g`.
async fn start(records: usize, config: &Value) -> TestServer {
    let server = TestServer::start().await;
    let values: Vec<Value> =
        (0..records).map(|number| json!({ "key": format!("k{number}"), "value": number })).collect();
    server.publish("n", &Value::from(values).to_string()).await;
    let put = server.call(&on_group("PUT", ""), &[JSON], config.to_string()).await;
    assert_eq!(put.status, 201, "{}", put.text());
    server
}

fn tokens(leased: &Value) -> Vec<Value> {
    leased["records"].as_array().unwrap().iter().map(|record| record["token"].clone()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_is_made_worked_in_moved_and_deleted() {
    let server = start(3, &json!({ "lease_ms": 60_000 })).await;
    let config = json!({
        "order": "none", "start": "earliest", "lease_ms": 60_000, "max_deliveries": 16,
        "retry": { "min_ms": 1000, "max_ms": 60_000 }, "dead_letter": null,
    });
    let group = |fields: Value| {
        let mut report = json!({
            "name": "g", "config": config, "floor": 0, "lag": { "records": 3 }, "in_flight": 0, "delivered": 0,
            "redelivered": 0, "dead_lettered": 0, "full": false, "workers": [],
        });
        report.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        report
    };
    let report = async || {
        let mut report = server.get("/v1/namespaces/n/groups/g").await.ok();
        assert!(report["lag"].as_object_mut().unwrap().remove("seconds").unwrap().is_number());
        for worker in report["workers"].as_array_mut().unwrap() {
            assert!(worker.as_object_mut().unwrap().remove("seen").unwrap().as_str().unwrap().ends_with('Z'));
        }
        report
    };
    assert_eq!(report().await, group(json!({})));
    let again = server.call(&on_group("PUT", ""), &[JSON], json!({ "lease_ms": 60_000 }).to_string()).await.ok();
    assert_eq!(again, json!({ "name": "g", "config": config }));
    let listed = server.get("/v1/namespaces/n/groups").await.ok();
    assert_eq!(listed, json!({ "groups": [{ "name": "g", "config": config }], "next": null }));

    let leased = post(&server, "/lease", &json!({ "worker": "w", "max": 2 })).await.ok();
    let record = &leased["records"][1];
    assert_eq!((&record["offset"], &record["key"], &record["value"]), (&json!(1), &json!("k1"), &json!(1)));
    assert_eq!(record["delivery"], 1);
    assert!(record["expires"].as_str() > record["time"].as_str());
    let workers = json!([{ "name": "w", "in_flight": 2 }]);
    assert_eq!(report().await, group(json!({ "in_flight": 2, "delivered": 2, "workers": workers })));

    let tokens = tokens(&leased);
    let acked = post(&server, "/ack", &json!({ "tokens": [tokens[0], "never given"] })).await.ok();
    assert_eq!(acked, json!({ "done": 1, "lapsed": ["never given"] }));
    let again = post(&server, "/ack", &json!({ "tokens": [tokens[0]] })).await.refused(409, "lease-lapsed", "none");
    assert_eq!((&again["done"], &again["lapsed"]), (&json!(0), &json!([tokens[0]])));
    let extended = post(&server, "/extend", &json!({ "tokens": [tokens[1]], "lease_ms": 5 })).await.ok();
    assert_eq!(extended, json!({ "done": 1, "lapsed": [] }));
    // Its lease is short by now: it comes again by itself, as its second delivery.
    let leased = post(&server, "/lease", &json!({ "worker": "v", "max": 1, "wait_ms": 30_000 })).await.ok();
    let other = post(&server, "/lease", &json!({ "worker": "v", "max": 1, "wait_ms": 30_000 })).await.ok();
    let mut seen = [&leased, &other]
        .map(|leased| (leased["records"][0]["offset"].clone(), leased["records"][0]["delivery"].clone()));
    seen.sort_by_key(|(offset, _)| offset.as_u64());
    assert_eq!(seen, [(json!(1), json!(2)), (json!(2), json!(1))]);

    assert_eq!(post(&server, "/leave", &json!({ "worker": "v" })).await.status, 204);
    assert_eq!(post(&server, "/seek", &json!({ "to": 1 })).await.ok(), json!({ "floor": 1 }));
    assert_eq!(post(&server, "/seek", &json!({ "to": "latest" })).await.ok(), json!({ "floor": 3 }));
    assert_eq!(post(&server, "/seek", &json!({ "time": "2001-01-01T00:00:00Z" })).await.ok(), json!({ "floor": 0 }));
    let nothing_dead = server.call(&on_group("POST", "/redrive"), &[], "").await;
    nothing_dead.refused(409, "group-conflict", "dead_letter");
    assert_eq!(server.call(&on_group("DELETE", ""), &[], "").await.status, 204);
    server.get("/v1/namespaces/n/groups/g").await.refused(404, "group-not-found", "\"g\"");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_right_is_refused_and_changes_nothing() {
    let server = start(2, &json!({})).await;
    let before = server.get("/v1/namespaces/n/groups/g").await.ok()["floor"].clone();
    let long = "w".repeat(256);
    let many: Vec<String> = (0..10_001).map(|number| number.to_string()).collect();
    for (call, body, code, says) in [
        ("/lease", json!({}), "invalid-body", "missing field `worker`"),
        ("/lease", json!({ "worker": "" }), "invalid-body", "the worker's name is empty"),
        ("/lease", json!({ "worker": "a\nb" }), "invalid-body", "U+000A"),
        ("/lease", json!({ "worker": long }), "invalid-body", "256 bytes, the limit is 255"),
        ("/lease", json!({ "worker": "w", "max": 0 }), "invalid-body", "max is 0, it must be 1 to 10000"),
        ("/lease", json!({ "worker": "w", "max": 10_001 }), "invalid-body", "max is 10001"),
        ("/lease", json!({ "worker": "w", "max": -1 }), "invalid-body", "-1"),
        ("/lease", json!({ "worker": "w", "wait_ms": 60_001 }), "invalid-body", "wait_ms is 60001"),
        ("/lease", json!({ "worker": "w", "wait": 1 }), "unknown-field", "`wait`"),
        ("/lease", json!(["w", 1, 1]), "invalid-body", "must be a JSON object"),
        ("/lease/stream", json!({ "worker": "w" }), "invalid-body", "max_in_flight"),
        ("/lease/stream", json!({ "worker": "w", "max_in_flight": 0 }), "invalid-body", "max_in_flight is 0"),
        ("/lease/stream", json!({ "worker": "w", "max_in_flight": 1, "max": 1 }), "unknown-field", "`max`"),
        ("/ack", json!({ "tokens": [] }), "invalid-body", "0 tokens, there must be 1 to 10000"),
        ("/ack", json!({ "tokens": many }), "invalid-body", "10001 tokens"),
        ("/ack", json!({ "tokens": [7] }), "invalid-body", "string"),
        ("/ack", json!({ "tokens": ["1-1-1"], "error": "" }), "unknown-field", "`error`"),
        ("/nack", json!({ "tokens": ["1-1-1"], "delay": 1 }), "unknown-field", "`delay`"),
        ("/nack", json!({ "tokens": ["1-1-1"], "delay_ms": 86_400_001 }), "invalid-body", "delay_ms is 86400001"),
        ("/extend", json!({ "tokens": ["1-1-1"], "lease_ms": 0 }), "invalid-body", "lease_ms is 0"),
        ("/extend", json!({ "tokens": ["1-1-1"], "ms": 0 }), "unknown-field", "`ms`"),
        ("/leave", json!({ "worker": "w", "x": 1 }), "unknown-field", "`x`"),
        ("/seek", json!({}), "invalid-body", "one of to and time"),
        ("/seek", json!({ "to": 1, "time": "2001-01-01T00:00:00Z" }), "invalid-body", "one of to and time"),
        ("/seek", json!({ "to": "middle" }), "invalid-body", "middle"),
        ("/seek", json!({ "time": "yesterday" }), "invalid-body", "yesterday"),
        ("/seek", json!({ "from": 1 }), "unknown-field", "`from`"),
        ("/redrive", json!({ "all": true }), "unknown-field", "`all`"),
    ] {
        println!("{call} {:.60}", body.to_string());
        post(&server, call, &body).await.refused(400, code, says);
    }
    let report = server.get("/v1/namespaces/n/groups/g").await.ok();
    assert_eq!((&report["floor"], &report["delivered"], &report["workers"]), (&before, &json!(0), &json!([])));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_that_are_not_and_settings_that_can_not_be_are_refused() {
    let server = start(2, &json!({})).await;
    post(&server, "/seek", &json!({ "to": 3 })).await.refused(416, "offset-past-head", "next");
    for (body, code, says) in [
        (json!({ "lease_ms": 0 }), "invalid-body", "lease_ms is 0, it must be 1 to 43200000"),
        (json!({ "order": "total" }), "invalid-body", "total"),
        (json!({ "leases": 1 }), "unknown-field", "`leases`"),
        (json!({ "retry": { "ms": 1 } }), "unknown-field", "`ms`"),
        (json!({ "dead_letter": "" }), "invalid-body", "dead_letter"),
    ] {
        server.call(&on_group("PUT", ""), &[JSON], body.to_string()).await.refused(400, code, says);
    }
    let moved = server.call(&on_group("PUT", ""), &[JSON], json!({ "start": "latest" }).to_string()).await;
    moved.refused(409, "group-conflict", "seek");
    for (line, status, code, says) in [
        ("PUT /v1/namespaces/n/groups/", 400, "invalid-group", "is empty"),
        ("PUT /v1/namespaces/n/groups/a%0Ab", 400, "invalid-group", "U+000A"),
        ("PUT /v1/namespaces/n/groups/a%zz", 400, "invalid-group", "two hex digits"),
        ("PUT /v1/namespaces/none/groups/g", 404, "namespace-not-found", "\"none\""),
        ("GET /v1/namespaces/n/groups/none", 404, "group-not-found", "\"none\""),
        ("GET /v1/namespaces/n/groups?limit=0", 400, "invalid-parameter", "limit is 0"),
        ("GET /v1/namespaces/n/groups/g?x=1", 400, "invalid-parameter", "\"x\""),
        ("DELETE /v1/namespaces/n/groups/none", 404, "group-not-found", "\"none\""),
        ("GET /v1/namespaces/n/groups/g/lease", 405, "method-not-allowed", "GET"),
    ] {
        println!("{line}");
        server.call(line, &[], "").await.refused(status, code, says);
    }
    for call in ["lease", "lease/stream", "leave"] {
        let body = json!({ "worker": "w" });
        let body = if call == "lease/stream" { json!({ "worker": "w", "max_in_flight": 1 }) } else { body };
        let none = server.call(&format!("POST /v1/namespaces/n/groups/none/{call}"), &[JSON], body.to_string()).await;
        none.refused(404, "group-not-found", "\"none\"");
    }
    let report = server.get("/v1/namespaces/n/groups/g").await.ok();
    assert_eq!((&report["floor"], &report["config"]["start"]), (&json!(0), &json!("earliest")));
    server.stop().await;
}

/// A connection that streams leases, behind its head.
struct Leases(BufReader<TcpStream>);

impl Leases {
    async fn open(server: &TestServer, worker: &str, max_in_flight: usize) -> Leases {
        let body = json!({ "worker": worker, "max_in_flight": max_in_flight }).to_string();
        let mut stream = server.connect().await;
        let request = head(&on_group("POST", "/lease/stream"), &[JSON], Some(body.len())) + &body;
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut leases = Leases(BufReader::new(stream));
        let mut first = leases.line().await;
        assert!(first.starts_with("HTTP/1.1 200"), "{first}");
        while !first.trim().is_empty() {
            first = leases.line().await;
        }
        leases
    }

    async fn line(&mut self) -> String {
        let mut line = String::new();
        timeout(PATIENCE, self.0.read_line(&mut line)).await.expect("a line comes").unwrap();
        line
    }

    /// The next record, past chunks' lengths and heartbeats.
    async fn next(&mut self) -> Value {
        loop {
            let line = self.line().await;
            if line.starts_with('{') {
                return serde_json::from_str(&line).unwrap();
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_never_holds_more_than_it_may_and_leaves_with_its_connection() {
    let server = start(10, &json!({})).await;
    let in_flight = async || server.get("/v1/namespaces/n/groups/g").await.ok()["in_flight"].as_u64().unwrap();
    let mut leases = Leases::open(&server, "w", 3).await;
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(leases.next().await);
    }
    for due in 3..10 {
        assert_eq!(in_flight().await, 3);
        let done: Value = held.remove(0);
        post(&server, "/ack", &json!({ "tokens": [done["token"]] })).await.ok();
        let next = leases.next().await;
        assert_eq!(next["offset"], due);
        held.push(next);
    }
    assert_eq!(in_flight().await, 3);
    drop(leases);
    eventually("what it had is free again", async || in_flight().await == 0).await;
    let again = post(&server, "/lease", &json!({ "worker": "v", "max": 10, "wait_ms": 30_000 })).await.ok();
    let offsets: Vec<u64> =
        again["records"].as_array().unwrap().iter().map(|r| r["offset"].as_u64().unwrap()).collect();
    assert_eq!(offsets, [7, 8, 9]);

    // Records that come later are sent as they come; with the group the stream ends.
    let mut leases = Leases::open(&server, "late", 5).await;
    server.publish("n", r#"{"value":"new"}"#).await;
    assert_eq!(leases.next().await["value"], "new");
    assert_eq!(server.call(&on_group("DELETE", ""), &[], "").await.status, 204);
    while !leases.line().await.is_empty() {}
    server.stop().await;
}
