//! Many seeds, on all cores; a seed that fails says how to run it again.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use tlog::storage::simulated::FaultCounts;

use crate::damage;
use crate::world::{End, Outcome, World};

/// Runs one seed from an empty disk to the end. Panics where a promise is broken.
pub fn run(seed: u64) -> Outcome {
    let mut world = World::new(seed);
    world.restart(End::PowerCut);
    for _ in 0..20 + world.rng.below(60) {
        world.step();
    }
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

/// Runs seeds on all cores, until a few have failed.
pub fn run_all(Seeds(seeds): Seeds) {
    let begun = std::time::Instant::now();
    let next = AtomicU64::new(0);
    let failed = Mutex::new(Vec::new());
    let totals = Mutex::new((FaultCounts::default(), 0, 0, 0));
    let work = || {
        while failed.lock().unwrap().len() < MOST_FAILURES {
            let Some(seed) = seeds.get(next.fetch_add(1, Ordering::Relaxed) as usize) else { return };
            match catch_unwind(AssertUnwindSafe(|| run(*seed))) {
                Ok(outcome) => {
                    let mut totals = totals.lock().unwrap();
                    totals.0.add_all(&outcome.counts);
                    totals.1 += 1;
                    totals.2 += outcome.records;
                    totals.3 += outcome.restarts;
                    if totals.1 % 1000 == 0 {
                        eprintln!("{} seeds in {:.0?}", totals.1, begun.elapsed());
                    }
                }
                Err(_) => {
                    failed.lock().unwrap().push(*seed);
                    eprintln!(
                        "seed {seed} fails; run it again with\n  TLOG_SIM_SEED={seed} cargo test --release -p tlog --test simulation every_promise"
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
    let (counts, done, records, restarts) = totals.into_inner().unwrap();
    eprintln!("{done} seeds, {records} records, {restarts} restarts in {:.1?}; {counts}", begun.elapsed());
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "these seeds fail, see above: {failed:?}");
}
