//! What rooms and subscribers must be, as the events in the log have made them, and for whom a record is: for those
//! who were in its room, or in its namespace as a whole, where it stands in the log.

use std::collections::{BTreeMap, BTreeSet};

use consumers::rooms::{Place as Cursor, RoomEvent, Slot};
use roaring::RoaringBitmap;
use wire::NamespaceId;

use crate::ledger::Place;
use crate::model::Model;

/// A room: its namespace's place in [`Model::namespaces`], and its key; an empty one is the namespace as a whole.
pub type Room = (usize, String);

#[derive(Debug, Clone)]
pub struct SubscriberModel {
    pub slot: Slot,
    began_micros: i64,
    boot: u64,
    connected_micros: i64,
}

/// What some events amount to.
#[derive(Debug, Clone, Default)]
pub struct State {
    pub subscribers: BTreeMap<String, SubscriberModel>,
    /// How far each slot is done with a namespace.
    pub acked: BTreeMap<(Slot, usize), u64>,
    /// Which rooms each slot is in, and from which offset on.
    pub joined: BTreeMap<Slot, BTreeMap<Room, u64>>,
    pub dead: BTreeMap<Slot, String>,
    free: BTreeSet<(u16, Slot)>,
    given: BTreeMap<u16, u32>,
}

#[derive(Debug, Clone)]
enum Event {
    OfRooms(Place, Option<usize>, RoomEvent),
    Deleted(usize),
}

/// All rooms and subscribers.
#[derive(Debug, Default)]
pub struct RoomsModel {
    events: BTreeMap<u16, Vec<(u64, Event)>>,
    pub now: State,
    /// From which offset to which each slot was in a room, one time after the other.
    spans: BTreeMap<(Slot, Room), Vec<(u64, u64)>>,
    /// How often each name's subscriber was made or ended.
    pub eras: BTreeMap<String, u64>,
    pub asked: Asked,
    pub memory: Memory,
}

/// A subscriber of a name, from its beginning to its end.
pub type Life = (String, u64);

/// What subscribers remember, over all restarts.
#[derive(Debug, Default)]
pub struct Memory {
    /// The offsets of all records that one was ever sent, by namespace.
    pub received: BTreeMap<Life, BTreeMap<usize, BTreeSet<u64>>>,
    /// Up to where acks were answered.
    pub answered: BTreeMap<Life, BTreeMap<usize, u64>>,
    /// What one shows to resume.
    pub shown: BTreeMap<Life, Vec<Cursor>>,
}

/// What was asked for of subscribers, by name, whether it was done or not.
#[derive(Debug, Default)]
pub struct Asked {
    pub puts: BTreeMap<String, Vec<BTreeSet<Room>>>,
    pub joins: BTreeMap<String, BTreeSet<Room>>,
    pub leaves: BTreeMap<String, BTreeSet<Room>>,
    pub deletes: BTreeSet<String>,
    pub acks: BTreeMap<String, BTreeSet<Cursor>>,
    pub connects: BTreeSet<String>,
}

impl State {
    /// How far a slot is done with a namespace, or from where on it is in a room of it.
    pub fn cursor(&self, slot: Slot, namespace: usize) -> Option<u64> {
        let first = self.first_join(slot, namespace)?;
        Some(self.acked.get(&(slot, namespace)).copied().unwrap_or(first))
    }

    fn first_join(&self, slot: Slot, namespace: usize) -> Option<u64> {
        let rooms = self.joined.get(&slot)?;
        rooms.iter().filter(|((at, _), _)| *at == namespace).map(|(_, since)| *since).min()
    }

