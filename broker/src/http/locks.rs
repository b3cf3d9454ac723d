//! `/v1/locks/{lock}`: one owner at a time.

use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use consumers::locks::{Held, LockName, LocksError};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use wire::Code;
use wire::json::time_text;
use wire::limits::{DEFAULT_LOCK_TTL_MS, MAX_LOCK_TTL_MS, MAX_WAIT_MS};
use wire::name::check_owner;

use crate::http::answer::answer;
use crate::http::body::{self, Limit};
use crate::http::error::Refusal;
use crate::http::query::Query;
use crate::http::{openapi, path, strict};
use crate::state::{Broker, Shared};

/// The largest body: an owner, with room for escapes.
const LIMIT: Limit = Limit { bytes: 4 << 10, code: Code::InvalidBody };

/// Who asks for a lock.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct AskBody {
    /// What the owner calls itself, and nobody else does: 1 to 255 bytes.
    owner: String,
    /// How long the lock is the owner's, if nothing more is heard of it, milliseconds.
    #[serde(default = "default_ttl_ms")]
    #[schema(minimum = 1, maximum = 86_400_000, default = 30_000)]
    ttl_ms: u64,
    /// How long to wait for it, milliseconds.
    #[serde(default)]
    #[schema(maximum = 60_000, default = 0)]
    wait_ms: u64,
}

/// Who needs a lock for longer.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ExtendLockBody {
    /// The holder's token.
    token: u64,
    /// How long the lock is its, from now on, milliseconds; if it is not given, the longest time that it asked for
    /// before.
    #[schema(minimum = 1, maximum = 86_400_000)]
    ttl_ms: Option<u64>,
}

/// Who needs a lock no more.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ReleaseBody {
    /// The holder's token.
    token: u64,
}

/// A lock that is held.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct HeldLock {
    /// Its name.
    name: String,
    /// Who holds it.
    owner: String,
    /// What the holder shows to those that it writes to, so that they can refuse one that held it before: every later
    /// holder has a higher one.
    token: u64,
    /// When the holder's time is over, if nothing more is heard of it: RFC 3339.
    expires: String,
}

/// A lock that is held, and how many want it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct LockReport {
    #[serde(flatten)]
    #[schema(inline)]
    held: HeldLock,
    /// How many wait for it.
    waiting: usize,
}

impl HeldLock {
    fn of(name: &LockName, held: &Held) -> HeldLock {
        let Held { owner, token, expires_micros } = held;
        HeldLock {
            name: name.to_string(),
            owner: owner.to_string(),
            token: *token,
            expires: time_text(*expires_micros),
        }
    }
}

fn default_ttl_ms() -> u64 {
    DEFAULT_LOCK_TTL_MS.into()
}

/// Ask for a lock, and wait for it behind those that came before.
///
/// Durable when it is answered. An owner that holds the lock gets its token again, and a new time: so it is safe to
/// ask again where no answer came. After a restart of the broker a lock is its holder's for its whole time once more.
#[utoipa::path(
    post,
    path = "/v1/locks/{lock}",
    operation_id = "askForLock",
    tag = "locks",
    params(openapi::Lock),
    request_body = AskBody,
    responses((status = 200, description = "The owner holds it", body = HeldLock), openapi::Problems)
)]
pub(crate) async fn ask(State(broker): Shared, request: Request) -> Result<Response, Refusal> {
    let (name, body) = read::<AskBody>(&broker, request).await?;
    strict::named(check_owner(&body.owner))?;
    let ttl = ttl(body.ttl_ms)?;
    let wait = strict::millis("wait_ms", body.wait_ms, 0..=MAX_WAIT_MS)?;
    let held = tokio::select! {
        held = broker.locks.ask(&name, &body.owner, ttl, wait) => held.map_err(|error| refused(&name, error))?,
        () = broker.closing.cancelled() => return Err(refused(&name, LocksError::Closed)),
    };
    answer(&HeldLock::of(&name, &held))
}

/// Hold a lock for longer.
#[utoipa::path(
    post,
    path = "/v1/locks/{lock}/extend",
    operation_id = "extendLock",
    tag = "locks",
    params(openapi::Lock),
    request_body = ExtendLockBody,
    responses((status = 200, description = "Held for longer", body = HeldLock), openapi::Problems)
)]
pub(crate) async fn extend(State(broker): Shared, request: Request) -> Result<Response, Refusal> {
    let (name, body) = read::<ExtendLockBody>(&broker, request).await?;
    let ttl = body.ttl_ms.map(ttl).transpose()?;
    let held = broker.locks.extend(&name, body.token, ttl).await.map_err(|error| refused(&name, error))?;
    answer(&HeldLock::of(&name, &held))
}

/// Give a lock back: the next that waits gets it.
#[utoipa::path(
    post,
    path = "/v1/locks/{lock}/release",
    operation_id = "releaseLock",
    tag = "locks",
    params(openapi::Lock),
    request_body = ReleaseBody,
    responses((status = 204, description = "Released, durably"), openapi::Problems)
)]
pub(crate) async fn release(State(broker): Shared, request: Request) -> Result<Response, Refusal> {
    let (name, body) = read::<ReleaseBody>(&broker, request).await?;
    broker.locks.release(&name, body.token).await.map_err(|error| refused(&name, error))?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Look at a lock.
#[utoipa::path(
    get,
    path = "/v1/locks/{lock}",
    operation_id = "getLock",
    tag = "locks",
    params(openapi::Lock),
    responses((status = 200, description = "It is held", body = LockReport), openapi::Problems)
)]
pub(crate) async fn get(State(broker): Shared, uri: Uri) -> Result<Response, Refusal> {
    let name = path::lock(&uri)?;
    Query::parse(&uri, &[])?;
    let state = broker.locks.state(&name).await.map_err(|error| refused(&name, error))?;
    let free = || Refusal::new(Code::LockNotHeld, format!("nobody holds the lock {name:?}"));
    let state = state.ok_or_else(free)?;
    answer(&LockReport { held: HeldLock::of(&name, &state.held), waiting: state.waiting })
}

/// A call with a body in JSON.
async fn read<T: DeserializeOwned>(broker: &Broker, request: Request) -> Result<(LockName, T), Refusal> {
    let (parts, gathered) = body::gather(request, broker, LIMIT).await?;
    let name = path::lock(&parts.uri)?;
    Query::parse(&parts.uri, &[])?;
    Ok((name, strict::parse(&gathered.bytes)?))
}

fn ttl(ttl_ms: u64) -> Result<Duration, Refusal> {
    strict::millis("ttl_ms", ttl_ms, 1..=MAX_LOCK_TTL_MS.into())
}

/// Why a call on a lock is refused.
fn refused(name: &LockName, error: LocksError) -> Refusal {
    let code = match error {
        LocksError::Held { owner, expires_micros } => {
            let detail = format!("{owner:?} holds the lock {name:?}");
            return Refusal::new(Code::LockHeld, detail).with_holder(owner, time_text(expires_micros));
        }
        LocksError::Append(error) => return error.into(),
        LocksError::Lost => Code::LockLost,
        LocksError::TooManyWaiters => Code::TooManyWaiters,
        LocksError::Closed => Code::ShuttingDown,
        error => return Refusal::internal(error),
    };
    Refusal::new(code, error.to_string())
}
