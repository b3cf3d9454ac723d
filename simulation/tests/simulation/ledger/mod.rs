//! What stands on the ledger in the simulation: groups, locks, rooms with their subscribers. It is the real runtime of
//! each and the real ledger, in the one thread that there is. The ledger has no threads; a turn applies the next of
//! a partition. What the runtimes have spawned goes on in [`World::pump_ledger`], and what is due is done when time
//! has been moved on by hand. So a seed decides whatever happens. What is chosen here comes from a chance of its own,
//! so a run without a ledger is what it was before there was any.
//!
//! | file | what it knows |
//! |---|---|
//! | `frames.rs` | which frames of the log are of these, and what they must be |
//! | `groups/` | what workers ask for, and what events of groups amount to |
//! | `locks/` | what owners ask for, what they believe, and what events of locks amount to |
//! | `rooms/` | what subscribers ask for, what they are sent, and what events of rooms amount to |

mod counts;
mod frames;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use consumers::groups::Groups;
use consumers::locks::Locks;
use consumers::offsets::OffsetError;
use consumers::rooms::Rooms;
use consumers::{Ledger, LedgerError, RawRow};
use tlog::storage::simulated::Rng;
use tlog::{Clock, ReadError};
use tokio::runtime::Runtime;

pub use self::counts::LedgerCounts;
pub use self::frames::{DEAD, Place, record_at};
use crate::folder::{Fate, Folder};
use crate::groups::{Acked, Calls as GroupCalls, GroupsModel};
use crate::locks::{Calls as LockCalls, LocksModel};
use crate::model::Model;
use crate::rooms::{Calls as RoomCalls, RoomsModel};
use crate::stores::{batch_bytes, offset_row};
use crate::world::{End, World, broken};

const OPEN_TABLES: usize = 16;

/// Time, which goes on when it is told to.
#[derive(Debug, Default)]
struct HandSet(AtomicU64);

impl Clock for HandSet {
    fn now_micros(&self) -> i64 {
        (self.monotonic_nanos() / 1000).cast_signed()
    }

    fn monotonic_nanos(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What ends with the process. The calls go first, and the tasks last.
pub struct Process {
    pub groups: GroupCalls,
    pub locks: LockCalls,
    pub rooms: RoomCalls,
    pub ledger: Arc<Ledger>,
    pub runtime: Runtime,
    /// Faults that there had been when it began.
    excuses: u64,
}

/// Who uses the ledger in a run: all three, or some.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum User {
    Groups,
    Locks,
    Rooms,
}

/// The ledger and its users over all processes of a run.
pub struct SimLedger {
    pub rng: Rng,
    dir: PathBuf,
    folder: Folder,
    clock: Arc<HandSet>,
    pub boot: u64,
    users: Vec<User>,
    pub process: Option<Process>,
    pub groups: GroupsModel,
    pub acked: Acked,
    pub locks: LocksModel,
    pub rooms: RoomsModel,
    /// What no crash may undo: how far each partition was applied.
    saved: BTreeMap<u16, u64>,
    kept: Option<BTreeMap<u16, u64>>,
    pub counts: LedgerCounts,
}

impl SimLedger {
    pub fn new(dir: &Path, seed: u64) -> SimLedger {
        let users = match seed / 3 % 8 {
            0 | 5 => vec![User::Groups],
            1 | 6 => vec![User::Rooms],
            2 => vec![User::Locks],
            3 => vec![User::Locks, User::Rooms],
            4 => vec![User::Groups, User::Rooms],
            _ => vec![User::Groups, User::Locks, User::Rooms],
        };
        SimLedger {
            rng: Rng::new(seed ^ 0x6772_6f75_7073),
            dir: dir.to_owned(),
            folder: Folder::new(dir.join("ledger")),
            clock: Arc::default(),
            boot: 0,
            users,
            process: None,
            groups: GroupsModel::default(),
            acked: Acked::new(),
            locks: LocksModel::default(),
            rooms: RoomsModel::default(),
            saved: BTreeMap::new(),
            kept: None,
            counts: LedgerCounts { runs: 1, ..LedgerCounts::default() },
        }
    }

    /// Now, as everyone sees it: nanoseconds.
    pub fn now(&self) -> u64 {
        self.clock.monotonic_nanos()
    }

    pub fn process(&mut self) -> &mut Process {
        self.process.as_mut().unwrap()
    }

    pub fn ledger(&self) -> &Ledger {
        &self.process.as_ref().unwrap().ledger
    }

