//! Holds the stores against the log that they are made of.

use std::collections::{HashMap, HashSet};

use reqwest::{Client, StatusCode};
use serde_json::{Value, json};

use super::proof::Proven;
use super::{Broker, Dice, http};

/// Waits until the stores are level with the log, and holds them against these namespaces, which are all
/// that there are.
pub async fn check(client: &Client, broker: &Broker, namespaces: &[(String, Proven)], dice: &mut Dice) {
    super::eventually("the stores are level", || http::stores_are_level(client, broker)).await;
    for (name, proven) in namespaces {
        check_keys(client, broker, name, proven).await;
        check_objects(client, broker, proven, dice).await;
    }
    let states: Value = http::json(client.get(broker.url("/v1/stores")).send().await.unwrap()).await;
    let objects: usize =
        states["stores"].as_array().unwrap().iter().map(|store| store["objects"].as_u64().unwrap() as usize).sum();
    let records: usize = namespaces.iter().map(|(_, proven)| proven.records.len()).sum();
    assert_eq!(objects, records, "the stores hold another number of objects than the log has records");
}

/// A value as it was published: JSON where the form was JSON, text where it was not.
pub fn spelled(value: &[u8]) -> String {
    let text = std::str::from_utf8(value).unwrap();
    text.trim_matches('"').to_owned()
}

/// The stores' latest value of each key is the log's.
async fn check_keys(client: &Client, broker: &Broker, namespace: &str, proven: &Proven) {
    let mut latest = HashMap::new();
    for (offset, stored) in proven.records.iter().enumerate() {
        if let Some(key) = &stored.key {
            latest.insert(key.clone(), (offset, stored));
        }
    }
    for (key, (offset, stored)) in latest {
        let url = broker.url(&format!("/v1/namespaces/{namespace}/keys/{key}"));
        let answer = client.get(url).send().await.unwrap();
        if stored.tombstone {
            http::expect(answer, StatusCode::NOT_FOUND).await;
        } else {
            let record: Value = http::json(answer).await;
            assert_eq!((record["offset"].as_u64(), &record["id"]), (Some(offset as u64), &json!(stored.id)));
            assert_eq!(record["value"], spelled(&stored.value));
        }
    }
}

/// Objects of the stores are the log's records, and the one before an object is its previous.
async fn check_objects(client: &Client, broker: &Broker, proven: &Proven, dice: &mut Dice) {
    let ids: HashSet<&str> = proven.records.iter().map(|stored| stored.id.as_str()).collect();
    for _ in 0..proven.records.len().min(30) {
        let offset = dice.below(proven.records.len() as u64);
        let id = &proven.records[offset as usize].id;
        let record: Value =
            http::json(client.get(broker.url(&format!("/v1/objects/{id}"))).send().await.unwrap()).await;
        assert_eq!((record["offset"].as_u64(), record["id"].as_str()), (Some(offset), Some(id.as_str())));
        let previous = format!("{:016x}", u64::from_str_radix(id, 16).unwrap() - 1);
        let answer = client.get(broker.url(&format!("/v1/objects/{id}/previous"))).send().await.unwrap();
        if previous.ends_with("00000000") {
            http::expect(answer, StatusCode::NOT_FOUND).await;
        } else {
            let record: Value = http::json(answer).await;
            assert!(ids.contains(previous.as_str()));
            assert_eq!(record["id"].as_str(), Some(previous.as_str()));
        }
    }
}
