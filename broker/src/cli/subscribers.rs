//! `tlog subscribers`: the durable subscribers.

use std::pin::pin;

use clap::Args;
use futures::TryStreamExt;
use sdk::{Error, Subscriber, SubscriberState};
use serde_json::json;

use super::connect::Broker;
use super::error::CliError;
use super::output;

#[derive(Args, Clone, Debug)]
pub(crate) struct SubscribersArgs {
    #[command(flatten)]
    broker: Broker,
    /// Only this subscriber, with its rooms
    name: Option<String>,
    /// Delete it
    #[arg(long, requires = "name")]
    delete: bool,
}

/// Prints a subscriber a line, in the order of names; or one, and a room a line.
pub(crate) async fn run(args: SubscribersArgs) -> Result<(), CliError> {
    let (client, json) = (args.broker.client()?, args.broker.json);
    if let Some(name) = &args.name {
        let subscriber = client.subscriber(name)?;
        let text = if args.delete {
            subscriber.delete().await?;
            if json { output::json_line(&json!({ "deleted": true }))? } else { format!("{name} is deleted\n") }
        } else {
            let state = subscriber.state().await?;
            if json { output::json_line(&state)? } else { title() + &line(&state) + &rooms(&state) }
        };
        return output::print(text.as_bytes());
    }
    let mut names = pin!(client.subscribers());
    let mut titled = json;
    while let Some(name) = names.try_next().await? {
        let Some(state) = state(&client.subscriber(&name)?).await? else { continue };
        let title = if std::mem::replace(&mut titled, true) { String::new() } else { title() };
        let line = if json { output::json_line(&state)? } else { line(&state) };
        output::print((title + &line).as_bytes())?;
    }
    Ok(())
}

/// Nothing where it was deleted in the meantime.
async fn state(subscriber: &Subscriber) -> Result<Option<SubscriberState>, Error> {
    match subscriber.state().await {
        Ok(state) => Ok(Some(state)),
        Err(error) if error.code() == Some(sdk::Code::SubscriberNotFound) => Ok(None),
        Err(error) => Err(error),
    }
}

fn title() -> String {
    let [rooms, whole, behind, connected] = ["ROOMS", "WHOLE", "BEHIND", "CONNECTED"];
    format!("{rooms:>8} {whole:>8} {behind:>12} {connected:>9}  SUBSCRIBER\n")
}

/// How far it is behind counts what is not for it, too.
fn line(state: &SubscriberState) -> String {
    let SubscriberState { name, rooms, connected, cursors, .. } = state;
    let behind: u64 = cursors.iter().map(|cursor| cursor.head.saturating_sub(cursor.next_offset)).sum();
    let (keyed, whole, connected) = (rooms.rooms.len(), rooms.namespaces.len(), if *connected { "yes" } else { "no" });
    format!("{keyed:>8} {whole:>8} {behind:>12} {connected:>9}  {name}\n")
}

fn rooms(state: &SubscriberState) -> String {
    let mut text = format!("\n{:>12} {:>12}  NAMESPACE\n", "ACKED", "HEAD");
    for cursor in &state.cursors {
        text.push_str(&format!("{:>12} {:>12}  {}\n", cursor.next_offset, cursor.head, cursor.namespace));
    }
    text.push_str("\nFOLLOWS\n");
    for namespace in &state.rooms.namespaces {
        text.push_str(&format!("{namespace}\n"));
    }
    for room in &state.rooms.rooms {
        text.push_str(&format!("{} {}\n", room.namespace, room.key));
    }
    text
}
