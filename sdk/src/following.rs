//! An event stream that is followed over as many connections as it takes.

use std::collections::HashMap;

use bytes::{Buf, Bytes};
use reqwest::Request;
use reqwest::header::{HeaderName, HeaderValue};
use wire::Offset;
use wire::json::{RecordJson, Reset};

use crate::backoff::{Attempts, Backoff};
use crate::client::Client;
use crate::error::Error;
use crate::event::Event;
use crate::http::{ByteStream, Repeat, copy};
use crate::record::Record;
use crate::sse::{self, Parser};

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// A subscription under way.
pub(crate) struct Following {
    client: Client,
    request: Request,
    parser: Parser,
    stream: Option<ByteStream>,
    /// What has come and is not yet parsed.
    chunk: Bytes,
    /// An event that came before anyone asked for it.
    first: Option<Event>,
    attempts: Attempts,
    /// What is due, where the client can know it.
    order: Option<Order>,
}

impl Following {
    /// Connects, within the client's patience; after that `reconnect` says how a connection that broke is
    /// opened again. `tells_place`: the broker says first where the stream begins.
    pub(crate) async fn open(
        client: Client,
        request: Request,
        order: Option<Order>,
        tells_place: bool,
        reconnect: Backoff,
    ) -> Result<Following, Error> {
        let mut following = Following {
            request,
            parser: Parser::default(),
            stream: None,
            chunk: Bytes::new(),
            first: None,
            attempts: Attempts::new(client.inner.backoff),
            order,
            client,
        };
        while following.stream.is_none() || (tells_place && following.parser.last_event_id().is_empty()) {
            following.connect_or_wait().await?;
            following.first = following.parse()?;
        }
        following.attempts = Attempts::new(reconnect);
        Ok(following)
    }

    /// The id of the last event, with which another connection goes on behind it.
    pub(crate) fn last_event_id(&self) -> &str {
        self.parser.last_event_id()
    }

    /// The next event, over as many connections as it takes.
    pub(crate) async fn next(&mut self) -> Result<Event, Error> {
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
            Some(event) => {
                let event = event_of(&event)?;
                if let Some(order) = &mut self.order {
                    order.check(&event)?;
                }
                Ok(Some(event))
            }
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

/// What an event says.
fn event_of(event: &sse::Event) -> Result<Event, Error> {
    match event.name.as_str() {
        "" | "message" => {
            let json = serde_json::from_str::<RecordJson>(&event.data);
            let record = Record::of_json(json.map_err(|error| Error::Reply(format!("an event: {error}")))?)?;
            Ok(Event::Record(record))
        }
        "reset" => {
            let reset = serde_json::from_str::<Reset>(&event.data);
            Ok(Event::Reset(reset.map_err(|error| Error::Reply(format!("a reset: {error}")))?))
        }
        "superseded" => Err(Error::Superseded),
        name => Err(Error::Reply(format!("an event of the unknown name {name:?}"))),
    }
}

/// What is due of each namespace (nothing for a name: the only one), so that a gap or a repeat
/// does not pass unseen.
pub(crate) struct Order {
    filtered: bool,
    due: HashMap<Option<String>, Offset>,
}

impl Order {
    pub(crate) fn new(filtered: bool, due: Option<Offset>) -> Order {
        Order { filtered, due: due.map(|due| (None, due)).into_iter().collect() }
    }

    fn check(&mut self, event: &Event) -> Result<(), Error> {
        match event {
            Event::Record(record) => self.take(record),
            Event::Reset(reset) => self.pass(reset),
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
