//! A log that has lost records: every way to read it says which, and goes on behind them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod inside;
#[path = "support/losses.rs"]
mod losses;
#[path = "support/sse.rs"]
#[allow(dead_code, unreachable_pub, reason = "shared with tests that use more of it")]
mod sse;

use std::ops::Range;

use inside::{PATIENCE, TestServer};
use proptest::prelude::*;
use reqwest::Client;
use sdk::{Lost, Verified, Verifier};
use serde_json::{Value, json};
use sse::{Event, Events};
use tokio::time::timeout;

/// What is lost of `n`, which has 18 records in batches of three: the key of each is `a`, `b` or `c`.
const LOST: [Range<u64>; 3] = [3..6, 6..9, 12..15];

async fn with_losses(names: &[&str], lost: &[Range<u64>]) -> TestServer {
    let server = TestServer::start().await;
    let mut ids = Vec::new();
    for name in names {
        for first in (0..18).step_by(3) {
            let record = |(key, value): (&str, u64)| json!({"key": key, "value": value});
            let batch: Vec<Value> = ["a", "b", "c"].into_iter().zip(first..).map(record).collect();
            server.publish(name, &Value::from(batch).to_string()).await;
        }
        ids.push(server.get(&format!("/v1/namespaces/{name}")).await.ok()["id"].as_u64().unwrap());
    }
    let folder = server.stop().await;
    ids.iter().for_each(|id| losses::lose(folder.path(), *id as u32, lost));
    TestServer::start_in(folder, |_| {}).await
}

async fn follow(server: &TestServer, query: &str, last_event_id: Option<&str>) -> Events {
    Events::connect(&Client::builder().no_proxy().build().unwrap(), &server.url(query), last_event_id).await
}

async fn next(events: &mut Events) -> Event {
    timeout(PATIENCE, events.next()).await.expect("an event comes").expect("the stream goes on")
}

