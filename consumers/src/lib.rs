//! What follows the log and keeps state of its own. All of it can be deleted, and comes back from
//! the log (invariant 7).
//!
//! ```text
//!               ┌─▶ live, partition 0 ─┐
//!   log.scan ───┼─▶ live, partition 1 ─┼─▶ apply ─▶ batch ─▶ RocksDB ◀── read, range, state
//!               ├─▶ …                  │
//!               └─▶ rebuild ───────────┘
//! ```
//!
//! | module | what it knows |
//! |---|---|
//! | [`offsets`] | how far a consumer has come in each partition |
//! | [`Ledger`] | the rows that are made of control frames: what groups, locks and rooms keep |
//! | [`groups`] | who works on which record: what consumer groups do and keep |
//! | [`locks`] | who holds what: one owner at a time |
//! | [`rooms`] | who follows which keys, and what is for whom |
//! | `stores` | the 256 materialized stores: opening them, and what can be asked |
//! | `stores::rows` | every row, byte by byte |
//! | `stores::ring` | what the threads share: the database, each partition's turn |
//! | `stores::apply`, `stores::batch` | frames become rows |
//! | `stores::live` | the thread of a partition that keeps up with the log |
//! | `stores::driver` | whose turn it is: threads, or a simulation's steps |
//! | `stores::rebuild` | wiping one store and making it again while the others serve |
//! | `stores::check` | what the rows must be, held against what they are, offline |
//! | `stores::read`, `stores::range`, `stores::state` | the answers |
//!
//! # Invariants
//!
//! 7. Everything but segments can be deleted, and is rebuilt from them to the same bytes: a row is a
//!    function of the frames before the offset row, and of nothing else.
//! 8. A consumer's state and its offset row change in one atomic write, also on disk. State and
//!    offset row stand in one RocksDB without a write-ahead log, and in one column family. A
//!    `WriteBatch` goes into one memtable whole; memtables are flushed in the order in which they
//!    were filled, each as one file that the manifest names once it is synced. So what a crash leaves
//!    on disk is a prefix of the batches that were written, and each batch carries the offset row
//!    that belongs to it. Applying goes on from there, as if nothing had happened.

/// Whether the promise of this name is broken on purpose: never, without the feature `mutants`.
#[cfg(feature = "mutants")]
macro_rules! mutant {
    ($name:ident) => {
        $crate::mutants::Mutant::$name.is_active()
    };
}
#[cfg(not(feature = "mutants"))]
macro_rules! mutant {
    ($name:ident) => {
        false
    };
}

mod database;
mod findings;
mod folder;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
pub mod groups;
mod insist;
mod ledger;
pub mod locks;
#[cfg(feature = "mutants")]
pub mod mutants;
pub mod offsets;
pub mod rooms;
mod stores;

pub use database::RawRow;
pub use folder::FolderError;
pub use groups::Groups;
pub use ledger::{Ledger, LedgerCheck, LedgerDriver, LedgerError};
pub use locks::Locks;
pub use rooms::Rooms;
pub use stores::{
    KeyPage, KeyRange, NotInMemory, OPEN_TABLES, StoreState, StoredRecord, Stores, StoresCheck, StoresDriver,
    StoresError,
};
