//! An event stream from its opening to its end, whatever its records come from.
//!
//! Nothing is made before the connection asks for it, so a client that reads nothing holds one
//! piece, one read and a registration, and nothing else (invariant 9). Its follower is registered
//! before its source first reads, so no append falls between.

use std::fmt::Display;
use std::future::Future;
use std::io;
use std::sync::Arc;

use axum::body::Body;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::Response;
use bytes::Bytes;
use futures::stream;
use tlog::{Follower, Namespace, ReadError};
use tokio::time::{Interval, MissedTickBehavior, interval_at};

use crate::http::error::Refusal;
use crate::http::{media, sse};
use crate::state::Broker;
use crate::telemetry::Open;

/// What a browser sends when it connects again: the last `id:` that it saw.
pub(crate) const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// Tells a proxy to pass events on as they come.
pub(crate) const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// A piece is closed once it has this many bytes of text.
pub(crate) const PIECE_BYTES: usize = 64 << 10;

/// How much is read at once, bytes of frames.
pub(crate) const READ_BYTES: usize = 256 << 10;

/// What a source comes up with.
pub(crate) enum Next {
    /// Events.
    Events(Bytes),
    /// Records that are not for this stream; there may be more behind them.
    Others,
    /// It is at the head.
    AtHead,
}

/// Where a stream's events come from.
pub(crate) trait Source: Send + 'static {
    /// The next events.
    fn next(&mut self) -> impl Future<Output = Result<Next, ReadError>> + Send;

    /// Where it stands, as the `id` to resume at; nothing where that needs none.
    fn place(&self) -> Option<String>;
}

/// The last event's id, as the request names it. An empty one is none.
pub(crate) fn last_event_id(headers: &HeaderMap) -> Result<Option<&str>, Refusal> {
    let Some(value) = headers.get(LAST_EVENT_ID) else { return Ok(None) };
    let refusal = |_| Refusal::parameter(format!("Last-Event-ID is {value:?}, which this stream has not sent"));
    value.to_str().map(|id| Some(id).filter(|id| !id.is_empty())).map_err(refusal)
}

/// That a `Last-Event-ID` is not one.
pub(crate) fn not_an_id(id: &str, must_be: impl Display) -> Refusal {
    Refusal::parameter(format!("Last-Event-ID is {id:?}, it must be {must_be}"))
}

/// Registers a follower, and then answers with the events of the source that `open` makes.
///
/// `resumable`: the opening tells where the stream begins, so that a client which is cut off before
/// its first record misses none.
pub(crate) fn answer<S: Source>(
    broker: &Arc<Broker>,
    namespaces: &[Namespace],
    open: impl FnOnce() -> Result<(S, bool), Refusal>,
) -> Result<Response, Refusal> {
    let follower = broker.log.follower(namespaces);
    let (source, tell_place) = open()?;
    let place = if tell_place { source.place() } else { None };
    let opening = Some(sse::opening(place.as_deref()));
    let period = broker.timeouts.heartbeat;
    let mut heartbeat = interval_at(tokio::time::Instant::now() + period, period);
    heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let events =
        EventStream { source, broker: Arc::clone(broker), follower, heartbeat, opening, _open: Open::subscriber() };
    let events = stream::unfold(events, |mut events| async { events.next().await.map(|piece| (piece, events)) });
    let mut response = Response::new(Body::from_stream(events));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(media::EVENTS));
    headers.insert(X_ACCEL_BUFFERING, HeaderValue::from_static("no"));
    Ok(response)
}

struct EventStream<S> {
    source: S,
    broker: Arc<Broker>,
    follower: Follower,
    heartbeat: Interval,
    opening: Option<Bytes>,
    _open: Open,
}

impl<S: Source> EventStream<S> {
    /// The next piece of text. The stream ends where the broker stops, and where a namespace is
    /// deleted; it breaks off where the log can't be read.
    async fn next(&mut self) -> Option<io::Result<Bytes>> {
        if let Some(opening) = self.opening.take() {
            return Some(Ok(opening));
        }
        loop {
            if self.broker.closing.is_cancelled() {
                return None;
            }
            match self.source.next().await {
                Ok(Next::Events(text)) => {
                    self.heartbeat.reset();
                    return Some(Ok(text));
                }
                Ok(Next::Others) => tokio::select! {
                    biased;
                    _ = self.heartbeat.tick() => return Some(Ok(self.beat())),
                    () = tokio::task::yield_now() => {}
                },
                Ok(Next::AtHead) => tokio::select! {
                    biased;
                    () = self.broker.closing.cancelled() => return None,
                    () = self.follower.changed() => {}
                    _ = self.heartbeat.tick() => return Some(Ok(self.beat())),
                },
                Err(ReadError::NamespaceNotFound | ReadError::Closed) => return None,
                Err(error) => {
                    tracing::error!(%error, "an event stream breaks off");
                    return Some(Err(io::Error::other(error)));
                }
            }
        }
    }

    fn beat(&self) -> Bytes {
        sse::heartbeat(self.source.place().as_deref())
    }
}
