//! `tlog group`: to make a consumer group, move it, delete it, and have its dead letters tried again.

use clap::{Args, Subcommand, ValueEnum};
use sdk::{Ensured, Group, GroupConfig, Seek, Start};
use serde_json::json;

use super::connect::Broker;
use super::error::CliError;
use super::output;

#[derive(Subcommand, Clone, Debug)]
pub(crate) enum GroupCommand {
    /// Create a group, or give the one that exists this configuration
    Create(CreateArgs),
    /// Delete a group, and what it knows of acks; the records stay
    Delete(Which),
    /// Have a group go on from elsewhere: it forgets its acks and failures
    Seek {
        #[command(flatten)]
        which: Which,
        /// earliest, latest, an offset, or a time such as 2026-01-31T12:00:00Z
        #[arg(value_parser = seek_to)]
        to: Seek,
    },
    /// Publish a group's dead letters once more, where they came from
    Redrive(Which),
}

/// Which group.
#[derive(Args, Clone, Debug)]
pub(crate) struct Which {
    #[command(flatten)]
    broker: Broker,
    /// The namespace
    namespace: String,
    /// The group
    group: String,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct CreateArgs {
    #[command(flatten)]
    which: Which,
    /// Which records a worker may be given: any; or those of a key one worker's at a time, in order
    #[arg(long, value_enum, default_value = "none")]
    order: Order,
    /// Where the group begins: earliest, latest or an offset
    #[arg(long, default_value = "earliest", value_parser = start_at)]
    start: Start,
    /// How long a record is a worker's, if nothing is heard of it, milliseconds
    #[arg(long, value_name = "MS", default_value_t = GroupConfig::default().lease_ms)]
    lease_ms: u64,
    /// How often a record is delivered before it is given up
    #[arg(long, value_name = "N", default_value_t = GroupConfig::default().max_deliveries)]
    max_deliveries: u32,
    /// How long a record waits that has failed once; twice as long each time after that
    #[arg(long, value_name = "MS", default_value_t = GroupConfig::default().retry.min_ms)]
    retry_min_ms: u64,
    /// The longest such wait
    #[arg(long, value_name = "MS", default_value_t = GroupConfig::default().retry.max_ms)]
    retry_max_ms: u64,
    /// The namespace that records go to which are given up
    #[arg(long, value_name = "NS")]
    dead_letter: Option<String>,
}

#[derive(ValueEnum, Clone, Copy, Debug)]
enum Order {
    None,
    Key,
}

/// Does what the command says, and tells it in a line.
pub(crate) async fn run(command: GroupCommand) -> Result<(), CliError> {
    let (json, text, value) = match command {
        GroupCommand::Create(args) => {
            let group = args.which.group()?;
            let created = group.ensure(&args.config()?).await? == Ensured::Created;
            let what = if created { "created" } else { "configured" };
            (args.which.broker.json, format!("{} is {what}", group.name()), json!({ "created": created }))
        }
        GroupCommand::Delete(which) => {
            which.group()?.delete().await?;
            (which.broker.json, format!("{} is deleted", which.group), json!({ "deleted": true }))
        }
        GroupCommand::Seek { which, to } => {
            let floor = which.group()?.seek(to).await?;
            (which.broker.json, format!("{} goes on at offset {floor}", which.group), json!({ "floor": floor }))
        }
        GroupCommand::Redrive(which) => {
            let redriven = which.group()?.redrive().await?;
            let text = format!("{} published where they came from", output::count(redriven, "dead letter"));
            (which.broker.json, text, json!({ "redriven": redriven }))
        }
    };
    let line = if json { output::json_line(&value)? } else { text + "\n" };
    output::print(line.as_bytes())
}

impl Which {
    fn group(&self) -> Result<Group, CliError> {
        Ok(self.broker.client()?.namespace(&self.namespace)?.group(&self.group)?)
    }
}

impl CreateArgs {
    fn config(&self) -> Result<GroupConfig, CliError> {
        let dead_letter = self.dead_letter.as_deref().map(wire::NamespaceName::new).transpose();
        Ok(GroupConfig {
            order: match self.order {
                Order::None => sdk::Order::None,
                Order::Key => sdk::Order::Key,
            },
            start: self.start,
            lease_ms: self.lease_ms,
            max_deliveries: self.max_deliveries,
            retry: sdk::RetryWait { min_ms: self.retry_min_ms, max_ms: self.retry_max_ms },
            dead_letter: dead_letter.map_err(sdk::Error::from)?,
        })
    }
}

fn start_at(text: &str) -> Result<Start, String> {
    match text {
        "earliest" => Ok(Start::Earliest),
        "latest" => Ok(Start::Latest),
        offset => offset.parse().map(Start::At).map_err(|_| "earliest, latest or an offset".to_owned()),
    }
}

fn seek_to(text: &str) -> Result<Seek, String> {
    match start_at(text) {
        Ok(Start::Earliest) => Ok(Seek::Earliest),
        Ok(Start::Latest) => Ok(Seek::Latest),
        Ok(Start::At(offset)) => Ok(Seek::Offset(offset)),
        Err(what) => text.parse().map(Seek::Time).map_err(|_| format!("{what}, or a time in RFC 3339")),
    }
}
