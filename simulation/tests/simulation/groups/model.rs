//! What groups must have done: plain sets and maps, that the events in the log make. Each event is held
//! against what was asked and what was done before. The ledger's rows follow from the events before its
//! offset rows, by the layouts that are documented in `consumers`, and by nothing else (invariant 7).

use std::collections::{BTreeMap, BTreeSet};

use consumers::groups::{Dead, GroupConfig, GroupEvent, Progressed, Start};
use roaring::RoaringTreemap;
use tlog::Namespace;
use wire::{NamespaceName, ProducerId};

use crate::ledger::Place;
use crate::model::Model;

/// A group: its namespace's place in [`Model::namespaces`], and its name.
pub type Id = (usize, String);

/// A group, as its events have made it.
#[derive(Debug, Clone)]
pub struct GroupModel {
    pub incarnation: u32,
    pub config: GroupConfig,
    /// Where it began, or was moved to.
    pub floor: u64,
    /// What is acked or given up, from there on.
    pub done: BTreeSet<u64>,
    pub attempts: BTreeMap<u64, u32>,
    letters_made: u64,
    /// Dead letters that no event says are where they should be, by number.
    pub letters: BTreeMap<u64, Dead>,
}

impl GroupModel {
    fn done_with(&mut self, offset: u64) {
        if offset >= self.floor {
            self.done.insert(offset);
        }
        self.attempts.remove(&offset);
    }

    fn progressed(&mut self, progressed: &Progressed) {
        progressed.acked.iter().cloned().flatten().for_each(|offset| self.done_with(offset));
        for dead in &progressed.dead {
            self.done_with(dead.offset);
            if self.config.dead_letter.is_some() {
                self.letters.insert(self.letters_made, dead.clone());
                self.letters_made += 1;
            }
        }
        self.attempts.extend(progressed.failed.iter().copied());
    }

    fn letter_of(&self, offset: u64) -> Option<u64> {
        self.letters.iter().find(|(_, dead)| dead.offset == offset).map(|(number, _)| *number)
    }

    /// The first offset that is not done.
    pub fn first_undone(&self) -> u64 {
        (self.floor..).find(|offset| !self.done.contains(offset)).unwrap()
    }

    fn progress(&self) -> Vec<u8> {
        let floor = self.first_undone();
        let mut row = floor.to_le_bytes().to_vec();
        varint(&mut row, self.attempts.len() as u64);
        let mut least = 0;
        for (offset, attempts) in &self.attempts {
            varint(&mut row, offset - least);
            varint(&mut row, u64::from(*attempts));
            least = offset + 1;
        }
        let mut above: RoaringTreemap = self.done.range(floor..).collect();
        if !above.is_empty() {
            above.optimize();
            above.serialize_into(&mut row).unwrap();
        }
        row
    }
}

fn varint(row: &mut Vec<u8>, mut value: u64) {
    while value >= 128 {
        row.push((value % 128) as u8 + 128);
        value /= 128;
    }
    row.push(value as u8);
}

/// A dead letter, by the producer that is to store it.
#[derive(Debug, Clone)]
pub struct Letter {
    pub group: Id,
    pub dead: Dead,
}

/// How a letter goes back.
#[derive(Debug, Clone)]
pub struct WayBack {
    pub letter: Letter,
    /// Where the letter is.
    from: (usize, u64),
}

/// The group of a namespace for dead letters that says which of them were sent back.
const REDRIVE: &str = "redrive";

/// Something in a partition's log that concerns groups.
#[derive(Debug, Clone)]
enum Event {
    OfGroup(Id, GroupEvent),
    Deleted(usize),
}

/// All groups, as the log's events have made them.
#[derive(Debug, Default)]
pub struct GroupsModel {
    /// By partition: the end of the frame, and what it says.
    events: BTreeMap<u16, Vec<(u64, Event)>>,
    pub now: BTreeMap<Id, GroupModel>,
    incarnations: BTreeSet<(Id, u32)>,
    /// Acks that were asked for, whether they took effect or not.
    pub asked: BTreeMap<Id, BTreeSet<u64>>,
    /// How often each group was begun, moved or ended.
    pub eras: BTreeMap<Id, u64>,
    pub letters: BTreeMap<ProducerId, Letter>,
    /// Letters, and the namespaces in which they are.
    pub stored: BTreeSet<(ProducerId, usize)>,
    /// By the producer that is to send it back.
    pub ways_back: BTreeMap<ProducerId, WayBack>,
    /// Those that were, and the namespaces in which they are again.
    pub back: BTreeSet<(ProducerId, usize)>,
}

