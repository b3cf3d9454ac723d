//! A connection: which records are for it, and where it is.
//!
//! ```text
//!   look: register ─▶ namespaces of its rooms ─▶ their heads ─▶ wait until all of that is applied
//!           │                                                            │
//!           │ from here on hints come                                    ▼
//!           │                                             scans: from the cursor up to the head
//!           ▼                                                            │
//!         hints of records at or above the heads ◀───────────────────────┘
//!           │ too many
//!           └──▶ look again, from where it is
//! ```
//!
//! A scan asks of each record whether it is for the connection: one row. A hint is the answer already.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use rocksdb::DB;
use rustc_hash::FxHashSet;
use tlog::{Namespace, ReadError};
use wire::limits::MAX_SUBSCRIBER_NAMESPACES;
use wire::{NamespaceId, Offset, SubscriberName};

use super::Place;
use super::error::RoomsError;
use super::event::Slot;
use super::hub::{ConnectionId, Who};
use super::inbox::{Ended, Hint, Inbox, News, Taken};
use super::rows::{self, Since};
use super::runtime::Rooms;
use crate::ledger::{Ledger, LedgerError};

/// Quiet places are kept durably once there are so many, or so many records of others below them: a connection
/// that came anew would look through those in vain.
const QUIET_PLACES: usize = 100;
const QUIET_RECORDS: u64 = 10_000;

/// Records of one namespace that are for a connection, or may be.
#[derive(Debug, Clone)]
pub struct Part {
    /// The namespace.
    pub namespace: Namespace,
    /// Where the records are.
    pub offsets: Range<Offset>,
    filter: Filter,
}

#[derive(Debug, Clone)]
enum Filter {
    /// All of them are.
    All,
    /// Those of rooms that the slot is in. In that of the namespace as a whole it is from an offset on.
    Slot { ledger: Arc<Ledger>, slot: Slot, whole: Option<Offset> },
    /// Those with such a key.
    Keys(Arc<FxHashSet<String>>),
}

/// A subscriber's connection, or that of someone who follows keys.
#[derive(Debug)]
pub struct Connection {
    rooms: Rooms,
    who: Who,
    /// The subscriber's name; none for who follows keys.
    name: Option<SubscriberName>,
    id: ConnectionId,
    inbox: Arc<Inbox>,
    must_look: bool,
    known: BTreeMap<NamespaceId, Known>,
    /// Namespaces of which records were sent that are not acked.
    sent: BTreeSet<NamespaceId>,
    /// Others in which the place is ahead of the row.
    quiet: BTreeSet<NamespaceId>,
    scans: VecDeque<(NamespaceId, Range<Offset>)>,
    hint: Option<Hint>,
}

/// A namespace that the connection has to do with.
#[derive(Debug)]
struct Known {
    namespace: Namespace,
    /// All below was sent, or is not for it.
    place: Offset,
    /// All below is durably done.
    row: Offset,
}

impl Part {
    /// Whether a record of the part is for the connection.
    ///
    /// # Errors
    /// Where the row that says so can't be read.
    pub fn wants(&self, offset: Offset, key: Option<&str>) -> Result<bool, RoomsError> {
        if !self.offsets.contains(&offset) {
            return Ok(false);
        }
        match (&self.filter, key) {
            (Filter::All, _) => Ok(true),
            (Filter::Keys(keys), key) => Ok(key.is_some_and(|key| keys.contains(key))),
            (Filter::Slot { whole: Some(begin), .. }, _) if *begin <= offset => Ok(true),
            (Filter::Slot { .. }, None) => Ok(false),
            (Filter::Slot { ledger, slot, .. }, Some(key)) => {
                let row = rows::joined(*slot, self.namespace.id(), key);
                Ok(begins(ledger.db(), &row, &self.namespace)?.is_some_and(|begin| begin <= offset))
            }
        }
    }
}

/// Since when the join of this row holds.
fn begins(db: &DB, row: &[u8], namespace: &Namespace) -> Result<Option<Offset>, LedgerError> {
    let since = Since::read(db, row)?.filter(|since| since.generation == namespace.generation());
    Ok(since.map(|since| since.offset))
}

