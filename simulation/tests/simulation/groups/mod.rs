//! Consumer groups in the simulation: workers that come and go, and what they may get.
//!
//! | file | what it knows |
//! |---|---|
//! | `calls.rs` | what workers ask for, and whether they may have got what they got |
//! | `model.rs` | what the events in the log amount to, and which event may follow which |

mod calls;
mod model;

pub use self::calls::{Acked, Calls};
pub use self::model::{GroupsModel, Letter};