    fn apply(&mut self, partitions: u16, model: &Model, event: &Event) {
        let (at, namespace, event) = match event {
            Event::OfRooms(at, namespace, event) => (at, *namespace, event),
            Event::Deleted(namespace) => {
                return self.joined.values_mut().for_each(|rooms| rooms.retain(|(of, _), _| of != namespace));
            }
        };
        let place_of = |id| model.namespaces.iter().position(|namespace| namespace.handle.id() == id).unwrap();
        match event {
            RoomEvent::Created { name, began_micros } => {
                let first = self.free.iter().find(|(partition, _)| *partition == at.partition).copied();
                let slot = match first {
                    Some(free) => {
                        self.free.remove(&free);
                        free.1
                    }
                    None => {
                        let given = self.given.entry(at.partition).or_insert(0);
                        *given += 1;
                        (*given - 1) * u32::from(partitions) + u32::from(at.partition)
                    }
                };
                let new = SubscriberModel { slot, began_micros: *began_micros, boot: 0, connected_micros: 0 };
                self.subscribers.insert(name.to_string(), new);
            }
            RoomEvent::Deleted { name } => {
                if let Some(SubscriberModel { slot, .. }) = self.subscribers.remove(&**name) {
                    self.acked.retain(|(of, _), _| *of != slot);
                    self.dead.insert(slot, name.to_string());
                }
            }
            RoomEvent::Acked { name, places } => {
                if let Some(SubscriberModel { slot, .. }) = self.subscribers.get(&**name) {
                    for place in places {
                        let acked = self.acked.entry((*slot, place_of(place.namespace))).or_insert(0);
                        *acked = place.next_offset.max(*acked);
                    }
                }
            }
            RoomEvent::Connected { name, boot, time_micros, gone } => {
                if let Some(subscriber) = self.subscribers.get_mut(&**name) {
                    (subscriber.boot, subscriber.connected_micros) = (*boot, *time_micros);
                    let slot = subscriber.slot;
                    let gone: BTreeSet<usize> = gone.iter().map(|id| place_of(*id)).collect();
                    self.acked.retain(|(of, at), _| *of != slot || !gone.contains(at));
                }
            }
            RoomEvent::Freed { slot } => {
                if self.dead.remove(slot).is_some() {
                    self.free.insert((at.partition, *slot));
                }
            }
            RoomEvent::Joined { slot, rooms } => {
                let joined = self.joined.entry(*slot).or_default();
                for room in rooms {
                    joined.entry((namespace.unwrap(), room.clone())).or_insert(at.next_offset);
                }
            }
            RoomEvent::Left { slot, rooms } => {
                let joined = self.joined.entry(*slot).or_default();
                joined.retain(|(at, key), _| Some(*at) != namespace || !rooms.contains(key));
            }
        }
    }
}

impl RoomsModel {
    /// Takes in an event, once it is sure that it may be. Whether a slot was given out again.
    pub fn take(
        &mut self,
        at: Place,
        namespace: Option<usize>,
        event: RoomEvent,
        model: &Model,
        boot: u64,
    ) -> Result<bool, String> {
        let judged = self.judge(namespace, &event, model, boot);
        judged.map_err(|reason| format!("{reason}: {event:?} of {namespace:?}"))?;
        let free = self.now.free.len();
        match (&event, namespace) {
            (RoomEvent::Created { name, .. } | RoomEvent::Deleted { name }, _) => {
                *self.eras.entry(name.to_string()).or_default() += 1;
            }
            (RoomEvent::Joined { slot, rooms }, Some(namespace)) => {
                let joined = self.now.joined.get(slot);
                for room in rooms.iter().map(|key| (namespace, key.clone())) {
                    if joined.is_none_or(|joined| !joined.contains_key(&room)) {
                        self.spans.entry((*slot, room)).or_default().push((at.next_offset, u64::MAX));
                    }
                }
            }
            (RoomEvent::Left { slot, rooms }, Some(namespace)) => {
                for room in rooms.iter().map(|key| (namespace, key.clone())) {
                    let last = self.spans.get_mut(&(*slot, room)).and_then(|spans| spans.last_mut());
                    if let Some((_, end)) = last {
                        *end = at.next_offset.min(*end);
                    }
                }
            }
            _ => {}
        }
        let is_new = matches!(event, RoomEvent::Created { .. });
        let event = Event::OfRooms(at, namespace, event);
        self.now.apply(model.partitions.len() as u16, model, &event);
        self.events.entry(at.partition).or_default().push((at.end, event));
        Ok(is_new && self.now.free.len() < free)
    }

