//! Many seeds, on all cores; a seed that fails says how to run it again.

use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::BuildHasher;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use tlog::storage::simulated::{Fault, FaultCounts};

use crate::damage;
use crate::ledger::LedgerCounts;
use crate::stores::StoresCounts;
use crate::world::{End, Outcome, World};

/// Runs one seed from an empty disk to the end. Panics where a promise is broken.
pub fn run(seed: u64) -> Outcome {
    let mut world = World::new(seed);
    world.restart(End::PowerCut);
    for _ in 0..20 + world.rng.below(60) {
        world.step();
    }
    world.finish_ledger();
    world.finish_stores();
    damage::rounds(&mut world);
    world.outcome()
}

/// The seeds of a run: `TLOG_SIM_SEED` names one, `TLOG_SIM_SEEDS` says how many new ones.
pub struct Seeds(Vec<u64>);

impl Seeds {
    pub fn from_environment(fixed: u64, new: u64) -> Seeds {
        let number = |name| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
        if let Some(seed) = number("TLOG_SIM_SEED") {
            return Seeds(vec![seed]);
        }
        // Chance comes in here, and is printed.
        let base = number("TLOG_SIM_BASE").unwrap_or_else(|| RandomState::new().hash_one(0) >> 16);
        let (fixed, new) = match number("TLOG_SIM_SEEDS") {
            Some(seeds) => (0, seeds),
            None => (fixed, new),
        };
        eprintln!("seeds 0 to {fixed}, and {new} from {base} on");
        Seeds((0..fixed).chain(base..base + new).collect())
    }
}

/// Failures after which a run ends.
const MOST_FAILURES: usize = 5;

/// What all runs amount to.
#[derive(Default)]
struct Totals {
    seeds: u64,
    records: u64,
    restarts: u64,
    faults: FaultCounts,
    stores: StoresCounts,
    ledger: LedgerCounts,
}

impl Totals {
    fn add(&mut self, outcome: &Outcome) {
        self.seeds += 1;
        self.records += outcome.records;
        self.restarts += outcome.restarts;
        self.faults.add_all(&outcome.counts);
        self.stores += outcome.stores;
        self.ledger += outcome.ledger;
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Totals { seeds, records, restarts, faults, stores, ledger } = self;
        let cuts = faults.of(Fault::PowerCut);
        writeln!(f, "total: {seeds} seeds, {records} records, {restarts} restarts, {cuts} power cuts")?;
        writeln!(f, "faults: {faults}")?;
        writeln!(f, "stores: {stores}")?;
        write!(f, "ledger: {ledger}")
    }
}

/// Runs seeds on all cores, until a few have failed.
pub fn run_all(Seeds(seeds): Seeds) {
    let begun = Instant::now();
    let next = AtomicU64::new(0);
    let failed = Mutex::new(Vec::new());
    let totals = Mutex::new(Totals::default());
    let work = || {
        while failed.lock().unwrap().len() < MOST_FAILURES {
            let Some(seed) = seeds.get(next.fetch_add(1, Ordering::Relaxed) as usize) else { return };
            match catch_unwind(AssertUnwindSafe(|| run(*seed))) {
                Ok(outcome) => {
                    let mut totals = totals.lock().unwrap();
                    totals.add(&outcome);
                    if totals.seeds.is_multiple_of(1000) {
                        eprintln!("{} seeds in {:.0?}", totals.seeds, begun.elapsed());
                    }
                }
                Err(_) => {
                    failed.lock().unwrap().push(*seed);
                    eprintln!(
                        "seed {seed} fails; run it again with\n  TLOG_SIM_SEED={seed} cargo test --release -p simulation every_promise"
                    );
                }
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(work);
        }
    });
    eprintln!("in {:.1?}\n{}", begun.elapsed(), totals.into_inner().unwrap());
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "these seeds fail, see above: {failed:?}");
}
