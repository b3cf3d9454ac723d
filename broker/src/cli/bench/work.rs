//! A group worked off by workers that do nothing with a record but ack it: what leases and acks cost.

use std::time::{Duration, Instant};

use clap::Args;
use futures::future::try_join_all;
use sdk::{Group, Leased};

use crate::cli::connect::Broker;
use crate::cli::error::CliError;
use crate::cli::output;

#[derive(Args, Clone, Debug)]
pub(crate) struct WorkBenchArgs {
    #[command(flatten)]
    broker: Broker,
    /// The namespace
    namespace: String,
    /// The group
    group: String,
    /// Workers
    #[arg(long, default_value_t = 8)]
    workers: usize,
    /// Records in a lease, and in an ack
    #[arg(long, default_value_t = 100)]
    batch: usize,
}

/// Works until there is nothing left, and tells how fast that was.
pub(crate) async fn run(args: WorkBenchArgs) -> Result<(), CliError> {
    let group = args.broker.client()?.namespace(&args.namespace)?.group(&args.group)?;
    let began = Instant::now();
    let workers = (0..args.workers).map(|number| work(&group, format!("bench-{number}"), args.batch));
    let records: u64 = try_join_all(workers).await?.into_iter().sum();
    let seconds = began.elapsed().as_secs_f64();
    let rate = records as f64 / seconds;
    let text = if args.broker.json {
        output::json_line(&serde_json::json!({ "records": records, "seconds": seconds, "records_per_s": rate }))?
    } else {
        format!("{} in {seconds:.2} s: {rate:.0} records/s\n", output::count(records, "record"))
    };
    output::print(text.as_bytes())
}

/// While a batch is being acked, the next one is leased.
async fn work(group: &Group, name: String, batch: usize) -> Result<u64, sdk::Error> {
    let mut acked = 0;
    let mut leased = group.lease(&name, batch, Duration::ZERO).await?;
    while !leased.is_empty() {
        let tokens: Vec<String> = leased.into_iter().map(|Leased { token, .. }| token).collect();
        let (settled, next) = tokio::try_join!(group.ack(&tokens), group.lease(&name, batch, Duration::ZERO))?;
        acked += settled.done;
        leased = next;
    }
    group.leave(&name).await?;
    Ok(acked)
}
