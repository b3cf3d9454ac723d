//! `tlog groups`: the consumer groups of a namespace.

use std::pin::pin;

use clap::Args;
use futures::TryStreamExt;
use sdk::{Error, Group, GroupState};

use super::connect::Broker;
use super::error::CliError;
use super::output;

#[derive(Args, Clone, Debug)]
pub(crate) struct GroupsArgs {
    #[command(flatten)]
    broker: Broker,
    /// The namespace
    namespace: String,
    /// Only this group, with its workers
    group: Option<String>,
}

/// Prints a group a line, in the order of names; or one, and a worker a line.
pub(crate) async fn run(args: GroupsArgs) -> Result<(), CliError> {
    let namespace = args.broker.client()?.namespace(&args.namespace)?;
    if let Some(group) = &args.group {
        let state = namespace.group(group)?.state().await?;
        let text =
            if args.broker.json { output::json_line(&state)? } else { title() + &line(&state) + &workers(&state) };
        return output::print(text.as_bytes());
    }
    let mut groups = pin!(namespace.groups());
    let mut titled = args.broker.json;
    while let Some(group) = groups.try_next().await? {
        let Some(state) = state(&namespace.group(&group.name)?).await? else { continue };
        let title = if std::mem::replace(&mut titled, true) { String::new() } else { title() };
        let line = if args.broker.json { output::json_line(&state)? } else { line(&state) };
        output::print((title + &line).as_bytes())?;
    }
    Ok(())
}

/// Nothing where it was deleted in the meantime.
async fn state(group: &Group) -> Result<Option<GroupState>, Error> {
    match group.state().await {
        Ok(state) => Ok(Some(state)),
        Err(error) if error.code() == Some(sdk::Code::GroupNotFound) => Ok(None),
        Err(error) => Err(error),
    }
}

fn title() -> String {
    let [floor, lag, behind, flight] = ["FLOOR", "LAG", "BEHIND", "IN FLIGHT"];
    let [delivered, again, dead, workers] = ["DELIVERED", "AGAIN", "DEAD", "WORKERS"];
    format!("{floor:>12} {lag:>10} {behind:>9} {flight:>9} {delivered:>10} {again:>8} {dead:>6} {workers:>7}  GROUP\n")
}

fn line(state: &GroupState) -> String {
    let GroupState { name, floor, lag, in_flight, delivered, redelivered, dead_lettered, full, workers, .. } = state;
    let held_up = if *full { "  (full: nothing more goes out until a record is settled)" } else { "" };
    let (records, behind, workers) = (lag.records, format!("{:.1} s", lag.seconds), workers.len());
    format!(
        "{floor:>12} {records:>10} {behind:>9} {in_flight:>9} {delivered:>10} {redelivered:>8} {dead_lettered:>6} \
         {workers:>7}  {name}{held_up}\n"
    )
}

fn workers(state: &GroupState) -> String {
    if state.workers.is_empty() {
        return String::new();
    }
    let mut text = format!("\n{:>9}  {:<24} WORKER\n", "IN FLIGHT", "SEEN");
    for worker in &state.workers {
        text.push_str(&format!("{:>9}  {:<24} {}\n", worker.in_flight, worker.seen, worker.name));
    }
    text
}
