//! Consumer groups in the simulation: the real runtime and the real ledger, in the one thread that there is.
//! The ledger has no threads; a turn applies the next of a partition. What the runtime has spawned goes on in
//! [`World::pump_groups`], and what is due is done when time has been moved on by hand. So a seed decides
//! whatever happens. What groups choose comes from a chance of their own, so a run without them is what it
//! was before there were any.
//!
//! | file | what it knows |
//! |---|---|
//! | `calls.rs` | what workers ask for, and whether they may have got what they got |
//! | `frames.rs` | which frames of the log are of groups, and what they must be |
//! | `model.rs` | what the events in the log amount to, and which event may follow which |

mod calls;
mod frames;
mod model;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::AddAssign;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use consumers::groups::{Groups, GroupsError, Token};
use consumers::offsets::OffsetError;
use consumers::{Ledger, LedgerError, RawRow};
use tlog::storage::simulated::Rng;
use tlog::{Clock, ReadError};
use tokio::runtime::Runtime;

use self::calls::Call;
pub use self::frames::DEAD;
use self::model::{GroupsModel, Id};
use crate::folder::{Fate, Folder};
use crate::model::Model;
use crate::stores::batch_bytes;
use crate::world::{End, World, broken};

const OPEN_TABLES: usize = 16;

/// What the groups of some runs amount to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GroupsCounts {
    /// Runs that had groups.
    pub runs: u64,
    pub restarts: u64,
    /// Restarts that found an older folder, or none.
    pub older: u64,
    pub lost: u64,
    /// Processes that ended at a write of the ledger.
    pub ends: u64,
    pub events: u64,
    pub deliveries: u64,
    pub redeliveries: u64,
    pub acks: u64,
    pub letters: u64,
    /// Rows that were held against the model.
    pub rows: u64,
}

impl AddAssign for GroupsCounts {
    fn add_assign(&mut self, other: GroupsCounts) {
        self.runs += other.runs;
        self.restarts += other.restarts;
        self.older += other.older;
        self.lost += other.lost;
        self.ends += other.ends;
        self.events += other.events;
        self.deliveries += other.deliveries;
        self.redeliveries += other.redeliveries;
        self.acks += other.acks;
        self.letters += other.letters;
        self.rows += other.rows;
    }
}

impl fmt::Display for GroupsCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let GroupsCounts { runs, restarts, older, lost, ends, events, .. } = self;
        write!(f, "in {runs} seeds, {restarts} restarts ({older} with an older ledger, {lost} without one, ")?;
        write!(f, "{ends} after an end at a write), {events} events, {} deliveries ", self.deliveries)?;
        write!(f, "({} of them again), {} acks, {} dead letters, ", self.redeliveries, self.acks, self.letters)?;
        write!(f, "{} rows compared", self.rows)
    }
}

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
struct Process {
    calls: Vec<Call>,
    /// By group and offset: the last delivery.
    held: BTreeMap<(Id, u64), Token>,
    /// All tokens that were given.
    given: BTreeSet<Token>,
    groups: Groups,
    ledger: Arc<Ledger>,
    runtime: Runtime,
    /// Faults that there had been when it began.
    excuses: u64,
}

/// Groups over all processes of a run.
pub struct SimGroups {
    rng: Rng,
    dir: PathBuf,
    folder: Folder,
    clock: Arc<HandSet>,
    boot: u64,
    process: Option<Process>,
    pub model: GroupsModel,
    /// Acks that were answered, since the group was last begun, moved or ended.
    answered: BTreeMap<(Id, u64), BTreeSet<u64>>,
    /// What no crash may undo: how far each partition was applied.
    saved: BTreeMap<u16, u64>,
    kept: Option<BTreeMap<u16, u64>>,
    pub counts: GroupsCounts,
}

