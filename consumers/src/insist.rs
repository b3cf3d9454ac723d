//! Trying again until it works.

use std::thread;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

/// Shortest and longest wait before something that failed is tried again.
const RETRY: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(10)];

/// Does something until it has worked, or `stop` is cancelled. What fails is said each time.
///
/// Nothing is skipped, whatever the reason: state that lacked a record would be wrong for ever, one
/// that lags behind only answers late.
pub(crate) fn insist<E>(stop: &CancellationToken, mut attempt: impl FnMut() -> Result<(), E>, failed: impl Fn(&E)) {
    let [shortest, longest] = RETRY;
    let mut pause = shortest;
    while !stop.is_cancelled() {
        let begun = Instant::now();
        let Err(error) = attempt() else { return };
        failed(&error);
        if begun.elapsed() > longest {
            pause = shortest;
        }
        // Whoever cancels wakes this thread.
        thread::park_timeout(pause);
        pause = (pause * 2).min(longest);
    }
}
