//! One namespace: to create, describe and delete it, and the way to all that is done with it.

use std::time::Duration;

use futures::Stream;
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderValue};
use reqwest::{Method, Request};
use serde::{Deserialize, Serialize};
use wire::{Chain, Generation, NamespaceConfig, NamespaceName, Offset};

use crate::client::Client;
use crate::error::Error;
use crate::http::{Repeat, add_query};
use crate::pages::paged;
use crate::publisher::PublisherBuilder;
use crate::rebuild::Rebuild;
use crate::subscribe::Subscribe;
use crate::text::{as_text, from_text};

/// A namespace of a broker. Cheap to clone; whether it exists is only known once it is used.
#[derive(Clone, Debug)]
pub struct Namespace {
    client: Client,
    name: NamespaceName,
}

/// What a broker says of a namespace.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NamespaceInfo {
    /// Its name.
    pub name: String,
    /// Its id, below 2^24.
    pub id: u32,
    /// Which use of the id.
    pub generation: Generation,
    /// The offset that the next record gets: as many records as there are, and were lost.
    pub next_offset: Offset,
    /// The chain at `next_offset`.
    #[serde(deserialize_with = "from_text", serialize_with = "as_text")]
    pub chain: Chain,
    /// Bytes of its frames.
    pub bytes: u64,
    /// What it was created with.
    pub config: NamespaceConfig,
}

/// Whether a namespace came into being by a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ensured {
    /// It did not exist before.
    Created,
    /// It existed, with the same configuration.
    Existed,
}

impl Namespace {
    pub(crate) fn new(client: Client, name: &str) -> Result<Namespace, Error> {
        Ok(Namespace { client, name: NamespaceName::new(name)? })
    }

    /// The namespace's name.
    pub fn name(&self) -> &NamespaceName {
        &self.name
    }

    /// The broker's client.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Creates the namespace, or ensures that it exists with this configuration.
    ///
    /// # Errors
    /// [`wire::Code::ConfigConflict`] where it exists with another one.
    pub async fn ensure(&self, config: &NamespaceConfig) -> Result<Ensured, Error> {
        let body = serde_json::to_vec(config).map_err(|error| Error::Reply(error.to_string()))?;
        let mut request = self.request(Method::PUT, &[])?;
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        *request.body_mut() = Some(body.into());
        let answer = self.client.call(&request, Repeat::Always, Duration::ZERO).await?;
        Ok(if answer.status == 201 { Ensured::Created } else { Ensured::Existed })
    }

    /// What the broker says of the namespace.
    ///
    /// # Errors
    /// [`wire::Code::NamespaceNotFound`] where it does not exist.
    pub async fn info(&self) -> Result<NamespaceInfo, Error> {
        self.client.call_json(&self.get(&[])?).await
    }

    /// Deletes the namespace and all its records. Repeated only where it surely had no effect:
    /// otherwise one that was made in between would be deleted as well.
    ///
    /// # Errors
    /// [`wire::Code::NamespaceNotFound`] where it does not exist.
    pub async fn delete(&self) -> Result<(), Error> {
        let request = self.request(Method::DELETE, &[])?;
        self.client.call(&request, Repeat::WhenSafe, Duration::ZERO).await.map(drop)
    }

    /// A publisher: gathers records into batches, sends several at a time, and repeats them without
    /// storing any twice.
    pub fn publisher(&self) -> PublisherBuilder {
        PublisherBuilder::new(self.clone())
    }

    /// A subscription: follows the namespace's records as they are appended.
    pub fn subscribe(&self) -> Subscribe {
        Subscribe::one(self.clone())
    }

    /// Every frame of the namespace, from the first to the head as of the request, with proof.
    pub fn rebuild(&self) -> Rebuild {
        Rebuild::new(self.clone())
    }

    pub(crate) fn get(&self, path: &[&str]) -> Result<Request, Error> {
        self.request(Method::GET, path)
    }

    pub(crate) fn request(&self, method: Method, path: &[&str]) -> Result<Request, Error> {
        let mut segments = vec!["v1", "namespaces", &*self.name];
        segments.extend_from_slice(path);
        let mut request = self.client.request(method, &segments)?;
        request.headers_mut().insert(ACCEPT, HeaderValue::from_static("application/json"));
        Ok(request)
    }
}

#[derive(Deserialize)]
struct NamespacePage {
    namespaces: Vec<NamespaceInfo>,
    /// Where to go on; nothing at the end.
    next: Option<String>,
}

impl Client {
    /// The namespaces whose names begin with `prefix`, in the order of names, read page by page as
    /// the stream is polled.
    pub fn namespaces(&self, prefix: &str) -> impl Stream<Item = Result<NamespaceInfo, Error>> + Send + use<> {
        let (client, prefix) = (self.clone(), prefix.to_owned());
        paged(move |after| {
            let (client, prefix) = (client.clone(), prefix.clone());
            async move {
                let mut request = client.request(Method::GET, &["v1", "namespaces"])?;
                let prefix = (!prefix.is_empty()).then_some(("prefix", prefix));
                add_query(request.url_mut(), prefix.into_iter().chain(after.map(|after| ("after", after))));
                let page = client.call_json::<NamespacePage>(&request).await?;
                Ok((page.namespaces, page.next))
            }
        })
    }
}
