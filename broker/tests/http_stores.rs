//! Reading by key and by object id, and the ring of stores.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod inside;

use inside::{TestServer, eventually};
use serde_json::{Value, json};

const JSON: &str = "content-type: application/json";

async fn put(server: &TestServer, key: &str, content_type: &str, body: &[u8]) -> Value {
    server.call(&format!("PUT /v1/namespaces/n/keys/{key}"), &[content_type], body).await.ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_has_its_latest_value() {
    let server = TestServer::start().await;
    put(&server, "a%2Fb", JSON, b" {\"x\": 1} ").await;
    let at = put(&server, "a%2Fb", "content-type: text/plain", b"two").await["first_offset"].clone();
    let get = format!("/v1/namespaces/n/keys/a%2Fb?min_offset={at}");
    let record = server.get(&get).await.ok();
    assert_eq!((&record["offset"], &record["key"], &record["value"]), (&at, &json!("a/b"), &json!("two")));
    let previous = server.get(&format!("/v1/objects/{}/previous", record["id"].as_str().unwrap())).await;
    assert!(previous.text().contains("\"value\":{\"x\": 1}"), "{}", previous.text());
    let head = server.call(&format!("HEAD {get}"), &[], "").await;
    assert_eq!((head.status, head.body.len()), (200, 0));

    let deleted = server.call("DELETE /v1/namespaces/n/keys/a%2Fb", &["if-match: 2"], "").await.ok();
    assert_eq!(deleted["first_offset"], 2);
    let gone = server.get("/v1/namespaces/n/keys/a%2Fb?min_offset=2").await;
    gone.refused(404, "key-not-found", "\"a/b\"");
    let page = server.get("/v1/namespaces/n/records?from=2").await.ok();
    assert_eq!(page["records"][0]["tombstone"], true);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_read_from_the_disk_and_then_from_memory() {
    let server = TestServer::start().await;
    // Large, so that the last of them has a block of the file for itself, which nothing else reads.
    for value in ["a", "b", "c"] {
        put(&server, "k", "content-type: text/plain", value.repeat(20_000).as_bytes()).await;
    }
    let get = "/v1/namespaces/n/keys/k?min_offset=2";
    let written = server.get(get).await.ok();
    assert_eq!(written["value"], "c".repeat(20_000));
    // A process that has just begun has it on disk alone.
    let server = TestServer::start_in(server.stop().await, |_| {}).await;
    for _ in 0..2 {
        assert_eq!(server.get(get).await.ok(), written);
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_read_in_their_order() {
    let server = TestServer::start().await;
    let mut last = Value::Null;
    for key in ["d", "b1", "a", "b3", "b2", "c%20c"] {
        last = put(&server, key, JSON, b"1").await["first_offset"].clone();
    }
    let keys = async |query: &str| {
        let page = server.get(&format!("/v1/namespaces/n/keys?min_offset={last}{query}")).await.ok();
        let keys: Vec<Value> = page["records"].as_array().unwrap().iter().map(|record| record["key"].clone()).collect();
        (Value::from(keys), page["next"].clone())
    };
    assert_eq!(keys("").await, (json!(["a", "b1", "b2", "b3", "c c", "d"]), Value::Null));
    assert_eq!(keys("&prefix=b&limit=2").await, (json!(["b1", "b2"]), json!("b2")));
    assert_eq!(keys("&prefix=b&limit=2&after=b2").await, (json!(["b3"]), Value::Null));
    assert_eq!(keys("&from=b2&to=d").await, (json!(["b2", "b3", "c c"]), Value::Null));
    assert_eq!(keys("&prefix=x").await, (json!([]), Value::Null));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn previous_walks_back_to_the_first() {
    let server = TestServer::start().await;
    for value in 0..5 {
        put(&server, "k", JSON, value.to_string().as_bytes()).await;
    }
    let latest = server.get("/v1/namespaces/n/keys/k?min_offset=4").await.ok();
    let (mut id, mut values) = (latest["id"].as_str().unwrap().to_owned(), vec![latest["value"].clone()]);
    loop {
        assert_eq!(server.get(&format!("/v1/objects/{id}")).await.ok()["namespace"], "n");
        let answer = server.get(&format!("/v1/objects/{id}/previous")).await;
        if answer.status == 404 {
            answer.refused(404, "object-not-found", &id);
            break;
        }
        let record = answer.ok();
        values.push(record["value"].clone());
        id = record["id"].as_str().unwrap().to_owned();
    }
    assert_eq!(Value::from(values), json!([4, 3, 2, 1, 0]));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_waits_for_what_it_must_have_seen() {
    let server = TestServer::start().await;
    server.call("PUT /v1/namespaces/n", &[], "").await.ok();
    let waiting = server.get("/v1/namespaces/n/keys/k?min_offset=0&wait=30000");
    let (waited, _) = tokio::join!(waiting, put(&server, "k", JSON, b"7"));
    assert_eq!(waited.ok()["value"], 7);
    let late = server.get("/v1/namespaces/n/keys?min_offset=1&wait=10").await;
    assert_eq!(late.refused(503, "not-caught-up", "offset 1")["retry"], "safe");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_is_rebuilt() {
    let server = TestServer::start().await;
    let at = put(&server, "k", JSON, b"1").await["first_offset"].clone();
    let id = server.get(&format!("/v1/namespaces/n/keys/k?min_offset={at}")).await.ok()["id"].clone();
    let shard = u8::from_str_radix(&id.as_str().unwrap()[..2], 16).unwrap();
    let ring = server.get("/v1/stores").await.ok();
    let stores = ring["stores"].as_array().unwrap();
    assert_eq!(stores.len(), 256);
    for (index, store) in stores.iter().enumerate() {
        assert_eq!(store["shard"], index);
        assert_eq!(store["objects"], u8::from(index == usize::from(shard)));
        assert_eq!((&store["lag"], &store["rebuilding"]), (&json!(0), &json!(false)));
    }
    let answer = server.call(&format!("POST /v1/stores/{shard}/rebuild"), &[], "").await;
    assert_eq!((answer.status, answer.json()), (202, json!({"shard": shard, "rebuilding": true})));
    eventually("the store is whole again", async || {
        let ring = server.get("/v1/stores").await.ok();
        ring["stores"][usize::from(shard)]["rebuilding"] == false
    })
    .await;
    assert_eq!(server.get("/v1/namespaces/n/keys/k").await.ok()["id"], id);
    server.stop().await;
}
