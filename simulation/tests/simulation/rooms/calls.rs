//! What is asked of subscribers, and whether it was done.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;
use std::task::Poll;

use consumers::rooms::{Connection, Place as Cursor, Room as Asked, Rooms, RoomsError, Subscriber, SubscriberName};

use super::clients::Client;
use super::model::{Life, Room};
use crate::ledger::SimLedger;
use crate::world::{World, broken, poll_once};

/// What came of a call.
enum Answer {
    Put(Result<bool, RoomsError>),
    Done(Result<(), RoomsError>),
    Connected(Result<Connection, RoomsError>),
    Seen(Result<Subscriber, RoomsError>),
}

/// What was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum What {
    Put(BTreeSet<Room>),
    Join(BTreeSet<Room>),
    Leave(BTreeSet<Room>),
    Delete,
    Ack(Vec<Cursor>),
    Connect,
    See,
    /// Slots of those that were deleted are freed.
    Sweep,
}

/// A call that is under way.
struct Call {
    life: Life,
    what: What,
    /// Whether nothing else was to change the subscriber meanwhile.
    alone: bool,
    /// Up to where acks had been answered.
    floors: BTreeMap<usize, u64>,
    answer: Pin<Box<dyn Future<Output = Answer>>>,
}

/// What ends with the process.
pub struct Calls {
    calls: Vec<Call>,
    pub(super) clients: Vec<Client>,
    /// How many connections each name has had.
    pub(super) connected: BTreeMap<String, u64>,
    /// Acks and connections so far: a client may hear of each.
    pub(super) acks: u64,
    pub(super) rooms: Rooms,
}

impl Calls {
    pub fn new(rooms: Rooms) -> Calls {
        Calls { calls: Vec::new(), clients: Vec::new(), connected: BTreeMap::new(), acks: 0, rooms }
    }

    /// Whether an ack or a connection is under way.
    pub(super) fn acks_wait(&self) -> bool {
        self.calls.iter().any(|call| call.what.acks())
    }
}

const NAMES: [&str; 3] = ["eva", "finn", "gina"];

impl What {
    fn changes(&self) -> bool {
        matches!(self, What::Put(_) | What::Join(_) | What::Leave(_) | What::Delete)
    }

    fn acks(&self) -> bool {
        matches!(self, What::Ack(_) | What::Connect)
    }
}

impl World {
    /// Asks something of a subscriber, or lets a client do something.
    pub fn call_rooms(&mut self, ledger: &mut SimLedger) {
        let name = NAMES[ledger.rng.index(3)];
        // Who is not there is mostly made first.
        let is_there = ledger.rooms.slot(name).is_some() || ledger.rng.chance(1, 4);
        let turn = if is_there { ledger.rng.below(40) } else { 0 };
        let what = match turn {
            0..3 => What::Put(self.some_rooms(ledger, 6)),
            3..9 => What::Join(self.some_rooms(ledger, 3)),
            9..12 => What::Leave(self.rooms_to_leave(ledger, name)),
            12..14 => What::Delete,
            14..20 => What::Connect,
            20..26 => What::Ack(self.some_places(ledger, name)),
            26 => What::See,
            27..29 if !ledger.process().rooms.calls.iter().any(|call| call.what == What::Sweep) => What::Sweep,
            29..32 => return self.settle_client(ledger),
            32..34 => return drop_client(ledger),
            34..36 => return self.follow_keys(ledger),
            36..38 => return self.level_clients(ledger),
            _ => return,
        };
        self.begin_rooms_call(ledger, name, what);
        // What changes a subscriber goes on to its end, others go away.
        if ledger.rng.chance(1, 10) {
            self.poll_rooms(ledger);
            let calls = &mut ledger.process().rooms.calls;
            if let Some(at) = calls.iter().position(|call| call.what.acks()) {
                drop(calls.remove(at));
            }
        }
    }

