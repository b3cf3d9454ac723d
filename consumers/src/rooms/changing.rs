//! What changes a subscriber: by one at a time, as events of each room's namespace and of the subscriber's home.
//!
//! A crash in between leaves a part of it done; the next `put` does the rest, as it compares with what is there.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::stream::{self, StreamExt};
use tlog::{AppendError, Namespace};
use tokio::sync::OwnedMutexGuard;
use wire::limits::{
    MAX_EVENT_BYTES, MAX_NAME_BYTES, MAX_ROOMS_A_CALL, MAX_SUBSCRIBER_NAMESPACES, MAX_SUBSCRIBER_ROOMS,
};
use wire::{NamespaceId, SubscriberName};

use super::answers::Room;
use super::error::RoomsError;
use super::event::{RoomEvent, room_bytes};
use super::rows;
use super::runtime::Inner;

/// Events of one change that wait for the log at a time.
const EVENTS_AT_ONCE: usize = 64;

/// Rooms in one event, bytes: what else is in it takes less than the rest.
const EVENT_ROOM_BYTES: usize = MAX_EVENT_BYTES - MAX_NAME_BYTES - 64;

/// Rooms by namespace: their keys, of which an empty one is the namespace as a whole.
pub(super) type Wanted = BTreeMap<NamespaceId, (Namespace, BTreeSet<String>)>;

/// Holds a subscriber while it is changed.
struct Changing<'a> {
    inner: &'a Inner,
    name: &'a SubscriberName,
    turn: Option<OwnedMutexGuard<()>>,
}

/// Rooms as they are wanted: each once.
pub(super) fn wanted(rooms: Vec<Room>) -> Result<Wanted, RoomsError> {
    if rooms.len() > MAX_ROOMS_A_CALL {
        return Err(RoomsError::TooManyRooms { rooms: rooms.len(), limit: MAX_ROOMS_A_CALL });
    }
    let mut wanted = Wanted::new();
    for Room { namespace, key } in rooms {
        let (_, keys) = wanted.entry(namespace.id()).or_insert_with(|| (namespace, BTreeSet::new()));
        keys.insert(key.unwrap_or_default());
    }
    Ok(wanted)
}

/// Checks of how many namespaces a subscriber's rooms are.
pub(super) fn check_namespaces(namespaces: usize) -> Result<(), RoomsError> {
    let limit = MAX_SUBSCRIBER_NAMESPACES;
    if namespaces > limit { Err(RoomsError::TooManyNamespaces { namespaces, limit }) } else { Ok(()) }
}

fn count(wanted: &Wanted) -> usize {
    wanted.values().map(|(_, keys)| keys.len()).sum()
}

impl Inner {
    /// Waits until nobody else changes this subscriber.
    async fn change<'a>(&'a self, name: &'a SubscriberName) -> Changing<'a> {
        let turn = Arc::clone(self.changing.lock().entry(name.clone()).or_default());
        // From here on it is forgotten even if this is dropped while it waits.
        let mut changing = Changing { inner: self, name, turn: None };
        changing.turn = Some(turn.lock_owned().await);
        changing
    }

    /// Sees to it that a subscriber exists and is in these rooms and in no others. Whether it is new.
    pub(super) async fn put(&self, name: &SubscriberName, mut wanted: Wanted) -> Result<bool, RoomsError> {
        let _changing = self.change(name).await;
        let existing = self.subscriber(name).await?;
        let slot = match existing {
            Some(subscribed) => subscribed.slot,
            None => {
                let began_micros = self.clock.now_micros();
                self.note_home(name, RoomEvent::Created { name: name.clone(), began_micros }).await?;
                self.subscriber(name).await?.ok_or(RoomsError::TooManySubscribers)?.slot
            }
        };
        self.all_applied().await?;
        let mut left = Wanted::new();
        self.each_joined(slot, |namespace, key, _| {
            let stays = wanted.get_mut(&namespace.id()).filter(|(there, _)| there == namespace);
            if !stays.is_some_and(|(_, keys)| keys.remove(key)) {
                let (_, keys) = left.entry(namespace.id()).or_insert_with(|| (namespace.clone(), BTreeSet::new()));
                keys.insert(key.to_owned());
            }
        })?;
        self.note(left, |rooms| RoomEvent::Left { slot, rooms }).await?;
        self.note(wanted, |rooms| RoomEvent::Joined { slot, rooms }).await?;
        Ok(existing.is_none())
    }

