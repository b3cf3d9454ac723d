//! Events of rooms and subscribers become changes of their rows: a pure function of the frames of a partition.

use std::collections::BTreeMap;

use roaring::RoaringBitmap;
use rocksdb::{DB, WriteBatch};
use wire::{Generation, NamespaceId, Offset, SubscriberName};

use super::Place;
use super::event::{RoomEvent, Slot};
use super::hub::Notice;
use super::pending::Pending;
use super::rows::{self, Since, Subscribed};
use crate::database::Database;
use crate::ledger::LedgerError;

/// What is deleted at once where a namespace goes, bytes of keys.
const FORGOTTEN_BYTES: usize = 1 << 20;

/// What some frames change.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    pending: Pending,
    /// By the keys of their rows.
    rooms: BTreeMap<Vec<u8>, RoomRow>,
    /// What connections must hear of, once all is written.
    pub(crate) notices: Vec<Notice>,
}

/// A room's row as it becomes.
#[derive(Debug)]
enum RoomRow {
    /// These slots join it.
    Joined(Vec<Slot>),
    /// It is this.
    Whole(RoaringBitmap),
}

/// Where an event stands.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stands {
    pub(crate) partition: u16,
    pub(crate) partitions: u16,
    pub(crate) namespace: NamespaceId,
    pub(crate) generation: Generation,
    pub(crate) next_offset: Offset,
}

impl Changes {
    /// Takes in an event. What does not fit to what is there changes nothing.
    pub(crate) fn take(&mut self, db: &DB, at: Stands, event: &[u8]) -> Result<(), LedgerError> {
        match RoomEvent::decode(event)? {
            RoomEvent::Created { name, began_micros } => self.created(db, at, &name, began_micros),
            RoomEvent::Deleted { name } => self.deleted(db, &name),
            RoomEvent::Acked { name, places } => self.acked(db, &name, &places),
            RoomEvent::Connected { name, boot, time_micros, gone } => {
                let Some(before) = self.subscriber(db, &name)? else { return Ok(()) };
                for namespace in gone {
                    self.pending.delete(rows::acked(before.slot, namespace).to_vec());
                }
                let now = Subscribed { boot, connected_micros: time_micros, ..before };
                self.pending.put(rows::subscriber(&name), now.encode());
                Ok(())
            }
            RoomEvent::Freed { slot } => self.freed(db, at.partition, slot),
            RoomEvent::Joined { slot, rooms } => rooms.iter().try_for_each(|room| self.joined(db, at, slot, room)),
            RoomEvent::Left { slot, rooms } => rooms.iter().try_for_each(|room| self.left(db, at, slot, room)),
        }
    }

    fn subscriber(&self, db: &DB, name: &SubscriberName) -> Result<Option<Subscribed>, LedgerError> {
        let key = rows::subscriber(name);
        self.pending.get(db, &key)?.map(|row| Subscribed::decode(&key, &row)).transpose()
    }

    /// The slot is the first that is free, or else the next one. A partition that has no slot left makes no
    /// subscriber.
    fn created(&mut self, db: &DB, at: Stands, name: &SubscriberName, began_micros: i64) -> Result<(), LedgerError> {
        if self.subscriber(db, name)?.is_some() {
            return Ok(());
        }
        let free = rows::free_of(at.partition);
        let slot = match self.pending.first(db, &free)? {
            Some(key) => {
                let slot = rows::slot_behind(&free, &key)?;
                self.pending.delete(key);
                slot
            }
            None => {
                let key = rows::next_slot(at.partition);
                let given = self.pending.get(db, &key)?.map(|row| rows::decode_count(&key, &row)).transpose()?;
                let given = given.unwrap_or(0);
                let slot = given.checked_mul(u32::from(at.partitions));
                let slot = slot.and_then(|slot| slot.checked_add(u32::from(at.partition)));
                let (Some(slot), Some(next)) = (slot, given.checked_add(1)) else { return Ok(()) };
                self.pending.put(key.to_vec(), next.to_le_bytes().to_vec());
                slot
            }
        };
        let subscribed = Subscribed { slot, began_micros, boot: 0, connected_micros: 0 };
        self.pending.put(rows::subscriber(name), subscribed.encode());
        Ok(())
    }

    fn deleted(&mut self, db: &DB, name: &SubscriberName) -> Result<(), LedgerError> {
        let Some(Subscribed { slot, .. }) = self.subscriber(db, name)? else { return Ok(()) };
        self.pending.delete(rows::subscriber(name));
        self.pending.delete_all(db, &rows::acked_by(slot))?;
        self.pending.put(rows::dead(slot).to_vec(), name.as_bytes().to_vec());
        self.notices.push(Notice::Deleted(slot));
        Ok(())
    }

