//! `POST …/groups/{group}/lease/stream`: leases as one long answer, a line a record.
//!
//! The next records are leased when the connection asks for them, so a client that reads slowly holds
//! one batch of lines here; and as no more than `max_in_flight` are ever its own, it bounds itself.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::HeaderValue;
use axum::http::header::CONTENT_TYPE;
use axum::response::Response;
use bytes::Bytes;
use consumers::groups::{Ask, GroupsError, Leased};
use futures::stream::{self, StreamExt};
use serde::Deserialize;
use utoipa::ToSchema;
use wire::limits::MAX_LEASED;
use wire::name::check_worker;

use super::call::Call;
use super::lease::{Form, write_leased};
use crate::http::error::Refusal;
use crate::http::event_stream::X_ACCEL_BUFFERING;
use crate::http::{media, openapi, strict};
use crate::state::{Broker, Shared};
use crate::telemetry::Open;

/// How much is leased at once, bytes.
const LEASE_BYTES: usize = 256 << 10;

/// Who works, and on how much at a time.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct StreamBody {
    /// What the worker calls itself: 1 to 255 bytes. It leaves the group when the connection ends.
    worker: String,
    /// Most records that are leased to it and not settled.
    #[schema(minimum = 1, maximum = 10_000)]
    max_in_flight: usize,
}

/// Lease records for as long as the connection lasts: a line of NDJSON each.
///
/// Never more than `max_in_flight` that are not settled. An empty line comes where there is nothing else.
#[utoipa::path(
    post,
    path = "/v1/namespaces/{ns}/groups/{group}/lease/stream",
    operation_id = "streamLeases",
    tag = "groups",
    params(openapi::Ns, openapi::Group),
    request_body = StreamBody,
    responses(
        (
            status = 200,
            description = "Records, without an end",
            content_type = "application/x-ndjson",
            body = openapi::LeasedRecord
        ),
        openapi::Problems,
    )
)]
pub(crate) async fn lease(State(broker): Shared, request: Request) -> Result<Response, Refusal> {
    let (call, body) = Call::read::<StreamBody>(&broker, request).await?;
    strict::named(check_worker(&body.worker))?;
    strict::within("max_in_flight", body.max_in_flight, 1..=MAX_LEASED)?;
    let leases = Leases { broker: Arc::clone(&broker), call, body, _open: Open::subscriber() };
    // What is there at once tells the client that it is connected, and why it can't be.
    let first = leases.lease(Duration::ZERO).await.map_err(|error| leases.call.refused(error))?;
    let first = lines(&first)?;
    let rest = stream::unfold(leases, |leases| async move { leases.next().await.map(|piece| (piece, leases)) });
    let mut response = Response::new(Body::from_stream(stream::iter([Ok(first)]).chain(rest)));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(media::NDJSON));
    headers.insert(X_ACCEL_BUFFERING, HeaderValue::from_static("no"));
    Ok(response)
}

struct Leases {
    broker: Arc<Broker>,
    call: Call,
    body: StreamBody,
    _open: Open,
}

/// Records as lines; an empty line where there are none.
fn lines(leased: &[Leased]) -> Result<Bytes, Refusal> {
    let mut lines = Vec::new();
    write_leased(&mut lines, leased, Form::Lines)?;
    if lines.is_empty() {
        lines.push(b'\n');
    }
    Ok(lines.into())
}

impl Leases {
    /// The next records, for which it waits so long. It ends where the broker stops.
    async fn lease(&self, wait: Duration) -> Result<Vec<Leased>, GroupsError> {
        let StreamBody { worker, max_in_flight } = &self.body;
        let ask =
            Ask { worker: worker.clone(), max: *max_in_flight, max_bytes: LEASE_BYTES, max_held: *max_in_flight, wait };
        tokio::select! {
            leased = self.broker.groups.lease(&self.call.namespace, &self.call.group, ask) => leased,
            () = self.broker.closing.cancelled() => Err(GroupsError::Closed),
        }
    }

    /// The next lines. The stream ends where the broker stops, and where the group is deleted.
    async fn next(&self) -> Option<io::Result<Bytes>> {
        match self.lease(self.broker.timeouts.heartbeat).await {
            Ok(leased) => Some(lines(&leased).map_err(|refusal| io::Error::other(format!("{refusal:?}")))),
            Err(GroupsError::GroupNotFound | GroupsError::NamespaceNotFound | GroupsError::Closed) => None,
            Err(error) => {
                tracing::error!(%error, "a stream of leases breaks off");
                Some(Err(io::Error::other(error)))
            }
        }
    }
}

impl Drop for Leases {
    fn drop(&mut self) {
        let (groups, worker) = (self.broker.groups.clone(), std::mem::take(&mut self.body.worker));
        let (namespace, group) = (self.call.namespace.clone(), self.call.group.clone());
        tokio::spawn(async move {
            if let Err(error) = groups.leave(&namespace, &group, &worker).await {
                tracing::debug!(worker, %error, "a worker that has gone could not leave");
            }
        });
    }
}
