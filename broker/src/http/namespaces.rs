//! `/v1/namespaces`: create, look at, list, delete.

use axum::extract::{Request, State};
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::Value;
use tlog::{Log, Namespace, ReadError};
use utoipa::ToSchema;
use wire::limits::MAX_LIST_NAMESPACES;
use wire::{Code, NamespaceConfig};

use crate::http::answer::{answer, page};
use crate::http::batch::broken;
use crate::http::body::{self, Limit};
use crate::http::error::Refusal;
use crate::http::hex::Hex;
use crate::http::query::{Known, Query};
use crate::http::{openapi, path};
use crate::state::{Shared, no_namespace};

/// The largest configuration.
const CONFIG_LIMIT: Limit = Limit { bytes: 64 << 10, code: Code::InvalidBody };

/// A namespace.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct NamespaceInfo {
    /// Its name.
    name: String,
    /// Its id, below 2^24.
    id: u32,
    /// Which use of the id this is.
    generation: u32,
    /// The offset of the next record.
    next_offset: u64,
    /// The running hash over all that is in it.
    #[schema(value_type = String)]
    chain: Hex<32>,
    /// Bytes of its frames.
    bytes: u64,
    /// Its configuration.
    #[schema(value_type = openapi::Config)]
    config: NamespaceConfig,
}

impl NamespaceInfo {
    fn of(log: &Log, namespace: &Namespace) -> Result<NamespaceInfo, ReadError> {
        let head = log.head(namespace)?;
        Ok(NamespaceInfo {
            name: namespace.name().to_string(),
            id: namespace.id().get(),
            generation: namespace.generation(),
            next_offset: head.next_offset,
            chain: Hex(head.chain.0),
            bytes: head.bytes,
            config: *namespace.config(),
        })
    }
}

/// A page of namespaces.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct NamespacePage {
    /// In the order of names.
    namespaces: Vec<NamespaceInfo>,
    /// The name to go on behind, as `after`; null at the end.
    #[schema(required)]
    next: Option<String>,
}

/// Create a namespace, or ensure that it is there with this configuration.
#[utoipa::path(
    put,
    path = "/v1/namespaces/{ns}",
    operation_id = "putNamespace",
    tag = "namespaces",
    params(openapi::Ns),
    request_body(content = Option<openapi::Config>, description = "Its configuration; none: the defaults"),
    responses(
        (status = 201, description = "Created", body = NamespaceInfo),
        (status = 200, description = "It was there", body = NamespaceInfo),
        openapi::Problems,
    )
)]
pub(crate) async fn put(State(broker): Shared, request: Request) -> Result<Response, Refusal> {
    let (parts, gathered) = body::gather(request, &broker, CONFIG_LIMIT).await?;
    let name = path::namespace(&parts.uri)?;
    Query::parse(&parts.uri, &[])?;
    let config = config(&gathered.bytes)?;
    let created = broker.log.create(&name, config).await?;
    let log = broker.log.clone();
    let namespace = created.namespace;
    let info = tokio::task::spawn_blocking(move || NamespaceInfo::of(&log, &namespace)).await??;
    let status = if created.new { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, answer(&info)?).into_response())
}

fn config(body: &[u8]) -> Result<NamespaceConfig, Refusal> {
    if body.trim_ascii().is_empty() {
        return Ok(NamespaceConfig::default());
    }
    let config: Value = serde_json::from_slice(body).map_err(|error| broken(&error))?;
    let known = serde_json::to_value(NamespaceConfig::default())?;
    let Some(fields) = config.as_object() else {
        return Err(Refusal::new(Code::InvalidBody, "a configuration is a JSON object"));
    };
    if let Some(name) = fields.keys().find(|name| known.get(name.as_str()).is_none()) {
        return Err(Refusal::new(Code::UnknownField, format!("a configuration has no field {name:?}")));
    }
    let config: NamespaceConfig = serde_json::from_value(config).map_err(|error| broken(&error))?;
    config.check().map_err(|detail| Refusal::new(Code::InvalidBody, detail))?;
    Ok(config)
}

