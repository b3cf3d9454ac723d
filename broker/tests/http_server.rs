//! The server itself: protocols, timeouts, shutdown, and what every answer carries.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod inside;
#[path = "support/sse.rs"]
#[allow(dead_code, unreachable_pub, reason = "shared with tests that use more of it")]
mod sse;

use std::collections::BTreeSet;
use std::time::Duration;

use broker::{ServeError, Server, ServerConfig};
use inside::{Answer, PATIENCE, TestServer, head};
use reqwest::{Client, Version};
use serde_json::Value;
use sse::Events;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

const JSON: &str = "content-type: application/json";
const POST: &str = "POST /v1/namespaces/n/records";

#[tokio::test(flavor = "multi_thread")]
async fn http_2_in_clear_text() {
    let server = TestServer::start().await;
    let client = Client::builder().no_proxy().http2_prior_knowledge().build().unwrap();
    let url = server.url("/v1/namespaces/n/records");
    let post =
        client.post(&url).header("content-type", "application/json").body(r#"{"value":1}"#).send().await.unwrap();
    assert_eq!((post.version(), post.status().as_u16()), (Version::HTTP_2, 200));
    let mut events = Events::connect(&client, &server.url("/v1/namespaces/n/events?from=start"), None).await;
    assert_eq!(events.next().await.unwrap().id, "0");
    // Many streams at once, over the one connection that is open.
    let posts = (0..50).map(|i| client.post(&url).body(vec![b'x'; 10_000 + i]).send());
    for post in futures::future::join_all(posts).await {
        assert_eq!(post.unwrap().status().as_u16(), 200);
    }
    for offset in 1..51 {
        assert_eq!(events.next().await.unwrap().id, offset.to_string());
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_carries_what_it_must() {
    let server = TestServer::start().await;
    for path in ["/healthz", "/metrics", "/v1/nothing", "/v1/namespaces", "/openapi.json", "/v1/namespaces/%00"] {
        let answer = server.get(path).await;
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{path}");
        assert_eq!(answer.header("cache-control"), Some("no-store"), "{path}");
        assert_eq!(answer.header("access-control-allow-origin"), None, "{path}");
    }
    let put = server.call("PUT /v1/events", &[], "").await;
    put.refused(405, "method-not-allowed", "PUT");
    assert_eq!(put.header("allow"), Some("get,head"));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn browsers_are_let_in_where_their_origin_is_configured() {
    let server = TestServer::start_with(|config| config.cors_origins = vec!["https://a.example".into()]).await;
    server.publish("n", r#"{"value":1}"#).await;
    let preflight = server.call(
        "OPTIONS /v1/namespaces/n/records",
        &[
            "origin: https://a.example",
            "access-control-request-method: POST",
            "access-control-request-headers: if-match",
        ],
        "",
    );
    let preflight = preflight.await;
    assert_eq!(preflight.header("access-control-allow-origin"), Some("https://a.example"));
    assert!(preflight.header("access-control-allow-headers").unwrap().contains("if-match"));
    assert!(preflight.header("access-control-allow-methods").unwrap().contains("post"));
    let mut stream = server.connect().await;
    let get = head("GET /v1/namespaces/n/events?from=start", &["origin: https://a.example"], None);
    stream.write_all(get.as_bytes()).await.unwrap();
    let mut buffer = vec![0; 4096];
    let read = stream.read(&mut buffer).await.unwrap();
    let text = String::from_utf8_lossy(&buffer[..read]).to_lowercase();
    assert!(text.contains("access-control-allow-origin: https://a.example\r\n"), "{text}");
    let other = server.call("GET /v1/namespaces", &["origin: https://b.example"], "").await;
    assert_eq!(other.header("access-control-allow-origin"), None);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_does_not_go_on_times_out() {
    let server = TestServer::start_with(|config| config.timeouts.body = Duration::from_millis(100)).await;
    for content_type in [JSON, "content-type: application/x-ndjson"] {
        let mut stream = server.connect().await;
        stream.write_all(head(POST, &[content_type], Some(100)).as_bytes()).await.unwrap();
        stream.write_all(b"{\"value\":").await.unwrap();
        Answer::read(&mut stream).await.refused(408, "request-timeout", "nothing of the body came");
    }
    assert_eq!(server.next_offset("n").await, None);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_asks_nothing_is_closed() {
    let server = TestServer::start_with(|config| {
        config.timeouts.head = Duration::from_millis(100);
        config.timeouts.idle = Duration::from_millis(200);
    })
    .await;
    for sent in ["", "GET /healthz HT", "PRI * HT"] {
        let mut stream = server.connect().await;
        stream.write_all(sent.as_bytes()).await.unwrap();
        let mut rest = Vec::new();
        timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("it is closed").unwrap();
        assert!(!rest.starts_with(b"HTTP/1.1 200"), "{sent:?}");
    }
    // Kept alive after an answer, and closed when nothing follows.
    let mut stream = server.connect().await;
    stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut all = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut all)).await.expect("it is closed").unwrap();
    assert!(all.starts_with(b"HTTP/1.1 200"));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_beyond_the_limit_wait() {
    let server = TestServer::start_with(|config| config.max_connections = 1).await;
    let first = server.connect().await;
    let mut second = server.connect().await;
    second.write_all(head("GET /healthz", &[], None).as_bytes()).await.unwrap();
    let mut buffer = [0; 1];
    let early = timeout(Duration::from_millis(100), second.read(&mut buffer)).await;
    assert!(early.is_err(), "the second is not served while the first is open");
    drop(first);
    assert_eq!(Answer::read(&mut second).await.status, 200);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_cant_start_says_why_in_a_line() {
    let server = TestServer::start().await;
    let free = "127.0.0.1:0".parse().unwrap();
    let refusal = async |config: ServerConfig| {
        let error: ServeError = Server::bind(config).await.unwrap_err();
        let line = error.to_string();
        assert_eq!(line.lines().count(), 1);
        line
    };
    let other = tempfile::tempdir().unwrap();
    let taken = refusal(ServerConfig::new(server.address, other.path())).await;
    assert!(taken.starts_with(&format!("can't listen on {}: ", server.address)), "{taken}");
    let locked = refusal(ServerConfig::new(free, server.folder.path())).await;
    assert!(locked.contains("in use by another tlog process"), "{locked}");
    let mut config = ServerConfig::new(free, other.path());
    config.cors_origins = vec!["example.org".into()];
    assert!(refusal(config.clone()).await.contains("\"example.org\" is not an origin"));
    (config.cors_origins, config.max_connections) = (Vec::new(), 0);
    assert!(refusal(config).await.contains("max_connections"));
    server.stop().await;
}

/// Every call.
const CALLS: &[&str] = &[
    "delete /v1/namespaces/{ns}",
    "delete /v1/namespaces/{ns}/groups/{group}",
    "delete /v1/namespaces/{ns}/keys/{key}",
    "delete /v1/subscribers/{name}",
    "get /healthz",
    "get /metrics",
    "get /readyz",
    "get /v1/events",
    "get /v1/locks/{lock}",
    "get /v1/namespaces",
    "get /v1/namespaces/{ns}",
    "get /v1/namespaces/{ns}/events",
    "get /v1/namespaces/{ns}/groups",
    "get /v1/namespaces/{ns}/groups/{group}",
    "get /v1/namespaces/{ns}/keys",
    "get /v1/namespaces/{ns}/keys/{key}",
    "get /v1/namespaces/{ns}/rebuild",
    "get /v1/namespaces/{ns}/records",
    "get /v1/objects/{id}",
    "get /v1/objects/{id}/previous",
    "get /v1/stores",
    "get /v1/subscribers",
    "get /v1/subscribers/{name}",
    "get /v1/subscribers/{name}/events",
    "post /v1/locks/{lock}",
    "post /v1/locks/{lock}/extend",
    "post /v1/locks/{lock}/release",
    "post /v1/namespaces/{ns}/groups/{group}/ack",
    "post /v1/namespaces/{ns}/groups/{group}/extend",
    "post /v1/namespaces/{ns}/groups/{group}/lease",
    "post /v1/namespaces/{ns}/groups/{group}/lease/stream",
    "post /v1/namespaces/{ns}/groups/{group}/leave",
    "post /v1/namespaces/{ns}/groups/{group}/nack",
    "post /v1/namespaces/{ns}/groups/{group}/redrive",
    "post /v1/namespaces/{ns}/groups/{group}/seek",
    "post /v1/namespaces/{ns}/records",
    "post /v1/stores/{shard}/rebuild",
    "post /v1/subscribers/{name}/ack",
    "post /v1/subscribers/{name}/join",
    "post /v1/subscribers/{name}/leave",
    "put /v1/namespaces/{ns}",
    "put /v1/namespaces/{ns}/groups/{group}",
    "put /v1/namespaces/{ns}/keys/{key}",
    "put /v1/subscribers/{name}",
];

#[tokio::test(flavor = "multi_thread")]
async fn the_document_describes_every_call() {
    let server = TestServer::start().await;
    let document = server.get("/openapi.json").await.ok();
    let calls: BTreeSet<String> = document["paths"]
        .as_object()
        .unwrap()
        .iter()
        .flat_map(|(path, methods)| methods.as_object().unwrap().keys().map(move |method| format!("{method} {path}")))
        .collect();
    assert_eq!(calls, CALLS.iter().map(|call| (*call).to_owned()).collect());
    let operations: Vec<&Value> = document["paths"]
        .as_object()
        .unwrap()
        .values()
        .flat_map(|methods| methods.as_object().unwrap().values())
        .collect();
    let ids: BTreeSet<&str> = operations.iter().map(|operation| operation["operationId"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), operations.len(), "each has an id of its own: {ids:?}");
    for operation in operations {
        for (status, response) in operation["responses"].as_object().unwrap() {
            assert!(response["description"].is_string(), "{} {status}", operation["operationId"]);
        }
    }
    // Every reference leads somewhere.
    let text = document.to_string();
    for reference in text.split("\"$ref\":\"#").skip(1) {
        let pointer = reference.split('"').next().unwrap();
        assert!(document.pointer(pointer).is_some(), "{pointer}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_end_is_cut_off() {
    let server = TestServer::start_with(|config| config.timeouts.drain = Duration::from_millis(100)).await;
    let mut stream = server.connect().await;
    stream.write_all(head(POST, &[JSON, "expect: 100-continue"], Some(11)).as_bytes()).await.unwrap();
    stream.read_exact(&mut [0; 25]).await.unwrap();
    stream.write_all(b"{\"val").await.unwrap();
    server.stop().await;
    let mut rest = Vec::new();
    let _reset = stream.read_to_end(&mut rest).await;
    assert!(!rest.starts_with(b"HTTP/1.1 200"));
}
