//! What the OpenAPI document says beside the calls themselves: the parameters and shapes that they
//! share. The shapes of `wire` are described here, as `wire` knows nothing of HTTP; a test compares
//! them with the real ones.
#![allow(dead_code, reason = "these types are read by the macros alone")]

use std::collections::BTreeMap;

use serde_json::Value;
use utoipa::openapi::OpenApi as Document;
use utoipa::{IntoParams, IntoResponses, OpenApi, ToSchema};

use crate::http::ndjson::Progress;
use crate::http::publish::Published;

/// The document, before the calls are added.
pub(crate) fn document() -> Document {
    #[derive(OpenApi)]
    #[openapi(
        info(
            title = "TLog",
            description = "A durable append-only log and pub/sub broker.\n\n\
                           Errors are `application/problem+json` (RFC 9457); `type` is stable, `retry` says whether \
                           to send the request again.",
        ),
        components(schemas(Problem, Reset)),
        tags(
            (name = "namespaces", description = "Named, totally ordered streams of records"),
            (name = "records", description = "Publish and read"),
            (name = "follow", description = "Server-Sent Events"),
            (name = "keys", description = "The latest value of each key"),
            (name = "objects", description = "Records by their content-addressed ids"),
            (name = "groups", description = "Workers that share a namespace's records: lease, ack, nack"),
            (name = "locks", description = "One owner at a time, over crashes too"),
            (name = "subscribers", description = "Durable subscribers: rooms, what was missed, what comes"),
            (name = "stores", description = "The ring of 256 stores"),
            (name = "operations", description = "For those who run the broker"),
        )
    )]
    struct Base;

    Base::openapi()
}

/// The namespace in a path.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
pub(crate) struct Ns {
    /// The namespace's name, percent-encoded: 1 to 255 bytes of UTF-8 without control characters.
    ns: String,
}

/// The key in a path.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
pub(crate) struct Key {
    /// The key, percent-encoded: 1 to 1024 bytes of UTF-8 without control characters.
    key: String,
}

/// The group in a path.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
pub(crate) struct Group {
    /// The group's name, percent-encoded: 1 to 255 bytes of UTF-8 without control characters.
    group: String,
}

/// The lock in a path.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
pub(crate) struct Lock {
    /// The lock's name, percent-encoded: 1 to 255 bytes of UTF-8 without control characters.
    lock: String,
}

/// The subscriber in a path.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
pub(crate) struct Subscriber {
    /// The subscriber's name, percent-encoded: 1 to 255 bytes of UTF-8 without control characters.
    name: String,
}

/// The object id in a path.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
pub(crate) struct Id {
    /// The object id: 16 hex digits.
    #[param(example = "3f0000010000000a")]
    id: String,
}

/// What a read of the stores may wait for.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct Seen {
    /// The offset of a record that the answer must take into account.
    min_offset: Option<u64>,
    /// How long to wait until it has been, milliseconds; 5000 by default.
    #[param(maximum = 60_000)]
    wait: Option<u64>,
}

/// The conditions of a publish.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
pub(crate) struct PublishHeaders {
    /// Append only where this is the next offset.
    #[param(rename = "If-Match", example = "\"17\"")]
    if_match: Option<String>,
    /// The producer's name for itself: with its epoch and sequence it makes a retry safe.
    #[param(rename = "Producer-Id")]
    producer_id: Option<String>,
    /// Which life of the producer: a higher one fences the ones before.
    #[param(rename = "Producer-Epoch")]
    producer_epoch: Option<u32>,
    /// Which batch of that life, from 0.
    #[param(rename = "Producer-Seq")]
    producer_seq: Option<u64>,
}

/// Whatever goes wrong.
#[derive(IntoResponses)]
#[response(status = "default", description = "Refused", content_type = "application/problem+json")]
pub(crate) struct Problems(Problem);

/// An error, RFC 9457.
#[derive(ToSchema)]
pub(crate) struct Problem {
    /// `urn:tlog:error:` and the error's name.
    #[schema(example = "urn:tlog:error:offset-mismatch")]
    r#type: String,
    /// What the type means.
    title: String,
    /// The HTTP status.
    status: u16,
    /// What was wrong this time.
    detail: String,
    /// Whether to send the request again: `safe`, `unknown` (it may have taken effect), `never`.
    retry: String,
    /// The namespace's next offset, where that is what was wrong.
    next_offset: Option<u64>,
    /// The first line of NDJSON that was not stored.
    line: Option<u64>,
    /// Records of NDJSON that were stored.
    stored: Option<u64>,
    /// How many tokens took effect: none, where that is what was wrong.
    done: Option<u64>,
    /// The tokens that did not.
    lapsed: Option<Vec<String>>,
    /// Who holds the lock, where that is what was wrong.
    owner: Option<String>,
    /// Until when, if nothing more is heard of the owner: RFC 3339.
    expires: Option<String>,
}

