//! Locks over HTTP: the calls, their shapes, bad input, clients that go.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod inside;

use inside::{Answer, TestServer, eventually, head};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

const JSON: &str = "content-type: application/json";

async fn post(server: &TestServer, path: &str, body: &Value) -> Answer {
    server.call(&format!("POST /v1/locks/{path}"), &[JSON], body.to_string()).await
}

async fn waiting(server: &TestServer, name: &str) -> Value {
    server.get(&format!("/v1/locks/{name}")).await.json()["waiting"].clone()
}

/// A connection that asks for a lock, and has no answer yet.
async fn asks(server: &TestServer, name: &str, body: &Value) -> TcpStream {
    let body = body.to_string();
    let mut stream = server.connect().await;
    let request = head(&format!("POST /v1/locks/{name}"), &[JSON], Some(body.len())) + &body;
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_is_asked_for_extended_and_released() {
    let server = TestServer::start().await;
    server.get("/v1/locks/printer").await.refused(404, "lock-not-held", "\"printer\"");
    let held = post(&server, "printer", &json!({ "owner": "anna", "ttl_ms": 60_000 })).await.ok();
    let (token, expires) = (held["token"].as_u64().unwrap(), held["expires"].as_str().unwrap().to_owned());
    assert_eq!(held, json!({ "name": "printer", "owner": "anna", "token": token, "expires": expires }));
    let mut report = held.clone();
    report["waiting"] = json!(0);
    let mut found = server.get("/v1/locks/printer").await.ok();
    // Of the clock, to the microsecond.
    found["expires"] = report["expires"].clone();
    assert_eq!(found, report);

    let refused = post(&server, "printer", &json!({ "owner": "ben" })).await.refused(409, "lock-held", "\"anna\"");
    assert_eq!((&refused["owner"], &refused["retry"]), (&json!("anna"), &json!("safe")));
    assert!(refused["expires"].as_str().unwrap().ends_with('Z'));
    // Another lock is another.
    let other = post(&server, "a%2Fb%20%E6%9D%B1", &json!({ "owner": "ben" })).await.ok();
    assert_eq!(other["name"], "a/b 東");

    // The owner may ask again: it holds it.
    let again = post(&server, "printer", &json!({ "owner": "anna", "ttl_ms": 120_000, "wait_ms": 1 })).await.ok();
    assert_eq!(again["token"], token);
    assert!(again["expires"].as_str() > Some(&*expires));
    let shorter = post(&server, "printer/extend", &json!({ "token": token, "ttl_ms": 60_000 })).await.ok();
    assert!(shorter["expires"].as_str() < again["expires"].as_str());
    let as_before = post(&server, "printer/extend", &json!({ "token": token })).await.ok();
    assert!(as_before["expires"].as_str() > shorter["expires"].as_str());
    post(&server, "printer/extend", &json!({ "token": token + 1 })).await.refused(409, "lock-lost", "token");

    post(&server, "printer/release", &json!({ "token": token + 1 })).await.refused(409, "lock-lost", "token");
    assert_eq!(post(&server, "printer/release", &json!({ "token": token })).await.status, 204);
    post(&server, "printer/release", &json!({ "token": token })).await.refused(409, "lock-lost", "token");
    post(&server, "printer/extend", &json!({ "token": token })).await.refused(409, "lock-lost", "token");
    server.get("/v1/locks/printer").await.refused(404, "lock-not-held", "printer");
    let next = post(&server, "printer", &json!({ "owner": "ben" })).await.ok();
    assert!(next["token"].as_u64().unwrap() > token);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_right_is_refused_and_changes_nothing() {
    let server = TestServer::start().await;
    let long = "o".repeat(256);
    for (path, body, code, says) in [
        ("l", json!({}), "invalid-body", "missing field `owner`"),
        ("l", json!({ "owner": "" }), "invalid-body", "the owner's name is empty"),
        ("l", json!({ "owner": "a\nb" }), "invalid-body", "U+000A"),
        ("l", json!({ "owner": long }), "invalid-body", "256 bytes, the limit is 255"),
        ("l", json!({ "owner": "o", "ttl_ms": 0 }), "invalid-body", "ttl_ms is 0, it must be 1 to 86400000"),
        ("l", json!({ "owner": "o", "ttl_ms": 86_400_001 }), "invalid-body", "ttl_ms is 86400001"),
        ("l", json!({ "owner": "o", "ttl_ms": 1_u64 << 40 }), "invalid-body", "ttl_ms is 1099511627776"),
        ("l", json!({ "owner": "o", "ttl_ms": -1 }), "invalid-body", "-1"),
        ("l", json!({ "owner": "o", "wait_ms": 60_001 }), "invalid-body", "wait_ms is 60001"),
        ("l", json!({ "owner": "o", "ttl": 1 }), "unknown-field", "`ttl`"),
        ("l", json!(["o"]), "invalid-body", "must be a JSON object"),
        ("l", json!({ "owner": "o".repeat(5000) }), "invalid-body", "4096"),
        ("l/extend", json!({}), "invalid-body", "missing field `token`"),
        ("l/extend", json!({ "token": "7" }), "invalid-body", "string"),
        ("l/extend", json!({ "token": 7, "ttl_ms": 0 }), "invalid-body", "ttl_ms is 0"),
        ("l/extend", json!({ "token": 7, "owner": "o" }), "unknown-field", "`owner`"),
        ("l/release", json!({ "token": -7 }), "invalid-body", "-7"),
        ("l/release", json!({ "token": 7, "ttl_ms": 1 }), "unknown-field", "`ttl_ms`"),
        ("a%0Ab", json!({ "owner": "o" }), "invalid-lock", "U+000A"),
        ("a%zz", json!({ "owner": "o" }), "invalid-lock", "two hex digits"),
        ("%2e%2e", json!({ "owner": "o" }), "invalid-lock", "no URL"),
        ("", json!({ "owner": "o" }), "invalid-lock", "is empty"),
        ("l?x=1", json!({ "owner": "o" }), "invalid-parameter", "\"x\""),
    ] {
        println!("{path} {:.60}", body.to_string());
        post(&server, path, &body).await.refused(400, code, says);
    }
    server.get("/v1/locks/l?x=1").await.refused(400, "invalid-parameter", "\"x\"");
    server.get("/v1/locks/l/extend").await.refused(405, "method-not-allowed", "GET");
    server.get("/v1/locks/l/owner").await.refused(404, "not-found", "/v1/locks/l/owner");
    server.get("/v1/locks/l").await.refused(404, "lock-not-held", "nobody");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_is_served_in_order_and_who_goes_away_is_skipped() {
    let server = TestServer::start().await;
    let held = post(&server, "l", &json!({ "owner": "first", "ttl_ms": 60_000 })).await.ok();
    let mut asking = Vec::new();
    for number in 0..8 {
        let body = json!({ "owner": format!("w{number}"), "ttl_ms": 60_000, "wait_ms": 60_000 });
        asking.push(asks(&server, "l", &body).await);
        eventually("it waits", async || waiting(&server, "l").await == number + 1).await;
    }
    // One whose wait is over is told so, and is not served later.
    let late = post(&server, "l", &json!({ "owner": "short", "wait_ms": 50 })).await;
    assert_eq!(late.refused(409, "lock-held", "\"first\"")["owner"], "first");
    // So is one that is cut off.
    drop(asking.remove(3));
    eventually("it is forgotten", async || waiting(&server, "l").await == 7).await;
    server.eventually_counts("tlog_lock_waiting 7").await;
    let mut token = held["token"].clone();
    let mut served = Vec::new();
    for mut stream in asking {
        assert_eq!(post(&server, "l/release", &json!({ "token": token })).await.status, 204);
        let next = Answer::read(&mut stream).await.ok();
        assert!(next["token"].as_u64() > token.as_u64());
        token = next["token"].clone();
        served.push(next["owner"].as_str().unwrap().to_owned());
    }
    assert_eq!(served, ["w0", "w1", "w2", "w4", "w5", "w6", "w7"]);
    assert_eq!(waiting(&server, "l").await, 0);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_that_asks_again_while_it_waits_holds_the_lock_once() {
    let server = TestServer::start().await;
    let held = post(&server, "l", &json!({ "owner": "first", "ttl_ms": 60_000 })).await.ok();
    let mut asking = Vec::new();
    for (number, owner) in ["twice", "other", "twice"].into_iter().enumerate() {
        let body = json!({ "owner": owner, "ttl_ms": 1000 * (number + 1), "wait_ms": 60_000 });
        asking.push(asks(&server, "l", &body).await);
        eventually("it waits", async || waiting(&server, "l").await == number + 1).await;
    }
    assert_eq!(post(&server, "l/release", &json!({ "token": held["token"] })).await.status, 204);
    let again = Answer::read(&mut asking[2]).await.ok();
    let once = Answer::read(&mut asking[0]).await.ok();
    assert_eq!((&once["owner"], &once["token"]), (&again["owner"], &again["token"]));
    assert_eq!(waiting(&server, "l").await, 1);
    assert_eq!(post(&server, "l/release", &json!({ "token": once["token"] })).await.status, 204);
    assert_eq!(Answer::read(&mut asking[1]).await.ok()["owner"], "other");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_answers_those_who_wait_and_keeps_what_is_held() {
    let server = TestServer::start().await;
    let held = post(&server, "l", &json!({ "owner": "anna", "ttl_ms": 60_000 })).await.ok();
    let mut waits = asks(&server, "l", &json!({ "owner": "ben", "wait_ms": 60_000 })).await;
    eventually("it waits", async || waiting(&server, "l").await == 1).await;
    let folder = server.stop().await;
    Answer::read(&mut waits).await.refused(503, "shutting-down", "closed");
    let server = TestServer::start_in(folder, |_| {}).await;
    let still = server.get("/v1/locks/l").await.ok();
    assert_eq!((&still["owner"], &still["token"]), (&json!("anna"), &held["token"]));
    assert_eq!(post(&server, "l/release", &json!({ "token": held["token"] })).await.status, 204);
    server.stop().await;
}
