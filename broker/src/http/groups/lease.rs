//! `POST …/groups/{group}/lease`: records for a worker; `…/leave`: a worker says goodbye.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use consumers::groups::{Ask, Leased};
use serde::Deserialize;
use tlog::SharedFrame;
use utoipa::ToSchema;
use wire::frame::Records;
use wire::json::{Lines, time_text, write_record};
use wire::limits::{MAX_LEASED, MAX_PAGE_BYTES, MAX_WAIT_MS};
use wire::name::check_worker;

use super::call::Call;
use crate::http::answer::json;
use crate::http::error::Refusal;
use crate::http::{openapi, strict};
use crate::state::Shared;

/// Who asks for records.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct LeaseBody {
    /// What the worker calls itself: 1 to 255 bytes.
    worker: String,
    /// Records at most; 1 by default.
    #[serde(default = "one")]
    #[schema(minimum = 1, maximum = 10_000, default = 1)]
    max: usize,
    /// How long to wait for a first one, milliseconds.
    #[serde(default)]
    #[schema(maximum = 60_000, default = 0)]
    wait_ms: u64,
}

/// Who goes.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct LeaveBody {
    /// What the worker calls itself.
    worker: String,
}

fn one() -> usize {
    1
}

/// Lease records to a worker.
///
/// They are the worker's until they are acked or given back, or `expires`: then they are delivered again.
#[utoipa::path(
    post,
    path = "/v1/namespaces/{ns}/groups/{group}/lease",
    operation_id = "leaseRecords",
    tag = "groups",
    params(openapi::Ns, openapi::Group),
    request_body = LeaseBody,
    responses((status = 200, description = "Records, perhaps none", body = openapi::LeasedRecords), openapi::Problems)
)]
pub(crate) async fn lease(State(broker): Shared, request: Request) -> Result<Response, Refusal> {
    let (call, body) = Call::read::<LeaseBody>(&broker, request).await?;
    strict::named(check_worker(&body.worker))?;
    let max = strict::within("max", body.max, 1..=MAX_LEASED)?;
    let wait = strict::millis("wait_ms", body.wait_ms, 0..=MAX_WAIT_MS)?;
    let ask = Ask { worker: body.worker, max, max_bytes: MAX_PAGE_BYTES, max_held: usize::MAX, wait };
    let leased = tokio::select! {
        leased = broker.groups.lease(&call.namespace, &call.group, ask) => leased.map_err(|error| call.refused(error))?,
        () = broker.closing.cancelled() => Vec::new(),
    };
    let mut text = b"{\"records\":[".to_vec();
    write_leased(&mut text, &leased, Form::Array)?;
    text.extend_from_slice(b"]}");
    Ok(json(text))
}

/// A worker goes: what is leased to it is delivered again at once.
#[utoipa::path(
    post,
    path = "/v1/namespaces/{ns}/groups/{group}/leave",
    operation_id = "leaveGroup",
    tag = "groups",
    params(openapi::Ns, openapi::Group),
    request_body = LeaveBody,
    responses((status = 204, description = "It has left"), openapi::Problems)
)]
pub(crate) async fn leave(State(broker): Shared, request: Request) -> Result<Response, Refusal> {
    let (call, body) = Call::read::<LeaveBody>(&broker, request).await?;
    strict::named(check_worker(&body.worker))?;
    let left = broker.groups.leave(&call.namespace, &call.group, &body.worker).await;
    left.map_err(|error| call.refused(error))?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Appends leased records with their tokens. Those of one frame that ascend are found in one pass over it.
pub(super) fn write_leased(out: &mut Vec<u8>, leased: &[Leased], form: Form) -> Result<(), Refusal> {
    let mut place: Option<Place<'_>> = None;
    let mut expires = (i64::MIN, String::new());
    for (index, leased) in leased.iter().enumerate() {
        let mut at = match place.take() {
            Some(at) if Arc::ptr_eq(at.frame, &leased.frame) && at.next <= leased.index => at,
            _ => Place::of(&leased.frame),
        };
        let record = at.records.nth((leased.index - at.next) as usize);
        let absent = || Refusal::internal(format!("a lease is of record {} of a shorter frame", leased.index));
        let record = record.ok_or_else(absent)?;
        at.next = leased.index + 1;
        if expires.0 != leased.expires_micros {
            expires = (leased.expires_micros, time_text(leased.expires_micros));
        }
        if index > 0 && form == Form::Array {
            out.push(b',');
        }
        write_record(out, &record, &at.time, None, if form == Form::Lines { Lines::Fold } else { Lines::Keep })?;
        // The record's closing brace goes behind what is the lease's.
        out.pop();
        let (token, delivery, expires) = (leased.token, leased.delivery, &expires.1);
        let grant = format!(",\"token\":\"{token}\",\"delivery\":{delivery},\"expires\":\"{expires}\"}}");
        out.extend_from_slice(grant.as_bytes());
        if form == Form::Lines {
            out.push(b'\n');
        }
        place = Some(at);
    }
    Ok(())
}

/// What leased records are written as.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Form {
    /// The elements of an array.
    Array,
    /// A line each.
    Lines,
}

/// A place in a frame.
struct Place<'a> {
    frame: &'a Arc<SharedFrame>,
    /// The frame's time as text.
    time: String,
    records: Records<'a>,
    /// Which record is the next one.
    next: u32,
}

impl<'a> Place<'a> {
    fn of(frame: &'a Arc<SharedFrame>) -> Place<'a> {
        Place { frame, time: time_text(frame.time_micros()), records: frame.records(), next: 0 }
    }
}
