//! Locks: one owner at a time, by name, over crashes too.
//!
//! ```text
//!   ask, extend, release ──▶ queue: holder · waiters ──▶ event ──▶ log
//!                              ▲                                    │ durable: its place is the token
//!                              └────────────────────────────────────┤
//!                              ▲ at a start: held for the whole time ▼
//!                              └────────────────────────────────── rows
//! ```
//!
//! Who holds a lock, under which token and for how long at most is in the log. Who waits, and when a
//! holder's time is over, is memory. After a restart a lock is its holder's for its whole time once more: so it
//! never has two holders, whatever the clock has done in between.
//!
//! | file | what it knows |
//! |---|---|
//! | `event.rs` | what happens to a lock and must survive, byte by byte |
//! | `rows.rs`, `changes.rs` | what is kept of a lock that is held, as a row; how events change it |
//! | `queue.rs` | one lock: the state machine |
//! | `live.rs` | the locks of a partition that are in memory |
//! | `runtime.rs` | what can be asked |

mod changes;
mod error;
mod event;
mod live;
mod metrics;
mod queue;
mod rows;
mod runtime;

pub(crate) use changes::Changes;
pub use error::LocksError;
pub use event::{LockEvent, LockEventError};
pub use queue::{Asked, Due, Holder, Queue, Waiter};
#[cfg(feature = "fuzzing")]
pub(crate) use rows::row_again;
pub use runtime::{Held, LockState, Locks};
pub use wire::LockName;
