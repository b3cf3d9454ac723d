//! The limits of groups, locks and subscribers against the real binary: what is at a limit works, and one more is
//! refused by name and changes nothing.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::ops::Range;

use futures::stream::{self, StreamExt};
use reqwest::{Client, Method};
use serde_json::{Value, json};
use support::sse::Events;
use support::{Broker, PATIENCE, client, eventually};
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Calls of a client, and their answers.
#[derive(Clone)]
struct Calls {
    client: Client,
    base: String,
}

/// An answer: its status and its body.
type Answer = (u16, Value);

impl Calls {
    fn on(broker: &Broker) -> Calls {
        Calls { client: client(), base: broker.url("/v1") }
    }

    async fn call(&self, method: Method, path: &str, body: &Value) -> Answer {
        let mut request = self.client.request(method, format!("{}/{path}", self.base));
        if !body.is_null() {
            request = request.json(body);
        }
        let response = request.send().await.unwrap();
        let (status, text) = (response.status().as_u16(), response.text().await.unwrap());
        (status, serde_json::from_str(&text).unwrap_or_default())
    }

    async fn put(&self, path: &str, body: &Value) -> Answer {
        self.call(Method::PUT, path, body).await
    }

    async fn post(&self, path: &str, body: &Value) -> Answer {
        self.call(Method::POST, path, body).await
    }

    async fn get(&self, path: &str) -> Answer {
        self.call(Method::GET, path, &Value::Null).await
    }

    /// Namespaces of these numbers, which are made.
    async fn namespaces(&self, numbers: Range<usize>) {
        let made =
            stream::iter(numbers).map(async |number| self.put(&format!("namespaces/n{number}"), &json!({})).await);
        assert!(made.buffer_unordered(64).all(async |(status, _)| status == 201).await);
    }
}

#[track_caller]
fn refused((status, problem): &Answer, expected: u16, code: &str, says: &str) {
    assert_eq!((*status, &problem["type"]), (expected, &json!(format!("urn:tlog:error:{code}"))), "{problem}");
    assert!(problem["detail"].as_str().unwrap().contains(says), "{problem}");
}

/// Rooms of the namespace `n0`.
fn keys(numbers: impl Iterator<Item = usize>) -> Value {
    let rooms: Vec<Value> = numbers.map(|number| json!({ "namespace": "n0", "key": number.to_string() })).collect();
    json!({ "rooms": rooms })
}

