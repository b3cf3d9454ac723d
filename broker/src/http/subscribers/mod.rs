//! `/v1/subscribers`: durable subscribers.
//!
//! | module | calls |
//! |---|---|
//! | this one | create or put, look at, list, delete; join, leave |
//! | [`events`] | follow; ack |
//! | [`call`] | what they share: which subscriber, which rooms, why a call is refused |

mod call;
pub(crate) mod events;

use axum::extract::{Request, State};
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use consumers::rooms::{self, Room, Subscriber};
use serde::Serialize;
use utoipa::ToSchema;
use wire::json::time_text;
use wire::limits::MAX_LIST_NAMESPACES;
use wire::{Offset, Rooms, SubscriberName};

use crate::http::answer::{answer, page};
use crate::http::error::Refusal;
use crate::http::openapi;
use crate::http::query::{Known, Query};
use crate::state::{Broker, Shared};

/// A subscriber: what it follows, and how far it has come.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SubscriberInfo {
    /// Its name.
    name: String,
    /// What it follows.
    #[serde(flatten)]
    #[schema(inline, value_type = openapi::Rooms)]
    rooms: Rooms,
    /// When it was created, RFC 3339.
    began: String,
    /// Whether a connection of it is open.
    connected: bool,
    /// How far it has come in each namespace that its rooms are of.
    cursors: Vec<Cursor>,
}

/// How far a subscriber has come in a namespace.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Cursor {
    /// The namespace.
    namespace: String,
    /// What is for the subscriber below this offset is acked.
    next_offset: Offset,
    /// The namespace's next offset.
    head: Offset,
}

/// A subscriber in a list.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Listed {
    /// Its name.
    name: String,
    /// When it was created, RFC 3339.
    began: String,
    /// Whether a connection of it is open.
    connected: bool,
}

/// A page of subscribers.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SubscriberPage {
    /// In the order of names.
    subscribers: Vec<Listed>,
    /// The name to go on behind, as `after`; null at the end.
    #[schema(required)]
    next: Option<String>,
}

impl SubscriberInfo {
    fn of(name: &SubscriberName, subscriber: Subscriber) -> SubscriberInfo {
        let mut rooms = Rooms::default();
        for Room { namespace, key } in subscriber.rooms {
            let namespace = namespace.name().to_string();
            rooms = match key {
                Some(key) => rooms.room(namespace, key),
                None => rooms.namespace(namespace),
            };
        }
        rooms.rooms.sort_unstable();
        rooms.namespaces.sort_unstable();
        let cursor = |cursor: rooms::Cursor| Cursor {
            namespace: cursor.namespace.name().to_string(),
            next_offset: cursor.next_offset,
            head: cursor.head,
        };
        let mut cursors: Vec<Cursor> = subscriber.cursors.into_iter().map(cursor).collect();
        cursors.sort_unstable_by(|a, b| a.namespace.cmp(&b.namespace));
        let (began, connected) = (time_text(subscriber.began_micros), subscriber.connected);
        SubscriberInfo { name: name.to_string(), rooms, began, connected, cursors }
    }
}

/// Create a durable subscriber, or have one follow these rooms and no others.
///
/// What it joins begins at the head as of the call; in what it has joined already it goes on where it was.
#[utoipa::path(
    put,
    path = "/v1/subscribers/{name}",
    operation_id = "putSubscriber",
    tag = "subscribers",
    params(openapi::Subscriber),
    request_body(content = Option<openapi::Rooms>, description = "What it follows; none: nothing"),
    responses(
        (status = 201, description = "Created", body = SubscriberInfo),
        (status = 200, description = "It was there", body = SubscriberInfo),
        openapi::Problems,
    )
)]
pub(crate) async fn put(State(broker): Shared, request: Request) -> Result<Response, Refusal> {
    let (name, rooms) = call::read_rooms(&broker, request).await?;
    let new = broker.rooms.put(&name, rooms).await.map_err(|error| call::refused(&name, error))?;
    let status = if new { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, info(&broker, name).await?).into_response())
}

