//! Frames that nobody in the workload asked for, as those made them who use the ledger: events, dead letters, the
//! namespaces of these, and letters that were sent back.

use std::iter::Peekable;
use std::sync::Arc;

use bytes::Bytes;
use consumers::groups::GroupEvent;
use consumers::locks::LockEvent;
use consumers::rooms::RoomEvent;
use tlog::ControlEvent;
use wire::{Frame, NamespaceConfig, NamespaceId, Record};

use crate::groups::Letter;
use crate::model::{Item, Model, Request};
use crate::world::{World, broken};

/// What the names of namespaces for dead letters begin with. The workload leaves them alone.
pub const DEAD: &str = "dead-";

/// Where an event stands.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    pub partition: u16,
    /// Behind it in the log.
    pub end: u64,
    /// Of its namespace, or of the control records where it is of none.
    pub next_offset: u64,
    /// Whether a fault may have kept an event before it out of the log.
    pub excused: bool,
}

impl World {
    /// Takes in such frames, up to the first that is another.
    pub fn take_ledger_frames(&mut self, partition: u16, found: &mut Peekable<impl Iterator<Item = Frame>>) {
        while let Some(frame) = found.next_if(|frame| self.is_of_ledger(frame)) {
            if frame.namespace() == NamespaceId::CONTROL {
                self.take_control(partition, &frame);
            } else if self.place_of(frame.namespace()).is_some_and(|at| self.is_dead(at)) {
                self.take_letter(partition, &frame);
            } else {
                self.take_sent_back(partition, &frame);
            }
        }
    }

    fn is_of_ledger(&self, frame: &Frame) -> bool {
        if frame.namespace() != NamespaceId::CONTROL {
            let letter = frame.producer().filter(|producer| {
                self.ledger.as_ref().is_some_and(|ledger| ledger.groups.ways_back.contains_key(&producer.id))
            });
            return letter.is_some() || self.place_of(frame.namespace()).is_some_and(|at| self.is_dead(at));
        }
        match ControlEvent::all_in(frame).next() {
            Some(Ok(ControlEvent::Consumers { .. })) => true,
            Some(Ok(ControlEvent::Created { name, .. })) => name.starts_with(DEAD),
            _ => false,
        }
    }

    fn place_of(&self, id: NamespaceId) -> Option<usize> {
        place_in(&self.model, id)
    }

    /// Whether a namespace is one for dead letters.
    pub fn is_dead(&self, namespace: usize) -> bool {
        self.model.namespaces[namespace].handle.name().starts_with(DEAD)
    }

    fn take_control(&mut self, partition: u16, frame: &Frame) {
        match ControlEvent::all_in(frame).next() {
            Some(Ok(ControlEvent::Created { name, .. })) => {
                let create = Request::Create { name, config: NamespaceConfig::default() };
                self.accept(partition, &create, frame);
            }
            Some(Ok(ControlEvent::Consumers { id, next_offset, event, .. })) => {
                let at = self.place_of(id);
                if at.is_none() && id != NamespaceId::CONTROL {
                    broken!("an event of no namespace: {id}");
                }
                if let Err(reason) = self.model.accept_event(partition, at, event.clone(), frame) {
                    broken!("{reason}, at {} of partition {partition}", frame.position());
                }
                let stands = Place { partition, end: frame.end(), next_offset, excused: self.excuses() > 0 };
                if let Err(reason) = self.take_event(at, stands, &event) {
                    broken!("{reason}, at {} of partition {partition}", frame.position());
                }
            }
            other => broken!("users of the ledger made {other:?}"),
        }
    }