    /// A process begins.
    fn begin(&mut self, ledger: Arc<Ledger>, excuses: u64) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        self.boot += 1 << 32;
        self.locks.begin();
        let clock = || Arc::clone(&self.clock) as Arc<dyn Clock>;
        let within = runtime.enter();
        let groups = GroupCalls::new(Groups::driven(Arc::clone(&ledger), clock(), self.boot));
        let locks = LockCalls::new(Locks::driven(Arc::clone(&ledger), clock()));
        let rooms = RoomCalls::new(Rooms::driven(Arc::clone(&ledger), clock(), self.boot));
        drop(within);
        self.process = Some(Process { groups, locks, rooms, ledger, runtime, excuses });
    }

    /// Time goes on. What is due then is done, if it is noticed.
    pub fn advance(&mut self, millis: u64, is_noticed: bool) {
        self.clock.0.fetch_add(millis * 1_000_000, Ordering::Relaxed);
        if is_noticed {
            let Process { groups, locks, runtime, .. } = self.process();
            let _within = runtime.enter();
            groups.groups.tick();
            locks.locks.tick();
        }
    }

    /// Whether the ledger's part of the process has come to its end.
    pub fn has_ended(&self) -> bool {
        self.process.as_ref().is_some_and(|process| process.ledger.driver().has_ended())
    }

    fn seen(&self) -> BTreeMap<u16, u64> {
        seen_in(self.ledger())
    }

    fn save(&mut self) {
        self.ledger().driver().save().unwrap();
        self.saved = self.seen();
    }

    /// Ends the process, and decides what is left of the folder.
    pub fn end(&mut self, end: End) {
        let Some(Process { groups, locks, rooms, ledger, runtime, .. }) = self.process.take() else { return };
        let last = seen_in(&ledger);
        let ended = ledger.driver().has_ended();
        self.counts.ends += u64::from(ended);
        let closed = end == End::Closed && !ended;
        let flushed = closed || self.rng.chance(1, 2);
        if closed {
            ledger.close();
        } else if flushed {
            ledger.driver().save().unwrap();
        }
        let within = runtime.enter();
        drop((groups, locks, rooms, ledger));
        drop(within);
        drop(runtime);
        let fate = if closed { Fate::Kept } else { self.folder.crash(&mut self.rng) };
        self.counts.older += u64::from(fate == Fate::Older);
        self.counts.lost += u64::from(fate == Fate::Lost);
        let saved = if flushed { last } else { std::mem::take(&mut self.saved) };
        self.kept = (fate == Fate::Kept).then_some(saved);
    }

    /// Holds all rows against the model, as of their offset rows.
    fn check_rows(&mut self, model: &Model) {
        let found = self.ledger().driver().rows().unwrap();
        let due = self.rows(model, &self.seen());
        self.counts.rows += due.len() as u64;
        let mut found = found.iter().map(|(key, value)| (&**key, &**value)).peekable();
        let mut due = due.iter().map(|(key, value)| (&key[..], &value[..]));
        loop {
            let next = due.by_ref().find(|row| found.peek() == Some(row) || !RoomsModel::may_be_gone(row.0, model));
            match (found.next(), next) {
                (None, None) => return,
                (found, due) if found == due => {}
                (found, due) => {
                    let show = |row: Option<(&[u8], &[u8])>| {
                        row.map(|(key, value)| format!("{} = {}", key.escape_ascii(), value.escape_ascii()))
                    };
                    broken!("the ledger's next row is {:?} where {:?} is due", show(found), show(due));
                }
            }
        }
    }

    /// All rows that the ledger must have, by key, where its offset rows are at these positions.
    fn rows(&self, model: &Model, seen: &BTreeMap<u16, u64>) -> BTreeMap<Vec<u8>, Vec<u8>> {
        let mut rows = BTreeMap::new();
        rows.insert(b"m".to_vec(), [[1, 0], (model.partitions.len() as u16).to_le_bytes()].concat());
        for (partition, position) in seen {
            let key = [&[b'p', 2, 0][..], &partition.to_be_bytes()].concat();
            rows.insert(key, offset_row(&model.partitions[usize::from(*partition)], *position));
        }
        self.groups.rows(model, seen, &mut rows);
        self.locks.rows(seen, &mut rows);
        self.rooms.rows(model, seen, &mut rows);
        rows
    }

