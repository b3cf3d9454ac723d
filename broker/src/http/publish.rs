//! `POST /v1/namespaces/{ns}/records`: publish.
//!
//! One body is one batch is one frame (invariant 11), but for NDJSON, which is of any length and is
//! stored in batches ([`crate::http::ndjson`]). Nothing is created or stored before the whole body
//! has been parsed and every condition that can be checked has been.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::IF_MATCH;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Uri};
use axum::response::Response;
use serde::Serialize;
use tlog::{Append, AppendError, Appended, Namespace};
use utoipa::ToSchema;
use wire::limits::{MAX_FRAME_BYTES, MAX_JSON_BODY_BYTES, MAX_RECORD_BYTES};
use wire::{Code, Draft, Kind, NamespaceConfig, NamespaceName, NewRecord, Offset, Producer, ProducerId};

use crate::http::answer::answer;
use crate::http::body::{self, Arriving, Limit};
use crate::http::error::Refusal;
use crate::http::hex::Hex;
use crate::http::media::{self, BodyType};
use crate::http::query::{self, Known, Query};
use crate::http::{batch, ndjson, openapi, path};
use crate::state::{Broker, Shared};

/// The producer's name for itself.
pub(crate) const PRODUCER_ID: HeaderName = HeaderName::from_static("producer-id");

/// Which life of the producer, from 0.
pub(crate) const PRODUCER_EPOCH: HeaderName = HeaderName::from_static("producer-epoch");

/// Which batch of that life, from 0.
pub(crate) const PRODUCER_SEQ: HeaderName = HeaderName::from_static("producer-seq");

/// The largest body that is one value.
pub(crate) const VALUE_LIMIT: Limit = Limit { bytes: MAX_RECORD_BYTES, code: Code::RecordTooLarge };

/// The largest body of JSON.
const JSON_LIMIT: Limit = Limit { bytes: MAX_JSON_BODY_BYTES, code: Code::BatchTooLarge };

/// The largest body that is one frame.
const FRAME_LIMIT: Limit = Limit { bytes: MAX_FRAME_BYTES, code: Code::BatchTooLarge };

/// Where a batch was stored.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Published {
    /// Offset of the first record.
    first_offset: Offset,
    /// The offset behind the last.
    next_offset: Offset,
    /// Object ids, in order.
    #[schema(value_type = Vec<String>, example = json!(["3f0000010000000a"]))]
    ids: Vec<Hex<8>>,
    /// The namespace's chain after the batch.
    #[schema(value_type = String)]
    chain: Hex<32>,
    /// Whether the batch had been stored before: a retry of an idempotent producer.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    duplicate: bool,
}

impl Published {
    fn of(appended: &Appended) -> Published {
        let frame = &appended.frame;
        Published {
            first_offset: frame.base_offset(),
            next_offset: frame.next_offset(),
            ids: frame.records().map(|record| Hex(record.id.get().to_be_bytes())).collect(),
            chain: Hex(frame.chain().0),
            duplicate: appended.duplicate,
        }
    }
}

/// On what conditions a batch is to be stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Conditions {
    /// `If-Match`: the offset that the first record must get.
    pub(crate) if_next_offset: Option<Offset>,
    /// Who sends it, if it is to be stored once.
    pub(crate) producer: Option<Producer>,
}

impl Conditions {
    /// The conditions that a request's headers name.
    pub(crate) fn of(headers: &HeaderMap) -> Result<Conditions, Refusal> {
        Ok(Conditions { if_next_offset: if_match(headers)?, producer: producer(headers)? })
    }

    /// Whether they hold for a namespace that does not exist yet, so that it may be created.
    fn check_for_new(&self) -> Result<(), AppendError> {
        match (self.if_next_offset, self.producer) {
            (Some(1..), _) => Err(AppendError::OffsetMismatch { next_offset: 0 }),
            (_, Some(Producer { sequence: 1.., .. })) => Err(AppendError::ProducerGap { expected: 0 }),
            _ => Ok(()),
        }
    }
}

fn single<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Result<Option<&'h HeaderValue>, Refusal> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (value, None) => Ok(value),
        (_, Some(_)) => Err(Refusal::parameter(format!("the header {name} is given twice"))),
    }
}

