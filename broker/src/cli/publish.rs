//! `tlog publish`: a line a record.

use std::io;
use std::path::PathBuf;

use clap::Args;
use indicatif::{HumanCount, ProgressBar};
use sdk::{Code, Namespace, Progress, Publisher};
use serde::Serialize;
use tokio::fs::File;
use tokio::io::{AsyncBufRead, AsyncRead, BufReader};
use wire::limits::MAX_LINE_BYTES;

use super::connect::Broker;
use super::error::CliError;
use super::lines::{self, LineError, LineFormat};
use super::{output, progress};

/// How much of the input is read ahead.
const READ_BYTES: usize = 256 << 10;

#[derive(Args, Clone, Debug)]
pub(crate) struct PublishArgs {
    #[command(flatten)]
    broker: Broker,
    /// The namespace; made by its first record
    namespace: String,
    /// The file to read; stdin if not given, or -
    file: Option<PathBuf>,
    /// Take each record's key from this field of its JSON
    #[arg(long, value_name = "FIELD", conflicts_with_all = ["text", "records"])]
    key: Option<String>,
    /// A line is a text, not JSON
    #[arg(long, conflicts_with = "records")]
    text: bool,
    /// A line is a record: {"key":…,"value":…,"headers":{…}}, or what tail prints
    #[arg(long)]
    records: bool,
}

#[derive(Serialize)]
struct Published {
    records: u64,
    first_offset: u64,
    next_offset: u64,
}

/// Reads lines and publishes them; blank ones are left out.
pub(crate) async fn run(args: PublishArgs) -> Result<(), CliError> {
    let format = match (args.text, args.records) {
        (true, _) => LineFormat::Text,
        (_, true) => LineFormat::Record,
        _ => LineFormat::Json { key: args.key },
    };
    // A broker that is not there is told at once, before anything is read.
    match args.broker.client()?.namespace(&args.namespace)?.info().await {
        Err(error) if error.code() != Some(Code::NamespaceNotFound) => return Err(error.into()),
        _ => {}
    }
    let namespace = args.broker.patient_client()?.namespace(&args.namespace)?;
    let published = match args.file.filter(|file| file.as_os_str() != "-") {
        None => publish(&namespace, &format, tokio::io::stdin(), progress::unbounded()).await?,
        Some(path) => {
            let failed = |source| CliError::io(path.display().to_string(), source);
            let file = File::open(&path).await.map_err(failed)?;
            let length = file.metadata().await.map_err(failed)?.len();
            publish(&namespace, &format, file, progress::bytes(length)).await?
        }
    };
    let line = if args.broker.json {
        output::json_line(&published)?
    } else {
        let Published { records, first_offset, next_offset } = published;
        let last = next_offset.saturating_sub(1);
        format!("{} published, offsets {first_offset} to {last}\n", output::count(records, "record"))
    };
    output::print(line.as_bytes())
}

async fn publish(
    namespace: &Namespace,
    format: &LineFormat,
    input: impl AsyncRead + Unpin,
    bar: ProgressBar,
) -> Result<Published, CliError> {
    let publisher = namespace.publisher().open()?;
    let mut input = BufReader::with_capacity(READ_BYTES, input);
    let sent = send_all(&publisher, format, &mut input, &bar).await;
    bar.finish_and_clear();
    // What stood before a broken line is stored, and counted.
    let stored = publisher.flush().await;
    let known = publisher.progress().borrow().records;
    match (sent, stored) {
        (Ok(()), Ok(progress)) => published(&progress),
        (Err(Stop::Line { line, reason }), Ok(progress)) => {
            Err(CliError::Line { line, reason, stored: progress.records })
        }
        (Err(Stop::Input(source)), Ok(_)) => Err(CliError::io("the input", source)),
        (_, Err(reason)) | (Err(Stop::Publisher(reason)), _) => Err(CliError::Publish { reason, stored: known }),
    }
}

fn published(progress: &Progress) -> Result<Published, CliError> {
    match (progress.first_offset, progress.next_offset) {
        (Some(first_offset), Some(next_offset)) => {
            Ok(Published { records: progress.records, first_offset, next_offset })
        }
        _ => Err(CliError::NoRecords),
    }
}

/// Why not all lines were sent.
enum Stop {
    Line { line: u64, reason: String },
    Input(io::Error),
    Publisher(sdk::Error),
}

async fn send_all(
    publisher: &Publisher,
    format: &LineFormat,
    input: &mut (impl AsyncBufRead + Unpin),
    bar: &ProgressBar,
) -> Result<(), Stop> {
    let (mut line, mut number) = (Vec::new(), 0);
    let progress = publisher.progress();
    loop {
        number += 1;
        match lines::read_line(input, &mut line).await {
            Ok(true) => {}
            Ok(false) => return Ok(()),
            Err(LineError::Input(error)) => return Err(Stop::Input(error)),
            Err(LineError::TooLong) => {
                let reason = format!("it is over the limit of {MAX_LINE_BYTES} bytes");
                return Err(Stop::Line { line: number, reason });
            }
        }
        bar.inc(line.len() as u64 + 1);
        if !bar.is_hidden() {
            bar.set_message(format!("{} stored", HumanCount(progress.borrow().records)));
        }
        if line.trim_ascii().is_empty() {
            continue;
        }
        let record = lines::parse(format, &line).map_err(|reason| Stop::Line { line: number, reason })?;
        match publisher.send(&record.record()).await {
            Ok(_) => {}
            Err(sdk::Error::Draft(error)) => return Err(Stop::Line { line: number, reason: error.to_string() }),
            Err(error) => return Err(Stop::Publisher(error)),
        }
    }
}
