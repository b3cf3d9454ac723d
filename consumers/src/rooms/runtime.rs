//! What can be asked of rooms and subscribers.
//!
//! What changes a subscriber is done by one at a time, and to its end: who asked for it may go. A crash in between
//! leaves a part of it done; the next `put` does the rest, as it compares with what is there.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::Arc;

use futures::stream::{self, StreamExt, TryStreamExt};
use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use tlog::{AppendError, Clock, Log, Namespace, ReadError};
use tokio::sync::{Mutex as Turn, Notify, OwnedMutexGuard};
use wire::limits::{
    MAX_EVENT_BYTES, MAX_NAME_BYTES, MAX_ROOMS_A_CALL, MAX_SUBSCRIBER_NAMESPACES, MAX_SUBSCRIBER_ROOMS,
};
use wire::{NamespaceId, Offset, SubscriberName};

use super::answers::{Cursor, Listed, Place, Room, Subscriber};
use super::connection::Connection;
use super::error::RoomsError;
use super::event::{RoomEvent, Slot, room_bytes};
use super::hub::{Hub, Who};
use super::rows::{self, Since, Subscribed};
use super::sweep;
use crate::ledger::Ledger;

/// Events of one change that wait for the log at a time.
const EVENTS_AT_ONCE: usize = 64;

/// Rooms in one event, bytes: what else is in it takes less than the rest.
const EVENT_ROOM_BYTES: usize = MAX_EVENT_BYTES - MAX_NAME_BYTES - 64;

/// The rooms of a log, and who is in them. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Rooms(Arc<Inner>);

#[derive(Debug)]
pub(super) struct Inner {
    ledger: Arc<Ledger>,
    clock: Arc<dyn Clock>,
    boot: u64,
    /// Whether changes go on as tasks of their own.
    spawns: bool,
    /// Subscribers that are being changed.
    changing: Mutex<FxHashMap<SubscriberName, Arc<Turn<()>>>>,
    /// Says that a subscriber was deleted.
    pub(super) deleted: Arc<Notify>,
}

/// Rooms by namespace: their keys, of which an empty one is the namespace as a whole.
pub(super) type Wanted = BTreeMap<NamespaceId, (Namespace, BTreeSet<String>)>;

/// Holds a subscriber while it is changed.
struct Changing<'a> {
    inner: &'a Inner,
    name: &'a SubscriberName,
    turn: Option<OwnedMutexGuard<()>>,
}

impl Rooms {
    /// The rooms that a ledger keeps. `boot` is a number that no other life of the broker has. Within a Tokio
    /// runtime: slots of subscribers that were deleted are freed by a task.
    pub fn new(ledger: Arc<Ledger>, clock: Arc<dyn Clock>, boot: u64) -> Rooms {
        let rooms = Rooms::with(ledger, clock, boot, true);
        tokio::spawn(sweep::run(Arc::downgrade(&rooms.0)));
        rooms
    }

    /// The same without a task: whoever drives it polls what it asks for, and calls [`Rooms::sweep`].
    pub fn driven(ledger: Arc<Ledger>, clock: Arc<dyn Clock>, boot: u64) -> Rooms {
        Rooms::with(ledger, clock, boot, false)
    }

    fn with(ledger: Arc<Ledger>, clock: Arc<dyn Clock>, boot: u64, spawns: bool) -> Rooms {
        Rooms(Arc::new(Inner { ledger, clock, boot, spawns, changing: Mutex::default(), deleted: Arc::default() }))
    }

    /// The ledger that keeps them.
    pub fn ledger(&self) -> &Arc<Ledger> {
        &self.0.ledger
    }

    pub(super) fn hub(&self) -> &Hub {
        self.0.ledger.hub()
    }

    /// Sees to it that a subscriber exists and is in these rooms and in no others. Durable and applied when this
    /// returns. Whether it is new: then it begins at the heads as of now.
    ///
    /// # Errors
    /// [`RoomsError::TooManyRooms`] and [`RoomsError::TooManyNamespaces`] change nothing; another may leave a part done, which another `put` completes.
    pub async fn put(&self, name: &SubscriberName, rooms: Vec<Room>) -> Result<bool, RoomsError> {
        let wanted = wanted(rooms)?;
        check_namespaces(wanted.len())?;
        let name = name.clone();
        self.whole(|inner| async move { inner.put(&name, wanted).await }).await
    }