impl GroupsModel {
    /// Takes in an event, once it is sure that it may be.
    pub fn take(
        &mut self,
        Place { partition, end, next_offset, excused }: Place,
        id: &Id,
        event: GroupEvent,
        handle: &Namespace,
    ) -> Result<(), String> {
        let is_redrive = id.1 == REDRIVE;
        if is_redrive { self.judge_redrive(id, &event, handle) } else { self.judge(id, &event, next_offset, excused) }
            .map_err(|reason| format!("{reason}: {event:?} of {id:?}"))?;
        let before = self.now.get(id).map_or(0, |group| group.letters_made);
        let anew = matches!(&event, GroupEvent::Deleted | GroupEvent::Moved { .. }) || !self.now.contains_key(id);
        if anew {
            *self.eras.entry(id.clone()).or_default() += 1;
        }
        apply(&mut self.now, id, &event);
        if let Some(group) = self.now.get(id) {
            for (number, dead) in group.letters.range(before..) {
                let (ns, generation, incarnation) = (handle.id(), handle.generation(), group.incarnation);
                let text = format!("dead letter {number} of {ns} {generation} {incarnation} {}", id.1);
                let mut producer = [0; 16];
                producer.copy_from_slice(&blake3::hash(text.as_bytes()).as_bytes()[..16]);
                let letter = Letter { group: id.clone(), dead: dead.clone() };
                if self.letters.insert(ProducerId(producer), letter).is_some() {
                    return Err(format!("two dead letters have one producer: {event:?} of {id:?}"));
                }
            }
        }
        self.events.entry(partition).or_default().push((end, Event::OfGroup(id.clone(), event)));
        Ok(())
    }

    fn judge(&mut self, id: &Id, event: &GroupEvent, next_offset: u64, excused: bool) -> Result<(), String> {
        let wrong = |reason: &str| Err(reason.to_owned());
        match (event, self.now.get(id)) {
            (GroupEvent::Configured { incarnation, floor, config }, None) => {
                let begins = match config.start {
                    Start::Earliest => *floor == 0,
                    Start::Latest => *floor <= next_offset,
                    Start::At(offset) => *floor == offset,
                };
                if !begins {
                    return wrong("a group begins elsewhere");
                }
                if !self.incarnations.insert((id.clone(), *incarnation)) {
                    return wrong("an incarnation comes again");
                }
                Ok(())
            }
            (GroupEvent::Configured { incarnation, config, .. }, Some(group)) => {
                let same = *incarnation == group.incarnation && config.start == group.config.start;
                if same { Ok(()) } else { wrong("a group that is there begins again") }
            }
            (_, None) => wrong("an event of a group that does not exist"),
            (GroupEvent::Deleted, Some(_)) => Ok(()),
            (GroupEvent::Moved { floor }, Some(_)) if *floor <= next_offset => Ok(()),
            (GroupEvent::Moved { .. }, Some(_)) => wrong("a group is moved past the head"),
            (GroupEvent::Progressed(progressed), Some(group)) => {
                let asked = self.asked.get(id);
                for offset in progressed.acked.iter().cloned().flatten() {
                    if offset >= next_offset || group.done.contains(&offset) || offset < group.floor {
                        return Err(format!("{offset} is acked, which was done before, or does not exist"));
                    }
                    if !asked.is_some_and(|asked| asked.contains(&offset)) {
                        return Err(format!("{offset} is acked, and nobody asked for it"));
                    }
                }
                let dead = progressed.dead.iter().map(|dead| (dead.offset, dead.deliveries));
                for (offset, count) in progressed.failed.iter().copied().chain(dead.clone()) {
                    if offset >= next_offset || group.done.contains(&offset) || offset < group.floor {
                        return Err(format!("{offset} has failed, which was done before, or does not exist"));
                    }
                    let due = group.attempts.get(&offset).copied().unwrap_or(0) + 1;
                    // What a refused event would have said is counted by the next.
                    if count != due && !(excused && count > due) {
                        return Err(format!("{offset} has failed {count} times where {due} is due"));
                    }
                }
                match dead.clone().find(|(_, count)| *count < group.config.max_deliveries) {
                    Some((offset, count)) => Err(format!("{offset} is given up after {count} deliveries")),
                    None => Ok(()),
                }
            }
            (GroupEvent::Published { offsets }, Some(group)) => {
                for offset in offsets {
                    let Some(number) = group.letter_of(*offset) else {
                        return Err(format!("{offset} has no letter"));
                    };
                    let dead = &group.letters[&number];
                    let is_stored = |(producer, _): &&(ProducerId, usize)| {
                        let letter = &self.letters[producer];
                        letter.group == *id && letter.dead == *dead
                    };
                    if group.config.dead_letter.is_some() && !self.stored.iter().any(|place| is_stored(&place)) {
                        return Err(format!("the letter of {offset} is said to be stored"));
                    }
                }
                Ok(())
            }
        }
    }

    /// A letter is in a namespace for such, at an offset.
    pub fn may_come_back(&mut self, at: usize, handle: &Namespace, offset: u64, letter: &Letter) {
        let way = WayBack { letter: letter.clone(), from: (at, offset) };
        self.ways_back.insert(sent_back_by(handle, offset), way);
    }

