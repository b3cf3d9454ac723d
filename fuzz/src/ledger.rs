//! Rows of the ledger: those of groups, of locks, of rooms and subscribers.
//!
//! ```text
//! 0  length of the key
//! 1  key, of which the first byte says what row it is · value
//! ```

use consumers::fuzzing;

/// Runs the target.
pub fn run(data: &[u8]) {
    let [length, rest @ ..] = data else { return };
    let (key, value) = rest.split_at(usize::from(*length).min(rest.len()));
    let Some((again, one_spelling)) = fuzzing::row(key, value) else { return };
    if one_spelling {
        assert_eq!(again, value);
    } else {
        // JSON and bitsets have many spellings, of which one is written.
        assert_eq!(fuzzing::row(key, &again), Some((again, false)));
    }
}