    /// A subscriber is in these rooms too.
    pub(super) async fn join(&self, name: &SubscriberName, mut wanted: Wanted) -> Result<(), RoomsError> {
        let _changing = self.change(name).await;
        let slot = self.subscriber(name).await?.ok_or(RoomsError::SubscriberNotFound)?.slot;
        self.all_applied().await?;
        let mut rooms = 0;
        let mut namespaces: BTreeSet<NamespaceId> = wanted.keys().copied().collect();
        self.each_joined(slot, |namespace, key, _| {
            rooms += 1;
            namespaces.insert(namespace.id());
            if let Some((_, keys)) = wanted.get_mut(&namespace.id()).filter(|(there, _)| there == namespace) {
                keys.remove(key);
            }
        })?;
        let rooms = rooms + count(&wanted);
        if rooms > MAX_SUBSCRIBER_ROOMS {
            return Err(RoomsError::TooManyRooms { rooms, limit: MAX_SUBSCRIBER_ROOMS });
        }
        check_namespaces(namespaces.len())?;
        self.note(wanted, |rooms| RoomEvent::Joined { slot, rooms }).await
    }

    /// A subscriber is not in these rooms.
    pub(super) async fn leave(&self, name: &SubscriberName, mut wanted: Wanted) -> Result<(), RoomsError> {
        let _changing = self.change(name).await;
        let slot = self.subscriber(name).await?.ok_or(RoomsError::SubscriberNotFound)?.slot;
        self.all_applied().await?;
        for (namespace, keys) in wanted.values_mut() {
            let mut there = BTreeSet::new();
            for key in std::mem::take(keys) {
                if self.ledger.db().get_pinned(rows::joined(slot, namespace.id(), &key))?.is_some() {
                    there.insert(key);
                }
            }
            *keys = there;
        }
        self.note(wanted, |rooms| RoomEvent::Left { slot, rooms }).await
    }

    /// Ends a subscriber.
    pub(super) async fn delete(&self, name: &SubscriberName) -> Result<(), RoomsError> {
        let _changing = self.change(name).await;
        self.subscriber(name).await?.ok_or(RoomsError::SubscriberNotFound)?;
        self.note_home(name, RoomEvent::Deleted { name: name.clone() }).await?;
        self.deleted.notify_one();
        Ok(())
    }

    /// Appends an event of a subscriber. It is in the rows when this returns.
    pub(super) async fn note_home(&self, name: &SubscriberName, event: RoomEvent) -> Result<(), RoomsError> {
        self.note_in(self.home(name), &event).await
    }

    /// Appends an event of a partition. It is in the rows when this returns.
    pub(super) async fn note_in(&self, partition: u16, event: &RoomEvent) -> Result<(), RoomsError> {
        let noted = self.log().append_partition_event(partition, event.encode()?.into()).await?;
        Ok(self.ledger.wait_applied(partition, noted.end).await?)
    }

    /// Appends events of rooms, as many as it takes. They are in the rows when this returns.
    pub(super) async fn note(&self, rooms: Wanted, event: impl Fn(Vec<String>) -> RoomEvent) -> Result<(), RoomsError> {
        let mut events = Vec::new();
        for (namespace, keys) in rooms.into_values() {
            for keys in batches(keys) {
                events.push((namespace.clone(), event(keys)));
            }
        }
        let append = |(namespace, event): (Namespace, RoomEvent)| {
            let log = self.log().clone();
            async move {
                let partition = namespace.id().partition(log.partitions());
                match log.append_event(&namespace, event.encode()?.into()).await {
                    Ok(noted) => Ok(Some((partition, noted.end))),
                    // Its rooms go with it.
                    Err(AppendError::NamespaceNotFound) if matches!(event, RoomEvent::Left { .. }) => Ok(None),
                    Err(AppendError::NamespaceNotFound) => Err(RoomsError::NamespaceNotFound(namespace.name().clone())),
                    Err(error) => Err(error.into()),
                }
            }
        };
        let mut ends = BTreeMap::new();
        let mut noting = stream::iter(events.into_iter().map(append)).buffer_unordered(EVENTS_AT_ONCE);
        // To the last, whatever fails: none may come into the log behind what is done to the subscriber next.
        let mut failed = None;
        while let Some(noted) = noting.next().await {
            match noted {
                Ok(Some((partition, end))) => {
                    let known = ends.entry(partition).or_insert(end);
                    *known = end.max(*known);
                }
                Ok(None) => {}
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        if let Some(error) = failed {
            return Err(error);
        }
        for (partition, end) in ends {
            self.ledger.wait_applied(partition, end).await?;
        }
        Ok(())
    }
}

/// Keys in batches that fit into an event each.
fn batches(keys: BTreeSet<String>) -> Vec<Vec<String>> {
    let mut batches = Vec::new();
    let (mut batch, mut bytes) = (Vec::new(), 0);
    for key in keys {
        if bytes + room_bytes(&key) > EVENT_ROOM_BYTES {
            batches.push(std::mem::take(&mut batch));
            bytes = 0;
        }
        bytes += room_bytes(&key);
        batch.push(key);
    }
    if !batch.is_empty() {
        batches.push(batch);
    }
    batches
}

impl Drop for Changing<'_> {
    fn drop(&mut self) {
        drop(self.turn.take());
        let mut changing = self.inner.changing.lock();
        // Nobody else has it or waits for it.
        if changing.get(self.name).is_some_and(|turn| Arc::strong_count(turn) == 1) {
            changing.remove(self.name);
        }
    }
}
