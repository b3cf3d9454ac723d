//! What parses requests and writes events, for the fuzzers. No part of the interface.

use axum::http::{HeaderMap, HeaderValue, Uri};
use bytes::Bytes;
use consumers::rooms::Place;
use tlog::FrameText;
use wire::{Code, Draft, DraftBuilder, Frame, NamespaceId, NamespaceName};

use crate::http::error::Refusal;
use crate::http::query::{Known, Query};
use crate::http::{batch, event_stream, lines, path, sse, token};

/// A refusal's code; none stands for one that the interface does not have.
pub type Refused = Option<Code>;

#[expect(clippy::needless_pass_by_value, reason = "it is what map_err gives")]
fn code(refusal: Refusal) -> Refused {
    refusal.code()
}

/// The draft that a body of JSON spells.
pub fn json(body: &[u8]) -> Result<Draft, Refused> {
    batch::json(body).map_err(code)
}

/// Adds the record that a line spells.
pub fn push_record(line: &[u8], limit: usize, builder: &mut DraftBuilder) -> Result<(), Refused> {
    batch::push_record(line, limit, builder).map_err(code)
}

/// The lines of a body that comes in pieces; nothing where one is too long.
pub fn lines(pieces: impl Iterator<Item = Bytes>) -> Option<Vec<Bytes>> {
    let (mut lines, mut found) = (lines::Lines::default(), Vec::new());
    for piece in pieces {
        lines.push(piece);
        while let Some(line) = lines.next().ok()? {
            found.push(line);
        }
    }
    found.push(lines.rest());
    Some(found)
}

/// The namespace in a path.
pub fn namespace(uri: &Uri) -> Result<NamespaceName, Refused> {
    path::namespace(uri).map_err(code)
}

/// The key in a path.
pub fn key(uri: &Uri) -> Result<String, Refused> {
    path::key(uri).map_err(code)
}

/// The values of the parameter `key` in a query that may have it often, and `from` once.
pub fn keys(uri: &Uri) -> Result<Vec<String>, Refused> {
    let query = Query::parse(uri, &[Known::Often("key"), Known::Once("from")]).map_err(code)?;
    Ok(query.all("key").map(str::to_owned).collect())
}

/// The places of a resume token, as the token that they make.
pub fn token(token: &str) -> Option<String> {
    token::decode(token).map(|places| token::encode(places.into_iter()))
}

/// The resume token of a place.
pub fn token_of(namespace: NamespaceId, generation: u32, next_offset: u64) -> String {
    token::encode([Place { namespace, generation, next_offset }].into_iter())
}

/// The same of the token of a subscriber.
pub fn subscribers_token(subscriber: &str, token: &str) -> Option<String> {
    token::decode_of(subscriber, token).map(|places| token::encode_of(subscriber, places.into_iter()))
}

/// The `Last-Event-ID` of a request; nothing where there is none.
pub fn last_event_id(value: HeaderValue) -> Result<Option<String>, Refused> {
    let headers = HeaderMap::from_iter([(event_stream::LAST_EVENT_ID, value)]);
    event_stream::last_event_id(&headers).map(|id| id.map(str::to_owned)).map_err(code)
}

/// What an event stream begins with.
pub fn opening(id: Option<&str>) -> Bytes {
    sse::opening(id)
}

/// What an event stream says when it has nothing to say.
pub fn heartbeat(id: &str) -> Bytes {
    sse::heartbeat(id)
}

/// The events of a frame.
pub fn events(frame: &Frame) -> FrameText {
    sse::frame_text(frame)
}

/// The event of one record in a stream of many namespaces.
pub fn event_of(event: &[u8], id: &str, namespace: &str) -> Vec<u8> {
    let mut out = Vec::new();
    sse::push_event_of(&mut out, event, id, namespace);
    out
}