fn if_match(headers: &HeaderMap) -> Result<Option<Offset>, Refusal> {
    let Some(value) = single(headers, &IF_MATCH)? else { return Ok(None) };
    let text = value.to_str().unwrap_or_default().trim();
    let bare = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text);
    let refusal = || Refusal::parameter(format!("If-Match is {value:?}, it must be an offset such as \"17\""));
    query::offset(bare).map(Some).ok_or_else(refusal)
}

fn producer(headers: &HeaderMap) -> Result<Option<Producer>, Refusal> {
    let refuse = |detail: String| Refusal::new(Code::InvalidProducer, detail);
    let values = (single(headers, &PRODUCER_ID)?, single(headers, &PRODUCER_EPOCH)?, single(headers, &PRODUCER_SEQ)?);
    let (id, epoch, sequence) = match values {
        (None, None, None) => return Ok(None),
        (Some(id), Some(epoch), Some(sequence)) => (id, epoch, sequence),
        _ => return Err(refuse("Producer-Id, Producer-Epoch and Producer-Seq go together".into())),
    };
    let number = |name: &HeaderName, value: &HeaderValue, max: u64| {
        let number = query::number(value.to_str().unwrap_or_default()).filter(|number| *number <= max);
        number.ok_or_else(|| refuse(format!("{name} is {value:?}, it must be a number from 0 to {max}")))
    };
    let id = std::str::from_utf8(id.as_bytes()).map_err(|_| refuse("Producer-Id is not UTF-8".into()))?;
    Ok(Some(Producer {
        id: ProducerId::of(id)?,
        epoch: number(&PRODUCER_EPOCH, epoch, u64::from(u32::MAX))? as u32,
        sequence: number(&PRODUCER_SEQ, sequence, u64::MAX)?,
    }))
}

/// Publish: append records to a namespace. The first publish creates it.
///
/// What the body is follows from its media type; where that is none of those listed, the body is one
/// record's value, and its key stands in `key`.
#[utoipa::path(
    post,
    path = "/v1/namespaces/{ns}/records",
    operation_id = "publishRecords",
    tag = "records",
    params(
        openapi::Ns,
        ("key" = Option<String>, Query, description = "The record's key, where the body is one record's value"),
        openapi::PublishHeaders,
    ),
    request_body(content(
        (openapi::NewRecords = "application/json"),
        (openapi::NewRecord = "application/x-ndjson"),
        (Vec<u8> = "application/vnd.tlog.frames"),
        (String = "text/plain"),
        (Vec<u8> = "application/octet-stream"),
    )),
    responses(
        (status = 200, description = "Durable. Of NDJSON: how far it went", body = openapi::Stored),
        openapi::Problems,
    )
)]
pub(crate) async fn publish(State(broker): Shared, request: Request) -> Result<Response, Refusal> {
    let (parts, mut body) = body::split(request, &broker);
    let published = publish_body(&broker, &parts.uri, &parts.headers, &mut body).await;
    if published.is_err() {
        body.discard().await;
    }
    published
}

async fn publish_body(
    broker: &Arc<Broker>,
    uri: &Uri,
    headers: &HeaderMap,
    body: &mut Arriving,
) -> Result<Response, Refusal> {
    let name = path::namespace(uri)?;
    let body_type = media::body_type(headers);
    let query = match body_type {
        BodyType::Json | BodyType::Ndjson | BodyType::Frames => Query::parse(uri, &[])?,
        BodyType::Text | BodyType::Other => Query::parse(uri, &[Known::Once("key")])?,
    };
    let conditions = Conditions::of(headers)?;
    let draft = match body_type {
        BodyType::Ndjson => return ndjson::publish(broker, &name, conditions, body).await,
        BodyType::Json => batch::json(&body.gather(JSON_LIMIT).await?.bytes)?,
        BodyType::Frames => frame(&body.gather(FRAME_LIMIT).await?.bytes)?,
        BodyType::Text | BodyType::Other => {
            let gathered = body.gather(VALUE_LIMIT).await?;
            if gathered.bytes.is_empty() {
                return Err(Refusal::new(Code::EmptyBatch, "the body is empty"));
            }
            value(query.get("key"), body_type, &gathered.bytes)?
        }
    };
    store(broker, &name, conditions, draft).await
}

