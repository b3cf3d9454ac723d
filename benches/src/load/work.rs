//! A group whose workers do nothing with a record but ack it: what leases and acks cost.

use std::net::SocketAddr;
use std::time::Instant;

use clap::Args;
use futures::future::try_join_all;
use serde::Serialize;
use tokio::runtime;

use crate::connection::Connection;
use crate::failure::Failure;
use crate::protocol::{Protocol, Share};
use crate::publish::stream;
use crate::report;

#[derive(Args, Clone, Debug)]
pub(crate) struct WorkArgs {
    /// The group, which is made
    #[arg(long)]
    group: String,
    /// Workers, each with a connection
    #[arg(long, default_value_t = 8)]
    workers: usize,
    /// Records in a lease, and in an ack
    #[arg(long, default_value_t = 100)]
    batch: usize,
    /// How many records there are
    #[arg(long)]
    records: u64,
}

#[derive(Debug, Serialize)]
struct Worked {
    records: u64,
    seconds: f64,
    records_per_second: f64,
    cpu_seconds: f64,
}

/// Works until nothing is left; every record must have been acked once.
pub(crate) fn run(protocol: &impl Protocol, address: SocketAddr, args: &WorkArgs) -> Result<(), Failure> {
    let runtime = runtime::Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(async {
        let stream = stream(0);
        let mut connection = Connection::open(protocol, address, 0).await?;
        protocol.group(&mut connection, &stream, &args.group).await?;
        let (began, cpu) = (Instant::now(), report::cpu_seconds());
        let share = |worker| Share { stream: &stream, group: &args.group, worker, batch: args.batch };
        let workers = (1..=args.workers).map(|worker| protocol.work(address, share(worker)));
        let records: u64 = try_join_all(workers).await?.into_iter().sum();
        protocol.settled(&mut connection, &stream, &args.group).await?;
        let seconds = began.elapsed().as_secs_f64();
        if records != args.records {
            return Err(Failure::Answer(format!("{records} of {} records were acked", args.records)));
        }
        let records_per_second = records as f64 / seconds;
        report::print(&Worked { records, seconds, records_per_second, cpu_seconds: report::cpu_seconds() - cpu })
    })
}
