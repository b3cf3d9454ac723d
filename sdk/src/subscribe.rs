//! To follow a namespace, or many, as records are appended.

use std::collections::HashMap;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use futures::stream::{BoxStream, Stream, StreamExt, unfold};
use reqwest::header::{ACCEPT, HeaderName, HeaderValue};
use reqwest::{Method, Request};
use wire::Offset;
use wire::json::{RecordJson, Reset};

use crate::backoff::{Attempts, Backoff};
use crate::client::Client;
use crate::error::Error;
use crate::event::Event;
use crate::http::{ByteStream, Repeat, add_query, copy};
use crate::namespace::Namespace;
use crate::record::Record;
use crate::sse::{self, Parser};

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

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
        let mut following = Following {
            request,
            parser: Parser::default(),
            stream: None,
            chunk: Bytes::new(),
            first: None,
            attempts: Attempts::new(self.client.inner.backoff),
            order: Order { filtered: !self.keys.is_empty(), due: due.map(|due| (None, due)).into_iter().collect() },
            client: self.client,
        };
        // The ends of many namespaces are known once the broker has told them, as an id.
        let tells_place = matches!((start, &self.source), (StartAt::End, Source::Many(_)));
        while following.stream.is_none() || (tells_place && following.parser.last_event_id().is_empty()) {
            following.connect_or_wait().await?;
            following.first = following.parse()?;
        }
        following.attempts = Attempts::new(self.reconnect);
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

/// A subscription under way.
struct Following {
    client: Client,
    request: Request,
    parser: Parser,
    stream: Option<ByteStream>,
    /// What has come and is not yet parsed.
    chunk: Bytes,
    /// An event that came before anyone asked for it.
    first: Option<Event>,
    attempts: Attempts,
    order: Order,
}

impl Following {
    async fn next(&mut self) -> Result<Event, Error> {
        if let Some(event) = self.first.take() {
            return Ok(event);
        }
        loop {
            if let Some(event) = self.parse()? {
                return Ok(event);
            }
            self.connect_or_wait().await?;
        }
    }

    fn parse(&mut self) -> Result<Option<Event>, Error> {
        let mut rest = &self.chunk[..];
        let event = self.parser.next(&mut rest).map_err(|error| Error::Reply(error.to_string()))?;
        let taken = self.chunk.len() - rest.len();
        self.chunk.advance(taken);
        match event {
            Some(event) => self.order.check(&event).map(Some),
            None => Ok(None),
        }
    }

    /// Reads more; where there is no connection, opens one; where that fails, and may work later,
    /// waits.
    async fn connect_or_wait(&mut self) -> Result<(), Error> {
        let Err(error) = self.read().await else { return Ok(()) };
        self.stream = None;
        let wait = if Repeat::Always.allows(&error) { self.attempts.failed(&error) } else { None };
        let Some(wait) = wait else { return Err(error) };
        tracing::debug!(url = %self.request.url(), %error, ?wait, "the subscription broke off, going on");
        tokio::time::sleep(wait).await;
        Ok(())
    }

    async fn read(&mut self) -> Result<(), Error> {
        let Some(stream) = &mut self.stream else {
            self.stream = Some(self.connect().await?);
            return Ok(());
        };
        self.chunk = stream.next().await?.ok_or_else(|| Error::Broken("the broker ended the stream".into()))?;
        self.attempts.succeeded();
        Ok(())
    }

    async fn connect(&mut self) -> Result<ByteStream, Error> {
        let last = self.parser.last_event_id().to_owned();
        let mut request = copy(&self.request)?;
        if !last.is_empty() {
            let id = HeaderValue::from_str(&last).map_err(|error| Error::Reply(format!("an event's id: {error}")))?;
            request.headers_mut().insert(LAST_EVENT_ID, id);
        }
        self.parser = Parser::after(last);
        self.client.open(request).await
    }
}

/// What is due of each namespace (nothing for a name: the only one), so that a gap or a repeat
/// does not pass unseen.
struct Order {
    filtered: bool,
    due: HashMap<Option<String>, Offset>,
}

impl Order {
    fn check(&mut self, event: &sse::Event) -> Result<Event, Error> {
        match event.name.as_str() {
            "" | "message" => {
                let json = serde_json::from_str::<RecordJson>(&event.data);
                let record = Record::of_json(json.map_err(|error| Error::Reply(format!("an event: {error}")))?)?;
                self.take(&record)?;
                Ok(Event::Record(record))
            }
            "reset" => {
                let reset = serde_json::from_str::<Reset>(&event.data);
                let reset = reset.map_err(|error| Error::Reply(format!("a reset: {error}")))?;
                self.pass(&reset)?;
                Ok(Event::Reset(reset))
            }
            name => Err(Error::Reply(format!("an event of the unknown name {name:?}"))),
        }
    }

    /// Goes past what was lost. It may begin before what is due, as frames come whole.
    fn pass(&mut self, reset: &Reset) -> Result<(), Error> {
        let (from, to) = (reset.lost.from, reset.lost.to);
        let due = self.due.insert(reset.namespace.clone(), to).unwrap_or(from);
        let is_gap = from > due && !self.filtered;
        if is_gap || to <= due {
            return Err(Error::OffsetGap { expected: due, found: from });
        }
        Ok(())
    }

    fn take(&mut self, record: &Record) -> Result<(), Error> {
        let (found, next) = (record.offset, record.offset + 1);
        let Some(due) = self.due.get_mut(&record.namespace) else {
            self.due.insert(record.namespace.clone(), next);
            return Ok(());
        };
        if found < *due || (found > *due && !self.filtered) {
            return Err(Error::OffsetGap { expected: *due, found });
        }
        *due = next;
        Ok(())
    }
}
