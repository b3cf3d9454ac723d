//! Who is connected, and what it is sent: only what is for it, in order, once a connection, nothing that it has
//! acked before; and all of that once nothing is under way. A client is polled only if it was woken, as in life, and
//! is not woken for what is for others.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use consumers::rooms::{Connection, Part, RoomsError, Slot};
use tlog::ReadError;
use tokio::sync::oneshot;

use super::model::{Life, RoomsModel};
use crate::ledger::SimLedger;
use crate::world::{World, broken};

/// Says that a client was woken.
#[derive(Debug, Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A connection, and what came next, if anything.
type Next = (Connection, Option<Result<Part, RoomsError>>);

/// Waits for what comes next, or until it is told to stop.
struct Waiting {
    next: Pin<Box<dyn Future<Output = Next>>>,
    stop: oneshot::Sender<()>,
}

enum Stage {
    Waiting(Waiting),
    /// It knows of records, and has not read them.
    Stalled(Box<(Connection, Part)>),
}

#[derive(Debug, Clone)]
enum Who {
    Subscriber { life: Life, slot: Slot, number: u64 },
    Keys { namespace: usize, keys: Vec<String>, from: u64 },
}

/// Someone who is connected.
pub struct Client {
    who: Who,
    /// Nothing while it is polled.
    stage: Option<Stage>,
    woken: Arc<Woken>,
    /// How many acks there had been when nothing was left to be sent to it.
    idle: Option<u64>,
    /// Acks that had been answered before it began, by namespace.
    floors: BTreeMap<usize, u64>,
    /// What it was sent.
    got: BTreeMap<usize, BTreeSet<u64>>,
}

fn wait(mut connection: Connection) -> Option<Stage> {
    let (stop, stopped) = oneshot::channel();
    let next = Box::pin(async move {
        let next = tokio::select! {
            biased;
            next = connection.next() => Some(next),
            _ = stopped => None,
        };
        (connection, next)
    });
    Some(Stage::Waiting(Waiting { next, stop }))
}

impl Client {
    pub fn of_subscriber(
        life: Life,
        slot: Slot,
        number: u64,
        floors: BTreeMap<usize, u64>,
        connection: Connection,
    ) -> Client {
        Client::new(Who::Subscriber { life, slot, number }, floors, connection)
    }

    fn new(who: Who, floors: BTreeMap<usize, u64>, connection: Connection) -> Client {
        let woken = Arc::new(Woken(AtomicBool::new(true)));
        Client { who, stage: wait(connection), woken, idle: None, floors, got: BTreeMap::new() }
    }
}

impl World {
    /// Follows a few keys of a namespace, without being a subscriber.
    pub(super) fn follow_keys(&mut self, ledger: &mut SimLedger) {
        let live: Vec<usize> = self.model.live().map(|(at, _)| at).collect();
        if live.is_empty() || ledger.process().rooms.clients.len() > 8 {
            return;
        }
        let namespace = live[ledger.rng.index(live.len())];
        let keys: Vec<String> = (0..=ledger.rng.below(3)).map(|_| format!("k{}", ledger.rng.below(12))).collect();
        let head = self.model.namespaces[namespace].next_offset;
        let from = if ledger.rng.chance(1, 2) { head } else { ledger.rng.below(head + 1) };
        let handle = &self.model.namespaces[namespace].handle;
        match ledger.process().rooms.rooms.follow_keys(handle, keys.clone(), from) {
            Ok(connection) => {
                let client = Client::new(Who::Keys { namespace, keys, from }, BTreeMap::new(), connection);
                ledger.process().rooms.clients.push(client);
            }
            Err(error) => broken!("{namespace} can't be followed from {from} on: {error}"),
        }
    }

    pub(super) fn poll_clients(&mut self, ledger: &mut SimLedger) {
        for client in std::mem::take(&mut ledger.process().rooms.clients) {
            let is_slow = ledger.rng.chance(1, 2);
            let client = if is_slow { Some(client) } else { self.poll_client(ledger, client, false) };
            ledger.process().rooms.clients.extend(client);
        }
    }