    /// A namespace is deleted, and with it what it had here.
    pub fn namespace_deleted(&mut self, partition: u16, end: u64, namespace: usize) {
        self.groups.namespace_deleted(partition, end, namespace);
        self.rooms.namespace_deleted(partition, end, namespace);
    }

    /// Whether all that the log has is applied.
    pub fn is_level(&self, model: &Model) -> bool {
        let seen = self.seen();
        (0..).zip(&model.partitions).all(|(id, partition)| seen.get(&id).copied().unwrap_or(0) == partition.end)
    }

    /// Applies all that the log has, and does not look at it. False where the process has ended.
    pub fn apply_all(&mut self, partitions: u16) -> bool {
        (0..partitions).all(|partition| {
            loop {
                match self.ledger().step(partition, 1 << 20) {
                    Ok(true) => {}
                    Ok(false) => return true,
                    Err(LedgerError::Closed) if self.has_ended() => return false,
                    Err(error) => broken!("the ledger: {error}"),
                }
            }
        })
    }

    /// Applies all that the log has.
    fn catch_up(&mut self, model: &Model) {
        for partition in 0..model.partitions.len() as u16 {
            let bytes = batch_bytes(&mut self.rng);
            while self.ledger().step(partition, bytes).unwrap() {}
        }
        self.check_rows(model);
        if !self.is_level(model) {
            broken!("the ledger does not catch up: {:?}", self.seen());
        }
    }
}

/// How far a ledger has each partition, by its offset rows: the one thing that is taken at its word.
fn seen_in(ledger: &Ledger) -> BTreeMap<u16, u64> {
    let rows = ledger.driver().rows().unwrap();
    let offset = |key: &[u8], value: &[u8]| match *key {
        [b'p', 2, 0, a, b] => Some((u16::from_be_bytes([a, b]), u64::from_le_bytes(value[..8].try_into().unwrap()))),
        _ => None,
    };
    rows.iter().filter_map(|(key, value)| offset(key, value)).collect()
}

/// Whether a fault of the disk explains an error.
fn is_of_a_fault(error: &LedgerError) -> bool {
    matches!(
        error,
        LedgerError::Read(ReadError::Io { .. } | ReadError::Damaged { .. })
            | LedgerError::Offset(OffsetError::Read(ReadError::Io { .. }))
    )
}

impl World {
    /// Does something with the ledger, in a run that has one.
    pub fn with_ledger<T>(&mut self, act: impl FnOnce(&mut SimLedger, &mut World) -> T) -> Option<T> {
        let mut ledger = self.ledger.take()?;
        let result = act(&mut ledger, self);
        self.ledger = Some(ledger);
        Some(result)
    }

    /// Opens the ledger when the log is open, and holds all of it against the models. False where a fault was
    /// in the way.
    pub fn open_ledger(&mut self) -> bool {
        let open = |sim: &mut SimLedger, world: &mut World| {
            let before = world.excuses();
            let ledger = match Ledger::open_driven(&sim.dir, world.log(), OPEN_TABLES) {
                Ok(ledger) => ledger,
                Err(error) if is_of_a_fault(&error) && world.excuses() > before => return false,
                Err(error) => broken!("the ledger can't be opened: {error}"),
            };
            sim.begin(ledger, before);
            sim.counts.restarts += 1;
            sim.check_rows(&world.model);
            let found = sim.seen();
            for (partition, saved) in sim.kept.iter().flatten() {
                if found.get(partition).is_none_or(|found| found < saved) {
                    broken!("the ledger had saved {saved} of partition {partition}, and has {found:?}");
                }
            }
            world.note(&format!("ledger {found:?}"));
            sim.saved = found;
            if sim.rng.chance(1, 2) {
                world.calm(|world| sim.catch_up(&world.model));
            }
            true
        };
        self.with_ledger(open).unwrap_or(true)
    }

    /// The ledger and its users have a few turns.
    pub fn step_ledger(&mut self) {
        let turns = self.ledger.as_mut().map_or(0, |ledger| 1 + ledger.rng.below(12));
        for _ in 0..turns {
            let is_over = self.storage.stopped()
                || self.process.is_none()
                || self.ledger.as_ref().is_some_and(|ledger| ledger.process.is_none() || ledger.has_ended());
            if is_over {
                return;
            }
            let turn = self.with_ledger(|ledger, world| world.ledger_turn(ledger));
            self.pump_ledger();
            self.note(&format!("ledger {turn:?}"));
        }
    }