impl SimGroups {
    pub fn new(dir: &Path, seed: u64) -> SimGroups {
        SimGroups {
            rng: Rng::new(seed ^ 0x6772_6f75_7073),
            dir: dir.to_owned(),
            folder: Folder::new(dir.join("ledger")),
            clock: Arc::default(),
            boot: 0,
            process: None,
            model: GroupsModel::default(),
            answered: BTreeMap::new(),
            saved: BTreeMap::new(),
            kept: None,
            counts: GroupsCounts { runs: 1, ..GroupsCounts::default() },
        }
    }

    fn process(&mut self) -> &mut Process {
        self.process.as_mut().unwrap()
    }

    fn ledger(&self) -> &Ledger {
        &self.process.as_ref().unwrap().ledger
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
        let Some(Process { calls, groups, ledger, runtime, .. }) = self.process.take() else { return };
        self.counts.events = self.model.taken;
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
        drop((calls, groups, ledger));
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
        let due = self.model.rows(model, &self.seen());
        self.counts.rows += due.len() as u64;
        let mut found = found.iter().map(|(key, value)| (&**key, &**value));
        let mut due = due.iter().map(|(key, value)| (&key[..], &value[..]));
        loop {
            match (found.next(), due.next()) {
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

    /// Applies all that the log has.
    fn catch_up(&mut self, model: &Model) {
        for partition in 0..model.partitions.len() as u16 {
            let bytes = batch_bytes(&mut self.rng);
            while self.ledger().step(partition, bytes).unwrap() {}
        }
        self.check_rows(model);
        let seen = self.seen();
        let behind = (0..).zip(&model.partitions).find(|(id, at)| seen.get(id).copied().unwrap_or(0) != at.end);
        if behind.is_some() {
            broken!("the ledger does not catch up: {seen:?}");
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
    /// Does something with groups, in a run that has them.
    fn with_groups<T>(&mut self, act: impl FnOnce(&mut SimGroups, &mut World) -> T) -> Option<T> {
        let mut groups = self.groups.take()?;
        let result = act(&mut groups, self);
        self.groups = Some(groups);
        Some(result)
    }

    /// Opens the ledger when the log is open, and holds all of it against the model. False where a fault was
    /// in the way.
    pub fn open_groups(&mut self) -> bool {
        let open = |groups: &mut SimGroups, world: &mut World| {
            let before = world.excuses();
            let ledger = match Ledger::open_driven(&groups.dir, world.log(), OPEN_TABLES) {
                Ok(ledger) => ledger,
                Err(error) if is_of_a_fault(&error) && world.excuses() > before => return false,
                Err(error) => broken!("the ledger can't be opened: {error}"),
            };
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
            groups.boot += 1 << 32;
            let running = {
                let _within = runtime.enter();
                Groups::driven(Arc::clone(&ledger), Arc::clone(&groups.clock) as _, groups.boot)
            };
            groups.process = Some(Process {
                calls: Vec::new(),
                held: BTreeMap::new(),
                given: BTreeSet::new(),
                groups: running,
                ledger,
                runtime,
                excuses: before,
            });
            groups.counts.restarts += 1;
            groups.check_rows(&world.model);
            let found = groups.seen();
            for (partition, saved) in groups.kept.iter().flatten() {
                if found.get(partition).is_none_or(|found| found < saved) {
                    broken!("the ledger had saved {saved} of partition {partition}, and has {found:?}");
                }
            }
            world.note(&format!("ledger {found:?}"));
            groups.saved = found;
            if groups.rng.chance(1, 2) {
                world.calm(|world| groups.catch_up(&world.model));
            }
            true
        };
        self.with_groups(open).unwrap_or(true)
    }

    /// Groups have a few turns.
    pub fn step_groups(&mut self) {
        let turns = self.groups.as_mut().map_or(0, |groups| 1 + groups.rng.below(8));
        for _ in 0..turns {
            let is_over = self.storage.stopped()
                || self.process.is_none()
                || self.groups.as_ref().is_some_and(|groups| groups.process.is_none() || groups.has_ended());
            if is_over {
                return;
            }
            let turn = self.with_groups(|groups, world| world.groups_turn(groups));
            self.pump_groups();
            self.note(&format!("groups {turn:?}"));
        }
    }

    fn groups_turn(&mut self, groups: &mut SimGroups) -> u64 {
        let turn = groups.rng.below(40);
        match turn {
            0..12 => {
                let partition = groups.rng.below(u64::from(self.options.partitions)) as u16;
                let (before, bytes) = (self.excuses(), batch_bytes(&mut groups.rng));
                match groups.ledger().step(partition, bytes) {
                    Ok(_) => {}
                    Err(LedgerError::Closed) if groups.has_ended() => {}
                    Err(error) if is_of_a_fault(&error) && (self.excuses() > before || self.storage.stopped()) => {}
                    Err(error) => broken!("the ledger: {error}"),
                }
            }
            12 => groups.save(),
            13 => {
                let copy = groups.folder.next_copy().to_owned();
                groups.ledger().driver().copy(&copy).unwrap();
                groups.saved = groups.seen();
            }
            14 if groups.rng.chance(1, 3) => {
                let writes = groups.rng.below(4);
                groups.ledger().driver().end_after(writes);
            }
            15 => groups.check_rows(&self.model),
            16..20 => {
                let millis = [1, 30, 300, 3_000, 70_000][groups.rng.index(5)];
                self.advance_groups(groups, millis);
            }
            _ => self.call_groups(groups),
        }
        turn
    }

    fn advance_groups(&self, groups: &mut SimGroups, millis: u64) {
        groups.clock.0.fetch_add(millis * 1_000_000, Ordering::Relaxed);
        let Process { groups, runtime, .. } = groups.process();
        let _within = runtime.enter();
        groups.tick();
    }

    /// Whether an error may be: the disk had a fault, or what was asked for has gone.
    fn may_fail(&self, groups: &SimGroups, id: &Id, error: &GroupsError) -> bool {
        let process = groups.process.as_ref().unwrap();
        let is_faulty = self.excuses() > process.excuses || self.storage.stopped() || self.failed.contains(&true);
        match error {
            GroupsError::NamespaceNotFound => !self.model.namespaces[id.0].live,
            GroupsError::GroupNotFound => !groups.model.now.contains_key(id),
            GroupsError::StartDiffers | GroupsError::PastHead { .. } => true,
            GroupsError::Unreadable(_) | GroupsError::Read(_) | GroupsError::Append(_) => is_faulty,
            _ => false,
        }
    }

    /// At the end of a run everything is worked on until nothing is left, and a ledger that is made anew is
    /// the same, row for row.
    pub fn finish_groups(&mut self) {
        if self.groups.is_none() {
            return;
        }
        // Nothing of the last process is in doubt.
        self.restart(End::Killed);
        let faults = self.storage.set_calm(true);
        self.with_groups(|groups, _| groups.ledger().driver().end_after(u64::MAX));
        self.work_it_all_off();
        self.with_groups(|groups, world| {
            groups.catch_up(&world.model);
            let fresh = groups.dir.join("fresh-ledger");
            let fresh = Ledger::open_driven(&fresh, world.log(), OPEN_TABLES).unwrap();
            for partition in world.partitions() {
                while fresh.step(partition, 1 << 20).unwrap() {}
            }
            let (fresh, found) = (fresh.driver().rows().unwrap(), groups.ledger().driver().rows().unwrap());
            if let Some((anew, found)) = fresh.iter().zip(&found).find(|(anew, found)| anew != found) {
                let show = |(key, value): &RawRow| format!("{} = {}", key.escape_ascii(), value.escape_ascii());
                broken!("a ledger that is made anew has {} where {} was", show(anew), show(found));
            }
            if fresh.len() != found.len() {
                broken!("a ledger that is made anew has {} rows of {}", fresh.len(), found.len());
            }
            groups.counts.events = groups.model.taken;
        });
        self.storage.set_calm(faults);
    }
}