    /// Gives a client what there is. One that is quick takes all, others stall. Nothing once it has ended.
    fn poll_client(&mut self, ledger: &mut SimLedger, mut client: Client, is_quick: bool) -> Option<Client> {
        for _ in 0..if is_quick { 2_000 } else { 4 } {
            let (mut connection, part) = match client.stage.take()? {
                Stage::Stalled(stalled) => *stalled,
                Stage::Waiting(mut waiting) => {
                    if !client.woken.0.swap(false, Ordering::Relaxed) {
                        client.stage = Some(Stage::Waiting(waiting));
                        return Some(client);
                    }
                    let waker = Waker::from(Arc::clone(&client.woken));
                    match waiting.next.as_mut().poll(&mut Context::from_waker(&waker)) {
                        Poll::Pending => {
                            let acks = ledger.process().rooms.acks;
                            if client.idle == Some(acks) {
                                broken!("{:?} is woken for nothing", client.who);
                            }
                            let is_left = ledger.process().rooms.acks_wait() || !ledger.is_level(&self.model);
                            client.idle = (!is_left).then_some(acks);
                            client.stage = Some(Stage::Waiting(waiting));
                            continue;
                        }
                        Poll::Ready((connection, Some(Ok(part)))) => {
                            judge_newest(ledger, &client.who, &part);
                            (connection, part)
                        }
                        Poll::Ready((_, Some(Err(error)))) => {
                            self.judge_end(ledger, &client.who, &error);
                            return None;
                        }
                        Poll::Ready((connection, None)) => {
                            client.stage = wait(connection);
                            client.woken.0.store(true, Ordering::Relaxed);
                            continue;
                        }
                    }
                }
            };
            client.idle = None;
            if !is_quick && ledger.rng.chance(1, 4) {
                client.stage = Some(Stage::Stalled(Box::new((connection, part))));
                return Some(client);
            }
            if !self.take_part(ledger, &mut client, &mut connection, &part) {
                return None;
            }
            client.stage = wait(connection);
            client.woken.0.store(true, Ordering::Relaxed);
        }
        if is_quick {
            broken!("{:?} does not come to an end", client.who);
        }
        Some(client)
    }

    /// Reads of a part as much as is read at once. False where the process has ended.
    fn take_part(
        &mut self,
        ledger: &mut SimLedger,
        client: &mut Client,
        connection: &mut Connection,
        part: &Part,
    ) -> bool {
        let at = self.model.namespaces.iter().position(|one| one.handle == part.namespace).unwrap();
        let bytes = 1 + ledger.rng.index(6_000);
        let read = self.calm(|world| {
            let mut reader = world.log().reader(&part.namespace, part.offsets.start)?;
            reader.read_blocking(bytes)
        });
        let frames = match read {
            Ok(frames) => frames,
            Err(ReadError::NamespaceNotFound) if !self.model.namespaces[at].live => Vec::new(),
            Err(_) if self.storage.stopped() => return false,
            Err(error) => broken!("{:?} of {at} can't be read by {:?}: {error}", part.offsets, client.who),
        };
        if frames.is_empty() {
            connection.advance(part.offsets.end, false);
            return true;
        }
        let (mut next_offset, mut sent) = (part.offsets.start, false);
        for frame in frames.iter().take_while(|frame| frame.base_offset() < part.offsets.end) {
            for record in frame.records().filter(|record| part.offsets.contains(&record.offset)) {
                if part.wants(record.offset, record.key).unwrap() {
                    self.judge_delivery(ledger, client, at, record.offset, record.key);
                    sent = true;
                }
            }
            next_offset = frame.next_offset().min(part.offsets.end);
        }
        connection.advance(next_offset, sent);
        if let Who::Subscriber { life, .. } = &client.who {
            ledger.rooms.memory.shown.insert(life.clone(), connection.places().collect());
        }
        true
    }

    fn judge_delivery(&self, ledger: &mut SimLedger, client: &mut Client, at: usize, offset: u64, key: Option<&str>) {
        let got = client.got.entry(at).or_default();
        if got.last().is_some_and(|last| *last >= offset) {
            broken!("{:?} is sent offset {offset} of {at} behind {:?}", client.who, got.last());
        }
        got.insert(offset);
        ledger.counts.rooms.deliveries += 1;
        match &client.who {
            Who::Keys { keys, from, namespace } => {
                let is_its = key.is_some_and(|key| keys.iter().any(|one| one == key));
                if !is_its || offset < *from || at != *namespace {
                    broken!("{:?} is sent offset {offset} of {at}, which has the key {key:?}", client.who);
                }
            }
            // It was deleted, and does not know yet.
            Who::Subscriber { life, .. } if ledger.rooms.life(&life.0) != *life => {}
            Who::Subscriber { life, slot, .. } => {
                if !ledger.rooms.was_for(*slot, at, offset, key) {
                    broken!("{life:?} is sent offset {offset} of {at}, which has the key {key:?}: it is not for it");
                }
                if client.floors.get(&at).is_some_and(|floor| offset < *floor) {
                    broken!("{life:?} is sent offset {offset} of {at}, and has acked all below {}", client.floors[&at]);
                }
                let received = ledger.rooms.memory.received.entry(life.clone()).or_default();
                received.entry(at).or_default().insert(offset);
            }
        }
    }

    fn judge_end(&mut self, ledger: &mut SimLedger, who: &Who, error: &RoomsError) {
        self.note(&format!("{who:?} ends"));
        let may_be = match (error, who) {
            (RoomsError::Replaced, Who::Subscriber { life, number, .. }) => {
                let newest = ledger.process().rooms.connected.get(&life.0).copied().unwrap_or(0);
                newest > *number || ledger.rooms.life(&life.0) != *life
            }
            (RoomsError::SubscriberNotFound, Who::Subscriber { life, .. }) => ledger.rooms.life(&life.0) != *life,
            (RoomsError::NamespaceNotFound(_), Who::Keys { namespace, .. }) => !self.model.namespaces[*namespace].live,
            (RoomsError::Read(_) | RoomsError::Ledger(_), _) => self.is_faulty(ledger),
            _ => false,
        };
        if !may_be {
            broken!("the connection of {who:?} has ended: {error}");
        }
    }

