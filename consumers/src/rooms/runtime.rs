//! What can be asked of rooms and subscribers.
//!
//! What changes a subscriber is done to its end: who asked for it may go.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;

use futures::FutureExt;
use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use tlog::{Clock, Log, Namespace, ReadError};
use tokio::sync::{Mutex as Turn, Notify};
use wire::limits::MAX_SUBSCRIBER_NAMESPACES;
use wire::{NamespaceId, Offset, SubscriberName};

use super::answers::{Cursor, Listed, Place, Room, Subscriber};
use super::changing::{check_namespaces, wanted};
use super::connection::Connection;
use super::error::RoomsError;
use super::event::{RoomEvent, Slot};
use super::hub::{Hub, Who};
use super::rows::{self, Since, Subscribed};
use super::sweep;
use crate::ledger::Ledger;

/// The rooms of a log, and who is in them. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Rooms(Arc<Inner>);

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) ledger: Arc<Ledger>,
    pub(super) clock: Arc<dyn Clock>,
    boot: u64,
    /// Whether changes go on as tasks of their own.
    spawns: bool,
    /// Subscribers that are being changed.
    pub(super) changing: Mutex<FxHashMap<SubscriberName, Arc<Turn<()>>>>,
    /// Says that a subscriber was deleted.
    pub(super) deleted: Arc<Notify>,
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
        let noted = inner.note_home(name, RoomEvent::Acked { name: name.clone(), places: places.clone() });
        if mutant!(RoomAckBeforeDurable) {
            drop(noted.now_or_never());
        } else {
            noted.await?;
        }
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
        // Its rooms are of any partition: where it is in those that are not applied yet must not be forgotten, and
        // what it is done with there is not for it again.
        inner.all_applied().await?;
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

impl Inner {
    pub(super) fn ledger(&self) -> &Arc<Ledger> {
        &self.ledger
    }

    pub(super) fn log(&self) -> &Log {
        self.ledger.log()
    }

    /// A subscriber, as of all that is durable.
    pub(super) async fn subscriber(&self, name: &SubscriberName) -> Result<Option<Subscribed>, RoomsError> {
        self.ledger.wait_durable(self.home(name)).await?;
        Ok(Subscribed::read(self.ledger.db(), name)?)
    }

    /// The partition whose log says what becomes of a subscriber.
    pub(super) fn home(&self, name: &SubscriberName) -> u16 {
        name.partition(self.log().partitions())
    }

    /// Waits until all is applied that is durable by now.
    pub(super) async fn all_applied(&self) -> Result<(), RoomsError> {
        for partition in 0..self.log().partitions() {
            self.ledger.wait_durable(partition).await?;
        }
        Ok(())
    }

    /// Goes through the rooms that a slot is in, with the offsets from which on.
    pub(super) fn each_joined(
        &self,
        slot: Slot,
        mut each: impl FnMut(&Namespace, &str, Offset),
    ) -> Result<(), RoomsError> {
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
            let place = if mutant!(AckUpToHead) { Place { next_offset, ..place } } else { place };
            let kept = Since::read(self.ledger.db(), &rows::acked(slot, place.namespace))?;
            if kept.map(|kept| (kept.generation, kept.offset)) < Some((place.generation, place.next_offset)) {
                further.push(place);
            }
        }
        Ok(further)
    }

    /// Namespaces of which something is kept for a slot that is in no room of theirs: some of them, as they go into
    /// one event. The next connection has the rest.
    fn namespaces_gone(&self, slot: Slot) -> Result<Vec<NamespaceId>, RoomsError> {
        let prefix = rows::acked_by(slot);
        let mut stored = self.ledger.db().raw_iterator();
        let mut gone = Vec::new();
        stored.seek(prefix);
        while let Some((key, _)) = rows::next_with(&stored, &prefix)?.filter(|_| gone.len() < MAX_SUBSCRIBER_NAMESPACES)
        {
            let (id, _) = rows::namespace_in(key)?;
            if !rows::any_with(self.ledger.db(), &rows::joined_in(slot, id))? {
                gone.push(id);
            }
            stored.next();
        }
        Ok(gone)
    }
}