    /// A subscriber is in these rooms too from here on.
    ///
    /// # Errors
    /// [`RoomsError::SubscriberNotFound`]; [`RoomsError::TooManyRooms`] and [`RoomsError::TooManyNamespaces`] change nothing.
    pub async fn join(&self, name: &SubscriberName, rooms: Vec<Room>) -> Result<(), RoomsError> {
        let wanted = wanted(rooms)?;
        let name = name.clone();
        self.whole(|inner| async move { inner.join(&name, wanted).await }).await
    }

    /// A subscriber is not in these rooms from here on.
    ///
    /// # Errors
    /// [`RoomsError::SubscriberNotFound`].
    pub async fn leave(&self, name: &SubscriberName, rooms: Vec<Room>) -> Result<(), RoomsError> {
        let wanted = wanted(rooms)?;
        let name = name.clone();
        self.whole(|inner| async move { inner.leave(&name, wanted).await }).await
    }

    /// Ends a subscriber. It exists no longer when this returns; its slot is freed later.
    ///
    /// # Errors
    /// [`RoomsError::SubscriberNotFound`].
    pub async fn delete(&self, name: &SubscriberName) -> Result<(), RoomsError> {
        let name = name.clone();
        self.whole(|inner| async move { inner.delete(&name).await }).await
    }

    /// Does something to its end, even if who asked for it goes.
    async fn whole<T, F>(&self, change: impl FnOnce(Arc<Inner>) -> F) -> Result<T, RoomsError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, RoomsError>> + Send + 'static,
    {
        let change = change(Arc::clone(&self.0));
        if self.0.spawns { tokio::spawn(change).await.map_err(|_| RoomsError::Closed)? } else { change.await }
    }

