//! Records, published in a closed loop.

use std::net::SocketAddr;

use clap::Args;
use futures::future::try_join_all;
use serde::Serialize;
use tokio::runtime;
use tokio::task::coop::unconstrained;

use crate::closed::{self, Seen, Sender, Span};
use crate::connection::Connection;
use crate::failure::Failure;
use crate::protocol::{Protocol, Request};
use crate::record::{Records, scramble};
use crate::report;

/// Bytes of records to make: enough for values to differ.
const POOL_BYTES: usize = 8 << 20;

/// Most requests to make, but for one a stream.
const POOL_REQUESTS: usize = 4096;

#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct PublishArgs {
    /// Connections
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// Requests in flight on each
    #[arg(long, default_value_t = 1)]
    in_flight: usize,
    /// Records in a request
    #[arg(long, default_value_t = 1)]
    batch: usize,
    /// Bytes of a record's value
    #[arg(long, default_value_t = 256)]
    record_bytes: usize,
    /// Streams to spread them over, by chance
    #[arg(long, default_value_t = 1)]
    streams: usize,
    /// Keys to draw from; 0 for records without keys
    #[arg(long, default_value_t = 0)]
    keys: u32,
    /// The streams are there: don't make them first
    #[arg(long)]
    made: bool,
    #[command(flatten)]
    span: Span,
}

#[derive(Debug, Serialize)]
struct Published {
    #[serde(flatten)]
    seen: Seen,
    records_per_second: f64,
    /// All records that were acked, also before it was measured.
    all_records: u64,
    cpu_seconds: f64,
}

/// A stream's name.
pub(crate) fn stream(index: usize) -> String {
    format!("bench-{index}")
}

/// Publishes.
pub(crate) fn run(protocol: &impl Protocol, address: SocketAddr, args: &PublishArgs) -> Result<(), Failure> {
    let runtime = runtime::Builder::new_current_thread().enable_io().build()?;
    // Nothing else runs here that a busy socket could keep waiting.
    report::print(&runtime.block_on(unconstrained(publish(protocol, address, args)))?)
}

async fn publish(protocol: &impl Protocol, address: SocketAddr, args: &PublishArgs) -> Result<Published, Failure> {
    let mut senders = Vec::with_capacity(args.connections);
    let mut records = Records::new(args.record_bytes, args.keys);
    for index in 0..args.connections {
        let connection = Connection::open(protocol, address, index).await?;
        senders.push((connection, requests(protocol, args, index, &mut records)?));
    }
    if !args.made {
        make(protocol, &mut senders, args).await?;
    }
    let cpu = report::cpu_seconds();
    let seen = closed::run(protocol, senders, args.in_flight, args.span).await?;
    Ok(Published {
        records_per_second: (seen.requests() * args.batch as u64) as f64 / seen.seconds.max(1e-9),
        all_records: seen.all_requests * args.batch as u64,
        cpu_seconds: report::cpu_seconds() - cpu,
        seen,
    })
}

/// The streams of a connection: those that no other connection has, or one if there are fewer than connections.
fn streams(args: &PublishArgs, index: usize) -> Vec<usize> {
    if args.streams < args.connections {
        return vec![index % args.streams];
    }
    (index..args.streams).step_by(args.connections).collect()
}

/// What a connection is to send, made before the clock starts.
fn requests(
    protocol: &impl Protocol,
    args: &PublishArgs,
    index: usize,
    records: &mut Records,
) -> Result<Vec<Request>, Failure> {
    let mut streams = streams(args, index);
    streams.sort_by_cached_key(|stream| scramble(*stream as u64));
    let pool = (POOL_BYTES / (args.batch * (args.record_bytes + 64))).clamp(1, POOL_REQUESTS);
    let count = streams.len().max(pool.div_ceil(args.connections));
    let one = |at: usize| {
        let batch: Vec<_> = records.by_ref().take(args.batch).collect();
        protocol.publish(index, &stream(streams[at % streams.len()]), &batch)
    };
    (0..count).map(one).collect()
}

/// Makes the streams, and has each hold a record where there are many, so that it is not their making that is measured.
async fn make(protocol: &impl Protocol, senders: &mut [Sender], args: &PublishArgs) -> Result<(), Failure> {
    if let (Some((connection, _)), Some(request)) = (senders.first_mut(), protocol.set_up()) {
        connection.exchange(protocol, &request).await?;
    }
    let made = senders.iter_mut().enumerate().map(|(index, (connection, requests))| async move {
        // Where there are fewer streams than connections, some share one, and the first of those makes it.
        let streams = if index < args.streams { streams(args, index) } else { Vec::new() };
        for request in streams.iter().filter_map(|index| protocol.create(&stream(*index))) {
            connection.exchange(protocol, &request).await?;
        }
        let touched = if args.streams > 1 { streams.len() } else { 0 };
        for request in &requests[..touched] {
            connection.exchange(protocol, request).await?;
        }
        Ok::<(), Failure>(())
    });
    try_join_all(made).await.map(drop)
}
