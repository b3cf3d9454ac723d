//! The broker: TLog's log and stores behind HTTP.
//!
//! | module | what it knows |
//! |---|---|
//! | `config` | what a server is told when it starts |
//! | `server` | listening, connections, timeouts, shutdown |
//! | `http` | the calls: what they take, do and answer |
//! | `state` | what the calls work on |
//! | `telemetry` | metrics: names, buckets, the recorder |
//! | `clock` | the machine's clock |

mod clock;
mod config;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod http;
mod server;
mod state;
mod telemetry;

pub use clock::SystemClock;
pub use config::{ServeError, ServerConfig, Timeouts, partitions_for};
pub use server::{Server, serve};
