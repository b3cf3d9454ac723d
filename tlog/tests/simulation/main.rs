//! The log on a simulated disk, under a random workload, power cuts and faults, against a model: see
//! `tlog/tests/README.md`.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod damage;
mod durable;
mod model;
mod rows;
mod runner;
mod workload;
mod world;

use runner::{Seeds, run, run_all};

/// Seeds that every run tries.
const FIXED: u64 = 60;

/// New seeds that every run tries.
const NEW: u64 = 40;

#[test]
fn every_promise_holds_whatever_the_disk_does() {
    let seeds = Seeds::from_environment(FIXED, NEW);
    run_all(seeds);
}

#[test]
fn a_seed_gives_the_same_run_to_the_byte() {
    for seed in 0..6 {
        assert_eq!(run(seed), run(seed), "seed {seed}");
    }
}
