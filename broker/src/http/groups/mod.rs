//! `/v1/namespaces/{ns}/groups`: consumer groups.
//!
//! | module | calls |
//! |---|---|
//! | this one | create, look at, list, delete; seek, redrive |
//! | [`lease`] | lease, leave |
//! | [`stream`] | leases as one long answer |
//! | [`settle`] | ack, nack, extend |
//! | [`call`] | what they share: which group, a strict body |

mod call;
pub(crate) mod lease;
pub(crate) mod settle;
pub(crate) mod stream;

use axum::extract::{Request, State};
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use consumers::groups::{GroupState, GroupsError, Seek};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use wire::group::Start;
use wire::json::time_text;
use wire::limits::MAX_LIST_NAMESPACES;
use wire::{Code, GroupConfig, Offset};

use crate::http::answer::{answer, page};
use crate::http::error::Refusal;
use crate::http::query::{Known, Query};
use crate::http::{openapi, path, strict};
use crate::state::Shared;
use call::Call;

/// A group in a list, or as it was put.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct GroupInfo {
    /// Its name.
    name: String,
    /// Its configuration.
    #[schema(value_type = openapi::GroupConfig)]
    config: GroupConfig,
}

/// A page of groups.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct GroupPage {
    /// In the order of names.
    groups: Vec<GroupInfo>,
    /// The name to go on behind, as `after`; null at the end.
    #[schema(required)]
    next: Option<String>,
}

/// A group, and how far it has come.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct GroupReport {
    /// Its name.
    name: String,
    /// Its configuration.
    #[schema(value_type = openapi::GroupConfig)]
    config: GroupConfig,
    /// All records below are acked.
    floor: Offset,
    /// How far it is behind.
    lag: Lag,
    /// Records that are leased.
    in_flight: u64,
    /// Deliveries since the group was last taken up; so are the next two.
    delivered: u64,
    /// Deliveries of records that had been delivered before.
    redelivered: u64,
    /// Records that were given up.
    dead_lettered: u64,
    /// Whether it is held up by what is not settled: 65,536 records that are leased, that wait or whose keys wait, or
    /// 524,288 behind such ones. No others go out until one of them is settled.
    full: bool,
    /// Who works.
    workers: Vec<Worker>,
}

/// How far a group is behind.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Lag {
    /// Records that are not acked.
    records: u64,
    /// The age of the oldest of them.
    seconds: f64,
}

/// A worker of a group.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Worker {
    /// Its name.
    name: String,
    /// Records that are leased to it.
    in_flight: u64,
    /// When it last gave a sign of life, RFC 3339.
    seen: String,
}

impl GroupReport {
    fn of(name: String, state: GroupState) -> GroupReport {
        let workers = state.workers.into_iter().map(|worker| Worker {
            name: worker.name,
            in_flight: worker.in_flight,
            seen: time_text(worker.seen_micros),
        });
        GroupReport {
            name,
            config: state.config,
            floor: state.floor,
            lag: Lag { records: state.lag_records, seconds: state.lag_micros as f64 / 1e6 },
            in_flight: state.in_flight,
            delivered: state.delivered,
            redelivered: state.redelivered,
            dead_lettered: state.dead_lettered,
            full: state.full,
            workers: workers.collect(),
        }
    }
}

/// Where a group is to go on: `to` or `time`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SeekBody {
    /// `"earliest"`, `"latest"` or an offset.
    #[schema(value_type = Option<openapi::Anything>)]
    to: Option<Start>,
    /// With the first record that was appended at this time or later, RFC 3339.
    time: Option<String>,
}

/// Where a group goes on.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Moved {
    /// The first record that is not acked.
    floor: Offset,
}

/// What a redrive has done.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Redriven {
    /// How many dead letters were published where they came from.
    redriven: u64,
}

/// Create a group, or give one that is there this configuration.
///
/// It keeps what it has acked. Only `start` can't be changed: `seek` moves a group.
#[utoipa::path(
    put,
    path = "/v1/namespaces/{ns}/groups/{group}",
    operation_id = "putGroup",
    tag = "groups",
    params(openapi::Ns, openapi::Group),
    request_body(content = Option<openapi::GroupConfig>, description = "Its configuration; none: the defaults"),
    responses(
        (status = 201, description = "Created", body = GroupInfo),
        (status = 200, description = "It was there", body = GroupInfo),
        openapi::Problems,
    )
)]
pub(crate) async fn put(State(broker): Shared, request: Request) -> Result<Response, Refusal> {
    let (call, config) = Call::read::<Option<GroupConfig>>(&broker, request).await?;
    let config = config.unwrap_or_default();
    config.check().map_err(|detail| Refusal::new(Code::InvalidBody, detail))?;
    let put = broker.groups.configure(&call.namespace, &call.group, config.clone()).await;
    let status = if put.map_err(|error| call.refused(error))?.new { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, answer(&GroupInfo { name: call.group.to_string(), config })?).into_response())
}

