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
//! All that is in here is pure: it reads no clock, does no I/O and has no thread.
//!
//! | file | what it knows |
//! |---|---|
//! | `config.rs` | what a group can be configured to do |
//! | `event.rs` | what happens to a group and must survive, byte by byte |
//! | `codec.rs` | what events and rows are made of: varints, offsets, ranges |
//! | `progress.rs` | what a group has done: floor, bitset, attempts |
//! | `dispatch.rs` | what is leased to whom: the state machine |
//! | `window.rs` | the records that are read and not settled, each in a slot |
//! | `keyed.rs` | which of them may go out next where order is by key |
//! | `timers.rs` | when leases lapse and retries are due |
//! | `workers.rs` | who works, and whose the shards are |
//! | `token.rs` | what a worker shows to settle a record |

mod codec;
mod config;
mod dispatch;
mod event;
mod keyed;
mod progress;
mod timers;
mod token;
mod window;
mod workers;

pub use config::{GroupConfig, Order, Retry, Start};
pub use dispatch::{Dispatch, Failures, Figures, Grant, Pending, Settled};
pub use event::{Dead, GroupEvent, GroupEventError, Progressed, merged};
pub use progress::{Progress, ProgressError};
pub use token::{Token, TokenError};
pub use workers::{TooManyWorkers, WorkerFigures};