    fn acked(&mut self, db: &DB, name: &SubscriberName, places: &[Place]) -> Result<(), LedgerError> {
        let Some(Subscribed { slot, .. }) = self.subscriber(db, name)? else { return Ok(()) };
        for place in places {
            let key = rows::acked(slot, place.namespace);
            let before = self.pending.get(db, &key)?.map(|row| Since::decode(&key, &row)).transpose()?;
            let before = before.map(|before| (before.generation, before.offset));
            if before < Some((place.generation, place.next_offset)) {
                let now = Since { generation: place.generation, offset: place.next_offset };
                self.pending.put(key.to_vec(), now.encode());
            }
        }
        Ok(())
    }

    fn freed(&mut self, db: &DB, partition: u16, slot: Slot) -> Result<(), LedgerError> {
        let dead = rows::dead(slot);
        if self.pending.get(db, &dead)?.is_some() {
            self.pending.delete(dead.to_vec());
            self.pending.put(rows::free(partition, slot), Vec::new());
        }
        Ok(())
    }

    /// Who is in the room already began earlier.
    fn joined(&mut self, db: &DB, at: Stands, slot: Slot, room: &str) -> Result<(), LedgerError> {
        let key = rows::joined(slot, at.namespace, room);
        if self.pending.get(db, &key)?.is_some() {
            return Ok(());
        }
        self.pending.put(key, Since { generation: at.generation, offset: at.next_offset }.encode());
        match self.rooms.entry(rows::room(at.namespace, room)).or_insert_with(|| RoomRow::Joined(Vec::new())) {
            RoomRow::Joined(slots) => slots.push(slot),
            RoomRow::Whole(slots) => {
                slots.insert(slot);
            }
        }
        self.notices.push(Notice::Joined(slot, at.namespace));
        Ok(())
    }

    fn left(&mut self, db: &DB, at: Stands, slot: Slot, room: &str) -> Result<(), LedgerError> {
        let key = rows::joined(slot, at.namespace, room);
        if self.pending.get(db, &key)?.is_none() {
            return Ok(());
        }
        self.pending.delete(key);
        let key = rows::room(at.namespace, room);
        let mut slots = match self.rooms.remove(&key) {
            Some(RoomRow::Whole(slots)) => slots,
            joined => {
                let mut slots = rows::slots_in(db, &key)?;
                if let Some(RoomRow::Joined(joined)) = joined {
                    slots.extend(joined);
                }
                slots
            }
        };
        slots.remove(slot);
        self.rooms.insert(key, RoomRow::Whole(slots));
        Ok(())
    }

    /// A namespace is deleted, and its rooms with it. There may be millions: so what is written of them goes at
    /// once, piece by piece. A crash in between finds the deletion in the log again, behind what the offset row says.
    pub(crate) fn forget(&mut self, db: &Database, namespace: NamespaceId) -> Result<(), LedgerError> {
        if mutant!(KeepDeletedRooms) {
            return Ok(());
        }
        let prefix = rows::rooms_of(namespace);
        self.pending.delete_where(|key| {
            key.first() == Some(&crate::ledger::tags::JOINED)
                && rows::namespace_in(key).is_ok_and(|(id, _)| id == namespace)
        });
        let mut batch = WriteBatch::default();
        let mut stored = db.raw_iterator();
        stored.seek(prefix);
        while let Some((key, row)) = rows::next_with(&stored, &prefix)? {
            let (_, room) = rows::room_in(key).ok_or_else(|| LedgerError::damaged(key, "it is no room"))?;
            for slot in rows::decode_slots(key, row)? {
                batch.delete(rows::joined(slot, namespace, room));
            }
            batch.delete(key);
            if batch.size_in_bytes() > FORGOTTEN_BYTES {
                db.write(std::mem::take(&mut batch))?;
            }
            stored.next();
        }
        db.write(batch)?;
        let of_it = self.rooms.iter_mut().filter(|(key, _)| key.starts_with(&prefix));
        of_it.for_each(|(_, row)| *row = RoomRow::Whole(RoaringBitmap::new()));
        self.notices.push(Notice::NamespaceDeleted(namespace));
        Ok(())
    }

    /// Adds all of it to a batch.
    pub(crate) fn write(&self, batch: &mut WriteBatch) {
        self.pending.write(batch);
        for (key, row) in &self.rooms {
            match row {
                RoomRow::Joined(slots) => {
                    let slots: Vec<[u8; 4]> = slots.iter().map(|slot| slot.to_le_bytes()).collect();
                    batch.merge(key, slots.as_flattened());
                }
                RoomRow::Whole(slots) if slots.is_empty() => batch.delete(key),
                RoomRow::Whole(slots) => batch.put(key, rows::encode_slots(slots)),
            }
        }
    }
}
