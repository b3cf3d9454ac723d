//! Every kept input once, and edits of them from a fixed seed: what the fuzzers do, in a few seconds.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::panic::catch_unwind;
use std::path::Path;

use tlog::storage::simulated::Rng;

/// Edited inputs of each target. A start of a log takes some milliseconds.
const EDITED: u64 = 3_000;
const EDITED_STARTS: u64 = 150;

/// The longest stretch that an edit inserts or removes, bytes.
const MAX_STRETCH: u64 = 24;

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    let mut files: Vec<_> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.iter().map(|file| std::fs::read(file).unwrap()).collect()
}

fn edit(rng: &mut Rng, input: &mut Vec<u8>, other: &[u8]) {
    let at = rng.below(input.len() as u64 + 1) as usize;
    let stretch = rng.below(MAX_STRETCH) as usize;
    let end = (at + stretch).min(input.len());
    match rng.below(5) {
        0 => input[at..end].iter_mut().take(1).for_each(|byte| *byte ^= 1 << rng.below(8)),
        1 => input[at..end].iter_mut().for_each(|byte| *byte = rng.below(256) as u8),
        2 => drop(input.drain(at..end)),
        3 => drop(input.splice(at..at, other.iter().copied().take(stretch))),
        _ => {
            let from = rng.below(other.len() as u64 + 1) as usize;
            input.splice(at..end, other[from..].iter().copied().take(stretch));
        }
    }
}

#[test]
fn kept_inputs_and_edits_of_them_pass() {
    let mut failed = Vec::new();
    for (name, target) in fuzz::TARGETS {
        let kept = corpus(name);
        assert!(!kept.is_empty(), "{name} has a corpus");
        let mut rng = Rng::new(7_256);
        let edited = (0..if name == "recovery" { EDITED_STARTS } else { EDITED }).map(|_| {
            let any = |rng: &mut Rng| kept[rng.below(kept.len() as u64) as usize].clone();
            let (mut input, other) = (any(&mut rng), any(&mut rng));
            for _ in 0..=rng.below(4) {
                edit(&mut rng, &mut input, &other);
            }
            input
        });
        for input in kept.iter().cloned().chain(edited) {
            if catch_unwind(|| target(&input)).is_err() {
                failed.push((name, input));
            }
        }
    }
    assert!(failed.is_empty(), "{} inputs, the first: {:?}", failed.len(), failed[0]);
}
