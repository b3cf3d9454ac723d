//! Plain calls of the interface, as any HTTP client would make them.

use reqwest::{Client, Response, StatusCode};
use serde::Deserialize;
use serde_json::Value;

use super::Broker;

/// A client without retries, proxies or redirects: what it sees is what the broker answered.
pub fn client() -> Client {
    Client::builder().no_proxy().pool_max_idle_per_host(256).build().unwrap()
}

/// The answer to a publish.
#[derive(Clone, Debug, Deserialize)]
pub struct Published {
    /// Offset of the first record.
    pub first_offset: u64,
    /// The offset behind the last.
    pub next_offset: u64,
    /// Object ids, in order.
    pub ids: Vec<String>,
    /// The namespace's chain after the batch.
    pub chain: String,
}

/// What `GET /v1/namespaces/{ns}` answers.
#[derive(Clone, Debug, Deserialize)]
pub struct NamespaceInfo {
    /// Its id.
    pub id: u32,
    /// Which use of the id.
    pub generation: u32,
    /// The offset behind the last record.
    pub next_offset: u64,
    /// Its chain.
    pub chain: String,
}

/// The answer's body where it has this status; fails the test with status and body where not.
pub async fn expect(response: Response, status: StatusCode) -> String {
    let (found, url) = (response.status(), response.url().clone());
    let body = response.text().await.unwrap();
    assert_eq!(found, status, "{url}: {body}");
    body
}

/// Reads JSON from an answer of 200.
pub async fn json<T: for<'de> Deserialize<'de>>(response: Response) -> T {
    let body = expect(response, StatusCode::OK).await;
    serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {body}"))
}

/// Publishes a JSON body: a record, or an array of them.
pub async fn publish(client: &Client, broker: &Broker, namespace: &str, body: &Value) -> Published {
    let url = broker.url(&format!("/v1/namespaces/{namespace}/records"));
    json(client.post(url).json(body).send().await.unwrap()).await
}

/// A namespace's state.
pub async fn namespace(client: &Client, broker: &Broker, namespace: &str) -> NamespaceInfo {
    json(client.get(broker.url(&format!("/v1/namespaces/{namespace}"))).send().await.unwrap()).await
}

/// Whether every store has applied all that is in the log, and none is being rebuilt.
pub async fn stores_are_level(client: &Client, broker: &Broker) -> bool {
    let states: Value = json(client.get(broker.url("/v1/stores")).send().await.unwrap()).await;
    let stores = states["stores"].as_array().expect("stores are an array");
    assert_eq!(stores.len(), 256);
    stores.iter().all(|store| store["lag"] == 0 && store["rebuilding"] == false)
}
