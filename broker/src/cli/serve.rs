//! `tlog serve`: the broker.

use std::io::{self, IsTerminal};
use std::net::SocketAddr;
use std::num::NonZero;
use std::path::PathBuf;

use broker::{Server, ServerConfig, partitions_for};
use clap::{Args, ValueEnum};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use super::error::CliError;
use super::signals::Signals;

/// What the environment says of what is to be logged, such as `debug` or `info,tlog=debug`.
const LOG_VARIABLE: &str = "TLOG_LOG";

/// The status of a process that was ended by a second signal, as a shell has it for SIGINT.
const INTERRUPTED: i32 = 130;

#[derive(Args, Clone, Debug)]
pub(crate) struct ServeArgs {
    /// The data folder; made where it is missing
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Where to listen; port 0 takes a free one
    #[arg(long, default_value = "127.0.0.1:7256", value_name = "ADDR")]
    listen: SocketAddr,
    /// Partitions of a data folder that is being made: a power of two up to 256 (if not given half as many as there
    /// are cores, at most 16). A folder that exists keeps its own
    #[arg(long, value_name = "N")]
    partitions: Option<u16>,
    /// Size of a segment file
    #[arg(long, value_name = "BYTES")]
    segment_bytes: Option<u64>,
    /// Connections that are served at once; more wait to be accepted
    #[arg(long, value_name = "N")]
    max_connections: Option<usize>,
    /// An origin whose pages may call the broker from a browser, such as `https://example.org`, or `*`
    /// for all; may be repeated. None may if not given
    #[arg(long = "cors-origin", value_name = "ORIGIN")]
    cors_origins: Vec<String>,
    /// How log lines look. What is logged stands in TLOG_LOG, such as debug or info,tlog=debug
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

pub(crate) async fn run(args: ServeArgs) -> Result<(), CliError> {
    start_logging(args.log_format);
    let mut config = ServerConfig::new(args.listen, args.data);
    config.cors_origins = args.cors_origins;
    let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
    config.log.partitions = args.partitions.unwrap_or(partitions_for(cores));
    config.log.segment_bytes = args.segment_bytes.unwrap_or(config.log.segment_bytes);
    config.max_connections = args.max_connections.unwrap_or(config.max_connections);
    // From here on a signal is heard, even while a large folder is being opened.
    let shutdown = shutdown_on_signal()?;
    let server = Server::bind(config).await?;
    tracing::info!("listening on http://{}", server.local_addr());
    Ok(server.run(shutdown).await?)
}

fn start_logging(format: LogFormat) {
    let filter = EnvFilter::builder().with_default_directive(LevelFilter::INFO.into()).with_env_var(LOG_VARIABLE);
    let logging = tracing_subscriber::fmt().with_env_filter(filter.from_env_lossy()).with_writer(io::stderr);
    match format {
        LogFormat::Text => logging.with_ansi(io::stderr().is_terminal()).init(),
        LogFormat::Json => logging.json().init(),
    }
}

/// Cancelled by the first SIGTERM or SIGINT; the second one ends the process at once, which loses
/// nothing that was acknowledged.
fn shutdown_on_signal() -> Result<CancellationToken, CliError> {
    let mut signals = Signals::listen()?;
    let shutdown = CancellationToken::new();
    let token = shutdown.clone();
    tokio::spawn(async move {
        loop {
            signals.next().await;
            if token.is_cancelled() {
                std::process::exit(INTERRUPTED);
            }
            tracing::info!("stopping: what is in flight is finished first; a second signal stops at once");
            token.cancel();
        }
    });
    Ok(shutdown)
}
