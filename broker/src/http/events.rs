//! `GET /v1/namespaces/{ns}/events`: follow a namespace.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, Uri};
use axum::response::Response;
use bytes::Bytes;
use tlog::{Follower, Namespace, Reader, SharedFrame};
use wire::Offset;
use wire::limits::MAX_FOLLOWED_KEYS;
use wire::name::check_key;

use crate::http::delivery::Delivery;
use crate::http::error::Refusal;
use crate::http::event_stream::{self, End, Next, PIECE_BYTES, READ_BYTES, Source, last_event_id, not_an_id};
use crate::http::outgoing::Share;
use crate::http::query::{self, Begin, Known, Query};
use crate::http::{media, openapi, path, sse};
use crate::state::Shared;

/// Follow a namespace as Server-Sent Events, one a record: `id` is its offset, `data` its JSON.
///
/// A reconnect with `Last-Event-ID: N` goes on at N+1, as a browser's `EventSource` does by itself.
/// Where records were lost comes `event: reset`, whatever `key` says: `data` is
/// `{"from":F,"to":T,"reason":"lost"}`, `id` the last of those offsets; then records go on at T.
/// A comment comes every 15 s where there is nothing else. The stream ends when the namespace is
/// deleted, or the broker stops.
#[utoipa::path(
    get,
    path = "/v1/namespaces/{ns}/events",
    operation_id = "followNamespace",
    tag = "follow",
    params(
        openapi::Ns,
        ("from" = Option<String>, Query, description = "An offset, `start` or `end` (default)"),
        ("key" = Option<Vec<String>>, Query, description = "Only records with one of these keys; may be repeated"),
        ("Last-Event-ID" = Option<String>, Header, description = "The last `id` seen; beats `from`"),
    ),
    responses(
        (status = 200, description = "Events, without an end", content_type = "text/event-stream", body = String),
        openapi::Problems,
    )
)]
pub(crate) async fn follow(State(broker): Shared, uri: Uri, headers: HeaderMap) -> Result<Response, Refusal> {
    let name = path::namespace(&uri)?;
    let query = Query::parse(&uri, &[Known::Once("from"), Known::Often("key")])?;
    let begin = query.from(Begin::End)?;
    let begin = last_event_id(&headers)?.map(after).transpose()?.unwrap_or(begin);
    let keys = keys(&query)?;
    media::negotiate(&headers, &[media::EVENTS])?;
    let namespace = broker.namespace(&name)?;
    let cursor = match begin {
        Begin::Start => 0,
        Begin::End => broker.log.head(&namespace)?.next_offset,
        Begin::At(offset) => offset,
    };
    let place = (begin == Begin::End).then(|| id_before(cursor));
    if let Some(keys) = keys {
        let connection = broker.rooms.follow_keys(&namespace, keys, cursor)?;
        let delivery = Delivery::new(broker.log.clone(), connection, broker.outgoing.share());
        return Ok(event_stream::answer(&broker, Keyed { namespace, delivery }, place.as_deref()));
    }
    // Registered before anything is read.
    let follower = broker.log.follower(std::slice::from_ref(&namespace));
    let (reader, share) = (broker.log.reader(&namespace, cursor)?, broker.outgoing.share());
    Ok(event_stream::answer(
        &broker,
        Records { follower, reader, share, cursor, frames: Vec::new().into_iter() },
        place.as_deref(),
    ))
}

/// Where to go on after the record of this id. -1 stands before the first record.
fn after(id: &str) -> Result<Begin, Refusal> {
    let next = if id == "-1" { Some(0) } else { query::offset(id).map(|offset| offset + 1) };
    next.map(Begin::At).ok_or_else(|| not_an_id(id, "an offset"))
}

/// The keys to follow; all where there are none.
fn keys(query: &Query) -> Result<Option<Vec<String>>, Refusal> {
    let mut keys = Vec::new();
    for key in query.all("key") {
        check_key(key)?;
        keys.push(key.to_owned());
    }
    keys.sort_unstable();
    keys.dedup();
    if keys.len() > MAX_FOLLOWED_KEYS {
        return Err(Refusal::parameter(format!("{} keys, the limit is {MAX_FOLLOWED_KEYS}", keys.len())));
    }
    Ok((!keys.is_empty()).then_some(keys))
}

/// The records of one namespace.
struct Records {
    follower: Follower,
    reader: Reader,
    share: Share,
    /// All records below have been sent, or are not for this stream.
    cursor: Offset,
    /// What has been read and not yet sent.
    frames: std::vec::IntoIter<Arc<SharedFrame>>,
}

impl Source for Records {
    async fn next(&mut self) -> Result<Next, End> {
        if self.frames.len() == 0 {
            self.frames = self.share.read(&mut self.reader, READ_BYTES).await?.into_iter();
            if self.frames.len() == 0 {
                return Ok(Next::AtHead);
            }
        }
        Ok(Next::Events(self.piece()))
    }

    async fn changed(&mut self) -> Result<(), End> {
        self.follower.changed().await;
        Ok(())
    }

    async fn place(&mut self) -> Result<String, End> {
        Ok(id_before(self.cursor))
    }
}

/// The id to resume at an offset.
fn id_before(cursor: Offset) -> String {
    cursor.checked_sub(1).map_or("-1".to_owned(), |last| last.to_string())
}

impl Records {
    /// The text of the next frames. That of a frame which goes alone is not copied: all who follow
    /// share it.
    fn piece(&mut self) -> Bytes {
        let mut gathered = Vec::new();
        while gathered.len() < PIECE_BYTES {
            let Some(frame) = self.frames.next() else { break };
            let from = std::mem::replace(&mut self.cursor, frame.next_offset());
            let text = sse::events_from(&frame, from);
            if gathered.is_empty() && (text.len() >= PIECE_BYTES || self.frames.len() == 0) {
                return text;
            }
            gathered.extend_from_slice(&text);
        }
        gathered.into()
    }
}

/// The records of some keys of one namespace.
struct Keyed {
    namespace: Namespace,
    delivery: Delivery,
}

impl Source for Keyed {
    async fn next(&mut self) -> Result<Next, End> {
        self.delivery.gather(|text, _, event| text.extend_from_slice(event)).await
    }

    async fn changed(&mut self) -> Result<(), End> {
        self.delivery.changed().await
    }

    async fn place(&mut self) -> Result<String, End> {
        Ok(id_before(self.delivery.settled().await?.offset(&self.namespace)))
    }
}
