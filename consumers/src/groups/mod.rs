//! Consumer groups: who works on which record, and what is done.
//!
//! ```text
//!            records of the namespace                  tokens: ack, nack, extend
//!                      │ offer                                   │
//!                      ▼                                         ▼
//!   wants ◀──────── dispatch: window · timers · workers · keyed ────▶ grants
//!                      ▲                                         │ acked, failed, dead
//!                      │ acked: it is durable                    ▼
//!                      └──────────────── log ◀────────────── event
//!                                         │
//!                                         ▼
//!                                      progress: floor, bitset, attempts
//! ```
//!
//! What is leased to whom is memory, and gone at a restart: what is not acked is delivered again.
//! What is acked, how often a record has failed and what was given up is in the log, as events.
//! The upper files are pure: they read no clock, do no I/O and have no thread. The lower ones run them.
//!
//! | file | what it knows |
//! |---|---|
//! | `event.rs` | what happens to a group and must survive, byte by byte |
//! | `progress.rs` | what a group has done: floor, bitset, attempts |
//! | `dispatch.rs`, `exchange.rs` | what is leased to whom: the state machine; what it is given and answers |
//! | `intake.rs` | where to read on, and what was done before |
//! | `window.rs` | the records that are read and not settled, each in a slot |
//! | `keyed.rs` | which of them may go out next where order is by key |
//! | `deferred.rs` | what a key that is held up has left in the log, to be read again |
//! | `timers.rs` | when leases lapse and retries are due |
//! | `workers.rs` | who works, and whose the shards are |
//! | `token.rs` | what a worker shows to settle a record |
//! | `kept.rs` | what is kept of a group: a function of its events |
//! | `rows.rs` | that as rows, byte by byte |
//! | `changes.rs` | events become changes of rows |
//! | `live.rs`, `frames.rs` | a group in memory: waiting leases, events under way, frames |
//! | `runtime.rs`, `answers.rs` | what can be asked, and which groups are in memory |
//! | `janitor.rs` | what is due: lapsed leases, retries, absent workers, idle groups |
//! | `letters.rs`, `redrive.rs` | dead letters on their way, and back |
//! | `seek.rs` | where a group can be moved to |

mod answers;
mod changes;
mod deferred;
mod dispatch;
mod error;
mod event;
mod exchange;
mod frames;
mod intake;
mod janitor;
mod kept;
mod keyed;
mod letters;
mod live;
mod metrics;
mod progress;
mod redrive;
mod rows;
mod runtime;
mod seek;
mod timers;
mod token;
mod window;
mod workers;

pub(crate) use changes::Changes;
#[cfg(feature = "fuzzing")]
pub(crate) use rows::{letter_again, row_again};

pub use answers::{Ask, Configured, Done, GroupState, Leased, WorkerState};
pub use dispatch::Dispatch;
pub use error::GroupsError;
pub use event::{Dead, GroupEvent, GroupEventError, Progressed, merged};
pub use exchange::{Failures, Figures, Grant, Pending, Settled};
pub use progress::{Progress, ProgressError};
pub use runtime::Groups;
pub use seek::Seek;
pub use token::{Token, TokenError};
pub use wire::GroupName;
pub use wire::group::{GroupConfig, Order, Retry, Start};
pub use workers::{TooManyWorkers, WorkerFigures};