    fn some_rooms(&self, ledger: &mut SimLedger, most: u64) -> BTreeSet<Room> {
        let live: Vec<usize> = self.model.live().map(|(at, _)| at).collect();
        let rng = &mut ledger.rng;
        let key = |turn: u64| if turn < 4 { String::new() } else { format!("k{turn}") };
        let count = if live.is_empty() { 0 } else { 1 + rng.below(most) };
        (0..count).map(|_| (live[rng.index(live.len())], key(rng.below(12)))).collect()
    }

    /// Mostly such that it is in.
    fn rooms_to_leave(&self, ledger: &mut SimLedger, name: &str) -> BTreeSet<Room> {
        let mut rooms = if ledger.rng.chance(1, 4) { self.some_rooms(ledger, 2) } else { BTreeSet::new() };
        let slot = ledger.rooms.slot(name);
        let joined = slot.and_then(|slot| ledger.rooms.now.joined.get(&slot)).into_iter().flatten();
        rooms.extend(joined.map(|(room, _)| room.clone()).filter(|_| ledger.rng.chance(1, 3)));
        rooms
    }

    /// What was received, up to its end or up to somewhere.
    fn some_places(&self, ledger: &mut SimLedger, name: &str) -> Vec<Cursor> {
        let life = ledger.rooms.life(name);
        if ledger.rng.chance(1, 4) {
            return ledger.rooms.memory.shown.get(&life).cloned().unwrap_or_default();
        }
        let mut places = Vec::new();
        for (at, received) in ledger.rooms.memory.received.get(&life).into_iter().flatten() {
            let all: Vec<u64> = received.iter().copied().collect();
            let to = if ledger.rng.chance(2, 3) { all.len() - 1 } else { ledger.rng.index(all.len()) };
            let handle = &self.model.namespaces[*at].handle;
            if ledger.rng.chance(2, 3) {
                let (namespace, generation) = (handle.id(), handle.generation());
                places.push(Cursor { namespace, generation, next_offset: all[to] + 1 });
            }
        }
        places
    }

    fn begin_rooms_call(&self, ledger: &mut SimLedger, name: &str, what: What) {
        let asked = |rooms: &BTreeSet<Room>| -> Vec<Asked> {
            let room = |(at, key): &Room| Asked {
                namespace: self.model.namespaces[*at].handle.clone(),
                key: Some(key.clone()).filter(|key| !key.is_empty()),
            };
            rooms.iter().map(room).collect()
        };
        let life = ledger.rooms.life(name);
        let mut floors = ledger.rooms.memory.answered.get(&life).cloned().unwrap_or_default();
        let (all, running) = (&mut ledger.rooms.asked, ledger.process.as_ref().unwrap().rooms.rooms.clone());
        let (owned, of) = (name.to_owned(), SubscriberName::new(name).unwrap());
        let answer: Pin<Box<dyn Future<Output = Answer>>> = match &what {
            What::Put(rooms) => {
                all.puts.entry(owned).or_default().push(rooms.clone());
                let rooms = asked(rooms);
                Box::pin(async move { Answer::Put(running.put(&of, rooms).await) })
            }
            What::Join(rooms) => {
                all.joins.entry(owned).or_default().extend(rooms.iter().cloned());
                let rooms = asked(rooms);
                Box::pin(async move { Answer::Done(running.join(&of, rooms).await) })
            }
            What::Leave(rooms) => {
                all.leaves.entry(owned).or_default().extend(rooms.iter().cloned());
                let rooms = asked(rooms);
                Box::pin(async move { Answer::Done(running.leave(&of, rooms).await) })
            }
            What::Delete => {
                all.deletes.insert(owned);
                Box::pin(async move { Answer::Done(running.delete(&of).await) })
            }
            What::Ack(places) => {
                all.acks.entry(owned).or_default().extend(places.iter().copied());
                let places = places.clone();
                Box::pin(async move { Answer::Done(running.ack(&of, &places).await) })
            }
            What::Connect => {
                all.connects.insert(owned.clone());
                let resume = if ledger.rng.chance(1, 2) { ledger.rooms.memory.shown.get(&life).cloned() } else { None };
                let resume = resume.unwrap_or_default();
                for place in &resume {
                    let at =
                        self.model.namespaces.iter().position(|namespace| namespace.handle.id() == place.namespace);
                    let floor = floors.entry(at.unwrap()).or_insert(0);
                    *floor = place.next_offset.max(*floor);
                }
                ledger.rooms.asked.acks.entry(owned).or_default().extend(resume.iter().copied());
                Box::pin(async move { Answer::Connected(running.connect(&of, &resume).await) })
            }
            What::See => Box::pin(async move { Answer::Seen(running.get(&of).await) }),
            What::Sweep => Box::pin(async move { Answer::Done(running.sweep().await) }),
        };
        let Calls { calls, acks, .. } = &mut ledger.process().rooms;
        let mut alone = true;
        for other in calls.iter_mut().filter(|other| other.life.0 == name && what.changes() && other.what.changes()) {
            (alone, other.alone) = (false, false);
        }
        *acks += u64::from(what.acks());
        calls.push(Call { life, what, alone, floors, answer });
    }

