//! A connection: HTTP/1.1 or HTTP/2 in clear text, whichever the client speaks.
//!
//! What bounds it: the first request's header must be there within `head`, the next ones within
//! `idle`; a client that takes nothing of its answers is cut off after `stall`; a body that does not
//! go on is the business of whoever reads it.
//!
//! A client whose first request is to follow needs no HTTP from then on: see [`follower`].

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::header::{CACHE_CONTROL, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderValue, Method, Request, Response, Version};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tower::Service;

use crate::config::Timeouts;
use crate::http::event_stream::Endless;
use crate::http::outgoing::Outgoing;
use crate::server::follower::{self, Lent};
use crate::server::stall::StallTimeout;
use crate::telemetry::{Open, Responses};

/// Requests in flight on one HTTP/2 connection.
const MAX_STREAMS: u32 = 256;

/// What a client may send ahead on one HTTP/2 stream, bytes.
const STREAM_WINDOW: u32 = 256 << 10;

/// What a client may send ahead on all streams of an HTTP/2 connection, bytes.
const CONNECTION_WINDOW: u32 = 1 << 20;

/// The largest header of a request on HTTP/2, bytes: a resume token of many namespaces is long.
const MAX_HEADER_BYTES: u32 = 64 << 10;

/// How often an HTTP/2 client is asked whether it is still there, and how long it may take.
const PING: Duration = Duration::from_secs(20);

/// What all connections share.
#[derive(Debug)]
pub(super) struct Connections {
    http: Builder<TokioExecutor>,
    router: Router,
    timeouts: Timeouts,
    outgoing: Outgoing,
    responses: Responses,
}

impl Connections {
    /// Connections whose requests this router answers.
    pub(super) fn new(router: Router, timeouts: Timeouts, outgoing: Outgoing) -> Connections {
        let mut http = Builder::new(TokioExecutor::new());
        http.http1().timer(TokioTimer::new()).header_read_timeout(timeouts.idle);
        http.http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(MAX_STREAMS)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(MAX_HEADER_BYTES)
            .keep_alive_interval(PING)
            .keep_alive_timeout(PING);
        Connections { http, router, timeouts, outgoing, responses: Responses::new() }
    }

    /// Serves a connection to its end. `closing`: answer what is in flight, then end. `kill`: end.
    pub(super) async fn serve(self: Arc<Self>, stream: TcpStream, closing: CancellationToken, kill: CancellationToken) {
        let _open = Open::connection();
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY can't be set");
        }
        let socket = StallTimeout::new(stream, self.timeouts.stall, self.outgoing.clone());
        // Boxed, so that a follower does not hold what HTTP needed.
        let left = Box::pin(self.speak_http(socket, &closing, &kill)).await;
        let Some((socket, answer)) = left else { return };
        tokio::select! {
            biased;
            () = kill.cancelled() => {}
            ended = follower::send(socket, answer) => if let Err(error) = ended {
                tracing::debug!(%error, "a follower's connection failed");
            },
        }
    }

    /// Answers requests until the connection ends, or is left to one who only follows.
    async fn speak_http(
        self: Arc<Self>,
        socket: StallTimeout,
        closing: &CancellationToken,
        kill: &CancellationToken,
    ) -> Option<(StallTimeout, Response<Body>)> {
        let asked = AtomicBool::new(false);
        let (io, exit) = Lent::new(socket);
        let answer = service_fn(|request: Request<Incoming>| {
            // What was answered before may still be on its way, so only the first answer may be the last.
            let is_first = !asked.swap(true, Ordering::Relaxed);
            let may_leave = is_first && request.version() == Version::HTTP_11 && request.method() == Method::GET;
            let exit = may_leave.then(|| Arc::clone(&exit));
            let answer = Arc::clone(&self).answer(request);
            async move {
                let response = answer.await?;
                match exit {
                    Some(exit) if response.extensions().get::<Endless>().is_some() => {
                        exit.leave_with(response);
                        std::future::pending::<Result<_, Infallible>>().await
                    }
                    _ => Ok(response),
                }
            }
        });
        let mut connection = Box::pin(self.http.serve_connection(TokioIo::new(io), answer));
        let mut told = false;
        let mut control = pin!(control(self.timeouts.head, &asked, closing, kill));
        loop {
            tokio::select! {
                biased;
                ended = connection.as_mut() => {
                    if let Err(error) = ended {
                        tracing::debug!(error, "a connection failed");
                    }
                    return None;
                }
                // Looked at whenever the connection was, which is where it comes from.
                answer = poll_fn(|_| exit.answer().map_or(Poll::Pending, Poll::Ready)) => {
                    drop(connection);
                    return exit.socket().map(|socket| (socket, answer));
                }
                end = control.as_mut(), if !told => match end {
                    End::Now(reason) => {
                        tracing::debug!(reason, "a connection was ended");
                        return None;
                    }
                    End::InOrder => {
                        connection.as_mut().graceful_shutdown();
                        told = true;
                    }
                },
                () = kill.cancelled(), if told => return None,
            }
        }
    }

    /// Answers a request; what every answer carries is added here.
    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
        let response = self.router.clone().call(request).await?;
        let mut response = self.outgoing.count(response).await;
        self.responses.count(response.status());
        let headers = response.headers_mut();
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        Ok(response)
    }
}

/// How a connection is to end.
enum End {
    /// At once, for this reason.
    Now(&'static str),
    /// When what is in flight has been answered.
    InOrder,
}

/// Waits until a connection is to end.
async fn control(head: Duration, asked: &AtomicBool, closing: &CancellationToken, kill: &CancellationToken) -> End {
    tokio::select! {
        biased;
        () = kill.cancelled() => return End::Now("shutdown"),
        () = closing.cancelled() => return End::InOrder,
        () = tokio::time::sleep(head) => {}
    }
    if !asked.load(Ordering::Relaxed) {
        return End::Now("no request came in time");
    }
    closing.cancelled().await;
    End::InOrder
}