    /// The subscriber of a name, as it is now.
    pub fn life(&self, name: &str) -> Life {
        (name.to_owned(), self.eras.get(name).copied().unwrap_or(0))
    }

    pub fn slot(&self, name: &str) -> Option<Slot> {
        self.now.subscribers.get(name).map(|subscriber| subscriber.slot)
    }

    fn name_of(&self, slot: Slot) -> Option<&str> {
        self.now.subscribers.iter().find(|(_, subscriber)| subscriber.slot == slot).map(|(name, _)| &**name)
    }

    fn judge(&self, namespace: Option<usize>, event: &RoomEvent, model: &Model, boot: u64) -> Result<(), String> {
        let check = |holds: bool, reason: &str| if holds { Ok(()) } else { Err(reason.to_owned()) };
        let exists = |name: &str| self.now.subscribers.contains_key(name);
        let asked = &self.asked;
        match event {
            RoomEvent::Created { name, .. } => {
                check(asked.puts.contains_key(&**name), "a subscriber that nobody asked for")?;
                check(!exists(name), "a subscriber that is there is made")
            }
            RoomEvent::Deleted { name } => {
                check(asked.deletes.contains(&**name), "a subscriber is ended, and nobody asked for it")?;
                check(exists(name), "a subscriber that is not there is ended")
            }
            RoomEvent::Acked { name, places } => {
                let acks = asked.acks.get(&**name);
                let is_asked = |place: &Cursor| acks.is_some_and(|acks| acks.contains(place));
                check(places.iter().all(is_asked), "an ack that nobody asked for")
            }
            RoomEvent::Connected { name, boot: of, gone, .. } => {
                check(asked.connects.contains(&**name) && *of <= boot, "a connection that nobody asked for")?;
                let Some(SubscriberModel { slot, .. }) = self.now.subscribers.get(&**name) else { return Ok(()) };
                // One that has joined again in this very moment begins behind what it had acked.
                let goes_back = |id: &NamespaceId| {
                    let at = model.namespaces.iter().position(|one| one.handle.id() == *id)?;
                    let (acked, first) = (self.now.acked.get(&(*slot, at))?, self.now.first_join(*slot, at)?);
                    (first < *acked).then_some(())
                };
                check(!gone.iter().any(|id| goes_back(id).is_some()), "it is forgotten where a subscriber is")
            }
            RoomEvent::Freed { slot } => {
                check(self.now.dead.contains_key(slot), "a slot is freed that nobody has given up")?;
                let joined = self.now.joined.get(slot);
                check(joined.is_none_or(BTreeMap::is_empty), "a slot is freed that is in rooms")
            }
            RoomEvent::Joined { slot, rooms } => {
                let Some(namespace) = namespace else { return Err("a join of no namespace".to_owned()) };
                let Some(name) = self.name_of(*slot).or(self.now.dead.get(slot).map(|name| &**name)) else {
                    return Err("a slot joins that is nobody's".to_owned());
                };
                let is_asked = |key: &String| {
                    let room = (namespace, key.clone());
                    asked.puts.get(name).into_iter().flatten().any(|put| put.contains(&room))
                        || asked.joins.get(name).is_some_and(|joins| joins.contains(&room))
                };
                check(rooms.iter().all(is_asked), &format!("a join that {name} did not ask for"))
            }
            RoomEvent::Left { slot, rooms } => {
                let Some(namespace) = namespace else { return Err("a leave of no namespace".to_owned()) };
                let Some(name) = self.name_of(*slot) else {
                    return check(self.now.dead.contains_key(slot), "a slot leaves that is nobody's");
                };
                let is_asked = |key: &String| {
                    let room = (namespace, key.clone());
                    asked.puts.get(name).into_iter().flatten().any(|put| !put.contains(&room))
                        || asked.leaves.get(name).is_some_and(|leaves| leaves.contains(&room))
                };
                check(rooms.iter().all(is_asked), &format!("a leave that {name} did not ask for"))
            }
        }
    }

