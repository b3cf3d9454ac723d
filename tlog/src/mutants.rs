//! Faults that can be put into the log on purpose, to prove that the simulation finds each of them: see
//! `tests/README.md`. Only with the feature `mutants`; without it `mutant!` is `false`, and nothing of
//! this is compiled.

use std::sync::atomic::{AtomicU8, Ordering};

static ACTIVE: AtomicU8 = AtomicU8::new(u8::MAX);

/// A promise that is broken on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutant {
    /// An ack does not wait for the sync.
    AckBeforeSync,
    /// Readers see frames before the sync.
    ShowBeforeSync,
    /// The rows are written before the sync.
    RowsBeforeSync,
    /// A sync that fails is tried again, and believed when it then succeeds.
    RetryFailedSync,
    /// A write that fails is taken for one that did not.
    IgnoreFailedWrite,
    /// The folder is not synced when a segment is made.
    SkipFolderSync,
    /// The folder is not synced when a partition is recovered.
    SkipFolderSyncAtStart,
    /// A segment goes on after the next one could not be made.
    OldSegmentGoesOn,
    /// What follows a damaged frame is cut, whatever it is.
    CutDamage,
    /// A torn tail is left where it is.
    KeepTornTail,
    /// The last commit is not written again at a start.
    SkipWriteAgain,
    /// Rows that stand for more than the log holds are believed.
    BelieveRowsAhead,
    /// A producer's retry is stored again.
    StoreRetries,
    /// Producers are not in the rows.
    ForgetProducers,
    /// A condition on the offset is not looked at.
    IgnoreCondition,
    /// A sealed segment is cut one byte short.
    SealTooShort,
    /// An index is believed without its checksum.
    TrustIndex,
    /// A deleted namespace leaves its head behind.
    KeepDeletedHead,
    /// A namespace's counters begin anew with each commit's first frame.
    RepeatIds,
    /// Append times may go back.
    TimeGoesBack,
}

impl Mutant {
    /// All of them.
    pub const ALL: [Mutant; 20] = [
        Mutant::AckBeforeSync,
        Mutant::ShowBeforeSync,
        Mutant::RowsBeforeSync,
        Mutant::RetryFailedSync,
        Mutant::IgnoreFailedWrite,
        Mutant::SkipFolderSync,
        Mutant::SkipFolderSyncAtStart,
        Mutant::OldSegmentGoesOn,
        Mutant::CutDamage,
        Mutant::KeepTornTail,
        Mutant::SkipWriteAgain,
        Mutant::BelieveRowsAhead,
        Mutant::StoreRetries,
        Mutant::ForgetProducers,
        Mutant::IgnoreCondition,
        Mutant::SealTooShort,
        Mutant::TrustIndex,
        Mutant::KeepDeletedHead,
        Mutant::RepeatIds,
        Mutant::TimeGoesBack,
    ];

    /// Breaks this promise from now on, and keeps all others; with `None` all are kept.
    pub fn activate(mutant: Option<Mutant>) {
        ACTIVE.store(mutant.map_or(u8::MAX, |mutant| mutant as u8), Ordering::Relaxed);
    }

    pub(crate) fn is_active(self) -> bool {
        ACTIVE.load(Ordering::Relaxed) == self as u8
    }
}
