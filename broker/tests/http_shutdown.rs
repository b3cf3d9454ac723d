//! Shutdown in order. Alone in its process, as it looks at the process's metrics.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod inside;
#[path = "support/sse.rs"]
#[allow(dead_code, unreachable_pub, reason = "shared with tests that use more of it")]
mod sse;

use broker::{Server, ServerConfig};
use inside::{Answer, PATIENCE, TestServer, head};
use reqwest::Client;
use serde_json::Value;
use sse::Events;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

const JSON: &str = "content-type: application/json";
const POST: &str = "POST /v1/namespaces/n/records";

#[tokio::test(flavor = "multi_thread")]
async fn shutdown_answers_what_is_in_flight_and_ends_streams() {
    let server = TestServer::start().await;
    server.publish("n", r#"{"value":0}"#).await;
    let client = Client::builder().no_proxy().build().unwrap();
    let mut events = Events::connect(&client, &server.url("/v1/namespaces/n/events?from=start"), None).await;
    assert_eq!(events.next().await.unwrap().id, "0");
    let mut idle = server.connect().await;
    let mut polling = server.connect().await;
    polling.write_all(head("GET /v1/namespaces/n/records?from=1&wait=60000", &[], None).as_bytes()).await.unwrap();
    let mut publishing = server.connect().await;
    // The body is asked for, so the request is being served.
    publishing.write_all(head(POST, &[JSON, "expect: 100-continue"], Some(11)).as_bytes()).await.unwrap();
    let mut asked = [0; 25];
    publishing.read_exact(&mut asked).await.unwrap();
    assert_eq!(&asked, b"HTTP/1.1 100 Continue\r\n\r\n");
    publishing.write_all(b"{\"val").await.unwrap();
    server.eventually_counts("tlog_subscribers 2").await;

    server.shutdown.cancel();
    assert_eq!(timeout(PATIENCE, events.next()).await.expect("the stream ends"), None);
    let page = Answer::read(&mut polling).await.ok();
    assert_eq!(page["records"].as_array().unwrap().len(), 0);
    let mut rest = Vec::new();
    timeout(PATIENCE, idle.read_to_end(&mut rest)).await.expect("an idle connection is closed").unwrap();
    assert!(tokio::net::TcpStream::connect(server.address).await.is_err(), "no new connection is taken");
    publishing.write_all(b"ue\":1}").await.unwrap();
    assert_eq!(Answer::read(&mut publishing).await.ok()["first_offset"], 1);
    let TestServer { running, folder, .. } = server;
    timeout(PATIENCE, running).await.expect("the server stops").unwrap().unwrap();

    // What was acked is there when the folder is opened again.
    let server = Server::bind(ServerConfig::new("127.0.0.1:0".parse().unwrap(), folder.path())).await.unwrap();
    let address = server.local_addr();
    let shutdown = tokio_util::sync::CancellationToken::new();
    let running = tokio::spawn(server.run(shutdown.clone()));
    let body = client.get(format!("http://{address}/v1/namespaces/n")).send().await.unwrap().text().await.unwrap();
    assert_eq!(serde_json::from_str::<Value>(&body).unwrap()["next_offset"], 2);
    shutdown.cancel();
    drop(client);
    running.await.unwrap().unwrap();
}
