//! `tlog stores`: the ring of 256.

use std::time::Duration;

use clap::Args;
use sdk::{Client, Shard, StoreInfo};

use super::connect::Broker;
use super::error::CliError;
use super::{output, progress};

/// How often a rebuild is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

#[derive(Args, Clone, Debug)]
pub(crate) struct StoresArgs {
    #[command(flatten)]
    broker: Broker,
    /// Wipe this store (0 to 255), rebuild it from the log while the others serve, and wait until
    /// that is done
    #[arg(long, value_name = "SHARD")]
    rebuild: Option<u8>,
}

/// Prints a store a line, or rebuilds one.
pub(crate) async fn run(args: StoresArgs) -> Result<(), CliError> {
    let client = args.broker.client()?;
    let json = args.broker.json;
    let text = match args.rebuild {
        Some(shard) => one(&rebuild(&client, Shard(shard)).await?, json)?,
        None => all(&client.stores().await?, json)?,
    };
    output::print(text.as_bytes())
}

fn all(stores: &[StoreInfo], json: bool) -> Result<String, CliError> {
    if json {
        return stores.iter().map(output::json_line).collect();
    }
    let mut text = format!("{:>5} {:>12} {:>12}\n", "STORE", "OBJECTS", "LAG");
    for StoreInfo { shard, objects, lag, rebuilding } in stores {
        let note = if *rebuilding { "  rebuilding" } else { "" };
        text.push_str(&format!("{shard:>5} {objects:>12} {lag:>12}{note}\n"));
    }
    let objects: u64 = stores.iter().map(|store| store.objects).sum();
    let lag = stores.iter().map(|store| store.lag).max().unwrap_or_default();
    let (objects, lag) = (output::count(objects, "object"), output::count(lag, "record"));
    text.push_str(&format!("{} stores, {objects}, the last one is {lag} behind\n", stores.len()));
    Ok(text)
}

fn one(store: &StoreInfo, json: bool) -> Result<String, CliError> {
    if json {
        return output::json_line(store);
    }
    Ok(format!("store {} is rebuilt: {}\n", store.shard, output::count(store.objects, "object")))
}

async fn rebuild(client: &Client, shard: Shard) -> Result<StoreInfo, CliError> {
    client.rebuild_store(shard).await?;
    let bar = progress::unbounded();
    loop {
        let stores = client.stores().await?;
        let Some(store) = stores.into_iter().find(|store| store.shard == shard.0) else {
            return Err(sdk::Error::Reply(format!("there is no store {shard}")).into());
        };
        if !store.rebuilding {
            bar.finish_and_clear();
            return Ok(store);
        }
        bar.set_message(format!("store {shard}: {} objects, {} records to go", store.objects, store.lag));
        bar.tick();
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}