impl Connection {
    pub(super) fn new(rooms: Rooms, who: Who, name: Option<SubscriberName>) -> Connection {
        let (id, inbox) = rooms.hub().register(who.clone());
        Connection {
            rooms,
            who,
            name,
            id,
            inbox,
            must_look: true,
            known: BTreeMap::new(),
            sent: BTreeSet::new(),
            quiet: BTreeSet::new(),
            scans: VecDeque::new(),
            hint: None,
        }
    }

    /// It begins here.
    pub(super) fn begin_at(&mut self, namespace: Namespace, place: Offset) {
        self.known.insert(namespace.id(), Known { namespace, place, row: place });
    }

    /// The next records that are for it or may be; waits until there are some. Dropping the future loses nothing.
    ///
    /// # Errors
    /// [`RoomsError::Replaced`], [`RoomsError::SubscriberNotFound`], [`RoomsError::NamespaceNotFound`] and
    /// [`RoomsError::Closed`] say that the connection has ended.
    pub async fn next(&mut self) -> Result<Part, RoomsError> {
        loop {
            if let Some(part) = self.poll()? {
                return Ok(part);
            }
            if self.must_look {
                self.look().await?;
                continue;
            }
            let closed = self.rooms.ledger().closed().clone();
            if closed.run_until_cancelled(self.inbox.arrived()).await.is_none() {
                return Err(RoomsError::Closed);
            }
        }
    }

    /// The next records that are known of.
    fn poll(&mut self) -> Result<Option<Part>, RoomsError> {
        while let Some(news) = self.inbox.news() {
            self.heed(news)?;
        }
        if let Some((id, offsets)) = self.scans.front().cloned() {
            return self.scan(id, offsets).map(Some);
        }
        while !self.must_look {
            if let Some(hint) = self.hint.take()
                && let Some(part) = self.hinted(&hint)?
            {
                return Ok(Some(part));
            }
            match self.inbox.take() {
                Taken::Hint(hint) => self.hint = Some(hint),
                Taken::TooMany => self.must_look = true,
                Taken::Nothing => break,
            }
        }
        Ok(None)
    }

    fn heed(&mut self, news: News) -> Result<(), RoomsError> {
        match news {
            News::Acked(place) => {
                let known = self.known.get_mut(&place.namespace);
                let Some(known) = known.filter(|known| known.namespace.generation() == place.generation) else {
                    return Ok(());
                };
                known.row = known.row.max(place.next_offset);
                if known.row >= known.place {
                    self.sent.remove(&place.namespace);
                    self.quiet.remove(&place.namespace);
                }
            }
            News::Ended(Ended::Replaced) => return Err(RoomsError::Replaced),
            News::Ended(Ended::SubscriberDeleted) => return Err(RoomsError::SubscriberNotFound),
            News::Ended(Ended::NamespaceDeleted) => {
                let name = self.known.values().next().map(|known| known.namespace.name().clone());
                return Err(name.map_or(RoomsError::Closed, RoomsError::NamespaceNotFound));
            }
        }
        Ok(())
    }

    fn scan(&mut self, id: NamespaceId, offsets: Range<Offset>) -> Result<Part, RoomsError> {
        let Some(known) = self.known.get(&id) else { return Err(RoomsError::Closed) };
        let namespace = known.namespace.clone();
        let filter = match &self.who {
            Who::Keys(_, keys) => Filter::Keys(Arc::clone(keys)),
            Who::Slot(slot) => {
                let ledger = Arc::clone(self.rooms.ledger());
                let whole = begins(ledger.db(), &rows::joined_in(*slot, id), &namespace)?;
                Filter::Slot { ledger, slot: *slot, whole }
            }
        };
        Ok(Part { namespace, offsets, filter })
    }

