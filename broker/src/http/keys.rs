//! `/v1/namespaces/{ns}/keys`: the latest value of each key, from the stores.
//!
//! Reads may name the offset that the store must have seen (`min_offset`), and wait for it: so a
//! caller reads what it has just written. Put and delete are publishes.

use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, Uri};
use axum::response::Response;
use consumers::{KeyRange, NotInMemory, StoredRecord};
use tlog::Namespace;
use tokio::time::timeout;
use wire::json::{Lines, time_text, write_record};
use wire::limits::{DEFAULT_PAGE_RECORDS, MAX_PAGE_RECORDS, MAX_SAFE_INTEGER};
use wire::name::check_key;
use wire::{Code, Draft, NewRecord};

use crate::http::answer::json;
use crate::http::body;
use crate::http::error::Refusal;
use crate::http::media::{self, BodyType};
use crate::http::publish::{self, Conditions, VALUE_LIMIT};
use crate::http::query::{Known, Query};
use crate::http::{openapi, path};
use crate::state::{Broker, Shared};

/// How long a read waits for `min_offset` where the caller does not say.
const DEFAULT_WAIT: Duration = Duration::from_secs(5);

const MIN_OFFSET: Known = Known::Once("min_offset");
const WAIT: Known = Known::Once("wait");

/// The latest record of a key.
#[utoipa::path(
    get,
    path = "/v1/namespaces/{ns}/keys/{key}",
    operation_id = "getKey",
    tag = "keys",
    params(openapi::Ns, openapi::Key, openapi::Seen),
    responses((status = 200, description = "The record", body = openapi::Record), openapi::Problems)
)]
pub(crate) async fn get(State(broker): Shared, uri: Uri) -> Result<Response, Refusal> {
    let (name, key) = (path::namespace(&uri)?, path::key(&uri)?);
    let query = Query::parse(&uri, &[MIN_OFFSET, WAIT])?;
    let namespace = broker.namespace(&name)?;
    wait_for_offset(&broker, &namespace, &query).await?;
    let not_found = || Refusal::new(Code::KeyNotFound, format!("the key {key:?} has no value"));
    let found = match broker.stores.latest_in_memory(&namespace, &key) {
        Ok(found) => found,
        Err(NotInMemory) => {
            let (stores, of) = (broker.stores.clone(), key.clone());
            broker.reads.run(move || Ok(stores.latest(&namespace, &of)?)).await?
        }
    };
    let mut body = Vec::new();
    push_stored(&mut body, &found.ok_or_else(not_found)?, None)?;
    Ok(json(body))
}

/// Publish a key's new value: the body, whatever it is. Of `application/json` the whole body is the
/// value.
#[utoipa::path(
    put,
    path = "/v1/namespaces/{ns}/keys/{key}",
    operation_id = "putKey",
    tag = "keys",
    params(openapi::Ns, openapi::Key, openapi::PublishHeaders),
    request_body(content(
        (openapi::Anything = "application/json"),
        (String = "text/plain"),
        (Vec<u8> = "application/octet-stream"),
    )),
    responses((status = 200, description = "Durable", body = publish::Published), openapi::Problems)
)]
pub(crate) async fn put(State(broker): Shared, request: Request) -> Result<Response, Refusal> {
    let (parts, mut body) = body::split(request, &broker);
    let put = async {
        let (name, key) = (path::namespace(&parts.uri)?, path::key(&parts.uri)?);
        Query::parse(&parts.uri, &[])?;
        let conditions = Conditions::of(&parts.headers)?;
        let body_type = media::body_type(&parts.headers);
        if matches!(body_type, BodyType::Ndjson | BodyType::Frames) {
            let detail = "a key has one value: the body can't be a stream of records or a frame";
            return Err(Refusal::new(Code::UnsupportedMedia, detail));
        }
        let gathered = body.gather(VALUE_LIMIT).await?;
        let draft = publish::value(Some(&key), body_type, &gathered.bytes)?;
        publish::store(&broker, &name, conditions, draft).await
    };
    let put = put.await;
    if put.is_err() {
        body.discard().await;
    }
    put
}

