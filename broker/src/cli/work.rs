//! `tlog work`: a worker that gives each record to a command.

use std::ffi::OsString;
use std::io;
use std::pin::pin;
use std::process::Stdio;
use std::sync::Arc;

use clap::Args;
use sdk::Leased;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::Command;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::connect::Broker;
use super::error::CliError;
use super::output;
use super::signals::Signals;

/// How much is kept of a line that a command writes to stderr, bytes.
const LINE_BYTES: u64 = 8 << 10;

#[derive(Args, Clone, Debug)]
pub(crate) struct WorkArgs {
    #[command(flatten)]
    broker: Broker,
    /// The namespace
    namespace: String,
    /// The group
    group: String,
    /// Most commands that run at once
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1000))]
    concurrency: u16,
    /// What the worker calls itself; if not set, a random name
    #[arg(long)]
    name: Option<String>,
    /// The command, and its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<OsString>,
}

/// Runs until it is told to end, or can't go on. Lives through restarts of the broker.
pub(crate) async fn run(args: WorkArgs) -> Result<(), CliError> {
    let mut signals = Signals::listen()?;
    let group = args.broker.patient_client()?.namespace(&args.namespace)?.group(&args.group)?;
    let (broken, mut breaks) = mpsc::channel(1);
    let command = Arc::new(args.command);
    let kill = CancellationToken::new();
    let killed = kill.clone();
    let mut builder = group.worker().concurrency(args.concurrency.into());
    if let Some(name) = args.name {
        builder = builder.name(name);
    }
    let mut worker = builder
        .start(move |leased| {
            let (command, broken, killed) = (Arc::clone(&command), broken.clone(), killed.clone());
            async move {
                let done = tokio::select! {
                    done = work(&command, &leased) => done,
                    () = killed.cancelled() => Err(Failed::Record("the worker was told to stop at once".to_owned())),
                };
                done.map_err(|failed| match failed {
                    Failed::Record(why) => why,
                    Failed::Command(error) => {
                        let why = format!("{}: {error}", command[0].display());
                        // One is enough.
                        drop(broken.try_send(error));
                        why
                    }
                })
            }
        })
        .await?;
    let broken = tokio::select! {
        ended = worker.ended() => return Ok(ended.map(drop)?),
        error = breaks.recv() => error,
        () = signals.next() => None,
    };
    let mut drained = pin!(worker.drain());
    let worked = loop {
        tokio::select! {
            worked = &mut drained => break worked?,
            // Told twice: what runs is killed, and has failed.
            () = signals.next() => kill.cancel(),
        }
    };
    if let Some(error) = broken {
        return Err(CliError::io("the command can't be run", error));
    }
    if args.broker.json {
        let (acked, failed, lapsed) = (worked.acked, worked.failed, worked.lapsed);
        let line = output::json_line(&serde_json::json!({ "acked": acked, "failed": failed, "lapsed": lapsed }))?;
        return output::print(line.as_bytes());
    }
    eprintln!("tlog: {} done, {} failed", output::count(worked.acked, "record"), worked.failed);
    Ok(())
}

/// Why a record is not done.
enum Failed {
    /// The command has failed on it.
    Record(String),
    /// The command can't be run at all.
    Command(io::Error),
}

/// Runs the command on a record. It is in a process group of its own, so that a Ctrl-C in the terminal lets
/// it finish; and it is killed where its lease ends before it does.
async fn work(command: &[OsString], leased: &Leased) -> Result<(), Failed> {
    let line = leased.record.json_line().map_err(|error| Failed::Record(error.to_string()))?;
    let [program, arguments @ ..] = command else { return Ok(()) };
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(Failed::Command)?;
    let (stdin, stderr) = (child.stdin.take(), child.stderr.take());
    let write = async {
        let Some(mut stdin) = stdin else { return };
        // A command may end without having read all: its status says whether that was right.
        if stdin.write_all(line.as_bytes()).await.is_ok() {
            drop(stdin.write_all(b"\n").await);
        }
    };
    let last = async {
        match stderr {
            Some(stderr) => pass_on(stderr).await,
            None => String::new(),
        }
    };
    let ((), last) = tokio::join!(write, last);
    let status = child.wait().await.map_err(|error| Failed::Record(error.to_string()))?;
    if status.success() {
        return Ok(());
    }
    Err(Failed::Record(if last.is_empty() { status.to_string() } else { last }))
}

/// Passes what a command writes to stderr on, a line at a time, and answers the last one.
async fn pass_on(stderr: impl AsyncRead + Unpin) -> String {
    let mut stderr = BufReader::new(stderr);
    let mut last = String::new();
    let mut line = Vec::new();
    loop {
        line.clear();
        match (&mut stderr).take(LINE_BYTES).read_until(b'\n', &mut line).await {
            Ok(1..) => {}
            Ok(0) | Err(_) => return last,
        }
        let text = String::from_utf8_lossy(&line);
        let text = text.trim_end();
        eprintln!("{text}");
        if !text.is_empty() {
            text.clone_into(&mut last);
        }
    }
}