    pub fn poll_rooms(&mut self, ledger: &mut SimLedger) {
        for mut call in std::mem::take(&mut ledger.process().rooms.calls) {
            match poll_once(&ledger.process().runtime, &mut call.answer) {
                Poll::Pending => ledger.process().rooms.calls.push(call),
                Poll::Ready(answer) => self.judge_rooms_answer(ledger, call, answer),
            }
        }
        self.poll_clients(ledger);
    }

    fn judge_rooms_answer(&mut self, ledger: &mut SimLedger, call: Call, answer: Answer) {
        ledger.process().rooms.acks += u64::from(call.what.acks());
        let Call { life, what, .. } = &call;
        let error = match answer {
            Answer::Put(Ok(new)) => {
                self.note(&format!("{life:?} put, new: {new}"));
                return self.judge_changed(ledger, &call, new);
            }
            Answer::Done(Ok(())) => {
                self.note(&format!("{life:?} {what:?} done"));
                return match what {
                    What::Ack(places) => self.judge_acked(ledger, life, places),
                    What::Sweep => {}
                    _ => self.judge_changed(ledger, &call, false),
                };
            }
            Answer::Connected(Ok(connection)) => {
                self.note(&format!("{life:?} connected"));
                return self.connected(ledger, call, connection);
            }
            Answer::Seen(Ok(subscriber)) => return self.judge_seen(&call, &subscriber),
            Answer::Put(Err(error))
            | Answer::Done(Err(error))
            | Answer::Connected(Err(error))
            | Answer::Seen(Err(error)) => error,
        };
        self.note(&format!("{life:?} {what:?} refused"));
        let is_gone = |rooms: &BTreeSet<Room>| rooms.iter().any(|(at, _)| !self.model.namespaces[*at].live);
        let may_be = match (&error, what) {
            (RoomsError::SubscriberNotFound, _) => {
                ledger.rooms.life(&life.0) != *life || ledger.rooms.slot(&life.0).is_none()
            }
            (RoomsError::NamespaceNotFound(_), What::Put(rooms) | What::Join(rooms)) => is_gone(rooms),
            (RoomsError::Append(_) | RoomsError::Read(_) | RoomsError::Ledger(_), _) => self.is_faulty(ledger),
            _ => false,
        };
        if !may_be {
            broken!("{what:?} of {life:?}: {error}");
        }
    }

    /// What was answered as done is in the log, and nothing else was.
    fn judge_changed(&self, ledger: &SimLedger, call: &Call, is_new: bool) {
        let (name, era) = &call.life;
        let (_, now) = ledger.rooms.life(name);
        if !call.alone || now != era + u64::from(is_new || call.what == What::Delete) {
            return;
        }
        let slot = ledger.rooms.slot(name);
        let joined = slot.and_then(|slot| ledger.rooms.now.joined.get(&slot));
        let joined: BTreeSet<Room> = joined.into_iter().flatten().map(|(room, _)| room.clone()).collect();
        let lives = |room: &&Room| self.model.namespaces[room.0].live;
        let holds = match &call.what {
            What::Put(rooms) => slot.is_some() && joined.iter().eq(rooms.iter().filter(lives)),
            What::Join(rooms) => slot.is_some() && rooms.iter().filter(lives).all(|room| joined.contains(room)),
            What::Leave(rooms) => slot.is_some() && !rooms.iter().any(|room| joined.contains(room)),
            What::Delete => slot.is_none(),
            _ => true,
        };
        if !holds {
            broken!("{:?} of {name} is done, and it is {slot:?} in {joined:?}", call.what);
        }
    }

