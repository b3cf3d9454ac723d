//! All of a stream, from its start.

use std::net::SocketAddr;
use std::time::Instant;

use clap::Args;
use serde::Serialize;
use tokio::runtime;

use crate::connection::Connection;
use crate::failure::Failure;
use crate::protocol::Protocol;
use crate::publish::stream;
use crate::report;

#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct ReplayArgs {
    /// The stream's number
    #[arg(long, default_value_t = 0)]
    stream: usize,
    /// How many records it has
    #[arg(long)]
    records: u64,
    /// Bytes of each
    #[arg(long, default_value_t = 256)]
    record_bytes: u64,
}

#[derive(Debug, Serialize)]
struct Replayed {
    records: u64,
    seconds: f64,
    records_per_second: f64,
    cpu_seconds: f64,
}

/// Reads, and fails where anything is missing.
pub(crate) fn run(protocol: &impl Protocol, address: SocketAddr, args: &ReplayArgs) -> Result<(), Failure> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let connection = Connection::open(protocol, address, 0).await?;
        let (began, cpu) = (Instant::now(), report::cpu_seconds());
        let bytes = protocol.replay(connection, address, &stream(args.stream), args.records).await?;
        let seconds = began.elapsed().as_secs_f64();
        if bytes != args.records * args.record_bytes {
            return Err(Failure::Answer(format!("{bytes} bytes of {} records", args.records)));
        }
        report::print(&Replayed {
            records: args.records,
            seconds,
            records_per_second: args.records as f64 / seconds,
            cpu_seconds: report::cpu_seconds() - cpu,
        })
    })
}
