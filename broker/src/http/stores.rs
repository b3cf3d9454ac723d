//! `/v1/stores`: the ring of 256 stores.

use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use consumers::StoreState;
use serde::Serialize;
use utoipa::ToSchema;
use wire::{Code, Shard};

use crate::http::answer::answer;
use crate::http::error::Refusal;
use crate::http::query::{self, Query};
use crate::http::{openapi, path};
use crate::state::Shared;

/// The ring.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Ring {
    /// All 256, in order.
    stores: Vec<Store>,
}

/// A store.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Store {
    /// Which.
    shard: u8,
    /// How many objects it holds.
    objects: u64,
    /// Records in the log that it has not yet looked at.
    lag: u64,
    /// Whether it is being rebuilt.
    rebuilding: bool,
}

impl From<&StoreState> for Store {
    fn from(state: &StoreState) -> Store {
        Store { shard: state.shard.0, objects: state.objects, lag: state.lag, rebuilding: state.rebuilding }
    }
}

/// A rebuild that has begun.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Rebuilding {
    /// The store.
    shard: u8,
    /// True.
    rebuilding: bool,
}

/// The 256 stores: objects and lag of each.
#[utoipa::path(
    get,
    path = "/v1/stores",
    operation_id = "listStores",
    tag = "stores",
    responses((status = 200, description = "The ring", body = Ring), openapi::Problems)
)]
pub(crate) async fn list(State(broker): Shared, uri: Uri) -> Result<Response, Refusal> {
    Query::parse(&uri, &[])?;
    let stores = broker.stores.clone();
    let states = tokio::task::spawn_blocking(move || stores.states()).await??;
    answer(&Ring { stores: states.iter().map(Store::from).collect() })
}

/// Wipe a store, and rebuild it from the log while the others serve.
#[utoipa::path(
    post,
    path = "/v1/stores/{shard}/rebuild",
    operation_id = "rebuildStore",
    tag = "stores",
    params(("shard" = u8, Path, description = "0 to 255")),
    responses((status = 202, description = "The rebuild has begun", body = Rebuilding), openapi::Problems)
)]
pub(crate) async fn rebuild(State(broker): Shared, uri: Uri) -> Result<Response, Refusal> {
    Query::parse(&uri, &[])?;
    let text = path::id(&uri);
    let refusal = || Refusal::new(Code::InvalidShard, format!("the shard is {text:?}, it must be 0 to 255"));
    let shard = query::number(text).and_then(|shard| u8::try_from(shard).ok()).ok_or_else(refusal)?;
    let stores = broker.stores.clone();
    tokio::task::spawn_blocking(move || stores.rebuild(Shard(shard))).await??;
    tracing::info!(shard, "rebuilding a store");
    Ok((StatusCode::ACCEPTED, answer(&Rebuilding { shard, rebuilding: true })?).into_response())
}
