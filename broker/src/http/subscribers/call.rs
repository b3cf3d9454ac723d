//! A call on a subscriber: which, with which rooms, and why it is refused.

use std::collections::HashMap;

use axum::extract::Request;
use axum::http::Uri;
use consumers::rooms::{Room, RoomsError};
use tlog::Namespace;
use wire::limits::MAX_ROOMS_A_CALL;
use wire::name::check_key;
use wire::{Code, NamespaceName, Rooms, SubscriberName};

use crate::http::body::{self, Limit};
use crate::http::error::Refusal;
use crate::http::query::Query;
use crate::http::{path, strict};
use crate::state::Broker;

/// The largest body: as many rooms as a call takes, of the longest names.
const LIMIT: Limit = Limit { bytes: 16 << 20, code: Code::InvalidBody };

/// The subscriber of a call without parameters.
pub(super) fn name(uri: &Uri) -> Result<SubscriberName, Refusal> {
    let name = path::subscriber(uri)?;
    Query::parse(uri, &[])?;
    Ok(name)
}

/// A call with rooms.
pub(super) async fn read_rooms(broker: &Broker, request: Request) -> Result<(SubscriberName, Vec<Room>), Refusal> {
    let (parts, gathered) = body::gather(request, broker, LIMIT).await?;
    let name = name(&parts.uri)?;
    let rooms = strict::parse::<Option<Rooms>>(&gathered.bytes)?.unwrap_or_default();
    Ok((name, found(broker, rooms)?))
}

/// The rooms that these names mean.
fn found(broker: &Broker, rooms: Rooms) -> Result<Vec<Room>, Refusal> {
    if rooms.len() > MAX_ROOMS_A_CALL {
        let detail = format!("{} rooms and namespaces, the limit of a call is {MAX_ROOMS_A_CALL}", rooms.len());
        return Err(Refusal::new(Code::TooManyRooms, detail));
    }
    let mut known: HashMap<String, Namespace> = HashMap::new();
    let mut namespace = |name: String| match known.get(&name) {
        Some(namespace) => Ok(namespace.clone()),
        None => {
            let namespace = broker.namespace(&NamespaceName::new(&name)?)?;
            known.insert(name, namespace.clone());
            Ok::<Namespace, Refusal>(namespace)
        }
    };
    let mut found = Vec::with_capacity(rooms.len());
    for room in rooms.rooms {
        check_key(&room.key)?;
        found.push(Room { namespace: namespace(room.namespace)?, key: Some(room.key) });
    }
    for name in rooms.namespaces {
        found.push(Room { namespace: namespace(name)?, key: None });
    }
    Ok(found)
}

/// Why a call on a subscriber is refused.
pub(super) fn refused(name: &SubscriberName, error: RoomsError) -> Refusal {
    match error {
        RoomsError::SubscriberNotFound => {
            Refusal::new(Code::SubscriberNotFound, format!("there is no subscriber {name:?}"))
        }
        error => error.into(),
    }
}
