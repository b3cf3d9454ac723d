//! Rooms and durable subscribers: who follows what, and what is for whom.
//!
//! A room is a namespace and a key, or a namespace as a whole. A subscriber is in rooms, and has a cursor in each of
//! their namespaces. Who is in which room, and how far each has come, is in the log, as events; the rows are a view
//! of them. Who is connected is memory.
//!
//! ```text
//!   put, join, leave, ack ─▶ log ─▶ ledger: changes ─▶ rows ──────────────┐
//!                                     │ records                           │ where it was, what it missed
//!                                     ▼                                   ▼
//!                                    hub: one row a key ─▶ inbox ─▶ connection ─▶ parts: records to send
//! ```
//!
//! A room that nobody publishes to costs a row and no memory; a publish to one wakes those who are in it.
//!
//! | file | what it knows |
//! |---|---|
//! | `event.rs` | what happens to rooms and subscribers and must survive, byte by byte |
//! | `rows.rs` | what is kept of them, byte by byte |
//! | `changes.rs`, `pending.rs` | events become changes of rows |
//! | `runtime.rs`, `answers.rs`, `changing.rs` | what can be asked; what changes a subscriber |
//! | `sweep.rs` | when a slot is free again |
//! | `hub.rs` | who is connected, and for whom a record is |
//! | `inbox.rs` | what waits for a connection: bounded |
//! | `connection.rs` | where a connection is, and what comes next |

mod answers;
mod changes;
mod changing;
mod connection;
mod error;
mod event;
mod hub;
mod inbox;
mod pending;
mod rows;
mod runtime;
mod sweep;

pub use answers::{Cursor, Listed, Place, Room, Subscriber};
pub(crate) use changes::{Changes, Stands};
pub use connection::{Connection, Part};
pub use error::RoomsError;
#[cfg(feature = "fuzzing")]
pub(crate) use event::event_again;
pub use event::{RoomEvent, RoomEventError, Slot};
pub(crate) use hub::{Hub, Notice};
#[cfg(feature = "fuzzing")]
pub(crate) use rows::row_again;
pub(crate) use rows::set_merge;
pub use runtime::Rooms;
pub use wire::SubscriberName;