    fn take_event(&mut self, at: Option<usize>, stands: Place, event: &Bytes) -> Result<(), String> {
        let Some(ledger) = &mut self.ledger else { broken!("an event where there is no ledger: {event:?}") };
        let is_shown = std::env::var_os("TLOG_SIM_VERBOSE").is_some();
        match (event.first(), at) {
            (Some(1..=5), Some(at)) => {
                let (group, event) = GroupEvent::decode(event).unwrap();
                if is_shown {
                    eprintln!("{stands:?}: {group} of {at} {event:?}");
                }
                ledger.counts.groups.events += 1;
                ledger.groups.take(stands, &(at, group.to_owned()), event, &self.model.namespaces[at].handle)
            }
            (Some(16..=18), None) => {
                let (lock, event) = LockEvent::decode(event).unwrap();
                if is_shown {
                    eprintln!("{stands:?}: {lock} {event:?}");
                }
                ledger.counts.locks.events += 1;
                let now = ledger.now();
                ledger.locks.take(stands, lock, event, now)
            }
            (Some(32..=63), at) => {
                let event = RoomEvent::decode(event).unwrap();
                if is_shown {
                    eprintln!("{stands:?}: {at:?} {event:?}");
                }
                ledger.counts.rooms.events += 1;
                let reused = ledger.rooms.take(stands, at, event, &self.model, ledger.boot)?;
                ledger.counts.rooms.reused += u64::from(reused);
                Ok(())
            }
            _ => Err(format!("an event of nobody, of {at:?}: {event:?}")),
        }
    }

    /// A letter is stored once in a namespace, and says what it is due to.
    fn take_letter(&mut self, partition: u16, frame: &Frame) {
        let Some(ledger) = &mut self.ledger else { broken!("a letter where there are no groups") };
        let at = self.model.namespaces.iter().position(|namespace| namespace.handle.id() == frame.namespace()).unwrap();
        let Some(producer) = frame.producer() else { broken!("a letter of no producer") };
        let Some(letter) = ledger.groups.letters.get(&producer.id).cloned() else {
            broken!("a letter that nobody wrote: {:?}", frame.records().next())
        };
        if !ledger.groups.stored.insert((producer.id, at)) {
            broken!("a letter is stored twice: {letter:?}");
        }
        ledger.counts.groups.letters += 1;
        ledger.groups.may_come_back(at, &self.model.namespaces[at].handle, frame.base_offset(), &letter);
        let item = self.item_of(&letter);
        let append = Request::Append {
            namespace: at,
            items: Arc::new(vec![item]),
            producer: Some(producer),
            if_next_offset: None,
        };
        self.accept(partition, &append, frame);
    }

    /// A letter goes back to where it came from once, as it was.
    fn take_sent_back(&mut self, partition: u16, frame: &Frame) {
        let (Some(ledger), Some(at)) = (&mut self.ledger, place_in(&self.model, frame.namespace())) else { return };
        let Some(producer) = frame.producer() else { return };
        let way = ledger.groups.ways_back[&producer.id].clone();
        if *self.model.namespaces[at].handle.name() != *self.model.namespaces[way.letter.group.0].handle.name() {
            broken!("a letter is sent back to another namespace: {way:?}");
        }
        if !ledger.groups.back.insert((producer.id, at)) {
            broken!("a letter is sent back twice: {way:?}");
        }
        ledger.counts.groups.redriven += 1;
        let Item { key, headers, kind, value } = self.item_of(&way.letter);
        let headers = headers.into_iter().filter(|(name, _)| !name.starts_with("tlog-")).collect();
        let append = Request::Append {
            namespace: at,
            items: Arc::new(vec![Item { key, headers, kind, value }]),
            producer: Some(producer),
            if_next_offset: None,
        };
        self.accept(partition, &append, frame);
    }

    fn item_of(&self, letter: &Letter) -> Item {
        let Letter { group: (namespace, group), dead } = letter;
        let state = &self.model.namespaces[*namespace];
        let record = record_at(state.frames_from(dead.offset), dead.offset);
        let mut headers: Vec<(String, String)> =
            record.headers.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        let own = [
            ("tlog-namespace", state.handle.name().to_string()),
            ("tlog-offset", dead.offset.to_string()),
            ("tlog-group", group.clone()),
            ("tlog-deliveries", dead.deliveries.to_string()),
            ("tlog-error", dead.error.clone()),
        ];
        headers.extend(own.map(|(name, value)| (name.to_owned(), value)));
        Item { key: record.key.map(str::to_owned), headers, kind: record.kind, value: record.value.to_vec() }
    }
}

fn place_in(model: &Model, id: NamespaceId) -> Option<usize> {
    model.namespaces.iter().position(|namespace| namespace.handle.id() == id)
}

/// The record of an offset, which is in the first of these frames.
pub fn record_at(frames: &[Frame], offset: u64) -> Record<'_> {
    frames[0].records().find(|record| record.offset == offset).unwrap()
}