/// The draft that a body is.
fn frame(bytes: &[u8]) -> Result<Draft, Refusal> {
    if bytes.is_empty() {
        return Err(Refusal::new(Code::EmptyBatch, "the body is empty"));
    }
    Ok(Draft::decode(bytes.to_vec())?)
}

/// The draft of one record whose value is given.
pub(crate) fn value(key: Option<&str>, body_type: BodyType, bytes: &[u8]) -> Result<Draft, Refusal> {
    let is_text = body_type == BodyType::Text && std::str::from_utf8(bytes).is_ok();
    let (kind, value) = match body_type {
        BodyType::Json => (Kind::Json, batch::value(bytes)?),
        _ if is_text => (Kind::Text, bytes),
        _ => (Kind::Bytes, bytes),
    };
    Ok(Draft::of(&NewRecord { key, headers: &[], kind, value })?)
}

/// Stores a draft, in a namespace that is created where it does not exist, and says where.
pub(crate) async fn store(
    broker: &Broker,
    name: &NamespaceName,
    conditions: Conditions,
    draft: Draft,
) -> Result<Response, Refusal> {
    let namespace = ensure(broker, name, conditions).await?;
    append(broker, &namespace, conditions, draft).await
}

/// Stores a draft in a namespace, and says where.
pub(crate) async fn append(
    broker: &Broker,
    namespace: &Namespace,
    conditions: Conditions,
    draft: Draft,
) -> Result<Response, Refusal> {
    let Conditions { if_next_offset, producer } = conditions;
    let appended = broker.log.append(namespace, Append { draft, producer, if_next_offset }).await?;
    answer(&Published::of(&appended))
}

/// The namespace of this name; created where it does not exist and the conditions allow it.
pub(crate) async fn ensure(
    broker: &Broker,
    name: &NamespaceName,
    conditions: Conditions,
) -> Result<Namespace, Refusal> {
    if let Some(namespace) = broker.log.namespace(name)? {
        return Ok(namespace);
    }
    conditions.check_for_new()?;
    match broker.log.create(name, NamespaceConfig::default()).await {
        Ok(created) => Ok(created.namespace),
        // Another caller has just created it, with a configuration of its own.
        Err(AppendError::ConfigConflict) => broker.namespace(name),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conditions(pairs: &[(&str, &str)]) -> Result<Conditions, Option<Code>> {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        }
        Conditions::of(&headers).map_err(|refusal| refusal.code())
    }

    #[test]
    fn if_match_is_an_offset() {
        assert_eq!(conditions(&[]), Ok(Conditions::default()));
        for good in ["17", "\"17\"", " \"17\" "] {
            assert_eq!(conditions(&[("if-match", good)]).unwrap().if_next_offset, Some(17), "{good}");
        }
        for bad in ["", "*", "\"17", "W/\"17\"", "-1", "\"1\", \"2\"", "1.0"] {
            assert_eq!(conditions(&[("if-match", bad)]), Err(Some(Code::InvalidParameter)), "{bad}");
        }
        let twice = [("if-match", "1"), ("if-match", "1")];
        assert_eq!(conditions(&twice), Err(Some(Code::InvalidParameter)));
    }

    #[test]
    fn a_producer_is_named_wholly() {
        let all = [("producer-id", "p"), ("producer-epoch", "4294967295"), ("producer-seq", "18446744073709551615")];
        let producer = conditions(&all).unwrap().producer.unwrap();
        assert_eq!(
            (producer.id, producer.epoch, producer.sequence),
            (ProducerId::of("p").unwrap(), u32::MAX, u64::MAX)
        );
        let refused = Err(Some(Code::InvalidProducer));
        for left_out in 0..3 {
            let half: Vec<_> = all.iter().enumerate().filter(|(i, _)| *i != left_out).map(|(_, pair)| *pair).collect();
            assert_eq!(conditions(&half), refused);
        }
        for (at, bad) in [(0, ""), (1, "4294967296"), (1, "x"), (2, "-1"), (2, "18446744073709551616")] {
            let mut pairs = all;
            pairs[at].1 = bad;
            assert_eq!(conditions(&pairs), refused, "{bad}");
        }
        let long = "p".repeat(256);
        assert_eq!(conditions(&[("producer-id", &long), all[1], all[2]]), refused);
    }
}
