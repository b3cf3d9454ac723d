//! Durable subscribers: what they follow, what they missed, and what comes.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::stream::{BoxStream, Stream, StreamExt, unfold};
use reqwest::header::{ACCEPT, HeaderValue};
use reqwest::{Method, Request};
use serde::{Deserialize, Serialize};
use wire::{Offset, Rooms, SubscriberName};

use crate::backoff::Backoff;
use crate::client::Client;
use crate::error::Error;
use crate::event::Event;
use crate::following::Following;
use crate::http::{Repeat, add_query, set_json};
use crate::namespace::Ensured;
use crate::pages::paged;

/// A durable subscriber: the broker knows its rooms, and how far it has come. Cheap to clone; whether it exists
/// is only known once it is used.
#[derive(Clone, Debug)]
pub struct Subscriber {
    client: Client,
    name: SubscriberName,
}

/// What a broker says of a subscriber.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SubscriberState {
    /// Its name.
    pub name: String,
    /// What it follows.
    #[serde(flatten)]
    pub rooms: Rooms,
    /// When it was created, RFC 3339.
    pub began: String,
    /// Whether a connection of it is open.
    pub connected: bool,
    /// How far it has come in each namespace that its rooms are of.
    pub cursors: Vec<SubscriberCursor>,
}

/// How far a subscriber has come in a namespace.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SubscriberCursor {
    /// The namespace.
    pub namespace: String,
    /// What is for the subscriber below this offset is acked.
    pub next_offset: Offset,
    /// The namespace's next offset.
    pub head: Offset,
}

/// What a subscriber is given.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Delivered {
    /// A record, with its namespace; or that some are missing.
    pub event: Event,
    /// What acks it, and all that came before it.
    pub token: String,
}

#[derive(Deserialize)]
struct Listed {
    name: String,
}

#[derive(Deserialize)]
struct SubscriberPage {
    subscribers: Vec<Listed>,
    /// Where to go on; nothing at the end.
    next: Option<String>,
}

#[derive(Serialize)]
struct Ack<'a> {
    id: &'a str,
}

impl Client {
    /// The subscriber of this name; nothing is asked of the broker yet.
    ///
    /// # Errors
    /// Where the name is none.
    pub fn subscriber(&self, name: &str) -> Result<Subscriber, Error> {
        Ok(Subscriber { client: self.clone(), name: SubscriberName::new(name)? })
    }

    /// The names of all subscribers, in order, read page by page as the stream is polled.
    pub fn subscribers(&self) -> impl Stream<Item = Result<String, Error>> + Send + use<> {
        let client = self.clone();
        paged(move |after| {
            let client = client.clone();
            async move {
                let mut request = client.request(Method::GET, &["v1", "subscribers"])?;
                add_query(request.url_mut(), after.map(|after| ("after", after)));
                let page = client.call_json::<SubscriberPage>(&request).await?;
                Ok((page.subscribers.into_iter().map(|listed| listed.name).collect(), page.next))
            }
        })
    }
}

impl Subscriber {
    /// The subscriber's name.
    pub fn name(&self) -> &SubscriberName {
        &self.name
    }

    /// Creates the subscriber, or has the one that exists follow these rooms and no others. What is new
    /// begins at the head as of now.
    ///
    /// # Errors
    /// [`wire::Code::NamespaceNotFound`] where a namespace does not exist.
    pub async fn put(&self, rooms: &Rooms) -> Result<Ensured, Error> {
        let request = self.request(Method::PUT, &[], Some(rooms))?;
        let answer = self.client.call(&request, Repeat::Always, Duration::ZERO).await?;
        Ok(if answer.status == 201 { Ensured::Created } else { Ensured::Existed })
    }

    /// Has the subscriber follow these rooms as well, from now on; also where it is connected.
    ///
    /// # Errors
    /// [`wire::Code::SubscriberNotFound`] and [`wire::Code::NamespaceNotFound`].
    pub async fn join(&self, rooms: &Rooms) -> Result<(), Error> {
        self.post("join", rooms).await
    }

