//! The log and its consumers on a simulated disk, under a random workload, power cuts and faults, against
//! a model: see `tlog/tests/README.md`.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod damage;
mod durable;
mod folder;
mod groups;
mod ledger;
mod locks;
mod model;
#[cfg(feature = "mutants")]
mod mutants;
mod rooms;
#[cfg_attr(feature = "mutants", expect(dead_code, reason = "mutants run their seeds one by one"))]
mod runner;
mod stores;
mod verify;
mod workload;
mod world;

/// Seeds that every run tries.
#[cfg(not(feature = "mutants"))]
const FIXED: u64 = 600;

/// New seeds that every run tries.
#[cfg(not(feature = "mutants"))]
const NEW: u64 = 400;

#[cfg(not(feature = "mutants"))]
#[test]
fn every_promise_holds_whatever_the_disk_does() {
    runner::run_all(runner::Seeds::from_environment(FIXED, NEW));
}

#[cfg(not(feature = "mutants"))]
#[test]
fn a_seed_gives_the_same_run_to_the_byte() {
    for seed in 0..12 {
        assert_eq!(runner::run(seed), runner::run(seed), "seed {seed}");
    }
}
