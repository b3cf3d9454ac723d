//! The 256 stores in the simulation: turns by chance, rebuilds, crashes of their folder, reads. After
//! each restart, and now and then, all their rows are held against [`model`].
//!
//! A consumer's place in a run is in four calls: [`World::open_stores`] when the log is open,
//! [`World::step_stores`], [`SimStores::end`] when the process ends, and [`World::finish_stores`]. One that
//! also writes to the log says which frames are its own, and takes them in: see `ledger/frames.rs`.

mod model;
mod reads;

pub use self::model::offset_row;

use std::fmt;
use std::ops::AddAssign;
use std::path::{Path, PathBuf};

use consumers::offsets::OffsetError;
use consumers::{OPEN_TABLES, RawRow, Stores, StoresDriver, StoresError};
use tlog::storage::simulated::Rng;
use tlog::{Log, ReadError};
use wire::Shard;

use self::model::{Seen, StoresModel};
use crate::folder::{Fate, Folder};
use crate::model::Model;
use crate::world::{End, World, broken};

/// What the stores of some runs amount to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StoresCounts {
    /// Runs that had stores.
    pub runs: u64,
    pub restarts: u64,
    /// Restarts that found an older folder, or none.
    pub older: u64,
    pub lost: u64,
    /// Processes that ended at a write of the stores.
    pub ends: u64,
    pub rebuilds: u64,
    pub reads: u64,
    /// Rows that were held against the model.
    pub rows: u64,
}

impl AddAssign for StoresCounts {
    fn add_assign(&mut self, other: StoresCounts) {
        self.runs += other.runs;
        self.restarts += other.restarts;
        self.older += other.older;
        self.lost += other.lost;
        self.ends += other.ends;
        self.rebuilds += other.rebuilds;
        self.reads += other.reads;
        self.rows += other.rows;
    }
}

impl fmt::Display for StoresCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let StoresCounts { runs, restarts, older, lost, ends, rebuilds, reads, rows } = self;
        write!(f, "in {runs} seeds, {restarts} restarts ({older} with an older folder, {lost} without one, ")?;
        write!(f, "{ends} after an end at a write), {rebuilds} rebuilds, {reads} reads, {rows} rows compared")
    }
}

/// What ends with the process.
struct Process {
    stores: Stores,
    driver: StoresDriver,
}

/// The stores over all processes of a run.
pub struct SimStores {
    dir: PathBuf,
    folder: Folder,
    process: Option<Process>,
    /// What no crash may undo.
    saved: Seen,
    /// What the last process had saved, and what it had, where its folder was kept.
    kept: Option<(Seen, Seen)>,
    pub counts: StoresCounts,
}

impl SimStores {
    pub fn new(dir: &Path) -> SimStores {
        let counts = StoresCounts { runs: 1, ..StoresCounts::default() };
        let folder = Folder::new(dir.join("stores"));
        SimStores { dir: dir.to_owned(), folder, process: None, saved: Seen::default(), kept: None, counts }
    }

    fn process(&mut self) -> &mut Process {
        self.process.as_mut().unwrap()
    }

    /// Whether their part of the process has come to its end.
    pub fn has_ended(&self) -> bool {
        self.process.as_ref().is_some_and(|process| process.driver.has_ended())
    }

    fn raw_rows(&self) -> Vec<RawRow> {
        self.process.as_ref().unwrap().driver.rows().unwrap()
    }

    fn seen(&self) -> Seen {
        Seen::in_rows(&self.raw_rows())
    }

    /// What was written until now is not lost any more.
    fn save(&mut self) {
        self.process().driver.save().unwrap();
        self.saved = self.seen();
    }