/// Delete a key: publish a tombstone.
#[utoipa::path(
    delete,
    path = "/v1/namespaces/{ns}/keys/{key}",
    operation_id = "deleteKey",
    tag = "keys",
    params(openapi::Ns, openapi::Key, openapi::PublishHeaders),
    responses((status = 200, description = "Durable", body = publish::Published), openapi::Problems)
)]
pub(crate) async fn delete(State(broker): Shared, uri: Uri, headers: HeaderMap) -> Result<Response, Refusal> {
    let (name, key) = (path::namespace(&uri)?, path::key(&uri)?);
    Query::parse(&uri, &[])?;
    let conditions = Conditions::of(&headers)?;
    let namespace = broker.namespace(&name)?;
    let draft = Draft::of(&NewRecord::tombstone(&key))?;
    publish::append(&broker, &namespace, conditions, draft).await
}

/// The latest records of a range of keys, in the order of keys.
///
/// A page ends with the key to go on behind, as `next`, or null at the end.
#[utoipa::path(
    get,
    path = "/v1/namespaces/{ns}/keys",
    operation_id = "rangeKeys",
    tag = "keys",
    params(
        openapi::Ns,
        ("prefix" = Option<String>, Query, description = "Only keys that begin so"),
        ("from" = Option<String>, Query, description = "The first key of the range"),
        ("to" = Option<String>, Query, description = "The key before which the range ends"),
        ("after" = Option<String>, Query, description = "Go on behind this key: a page's `next`"),
        ("limit" = Option<u64>, Query, minimum = 1, maximum = 10_000, description = "Records at most; 1000 by default"),
        openapi::Seen,
    ),
    responses((status = 200, description = "A page", body = openapi::KeyPage), openapi::Problems)
)]
pub(crate) async fn range(State(broker): Shared, uri: Uri) -> Result<Response, Refusal> {
    const KNOWN: [Known; 7] = [
        Known::Once("prefix"),
        Known::Once("from"),
        Known::Once("to"),
        Known::Once("after"),
        Known::Once("limit"),
        MIN_OFFSET,
        WAIT,
    ];
    let name = path::namespace(&uri)?;
    let query = Query::parse(&uri, &KNOWN)?;
    let bound = |name: &str| match query.get(name) {
        None => Ok(None),
        Some(key) => check_key(key).map(|()| Some(key.to_owned())).map_err(|error| Refusal::from(error).within(name)),
    };
    let range = KeyRange {
        prefix: query.get("prefix").unwrap_or_default().to_owned(),
        from: bound("from")?,
        to: bound("to")?,
        after: bound("after")?,
        limit: query.limit(DEFAULT_PAGE_RECORDS, MAX_PAGE_RECORDS)?,
    };
    let namespace = broker.namespace(&name)?;
    wait_for_offset(&broker, &namespace, &query).await?;
    let stores = broker.stores.clone();
    // Not among the short reads, which would wait behind a long page.
    let body = tokio::task::spawn_blocking(move || {
        let page = stores.range(&namespace, &range)?;
        let mut body = b"{\"records\":[".to_vec();
        for (index, record) in page.records.iter().enumerate() {
            if index > 0 {
                body.push(b',');
            }
            push_stored(&mut body, record, None)?;
        }
        body.extend_from_slice(b"],\"next\":");
        serde_json::to_writer(&mut body, &page.next)?;
        body.push(b'}');
        Ok::<_, Refusal>(body)
    });
    Ok(json(body.await??))
}

/// Waits until the stores have seen the offset that a query names.
async fn wait_for_offset(broker: &Broker, namespace: &Namespace, query: &Query) -> Result<(), Refusal> {
    let wait = query.wait()?.map_or(DEFAULT_WAIT, Duration::from_millis);
    let Some(offset) = query.number("min_offset", MAX_SAFE_INTEGER)? else { return Ok(()) };
    let late = || {
        let detail = format!("the stores have not seen offset {offset} of {:?} within {wait:?}", &**namespace.name());
        Refusal::new(Code::NotCaughtUp, detail)
    };
    tokio::select! {
        applied = timeout(wait, broker.stores.wait_applied(namespace, offset)) => Ok(applied.map_err(|_| late())??),
        () = broker.closing.cancelled() => Err(Refusal::new(Code::ShuttingDown, "the broker is shutting down")),
    }
}

/// Appends a record of a store as JSON.
pub(crate) fn push_stored(out: &mut Vec<u8>, stored: &StoredRecord, namespace: Option<&str>) -> Result<(), Refusal> {
    let record = stored.record()?;
    Ok(write_record(out, &record, &time_text(record.time_micros), namespace, Lines::Keep)?)
}