/// What a namespace is configured to do.
#[derive(ToSchema)]
pub(crate) struct Config {
    /// The largest record that it takes, bytes of key, headers and value.
    #[schema(minimum = 1, maximum = 1_048_576, default = 1_048_576)]
    max_record_bytes: Option<u32>,
}

/// What a group is configured to do. What is left out has its default.
#[derive(ToSchema)]
pub(crate) struct GroupConfig {
    /// `none`: any worker takes any record; `key`: records of one key are at one worker at a time, in order.
    #[schema(default = "none")]
    order: Option<String>,
    /// Where a new group begins: `"earliest"`, `"latest"` or an offset.
    #[schema(default = "earliest")]
    start: Option<Value>,
    /// How long a record is a worker's, if nothing is heard of it, milliseconds.
    #[schema(minimum = 1, maximum = 43_200_000, default = 30_000)]
    lease_ms: Option<u64>,
    /// How often a record is delivered before it is given up.
    #[schema(minimum = 1, maximum = 1_000, default = 16)]
    max_deliveries: Option<u32>,
    /// How long a record waits that was given back.
    retry: Option<RetryWait>,
    /// The namespace that dead letters go to; without one they are acked and counted.
    dead_letter: Option<String>,
}

/// `min_ms` the first time, twice as long each time after that, up to `max_ms`.
#[derive(ToSchema)]
pub(crate) struct RetryWait {
    /// The first wait, milliseconds.
    #[schema(default = 1_000)]
    min_ms: Option<u64>,
    /// The longest wait, milliseconds.
    #[schema(maximum = 86_400_000, default = 60_000)]
    max_ms: Option<u64>,
}

/// What a subscriber follows.
#[derive(ToSchema)]
pub(crate) struct Rooms {
    /// The records of one key of one namespace, each.
    rooms: Option<Vec<Room>>,
    /// Namespaces, all of whose records are followed.
    namespaces: Option<Vec<String>>,
}

/// A room: the records of one key.
#[derive(ToSchema)]
pub(crate) struct Room {
    /// The namespace, which must exist.
    namespace: String,
    /// The key.
    key: String,
}

/// A record that is leased.
#[derive(ToSchema)]
pub(crate) struct LeasedRecord {
    #[serde(flatten)]
    #[schema(inline)]
    record: Record,
    /// What settles it.
    #[schema(example = "1f-2a0003-9")]
    token: String,
    /// The how-manieth delivery this is, from 1.
    delivery: u32,
    /// When the lease ends, RFC 3339.
    expires: String,
}

/// What a lease gives.
#[derive(ToSchema)]
pub(crate) struct LeasedRecords {
    /// The records.
    records: Vec<LeasedRecord>,
}

/// Any JSON.
#[derive(ToSchema)]
#[schema(value_type = Value)]
pub(crate) struct Anything(Value);

/// A record to publish. One of `value`, `value_base64` and `tombstone` is there.
#[derive(ToSchema)]
pub(crate) struct NewRecord {
    /// Its key; a tombstone needs one.
    key: Option<String>,
    /// Any JSON, kept as it is written.
    value: Option<Value>,
    /// Bytes, in base64.
    value_base64: Option<String>,
    /// Its headers.
    headers: Option<BTreeMap<String, String>>,
    /// True: the key has no value as of here.
    tombstone: Option<bool>,
}

/// A record, or a batch that is stored wholly or not at all.
#[derive(ToSchema)]
#[serde(untagged)]
pub(crate) enum NewRecords {
    One(NewRecord),
    Batch(Vec<NewRecord>),
}

/// What was stored.
#[derive(ToSchema)]
#[serde(untagged)]
pub(crate) enum Stored {
    Batch(Published),
    Stream(Progress),
}