    /// What of a hint is still to be sent. It stays until [`Connection::advance`] has gone past it.
    fn hinted(&mut self, hint: &Hint) -> Result<Option<Part>, RoomsError> {
        let id = hint.namespace;
        let is_known = self.known.get(&id).is_some_and(|known| known.namespace.generation() == hint.generation);
        if !is_known {
            let found = self.rooms.ledger().log().namespace_by_id(id)?;
            // It has gone since.
            let Some(namespace) = found.filter(|found| found.generation() == hint.generation) else { return Ok(None) };
            self.begin_at(namespace, hint.offsets.start);
        }
        let Some(known) = self.known.get(&id) else { return Ok(None) };
        let offsets = hint.offsets.start.max(known.place)..hint.offsets.end;
        if offsets.is_empty() {
            return Ok(None);
        }
        let part = Part { namespace: known.namespace.clone(), offsets: offsets.clone(), filter: Filter::All };
        self.hint = Some(Hint { offsets, ..*hint });
        Ok(Some(part))
    }

    /// All of the last part that lies below this offset was sent or is not for it; `sent` says whether anything was.
    /// Of what was not gone past comes another part.
    pub fn advance(&mut self, next_offset: Offset, sent: bool) {
        let (id, end) = match (self.scans.pop_front(), &mut self.hint) {
            (Some((id, offsets)), _) => {
                let rest = next_offset.max(offsets.start)..offsets.end;
                if !rest.is_empty() {
                    self.scans.push_back((id, rest));
                }
                (id, offsets.end)
            }
            // What is below the place is not sent again.
            (None, Some(hint)) => (hint.namespace, hint.offsets.end),
            (None, None) => return,
        };
        self.move_to(id, next_offset.min(end), sent);
    }

    fn move_to(&mut self, id: NamespaceId, place: Offset, sent: bool) {
        let Some(known) = self.known.get_mut(&id) else { return };
        known.place = known.place.max(place);
        if sent {
            self.sent.insert(id);
            self.quiet.remove(&id);
        } else if known.place > known.row && !self.sent.contains(&id) {
            self.quiet.insert(id);
        }
    }

    /// Finds what there is for it from where it is on: scans, up to heads above which hints come.
    async fn look(&mut self) -> Result<(), RoomsError> {
        self.inbox.begin_anew();
        let ledger = Arc::clone(self.rooms.ledger());
        let mut heads = Vec::new();
        for namespace in self.namespaces()? {
            match ledger.log().head(&namespace) {
                Ok(head) => heads.push((namespace, head.next_offset)),
                Err(ReadError::NamespaceNotFound) if self.name.is_some() => {}
                Err(ReadError::NamespaceNotFound) => {
                    return Err(RoomsError::NamespaceNotFound(namespace.name().clone()));
                }
                Err(error) => return Err(error.into()),
            }
        }
        // What is below the heads is durable; once it is applied, the rows say of all of it whom it is for.
        for partition in self.partitions_of(&heads) {
            if !mutant!(LookUnapplied) {
                ledger.wait_durable(partition).await?;
            }
        }
        let mut scans = VecDeque::new();
        for (namespace, head) in heads {
            let id = namespace.id();
            let from = match self.known.get(&id) {
                Some(known) if known.namespace.generation() == namespace.generation() => known.place,
                _ => {
                    let from = self.begin_in(&namespace)?.unwrap_or(head).min(head);
                    self.begin_at(namespace, from);
                    from
                }
            };
            if from < head {
                scans.push_back((id, from..head));
            }
        }
        (self.scans, self.must_look, self.hint) = (scans, false, None);
        Ok(())
    }

    /// The namespaces in which there may be something for it. From here on hints of them come.
    fn namespaces(&mut self) -> Result<Vec<Namespace>, RoomsError> {
        let ledger = self.rooms.ledger();
        let Who::Slot(slot) = self.who else {
            return Ok(self.known.values().map(|known| known.namespace.clone()).collect());
        };
        let ids = rows::namespaces_of(ledger.db(), slot)?;
        self.rooms.hub().follow(self.id, ids.iter().copied());
        let found = ids.into_iter().filter_map(|id| ledger.log().namespace_by_id(id).transpose());
        Ok(found.collect::<Result<_, _>>()?)
    }

    fn partitions_of(&self, heads: &[(Namespace, Offset)]) -> BTreeSet<u16> {
        let partitions = self.rooms.ledger().log().partitions();
        heads.iter().map(|(namespace, _)| namespace.id().partition(partitions)).collect()
    }

