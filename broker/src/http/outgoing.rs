//! What is being sent, bounded in what all of it holds together.
//!
//! A follower pulls, so one that stops reading holds its last read and the text of it, and nothing more
//! (invariant 9). A thousand of them that stopped at large records still hold a thousand such reads. So
//! whoever holds more than a little takes it from a budget: a stream that finds it used up waits for its
//! turn, holding nothing; an answer that does is refused; and while it runs short, a client that takes
//! nothing of what is sent to it is cut off after [`SHORT_STALL`] already.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, HttpBody, to_bytes};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use tlog::{ReadError, Reader, SharedFrame};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use wire::Code;

use crate::http::error::Refusal;

/// What all answers may hold together, KiB, those of [`FREE_BYTES`] not counted.
const BUDGET_KIB: usize = 256 << 10;

/// What an answer may hold without being counted.
const FREE_BYTES: usize = 64 << 10;

/// The budget runs short while no more than this is left of it, KiB.
const SHORT_KIB: usize = BUDGET_KIB / 4;

/// What a frame and its text take, in lengths of the frame: bytes become base64, and text has escapes.
const TIMES_FRAME: usize = 3;

/// How long a client may take nothing while the budget runs short.
pub(crate) const SHORT_STALL: Duration = Duration::from_secs(1);

/// Memory for what is being sent.
#[derive(Debug, Clone)]
pub(crate) struct Outgoing(Arc<Semaphore>);

impl Default for Outgoing {
    fn default() -> Self {
        Outgoing(Arc::new(Semaphore::new(BUDGET_KIB)))
    }
}

/// What one stream holds of the budget.
#[derive(Debug)]
pub(crate) struct Share {
    budget: Arc<Semaphore>,
    held: Option<OwnedSemaphorePermit>,
}

impl Outgoing {
    /// A stream's share, of nothing yet.
    pub(crate) fn share(&self) -> Share {
        Share { budget: Arc::clone(&self.0), held: None }
    }

    /// Whether little is left.
    pub(crate) fn is_short(&self) -> bool {
        self.0.available_permits() <= SHORT_KIB
    }

    /// Counts an answer that is complete for as long as its bytes live; refuses it where there is no
    /// room for it. Streams count what they read by themselves.
    pub(crate) async fn count(&self, response: Response) -> Response {
        let size = response.body().size_hint().exact().unwrap_or(0) as usize;
        if size <= FREE_BYTES {
            return response;
        }
        let Ok(held) = Arc::clone(&self.0).try_acquire_many_owned(kib(size)) else {
            let detail = "answers that others have not read fill the memory there is for them";
            return Refusal::new(Code::TooBusy, detail).into_response();
        };
        let (parts, body) = response.into_parts();
        match to_bytes(body, size).await {
            Ok(bytes) => Response::from_parts(parts, Body::from(Bytes::from_owner(Counted { bytes, _held: held }))),
            Err(error) => Refusal::new(Code::Internal, error.to_string()).into_response(),
        }
    }
}

struct Counted {
    bytes: Bytes,
    _held: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Share {
    /// Reads on once there is memory for it. What was read before is no longer counted: a stream is
    /// asked for more when the connection has taken that.
    pub(crate) async fn read(
        &mut self,
        reader: &mut Reader,
        max_bytes: usize,
    ) -> Result<Vec<Arc<SharedFrame>>, ReadError> {
        self.held = None;
        let before = reader.clone();
        let frames = reader.read(max_bytes).await?;
        let size = TIMES_FRAME * frames.iter().map(|frame| frame.len()).sum::<usize>();
        if size <= FREE_BYTES {
            return Ok(frames);
        }
        self.held = Arc::clone(&self.budget).try_acquire_many_owned(kib(size)).ok();
        if self.held.is_some() {
            return Ok(frames);
        }
        // Who waits must hold nothing: what was read is read again.
        drop(frames);
        *reader = before;
        let turn = Arc::clone(&self.budget).acquire_many_owned(kib(size)).await;
        self.held = Some(turn.map_err(|_| ReadError::Closed)?);
        reader.read(max_bytes).await
    }
}

/// At most the whole budget, so that what is larger has its turn alone.
fn kib(bytes: usize) -> u32 {
    bytes.div_ceil(1 << 10).min(BUDGET_KIB) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::StatusCode;

    fn answer(bytes: usize) -> Response {
        vec![b'x'; bytes].into_response()
    }

    #[tokio::test]
    async fn an_answer_is_counted_until_its_bytes_are_gone() {
        let outgoing = Outgoing::default();
        let small = outgoing.count(answer(FREE_BYTES)).await;
        assert_eq!(outgoing.0.available_permits(), BUDGET_KIB);
        let mut held = Vec::new();
        for _ in 0..15 {
            held.push(outgoing.count(answer(16 << 20)).await);
        }
        assert!(outgoing.is_short());
        let sent = to_bytes(outgoing.count(answer(16 << 20)).await.into_body(), usize::MAX).await.unwrap();
        assert_eq!((sent.len(), outgoing.0.available_permits()), (16 << 20, 0));
        assert_eq!(outgoing.count(answer(FREE_BYTES + 1)).await.status(), StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(outgoing.count(answer(1)).await.status(), StatusCode::OK);
        drop((small, held, sent));
        assert_eq!(outgoing.0.available_permits(), BUDGET_KIB);
        assert!(!outgoing.is_short());
    }

    #[tokio::test]
    async fn a_read_that_finds_no_room_waits_holding_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let clock: Arc<dyn tlog::Clock> = Arc::new(crate::clock::SystemClock::default());
        let log =
            tlog::Log::open(folder.path(), Arc::new(tlog::Memory::new()), clock, tlog::Options::default()).unwrap();
        let name = wire::NamespaceName::new("n").unwrap();
        let namespace = log.create(&name, wire::NamespaceConfig::default()).await.unwrap().namespace;
        let draft = wire::Draft::of(&wire::NewRecord::bytes(&vec![7; 1 << 20])).unwrap();
        log.append(&namespace, tlog::Append::new(draft)).await.unwrap();

        let outgoing = Outgoing::default();
        let others = Arc::clone(&outgoing.0).try_acquire_many_owned(BUDGET_KIB as u32 - 1).unwrap();
        let mut share = outgoing.share();
        let mut reader = log.reader(&namespace, 0).unwrap();
        {
            let mut read = std::pin::pin!(share.read(&mut reader, 1));
            for _ in 0..3 {
                assert!(futures::poll!(read.as_mut()).is_pending());
                tokio::task::yield_now().await;
            }
            drop(others);
            assert_eq!(read.await.unwrap().len(), 1);
        }
        assert_eq!(reader.offset(), 1);
        assert!(outgoing.0.available_permits() < BUDGET_KIB - (3 << 10));
        assert!(share.read(&mut reader, 1).await.unwrap().is_empty());
        assert_eq!(outgoing.0.available_permits(), BUDGET_KIB, "what was read before is given back");
    }
}
