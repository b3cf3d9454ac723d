//! `GET /v1/namespaces/{ns}/rebuild`: every frame, in one stream, closed by what proves it.

use axum::body::Body;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, HeaderValue, Uri};
use axum::response::Response;
use bytes::{Bytes, BytesMut};
use futures::stream;
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use tlog::{Reader, SharedFrame};
use tokio_util::sync::CancellationToken;
use wire::{Code, FRAMES_MEDIA_TYPE, Offset, Trailer};

use crate::http::error::Refusal;
use crate::http::outgoing::Share;
use crate::http::query::{Begin, Known, Query};
use crate::http::{media, openapi, path};
use crate::state::Shared;

/// How much is read at once, bytes of frames.
const READ_BYTES: usize = 2 << 20;

/// Smaller frames are gathered into pieces of this size, bytes: a piece is a chunk, and costs one.
/// A frame that is at least half as large goes as it is, without being copied.
const PIECE_BYTES: usize = 256 << 10;

/// Rebuild: every frame from the start, or from an offset, to the head as of the request, and a
/// trailer with their count and the namespace's chain.
///
/// Where frames were lost stands one that says so, a loss: it has their offsets and no records, and the
/// chain begins anew behind it. A stream without a trailer was cut off; go on with `from`. Where that is not where a frame begins,
/// the stream begins with the frame that holds it.
#[utoipa::path(
    get,
    path = "/v1/namespaces/{ns}/rebuild",
    operation_id = "rebuildNamespace",
    tag = "records",
    params(openapi::Ns, ("from" = Option<String>, Query, description = "An offset, or `start` (default)")),
    responses(
        (
            status = 200,
            description = "Frames and a trailer",
            content_type = "application/vnd.tlog.frames",
            body = Vec<u8>,
        ),
        openapi::Problems,
    )
)]
pub(crate) async fn rebuild(State(broker): Shared, uri: Uri, headers: HeaderMap) -> Result<Response, Refusal> {
    let name = path::namespace(&uri)?;
    let query = Query::parse(&uri, &[Known::Once("from")])?;
    let from = match query.from(Begin::Start)? {
        Begin::Start => 0,
        Begin::At(offset) => offset,
        Begin::End => return Err(Refusal::parameter("from is end: a rebuild begins at an offset, or at start")),
    };
    media::negotiate(&headers, &[FRAMES_MEDIA_TYPE])?;
    let namespace = broker.namespace(&name)?;
    let head = broker.log.head(&namespace)?;
    if from > head.next_offset {
        let detail = format!("from is {from}, the next offset is {}", head.next_offset);
        return Err(Refusal::new(Code::OffsetPastHead, detail).with_next_offset(head.next_offset));
    }
    let trailer = Trailer {
        namespace: namespace.id(),
        generation: namespace.generation(),
        first_offset: from,
        next_offset: head.next_offset,
        frames: 0,
        chain: head.chain,
    };
    let rebuild = Rebuild {
        reader: broker.log.reader(&namespace, from)?,
        share: broker.outgoing.share(),
        frames: VecDeque::new(),
        next_offset: from,
        trailer,
        done: false,
        closing: broker.closing.clone(),
    };
    let pieces = stream::try_unfold(rebuild, |mut rebuild| async {
        let piece = rebuild.next().await.inspect_err(|error| tracing::warn!(%error, "a rebuild breaks off"))?;
        Ok::<_, io::Error>(piece.map(|piece| (piece, rebuild)))
    });
    let mut response = Response::new(Body::from_stream(pieces));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(FRAMES_MEDIA_TYPE));
    Ok(response)
}

/// A rebuild under way. Made piece by piece, as the client takes them.
struct Rebuild {
    reader: Reader,
    share: Share,
    /// What has been read and not yet sent.
    frames: VecDeque<Arc<SharedFrame>>,
    /// The offset behind the last frame that was sent.
    next_offset: Offset,
    /// What the trailer will say.
    trailer: Trailer,
    done: bool,
    closing: CancellationToken,
}

impl Rebuild {
    /// The next piece; after the last frame the trailer, and then nothing.
    async fn next(&mut self) -> io::Result<Option<Bytes>> {
        if self.done {
            return Ok(None);
        }
        if self.next_offset >= self.trailer.next_offset {
            self.done = true;
            return Ok(Some(self.trailer.encode()));
        }
        if self.closing.is_cancelled() {
            return Err(io::Error::other("the broker is shutting down"));
        }
        if self.frames.is_empty() {
            self.frames = self.share.read(&mut self.reader, READ_BYTES).await.map_err(io::Error::other)?.into();
        }
        let Some(frame) = self.take() else {
            return Err(io::Error::other(format!("no frame at offset {}", self.next_offset)));
        };
        if frame.len() >= PIECE_BYTES / 2 {
            return Ok(Some(frame.bytes().clone()));
        }
        let mut piece = BytesMut::with_capacity(PIECE_BYTES);
        piece.extend_from_slice(frame.bytes());
        while let Some(next) = self.frames.front().filter(|next| piece.len() + next.len() <= PIECE_BYTES) {
            if next.base_offset() >= self.trailer.next_offset {
                break;
            }
            piece.extend_from_slice(next.bytes());
            self.take();
        }
        Ok(Some(piece.freeze()))
    }

    /// The next frame that was read, and counts it.
    fn take(&mut self) -> Option<Arc<SharedFrame>> {
        let frame = self.frames.pop_front()?;
        if self.trailer.frames == 0 {
            self.trailer.first_offset = frame.base_offset();
        }
        self.trailer.frames += 1;
        self.next_offset = frame.next_offset();
        Some(frame)
    }
}