/// Whole namespaces.
fn all_of(numbers: Range<usize>) -> Value {
    json!({ "namespaces": numbers.map(|number| format!("n{number}")).collect::<Vec<_>>() })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscriber_is_in_100_000_rooms_and_in_no_more() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path());
    let calls = Calls::on(&broker);
    calls.namespaces(0..1).await;
    refused(&calls.put("subscribers/ann", &keys(0..10_001)).await, 409, "too-many-rooms", "limit of a call is 10000");
    assert_eq!(calls.get("subscribers/ann").await.0, 404);
    assert_eq!(calls.put("subscribers/ann", &keys(0..10_000)).await.0, 201);
    for tenth in 1..10 {
        let more = keys(tenth * 10_000..(tenth + 1) * 10_000);
        assert_eq!(calls.post("subscribers/ann/join", &more).await.0, 204);
    }
    let full = calls.get("subscribers/ann").await;
    assert_eq!(full.1["rooms"].as_array().unwrap().len(), 100_000);

    let over = "100001 rooms and namespaces, the limit is 100000";
    let join = async |rooms: &Value| calls.post("subscribers/ann/join", rooms).await;
    for one_more in [keys(100_000..100_001), keys((0..9).chain(100_000..100_001)), all_of(0..1)] {
        refused(&join(&one_more).await, 409, "too-many-rooms", over);
    }
    refused(&join(&keys(100_000..110_001)).await, 409, "too-many-rooms", "limit of a call is 10000");
    let other = calls.put("subscribers/ann", &keys(0..10_001)).await;
    refused(&other, 409, "too-many-rooms", "limit of a call is 10000");
    assert_eq!(calls.get("subscribers/ann").await, full);
    assert_eq!(join(&keys(0..10)).await.0, 204, "it is in them already");
    assert_eq!(calls.get("subscribers/ann").await, full);

    // With one place there is room for one of two, and so for none.
    assert_eq!(calls.post("subscribers/ann/leave", &keys(7..8)).await.0, 204);
    let before = calls.get("subscribers/ann").await;
    refused(&join(&keys(100_000..100_002)).await, 409, "too-many-rooms", over);
    assert_eq!(calls.get("subscribers/ann").await, before);
    assert_eq!(join(&keys(100_000..100_001)).await.0, 204);
    let full = calls.get("subscribers/ann").await;
    broker.kill();
    let broker = Broker::start(folder.path());
    let calls = Calls::on(&broker);
    assert_eq!(calls.get("subscribers/ann").await, full);
    // One that has more rooms than a call takes is put into fewer.
    assert_eq!(calls.put("subscribers/ann", &keys(5..9)).await.1["rooms"], keys(5..9)["rooms"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscribers_rooms_are_of_1_000_namespaces_and_of_no_more() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path());
    let calls = Calls::on(&broker);
    calls.namespaces(0..1_001).await;
    let over = "rooms of 1001 namespaces, the limit is 1000";
    refused(&calls.put("subscribers/ann", &all_of(0..1_001)).await, 409, "too-many-rooms", over);
    assert_eq!(calls.get("subscribers/ann").await.0, 404);
    assert_eq!(calls.put("subscribers/ann", &all_of(0..1_000)).await.0, 201);
    let full = calls.get("subscribers/ann").await;
    let room_of = |number: usize| json!({ "rooms": [{ "namespace": format!("n{number}"), "key": "k" }] });
    let mut both = room_of(1_000);
    both["namespaces"] = json!(["n0"]);
    for one_more in [all_of(1_000..1_001), all_of(998..1_001), room_of(1_000), both] {
        refused(&calls.post("subscribers/ann/join", &one_more).await, 409, "too-many-rooms", over);
    }
    refused(&calls.put("subscribers/ann", &all_of(0..1_001)).await, 409, "too-many-rooms", over);
    assert_eq!(calls.get("subscribers/ann").await, full);
    assert_eq!(calls.post("subscribers/ann/join", &room_of(999)).await.0, 204);

    let named = |namespaces: Range<usize>| namespaces.map(|number| format!("namespace=n{number}&")).collect::<String>();
    let over = calls.get(&format!("events?{}from=start", named(0..1_001))).await;
    refused(&over, 400, "invalid-parameter", "1001 namespaces are named, it must be 1 to 1000");
    let all = broker.url(&format!("/v1/events?{}from=start", named(0..1_000)));
    let mut followed = Events::connect(&calls.client, &all, None).await;

    // Its tokens have room for a place in each.
    let record = json!({ "value": "v" });
    let publish = async |number| calls.post(&format!("namespaces/n{number}/records"), &record).await.0;
    assert!(stream::iter(0..1_000).map(publish).buffer_unordered(64).all(async |status| status == 200).await);
    let follow = async |last: Option<&str>| {
        Events::connect(&calls.client, &broker.url("/v1/subscribers/ann/events"), last).await
    };
    let mut events = follow(None).await;
    let mut last = String::new();
    for _ in 0..1_000 {
        last = timeout(PATIENCE, events.next()).await.expect("all come").unwrap().id;
        timeout(PATIENCE, followed.next()).await.expect("all come").unwrap();
    }
    drop(events);
    let mut events = follow(Some(&last)).await;
    assert_eq!(publish(500).await, 200);
    let next = timeout(PATIENCE, events.next()).await.expect("it comes").unwrap();
    let data: Value = serde_json::from_str(&next.data).unwrap();
    assert_eq!((&data["namespace"], &data["offset"]), (&json!("n500"), &json!(1)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_has_1_024_workers_and_no_more() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path());
    let calls = Calls::on(&broker);
    calls.namespaces(0..1).await;
    let group = "namespaces/n0/groups/g";
    assert_eq!(calls.put(group, &json!({ "lease_ms": 43_200_000 })).await.0, 201);
    let lease = |worker: usize| {
        let (calls, body) = (calls.clone(), json!({ "worker": format!("w{worker}") }));
        async move { calls.post(&format!("{group}/lease"), &body).await }
    };
    assert!(stream::iter(0..1_024).map(lease).buffer_unordered(64).all(async |(status, _)| status == 200).await);
    let over = "1024 workers, the limit";
    refused(&lease(1_024).await, 429, "too-many-workers", over);
    let body = json!({ "worker": "w1024", "max_in_flight": 1 });
    refused(&calls.post(&format!("{group}/lease/stream"), &body).await, 429, "too-many-workers", over);
    assert_eq!(calls.get(group).await.1["workers"].as_array().unwrap().len(), 1_024);
    assert_eq!(lease(1_023).await.0, 200, "one of them may ask again");
    assert_eq!(calls.post(&format!("{group}/leave"), &json!({ "worker": "w7" })).await.0, 204);
    assert_eq!(lease(1_024).await.0, 200);
    refused(&lease(7).await, 429, "too-many-workers", over);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_leases_and_settles_10_000_records() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path());
    let calls = Calls::on(&broker);
    calls.namespaces(0..1).await;
    let group = "namespaces/n0/groups/g";
    assert_eq!(calls.put(group, &json!({ "retry": { "min_ms": 0, "max_ms": 0 } })).await.0, 201);
    let batch = vec![json!({ "value": 1 }); 10_000];
    assert_eq!(calls.post("namespaces/n0/records", &Value::from(batch)).await.0, 200);
    let call = async |call: &str, body: Value| calls.post(&format!("{group}/{call}"), &body).await;
    // As much time as may be is asked for, and none is needed.
    let lease = json!({ "worker": "w".repeat(255), "max": 10_000, "wait_ms": 60_000 });
    let leased = async || {
        let (status, leased) = call("lease", lease.clone()).await;
        assert_eq!(status, 200, "{leased}");
        leased["records"].as_array().unwrap().iter().map(|record| record["token"].clone()).collect::<Vec<_>>()
    };
    let tokens = leased().await;
    assert_eq!(tokens.len(), 10_000);
    let all = json!({ "done": 10_000, "lapsed": [] });
    let longest = json!({ "tokens": tokens, "lease_ms": 43_200_000 });
    assert_eq!(call("extend", longest).await, (200, all.clone()));
    let mut more = tokens.clone();
    more.push(json!("0-0-0"));
    for settle in ["extend", "nack", "ack"] {
        let says = "10001 tokens, there must be 1 to 10000";
        refused(&call(settle, json!({ "tokens": more })).await, 400, "invalid-body", says);
    }
    refused(
        &call("extend", json!({ "tokens": tokens, "lease_ms": 43_200_001 })).await,
        400,
        "invalid-body",
        "lease_ms",
    );
    refused(&call("lease", json!({ "worker": "w", "max": 10_001 })).await, 400, "invalid-body", "1 to 10000");
    let in_flight = async || calls.get(group).await.1["in_flight"].as_u64().unwrap();
    assert_eq!(in_flight().await, 10_000);
    assert_eq!(call("nack", json!({ "tokens": tokens })).await, (200, all));
    assert_eq!(in_flight().await, 0);
    let again = leased().await;
    refused(&call("nack", json!({ "tokens": again, "delay_ms": 86_400_001 })).await, 400, "invalid-body", "delay_ms");
    let (first, others) = again.split_first().unwrap();
    let last = json!({ "tokens": [first], "delay_ms": 86_400_000 });
    assert_eq!(call("nack", last).await.0, 200);
    assert_eq!(call("ack", json!({ "tokens": others })).await.1["done"], 9_999);
    let (_, report) = calls.get(group).await;
    assert_eq!((&report["floor"], &report["lag"]["records"]), (&json!(0), &json!(1)));
}

