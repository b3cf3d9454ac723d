//! `POST …/groups/{group}/ack`, `/nack`, `/extend`: what becomes of leased records.

use axum::extract::{Request, State};
use axum::response::Response;
use consumers::groups::{Done, GroupsError, Token};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use wire::Code;
use wire::limits::{MAX_LEASE_MS, MAX_RETRY_MS, MAX_TOKENS};

use super::call::Call;
use crate::http::answer::answer;
use crate::http::error::Refusal;
use crate::http::{openapi, strict};
use crate::state::Shared;

/// What is acked.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct AckBody {
    /// As the lease gave them: up to 10,000.
    tokens: Vec<String>,
}

/// What is given back.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NackBody {
    /// As the lease gave them: up to 10,000.
    tokens: Vec<String>,
    /// When to deliver them again, milliseconds from now; as the group is configured, if it is not given.
    #[schema(maximum = 86_400_000)]
    delay_ms: Option<u64>,
    /// Why; it goes with a dead letter, cut to 1 KiB.
    error: Option<String>,
}

/// What is needed for longer.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ExtendBody {
    /// As the lease gave them: up to 10,000.
    tokens: Vec<String>,
    /// When the leases end, milliseconds from now; as the group is configured, if it is not given.
    #[schema(minimum = 1, maximum = 43_200_000)]
    lease_ms: Option<u64>,
}

/// What took effect.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Outcome {
    /// How many tokens did.
    done: usize,
    /// Those that did not, as they hold no more.
    lapsed: Vec<String>,
}

/// Ack records: they are done, and not delivered again.
///
/// Durable when it is answered. A repeated ack finds its tokens lapsed.
#[utoipa::path(
    post,
    path = "/v1/namespaces/{ns}/groups/{group}/ack",
    operation_id = "ackRecords",
    tag = "groups",
    params(openapi::Ns, openapi::Group),
    request_body = AckBody,
    responses((status = 200, description = "Durable", body = Outcome), openapi::Problems)
)]
pub(crate) async fn ack(State(broker): Shared, request: Request) -> Result<Response, Refusal> {
    let (call, body) = Call::read::<AckBody>(&broker, request).await?;
    let tokens = Tokens::read(body.tokens)?;
    let settled = broker.groups.ack(&call.namespace, &call.group, tokens.known.clone()).await;
    tokens.answer(&call, settled)
}

/// Give records back: they are delivered again later, or given up after their last delivery.
#[utoipa::path(
    post,
    path = "/v1/namespaces/{ns}/groups/{group}/nack",
    operation_id = "nackRecords",
    tag = "groups",
    params(openapi::Ns, openapi::Group),
    request_body = NackBody,
    responses((status = 200, description = "Given back", body = Outcome), openapi::Problems)
)]
pub(crate) async fn nack(State(broker): Shared, request: Request) -> Result<Response, Refusal> {
    let (call, body) = Call::read::<NackBody>(&broker, request).await?;
    let tokens = Tokens::read(body.tokens)?;
    let delay = body.delay_ms.map(|millis| strict::millis("delay_ms", millis, 0..=MAX_RETRY_MS)).transpose()?;
    let settled = broker.groups.nack(&call.namespace, &call.group, tokens.known.clone(), delay, body.error).await;
    tokens.answer(&call, settled)
}

/// Have leases end later.
#[utoipa::path(
    post,
    path = "/v1/namespaces/{ns}/groups/{group}/extend",
    operation_id = "extendLeases",
    tag = "groups",
    params(openapi::Ns, openapi::Group),
    request_body = ExtendBody,
    responses((status = 200, description = "Extended", body = Outcome), openapi::Problems)
)]
pub(crate) async fn extend(State(broker): Shared, request: Request) -> Result<Response, Refusal> {
    let (call, body) = Call::read::<ExtendBody>(&broker, request).await?;
    let tokens = Tokens::read(body.tokens)?;
    let lease = body.lease_ms.map(|millis| strict::millis("lease_ms", millis, 1..=MAX_LEASE_MS)).transpose()?;
    let settled = broker.groups.extend(&call.namespace, &call.group, tokens.known.clone(), lease).await;
    tokens.answer(&call, settled)
}

/// The tokens of a call. A text that is no token was given out by no lease, and so it does not hold.
struct Tokens {
    known: Vec<Token>,
    others: Vec<String>,
}

impl Tokens {
    fn read(texts: Vec<String>) -> Result<Tokens, Refusal> {
        if texts.is_empty() || texts.len() > MAX_TOKENS {
            let detail = format!("{} tokens, there must be 1 to {MAX_TOKENS}", texts.len());
            return Err(Refusal::new(Code::InvalidBody, detail));
        }
        let mut tokens = Tokens { known: Vec::with_capacity(texts.len()), others: Vec::new() };
        for text in texts {
            match text.parse() {
                Ok(token) => tokens.known.push(token),
                Err(_) => tokens.others.push(text),
            }
        }
        Ok(tokens)
    }

    fn answer(self, call: &Call, settled: Result<Done, GroupsError>) -> Result<Response, Refusal> {
        let settled = settled.map_err(|error| call.refused(error))?;
        let mut lapsed = self.others;
        lapsed.extend(settled.lapsed.iter().map(Token::to_string));
        if settled.done == 0 {
            let detail = "none of the tokens holds: the leases have ended, or were settled before";
            return Err(Refusal::new(Code::LeaseLapsed, detail).with_lapsed(lapsed));
        }
        answer(&Outcome { done: settled.done, lapsed })
    }
}
