//! A socket that gives up on a client which takes nothing of what is written to it.

use std::io::{self, ErrorKind, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep};

use crate::http::outgoing::{Outgoing, SHORT_STALL};

/// A socket whose writes fail once the client has taken nothing for a while; for a short while only,
/// where memory for what is being sent runs short. A write that can go on costs nothing more.
#[derive(Debug)]
pub(super) struct StallTimeout {
    stream: TcpStream,
    timeout: Duration,
    outgoing: Outgoing,
    /// Runs while a write waits.
    stalled: Option<Stall>,
}

/// A wait for a client.
#[derive(Debug)]
struct Stall {
    since: Instant,
    sleep: Pin<Box<Sleep>>,
}

impl StallTimeout {
    pub(super) fn new(stream: TcpStream, timeout: Duration, outgoing: Outgoing) -> StallTimeout {
        StallTimeout { stream, timeout, outgoing, stalled: None }
    }

    /// Passes on how a write went, and fails where it has waited for too long.
    fn watch<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let StallTimeout { timeout, outgoing, stalled, .. } = self;
        let step = SHORT_STALL.min(*timeout);
        let stall = stalled.get_or_insert_with(|| Stall { since: Instant::now(), sleep: Box::pin(sleep(step)) });
        while stall.sleep.as_mut().poll(cx).is_ready() {
            if stall.since.elapsed() >= *timeout || outgoing.is_short() {
                return Poll::Ready(Err(io::Error::new(ErrorKind::TimedOut, "the client takes nothing")));
            }
            stall.sleep.as_mut().reset(Instant::now() + step);
        }
        Poll::Pending
    }
}

impl AsyncRead for StallTimeout {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for StallTimeout {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.watch(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.watch(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