    /// A subscriber, as of all that is durable.
    ///
    /// # Errors
    /// [`RoomsError::SubscriberNotFound`].
    pub async fn get(&self, name: &SubscriberName) -> Result<Subscriber, RoomsError> {
        let inner = &self.0;
        inner.all_applied().await?;
        let subscribed = Subscribed::read(inner.ledger.db(), name)?.ok_or(RoomsError::SubscriberNotFound)?;
        let Subscribed { slot, began_micros, connected_micros, .. } = subscribed;
        let mut rooms = Vec::new();
        let mut firsts: Vec<(Namespace, Offset)> = Vec::new();
        inner.each_joined(slot, |namespace, key, begin| {
            let key = Some(key.to_owned()).filter(|key| !key.is_empty());
            rooms.push(Room { namespace: namespace.clone(), key });
            match firsts.last_mut() {
                Some((last, first)) if last == namespace => *first = begin.min(*first),
                _ => firsts.push((namespace.clone(), begin)),
            }
        })?;
        let mut cursors = Vec::new();
        for (namespace, first) in firsts {
            let acked = Since::read(inner.ledger.db(), &rows::acked(slot, namespace.id()))?;
            let acked = acked.filter(|acked| acked.generation == namespace.generation());
            let next_offset = first.max(acked.map_or(0, |acked| acked.offset));
            match inner.log().head(&namespace) {
                Ok(head) => cursors.push(Cursor { namespace, next_offset, head: head.next_offset }),
                Err(ReadError::NamespaceNotFound) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let connected = self.is_connected(&subscribed);
        let connected_micros = Some(connected_micros).filter(|_| subscribed.boot != 0);
        Ok(Subscriber { rooms, began_micros, connected, connected_micros, cursors })
    }

    /// At most `limit` subscribers whose names sort behind `after`, by name.
    pub fn list(&self, after: Option<&str>, limit: usize) -> Result<Vec<Listed>, RoomsError> {
        let mut found = Vec::new();
        let mut stored = self.0.ledger.db().raw_iterator();
        stored.seek(rows::subscriber(after.unwrap_or_default()));
        while let Some((key, row)) = rows::next_with(&stored, &rows::subscriber(""))? {
            let name = rows::name_in(key)?;
            if after.is_none_or(|after| &*name > after) {
                if found.len() == limit {
                    break;
                }
                let subscribed = Subscribed::decode(key, row)?;
                let connected = self.is_connected(&subscribed);
                found.push(Listed { name, began_micros: subscribed.began_micros, connected });
            }
            stored.next();
        }
        Ok(found)
    }

    /// A connection of another life of the broker is none.
    fn is_connected(&self, subscribed: &Subscribed) -> bool {
        subscribed.boot == self.0.boot && self.hub().is_connected(subscribed.slot)
    }

    /// A subscriber is done with all below these places, if it is not further already. Of a namespace that is gone
    /// nothing is kept. Durable when this returns (invariant 1).
    ///
    /// # Errors
    /// [`RoomsError::SubscriberNotFound`]; [`RoomsError::PastHead`] where there is no such offset yet.
    pub async fn ack(&self, name: &SubscriberName, places: &[Place]) -> Result<(), RoomsError> {
        let inner = &self.0;
        let subscribed = inner.subscriber(name).await?.ok_or(RoomsError::SubscriberNotFound)?;
        let places = inner.further(subscribed.slot, places)?;
        if places.is_empty() {
            return Ok(());
        }
        inner.note_home(name, RoomEvent::Acked { name: name.clone(), places: places.clone() }).await?;
        self.hub().acked(subscribed.slot, &places);
        Ok(())
    }

    /// Connects a subscriber; a connection that it has ends. What the client shows to resume is an ack.
    ///
    /// # Errors
    /// As [`Rooms::ack`].
    pub async fn connect(&self, name: &SubscriberName, resume: &[Place]) -> Result<Connection, RoomsError> {
        self.ack(name, resume).await?;
        let inner = &self.0;
        let subscribed = inner.subscriber(name).await?.ok_or(RoomsError::SubscriberNotFound)?;
        let gone = inner.namespaces_gone(subscribed.slot)?;
        let (boot, time_micros) = (inner.boot, inner.clock.now_micros());
        inner.note_home(name, RoomEvent::Connected { name: name.clone(), boot, time_micros, gone }).await?;
        let connection = Connection::new(self.clone(), Who::Slot(subscribed.slot), Some(name.clone()));
        // It may have been deleted before the connection was registered.
        match Subscribed::read(inner.ledger.db(), name)? {
            Some(now) if now.slot == subscribed.slot => Ok(connection),
            _ => Err(RoomsError::SubscriberNotFound),
        }
    }

    /// Follows what has one of these keys in a namespace, from an offset on.
    ///
    /// # Errors
    /// [`RoomsError::PastHead`] where there is no such offset yet, [`RoomsError::NamespaceNotFound`].
    pub fn follow_keys(
        &self,
        namespace: &Namespace,
        keys: Vec<String>,
        from: Offset,
    ) -> Result<Connection, RoomsError> {
        let keys = Arc::new(keys.into_iter().collect());
        let mut connection = Connection::new(self.clone(), Who::Keys(namespace.id(), keys), None);
        let head = match self.0.log().head(namespace) {
            Ok(head) => head.next_offset,
            Err(ReadError::NamespaceNotFound) => return Err(RoomsError::NamespaceNotFound(namespace.name().clone())),
            Err(error) => return Err(error.into()),
        };
        if from > head {
            return Err(RoomsError::PastHead { namespace: namespace.name().clone(), next_offset: head });
        }
        connection.begin_at(namespace.clone(), from);
        Ok(connection)
    }

    /// Frees the slots of subscribers that were deleted.
    ///
    /// # Errors
    /// Where that can't be done now: it is to be tried again.
    pub async fn sweep(&self) -> Result<(), RoomsError> {
        self.0.sweep().await
    }
}

/// Rooms by namespace, each once.
fn wanted(rooms: Vec<Room>) -> Result<Wanted, RoomsError> {
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

fn check_namespaces(namespaces: usize) -> Result<(), RoomsError> {
    let limit = MAX_SUBSCRIBER_NAMESPACES;
    if namespaces > limit { Err(RoomsError::TooManyNamespaces { namespaces, limit }) } else { Ok(()) }
}

fn count(wanted: &Wanted) -> usize {
    wanted.values().map(|(_, keys)| keys.len()).sum()
}

impl Inner {
    pub(super) fn ledger(&self) -> &Arc<Ledger> {
        &self.ledger
    }

    pub(super) fn log(&self) -> &Log {
        self.ledger.log()
    }

    /// Waits until nobody else changes this subscriber.
    async fn change<'a>(&'a self, name: &'a SubscriberName) -> Changing<'a> {
        let turn = Arc::clone(self.changing.lock().entry(name.clone()).or_default());
        // From here on it is forgotten even if this is dropped while it waits.
        let mut changing = Changing { inner: self, name, turn: None };
        changing.turn = Some(turn.lock_owned().await);
        changing
    }

    async fn put(&self, name: &SubscriberName, mut wanted: Wanted) -> Result<bool, RoomsError> {
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

    async fn join(&self, name: &SubscriberName, mut wanted: Wanted) -> Result<(), RoomsError> {
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

    async fn leave(&self, name: &SubscriberName, mut wanted: Wanted) -> Result<(), RoomsError> {
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

    async fn delete(&self, name: &SubscriberName) -> Result<(), RoomsError> {
        let _changing = self.change(name).await;
        self.subscriber(name).await?.ok_or(RoomsError::SubscriberNotFound)?;
        self.note_home(name, RoomEvent::Deleted { name: name.clone() }).await?;
        self.deleted.notify_one();
        Ok(())
    }

    /// A subscriber, as of all that is durable.
    async fn subscriber(&self, name: &SubscriberName) -> Result<Option<Subscribed>, RoomsError> {
        self.ledger.wait_durable(self.home(name)).await?;
        Ok(Subscribed::read(self.ledger.db(), name)?)
    }

    fn home(&self, name: &SubscriberName) -> u16 {
        name.partition(self.log().partitions())
    }

    /// Waits until all is applied that is durable by now.
    pub(super) async fn all_applied(&self) -> Result<(), RoomsError> {
        for partition in 0..self.log().partitions() {
            self.ledger.wait_durable(partition).await?;
        }
        Ok(())
    }

    /// Appends an event of a subscriber. It is in the rows when this returns.
    async fn note_home(&self, name: &SubscriberName, event: RoomEvent) -> Result<(), RoomsError> {
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
        while let Some(noted) = noting.try_next().await? {
            if let Some((partition, end)) = noted {
                let known = ends.entry(partition).or_insert(end);
                *known = end.max(*known);
            }
        }
        for (partition, end) in ends {
            self.ledger.wait_applied(partition, end).await?;
        }
        Ok(())
    }

    /// Goes through the rooms that a slot is in, with the offsets from which on.
    fn each_joined(&self, slot: Slot, mut each: impl FnMut(&Namespace, &str, Offset)) -> Result<(), RoomsError> {
        let prefix = rows::joined_by(slot);
        let mut stored = self.ledger.db().raw_iterator();
        let mut last: Option<(NamespaceId, Option<Namespace>)> = None;
        stored.seek(prefix);
        while let Some((key, row)) = rows::next_with(&stored, &prefix)? {
            let (id, room) = rows::namespace_in(key)?;
            let since = Since::decode(key, row)?;
            if last.as_ref().is_none_or(|(last, _)| *last != id) {
                last = Some((id, self.log().namespace_by_id(id)?));
            }
            let namespace = last.as_ref().and_then(|(_, namespace)| namespace.as_ref());
            if let Some(namespace) = namespace.filter(|namespace| namespace.generation() == since.generation) {
                each(namespace, room, since.offset);
            }
            stored.next();
        }
        Ok(())
    }

    /// Those of the places that are further than what is kept, one a namespace, ascending.
    fn further(&self, slot: Slot, places: &[Place]) -> Result<Vec<Place>, RoomsError> {
        let mut furthest: BTreeMap<NamespaceId, Place> = BTreeMap::new();
        for place in places {
            let known = furthest.entry(place.namespace).or_insert(*place);
            *known = (*known).max(*place);
        }
        let mut further = Vec::new();
        for place in furthest.into_values() {
            let namespace = self.log().namespace_by_id(place.namespace)?;
            let Some(namespace) = namespace.filter(|namespace| namespace.generation() == place.generation) else {
                continue;
            };
            let next_offset = match self.log().head(&namespace) {
                Ok(head) => head.next_offset,
                Err(ReadError::NamespaceNotFound) => continue,
                Err(error) => return Err(error.into()),
            };
            if place.next_offset > next_offset {
                return Err(RoomsError::PastHead { namespace: namespace.name().clone(), next_offset });
            }
            let kept = Since::read(self.ledger.db(), &rows::acked(slot, place.namespace))?;
            if kept.map(|kept| (kept.generation, kept.offset)) < Some((place.generation, place.next_offset)) {
                further.push(place);
            }
        }
        Ok(further)
    }

    /// Namespaces of which something is kept for a slot that is in no room of theirs.
    fn namespaces_gone(&self, slot: Slot) -> Result<Vec<NamespaceId>, RoomsError> {
        let prefix = rows::acked_by(slot);
        let mut stored = self.ledger.db().raw_iterator();
        let mut gone = Vec::new();
        stored.seek(prefix);
        while let Some((key, _)) = rows::next_with(&stored, &prefix)? {
            let (id, _) = rows::namespace_in(key)?;
            if !rows::any_with(self.ledger.db(), &rows::joined_in(slot, id))? {
                gone.push(id);
            }
            stored.next();
        }
        Ok(gone)
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
