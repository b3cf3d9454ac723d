//! Storage that does all that a disk, a kernel and a power cut may do, from a seed.
//!
//! | what | how it is modelled |
//! |---|---|
//! | a write | is read at once, durable after [`File::sync_data`] |
//! | a power cut | each sector of each write that was not synced is kept or lost, see `inode`; each name that was made, changed or removed and not synced is kept or lost, see `entries` |
//! | the end of a process | [`Simulated::stop_after`]: from that operation on everything fails; [`Simulated::resume`] is the next process, which finds what the kernel had in memory |
//! | a failed sync | makes any part durable and leaves the rest looking clean: a later sync does not write it |
//! | errors, no space, slowness | by chance, or at the n-th operation from now |
//! | damage at rest | flipped bits, stale and misdirected sectors, where the test says |
//!
//! The same seed and the same calls give the same faults, and [`Simulated::trace`] proves it. Time is
//! simulated too: each operation takes some, and the storage is the [`Clock`].

mod entries;
mod faults;
mod file;
mod inode;
mod rng;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use wire::Chain;

pub use faults::{Fault, FaultCounts, Faults};
pub use rng::Rng;

use self::entries::{Entries, FileId};
use self::file::SimulatedFile;
use self::inode::Inode;
use super::{File, Lock, Storage};
use crate::options::Clock;

/// Longest that an operation takes, nanoseconds.
const USUAL_NANOS: u64 = 200_000;

/// Longest that a slow one takes.
const SLOW_NANOS: u64 = 5_000_000_000;

/// A simulated disk. Clones share it.
#[derive(Debug, Clone)]
pub struct Simulated(Arc<Mutex<Machine>>);

/// Called before each sync of a file.
type Probe = Arc<dyn Fn() + Send + Sync>;

#[derive(Clone)]
struct Machine {
    rng: Rng,
    entries: Entries,
    inodes: BTreeMap<FileId, Inode>,
    next_id: FileId,
    locks: BTreeSet<PathBuf>,
    /// Rises with each process, so that a file that was opened before is known as such.
    process: u64,
    faults: Faults,
    planned: Vec<(Fault, u64)>,
    counts: FaultCounts,
    operations: u64,
    stop_at: Option<u64>,
    stopped: bool,
    calm: bool,
    nanos: u64,
    wall_offset_micros: i64,
    trace: Chain,
    probe: Option<Probe>,
}

impl Debug for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let files: Vec<_> = self.entries.all().map(|(path, _)| path).collect();
        f.debug_struct("Machine").field("files", &files).field("operations", &self.operations).finish_non_exhaustive()
    }
}

impl Simulated {
    /// An empty disk without faults.
    pub fn new(seed: u64) -> Simulated {
        Simulated(Arc::new(Mutex::new(Machine {
            rng: Rng::new(seed),
            entries: Entries::default(),
            inodes: BTreeMap::new(),
            next_id: 0,
            locks: BTreeSet::new(),
            process: 0,
            faults: Faults::default(),
            planned: Vec::new(),
            counts: FaultCounts::default(),
            operations: 0,
            stop_at: None,
            stopped: false,
            calm: false,
            nanos: 0,
            wall_offset_micros: 1_700_000_000_000_000,
            trace: Chain::EMPTY,
            probe: None,
        })))
    }

    /// Another disk with the same content, that no process has and no faults come to by themselves.
    #[must_use]
    pub fn fork(&self) -> Simulated {
        let mut machine = self.0.lock().clone();
        machine.probe = None;
        machine.faults = Faults::default();
        machine.next_process();
        Simulated(Arc::new(Mutex::new(machine)))
    }

    /// From now on faults come by these chances. Returns those of before.
    pub fn set_faults(&self, faults: Faults) -> Faults {
        std::mem::replace(&mut self.0.lock().faults, faults)
    }

    /// The `nth` operation from now that can have this fault has it; 0 is the next.
    pub fn plan(&self, fault: Fault, nth: u64) {
        self.0.lock().planned.push((fault, nth));
    }

    /// While this is set no fault comes and no process ends; what was planned waits. Returns what was
    /// set before.
    pub fn set_calm(&self, calm: bool) -> bool {
        std::mem::replace(&mut self.0.lock().calm, calm)
    }

    /// The process ends at the `nth` operation from now: that one may be done in part, and it and all
    /// that follow fail.
    pub fn stop_after(&self, nth: u64) {
        let mut machine = self.0.lock();
        machine.stop_at = Some(machine.operations + nth);
    }

    /// Whether the process has ended.
    pub fn stopped(&self) -> bool {
        self.0.lock().stopped
    }

    /// The next process begins: the kernel has kept all that was written, synced or not, but for what
    /// failed syncs left, some of which it may have dropped.
    pub fn resume(&self) {
        let mut machine = self.0.lock();
        machine.next_process();
        let Machine { inodes, rng, counts, .. } = &mut *machine;
        if rng.chance(1, 2) {
            let evicted = inodes.values_mut().map(|inode| inode.evict(rng)).sum();
            counts.add(Fault::Evicted, evicted);
        }
        machine.record("resume", Path::new(""), &[]);
    }

