//! Requests and answers: addresses, errors, repetition, bounds.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};
use reqwest::{Method, Request, Response, Url};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use wire::limits::MAX_PAGE_BYTES;
use wire::{Problem, Retry};

use crate::backoff::Attempts;
use crate::client::Client;
use crate::error::Error;

/// Largest answer that is read as a whole: a full page, spelled as JSON at its worst.
const MAX_ANSWER_BYTES: usize = 8 * MAX_PAGE_BYTES;

/// How much of an answer that makes no sense is shown.
const SHOWN_BYTES: usize = 200;

/// Which failures a request is repeated after.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Repeat {
    /// It may take effect twice without harm.
    Always,
    /// Only where it surely took no effect.
    WhenSafe,
}

impl Repeat {
    pub(crate) fn allows(self, error: &Error) -> bool {
        match error.retry() {
            Retry::Safe => true,
            Retry::Unknown => self == Repeat::Always,
            Retry::Never => false,
        }
    }
}

impl Client {
    /// A request for the address that these path segments make; each is percent-encoded.
    pub(crate) fn request(&self, method: Method, path: &[&str]) -> Result<Request, Error> {
        let mut url = self.inner.base.clone();
        if let Some(dots) = path.iter().find(|segment| matches!(**segment, "." | "..")) {
            return Err(Error::NotAddressable((*dots).to_owned()));
        }
        url.path_segments_mut()
            .map_err(|()| Error::Address { url: self.url().to_owned(), reason: "it has no path".into() })?
            .pop_if_empty()
            .extend(path);
        Ok(Request::new(method, url))
    }

    /// Sends once; an answer that is an error becomes one. The whole answer, body included, must
    /// come within `timeout`, where there is one.
    async fn attempt(&self, mut request: Request, timeout: Option<Duration>) -> Result<Response, Error> {
        *request.timeout_mut() = timeout;
        let response = self.inner.http.execute(request).await.map_err(|error| self.failed(&error, timeout))?;
        if response.status().is_success() { Ok(response) } else { Err(self.refusal(response).await) }
    }

    /// Sends, and repeats where the kind of request and the failure allow it, until there is a
    /// whole answer. `more` is added to the time that a request may take.
    pub(crate) async fn call(&self, request: &Request, repeat: Repeat, more: Duration) -> Result<Answer, Error> {
        let timeout = self.inner.timeout.saturating_add(more);
        let mut attempts = Attempts::new(self.inner.backoff);
        loop {
            let error = match self.call_once(request, timeout).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            let wait = if repeat.allows(&error) { attempts.failed(&error) } else { None };
            let Some(wait) = wait else { return Err(error) };
            tracing::debug!(url = %request.url(), %error, ?wait, "trying again");
            tokio::time::sleep(wait).await;
        }
    }

    /// [`Client::call`] for a request that may be repeated, with an answer in JSON.
    pub(crate) async fn call_json<T: DeserializeOwned>(&self, request: &Request) -> Result<T, Error> {
        self.call(request, Repeat::Always, Duration::ZERO).await?.json()
    }

    async fn call_once(&self, request: &Request, timeout: Duration) -> Result<Answer, Error> {
        self.answer(copy(request)?, timeout).await
    }

    /// Sends once, and reads the whole answer.
    pub(crate) async fn answer(&self, request: Request, timeout: Duration) -> Result<Answer, Error> {
        let response = self.attempt(request, Some(timeout)).await?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let body = self.body(response, timeout).await?;
        Ok(Answer { status, headers, body })
    }

    async fn body(&self, mut response: Response, timeout: Duration) -> Result<Bytes, Error> {
        let mut body = BytesMut::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| self.failed(&error, Some(timeout)))? {
            if body.len() + chunk.len() > MAX_ANSWER_BYTES {
                return Err(Error::Reply(format!("it is over {MAX_ANSWER_BYTES} bytes")));
            }
            if body.is_empty() && response.content_length() == Some(chunk.len() as u64) {
                return Ok(chunk);
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body.freeze())
    }

    fn failed(&self, error: &reqwest::Error, timeout: Option<Duration>) -> Error {
        Error::from_request(error, self.url(), timeout.unwrap_or(self.inner.timeout))
    }

    /// Opens a stream: its headers must come within the client's timeout, and then something
    /// within each idle timeout.
    pub(crate) async fn open(&self, request: Request) -> Result<ByteStream, Error> {
        let timeout = self.inner.timeout;
        let opened = tokio::time::timeout(timeout, self.attempt(request, None)).await;
        let response = opened.map_err(|_| Error::Timeout(timeout))??;
        Ok(ByteStream { client: self.clone(), response })
    }

    async fn refusal(&self, response: Response) -> Error {
        let status = response.status().as_u16();
        let retry_after = retry_after(response.headers());
        let is_problem = media_type(response.headers()) == Some("application/problem+json");
        let body = match self.body(response, self.inner.timeout).await {
            Ok(body) => body,
            Err(error) => return error,
        };
        match serde_json::from_slice::<Problem>(&body) {
            Ok(problem) if is_problem => Error::Problem { problem: Box::new(problem), retry_after },
            _ => Error::Status { status, body: shown(&body) },
        }
    }
}

/// A whole answer, its status a success.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn json<T: DeserializeOwned>(&self) -> Result<T, Error> {
        self.json_of()
    }

    /// The answer's JSON, which may borrow from it.
    pub(crate) fn json_of<'a, T: Deserialize<'a>>(&'a self) -> Result<T, Error> {
        serde_json::from_slice(&self.body).map_err(|error| Error::Reply(format!("{error}, in {}", shown(&self.body))))
    }
}

/// The body of an answer that has no end to wait for.
#[derive(Debug)]
pub(crate) struct ByteStream {
    client: Client,
    response: Response,
}

impl ByteStream {
    /// The next bytes, or nothing at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        let idle = self.client.inner.idle_timeout;
        match tokio::time::timeout(idle, self.response.chunk()).await {
            Ok(chunk) => chunk.map_err(|error| self.client.failed(&error, Some(idle))),
            Err(_) => Err(Error::Timeout(idle)),
        }
    }
}

/// A request to be sent, while the original is kept to be sent again.
pub(crate) fn copy(request: &Request) -> Result<Request, Error> {
    // Only a body that is a stream can't be copied, and no request that comes here has one.
    request.try_clone().ok_or_else(|| Error::Broken("the request can't be repeated".into()))
}

/// Gives a request a body in JSON.
pub(crate) fn set_json(request: &mut Request, body: &impl Serialize) -> Result<(), Error> {
    let body = serde_json::to_vec(body).map_err(|error| Error::Reply(error.to_string()))?;
    request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    *request.body_mut() = Some(body.into());
    Ok(())
}

/// Adds parameters to a request's address.
pub(crate) fn add_query<'a>(url: &mut Url, pairs: impl IntoIterator<Item = (&'a str, String)>) {
    let mut pairs = pairs.into_iter().peekable();
    if pairs.peek().is_some() {
        url.query_pairs_mut().extend_pairs(pairs);
    }
}

/// The media type of an answer, without its parameters.
pub(crate) fn media_type(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(CONTENT_TYPE)?.to_str().ok()?;
    Some(value.split(';').next().unwrap_or(value).trim())
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// The beginning of a body as one line.
fn shown(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(&body[..body.len().min(SHOWN_BYTES)]);
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
