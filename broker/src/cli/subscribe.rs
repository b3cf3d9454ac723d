//! `tlog subscribe`: be a durable subscriber.

use clap::Args;
use futures::StreamExt;
use percent_encoding::percent_decode_str;
use sdk::{Event, RoomName, Rooms};

use super::connect::Broker;
use super::error::CliError;
use super::output;

/// Most records that are printed and acked at once, where they come faster than that is done.
const AT_ONCE: usize = 256;

#[derive(Args, Clone, Debug)]
pub(crate) struct SubscribeArgs {
    #[command(flatten)]
    broker: Broker,
    /// The subscriber's name
    name: String,
    /// Follow the records of this key, percent-encoded where namespace or key hold a / or %; may be repeated
    #[arg(long = "room", value_name = "NS/KEY", value_parser = room)]
    rooms: Vec<RoomName>,
    /// Follow a whole namespace; may be repeated
    #[arg(long = "namespace", value_name = "NS")]
    namespaces: Vec<String>,
    /// End after this many records
    #[arg(long, short = 'n', value_name = "N")]
    count: Option<u64>,
}

/// Prints records and acks them, until it is interrupted, nobody reads what it prints, or another takes over.
/// Lives through restarts of the broker. Where records were lost it says so on stderr, and with `--json` on a
/// line of its own too.
pub(crate) async fn run(args: SubscribeArgs) -> Result<(), CliError> {
    let mut left = args.count.unwrap_or(u64::MAX);
    let subscriber = args.broker.client()?.subscriber(&args.name)?;
    let rooms = Rooms { rooms: args.rooms, namespaces: args.namespaces };
    if !rooms.is_empty() {
        subscriber.put(&rooms).await?;
    }
    let mut events = subscriber.events().await?.ready_chunks(AT_ONCE);
    // Acks outlive a restart of the broker, as the stream does.
    let acks = args.broker.patient_client()?.subscriber(&args.name)?;
    while left > 0 {
        let Some(chunk) = events.next().await else { break };
        let (mut lines, mut token, mut failure) = (String::new(), None, None);
        for delivered in chunk {
            let delivered = match delivered {
                Ok(delivered) if left > 0 => delivered,
                Ok(_) => continue,
                Err(error) => {
                    failure = Some(error);
                    continue;
                }
            };
            match &delivered.event {
                Event::Record(_) => left -= 1,
                Event::Reset(reset) => eprintln!("tlog: records were lost: {}", reset.lost),
            }
            if args.broker.json || matches!(delivered.event, Event::Record(_)) {
                lines.push_str(&delivered.event.json_line()?);
                lines.push('\n');
            }
            token = Some(delivered.token);
        }
        output::print(lines.as_bytes())?;
        if let Some(token) = token {
            acks.ack(&token).await?;
        }
        if let Some(error) = failure.filter(|_| left > 0) {
            return Err(error.into());
        }
    }
    Ok(())
}

fn room(text: &str) -> Result<RoomName, String> {
    let (namespace, key) = text.split_once('/').ok_or("a namespace, a slash and a key")?;
    let decode = |part: &str| match percent_decode_str(part).decode_utf8() {
        Ok(part) => Ok(part.into_owned()),
        Err(_) => Err(format!("{part:?} is not UTF-8")),
    };
    Ok(RoomName { namespace: decode(namespace)?, key: decode(key)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_room_is_a_namespace_and_a_key() {
        let read = |text: &str| room(text).map(|room| (room.namespace, room.key));
        assert_eq!(read("orders/o-17"), Ok(("orders".into(), "o-17".into())));
        assert_eq!(read("shop%2Forders/o/17%25"), Ok(("shop/orders".into(), "o/17%".into())));
        assert!(read("orders").is_err() && read("a/%FF").is_err());
    }
}