    /// A heartbeat: where nothing came, the client is as far as the log.
    pub(super) fn settle_client(&mut self, ledger: &mut SimLedger) {
        let clients = ledger.process().rooms.clients.len();
        if clients == 0 {
            return;
        }
        let at = ledger.rng.index(clients);
        let mut client = ledger.process().rooms.clients.remove(at);
        let mut connection = match client.stage.take() {
            None => return,
            // What it knows of it is told again.
            Some(Stage::Stalled(stalled)) => stalled.0,
            Some(Stage::Waiting(Waiting { mut next, stop })) => {
                // It listens, as it waits.
                let _ = stop.send(());
                let mut context = Context::from_waker(Waker::noop());
                match next.as_mut().poll(&mut context) {
                    Poll::Ready((connection, Some(Ok(_)) | None)) => connection,
                    Poll::Ready((_, Some(Err(error)))) => return self.judge_end(ledger, &client.who, &error),
                    Poll::Pending => broken!("a connection does not stop"),
                }
            }
        };
        let settled = {
            let mut settle = Box::pin(connection.settle());
            settle.as_mut().poll(&mut Context::from_waker(Waker::noop()))
        };
        match settled {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(error)) => return self.judge_end(ledger, &client.who, &error),
            Poll::Pending => broken!("{:?} is not settled", client.who),
        }
        if let Who::Subscriber { life, .. } = &client.who {
            ledger.rooms.memory.shown.insert(life.clone(), connection.places().collect());
        }
        client.stage = wait(connection);
        client.idle = None;
        client.woken.0.store(true, Ordering::Relaxed);
        ledger.process().rooms.clients.push(client);
    }

    /// All is applied, and every client has taken all that there is: then it has all that is for it.
    pub(super) fn level_clients(&mut self, ledger: &mut SimLedger) {
        self.calm(|world| {
            if !ledger.apply_all(world.options.partitions) {
                return;
            }
            for client in std::mem::take(&mut ledger.process().rooms.clients) {
                if let Some(client) = world.poll_client(ledger, client, true) {
                    world.check_client(&ledger.rooms, &client);
                    ledger.process().rooms.clients.push(client);
                }
            }
        });
    }

    fn check_client(&self, rooms: &RoomsModel, client: &Client) {
        let nothing = BTreeSet::new();
        let got = |at: usize| client.got.get(&at).unwrap_or(&nothing);
        let records = |at: usize| {
            let records = self.model.namespaces[at].frames.iter().flat_map(|frame| frame.records());
            records.map(|record| (record.offset, record.key))
        };
        match &client.who {
            Who::Keys { namespace, keys, from } => {
                if !self.model.namespaces[*namespace].live {
                    broken!("{:?} goes on, and its namespace is gone", client.who);
                }
                let is_its = |key: &str| keys.iter().any(|one| one == key);
                let mut its = records(*namespace).filter(|(at, key)| at >= from && key.is_some_and(is_its));
                if let Some((offset, _)) = its.find(|(offset, _)| !got(*namespace).contains(offset)) {
                    broken!("{:?} was not sent offset {offset}", client.who);
                }
            }
            Who::Subscriber { life, slot, .. } => {
                if rooms.life(&life.0) != *life {
                    broken!("{life:?} is connected, and was deleted");
                }
                let received = rooms.memory.received.get(life);
                let joined = rooms.now.joined.get(slot).into_iter().flatten();
                let namespaces: BTreeSet<usize> = joined.map(|((at, _), _)| *at).collect();
                for at in namespaces {
                    let cursor = rooms.now.cursor(*slot, at).unwrap_or(0);
                    for (offset, _) in records(at).filter(|(offset, key)| rooms.is_for(*slot, at, *offset, *key)) {
                        let was_received = received.and_then(|received| received.get(&at)).unwrap_or(&nothing);
                        if !was_received.contains(&offset) {
                            broken!("{life:?} was never sent offset {offset} of {at}, it is done up to {cursor}");
                        }
                        if offset >= cursor && !got(at).contains(&offset) {
                            broken!("{life:?} was not sent offset {offset} of {at}, it is done up to {cursor}");
                        }
                    }
                }
            }
        }
    }
}

/// A connection that was replaced is told of nothing more.
fn judge_newest(ledger: &mut SimLedger, who: &Who, part: &Part) {
    if let Who::Subscriber { life, number, .. } = who
        && ledger.process().rooms.connected.get(&life.0).is_some_and(|newest| newest > number)
    {
        broken!("{life:?} is told of {:?} by a connection that was replaced", part.offsets);
    }
}