    /// The power is cut, and comes back: what was not synced is kept or lost, and a new process begins.
    pub fn power_cut(&self) {
        let mut machine = self.0.lock();
        machine.next_process();
        let Machine { inodes, entries, rng, counts, .. } = &mut *machine;
        // All lost and all kept are worth more than their share.
        let percent = [0, 100, rng.below(101), rng.below(101)][rng.index(4)];
        let lost = inodes.values_mut().map(|inode| inode.power_cut(rng, percent)).sum();
        counts.add(Fault::LostWrite, lost);
        counts.add(Fault::LostEntry, entries.power_cut(rng, percent));
        let left: BTreeSet<FileId> = entries.all().map(|(_, id)| id).collect();
        inodes.retain(|id, _| left.contains(id));
        counts.add(Fault::PowerCut, 1);
        machine.record("power cut", Path::new(""), &[percent]);
    }

    /// Sets the wall clock forward or back.
    pub fn shift_clock(&self, micros: i64) {
        self.0.lock().wall_offset_micros += micros;
    }

    /// Calls this before each sync of a file, outside of all locks of the storage.
    pub fn on_sync(&self, probe: Option<Arc<dyn Fn() + Send + Sync>>) {
        self.0.lock().probe = probe;
    }

    /// How many faults there were so far.
    pub fn counts(&self) -> FaultCounts {
        self.0.lock().counts
    }

    /// How many there were on this disk and not on the one that it is a fork of.
    pub fn counts_since(&self, origin: &Simulated) -> FaultCounts {
        self.counts().without(&origin.counts())
    }

    /// How many operations there were so far.
    pub fn operations(&self) -> u64 {
        self.0.lock().operations
    }

    /// A hash over all that was done, in its order, and what came of it.
    pub fn trace(&self) -> Chain {
        self.0.lock().trace
    }

    /// All files.
    pub fn files(&self) -> Vec<PathBuf> {
        self.0.lock().entries.all().map(|(path, _)| path.clone()).collect()
    }

    /// What a power cut leaves of a file that loses whatever it can; nothing where it loses its name.
    pub fn durable(&self, path: &Path) -> Option<Vec<u8>> {
        let machine = self.0.lock();
        let id = machine.entries.get_durable(path)?;
        Some(machine.inodes.get(&id)?.disk().to_vec())
    }

    /// Turns a bit of what is durable of a file.
    pub fn flip_bit(&self, path: &Path, byte: u64, bit: u32) {
        self.damage(path, Fault::FlippedBit, |inode, _| {
            inode.flip(byte as usize, bit);
            true
        });
    }

    /// Puts an older version of a sector back. Whether that changed anything.
    pub fn make_stale(&self, path: &Path, sector: u64) -> bool {
        self.damage(path, Fault::StaleBlock, |inode, rng| inode.make_stale(sector as usize, rng))
    }

    /// Writes one sector over another, of the same file or another. Whether that changed anything.
    pub fn misdirect(&self, from: (&Path, u64), to: (&Path, u64)) -> bool {
        let sector = {
            let machine = self.0.lock();
            let inode = machine.entries.get(from.0).and_then(|id| machine.inodes.get(&id));
            inode.map(|inode| inode.sector(from.1 as usize))
        };
        let Some(sector) = sector else { return false };
        self.damage(to.0, Fault::MisdirectedWrite, |inode, _| inode.overwrite(to.1 as usize, &sector))
    }

    /// What is read of a file right now, durable or not.
    pub fn contents(&self, path: &Path) -> Option<Vec<u8>> {
        let machine = self.0.lock();
        let id = machine.entries.get(path)?;
        Some(machine.inodes.get(&id)?.cache().to_vec())
    }

    /// How many sectors a file has.
    pub fn sectors(&self, path: &Path) -> u64 {
        let machine = self.0.lock();
        let inode = machine.entries.get(path).and_then(|id| machine.inodes.get(&id));
        inode.map_or(0, |inode| inode.sectors() as u64)
    }

    fn damage(&self, path: &Path, fault: Fault, change: impl FnOnce(&mut Inode, &mut Rng) -> bool) -> bool {
        let mut machine = self.0.lock();
        let Some(id) = machine.entries.get(path) else { return false };
        let Machine { inodes, rng, counts, .. } = &mut *machine;
        let changed = inodes.get_mut(&id).is_some_and(|inode| change(inode, rng));
        counts.add(fault, u64::from(changed));
        changed
    }

    fn file(&self, id: FileId, path: &Path, process: u64) -> Arc<dyn File> {
        Arc::new(SimulatedFile { storage: self.clone(), id, path: path.to_owned(), process })
    }
}

fn stopped() -> io::Error {
    io::Error::other("the simulated process has ended")
}

fn eio(what: &str) -> io::Error {
    io::Error::other(format!("a simulated error of {what}"))
}

impl Machine {
    fn next_process(&mut self) {
        self.process += 1;
        self.locks.clear();
        self.stopped = false;
        self.stop_at = None;
        self.planned.clear();
    }

