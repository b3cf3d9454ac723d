//! A client that only follows. There may be a hundred thousand of them that hear nothing for hours, and what HTTP
//! keeps for a connection, above all its buffers, is most of what one of them would cost. So where the first
//! request of an HTTP/1.1 connection is to follow, its answer is the last: HTTP gives the socket back, and what is
//! left is the stream of events itself, chunk by chunk as HTTP/1.1 has it.
//!
//! ```text
//! HTTP/1.1 200 OK                 what the answer says, Date, and
//! transfer-encoding: chunked
//! connection: close
//!
//! 1c⏎ : tlog … ⏎                  a piece of events: its length in hex, the piece
//! 0⏎ ⏎                            the end, where the stream came to one
//! ```

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use axum::body::Body;
use axum::http::Response;
use axum::http::response::Parts;
use bytes::{Buf, Bytes};
use http_body_util::BodyExt;
use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimePrinter;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};

use crate::server::stall::StallTimeout;

const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// Where a connection's socket and its last answer come out of HTTP.
#[derive(Debug, Default)]
pub(super) struct Exit {
    /// Whether there is an answer: asked each time that a connection has something to do.
    is_left: AtomicBool,
    answer: Mutex<Option<Response<Body>>>,
    socket: Mutex<Option<StallTimeout>>,
}

impl Exit {
    /// Says that this answer is the last.
    pub(super) fn leave_with(&self, answer: Response<Body>) {
        *self.answer.lock() = Some(answer);
        self.is_left.store(true, Ordering::Release);
    }

    /// The last answer, once it is there.
    pub(super) fn answer(&self) -> Option<Response<Body>> {
        if self.is_left.load(Ordering::Acquire) { self.answer.lock().take() } else { None }
    }

    /// The socket, once HTTP has let go of it.
    pub(super) fn socket(&self) -> Option<StallTimeout> {
        self.socket.lock().take()
    }
}

/// A socket that is lent to HTTP. What HTTP has read of it and not understood goes with HTTP.
#[derive(Debug)]
pub(super) struct Lent {
    /// Until this is dropped.
    socket: Option<StallTimeout>,
    exit: Arc<Exit>,
}

impl Lent {
    pub(super) fn new(socket: StallTimeout) -> (Lent, Arc<Exit>) {
        let exit = Arc::new(Exit::default());
        (Lent { socket: Some(socket), exit: Arc::clone(&exit) }, exit)
    }

    fn with<T>(&mut self, poll: impl FnOnce(Pin<&mut StallTimeout>) -> Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        match &mut self.socket {
            Some(socket) => poll(Pin::new(socket)),
            None => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        *self.exit.socket.lock() = self.socket.take();
    }
}

impl AsyncRead for Lent {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.with(|socket| socket.poll_read(cx, buffer))
    }
}

impl AsyncWrite for Lent {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.with(|socket| socket.poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.with(|socket| socket.poll_write_vectored(cx, slices))
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.as_ref().is_some_and(StallTimeout::is_write_vectored)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(|socket| socket.poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(|socket| socket.poll_shutdown(cx))
    }
}

/// Sends an answer to its end, or until the client has gone; then the connection is over.
///
/// # Errors
/// Where the client takes nothing any more, or the answer breaks off: it has no last chunk then.
pub(super) async fn send(mut socket: StallTimeout, answer: Response<Body>) -> io::Result<()> {
    let (head, mut body) = answer.into_parts();
    socket.write_all(&head_text(&head)).await?;
    drop(head);
    loop {
        let piece = tokio::select! {
            biased;
            () = gone(&mut socket) => return Ok(()),
            piece = body.frame() => piece,
        };
        let Some(piece) = piece else { break };
        if let Ok(piece) = piece.map_err(io::Error::other)?.into_data()
            && !piece.is_empty()
        {
            socket.write_all_buf(&mut chunk(piece)).await?;
        }
    }
    socket.write_all(LAST_CHUNK).await?;
    socket.shutdown().await
}

/// Returns once the client has closed the connection, or it is broken. What the client still says is nothing to us.
async fn gone(socket: &mut StallTimeout) {
    let mut said = [0; 64];
    while socket.read(&mut said).await.is_ok_and(|length| length > 0) {}
}

fn head_text(head: &Parts) -> Vec<u8> {
    let date = DateTimePrinter::new().timestamp_to_rfc9110_string(&Timestamp::now()).unwrap_or_default();
    let reason = head.status.canonical_reason().unwrap_or_default();
    let mut text = format!("HTTP/1.1 {} {reason}\r\ndate: {date}\r\n", head.status.as_str()).into_bytes();
    for (name, value) in &head.headers {
        text.extend_from_slice(name.as_str().as_bytes());
        text.extend_from_slice(b": ");
        text.extend_from_slice(value.as_bytes());
        text.extend_from_slice(b"\r\n");
    }
    text.extend_from_slice(b"transfer-encoding: chunked\r\nconnection: close\r\n\r\n");
    text
}

fn chunk(piece: Bytes) -> impl Buf {
    let length = Bytes::from(format!("{:x}\r\n", piece.len()));
    length.chain(piece).chain(&b"\r\n"[..])
}
