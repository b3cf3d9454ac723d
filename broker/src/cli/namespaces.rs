//! `tlog namespaces`: what there is.

use std::pin::pin;

use clap::Args;
use futures::TryStreamExt;

use super::connect::Broker;
use super::error::CliError;
use super::output;

#[derive(Args, Clone, Debug)]
pub(crate) struct NamespacesArgs {
    #[command(flatten)]
    broker: Broker,
    /// Only names that begin so
    #[arg(long, default_value = "")]
    prefix: String,
}

/// Prints a namespace a line, in the order of names: records, bytes, name.
pub(crate) async fn run(args: NamespacesArgs) -> Result<(), CliError> {
    let client = args.broker.client()?;
    let mut pages = pin!(client.namespaces(&args.prefix).try_ready_chunks(1000));
    let mut titled = args.broker.json;
    while let Some(page) = pages.try_next().await.map_err(|error| error.1)? {
        let mut lines = String::new();
        if !std::mem::replace(&mut titled, true) {
            lines.push_str(&format!("{:>12} {:>12}  {}\n", "RECORDS", "BYTES", "NAMESPACE"));
        }
        for info in page {
            if args.broker.json {
                lines.push_str(&output::json_line(&info)?);
            } else {
                let bytes = output::bytes(info.bytes);
                lines.push_str(&format!("{:>12} {bytes:>12}  {}\n", info.next_offset, info.name));
            }
        }
        output::print(lines.as_bytes())?;
    }
    Ok(())
}