    /// Ends the process, and decides what is left of the folder.
    pub fn end(&mut self, end: End, rng: &mut Rng) {
        let Some(Process { stores, driver }) = self.process.take() else { return };
        let last = Seen::in_rows(&driver.rows().unwrap());
        self.counts.ends += u64::from(driver.has_ended());
        let closed = end == End::Closed && !driver.has_ended();
        let flushed = closed || rng.chance(1, 2);
        if closed {
            stores.close();
        } else if flushed {
            // RocksDB may have flushed by itself what was written last.
            driver.save().unwrap();
        }
        drop((stores, driver));
        let fate = if closed { Fate::Kept } else { self.folder.crash(rng) };
        self.counts.older += u64::from(fate == Fate::Older);
        self.counts.lost += u64::from(fate == Fate::Lost);
        let saved = if flushed { last.clone() } else { std::mem::take(&mut self.saved) };
        self.kept = (fate == Fate::Kept).then_some((saved, last));
    }

    /// Holds what a start has found against what the last process had.
    fn check_found(&self, found: &Seen) {
        let Some((saved, last)) = &self.kept else { return };
        if let Some((partition, position)) = found.live.iter().find(|(id, found)| last.live(**id) < **found) {
            broken!("the stores have more of partition {partition} than they had: {position}");
        }
        if let Some((partition, saved)) = saved.live.iter().find(|(id, saved)| found.live(**id) < **saved) {
            broken!("the stores had saved {saved} of partition {partition}, and have {}", found.live(*partition));
        }
        let due = saved.rebuilding.intersection(&last.rebuilding);
        if let Some(shard) = due.into_iter().find(|shard| !found.rebuilding.contains(shard)) {
            broken!("that store {shard:02x} is to be rebuilt is forgotten");
        }
    }

    /// Holds all rows against the model, as of their offset rows.
    fn check_rows(&mut self, model: &Model) -> Seen {
        let found = self.raw_rows();
        let seen = Seen::in_rows(&found);
        let due = StoresModel::new(model, &seen).rows(model, &seen);
        self.counts.rows += due.len() as u64;
        let mut found = found.iter().map(|(key, value)| (&**key, &**value));
        let mut due = due.iter().map(|(key, value)| (&key[..], &value[..]));
        loop {
            match (found.next(), due.next()) {
                (None, None) => return seen,
                (found, due) if found == due => {}
                (found, due) => {
                    let show = |row: Option<(&[u8], &[u8])>| {
                        row.map(|(key, value)| format!("{} = {}", key.escape_ascii(), value.escape_ascii()))
                    };
                    broken!("the stores' next row is {:?} where {:?} is due", show(found), show(due));
                }
            }
        }
    }

    /// Applies all that the log has, and rebuilds what is to be rebuilt.
    fn catch_up(&mut self, rng: &mut Rng, model: &Model) {
        let partitions = model.partitions.len() as u16;
        let Process { driver, .. } = self.process();
        loop {
            let mut went_on = driver.rebuild(batch_bytes(rng)).unwrap();
            for partition in 0..partitions {
                went_on |= driver.apply(partition, batch_bytes(rng)).unwrap();
            }
            if !went_on {
                break;
            }
        }
        let seen = self.check_rows(model);
        let behind = (0..).zip(&model.partitions).find(|(id, partition)| seen.live(*id) != partition.end);
        if behind.is_some() || !seen.rebuilding.is_empty() {
            broken!("the stores do not catch up: {seen:?}");
        }
    }
}

pub fn batch_bytes(rng: &mut Rng) -> usize {
    [1, 1000, 5000, 1 << 20][rng.index(4)]
}

/// Whether a fault of the disk explains an error.
fn is_of_a_fault(error: &StoresError) -> bool {
    matches!(
        error,
        StoresError::Read(ReadError::Io { .. } | ReadError::Damaged { .. })
            | StoresError::Offset(OffsetError::Read(ReadError::Io { .. }))
    )
}

impl World {
    /// Does something with the stores, in a run that has them.
    fn with_stores<T>(&mut self, act: impl FnOnce(&mut SimStores, &mut World) -> T) -> Option<T> {
        let mut stores = self.stores.take()?;
        let result = act(&mut stores, self);
        self.stores = Some(stores);
        Some(result)
    }

    pub fn log(&self) -> Log {
        self.process.as_ref().unwrap().log.clone()
    }

