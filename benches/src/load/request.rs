//! HTTP requests that differ in a number in their path: to read keys, and to make many of something.

use std::net::SocketAddr;

use clap::Args;
use serde::Serialize;
use tokio::runtime;
use tokio::task::coop::unconstrained;

use crate::closed::{self, Seen, Span};
use crate::connection::Connection;
use crate::failure::Failure;
use crate::protocol::{Request, http, tlog::Tlog};
use crate::record::scramble;
use crate::report;

/// Most requests to make.
const POOL_REQUESTS: u64 = 1 << 20;

#[derive(Args, Clone, Debug)]
pub(crate) struct RequestArgs {
    #[arg(long, default_value = "GET")]
    method: String,
    /// {} stands for a number, {10} for one of ten digits
    #[arg(long)]
    path: String,
    /// A body of JSON; {} as in the path
    #[arg(long, default_value = "")]
    body: String,
    /// The numbers are below this
    #[arg(long)]
    range: u64,
    /// By chance, not in turn
    #[arg(long)]
    shuffle: bool,
    #[arg(long, default_value_t = 64)]
    connections: usize,
    #[command(flatten)]
    span: Span,
}

#[derive(Debug, Serialize)]
struct Requested {
    #[serde(flatten)]
    seen: Seen,
    cpu_seconds: f64,
}

/// Sends the requests.
pub(crate) fn run(address: SocketAddr, args: &RequestArgs) -> Result<(), Failure> {
    let runtime = runtime::Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(unconstrained(async {
        let mut senders = Vec::with_capacity(args.connections);
        for index in 0..args.connections {
            let numbers =
                (index as u64..args.range.clamp(args.connections as u64, POOL_REQUESTS)).step_by(args.connections);
            let requests = numbers.map(|number| request(args, number)).collect();
            senders.push((Connection::open(&Tlog, address, index).await?, requests));
        }
        let cpu = report::cpu_seconds();
        let seen = closed::run(&Tlog, senders, 1, args.span).await?;
        report::print(&Requested { seen, cpu_seconds: report::cpu_seconds() - cpu })
    }))
}

fn request(args: &RequestArgs, number: u64) -> Request {
    let number = if args.shuffle { scramble(number) } else { number } % args.range;
    let fill = |text: &str| text.replace("{10}", &format!("{number:010}")).replace("{}", &number.to_string());
    let headers = if args.body.is_empty() { "" } else { "content-type: application/json\r\n" };
    http::request(&args.method, &fill(&args.path), headers, fill(&args.body).as_bytes())
}
