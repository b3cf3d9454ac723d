//! `tlog tail`: follow a namespace.

use clap::Args;
use futures::StreamExt;
use sdk::{Event, StartAt};

use super::connect::Broker;
use super::error::CliError;
use super::output;

/// Most records that are printed at once, where they come faster than they are printed.
const AT_ONCE: usize = 256;

#[derive(Args, Clone, Debug)]
pub(crate) struct TailArgs {
    #[command(flatten)]
    broker: Broker,
    /// The namespace
    namespace: String,
    /// Where to begin: start, end, or an offset
    #[arg(long, default_value = "end", value_parser = start_at)]
    from: StartAt,
    /// Only records with this key; may be repeated
    #[arg(long = "key", value_name = "KEY")]
    keys: Vec<String>,
    /// End after this many records
    #[arg(long, short = 'n', value_name = "N")]
    count: Option<u64>,
}

/// Prints records until it is interrupted, or nobody reads what it prints. Lives through restarts of
/// the broker. Where records were lost it says so on stderr, and with `--json` on a line of its own too.
pub(crate) async fn run(args: TailArgs) -> Result<(), CliError> {
    let mut left = args.count.unwrap_or(u64::MAX);
    let namespace = args.broker.client()?.namespace(&args.namespace)?;
    let mut subscribe = namespace.subscribe().from(args.from);
    for key in args.keys {
        subscribe = subscribe.key(key);
    }
    let mut events = subscribe.open().await?.ready_chunks(AT_ONCE);
    while left > 0 {
        let Some(chunk) = events.next().await else { break };
        let mut lines = String::new();
        let mut failure = None;
        for event in chunk {
            match event {
                Ok(Event::Record(record)) if left > 0 => {
                    lines.push_str(&record.json_line()?);
                    lines.push('\n');
                    left -= 1;
                }
                Ok(Event::Reset(reset)) if left > 0 => {
                    eprintln!("tlog: records were lost: {}", reset.lost);
                    if args.broker.json {
                        lines.push_str(&Event::Reset(reset).json_line()?);
                        lines.push('\n');
                    }
                }
                Ok(Event::Record(_) | Event::Reset(_)) => {}
                Err(error) => failure = Some(error),
            }
        }
        output::print(lines.as_bytes())?;
        if let Some(error) = failure.filter(|_| left > 0) {
            return Err(error.into());
        }
    }
    Ok(())
}

fn start_at(text: &str) -> Result<StartAt, String> {
    match text {
        "start" => Ok(StartAt::Start),
        "end" => Ok(StartAt::End),
        offset => offset.parse().map(StartAt::Offset).map_err(|_| "start, end or an offset".to_owned()),
    }
}
