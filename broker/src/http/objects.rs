//! `/v1/objects/{id}`: a record by its object id.

use axum::extract::State;
use axum::http::Uri;
use axum::response::Response;
use consumers::{StoredRecord, Stores};
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
    find(&broker, &uri, |stores, id| {
        stores.object(id)?.ok_or_else(|| Refusal::new(Code::ObjectNotFound, format!("no object has the id {id}")))
    })
    .await
}

/// The record before this object, in its shard and namespace.
///
/// Where that was lost the problem is `object-lost`, to be told from the first object, which has none.
#[utoipa::path(
    get,
    path = "/v1/objects/{id}/previous",
    operation_id = "getPreviousObject",
    tag = "objects",
    params(openapi::Id),
    responses((status = 200, description = "The record", body = openapi::Record), openapi::Problems)
)]
pub(crate) async fn previous(State(broker): Shared, uri: Uri) -> Result<Response, Refusal> {
    find(&broker, &uri, |stores, id| {
        if let Some(previous) = stores.previous(id)? {
            return Ok(previous);
        }
        // Counters go up one by one: only where records were lost can the one before be missing.
        Err(match id.previous() {
            Some(_) if stores.object(id)?.is_some() => {
                Refusal::new(Code::ObjectLost, format!("what came before {id} was lost"))
            }
            _ => Refusal::new(Code::ObjectNotFound, format!("no object comes before {id}")),
        })
    })
    .await
}

type Find = fn(&Stores, ObjectId) -> Result<StoredRecord, Refusal>;

async fn find(broker: &Broker, uri: &Uri, find: Find) -> Result<Response, Refusal> {
    Query::parse(uri, &[])?;
    let text = path::id(uri);
    let id: ObjectId = text.parse().map_err(|error| Refusal::new(Code::InvalidId, format!("{text:?}: {error}")))?;
    let (stores, log) = (broker.stores.clone(), broker.log.clone());
    let found = broker.reads.run(move || {
        let stored = find(&stores, id)?;
        let namespace = log.namespace_by_id(id.namespace())?;
        let mut body = Vec::new();
        push_stored(&mut body, &stored, namespace.as_ref().map(|namespace| &**namespace.name()))?;
        Ok(body)
    });
    Ok(json(found.await?))
}
