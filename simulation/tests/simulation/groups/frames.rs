//! Frames that nobody in the workload asked for, as groups made them: events, dead letters, and the
//! namespaces of these.

use std::iter::Peekable;
use std::sync::Arc;

use consumers::groups::GroupEvent;
use tlog::ControlEvent;
use wire::{Frame, NamespaceConfig, NamespaceId, Record};

use super::model::Letter;
use crate::model::{Item, Request};
use crate::world::{World, broken};

/// What the names of namespaces for dead letters begin with. The workload leaves them alone.
pub const DEAD: &str = "dead-";

impl World {
    /// Takes in frames of groups, up to the first that is of none.
    pub fn take_groups_frames(&mut self, partition: u16, found: &mut Peekable<impl Iterator<Item = Frame>>) {
        while let Some(frame) = found.next_if(|frame| self.is_of_groups(frame)) {
            if frame.namespace() == NamespaceId::CONTROL {
                self.take_control(partition, &frame);
            } else {
                self.take_letter(partition, &frame);
            }
        }
    }

    fn is_of_groups(&self, frame: &Frame) -> bool {
        if frame.namespace() != NamespaceId::CONTROL {
            return self.place_of(frame.namespace()).is_some_and(|at| self.is_dead(at));
        }
        match ControlEvent::all_in(frame).next() {
            Some(Ok(ControlEvent::Consumers { .. })) => true,
            Some(Ok(ControlEvent::Created { name, .. })) => name.starts_with(DEAD),
            _ => false,
        }
    }

    fn place_of(&self, id: NamespaceId) -> Option<usize> {
        self.model.namespaces.iter().position(|namespace| namespace.handle.id() == id)
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
            Some(Ok(ControlEvent::Consumers { id, event, .. })) => {
                let Some(at) = self.place_of(id) else { broken!("an event of no namespace: {id}") };
                if let Err(reason) = self.model.accept_event(partition, at, event.clone(), frame) {
                    broken!("{reason}, at {} of partition {partition}", frame.position());
                }
                let (group, event) = GroupEvent::decode(&event).unwrap();
                let (id, namespace) = ((at, group.to_owned()), &self.model.namespaces[at]);
                if std::env::var_os("TLOG_SIM_VERBOSE").is_some() {
                    eprintln!("at {} of partition {partition}: {id:?} {event:?}", frame.end());
                }
                let Some(groups) = &mut self.groups else { broken!("an event of {id:?}, where there are no groups") };
                let model = &mut groups.model;
                let taken = model.take(partition, frame.end(), &id, event, namespace.next_offset, &namespace.handle);
                if let Err(reason) = taken {
                    broken!("{reason}, at {} of partition {partition}", frame.position());
                }
            }
            other => broken!("groups made {other:?}"),
        }
    }

    /// A letter is stored once in a namespace, and says what it is due to.
    fn take_letter(&mut self, partition: u16, frame: &Frame) {
        let Some(groups) = &mut self.groups else { broken!("a letter where there are no groups") };
        let at = self.model.namespaces.iter().position(|namespace| namespace.handle.id() == frame.namespace()).unwrap();
        let Some(producer) = frame.producer() else { broken!("a letter of no producer") };
        let Some(letter) = groups.model.letters.get(&producer.id).cloned() else {
            broken!("a letter that nobody wrote: {:?}", frame.records().next())
        };
        if !groups.model.stored.insert((producer.id, at)) {
            broken!("a letter is stored twice: {letter:?}");
        }
        groups.counts.letters += 1;
        let item = self.item_of(&letter);
        let append = Request::Append {
            namespace: at,
            items: Arc::new(vec![item]),
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

/// The record of an offset, which is in the first of these frames.
pub fn record_at(frames: &[Frame], offset: u64) -> Record<'_> {
    frames[0].records().find(|record| record.offset == offset).unwrap()
}
