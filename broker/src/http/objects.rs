//! `/v1/objects/{id}`: a record by its object id.

use axum::extract::State;
use axum::http::Uri;
use axum::response::Response;
use consumers::{StoredRecord, Stores, StoresError};
use wire::{Code, ObjectId};

use crate::http::answer::json;
use crate::http::error::Refusal;
use crate::http::keys::push_stored;
use crate::http::query::Query;
use crate::http::{openapi, path};
use crate::state::{Broker, Shared};

/// The record with this object id.
#[utoipa::path(
    get,
    path = "/v1/objects/{id}",
    operation_id = "getObject",
    tag = "objects",
    params(openapi::Id),
    responses((status = 200, description = "The record", body = openapi::Record), openapi::Problems)
)]
pub(crate) async fn get(State(broker): Shared, uri: Uri) -> Result<Response, Refusal> {
    find(&broker, &uri, "no object has the id", Stores::object).await
}

/// The record before this object, in its shard and namespace.
#[utoipa::path(
    get,
    path = "/v1/objects/{id}/previous",
    operation_id = "getPreviousObject",
    tag = "objects",
    params(openapi::Id),
    responses((status = 200, description = "The record", body = openapi::Record), openapi::Problems)
)]
pub(crate) async fn previous(State(broker): Shared, uri: Uri) -> Result<Response, Refusal> {
    find(&broker, &uri, "no object comes before", Stores::previous).await
}

type Find = fn(&Stores, ObjectId) -> Result<Option<StoredRecord>, StoresError>;

async fn find(broker: &Broker, uri: &Uri, otherwise: &str, find: Find) -> Result<Response, Refusal> {
    Query::parse(uri, &[])?;
    let text = path::id(uri);
    let id: ObjectId = text.parse().map_err(|error| Refusal::new(Code::InvalidId, format!("{text:?}: {error}")))?;
    let (stores, log) = (broker.stores.clone(), broker.log.clone());
    let found = tokio::task::spawn_blocking(move || {
        let Some(stored) = find(&stores, id)? else { return Ok(None) };
        let namespace = log.namespace_by_id(id.namespace())?;
        let mut body = Vec::new();
        push_stored(&mut body, &stored, namespace.as_ref().map(|namespace| &**namespace.name()))?;
        Ok::<_, Refusal>(Some(body))
    });
    match found.await?? {
        Some(body) => Ok(json(body)),
        None => Err(Refusal::new(Code::ObjectNotFound, format!("{otherwise} {id}"))),
    }
}
