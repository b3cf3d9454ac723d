//! Each promise, broken on purpose: the simulation must find it out.

use std::panic::{AssertUnwindSafe, catch_unwind, set_hook};

use consumers::mutants::Mutant as OfStores;
use tlog::mutants::Mutant as OfLog;

use crate::runner::run;

/// Seeds that are tried on a mutant before it counts as not found.
const MOST_SEEDS: u64 = 10_000;

/// What the first seed says that finds something.
fn first_finding() -> Option<(u64, String)> {
    (0..MOST_SEEDS).find_map(|seed| {
        let panic = catch_unwind(AssertUnwindSafe(|| run(seed))).err()?;
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Some((seed, text.unwrap_or_default()))
    })
}

#[test]
fn every_mutant_is_found() {
    set_hook(Box::new(|_| {}));
    let mut alive = Vec::new();
    // One of them, or all.
    let only = std::env::var("TLOG_SIM_MUTANT").ok();
    let mut find = |mutant: String| {
        if only.as_ref().is_some_and(|only| *only != mutant) {
            return;
        }
        match first_finding() {
            Some((seed, finding)) => {
                let finding: String = finding.chars().take(160).collect();
                eprintln!("{mutant}: seed {seed}: {finding}");
            }
            None => alive.push(mutant),
        }
    };
    for mutant in OfLog::ALL {
        OfLog::activate(Some(mutant));
        find(format!("{mutant:?}"));
    }
    OfLog::activate(None);
    for mutant in OfStores::ALL {
        OfStores::activate(Some(mutant));
        find(format!("{mutant:?}"));
    }
    OfStores::activate(None);
    assert!(alive.is_empty(), "not found: {alive:?}");
}
