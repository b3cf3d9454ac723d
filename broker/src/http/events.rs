//! `GET /v1/namespaces/{ns}/events`: follow a namespace.

use std::collections::HashSet;
use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, Uri};
use axum::response::Response;
use bytes::Bytes;
use tlog::{ReadError, Reader, SharedFrame};
use wire::Offset;
use wire::limits::MAX_FOLLOWED_KEYS;
use wire::name::check_key;

use crate::http::error::Refusal;
use crate::http::event_stream::{self, Next, PIECE_BYTES, READ_BYTES, Source, last_event_id, not_an_id};
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
    event_stream::answer(&broker, std::slice::from_ref(&namespace), || {
        let cursor = match begin {
            Begin::Start => 0,
            Begin::End => broker.log.head(&namespace)?.next_offset,
            Begin::At(offset) => offset,
        };
        let reader = broker.log.reader(&namespace, cursor)?;
        let share = broker.outgoing.share();
        Ok((Records { reader, share, cursor, keys, frames: Vec::new().into_iter() }, begin == Begin::End))
    })
}

/// Where to go on after the record of this id. -1 stands before the first record.
fn after(id: &str) -> Result<Begin, Refusal> {
    let next = if id == "-1" { Some(0) } else { query::offset(id).map(|offset| offset + 1) };
    next.map(Begin::At).ok_or_else(|| not_an_id(id, "an offset"))
}

fn keys(query: &Query) -> Result<Option<HashSet<String>>, Refusal> {
    let mut keys = HashSet::new();
    for key in query.all("key") {
        check_key(key)?;
        keys.insert(key.to_owned());
    }
    if keys.len() > MAX_FOLLOWED_KEYS {
        return Err(Refusal::parameter(format!("{} keys, the limit is {MAX_FOLLOWED_KEYS}", keys.len())));
    }
    Ok((!keys.is_empty()).then_some(keys))
}

/// The records of one namespace.
struct Records {
    reader: Reader,
    share: Share,
    /// All records below have been sent, or are not for this stream.
    cursor: Offset,
    /// The keys whose records are sent; all where there are none.
    keys: Option<HashSet<String>>,
    /// What has been read and not yet sent.
    frames: std::vec::IntoIter<Arc<SharedFrame>>,
}

impl Source for Records {
    async fn next(&mut self) -> Result<Next, ReadError> {
        if self.frames.len() == 0 {
            self.frames = self.share.read(&mut self.reader, READ_BYTES).await?.into_iter();
            if self.frames.len() == 0 {
                return Ok(Next::AtHead);
            }
        }
        let text = self.piece();
        Ok(if text.is_empty() { Next::Others } else { Next::Events(text) })
    }

    fn place(&self) -> Option<String> {
        Some(self.cursor.checked_sub(1).map_or("-1".to_owned(), |last| last.to_string()))
    }
}

impl Records {
    /// The text of the next frames. That of a frame which goes alone is not copied: all who follow
    /// share it.
    fn piece(&mut self) -> Bytes {
        let mut gathered = Vec::new();
        while gathered.len() < PIECE_BYTES {
            let Some(frame) = self.frames.next() else { break };
            let from = std::mem::replace(&mut self.cursor, frame.next_offset());
            match &self.keys {
                Some(keys) => push_matching(&mut gathered, &frame, from, keys),
                None => {
                    let text = sse::events_from(&frame, from);
                    if gathered.is_empty() && (text.len() >= PIECE_BYTES || self.frames.len() == 0) {
                        return text;
                    }
                    gathered.extend_from_slice(&text);
                }
            }
        }
        gathered.into()
    }
}

fn push_matching(out: &mut Vec<u8>, frame: &SharedFrame, from: Offset, keys: &HashSet<String>) {
    if frame.is_loss() {
        // Whose records they were nobody knows: perhaps those of these keys.
        out.extend_from_slice(&sse::events_from(frame, from));
        return;
    }
    let matches = |key: Option<&str>| key.is_some_and(|key| keys.contains(key));
    if !frame.records().any(|record| matches(record.key)) {
        return;
    }
    let text = frame.text(sse::frame_text);
    let mut begin = 0;
    for (record, end) in frame.records().zip(text.ends.iter().map(|end| *end as usize)) {
        if record.offset >= from && matches(record.key) {
            out.extend_from_slice(&text.bytes[begin..end]);
        }
        begin = end;
    }
}