/// A subscriber: what it follows, how far it has come, whether it is connected.
#[utoipa::path(
    get,
    path = "/v1/subscribers/{name}",
    operation_id = "getSubscriber",
    tag = "subscribers",
    params(openapi::Subscriber),
    responses((status = 200, description = "The subscriber", body = SubscriberInfo), openapi::Problems)
)]
pub(crate) async fn get(State(broker): Shared, uri: Uri) -> Result<Response, Refusal> {
    let name = call::name(&uri)?;
    info(&broker, name).await
}

async fn info(broker: &Broker, name: SubscriberName) -> Result<Response, Refusal> {
    let subscriber = broker.rooms.get(&name).await.map_err(|error| call::refused(&name, error))?;
    answer(&SubscriberInfo::of(&name, subscriber))
}

/// Delete a subscriber. Its stream ends.
#[utoipa::path(
    delete,
    path = "/v1/subscribers/{name}",
    operation_id = "deleteSubscriber",
    tag = "subscribers",
    params(openapi::Subscriber),
    responses((status = 204, description = "Deleted"), openapi::Problems)
)]
pub(crate) async fn delete(State(broker): Shared, uri: Uri) -> Result<Response, Refusal> {
    let name = call::name(&uri)?;
    broker.rooms.delete(&name).await.map_err(|error| call::refused(&name, error))?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// The subscribers, in the order of names.
#[utoipa::path(
    get,
    path = "/v1/subscribers",
    operation_id = "listSubscribers",
    tag = "subscribers",
    params(
        ("after" = Option<String>, Query, description = "Go on behind this name: a page's `next`"),
        ("limit" = Option<u64>, Query, minimum = 1, maximum = 1000, description = "Subscribers at most"),
    ),
    responses((status = 200, description = "A page", body = SubscriberPage), openapi::Problems)
)]
pub(crate) async fn list(State(broker): Shared, uri: Uri) -> Result<Response, Refusal> {
    let query = Query::parse(&uri, &[Known::Once("after"), Known::Once("limit")])?;
    let limit = query.limit(MAX_LIST_NAMESPACES, MAX_LIST_NAMESPACES)?;
    let rooms = broker.rooms.clone();
    let list = move || rooms.list(query.get("after"), limit + 1);
    let found = tokio::task::spawn_blocking(list).await?.map_err(Refusal::from)?;
    let (found, next) = page(found, limit, |last| last.name.to_string());
    let listed = |subscriber: rooms::Listed| Listed {
        name: subscriber.name.to_string(),
        began: time_text(subscriber.began_micros),
        connected: subscriber.connected,
    };
    let subscribers = found.into_iter().map(listed).collect();
    answer(&SubscriberPage { subscribers, next })
}

/// Have a subscriber follow these rooms as well: from here on, also where it is connected.
#[utoipa::path(
    post,
    path = "/v1/subscribers/{name}/join",
    operation_id = "joinRooms",
    tag = "subscribers",
    params(openapi::Subscriber),
    request_body = openapi::Rooms,
    responses((status = 204, description = "Joined"), openapi::Problems)
)]
pub(crate) async fn join(State(broker): Shared, request: Request) -> Result<Response, Refusal> {
    let (name, rooms) = call::read_rooms(&broker, request).await?;
    broker.rooms.join(&name, rooms).await.map_err(|error| call::refused(&name, error))?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Have a subscriber follow these rooms no more; those that it has not joined are passed over.
#[utoipa::path(
    post,
    path = "/v1/subscribers/{name}/leave",
    operation_id = "leaveRooms",
    tag = "subscribers",
    params(openapi::Subscriber),
    request_body = openapi::Rooms,
    responses((status = 204, description = "Left"), openapi::Problems)
)]
pub(crate) async fn leave(State(broker): Shared, request: Request) -> Result<Response, Refusal> {
    let (name, rooms) = call::read_rooms(&broker, request).await?;
    broker.rooms.leave(&name, rooms).await.map_err(|error| call::refused(&name, error))?;
    Ok(StatusCode::NO_CONTENT.into_response())
}