    /// Where a subscriber goes on in a namespace: where it is done up to, or else where it first joined a room.
    fn begin_in(&self, namespace: &Namespace) -> Result<Option<Offset>, RoomsError> {
        let Who::Slot(slot) = self.who else { return Ok(None) };
        let db = self.rooms.ledger().db();
        match begins(db, &rows::acked(slot, namespace.id()), namespace)? {
            Some(acked) => Ok(Some(acked)),
            None => Ok(rows::first_join(db, slot, namespace)?),
        }
    }

    /// Moves on the places of namespaces in which nothing came for it: for each heartbeat. So who comes again does not
    /// look through what was for others.
    ///
    /// # Errors
    /// As [`Connection::next`].
    pub async fn settle(&mut self) -> Result<(), RoomsError> {
        if self.must_look || !self.scans.is_empty() || self.hint.is_some() {
            return Ok(());
        }
        let ledger = Arc::clone(self.rooms.ledger());
        let mut heads = Vec::new();
        for id in self.rooms.hub().followed(self.id) {
            let known = self.known.get(&id).map(|known| known.namespace.clone());
            let namespace = match known {
                Some(namespace) => Some(namespace),
                None => ledger.log().namespace_by_id(id)?,
            };
            let Some(namespace) = namespace else { continue };
            match ledger.log().head(&namespace) {
                Ok(head) => heads.push((namespace, head.next_offset)),
                Err(ReadError::NamespaceNotFound) => {}
                Err(error) => return Err(error.into()),
            }
        }
        // Heads first, then how far is applied, then whether there were hints of that.
        let is_applied = self.partitions_of(&heads).into_iter().all(|partition| {
            let durable = ledger.log().watermark(partition).borrow().position;
            ledger.applied(partition).borrow().position >= durable
        });
        if !is_applied || !self.inbox.is_quiet() {
            return Ok(());
        }
        for (namespace, head) in heads {
            let id = namespace.id();
            // Of one that was joined since nothing is kept yet.
            self.known.entry(id).or_insert(Known { namespace, place: head, row: 0 });
            self.move_to(id, head, false);
        }
        self.keep_quiet_places().await
    }

    /// Of what was for others nobody has to ack anything.
    async fn keep_quiet_places(&mut self) -> Result<(), RoomsError> {
        let Some(name) = &self.name else { return Ok(()) };
        let quiet = self.quiet.iter().filter_map(|id| self.known.get(id));
        let records: u64 = quiet.clone().map(|known| known.place - known.row).sum();
        if records < QUIET_RECORDS && self.quiet.len() < QUIET_PLACES {
            return Ok(());
        }
        let places: Vec<Place> = quiet.map(Known::place).collect();
        match self.rooms.ack(name, &places).await {
            // It is told of what is kept like of any other ack. What is not kept now is next time.
            Ok(()) | Err(RoomsError::Append(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Where it is in the namespaces in which it is further than what is kept of it, in ascending order: what a
    /// client shows to resume. At most [`MAX_SUBSCRIBER_NAMESPACES`]: who joins and leaves more of them in one connection,
    /// and acks nothing, may get some records again.
    pub fn places(&self) -> impl Iterator<Item = Place> {
        let quiet = MAX_SUBSCRIBER_NAMESPACES.saturating_sub(self.sent.len());
        let ids: BTreeSet<NamespaceId> =
            self.sent.iter().take(MAX_SUBSCRIBER_NAMESPACES).chain(self.quiet.iter().take(quiet)).copied().collect();
        ids.into_iter().filter_map(|id| self.known.get(&id).map(Known::place))
    }

    /// Where it is in a namespace that it has to do with.
    pub fn place(&self, namespace: &Namespace) -> Option<Offset> {
        self.known.get(&namespace.id()).map(|known| known.place)
    }
}

impl Known {
    fn place(&self) -> Place {
        let Known { namespace, place, .. } = self;
        Place { namespace: namespace.id(), generation: namespace.generation(), next_offset: *place }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.rooms.hub().remove(self.id);
    }
}
