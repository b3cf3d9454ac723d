//! `tlog lock`: runs a command while a lock is held, or says who holds it.

use std::ffi::OsString;
use std::io::{self, IsTerminal};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use clap::Args;
use rustix::process::{Pid, Signal, kill_process_group};
use sdk::{Error, HeldLock, Lock};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::connect::Broker;
use super::error::CliError;
use super::output;
use super::signals::Signals;

/// How long a command that is to end may take, before it is killed.
const GRACE: Duration = Duration::from_secs(5);

/// What tells the command its fencing token.
const TOKEN: &str = "TLOG_LOCK_TOKEN";

#[derive(Args, Clone, Debug)]
pub(crate) struct LockArgs {
    #[command(flatten)]
    broker: Broker,
    /// The lock
    name: String,
    /// How long the lock stays held if this process dies: 500ms, 30s, 5m
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = time)]
    ttl: Duration,
    /// How long to wait for it, behind those that came before
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = time)]
    wait: Duration,
    /// What the owner calls itself, and nobody else does; if not set, a name with host and process id
    #[arg(long)]
    owner: Option<String>,
    /// The command, and its arguments; without one, it is said who holds the lock
    #[arg(last = true, value_name = "CMD")]
    command: Vec<OsString>,
}

/// Runs the command while the lock is held.
pub(crate) async fn run(args: LockArgs) -> Result<(), CliError> {
    let [program, arguments @ ..] = &*args.command else { return show(&args).await };
    let mut signals = Signals::listen()?;
    let lock = args.broker.patient_client()?.lock(&args.name)?;
    let owner = match args.owner {
        Some(owner) => owner,
        None => own_name()?,
    };
    let asked = lock.acquire().owner(owner).ttl(args.ttl).wait(args.wait).ask();
    let held = tokio::select! {
        held = asked => held?,
        () = signals.next() => return Err(CliError::Interrupted),
    };
    // A terminal stops what reads from it and is not of its own group.
    let stdin = if io::stdin().is_terminal() { Stdio::null() } else { Stdio::inherit() };
    let child = Command::new(program)
        .args(arguments)
        .env(TOKEN, held.token().to_string())
        .stdin(stdin)
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| CliError::io(program.display().to_string(), error));
    let status = match child {
        Ok(child) => run_to_end(child, &held, &mut signals).await,
        Err(error) => Err(error),
    };
    let token = held.token();
    let released = held.release().await;
    let status = status?;
    if args.broker.json {
        let code = status.code();
        let line = serde_json::json!({ "name": &*args.name, "token": token, "status": code });
        output::print(output::json_line(&line)?.as_bytes())?;
    }
    if !status.success() {
        return Err(CliError::Command(status));
    }
    Ok(released?)
}

/// Waits for the command. It is ended when the lock is lost, or this process is told to end: with all that it
/// has started.
async fn run_to_end(mut child: Child, held: &HeldLock, signals: &mut Signals) -> Result<ExitStatus, CliError> {
    let group = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
    let waited = |error| CliError::io("waiting for the command", error);
    let send = |signal| {
        // One that has ended by itself is no failure.
        let _sent = group.map(|group| kill_process_group(group, signal));
    };
    let lost = tokio::select! {
        status = child.wait() => return status.map_err(waited),
        () = held.lost() => true,
        () = signals.next() => false,
    };
    send(Signal::TERM);
    let status = tokio::select! {
        status = timeout(GRACE, child.wait()) => status.ok(),
        () = signals.next() => None,
    };
    let status = match status {
        Some(status) => status,
        None => {
            send(Signal::KILL);
            child.wait().await
        }
    };
    let status = status.map_err(waited)?;
    if lost { Err(CliError::LockLost(held.name().to_string())) } else { Ok(status) }
}

/// Prints who holds the lock.
async fn show(args: &LockArgs) -> Result<(), CliError> {
    let lock: Lock = args.broker.client()?.lock(&args.name)?;
    let state = lock.state().await?;
    if args.broker.json {
        return output::print(output::json_line(&state)?.as_bytes());
    }
    let text = match state {
        Some(state) => {
            let waiting = output::count(state.waiting, "owner");
            format!("held by {} with token {} until {}; {waiting} waiting\n", state.owner, state.token, state.expires)
        }
        None => "free\n".to_owned(),
    };
    output::print(text.as_bytes())
}

/// A name that no other process has: the numbers of processes come again.
fn own_name() -> Result<String, CliError> {
    let random = getrandom::u32().map_err(|error| Error::NoRandomness(error.to_string()))?;
    let system = rustix::system::uname();
    let host: String = system.nodename().to_string_lossy().chars().filter(|c| !c.is_control()).take(64).collect();
    Ok(format!("{host}-{}-{random:08x}", std::process::id()))
}

fn time(text: &str) -> Result<Duration, String> {
    let time: jiff::SignedDuration = text.parse().map_err(|error: jiff::Error| error.to_string())?;
    Duration::try_from(time).map_err(|_| "it is negative".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_people_write_them() {
        for (text, millis) in [("500ms", 500), ("30s", 30_000), ("5m", 300_000), ("1h 30m", 5_400_000), ("0s", 0)] {
            assert_eq!(time(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for bad in ["", "30", "-1s", "soon"] {
            assert!(time(bad).is_err(), "{bad}");
        }
    }
}