/// A namespace: its head, and what it is configured to do.
#[utoipa::path(
    get,
    path = "/v1/namespaces/{ns}",
    operation_id = "getNamespace",
    tag = "namespaces",
    params(openapi::Ns),
    responses((status = 200, description = "The namespace", body = NamespaceInfo), openapi::Problems)
)]
pub(crate) async fn get(State(broker): Shared, uri: Uri) -> Result<Response, Refusal> {
    let name = path::namespace(&uri)?;
    Query::parse(&uri, &[])?;
    let namespace = broker.namespace(&name)?;
    answer(&NamespaceInfo::of(&broker.log, &namespace)?)
}

/// Delete a namespace, with all that is in it. Who follows it sees the stream end.
#[utoipa::path(
    delete,
    path = "/v1/namespaces/{ns}",
    operation_id = "deleteNamespace",
    tag = "namespaces",
    params(openapi::Ns),
    responses((status = 204, description = "Deleted"), openapi::Problems)
)]
pub(crate) async fn delete(State(broker): Shared, uri: Uri) -> Result<Response, Refusal> {
    let name = path::namespace(&uri)?;
    Query::parse(&uri, &[])?;
    let namespace = broker.namespace(&name)?;
    broker.log.delete(&namespace).await.map_err(|error| match error {
        tlog::AppendError::NamespaceNotFound => no_namespace(&name),
        error => error.into(),
    })?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// The namespaces, in the order of names.
#[utoipa::path(
    get,
    path = "/v1/namespaces",
    operation_id = "listNamespaces",
    tag = "namespaces",
    params(
        ("prefix" = Option<String>, Query, description = "Only names that begin so"),
        ("after" = Option<String>, Query, description = "Go on behind this name: a page's `next`"),
        ("limit" = Option<u64>, Query, minimum = 1, maximum = 1000, description = "Namespaces at most"),
    ),
    responses((status = 200, description = "A page", body = NamespacePage), openapi::Problems)
)]
pub(crate) async fn list(State(broker): Shared, uri: Uri) -> Result<Response, Refusal> {
    let query = Query::parse(&uri, &[Known::Once("prefix"), Known::Once("after"), Known::Once("limit")])?;
    let limit = query.limit(MAX_LIST_NAMESPACES, MAX_LIST_NAMESPACES)?;
    let log = broker.log.clone();
    let listed = tokio::task::spawn_blocking(move || listed(&log, &query, limit)).await??;
    answer(&listed)
}

/// Blocking: a page of namespaces. One that is deleted meanwhile is left out.
fn listed(log: &Log, query: &Query, limit: usize) -> Result<NamespacePage, ReadError> {
    let found = log.list(query.get("prefix").unwrap_or_default(), query.get("after"), limit + 1)?;
    let (found, next) = page(found, limit, |last| last.name().to_string());
    let mut namespaces = Vec::with_capacity(found.len());
    for namespace in &found {
        match NamespaceInfo::of(log, namespace) {
            Ok(info) => namespaces.push(info),
            Err(ReadError::NamespaceNotFound) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(NamespacePage { namespaces, next })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_is_read_strictly() {
        let code = |body: &str| config(body.as_bytes()).map_err(|refusal| refusal.code());
        assert_eq!(code(" "), Ok(NamespaceConfig::default()));
        assert_eq!(code("{}"), Ok(NamespaceConfig::default()));
        assert_eq!(code("{\"max_record_bytes\":10}"), Ok(NamespaceConfig { max_record_bytes: 10 }));
        for bad in ["[]", "7", "{", "{\"max_record_bytes\":0}", "{\"max_record_bytes\":\"x\"}"] {
            assert_eq!(code(bad), Err(Some(Code::InvalidBody)), "{bad}");
        }
        assert_eq!(code("{\"ttl\":1}"), Err(Some(Code::UnknownField)));
    }
}