    /// Has the subscriber follow these rooms no more.
    ///
    /// # Errors
    /// As [`Subscriber::join`].
    pub async fn leave(&self, rooms: &Rooms) -> Result<(), Error> {
        self.post("leave", rooms).await
    }

    /// What the broker says of the subscriber.
    ///
    /// # Errors
    /// [`wire::Code::SubscriberNotFound`] where it does not exist.
    pub async fn state(&self) -> Result<SubscriberState, Error> {
        self.client.call_json(&self.request(Method::GET, &[], NOTHING)?).await
    }

    /// Deletes the subscriber. Repeated only where it surely had no effect: otherwise one that was made in
    /// between would be deleted as well.
    ///
    /// # Errors
    /// [`wire::Code::SubscriberNotFound`] where it does not exist.
    pub async fn delete(&self) -> Result<(), Error> {
        let request = self.request(Method::DELETE, &[], NOTHING)?;
        self.client.call(&request, Repeat::WhenSafe, Duration::ZERO).await.map(drop)
    }

    /// Acks what was delivered with this token, and all before it: durable when this returns. It is not
    /// delivered again, and a subscriber never goes back.
    ///
    /// # Errors
    /// [`wire::Code::InvalidToken`] where it is not one of this subscriber.
    pub async fn ack(&self, token: &str) -> Result<(), Error> {
        self.post("ack", &Ack { id: token }).await
    }

    /// Connects: what was missed since the last ack, then what comes. Ends an older stream of the subscriber.
    ///
    /// # Errors
    /// What the broker answers, or why there is no connection.
    pub async fn events(&self) -> Result<Deliveries, Error> {
        self.events_with(Backoff::default().forever()).await
    }

    /// The same, and says how a connection that broke is opened again.
    ///
    /// # Errors
    /// As [`Subscriber::events`].
    pub async fn events_with(&self, reconnect: Backoff) -> Result<Deliveries, Error> {
        let mut request = self.request(Method::GET, &["events"], NOTHING)?;
        request.headers_mut().insert(ACCEPT, HeaderValue::from_static("text/event-stream"));
        // Rooms come and go, and namespaces are deleted and made anew: there is no order that must hold.
        let following = Following::open(self.client.clone(), request, None, false, reconnect).await?;
        Ok(Deliveries { events: unfold(Some(following), step).boxed() })
    }

    async fn post(&self, what: &str, body: &impl Serialize) -> Result<(), Error> {
        let request = self.request(Method::POST, &[what], Some(body))?;
        self.client.call(&request, Repeat::Always, Duration::ZERO).await.map(drop)
    }

    fn request(&self, method: Method, path: &[&str], body: Option<&impl Serialize>) -> Result<Request, Error> {
        let segments = [&["v1", "subscribers", &*self.name], path].concat();
        let mut request = self.client.request(method, &segments)?;
        request.headers_mut().insert(ACCEPT, HeaderValue::from_static("application/json"));
        if let Some(body) = body {
            set_json(&mut request, body)?;
        }
        Ok(request)
    }
}

/// No body.
const NOTHING: Option<&()> = None;

/// What a subscriber is given, as it comes. Goes on by itself where a connection broke, behind the last event
/// that it gave: the broker takes that for acked. Ends only after an error: [`Error::Superseded`] where a
/// newer stream of the subscriber has taken over.
pub struct Deliveries {
    events: BoxStream<'static, Result<Delivered, Error>>,
}

impl std::fmt::Debug for Deliveries {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Deliveries").finish_non_exhaustive()
    }
}

impl Stream for Deliveries {
    type Item = Result<Delivered, Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.events.poll_next_unpin(context)
    }
}

async fn step(following: Option<Following>) -> Option<(Result<Delivered, Error>, Option<Following>)> {
    let mut following = following?;
    match following.next().await {
        Ok(event) => {
            let token = following.last_event_id().to_owned();
            Some((Ok(Delivered { event, token }), Some(following)))
        }
        Err(error) => Some((Err(error), None)),
    }
}
