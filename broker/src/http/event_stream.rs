//! An event stream from its opening to its end, whatever its records come from.
//!
//! Nothing is made before the connection asks for it, so a client that reads nothing holds one
//! piece, one read and a registration, and nothing else (invariant 9). A source is registered for wake-ups
//! before it first reads, so no append falls between.

use std::fmt::Display;
use std::future::Future;
use std::io;
use std::sync::Arc;

use axum::body::Body;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::Response;
use bytes::Bytes;
use consumers::rooms::RoomsError;
use futures::stream;
use tlog::ReadError;
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

/// Marks an answer that has no end: whoever takes it only follows from then on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Endless;

/// What a source comes up with.
pub(crate) enum Next {
    /// Events.
    Events(Bytes),
    /// Records that are not for this stream; there may be more behind them.
    Others,
    /// It is at the head.
    AtHead,
}

/// Why a stream ends.
#[derive(Debug)]
pub(crate) enum End {
    /// What it is of is no more, or the broker stops.
    Over,
    /// Another connection has taken its place.
    Superseded,
    /// It can't be read on.
    Broken(String),
}

impl From<ReadError> for End {
    fn from(error: ReadError) -> End {
        match error {
            ReadError::NamespaceNotFound | ReadError::Closed => End::Over,
            error => End::Broken(error.to_string()),
        }
    }
}

impl From<RoomsError> for End {
    fn from(error: RoomsError) -> End {
        match error {
            RoomsError::Replaced => End::Superseded,
            RoomsError::SubscriberNotFound | RoomsError::NamespaceNotFound(_) | RoomsError::Closed => End::Over,
            RoomsError::Read(error) => error.into(),
            error => End::Broken(error.to_string()),
        }
    }
}

/// Where a stream's events come from.
pub(crate) trait Source: Send + 'static {
    /// The next events.
    fn next(&mut self) -> impl Future<Output = Result<Next, End>> + Send;

    /// Returns once there may be more than at the last look. It may be dropped before that, and called anew.
    fn changed(&mut self) -> impl Future<Output = Result<(), End>> + Send;

    /// Where it stands, as the `id` to resume at. Asked when there has been nothing for a while.
    fn place(&mut self) -> impl Future<Output = Result<String, End>> + Send;
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

/// Answers with the events of a source.
///
/// `place`: where the stream begins, if the opening is to tell it, so that a client which is cut off before
/// its first record misses none.
pub(crate) fn answer<S: Source>(broker: &Arc<Broker>, source: S, place: Option<&str>) -> Response {
    let opening = Some(sse::opening(place));
    let period = broker.timeouts.heartbeat;
    let mut heartbeat = interval_at(tokio::time::Instant::now() + period, period);
    heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let broker = Arc::clone(broker);
    let events = EventStream { source, broker, heartbeat, opening, ended: false, _open: Open::subscriber() };
    let events = stream::unfold(events, |mut events| async { events.next().await.map(|piece| (piece, events)) });
    let mut response = Response::new(Body::from_stream(events));
    response.extensions_mut().insert(Endless);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(media::EVENTS));
    headers.insert(X_ACCEL_BUFFERING, HeaderValue::from_static("no"));
    response
}

struct EventStream<S> {
    source: S,
    broker: Arc<Broker>,
    heartbeat: Interval,
    opening: Option<Bytes>,
    /// The last piece has been sent.
    ended: bool,
    _open: Open,
}

impl<S: Source> EventStream<S> {
    /// The next piece of text. The stream ends where the broker stops, and where what it is of is no more;
    /// it breaks off where the log can't be read.
    async fn next(&mut self) -> Option<io::Result<Bytes>> {
        if let Some(opening) = self.opening.take() {
            return Some(Ok(opening));
        }
        if self.ended {
            return None;
        }
        match self.piece().await {
            Ok(text) => Some(Ok(text)),
            Err(End::Over) => None,
            Err(End::Superseded) => {
                self.ended = true;
                Some(Ok(sse::superseded()))
            }
            Err(End::Broken(error)) => {
                tracing::error!(error, "an event stream breaks off");
                Some(Err(io::Error::other(error)))
            }
        }
    }

    async fn piece(&mut self) -> Result<Bytes, End> {
        loop {
            if self.broker.closing.is_cancelled() {
                return Err(End::Over);
            }
            match self.source.next().await? {
                Next::Events(text) => {
                    self.heartbeat.reset();
                    return Ok(text);
                }
                Next::Others => tokio::select! {
                    biased;
                    _ = self.heartbeat.tick() => return self.beat().await,
                    () = tokio::task::yield_now() => {}
                },
                Next::AtHead => tokio::select! {
                    biased;
                    () = self.broker.closing.cancelled() => return Err(End::Over),
                    changed = self.source.changed() => changed?,
                    _ = self.heartbeat.tick() => return self.beat().await,
                },
            }
        }
    }

    async fn beat(&mut self) -> Result<Bytes, End> {
        Ok(sse::heartbeat(&self.source.place().await?))
    }
}