/// What comes: an offset, or from where to where records are lost; each with the id that it must have.
async fn seen(events: &mut Events, count: usize) -> Vec<Result<u64, (u64, u64)>> {
    let mut seen = Vec::new();
    for _ in 0..count {
        let event = next(events).await;
        let data: Value = serde_json::from_str(&event.data).unwrap();
        let number = |field: &str| data[field].as_u64().unwrap();
        if event.event == "reset" {
            assert_eq!((event.id, &data["reason"]), ((number("to") - 1).to_string(), &json!("lost")));
            seen.push(Err((number("from"), number("to"))));
        } else {
            assert_eq!((event.event.as_str(), event.id), ("", number("offset").to_string()));
            seen.push(Ok(number("offset")));
        }
    }
    seen
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_is_told_and_goes_on() {
    let server = with_losses(&["n"], &LOST).await;
    let url = "/v1/namespaces/n/events";
    let mut events = follow(&server, &format!("{url}?from=start"), None).await;
    let all =
        [&[Ok(0), Ok(1), Ok(2), Err((3, 6)), Err((6, 9)), Ok(9), Ok(10), Ok(11), Err((12, 15)), Ok(15)][..]].concat();
    assert_eq!(seen(&mut events, 10).await, all);
    assert_eq!(seen(&mut events, 2).await, [Ok(16), Ok(17)]);
    server.publish("n", r#"{"value":18}"#).await;
    assert_eq!(seen(&mut events, 1).await, [Ok(18)]);
    // Whose keys the lost records had nobody knows.
    let mut keyed = follow(&server, &format!("{url}?from=start&key=b"), None).await;
    let of_b = [Ok(1), Err((3, 6)), Err((6, 9)), Ok(10), Err((12, 15)), Ok(16)];
    assert_eq!(seen(&mut keyed, 6).await, of_b);
    // Only what is ahead is told again.
    for (last, expected) in [
        ("2", [Err((3, 6)), Err((6, 9))]),
        ("3", [Err((4, 6)), Err((6, 9))]),
        ("4", [Err((5, 6)), Err((6, 9))]),
        ("5", [Err((6, 9)), Ok(9)]),
        ("7", [Err((8, 9)), Ok(9)]),
        ("8", [Ok(9), Ok(10)]),
    ] {
        let mut events = follow(&server, url, Some(last)).await;
        assert_eq!(seen(&mut events, 2).await, expected, "behind {last}");
    }
    let mut keyed = follow(&server, &format!("{url}?key=c"), Some("12")).await;
    assert_eq!(seen(&mut keyed, 2).await, [Err((13, 15)), Ok(17)]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_of_many_is_told_of_which() {
    let server = with_losses(&["n", "m"], std::slice::from_ref(&(3..9))).await;
    let url = "/v1/events?namespace=n&namespace=m&from=start";
    // Cut off behind each event, it goes on with the next.
    let (mut token, mut seen) = (None, Vec::new());
    for _ in 0..26 {
        let event = next(&mut follow(&server, url, token.as_deref()).await).await;
        let data: Value = serde_json::from_str(&event.data).unwrap();
        let first = if event.event == "reset" {
            assert_eq!((&data["to"], &data["reason"]), (&json!(9), &json!("lost")));
            &data["from"]
        } else {
            &data["offset"]
        };
        seen.push((data["namespace"].as_str().unwrap().to_owned(), first.as_u64().unwrap()));
        token = Some(event.id);
    }
    for name in ["n", "m"] {
        let of: Vec<u64> = seen.iter().filter(|(namespace, _)| namespace == name).map(|(_, first)| *first).collect();
        assert_eq!(of, [0, 1, 2, 3, 9, 10, 11, 12, 13, 14, 15, 16, 17]);
    }
    server.publish("m", r#"{"value":18}"#).await;
    let event = next(&mut follow(&server, url, token.as_deref()).await).await;
    assert!(event.event.is_empty() && event.data.contains("\"namespace\":\"m\",\"offset\":18"), "{event:?}");
    server.stop().await;
}

/// The offsets of a page, what is lost in it, and where to go on.
async fn page(server: &TestServer, query: &str) -> (Vec<u64>, Value, u64) {
    let page = server.get(&format!("/v1/namespaces/n/records?{query}")).await.ok();
    let offsets = page["records"].as_array().unwrap().iter().map(|record| record["offset"].as_u64().unwrap());
    assert_eq!(page["head"], 18);
    (offsets.collect(), page["lost"].clone(), page["next_offset"].as_u64().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_says_what_is_lost_in_it() {
    let server = with_losses(&["n"], &LOST).await;
    let some = |from: u64, to: u64| json!([{"from": from, "to": to}]);
    assert_eq!(page(&server, "limit=3").await, (vec![0, 1, 2], Value::Null, 3));
    // Losses that touch are one; the limit counts records.
    assert_eq!(page(&server, "from=3&limit=3").await, (vec![9, 10, 11], some(3, 9), 12));
    assert_eq!(page(&server, "from=7&limit=1").await, (vec![9], some(7, 9), 10));
    let both = json!([{"from": 3, "to": 9}, {"from": 12, "to": 15}]);
    assert_eq!(page(&server, "from=2").await, (vec![2, 9, 10, 11, 15, 16, 17], both, 18));
    assert_eq!(page(&server, "from=14&limit=1").await, (vec![15], some(14, 15), 16));

    let call = async |query: &str, accept: &str| {
        let line = format!("GET /v1/namespaces/n/records?{query}");
        let answer = server.call(&line, &[&format!("accept: {accept}")], "").await;
        assert_eq!(answer.status, 200);
        let next = answer.header("tlog-next-offset").unwrap().to_owned();
        (answer, next)
    };
    let (lines, next) = call("from=2&limit=2", "application/x-ndjson").await;
    let text = lines.text();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!((lines.len(), next.as_str()), (4, "10"));
    assert!(lines[0].starts_with("{\"offset\":2,") && lines[3].starts_with("{\"offset\":9,"), "{text}");
    assert_eq!(lines[1], r#"{"reset":{"from":3,"to":6,"reason":"lost"}}"#);
    assert_eq!(lines[2], r#"{"reset":{"from":6,"to":9,"reason":"lost"}}"#);

    let (frames, next) = call("from=4&limit=4", "application/vnd.tlog.frames").await;
    let mut decoder = wire::FrameDecoder::default();
    decoder.push(&frames.body);
    let mut found = Vec::new();
    while let Some(item) = decoder.next().unwrap() {
        let wire::StreamItem::Frame(frame) = item else { panic!("{item:?}") };
        found.push((frame.base_offset(), frame.is_loss()));
    }
    assert_eq!(found, [(3, true), (6, true), (9, false), (12, true), (15, false)]);
    assert_eq!(next, "18");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_waits_answers_a_loss_at_once_and_then_waits() {
    let server = with_losses(&["n"], std::slice::from_ref(&(15..18))).await;
    // All that is left to read is that nothing is.
    let lost = json!([{"from": 16, "to": 18}]);
    for accept in ["application/json", "application/x-ndjson", "application/vnd.tlog.frames"] {
        let line = "GET /v1/namespaces/n/records?from=16&wait=60000";
        let answer = timeout(PATIENCE, server.call(line, &[&format!("accept: {accept}")], "")).await.expect("at once");
        assert_eq!(answer.status, 200);
        assert!(!answer.body.is_empty());
        if accept == "application/json" {
            let page = answer.json();
            assert_eq!((&page["lost"], &page["next_offset"], &page["records"]), (&lost, &json!(18), &json!([])));
        }
    }
    let waiting = server.get("/v1/namespaces/n/records?from=18&wait=60000");
    let publish = server.publish("n", r#"{"value":18}"#);
    let (page, published) = tokio::join!(waiting, publish);
    assert_eq!(published["first_offset"], 18);
    assert_eq!(page.ok()["records"][0]["offset"], 18);
    server.stop().await;
}

async fn prove(server: &TestServer) -> sdk::Proof {
    let mut verifier = Verifier::new();
    verifier.push(&server.get("/v1/namespaces/n/rebuild").await.body);
    while let Some(verified) = verifier.next().unwrap() {
        if let Verified::Lost(frame) = &verified {
            assert!(frame.is_loss());
        }
    }
    verifier.end().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_proves_what_is_left_and_names_what_is_not() {
    let server = with_losses(&["n"], &[0..3, 6..12, 15..18]).await;
    let proof = prove(&server).await;
    assert_eq!((proof.records, proof.next_offset, proof.frames), (6, 18, 5));
    let lost = [Lost { from: 0, to: 3 }, Lost { from: 6, to: 12 }, Lost { from: 15, to: 18 }];
    assert_eq!(proof.lost.named(), lost);
    let info = server.get("/v1/namespaces/n").await.ok();
    assert_eq!((&info["next_offset"], &info["chain"]), (&json!(18), &json!(proof.chain.to_string())));
    // From within a loss it begins with the whole of it.
    let body = server.get("/v1/namespaces/n/rebuild?from=8").await.body;
    let first = wire::Frame::decode(body[..wire::Frame::length(&body).unwrap()].to_vec().into()).unwrap();
    assert_eq!((first.is_loss(), first.base_offset(), first.next_offset()), (true, 6, 12));

    // What is published behind it goes on, in offsets and ids.
    server.publish("n", r#"[{"key":"a","value":18},{"key":"b","value":19}]"#).await;
    let proof = prove(&server).await;
    let info = server.get("/v1/namespaces/n").await.ok();
    assert_eq!((proof.records, proof.lost.records(), &info["chain"]), (8, 12, &json!(proof.chain.to_string())));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stores_serve_what_is_left() {
    let server = with_losses(&["n"], &LOST).await;
    let get = async |path: &str| server.get(path).await;
    let latest = get("/v1/namespaces/n/keys/a?min_offset=17").await.ok();
    assert_eq!(latest["offset"], 15);
    // Before it stood the one of offset 12, and that is lost: it is not the first.
    let id = latest["id"].as_str().unwrap();
    get(&format!("/v1/objects/{id}/previous")).await.refused(404, "object-lost", "was lost");
    let first = get("/v1/namespaces/n/records?limit=1").await.ok()["records"][0]["id"].as_str().unwrap().to_owned();
    get(&format!("/v1/objects/{first}/previous")).await.refused(404, "object-not-found", &first);
    server.stop().await;
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn however_it_is_paged_all_offsets_are_records_or_lost(
        lost in prop::collection::vec(any::<bool>(), 6),
        limits in prop::collection::vec(1_u64..6, 40),
    ) {
        let lost: Vec<Range<u64>> = (0..).step_by(3).zip(lost).filter(|(_, lost)| *lost).map(|(at, _)| at..at + 3).collect();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let server = with_losses(&["n"], &lost).await;
            let mut from = 0;
            for limit in limits {
                let (offsets, ranges, next) = page(&server, &format!("from={from}&limit={limit}")).await;
                let ranges: Vec<Lost> = serde_json::from_value(ranges).unwrap_or_default();
                let mut told: Vec<u64> = ranges.iter().flat_map(|lost| lost.from..lost.to).chain(offsets.clone()).collect();
                told.sort_unstable();
                assert_eq!(told, (from..next).collect::<Vec<_>>());
                let is_lost = |offset: &u64| lost.iter().any(|lost| lost.contains(offset));
                assert!(!offsets.iter().any(is_lost) && offsets.len() as u64 <= limit);
                from = next;
            }
            assert_eq!(from, 18);
            server.stop().await;
        });
    }
}