    /// The letters of a group of this name, of any namespace of this name, in a namespace for such.
    pub fn letters_in(&self, from: usize, name: &NamespaceName, id: &Id, model: &Model) -> Vec<ProducerId> {
        let is_its = |way: &WayBack| {
            let (namespace, group) = &way.letter.group;
            way.from.0 == from && *group == id.1 && model.namespaces[*namespace].handle.name() == name
        };
        self.ways_back.iter().filter(|(_, way)| is_its(way)).map(|(producer, _)| *producer).collect()
    }

    /// Whether a letter was sent back.
    pub fn is_back(&self, producer: &ProducerId) -> bool {
        self.back.range((*producer, 0)..=(*producer, usize::MAX)).next().is_some()
    }

    /// That a letter was sent back is said once it was.
    fn judge_redrive(&self, id: &Id, event: &GroupEvent, handle: &Namespace) -> Result<(), String> {
        let (GroupEvent::Progressed(progressed), Some(_)) = (event, self.now.get(id)) else {
            let begins = matches!(event, GroupEvent::Configured { floor: 0, .. }) && !self.now.contains_key(id);
            return if begins { Ok(()) } else { Err("nobody asked for it".to_owned()) };
        };
        if !progressed.dead.is_empty() || !progressed.failed.is_empty() {
            return Err("a letter failed".to_owned());
        }
        match progressed.acked.iter().cloned().flatten().find(|at| !self.is_back(&sent_back_by(handle, *at))) {
            Some(offset) => Err(format!("{offset} is said to be back")),
            None => Ok(()),
        }
    }

    pub fn namespace_deleted(&mut self, partition: u16, end: u64, namespace: usize) {
        self.events.entry(partition).or_default().push((end, Event::Deleted(namespace)));
        let ended: Vec<Id> = self.now.keys().filter(|id| id.0 == namespace).cloned().collect();
        for id in ended {
            *self.eras.entry(id.clone()).or_default() += 1;
            self.now.remove(&id);
        }
    }

    /// All rows of groups, where the ledger's offset rows are at these positions.
    pub fn rows(&self, model: &Model, seen: &BTreeMap<u16, u64>, rows: &mut BTreeMap<Vec<u8>, Vec<u8>>) {
        let mut groups = BTreeMap::new();
        for (partition, events) in &self.events {
            let end = seen.get(partition).copied().unwrap_or(0);
            for (_, event) in events.iter().take_while(|(at, _)| *at <= end) {
                match event {
                    Event::OfGroup(id, event) => apply(&mut groups, id, event),
                    Event::Deleted(namespace) => groups.retain(|id: &Id, _| id.0 != *namespace),
                }
            }
        }
        for ((namespace, name), group) in groups {
            let handle = &model.namespaces[namespace].handle;
            let config = serde_json::to_vec(&group.config).unwrap();
            let row = [
                &handle.generation().to_le_bytes()[..],
                &group.incarnation.to_le_bytes(),
                &group.letters_made.to_le_bytes(),
                &(config.len() as u32).to_le_bytes(),
                &config,
                &group.progress(),
            ];
            let namespace = handle.id().to_be_bytes();
            rows.insert([b"g", &namespace[..], name.as_bytes()].concat(), row.concat());
            for (number, Dead { offset, deliveries, error }) in &group.letters {
                let length = [name.len() as u8];
                let key = [b"l", &namespace[..], &length, name.as_bytes(), &number.to_be_bytes()].concat();
                let row = [&offset.to_le_bytes()[..], &deliveries.to_le_bytes(), error.as_bytes()].concat();
                rows.insert(key, row);
            }
        }
    }
}

/// Who sends the letter of an offset back.
fn sent_back_by(from: &Namespace, offset: u64) -> ProducerId {
    let text = format!("letter {offset} of {} {} sent back", from.id(), from.generation());
    let mut producer = [0; 16];
    producer.copy_from_slice(&blake3::hash(text.as_bytes()).as_bytes()[..16]);
    ProducerId(producer)
}

fn apply(groups: &mut BTreeMap<Id, GroupModel>, id: &Id, event: &GroupEvent) {
    let group = groups.get_mut(id);
    match (event, group) {
        (GroupEvent::Configured { config, .. }, Some(group)) => group.config = config.clone(),
        (GroupEvent::Configured { incarnation, floor, config }, None) => {
            let group = GroupModel {
                incarnation: *incarnation,
                config: config.clone(),
                floor: *floor,
                done: BTreeSet::new(),
                attempts: BTreeMap::new(),
                letters_made: 0,
                letters: BTreeMap::new(),
            };
            groups.insert(id.clone(), group);
        }
        (GroupEvent::Deleted, _) => drop(groups.remove(id)),
        (GroupEvent::Progressed(progressed), Some(group)) => group.progressed(progressed),
        (GroupEvent::Moved { floor }, Some(group)) => {
            group.floor = *floor;
            group.done.clear();
            group.attempts.clear();
        }
        (GroupEvent::Published { offsets }, Some(group)) => {
            for offset in offsets {
                if let Some(number) = group.letter_of(*offset) {
                    group.letters.remove(&number);
                }
            }
        }
        (_, None) => {}
    }
}
