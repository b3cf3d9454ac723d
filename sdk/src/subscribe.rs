//! To follow a namespace, or many, as records are appended.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures::stream::{BoxStream, Stream, StreamExt, unfold};
use reqwest::header::{ACCEPT, HeaderValue};
use reqwest::{Method, Request};
use wire::Offset;

use crate::backoff::Backoff;
use crate::client::Client;
use crate::error::Error;
use crate::event::Event;
use crate::following::{Following, Order};
use crate::http::add_query;
use crate::namespace::Namespace;

/// Where a subscription begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum StartAt {
    /// At the first record.
    Start,
    /// Behind the last record as of now.
    #[default]
    End,
    /// At this offset.
    Offset(Offset),
}

/// Settings of a [`Subscription`].
#[derive(Clone, Debug)]
pub struct Subscribe {
    client: Client,
    source: Source,
    start: StartAt,
    keys: Vec<String>,
    reconnect: Backoff,
}

#[derive(Clone, Debug)]
enum Source {
    One(Namespace),
    Many(Vec<String>),
}

impl Client {
    /// A subscription to many namespaces over one connection; each record says its namespace. It
    /// can begin at their starts or ends, not at an offset.
    pub fn subscribe<I: IntoIterator<Item: Into<String>>>(&self, namespaces: I) -> Subscribe {
        Subscribe::new(self.clone(), Source::Many(namespaces.into_iter().map(Into::into).collect()))
    }
}

impl Subscribe {
    pub(crate) fn one(namespace: Namespace) -> Subscribe {
        Subscribe::new(namespace.client().clone(), Source::One(namespace))
    }

    fn new(client: Client, source: Source) -> Subscribe {
        Subscribe { client, source, start: StartAt::End, keys: Vec::new(), reconnect: Backoff::default().forever() }
    }

    /// Where to begin; at the end if not set.
    pub fn from(self, start: StartAt) -> Subscribe {
        Subscribe { start, ..self }
    }

    /// Follow only records with this key, or one of several where this is called more than once.
    pub fn key(mut self, key: impl Into<String>) -> Subscribe {
        self.keys.push(key.into());
        self
    }

    /// How a connection that broke is opened again; as [`Backoff::default`], but without an end, if
    /// not set. The first one is the client's requests' business.
    pub fn reconnect(self, reconnect: Backoff) -> Subscribe {
        Subscribe { reconnect, ..self }
    }

    /// Connects: after this no record is missed.
    ///
    /// # Errors
    /// What the broker answers, or why there is no connection.
    pub async fn open(self) -> Result<Subscription, Error> {
        let mut start = self.start;
        if let (StartAt::End, Source::One(namespace)) = (start, &self.source) {
            // Before the first record there is nothing to resume from but the offset itself.
            start = StartAt::Offset(namespace.info().await?.next_offset);
        }
        let request = self.request(start)?;
        let due = match (start, &self.source) {
            (StartAt::Start, Source::One(_)) => Some(0),
            (StartAt::Offset(offset), _) => Some(offset),
            _ => None,
        };
        let order = Order::new(!self.keys.is_empty(), due);
        // The ends of many namespaces are known once the broker has told them, as an id.
        let tells_place = matches!((start, &self.source), (StartAt::End, Source::Many(_)));
        let following = Following::open(self.client, request, Some(order), tells_place, self.reconnect).await?;
        Ok(Subscription { events: unfold(Some(following), step).boxed() })
    }

    fn request(&self, start: StartAt) -> Result<Request, Error> {
        let start = match start {
            StartAt::Start => "start".to_owned(),
            StartAt::End => "end".to_owned(),
            StartAt::Offset(offset) => offset.to_string(),
        };
        let mut request = match &self.source {
            Source::One(namespace) => namespace.get(&["events"])?,
            Source::Many(names) => {
                let mut request = self.client.request(Method::GET, &["v1", "events"])?;
                add_query(request.url_mut(), names.iter().map(|name| ("namespace", name.clone())));
                request
            }
        };
        add_query(request.url_mut(), [("from", start)]);
        add_query(request.url_mut(), self.keys.iter().map(|key| ("key", key.clone())));
        request.headers_mut().insert(ACCEPT, HeaderValue::from_static("text/event-stream"));
        Ok(request)
    }
}

/// A stream of records as they are appended. It goes on by itself where a connection broke, behind
/// the last record that it gave, and ends only after an error. Where records were lost it says so:
/// [`Event::Reset`], also where only some keys are followed, as nobody knows whose they were.
pub struct Subscription {
    events: BoxStream<'static, Result<Event, Error>>,
}

impl std::fmt::Debug for Subscription {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Subscription").finish_non_exhaustive()
    }
}

impl Stream for Subscription {
    type Item = Result<Event, Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.events.poll_next_unpin(context)
    }
}

async fn step(following: Option<Following>) -> Option<(Result<Event, Error>, Option<Following>)> {
    let mut following = following?;
    match following.next().await {
        Ok(event) => Some((Ok(event), Some(following))),
        Err(error) => Some((Err(error), None)),
    }
}
