//! A connection to a broker, and the calls that are of no one namespace.

use std::sync::Arc;
use std::time::Duration;

use reqwest::Url;

use crate::backoff::Backoff;
use crate::error::Error;
use crate::namespace::Namespace;

/// How long one request may take.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);

/// The broker sends a heartbeat every 15 s: three missing ones are a dead connection.
const DEFAULT_IDLE_TIMEOUT: Duration = Duration::from_secs(45);

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Below the time after which the broker closes a connection that idles, so that none is taken up
/// again at the moment it goes.
const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// A client of one broker. Cheap to clone; clones share connections.
#[derive(Clone, Debug)]
pub struct Client {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) http: reqwest::Client,
    pub(crate) base: Url,
    pub(crate) timeout: Duration,
    pub(crate) idle_timeout: Duration,
    pub(crate) backoff: Backoff,
}

impl Client {
    /// A client of the broker at `url`, such as `http://127.0.0.1:7256`. Connects when it is used.
    ///
    /// # Errors
    /// [`Error::Address`] where `url` is not an `http` address.
    pub fn new(url: &str) -> Result<Client, Error> {
        Client::builder(url).build()
    }

    /// A client whose patience is set by the caller.
    pub fn builder(url: &str) -> ClientBuilder {
        ClientBuilder {
            url: url.to_owned(),
            timeout: DEFAULT_TIMEOUT,
            idle_timeout: DEFAULT_IDLE_TIMEOUT,
            backoff: Backoff::default(),
        }
    }

    /// The namespace of this name; nothing is asked of the broker yet.
    ///
    /// # Errors
    /// Where the name is none, or none that a URL can carry.
    pub fn namespace(&self, name: &str) -> Result<Namespace, Error> {
        Namespace::new(self.clone(), name)
    }

    /// The broker's address.
    pub fn url(&self) -> &str {
        self.inner.base.as_str()
    }
}

/// Settings of a [`Client`].
#[derive(Clone, Debug)]
pub struct ClientBuilder {
    url: String,
    timeout: Duration,
    idle_timeout: Duration,
    backoff: Backoff,
}

impl ClientBuilder {
    /// How long one request may take, its answer included; 30 s if not set. Streams may take
    /// longer, see [`ClientBuilder::idle_timeout`].
    pub fn timeout(self, timeout: Duration) -> ClientBuilder {
        ClientBuilder { timeout, ..self }
    }

    /// How long a stream may be silent before it is taken for dead and opened again; 45 s if not
    /// set. The broker's heartbeat comes every 15 s.
    pub fn idle_timeout(self, idle_timeout: Duration) -> ClientBuilder {
        ClientBuilder { idle_timeout, ..self }
    }

    /// How failed requests are repeated, where a repetition is safe.
    pub fn backoff(self, backoff: Backoff) -> ClientBuilder {
        ClientBuilder { backoff, ..self }
    }

    /// The client.
    ///
    /// # Errors
    /// [`Error::Address`] where the URL is not an `http` address.
    pub fn build(self) -> Result<Client, Error> {
        let ClientBuilder { url, timeout, idle_timeout, backoff } = self;
        let address = |reason: String| Error::Address { url: url.clone(), reason };
        let base = Url::parse(&url).map_err(|error| address(error.to_string()))?;
        if base.scheme() != "http" {
            return Err(address("it must begin with http://".into()));
        }
        if base.query().is_some() || base.fragment().is_some() {
            return Err(address("it must have neither query nor fragment".into()));
        }
        // A broker is spoken to directly: what the environment says of proxies is for the web.
        let http = reqwest::Client::builder()
            .no_proxy()
            .connect_timeout(CONNECT_TIMEOUT.min(timeout))
            .pool_idle_timeout(POOL_IDLE_TIMEOUT)
            .tcp_nodelay(true)
            .build()
            .map_err(|error| address(error.to_string()))?;
        Ok(Client { inner: Arc::new(Inner { http, base, timeout, idle_timeout, backoff }) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_checked_before_it_is_used() {
        for url in ["", "127.0.0.1:7256", "https://127.0.0.1", "http://", "http://a/?x=1", "file:///tmp"] {
            assert!(matches!(Client::new(url), Err(Error::Address { .. })), "{url}");
        }
        assert!(Client::new("http://127.0.0.1:7256").is_ok());
        assert!(Client::new("http://broker/behind/a/path/").is_ok());
    }
}
