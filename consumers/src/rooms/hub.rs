//! Who is connected, and what they are told of: memory only. The thread that applies a partition asks here,
//! behind each batch that it has written, for whom its records are.
//!
//! ```text
//!   a record of a namespace that someone follows
//!     ├─ 'r' row of the namespace ─┐
//!     ├─ 'r' row of its key ───────┼─▶ slots that are connected ─▶ their inboxes
//!     └─ keys of anonymous ones ───┘
//! ```
//!
//! Whoever registers before the thread asks is told; whoever registers after it finds the records applied, and
//! looks for them. Nothing falls between.

use std::sync::Arc;

use metrics::{Counter, Gauge, counter, gauge};
use parking_lot::RwLock;
use roaring::RoaringBitmap;
use rocksdb::DB;
use rustc_hash::{FxHashMap, FxHashSet};
use wire::{Frame, NamespaceId};

use super::Place;
use super::event::Slot;
use super::inbox::{Ended, Inbox};
use super::rows;
use crate::ledger::LedgerError;

/// A connection's number.
pub(super) type ConnectionId = u64;

/// What rows that were written mean to those who are connected.
#[derive(Debug)]
pub(crate) enum Notice {
    /// A slot has joined a room of this namespace.
    Joined(Slot, NamespaceId),
    /// The subscriber of this slot was deleted.
    Deleted(Slot),
    /// This namespace was deleted.
    NamespaceDeleted(NamespaceId),
}

/// Who is connected.
#[derive(Debug)]
pub(crate) struct Hub {
    state: RwLock<State>,
    metrics: HubMetrics,
}

#[derive(Debug, Default)]
struct State {
    last: ConnectionId,
    connections: FxHashMap<ConnectionId, Connected>,
    slots: FxHashMap<Slot, ConnectionId>,
    /// The same slots.
    connected: RoaringBitmap,
    followed: FxHashMap<NamespaceId, Followed>,
}

#[derive(Debug)]
struct Connected {
    inbox: Arc<Inbox>,
    who: Who,
    /// The namespaces that count it: all in which its slot has a room, and perhaps some in which it had.
    namespaces: FxHashSet<NamespaceId>,
}

/// Who a connection is for.
#[derive(Debug, Clone)]
pub(super) enum Who {
    /// A durable subscriber.
    Slot(Slot),
    /// Someone who follows these keys of a namespace.
    Keys(NamespaceId, Arc<FxHashSet<String>>),
}

/// A namespace that someone follows.
#[derive(Debug, Default)]
struct Followed {
    slots: usize,
    keys: FxHashMap<String, Vec<ConnectionId>>,
}

#[derive(Debug)]
struct HubMetrics {
    connections: Gauge,
    hints: Counter,
    overflows: Counter,
    reads: Counter,
}

impl Hub {
    pub(crate) fn new() -> Hub {
        let metrics = HubMetrics {
            connections: gauge!("tlog_room_connections"),
            hints: counter!("tlog_room_hints_total"),
            overflows: counter!("tlog_room_overflows_total"),
            reads: counter!("tlog_room_row_reads_total"),
        };
        Hub { state: RwLock::default(), metrics }
    }

    /// Whether anyone is connected.
    pub(crate) fn is_active(&self) -> bool {
        !self.state.read().connections.is_empty()
    }

    /// Whether the subscriber of this slot is connected.
    pub(super) fn is_connected(&self, slot: Slot) -> bool {
        self.state.read().slots.contains_key(&slot)
    }

    /// Registers a connection: from here on it is told. An older one of the same slot ends.
    pub(super) fn register(&self, who: Who) -> (ConnectionId, Arc<Inbox>) {
        let inbox = Arc::new(Inbox::default());
        let mut state = self.state.write();
        state.last += 1;
        let id = state.last;
        let mut namespaces = FxHashSet::default();
        match &who {
            Who::Slot(slot) => {
                let older = state.slots.insert(*slot, id);
                state.connected.insert(*slot);
                if let Some(older) = older.and_then(|older| state.connections.get(&older))
                    && !mutant!(OlderGoesOn)
                {
                    older.inbox.end(Ended::Replaced);
                }
            }
            Who::Keys(namespace, keys) => {
                namespaces.insert(*namespace);
                let followed = state.followed.entry(*namespace).or_default();
                for key in keys.iter() {
                    followed.keys.entry(key.clone()).or_default().push(id);
                }
            }
        }
        state.connections.insert(id, Connected { inbox: Arc::clone(&inbox), who, namespaces });
        self.metrics.connections.set(state.connections.len() as f64);
        (id, inbox)
    }

    /// A connection's slot may have rooms in these namespaces.
    pub(super) fn follow(&self, id: ConnectionId, namespaces: impl Iterator<Item = NamespaceId>) {
        let mut state = self.state.write();
        namespaces.for_each(|namespace| state.follow(id, namespace));
    }

    /// The namespaces of which a connection is told.
    pub(super) fn followed(&self, id: ConnectionId) -> Vec<NamespaceId> {
        let state = self.state.read();
        state.connections.get(&id).into_iter().flat_map(|connected| &connected.namespaces).copied().collect()
    }

