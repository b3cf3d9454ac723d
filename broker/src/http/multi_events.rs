//! `GET /v1/events`: follow many namespaces over one connection.

use std::collections::VecDeque;
use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, Uri};
use axum::response::Response;
use bytes::Bytes;
use consumers::rooms::Place;
use tlog::{Follower, Namespace, Reader, SharedFrame};
use wire::limits::MAX_FOLLOWED_NAMESPACES;
use wire::{NamespaceName, Offset};

use crate::http::error::Refusal;
use crate::http::event_stream::{self, End, Next, PIECE_BYTES, READ_BYTES, Source, last_event_id, not_an_id};
use crate::http::outgoing::Share;
use crate::http::query::{Begin, Known, Query};
use crate::http::{media, openapi, sse, token};
use crate::state::{Broker, Shared};

/// Follow many namespaces over one connection: `data` names each record's `namespace`, and `id` is an
/// opaque token that resumes all of them.
///
/// Each namespace comes in its own order. Where records were lost comes `event: reset`, with `namespace`,
/// `from`, `to` and `reason` in its `data`. A namespace that the token does not know begins at `from`.
/// The stream ends when one of the namespaces is deleted, or the broker stops.
#[utoipa::path(
    get,
    path = "/v1/events",
    operation_id = "followNamespaces",
    tag = "follow",
    params(
        ("namespace" = Vec<String>, Query, description = "A namespace's name; to be repeated"),
        ("from" = Option<String>, Query, description = "`start` or `end` (default)"),
        ("Last-Event-ID" = Option<String>, Header, description = "The last `id` seen"),
    ),
    responses(
        (status = 200, description = "Events, without an end", content_type = "text/event-stream", body = String),
        openapi::Problems,
    )
)]
pub(crate) async fn follow(State(broker): Shared, uri: Uri, headers: HeaderMap) -> Result<Response, Refusal> {
    let query = Query::parse(&uri, &[Known::Often("namespace"), Known::Once("from")])?;
    let begin = query.from(Begin::End)?;
    if matches!(begin, Begin::At(_)) {
        return Err(Refusal::parameter("from is an offset: many namespaces begin at start or end"));
    }
    let resume = match last_event_id(&headers)? {
        None => Vec::new(),
        Some(id) => token::decode(id).ok_or_else(|| not_an_id(id, "a token that such a stream has sent"))?,
    };
    media::negotiate(&headers, &[media::EVENTS])?;
    let namespaces = namespaces(&broker, &query)?;
    // Registered before anything is read.
    let follower = broker.log.follower(&namespaces);
    let followed = namespaces.iter().map(|namespace| Followed::new(&broker, namespace, begin, &resume));
    let followed = followed.collect::<Result<Vec<Followed>, Refusal>>()?;
    let many = Many { follower, followed, share: broker.outgoing.share(), turn: 0 };
    let place = many.token();
    Ok(event_stream::answer(&broker, many, Some(&place)))
}

/// The namespaces that a query names, in ascending order of ids.
fn namespaces(broker: &Broker, query: &Query) -> Result<Vec<Namespace>, Refusal> {
    let named = query.all("namespace").count();
    if named == 0 || named > MAX_FOLLOWED_NAMESPACES {
        let detail = format!("{named} namespaces are named, it must be 1 to {MAX_FOLLOWED_NAMESPACES}");
        return Err(Refusal::parameter(detail));
    }
    let namespace = |name: &str| broker.namespace(&NamespaceName::new(name)?);
    let mut namespaces = query.all("namespace").map(namespace).collect::<Result<Vec<_>, _>>()?;
    namespaces.sort_unstable_by_key(Namespace::id);
    namespaces.dedup();
    Ok(namespaces)
}

/// The records of many namespaces, in turns.
struct Many {
    follower: Follower,
    followed: Vec<Followed>,
    share: Share,
    /// Whose turn it is.
    turn: usize,
}

/// One of them.
struct Followed {
    /// Where the stream stands: all records below have been sent.
    place: Place,
    /// The namespace's name, as JSON.
    name: String,
    reader: Reader,
    /// What has been read and not yet sent; of the first, perhaps a part.
    frames: VecDeque<Arc<SharedFrame>>,
}

impl Followed {
    fn new(broker: &Broker, namespace: &Namespace, begin: Begin, resume: &[Place]) -> Result<Followed, Refusal> {
        let known =
            resume.iter().find(|place| (place.namespace, place.generation) == (namespace.id(), namespace.generation()));
        let next_offset: Offset = match (known, begin) {
            (Some(place), _) => place.next_offset,
            (None, Begin::End) => broker.log.head(namespace)?.next_offset,
            (None, _) => 0,
        };
        let place = Place { namespace: namespace.id(), generation: namespace.generation(), next_offset };
        let reader = broker.log.reader(namespace, next_offset)?;
        Ok(Followed { place, name: serde_json::to_string(&**namespace.name())?, reader, frames: VecDeque::new() })
    }

    /// The next event, without the token and the namespace, and moves behind it.
    fn next(&mut self) -> Option<Bytes> {
        let frame = self.frames.front()?;
        let (event, next_offset) = sse::event_at(frame, self.place.next_offset);
        self.place.next_offset = next_offset;
        if next_offset >= frame.next_offset() {
            self.frames.pop_front();
        }
        Some(event)
    }
}

impl Source for Many {
    async fn next(&mut self) -> Result<Next, End> {
        // The namespace that was read from last goes on while it has frames in hand, then the next
        // ones are asked: each gets a read of its own before any gets a second.
        for _ in 0..=self.followed.len() {
            let turn = self.turn;
            let followed = &mut self.followed[turn];
            if followed.frames.is_empty() {
                followed.frames = self.share.read(&mut followed.reader, READ_BYTES).await?.into();
            }
            if !followed.frames.is_empty() {
                let text = self.piece();
                if self.followed[turn].frames.is_empty() {
                    self.turn = (turn + 1) % self.followed.len();
                }
                return Ok(Next::Events(text.into()));
            }
            self.turn = (turn + 1) % self.followed.len();
        }
        Ok(Next::AtHead)
    }

    async fn changed(&mut self) -> Result<(), End> {
        self.follower.changed().await;
        Ok(())
    }

    async fn place(&mut self) -> Result<String, End> {
        Ok(self.token())
    }
}

impl Many {
    fn token(&self) -> String {
        token::encode(self.followed.iter().map(|followed| followed.place))
    }

    /// The next events of the namespace whose turn it is.
    fn piece(&mut self) -> Vec<u8> {
        let mut text = Vec::new();
        while text.len() < PIECE_BYTES {
            let Some(event) = self.followed[self.turn].next() else { break };
            let token = self.token();
            sse::push_event_of(&mut text, &event, &token, &self.followed[self.turn].name);
        }
        text
    }
}