    fn ledger_turn(&mut self, ledger: &mut SimLedger) -> u64 {
        let turn = ledger.rng.below(40);
        match turn {
            0..12 => {
                let partition = ledger.rng.below(u64::from(self.options.partitions)) as u16;
                let (before, bytes) = (self.excuses(), batch_bytes(&mut ledger.rng));
                match ledger.ledger().step(partition, bytes) {
                    Ok(_) => {}
                    Err(LedgerError::Closed) if ledger.has_ended() => {}
                    Err(error) if is_of_a_fault(&error) && (self.excuses() > before || self.storage.stopped()) => {}
                    Err(error) => broken!("the ledger: {error}"),
                }
            }
            12 => ledger.save(),
            13 => {
                let copy = ledger.folder.next_copy().to_owned();
                ledger.ledger().driver().copy(&copy).unwrap();
                ledger.saved = ledger.seen();
            }
            14 if ledger.rng.chance(1, 3) => {
                let writes = ledger.rng.below(4);
                ledger.ledger().driver().end_after(writes);
            }
            15 => ledger.check_rows(&self.model),
            16..20 => {
                let millis = [1, 30, 300, 3_000, 70_000][ledger.rng.index(5)];
                // What is due is done a moment late, too.
                let is_noticed = !ledger.rng.chance(1, 4);
                ledger.advance(millis, is_noticed);
            }
            _ => match ledger.users[ledger.rng.index(ledger.users.len())] {
                User::Groups => self.call_groups(ledger),
                User::Locks => self.call_locks(ledger),
                User::Rooms => self.call_rooms(ledger),
            },
        }
        turn
    }

    /// Everything that is under way goes on as far as it gets, and answers are judged.
    pub fn pump_ledger(&mut self) {
        self.with_ledger(|ledger, world| {
            if ledger.process.is_none() || world.storage.stopped() {
                return;
            }
            for _ in 0..3 {
                let go_on = async {
                    for _ in 0..16 {
                        tokio::task::yield_now().await;
                    }
                };
                ledger.process().runtime.block_on(go_on);
                world.poll_groups(ledger);
                world.poll_locks(ledger);
                world.poll_rooms(ledger);
            }
        });
    }

    /// Whether the disk may be why something was not done.
    pub fn is_faulty(&self, ledger: &SimLedger) -> bool {
        let process = ledger.process.as_ref().unwrap();
        self.excuses() > process.excuses || self.storage.stopped() || self.failed.contains(&true)
    }

    /// Everything that is asked and appended is done, with nothing in the way.
    pub fn go_round(&mut self) {
        let partitions = self.options.partitions;
        self.with_ledger(|ledger, _| {
            if !ledger.apply_all(partitions) {
                broken!("the ledger has ended");
            }
            ledger.advance(5_000, true);
        });
        self.pump_ledger();
        for partition in self.partitions() {
            self.commit(partition);
        }
    }

    /// At the end of a run all who use the ledger come to an end, and one that is made anew is the same, row for row.
    pub fn finish_ledger(&mut self) {
        let Some(ledger) = &self.ledger else { return };
        let users = ledger.users.clone();
        // Nothing of the last process is in doubt.
        self.restart(End::Killed);
        let faults = self.storage.set_calm(true);
        self.with_ledger(|ledger, _| ledger.ledger().driver().end_after(u64::MAX));
        for user in users {
            match user {
                User::Groups => self.finish_groups(),
                User::Locks => self.finish_locks(),
                User::Rooms => self.finish_rooms(),
            }
        }
        self.with_ledger(|ledger, world| {
            ledger.catch_up(&world.model);
            let fresh = ledger.dir.join("fresh-ledger");
            let fresh = Ledger::open_driven(&fresh, world.log(), OPEN_TABLES).unwrap();
            for partition in world.partitions() {
                while fresh.step(partition, 1 << 20).unwrap() {}
            }
            let (fresh, found) = (fresh.driver().rows().unwrap(), ledger.ledger().driver().rows().unwrap());
            if let Some((anew, found)) = fresh.iter().zip(&found).find(|(anew, found)| anew != found) {
                let show = |(key, value): &RawRow| format!("{} = {}", key.escape_ascii(), value.escape_ascii());
                broken!("a ledger that is made anew has {} where {} was", show(anew), show(found));
            }
            if fresh.len() != found.len() {
                broken!("a ledger that is made anew has {} rows of {}", fresh.len(), found.len());
            }
        });
        self.storage.set_calm(faults);
    }
}
