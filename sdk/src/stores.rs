//! The 256 stores: what is in them, by object id, and how they are.

use std::time::Duration;

use reqwest::Method;
use serde::{Deserialize, Serialize};
use wire::json::RecordJson;
use wire::{Code, ObjectId, Shard};

use crate::client::Client;
use crate::error::Error;
use crate::http::Repeat;
use crate::record::Record;

/// How a store is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct StoreInfo {
    /// Which one: the first byte of the BLAKE3 of what it holds.
    pub shard: u8,
    /// How many objects it holds.
    pub objects: u64,
    /// How many records of the log it has yet to see.
    pub lag: u64,
    /// Whether it is being rebuilt: it then answers no reads.
    #[serde(default)]
    pub rebuilding: bool,
}

#[derive(Deserialize)]
struct Ring {
    stores: Vec<StoreInfo>,
}

impl Client {
    /// The record of this id; nothing where there is none.
    pub async fn object(&self, id: ObjectId) -> Result<Option<Record>, Error> {
        self.object_at(&["v1", "objects", &id.to_string()]).await
    }

    /// The record before this one in its namespace and store; nothing where it is the first.
    ///
    /// # Errors
    /// [`Code::ObjectLost`] where it is not the first, but the one before it was lost.
    pub async fn previous(&self, id: ObjectId) -> Result<Option<Record>, Error> {
        self.object_at(&["v1", "objects", &id.to_string(), "previous"]).await
    }

    /// The 256 stores.
    pub async fn stores(&self) -> Result<Vec<StoreInfo>, Error> {
        let request = self.request(Method::GET, &["v1", "stores"])?;
        Ok(self.call_json::<Ring>(&request).await?.stores)
    }

    /// Wipes a store and has it rebuilt from the log, while the others serve. Answers once that has
    /// begun; [`Client::stores`] tells when it is done.
    pub async fn rebuild_store(&self, shard: Shard) -> Result<(), Error> {
        let request = self.request(Method::POST, &["v1", "stores", &shard.to_string(), "rebuild"])?;
        self.call(&request, Repeat::WhenSafe, Duration::ZERO).await.map(drop)
    }

    async fn object_at(&self, path: &[&str]) -> Result<Option<Record>, Error> {
        let request = self.request(Method::GET, path)?;
        match self.call_json::<RecordJson>(&request).await {
            Ok(record) => Record::of_json(record).map(Some),
            Err(error) if error.code() == Some(Code::ObjectNotFound) => Ok(None),
            Err(error) => Err(error),
        }
    }
}
