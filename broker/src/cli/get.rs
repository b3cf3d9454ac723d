//! `tlog get`: the latest value of a key.

use clap::Args;
use sdk::Kind;

use super::connect::Broker;
use super::error::CliError;
use super::output;

#[derive(Args, Clone, Debug)]
pub(crate) struct GetArgs {
    #[command(flatten)]
    broker: Broker,
    /// The namespace
    namespace: String,
    /// The key
    key: String,
    /// Wait until the store has seen this offset, such as that of a record just published
    #[arg(long, value_name = "OFFSET")]
    min_offset: Option<u64>,
}

/// Prints the value, as it was published: with a line end if it is text or JSON. `--json` prints the
/// whole record.
pub(crate) async fn run(args: GetArgs) -> Result<(), CliError> {
    let namespace = args.broker.client()?.namespace(&args.namespace)?;
    let Some(record) = namespace.latest(&args.key, args.min_offset).await? else {
        return Err(CliError::NoValue(args.key));
    };
    if args.broker.json {
        return output::print(format!("{}\n", record.json_line()?).as_bytes());
    }
    let mut value = record.value.to_vec();
    if record.kind != Kind::Bytes {
        value.push(b'\n');
    }
    output::print(&value)
}
