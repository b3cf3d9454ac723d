//! `GET /v1/subscribers/{name}/events`: what a subscriber missed, and then what comes; and acks.

use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use utoipa::ToSchema;
use wire::{Code, SubscriberName};

use super::call;
use crate::http::body::{self, Limit};
use crate::http::delivery::{Delivery, Stand};
use crate::http::error::Refusal;
use crate::http::event_stream::{self, End, Next, Source, last_event_id, not_an_id};
use crate::http::{media, openapi, sse, strict, token};
use crate::state::Shared;

/// The largest body of an ack: the longest token.
const ACK_LIMIT: Limit = Limit { bytes: 64 << 10, code: Code::InvalidBody };

/// Up to where a subscriber has taken what it was sent.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Ack {
    /// The `id` of the last event that was taken.
    id: String,
}

/// Follow a subscriber's rooms as Server-Sent Events: first what it missed since its last ack, then what comes.
///
/// `data` names each record's `namespace`, `id` is an opaque token. `Last-Event-ID` acks, as
/// `POST …/ack` does, all up to it; then the stream goes on behind that. Where records were lost comes
/// `event: reset`, as nobody knows whether they were of one of the rooms. A subscriber has one stream: a newer
/// one ends the older, which is told so by `event: superseded`.
#[utoipa::path(
    get,
    path = "/v1/subscribers/{name}/events",
    operation_id = "followRooms",
    tag = "subscribers",
    params(
        openapi::Subscriber,
        ("Last-Event-ID" = Option<String>, Header, description = "The last `id` seen"),
    ),
    responses(
        (status = 200, description = "Events, without an end", content_type = "text/event-stream", body = String),
        openapi::Problems,
    )
)]
pub(crate) async fn follow(State(broker): Shared, uri: Uri, headers: HeaderMap) -> Result<Response, Refusal> {
    let name = call::name(&uri)?;
    media::negotiate(&headers, &[media::EVENTS])?;
    let resume = match last_event_id(&headers)? {
        None => Vec::new(),
        Some(id) => {
            token::decode_of(&name, id).ok_or_else(|| not_an_id(id, "a token that this subscriber was sent"))?
        }
    };
    let connection = broker.rooms.connect(&name, &resume).await.map_err(|error| call::refused(&name, error))?;
    let delivery = Delivery::new(broker.log.clone(), connection, broker.outgoing.share());
    Ok(event_stream::answer(&broker, Subscription { name, delivery }, None))
}

/// Move a subscriber's cursor behind an event, and all that came before it. Never back.
#[utoipa::path(
    post,
    path = "/v1/subscribers/{name}/ack",
    operation_id = "ackEvents",
    tag = "subscribers",
    params(openapi::Subscriber),
    request_body = Ack,
    responses((status = 204, description = "Acked: durable"), openapi::Problems)
)]
pub(crate) async fn ack(State(broker): Shared, request: Request) -> Result<Response, Refusal> {
    let (parts, gathered) = body::gather(request, &broker, ACK_LIMIT).await?;
    let name = call::name(&parts.uri)?;
    let Ack { id } = strict::parse(&gathered.bytes)?;
    let not_one = || Refusal::new(Code::InvalidToken, format!("id is {id:?}, which this subscriber was not sent"));
    let places = token::decode_of(&name, &id).ok_or_else(not_one)?;
    broker.rooms.ack(&name, &places).await.map_err(|error| call::refused(&name, error))?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// The records of a subscriber's rooms.
struct Subscription {
    name: SubscriberName,
    delivery: Delivery,
}

impl Source for Subscription {
    async fn next(&mut self) -> Result<Next, End> {
        let name = &self.name;
        let gathered = self.delivery.gather(|text, stand, event| {
            let namespace = stand.namespace().map_or("", |namespace| &**namespace.name());
            // A string is always JSON.
            let namespace = serde_json::to_string(namespace).unwrap_or_default();
            sse::push_event_of(text, event, &token_of(name, &stand), &namespace);
        });
        gathered.await
    }

    async fn changed(&mut self) -> Result<(), End> {
        self.delivery.changed().await
    }

    async fn place(&mut self) -> Result<String, End> {
        let stand = self.delivery.settled().await?;
        Ok(token_of(&self.name, &stand))
    }
}

/// Where the stream stands, as far as that is ahead of what is acked.
fn token_of(name: &SubscriberName, stand: &Stand<'_>) -> String {
    token::encode_of(name, stand.places().into_iter())
}