/// A group: its configuration, how far it has come, who works.
#[utoipa::path(
    get,
    path = "/v1/namespaces/{ns}/groups/{group}",
    operation_id = "getGroup",
    tag = "groups",
    params(openapi::Ns, openapi::Group),
    responses((status = 200, description = "The group", body = GroupReport), openapi::Problems)
)]
pub(crate) async fn get(State(broker): Shared, uri: Uri) -> Result<Response, Refusal> {
    let call = Call::of(&broker, &uri)?;
    let state = broker.groups.state(&call.namespace, &call.group).await.map_err(|error| call.refused(error))?;
    answer(&GroupReport::of(call.group.to_string(), state))
}

/// Delete a group, and what it knows of acks. The records stay.
#[utoipa::path(
    delete,
    path = "/v1/namespaces/{ns}/groups/{group}",
    operation_id = "deleteGroup",
    tag = "groups",
    params(openapi::Ns, openapi::Group),
    responses((status = 204, description = "Deleted"), openapi::Problems)
)]
pub(crate) async fn delete(State(broker): Shared, uri: Uri) -> Result<Response, Refusal> {
    let call = Call::of(&broker, &uri)?;
    broker.groups.delete(&call.namespace, &call.group).await.map_err(|error| call.refused(error))?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// A namespace's groups, in the order of names.
#[utoipa::path(
    get,
    path = "/v1/namespaces/{ns}/groups",
    operation_id = "listGroups",
    tag = "groups",
    params(
        openapi::Ns,
        ("after" = Option<String>, Query, description = "Go on behind this name: a page's `next`"),
        ("limit" = Option<u64>, Query, minimum = 1, maximum = 1000, description = "Groups at most"),
    ),
    responses((status = 200, description = "A page", body = GroupPage), openapi::Problems)
)]
pub(crate) async fn list(State(broker): Shared, uri: Uri) -> Result<Response, Refusal> {
    let name = path::namespace(&uri)?;
    let query = Query::parse(&uri, &[Known::Once("after"), Known::Once("limit")])?;
    let limit = query.limit(MAX_LIST_NAMESPACES, MAX_LIST_NAMESPACES)?;
    let namespace = broker.namespace(&name)?;
    let groups = broker.groups.clone();
    let list = move || groups.list(&namespace, query.get("after"), limit + 1);
    let found = tokio::task::spawn_blocking(list).await?.map_err(|error| call::refused(&name, None, error))?;
    let (found, next) = page(found, limit, |(name, _)| name.to_string());
    let info = |(name, config): (wire::GroupName, GroupConfig)| GroupInfo { name: name.to_string(), config };
    answer(&GroupPage { groups: found.into_iter().map(info).collect(), next })
}

/// Have a group go on from elsewhere. It forgets its acks and failures; leases end.
#[utoipa::path(
    post,
    path = "/v1/namespaces/{ns}/groups/{group}/seek",
    operation_id = "seekGroup",
    tag = "groups",
    params(openapi::Ns, openapi::Group),
    request_body = SeekBody,
    responses((status = 200, description = "Moved", body = Moved), openapi::Problems)
)]
pub(crate) async fn seek(State(broker): Shared, request: Request) -> Result<Response, Refusal> {
    let (call, body) = Call::read::<SeekBody>(&broker, request).await?;
    let to = match (body.to, body.time) {
        (Some(Start::Earliest), None) => Seek::Earliest,
        (Some(Start::Latest), None) => Seek::Latest,
        (Some(Start::At(offset)), None) => Seek::Offset(offset),
        (None, Some(time)) => {
            let time: Timestamp = time.parse().map_err(|error| {
                Refusal::new(Code::InvalidBody, format!("time is {time:?}, which is none: {error}"))
            })?;
            Seek::Time(time.as_microsecond())
        }
        _ => return Err(Refusal::new(Code::InvalidBody, "one of to and time must be given")),
    };
    let floor = broker.groups.seek(&call.namespace, &call.group, to).await.map_err(|error| call.refused(error))?;
    answer(&Moved { floor })
}

/// Publish the dead letters of a group once more, where they came from.
#[utoipa::path(
    post,
    path = "/v1/namespaces/{ns}/groups/{group}/redrive",
    operation_id = "redriveGroup",
    tag = "groups",
    params(openapi::Ns, openapi::Group),
    responses((status = 200, description = "Published", body = Redriven), openapi::Problems)
)]
pub(crate) async fn redrive(State(broker): Shared, request: Request) -> Result<Response, Refusal> {
    let (call, _) = Call::read::<Option<strict::Nothing>>(&broker, request).await?;
    let redriven = match broker.groups.redrive(&call.namespace, &call.group).await {
        // It is made with the first dead letter: there has been none.
        Err(GroupsError::NamespaceNotFound) => 0,
        redriven => redriven.map_err(|error| call.refused(error))?,
    };
    answer(&Redriven { redriven })
}
