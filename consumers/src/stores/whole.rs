//! Whether a store is whole, as a fact in memory: for reads without a snapshot.
//!
//! A snapshot has the row `'r'` of the same moment as all other rows. To take one costs a lock that all reads
//! share, and the row a lookup of its own. So a read may take its rows one after another, of different
//! moments, and ask here before and behind them:
//!
//! ```text
//!  rebuild   odd   wipes, puts 'r'   …   deletes 'r'   even, higher than ever before
//!  read      even?   rows   still the same?
//! ```
//!
//! - A row that a rebuild has wiped or made is only seen behind the write of it, and so behind the number's being
//!   odd: the read finds another number at its end. That a whole rebuild fits between two rows changes
//!   nothing, as no number comes twice.
//! - Even at the begin means that whatever the last rebuild made is there to be seen by all that follows.
//!
//! So all rows of such a read are of a store that was whole all the while. What the live readers do between them
//! is the read's to bear: objects never change, and a namespace's end takes them away.

use std::sync::atomic::{AtomicU64, Ordering, fence};

/// How often a store has begun to be rebuilt and was whole again: even where it is whole.
#[derive(Debug)]
pub(crate) struct Whole(AtomicU64);

impl Whole {
    /// It is whole.
    pub(crate) const fn new() -> Whole {
        Whole(AtomicU64::new(0))
    }

    /// A rebuild begins: before the write that wipes the store. Where that fails the store is as it was, and it
    /// may stay so here: reads are sent to the rows.
    pub(crate) fn begin_rebuild(&self) {
        self.0.fetch_or(1, Ordering::Relaxed);
    }

    /// A rebuild has ended: behind its last write.
    pub(crate) fn end_rebuild(&self) {
        self.0.fetch_add(1, Ordering::Release);
    }

    /// What a read comes to that found the store whole from its begin to its end.
    pub(crate) fn throughout<T>(&self, read: impl FnOnce() -> Option<T>) -> Option<T> {
        let before = self.0.load(Ordering::Acquire);
        if before & 1 == 1 && !mutant!(ShowRebuilding) {
            return None;
        }
        let found = read()?;
        fence(Ordering::Acquire);
        (self.0.load(Ordering::Relaxed) == before).then_some(found)
    }
}
