//! Faults that can be put into the consumers on purpose, to prove that the simulation finds each of them:
//! see `tlog/tests/README.md`. Only with the feature `mutants`; without it `mutant!` is `false`, and
//! nothing of this is compiled.

use std::sync::atomic::{AtomicU8, Ordering};

static ACTIVE: AtomicU8 = AtomicU8::new(u8::MAX);

/// A promise that is broken on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutant {
    /// The offset row is written by itself, before the state that it stands for.
    OffsetRowBeforeState,
    /// The offset row is written by itself, behind the state that it stands for.
    StateBeforeOffsetRow,
    /// A rebuild hands over one frame before where the live reader is.
    HandOverEarly,
    /// A rebuild hands over behind where the live reader is.
    HandOverLate,
    /// The live reader applies to a store that is being rebuilt, too.
    ApplyTwice,
    /// A rebuild does not wipe what was there.
    RebuildOverOld,
    /// That a store is to be rebuilt is answered before it is saved.
    RebuildNotSaved,
    /// A start forgets who applies what to a store that is being rebuilt.
    ForgetRebuilds,
    /// Reads answer from a store that is not whole.
    ShowRebuilding,
    /// A tombstone leaves the key's last value in its place.
    ForgetTombstones,
    /// A deleted namespace leaves its rows behind.
    KeepDeletedRows,
    /// A deleted namespace leaves its objects behind, where it has many.
    KeepManyObjects,
    /// A range takes in the key that it ends before.
    RangeTakesEnd,
    /// The counts of objects begin anew at a start.
    ForgetCounts,
    /// The ledger's offset row is written by itself, before the state that it stands for.
    LedgerOffsetRowBeforeState,
    /// The ledger's offset row is written by itself, behind the state that it stands for.
    LedgerStateBeforeOffsetRow,
    /// An ack is answered before it is durable.
    GroupAckBeforeDurable,
    /// How often a record has failed is not in the rows.
    ForgetAttempts,
    /// A token that has lapsed still acks.
    AckLapsedToken,
    /// A record whose ack is durable is delivered again, where it is above the floor.
    RedeliverAcked,
    /// A key's records go to several workers at once.
    TwoOfAKey,
    /// A dead letter is taken off the list before it is where it should be.
    LetterNotedFirst,
    /// Each try to store a dead letter is made by another producer.
    LetterSentTwice,
    /// The groups of a deleted namespace stay.
    KeepDeletedGroups,
    /// What is asked of a lock does not see that its holder's time is over.
    LapsedHolderActs,
    /// Fencing tokens are counted anew by each process.
    TokensBeginAnew,
    /// That a lock is given back is answered before it is durable.
    ReleaseBeforeDurable,
    /// Who asked for a lock last is served first.
    LastInLineFirst,
    /// After a restart a lock is held for a moment, and not for its holder's whole time.
    HeldBriefly,
    /// A longer time that a holder was promised is not in the log.
    ExtensionNotKept,
    /// A connection looks before all that is below the heads is applied.
    LookUnapplied,
    /// Connections are told of records before the rows are written.
    HintBeforeWrite,
    /// A batch does not end before an event of rooms that stands behind records.
    NoCutBeforeRooms,
    /// All who are connected are told of a record whose namespace someone follows.
    HintEveryone,
    /// A connection goes on when a newer one of its subscriber has begun.
    OlderGoesOn,
    /// A slot is freed while rows have its bit.
    SlotFreedEarly,
    /// An ack moves the cursor up to the head.
    AckUpToHead,
    /// A subscriber's ack is answered before it is durable.
    RoomAckBeforeDurable,
    /// The rooms of a deleted namespace stay.
    KeepDeletedRooms,
    /// That a dead letter was sent back is noted before it is.
    RedriveNotedFirst,
    /// Each try to send a dead letter back is made by another producer.
    RedriveTwice,
}

impl Mutant {
    /// All of them.
    pub const ALL: [Mutant; 41] = [
        Mutant::OffsetRowBeforeState,
        Mutant::StateBeforeOffsetRow,
        Mutant::HandOverEarly,
        Mutant::HandOverLate,
        Mutant::ApplyTwice,
        Mutant::RebuildOverOld,
        Mutant::RebuildNotSaved,
        Mutant::ForgetRebuilds,
        Mutant::ShowRebuilding,
        Mutant::ForgetTombstones,
        Mutant::KeepDeletedRows,
        Mutant::KeepManyObjects,
        Mutant::RangeTakesEnd,
        Mutant::ForgetCounts,
        Mutant::LedgerOffsetRowBeforeState,
        Mutant::LedgerStateBeforeOffsetRow,
        Mutant::GroupAckBeforeDurable,
        Mutant::ForgetAttempts,
        Mutant::AckLapsedToken,
        Mutant::RedeliverAcked,
        Mutant::TwoOfAKey,
        Mutant::LetterNotedFirst,
        Mutant::LetterSentTwice,
        Mutant::KeepDeletedGroups,
        Mutant::LapsedHolderActs,
        Mutant::TokensBeginAnew,
        Mutant::ReleaseBeforeDurable,
        Mutant::LastInLineFirst,
        Mutant::HeldBriefly,
        Mutant::ExtensionNotKept,
        Mutant::LookUnapplied,
        Mutant::HintBeforeWrite,
        Mutant::NoCutBeforeRooms,
        Mutant::HintEveryone,
        Mutant::OlderGoesOn,
        Mutant::SlotFreedEarly,
        Mutant::AckUpToHead,
        Mutant::RoomAckBeforeDurable,
        Mutant::KeepDeletedRooms,
        Mutant::RedriveNotedFirst,
        Mutant::RedriveTwice,
    ];

    /// Breaks this promise from now on, and keeps all others; with `None` all are kept.
    pub fn activate(mutant: Option<Mutant>) {
        ACTIVE.store(mutant.map_or(u8::MAX, |mutant| mutant as u8), Ordering::Relaxed);
    }

    pub(crate) fn is_active(self) -> bool {
        ACTIVE.load(Ordering::Relaxed) == self as u8
    }
}
