//! `/healthz`, `/readyz`, `/metrics`: for those who run the broker.

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;
use wire::Code;

use crate::http::answer::answer;
use crate::http::error::Refusal;
use crate::http::openapi;
use crate::state::Shared;

/// Media type of the Prometheus text format.
const PROMETHEUS: &str = "text/plain; version=0.0.4";

/// How it is.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Status {
    /// `ok`, `ready`.
    status: &'static str,
}

/// Whether the process lives.
#[utoipa::path(
    get,
    path = "/healthz",
    operation_id = "getLiveness",
    tag = "operations",
    responses((status = 200, description = "It lives", body = Status))
)]
pub(crate) async fn live() -> Result<Response, Refusal> {
    answer(&Status { status: "ok" })
}

/// Whether the broker takes all requests; if not, why.
#[utoipa::path(
    get,
    path = "/readyz",
    operation_id = "getReadiness",
    tag = "operations",
    responses((status = 200, description = "It takes all requests", body = Status), openapi::Problems)
)]
pub(crate) async fn ready(State(broker): Shared) -> Result<Response, Refusal> {
    if broker.closing.is_cancelled() {
        return Err(Refusal::new(Code::ShuttingDown, "the broker is shutting down"));
    }
    if let Some((partition, reason)) = broker.log.failed_partition() {
        return Err(Refusal::new(Code::PartitionFailed, format!("partition {partition}: {reason}")));
    }
    answer(&Status { status: "ready" })
}

/// Metrics, in the Prometheus text format.
#[utoipa::path(
    get,
    path = "/metrics",
    operation_id = "getMetrics",
    tag = "operations",
    responses((status = 200, description = "All metrics", content_type = "text/plain", body = String))
)]
pub(crate) async fn metrics(State(broker): Shared) -> Result<Response, Refusal> {
    let text = tokio::task::spawn_blocking(move || broker.metrics.render()).await?;
    Ok(([(CONTENT_TYPE, PROMETHEUS)], text).into_response())
}
