//! A request's body as it arrives: bounded in time, in bytes, and in what all of them hold together.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::header::{CONTENT_LENGTH, EXPECT};
use axum::http::{HeaderMap, Request, request};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Body as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use wire::Code;

use crate::http::error::Refusal;
use crate::state::Broker;

/// What gathered bodies may hold together, KiB, those of [`FREE_BYTES`] not counted.
const BUDGET_KIB: usize = 256 << 10;

/// Bodies up to this are not counted: what all connections may hold of them is bounded anyway.
const FREE_BYTES: usize = 64 << 10;

/// What is still read of a refused body, so that its sender comes to read the answer.
const DISCARD_BYTES: usize = 64 << 20;

/// How long a refused body is still read.
const DISCARD_TIME: Duration = Duration::from_secs(5);

/// Memory for bodies that are gathered before they can be parsed.
#[derive(Debug, Clone)]
pub(crate) struct BodyBudget(Arc<Semaphore>);

impl Default for BodyBudget {
    fn default() -> Self {
        BodyBudget(Arc::new(Semaphore::new(BUDGET_KIB)))
    }
}

/// A body that is complete. It holds its share of the budget until it is dropped.
#[derive(Debug)]
pub(crate) struct Gathered {
    /// The bytes.
    pub(crate) bytes: Bytes,
    _share: Option<OwnedSemaphorePermit>,
}

/// How much a body may hold, and what it is an error of when it holds more.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limit {
    /// Bytes.
    pub(crate) bytes: usize,
    /// The error.
    pub(crate) code: Code,
}

/// A body as it arrives.
#[derive(Debug)]
pub(crate) struct Arriving {
    body: Body,
    budget: BodyBudget,
    /// Longest wait for the next piece.
    timeout: Duration,
    /// What its header says that it will be, bytes.
    declared: Option<u64>,
    /// Nothing more is to be expected: the client waits to be asked for the body, or has stopped
    /// sending it.
    quiet: bool,
}

/// A request's header, and its body as it arrives.
pub(crate) fn split(request: Request<Body>, broker: &Broker) -> (request::Parts, Arriving) {
    let (parts, body) = request.into_parts();
    let arriving = Arriving {
        body,
        budget: broker.bodies.clone(),
        timeout: broker.timeouts.body,
        declared: declared(&parts.headers),
        quiet: parts.headers.contains_key(EXPECT),
    };
    (parts, arriving)
}

/// A request's header, and its whole body, if that keeps to a limit. A body that is refused is read away.
pub(crate) async fn gather(
    request: Request<Body>,
    broker: &Broker,
    limit: Limit,
) -> Result<(request::Parts, Gathered), Refusal> {
    let (parts, mut body) = split(request, broker);
    match body.gather(limit).await {
        Ok(gathered) => Ok((parts, gathered)),
        Err(refusal) => {
            body.discard().await;
            Err(refusal)
        }
    }
}

impl Arriving {
    /// The next piece; nothing at the end.
    ///
    /// # Errors
    /// Where the body is cut off, malformed, or does not go on in time.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, Refusal> {
        self.quiet = false;
        loop {
            match timeout(self.timeout, self.body.frame()).await {
                Ok(None) => return Ok(None),
                Ok(Some(Ok(frame))) => {
                    // What is not data is a trailer, and of no use here.
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
                Ok(Some(Err(error))) => {
                    self.quiet = true;
                    return Err(Refusal::new(Code::InvalidBody, format!("the body was cut off: {error}")));
                }
                Err(_) => {
                    self.quiet = true;
                    let detail = format!("nothing of the body came for {} s", self.timeout.as_secs_f32());
                    return Err(Refusal::new(Code::RequestTimeout, detail));
                }
            }
        }
    }

    /// The whole body, if it keeps to a limit. One that arrives in one piece is not copied.
    pub(crate) async fn gather(&mut self, limit: Limit) -> Result<Gathered, Refusal> {
        let over = || Refusal::new(limit.code, format!("the body is over the limit of {} bytes", limit.bytes));
        if self.declared.is_some_and(|declared| declared > limit.bytes as u64) {
            return Err(over());
        }
        let mut first = self.next().await?.unwrap_or_default();
        if first.len() > limit.bytes {
            return Err(over());
        }
        let mut share = None;
        let mut gathered = BytesMut::new();
        while let Some(piece) = self.next().await? {
            let need = gathered.len().max(first.len()) + piece.len();
            if need > limit.bytes {
                return Err(over());
            }
            self.budget.hold(&mut share, need)?;
            if gathered.is_empty() {
                gathered.reserve(self.declared.map_or(need, |declared| declared as usize).min(limit.bytes));
                gathered.extend_from_slice(&std::mem::take(&mut first));
            }
            gathered.extend_from_slice(&piece);
        }
        let bytes = if gathered.is_empty() { first } else { gathered.freeze() };
        Ok(Gathered { bytes, _share: share })
    }

    /// Reads on for a while what is no longer wanted: a client that is still sending would meet a
    /// closed connection instead of the answer.
    pub(crate) async fn discard(mut self) {
        if self.quiet || self.body.is_end_stream() {
            return;
        }
        let rest = async {
            let mut read = 0;
            while read < DISCARD_BYTES {
                match self.body.frame().await {
                    Some(Ok(frame)) => read += frame.data_ref().map_or(0, Bytes::len),
                    Some(Err(_)) | None => return,
                }
            }
        };
        // Where it takes longer, the connection closes with bytes unread.
        let _read_in_time = timeout(DISCARD_TIME, rest).await.is_ok();
    }
}

impl BodyBudget {
    /// Makes a share hold `bytes`.
    fn hold(&self, share: &mut Option<OwnedSemaphorePermit>, bytes: usize) -> Result<(), Refusal> {
        if bytes <= FREE_BYTES {
            return Ok(());
        }
        let held = share.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let more = bytes.div_ceil(1 << 10).saturating_sub(held);
        let busy = || Refusal::new(Code::TooBusy, "the bodies of other requests fill the memory there is for them");
        let more = u32::try_from(more).map_err(|_| busy())?;
        let permit = Arc::clone(&self.0).try_acquire_many_owned(more).map_err(|_| busy())?;
        match share {
            Some(share) => share.merge(permit),
            None => *share = Some(permit),
        }
        Ok(())
    }
}

fn declared(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_grows_and_is_given_back() {
        let budget = BodyBudget(Arc::new(Semaphore::new(100)));
        let (mut share, mut other) = (None, None);
        budget.hold(&mut share, FREE_BYTES).unwrap();
        assert!(share.is_none());
        budget.hold(&mut share, 70 << 10).unwrap();
        budget.hold(&mut share, (80 << 10) + 1).unwrap();
        assert_eq!(budget.0.available_permits(), 19);
        assert_eq!(budget.hold(&mut other, 70 << 10).unwrap_err().code(), Some(Code::TooBusy));
        drop(share);
        budget.hold(&mut other, 100 << 10).unwrap();
    }
}