/// A record.
#[derive(ToSchema)]
pub(crate) struct Record {
    /// Its namespace, where the answer is not of one alone.
    namespace: Option<String>,
    /// Its place in the namespace.
    offset: u64,
    /// Its object id, 16 hex digits.
    #[schema(example = "3f0000010000000a")]
    id: String,
    /// Its key, if it has one.
    key: Option<String>,
    /// Its value, where that is JSON or text; null of a tombstone.
    value: Option<Value>,
    /// Its value, where that is other bytes, in base64.
    value_base64: Option<String>,
    /// Whether it deletes its key.
    tombstone: Option<bool>,
    /// Its headers.
    headers: Option<BTreeMap<String, String>>,
    /// When it was appended, RFC 3339.
    time: String,
}

/// Offsets whose records were lost: the log was damaged, and repaired without them.
#[derive(ToSchema)]
pub(crate) struct Lost {
    /// The first.
    from: u64,
    /// The offset behind the last: where records go on.
    to: u64,
}

/// Records are missing where this stands. It is the `data` of `event: reset`, too.
#[derive(ToSchema)]
pub(crate) struct Reset {
    /// The namespace, where the answer is not of one alone.
    namespace: Option<String>,
    /// The first offset that has no record any more.
    from: u64,
    /// The offset behind the last: where records go on.
    to: u64,
    /// Why: so far always `lost`.
    #[schema(example = "lost")]
    reason: String,
}

/// A line that tells of a reset.
#[derive(ToSchema)]
pub(crate) struct ResetLine {
    /// What is missing.
    reset: Reset,
}

/// A line of NDJSON: a record, or that some are missing.
#[derive(ToSchema)]
#[serde(untagged)]
pub(crate) enum Line {
    Record(Record),
    Reset(ResetLine),
}

/// A page of records.
#[derive(ToSchema)]
pub(crate) struct RecordPage {
    /// The records, in order.
    records: Vec<Record>,
    /// Which were lost, from where the page begins to `next_offset`; left out where none were.
    lost: Option<Vec<Lost>>,
    /// Where to go on.
    next_offset: u64,
    /// The namespace's next offset.
    head: u64,
}

/// A page of the latest records of keys.
#[derive(ToSchema)]
pub(crate) struct KeyPage {
    /// The records, in the order of keys.
    records: Vec<Record>,
    /// The key to go on behind, as `after`; null at the end.
    #[schema(required)]
    next: Option<String>,
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde::Serialize;
    use utoipa::PartialSchema;

    use super::*;

    /// Checks that a shape as it is described has the fields of one that is really sent or taken.
    fn same_fields<Described: PartialSchema>(real: &impl Serialize) {
        let described = serde_json::to_value(Described::schema()).unwrap();
        let names = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<BTreeSet<String>>();
        assert_eq!(names(&described["properties"]), names(&serde_json::to_value(real).unwrap()));
    }

    #[test]
    fn shapes_of_wire_are_described_as_they_are() {
        let mut problem = wire::Problem::new(wire::Code::Internal, "x");
        (problem.next_offset, problem.line, problem.stored) = (Some(1), Some(1), Some(1));
        (problem.done, problem.lapsed) = (Some(0), Some(vec!["1-2-3".into()]));
        (problem.owner, problem.expires) = (Some("anna".into()), Some("1970-01-01T00:00:00Z".into()));
        same_fields::<Problem>(&problem);
        same_fields::<GroupConfig>(&wire::GroupConfig::default());
        same_fields::<RetryWait>(&wire::GroupConfig::default().retry);
        same_fields::<Rooms>(&wire::Rooms::default());
        same_fields::<Room>(&wire::Rooms::default().room("n", "k").rooms[0]);
        same_fields::<Config>(&wire::NamespaceConfig::default());
        let lost = wire::json::Lost { from: 1, to: 2 };
        same_fields::<Lost>(&lost);
        same_fields::<Reset>(&wire::json::Reset { namespace: Some("n".into()), ..lost.reset() });
        same_fields::<ResetLine>(&wire::json::ResetLine { reset: lost.reset() });
        same_fields::<Record>(&wire::json::RecordJson {
            namespace: Some("n".into()),
            offset: 1,
            id: "3f0000010000000a".into(),
            key: Some("k".into()),
            value: Some(serde_json::value::to_raw_value(&1).unwrap()),
            value_base64: Some("AA==".into()),
            tombstone: true,
            headers: BTreeMap::from([("a".into(), "b".into())]),
            time: "1970-01-01T00:00:00Z".into(),
        });
    }
}