    pub fn namespace_deleted(&mut self, partition: u16, end: u64, namespace: usize) {
        self.now.joined.values_mut().for_each(|rooms| rooms.retain(|(of, _), _| *of != namespace));
        self.events.entry(partition).or_default().push((end, Event::Deleted(namespace)));
    }

    /// Whether a record was for a slot where it stands.
    pub fn was_for(&self, slot: Slot, namespace: usize, offset: u64, key: Option<&str>) -> bool {
        let is_in = |room: &str| {
            let spans = self.spans.get(&(slot, (namespace, room.to_owned())));
            spans.into_iter().flatten().any(|(begin, end)| (*begin..*end).contains(&offset))
        };
        is_in("") || key.is_some_and(is_in)
    }

    /// Whether it was, and the slot has been there ever since.
    pub fn is_for(&self, slot: Slot, namespace: usize, offset: u64, key: Option<&str>) -> bool {
        let joined = self.now.joined.get(&slot);
        let is_in = |room: &str| {
            let since = joined.and_then(|joined| joined.get(&(namespace, room.to_owned())));
            since.is_some_and(|since| *since <= offset)
        };
        is_in("") || key.is_some_and(is_in)
    }

    /// Whether a row that is due may be missing: rooms of a deleted namespace go piece by piece, before the offset row
    /// says so.
    pub fn may_be_gone(key: &[u8], model: &Model) -> bool {
        let id = match key {
            [b'r', id @ ..] | [b'j', _, _, _, _, id @ ..] => id,
            _ => return false,
        };
        model.namespaces.iter().any(|one| !one.live && id.starts_with(&one.handle.id().to_be_bytes()))
    }

    /// All rows of rooms, where the ledger's offset rows are at these positions.
    pub fn rows(&self, model: &Model, seen: &BTreeMap<u16, u64>, rows: &mut BTreeMap<Vec<u8>, Vec<u8>>) {
        let mut state = State::default();
        for (partition, events) in &self.events {
            let end = seen.get(partition).copied().unwrap_or(0);
            for (_, event) in events.iter().take_while(|(at, _)| *at <= end) {
                state.apply(model.partitions.len() as u16, model, event);
            }
        }
        let id = |namespace: usize| model.namespaces[namespace].handle.id().to_be_bytes();
        let since = |namespace: usize, offset: u64| {
            let generation = model.namespaces[namespace].handle.generation();
            [&generation.to_le_bytes()[..], &offset.to_le_bytes()].concat()
        };
        let mut inside: BTreeMap<Room, RoaringBitmap> = BTreeMap::new();
        for (slot, joined) in state.joined {
            for (room, offset) in joined {
                let key = [b"j", &slot.to_be_bytes()[..], &id(room.0), room.1.as_bytes()].concat();
                rows.insert(key, since(room.0, offset));
                inside.entry(room).or_default().insert(slot);
            }
        }
        for ((namespace, key), slots) in inside {
            let mut row = Vec::new();
            slots.serialize_into(&mut row).unwrap();
            rows.insert([b"r", &id(namespace)[..], key.as_bytes()].concat(), row);
        }
        for (name, SubscriberModel { slot, began_micros, boot, connected_micros }) in state.subscribers {
            let numbers = [began_micros.to_le_bytes(), boot.to_le_bytes(), connected_micros.to_le_bytes()];
            rows.insert([b"s", name.as_bytes()].concat(), [&slot.to_le_bytes()[..], &numbers.concat()].concat());
        }
        for ((slot, namespace), offset) in state.acked {
            rows.insert([b"a", &slot.to_be_bytes()[..], &id(namespace)].concat(), since(namespace, offset));
        }
        for (slot, name) in state.dead {
            rows.insert([b"d", &slot.to_be_bytes()[..]].concat(), name.into_bytes());
        }
        for (partition, slot) in state.free {
            rows.insert([b"f", &partition.to_be_bytes()[..], &slot.to_be_bytes()].concat(), Vec::new());
        }
        for (partition, given) in state.given {
            rows.insert([b"n", &partition.to_be_bytes()[..]].concat(), given.to_le_bytes().to_vec());
        }
    }
}