    fn judge_acked(&self, ledger: &mut SimLedger, life: &Life, places: &[Cursor]) {
        if ledger.rooms.life(&life.0) != *life {
            return;
        }
        let Some(slot) = ledger.rooms.slot(&life.0) else { broken!("an ack of {life:?}, which is not there") };
        for place in places {
            let at = self.model.namespaces.iter().position(|one| one.handle.id() == place.namespace).unwrap();
            if !self.model.namespaces[at].live {
                continue;
            }
            if ledger.rooms.now.cursor(slot, at).is_some_and(|cursor| cursor < place.next_offset) {
                broken!("the ack of {place:?} by {life:?} is answered, and not in the log");
            }
            let answered = ledger.rooms.memory.answered.entry(life.clone()).or_default().entry(at).or_insert(0);
            *answered = place.next_offset.max(*answered);
            ledger.counts.rooms.acks += 1;
        }
    }

    fn judge_seen(&self, call: &Call, subscriber: &Subscriber) {
        for cursor in &subscriber.cursors {
            let at = self.model.namespaces.iter().position(|one| one.handle == cursor.namespace).unwrap();
            if call.floors.get(&at).is_some_and(|floor| *floor > cursor.next_offset) {
                broken!("{:?} is said to be at {cursor:?}, it has acked up to {:?}", call.life, call.floors[&at]);
            }
        }
    }

    fn connected(&mut self, ledger: &mut SimLedger, call: Call, connection: Connection) {
        let Call { life, floors, .. } = call;
        if ledger.rooms.life(&life.0) != life {
            return;
        }
        let Some(slot) = ledger.rooms.slot(&life.0) else { broken!("{life:?} is connected, and is not there") };
        let number = ledger.process().rooms.connected.entry(life.0.clone()).or_insert(0);
        *number += 1;
        let client = Client::of_subscriber(life, slot, *number, floors, connection);
        ledger.process().rooms.clients.push(client);
        ledger.counts.rooms.connections += 1;
    }

    /// Everyone gets what there is; then all are deleted, and all slots are free.
    pub fn finish_rooms(&mut self) {
        self.with_ledger(|ledger, world| {
            let names: Vec<String> = ledger.rooms.now.subscribers.keys().cloned().collect();
            names.iter().for_each(|name| world.begin_rooms_call(ledger, name, What::Connect));
        });
        self.end_calls();
        self.with_ledger(|ledger, world| {
            world.level_clients(ledger);
            let names: Vec<String> = ledger.rooms.now.subscribers.keys().cloned().collect();
            names.iter().for_each(|name| world.begin_rooms_call(ledger, name, What::Delete));
        });
        self.end_calls();
        self.with_ledger(|ledger, world| world.begin_rooms_call(ledger, NAMES[0], What::Sweep));
        self.end_calls();
        let ledger = self.ledger.as_ref().unwrap();
        if !ledger.rooms.now.dead.is_empty() {
            broken!("slots are not freed: {:?}", ledger.rooms.now.dead);
        }
    }

    fn end_calls(&mut self) {
        for _ in 0..300 {
            if self.ledger.as_mut().is_none_or(|ledger| ledger.process().rooms.calls.is_empty()) {
                return;
            }
            self.go_round();
        }
        broken!("what was asked of subscribers does not come to an end");
    }
}

/// A client goes away.
fn drop_client(ledger: &mut SimLedger) {
    let clients = ledger.process().rooms.clients.len();
    if clients > 0 {
        let at = ledger.rng.index(clients);
        drop(ledger.process().rooms.clients.remove(at));
    }
}