    /// Forgets a connection.
    pub(super) fn remove(&self, id: ConnectionId) {
        let mut state = self.state.write();
        let Some(gone) = state.connections.remove(&id) else { return };
        match gone.who {
            Who::Slot(slot) => {
                // A newer connection of the slot keeps it.
                if state.slots.get(&slot) == Some(&id) {
                    state.slots.remove(&slot);
                    state.connected.remove(slot);
                }
                gone.namespaces.into_iter().for_each(|namespace| state.leave(namespace, |left| left.slots -= 1));
            }
            Who::Keys(namespace, keys) => state.leave(namespace, |left| {
                for key in keys.iter() {
                    let Some(followers) = left.keys.get_mut(key) else { continue };
                    followers.retain(|follower| *follower != id);
                    if followers.is_empty() {
                        left.keys.remove(key);
                    }
                }
            }),
        }
        self.metrics.connections.set(state.connections.len() as f64);
    }

    /// The subscriber of this slot is durably done with all below these places.
    pub(super) fn acked(&self, slot: Slot, places: &[Place]) {
        let state = self.state.read();
        if let Some(connected) = state.slots.get(&slot).and_then(|id| state.connections.get(id)) {
            connected.inbox.acked(places);
        }
    }

    /// Says what was written.
    pub(crate) fn notice(&self, notices: &[Notice]) {
        if notices.is_empty() || !self.is_active() {
            return;
        }
        let mut state = self.state.write();
        for notice in notices {
            match notice {
                Notice::Joined(slot, namespace) => {
                    if let Some(id) = state.slots.get(slot).copied() {
                        state.follow(id, *namespace);
                    }
                }
                Notice::Deleted(slot) => {
                    if let Some(connected) = state.slots.get(slot).and_then(|id| state.connections.get(id)) {
                        connected.inbox.end(Ended::SubscriberDeleted);
                    }
                }
                Notice::NamespaceDeleted(namespace) => {
                    let followed = state.followed.get(namespace);
                    let ids = followed.into_iter().flat_map(|followed| followed.keys.values().flatten());
                    for connected in ids.filter_map(|id| state.connections.get(id)) {
                        connected.inbox.end(Ended::NamespaceDeleted);
                    }
                }
            }
        }
    }

    /// Tells of records that were applied, whose rooms are as the rows have them. Where a row can't be read, all
    /// who may have to be told look for themselves.
    pub(crate) fn tell(&self, db: &DB, frames: &[Frame]) -> Result<(), LedgerError> {
        let state = self.state.read();
        if state.connections.is_empty() {
            return Ok(());
        }
        let told = frames.iter().try_for_each(|frame| match state.followed.get(&frame.namespace()) {
            Some(followed) => Teller { state: &state, metrics: &self.metrics, db, frame }.tell(followed),
            None => Ok(()),
        });
        if told.is_err() {
            state.connections.values().for_each(|connected| connected.inbox.lose_track());
        }
        told
    }
}

impl State {
    fn follow(&mut self, id: ConnectionId, namespace: NamespaceId) {
        let Some(connected) = self.connections.get_mut(&id) else { return };
        if connected.namespaces.insert(namespace) {
            self.followed.entry(namespace).or_default().slots += 1;
        }
    }

    fn leave(&mut self, namespace: NamespaceId, leave: impl FnOnce(&mut Followed)) {
        let Some(followed) = self.followed.get_mut(&namespace) else { return };
        leave(followed);
        if followed.slots == 0 && followed.keys.is_empty() {
            self.followed.remove(&namespace);
        }
    }
}

/// Tells of one frame.
struct Teller<'a> {
    state: &'a State,
    metrics: &'a HubMetrics,
    db: &'a DB,
    frame: &'a Frame,
}

impl Teller<'_> {
    fn tell(&self, followed: &Followed) -> Result<(), LedgerError> {
        let (first, next) = (self.frame.base_offset(), self.frame.next_offset());
        let everything = if followed.slots > 0 { self.connected_in("")? } else { RoaringBitmap::new() };
        everything.iter().for_each(|slot| self.hint_slot(slot, first, next));
        // Batches often have one key many times.
        let mut rooms: FxHashMap<&str, RoaringBitmap> = FxHashMap::default();
        for (offset, record) in (first..).zip(self.frame.records()) {
            let Some(key) = record.key else { continue };
            for id in followed.keys.get(key).into_iter().flatten() {
                self.hint(*id, offset, offset + 1);
            }
            if followed.slots == 0 {
                continue;
            }
            if !rooms.contains_key(key) {
                rooms.insert(key, self.connected_in(key)? - &everything);
            }
            if let Some(slots) = rooms.get(key) {
                slots.iter().for_each(|slot| self.hint_slot(slot, offset, offset + 1));
            }
        }
        Ok(())
    }

    fn connected_in(&self, room: &str) -> Result<RoaringBitmap, LedgerError> {
        self.metrics.reads.increment(1);
        if mutant!(HintEveryone) {
            return Ok(self.state.connected.clone());
        }
        Ok(rows::slots_in(self.db, &rows::room(self.frame.namespace(), room))? & &self.state.connected)
    }

    fn hint_slot(&self, slot: Slot, from: u64, to: u64) {
        if let Some(id) = self.state.slots.get(&slot) {
            self.hint(*id, from, to);
        }
    }

    fn hint(&self, id: ConnectionId, from: u64, to: u64) {
        let Some(connected) = self.state.connections.get(&id) else { return };
        if connected.inbox.hint(self.frame.namespace(), self.frame.generation(), from..to) {
            self.metrics.hints.increment(1);
        } else {
            self.metrics.overflows.increment(1);
        }
    }
}