/// Processor time that a process has had, seconds.
fn processor_seconds(broker: &Broker) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", broker.pid())).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    // Hundredths in user mode, and in the kernel.
    fields[11..13].iter().map(|ticks| ticks.parse::<f64>().unwrap() / 100.0).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn as_many_keys_as_may_are_held_up_and_the_group_says_so_and_rests() {
    const WINDOW: usize = 65_536;
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path());
    let calls = Calls::on(&broker);
    calls.namespaces(0..1).await;
    let group = "namespaces/n0/groups/g";
    assert_eq!(calls.put(group, &json!({ "order": "key", "lease_ms": 43_200_000 })).await.0, 201);
    for batch in 0..7 {
        let keys = (0..10_000).map(|number| json!({ "key": format!("{batch}-{number}"), "value": 1 }));
        assert_eq!(calls.post("namespaces/n0/records", &keys.collect()).await.0, 200);
    }
    let lease = async |wait_ms: u64| {
        let body = json!({ "worker": "w", "max": 10_000, "wait_ms": wait_ms });
        let leased = calls.post(&format!("{group}/lease"), &body).await.1;
        leased["records"].as_array().unwrap().clone()
    };
    let full = async || calls.get(group).await.1["full"].clone();
    let mut held = Vec::new();
    while held.len() < WINDOW {
        assert_eq!(full().await, false);
        let leased = lease(60_000).await;
        assert!(!leased.is_empty());
        held.extend(leased);
    }
    assert_eq!((held.len(), full().await), (WINDOW, json!(true)));
    // Who waits then costs next to nothing, once the stores have caught up.
    eventually("it rests", || async {
        let before = processor_seconds(&broker);
        assert!(lease(1_000).await.is_empty());
        processor_seconds(&broker) - before < 0.2
    })
    .await;
    assert_eq!(full().await, true);
    for due in WINDOW..WINDOW + 3 {
        let done = held.pop().unwrap();
        assert_eq!(calls.post(&format!("{group}/ack"), &json!({ "tokens": [done["token"]] })).await.0, 200);
        let next = lease(60_000).await;
        assert_eq!((next.len(), &next[0]["offset"]), (1, &json!(due)));
    }
    assert_eq!(full().await, true);
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_wait_for_a_lock_and_no_more() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path());
    let calls = Calls::on(&broker);
    let first = json!({ "owner": "o".repeat(255), "ttl_ms": 86_400_000 });
    let (status, held) = calls.post("locks/l", &first).await;
    assert_eq!(status, 200, "{held}");
    // As many streams of a connection as it takes.
    let mut waiting = JoinSet::new();
    for connection in 0..50 {
        let client = Client::builder().no_proxy().http2_prior_knowledge().build().unwrap();
        let calls = Calls { client, ..calls.clone() };
        for stream in 0..200 {
            let (calls, owner) = (calls.clone(), format!("{connection} {stream}"));
            waiting.spawn(async move {
                calls.post("locks/l", &json!({ "owner": owner, "ttl_ms": 86_400_000, "wait_ms": 60_000 })).await
            });
        }
    }
    let waits = async || calls.get("locks/l").await.1["waiting"].clone();
    eventually("all wait", || async { waits().await == 10_000 }).await;
    let one_more = calls.post("locks/l", &json!({ "owner": "late", "wait_ms": 60_000 })).await;
    refused(&one_more, 429, "too-many-waiters", "10000 wait for the lock, the limit");
    assert_eq!(waits().await, 10_000);
    // The holder does not wait.
    assert_eq!(calls.post("locks/l", &first).await.1["token"], held["token"]);
    assert_eq!(calls.post("locks/l/release", &json!({ "token": held["token"] })).await.0, 204);
    let (status, next) = waiting.join_next().await.unwrap().unwrap();
    assert!(status == 200 && next["token"].as_u64() > held["token"].as_u64(), "{next}");
    assert_eq!(waits().await, 9_999);
    waiting.shutdown().await;
    eventually("nobody waits", || async { waits().await == 0 }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn names_are_of_255_bytes_and_of_no_more() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path());
    let calls = Calls::on(&broker);
    calls.namespaces(0..1).await;
    let (longest, longer) = ("n".repeat(255), "n".repeat(256));
    for (method, path, body, code) in [
        (Method::PUT, "subscribers", json!({}), "invalid-subscriber"),
        (Method::PUT, "namespaces/n0/groups", json!({}), "invalid-group"),
        (Method::POST, "locks", json!({ "owner": "o" }), "invalid-lock"),
    ] {
        let over = calls.call(method.clone(), &format!("{path}/{longer}"), &body).await;
        refused(&over, 400, code, "256 bytes, the limit is 255");
        let at = calls.call(method, &format!("{path}/{longest}"), &body).await;
        assert!(at.0 < 300 && at.1["name"] == longest, "{at:?}");
    }
    for list in ["subscribers", "namespaces/n0/groups"] {
        assert_eq!(calls.get(&format!("{list}?limit=1000")).await.0, 200);
        refused(&calls.get(&format!("{list}?limit=1001")).await, 400, "invalid-parameter", "1000");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_follows_1_000_keys_and_no_more() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path());
    let calls = Calls::on(&broker);
    calls.namespaces(0..1).await;
    let query = |keys: usize| (0..keys).map(|key| format!("key=k{key}&")).collect::<String>();
    let over = calls.get(&format!("namespaces/n0/events?{}from=start", query(1_001))).await;
    refused(&over, 400, "invalid-parameter", "1001 keys, the limit is 1000");
    let url = broker.url(&format!("/v1/namespaces/n0/events?{}from=start", query(1_000)));
    let mut events = Events::connect(&calls.client, &url, None).await;
    let record = json!({ "key": "k999", "value": "v" });
    assert_eq!(calls.post("namespaces/n0/records", &record).await.0, 200);
    let event = timeout(PATIENCE, events.next()).await.expect("it comes").unwrap();
    assert!(event.data.contains("k999"));
}
