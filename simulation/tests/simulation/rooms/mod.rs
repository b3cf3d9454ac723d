//! Rooms and subscribers in the simulation: subscribers that join and leave, connect, stall, ack and are away, and
//! others who follow keys.
//!
//! | file | what it knows |
//! |---|---|
//! | `calls.rs` | what is asked of subscribers, and whether it was done |
//! | `clients.rs` | who is connected, what it is sent, and what it must have been sent |
//! | `model.rs` | what the events in the log amount to, and for whom each record is |

mod calls;
mod clients;
mod model;

pub use self::calls::Calls;
pub use self::model::RoomsModel;