    /// Opens the stores when the log is open, and holds all of them against the model. False where a
    /// fault was in the way.
    pub fn open_stores(&mut self) -> bool {
        let open = |stores: &mut SimStores, world: &mut World| {
            let before = world.excuses();
            match Stores::open_driven(&stores.dir, world.log(), OPEN_TABLES) {
                Ok((opened, driver)) => stores.process = Some(Process { stores: opened, driver }),
                Err(error) if is_of_a_fault(&error) && world.excuses() > before => return false,
                Err(error) => broken!("the stores can't be opened: {error}"),
            }
            stores.counts.restarts += 1;
            let found = stores.check_rows(&world.model);
            stores.check_found(&found);
            world.note(&format!("stores {found:?}"));
            stores.saved = found;
            if world.rng.chance(1, 2) {
                world.calm(|world| stores.catch_up(&mut world.rng, &world.model));
            }
            true
        };
        self.with_stores(open).unwrap_or(true)
    }

    /// The stores have a few turns.
    pub fn step_stores(&mut self) {
        self.with_stores(|stores, world| {
            for _ in 0..=world.rng.below(4) {
                world.turn(stores);
                if stores.has_ended() || world.storage.stopped() {
                    return;
                }
            }
        });
    }

    fn turn(&mut self, stores: &mut SimStores) {
        let before = self.excuses();
        let (partition, bytes) =
            (self.rng.below(u64::from(self.options.partitions)) as u16, batch_bytes(&mut self.rng));
        let turn = self.rng.below(32);
        let done = match turn {
            0..10 => stores.process().driver.apply(partition, bytes),
            10..17 => stores.process().driver.rebuild(bytes),
            17..20 => self.begin_rebuild(stores),
            20..27 => {
                self.calm(|world| world.read_stores(stores));
                Ok(true)
            }
            27 => {
                stores.save();
                Ok(true)
            }
            28 => {
                let copy = stores.folder.next_copy().to_owned();
                stores.process().driver.copy(&copy).unwrap();
                stores.saved = stores.seen();
                Ok(true)
            }
            29..31 => {
                stores.process().driver.end_after(self.rng.below(6));
                Ok(false)
            }
            _ => {
                stores.check_rows(&self.model);
                self.check_states(stores);
                Ok(true)
            }
        };
        match done {
            Ok(done) => self.note(&format!("stores {turn} {done} {:?}", stores.seen())),
            Err(StoresError::Closed) if stores.has_ended() => self.note("the process ends"),
            Err(error) if is_of_a_fault(&error) && (self.excuses() > before || self.storage.stopped()) => {}
            Err(error) => broken!("the stores: {error}"),
        }
    }

    /// Has a store rebuilt: mostly one that has something.
    fn begin_rebuild(&mut self, stores: &mut SimStores) -> Result<bool, StoresError> {
        let shard = match self.rng.below(8) {
            0 => Shard(self.rng.below(256) as u8),
            _ => Shard::of(Some(&format!("k{}", self.rng.below(20))), b""),
        };
        let is_new = !stores.seen().rebuilding.contains(&shard.0);
        stores.process().stores.rebuild(shard)?;
        if is_new && stores.has_ended() {
            // It was asked for, and not answered.
            stores.saved.rebuilding.remove(&shard.0);
        } else if is_new {
            stores.counts.rebuilds += 1;
            stores.saved = stores.seen();
        }
        Ok(true)
    }

    /// At the end of a run all is applied, and stores that are made anew are the same, row for row.
    pub fn finish_stores(&mut self) {
        self.with_stores(|stores, world| {
            world.calm(|world| {
                stores.process().driver.end_after(u64::MAX);
                stores.catch_up(&mut world.rng, &world.model);
                world.check_states(stores);
                if world.rng.chance(1, 4) {
                    let mut fresh = SimStores::new(&stores.dir.join("fresh"));
                    let (opened, driver) = Stores::open_driven(&fresh.dir, world.log(), OPEN_TABLES).unwrap();
                    fresh.process = Some(Process { stores: opened, driver });
                    fresh.catch_up(&mut world.rng, &world.model);
                    if fresh.raw_rows() != stores.raw_rows() {
                        broken!("stores that are made anew are others");
                    }
                }
            });
        });
    }
}