    /// Begins an operation: it takes time, it may be the one at which the process ends, and it is put
    /// on record.
    fn begin(&mut self, what: &str, path: &Path, numbers: &[u64]) -> io::Result<()> {
        if self.stopped {
            return Err(stopped());
        }
        self.nanos += 1 + self.rng.below(USUAL_NANOS);
        if self.fails(Fault::Slow) {
            self.nanos += self.rng.below(SLOW_NANOS);
        }
        self.record(what, path, numbers);
        if !self.calm && self.stop_at.is_some_and(|at| self.operations >= at) {
            self.counts.add(Fault::Stop, 1);
            self.record("stop", path, &[]);
            return Err(self.stop());
        }
        self.operations += 1;
        Ok(())
    }

    fn stop(&mut self) -> io::Error {
        self.stopped = true;
        stopped()
    }

    /// Whether this operation has this fault.
    fn fails(&mut self, fault: Fault) -> bool {
        if self.calm {
            return false;
        }
        let mut planned = false;
        self.planned.retain_mut(|(kind, nth)| {
            let due = *kind == fault && *nth == 0;
            if *kind == fault {
                *nth = nth.saturating_sub(1);
            }
            planned |= due;
            !due
        });
        let chance = self.faults.chance(fault);
        let fails = planned || (chance > 0 && self.rng.chance(chance, 10_000));
        if fails {
            self.counts.add(fault, 1);
            self.record(&format!("{fault:?}"), Path::new(""), &[]);
        }
        fails
    }

    fn record(&mut self, what: &str, path: &Path, numbers: &[u64]) {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        self.trace = self.trace.after(format!("{} {what} {name} {numbers:?}", self.nanos).as_bytes());
    }

    fn inode(&mut self, file: &SimulatedFile) -> io::Result<&mut Inode> {
        if file.process != self.process {
            return Err(io::Error::other("the file was opened by a process that has ended"));
        }
        self.inodes.get_mut(&file.id).ok_or_else(|| io::Error::other("the file is lost"))
    }
}

fn no_such(path: &Path) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("{} does not exist", path.display()))
}

impl Storage for Simulated {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        let mut machine = self.0.lock();
        if !machine.entries.has_folder(dir) {
            machine.begin("create folder", dir, &[])?;
            if machine.fails(Fault::FolderError) {
                return Err(eio("a folder"));
            }
            machine.entries.make_folder(dir);
        }
        Ok(())
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let mut machine = self.0.lock();
        machine.begin("create", path, &[])?;
        if !path.parent().is_some_and(|dir| machine.entries.has_folder(dir)) {
            return Err(no_such(path));
        }
        if machine.entries.get(path).is_some() {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, format!("{} exists", path.display())));
        }
        if machine.fails(Fault::NoSpace) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        if machine.fails(Fault::FolderError) {
            return Err(eio("a creation"));
        }
        let id = machine.next_id;
        machine.next_id += 1;
        machine.inodes.insert(id, Inode::default());
        machine.entries.make(path, id);
        Ok(self.file(id, path, machine.process))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let mut machine = self.0.lock();
        machine.begin("open", path, &[])?;
        let id = machine.entries.get(path).ok_or_else(|| no_such(path))?;
        Ok(self.file(id, path, machine.process))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        let mut machine = self.0.lock();
        machine.begin("list", dir, &[])?;
        Ok(machine.entries.list(dir))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut machine = self.0.lock();
        machine.begin("rename", to, &[])?;
        let id = machine.entries.get(from).ok_or_else(|| no_such(from))?;
        if machine.fails(Fault::FolderError) {
            return Err(eio("a rename"));
        }
        machine.entries.rename(from, to, id);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut machine = self.0.lock();
        machine.begin("remove", path, &[])?;
        machine.entries.get(path).ok_or_else(|| no_such(path))?;
        if machine.fails(Fault::FolderError) {
            return Err(eio("a removal"));
        }
        machine.entries.remove(path);
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut machine = self.0.lock();
        machine.begin("sync folder", dir, &[])?;
        if machine.fails(Fault::FolderError) {
            return Err(eio("a folder's sync"));
        }
        machine.entries.sync(dir);
        Ok(())
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Lock>> {
        let mut machine = self.0.lock();
        machine.begin("lock", path, &[])?;
        if !machine.locks.insert(path.to_owned()) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(Box::new(SimulatedLock { storage: self.clone(), path: path.to_owned(), process: machine.process }))
    }
}

impl Clock for Simulated {
    fn now_micros(&self) -> i64 {
        let machine = self.0.lock();
        machine.wall_offset_micros + (machine.nanos / 1000) as i64
    }

    fn monotonic_nanos(&self) -> u64 {
        self.0.lock().nanos
    }
}

#[derive(Debug)]
struct SimulatedLock {
    storage: Simulated,
    path: PathBuf,
    process: u64,
}

impl Lock for SimulatedLock {}

impl Drop for SimulatedLock {
    fn drop(&mut self) {
        let mut machine = self.storage.0.lock();
        if machine.process == self.process {
            machine.locks.remove(&self.path);
        }
    }
}
