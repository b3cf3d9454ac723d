//! Locks in the simulation: owners that ask, extend, release, are late, or go away.
//!
//! | file | what it knows |
//! |---|---|
//! | `calls.rs` | what owners ask for, and whether the answer may be |
//! | `model.rs` | what the events in the log amount to, and what each owner may believe |

mod calls;
mod model;

pub use self::calls::Calls;
pub use self::model::LocksModel;
