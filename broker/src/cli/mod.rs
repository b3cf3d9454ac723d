//! The command line.
//!
//! | file | command |
//! |---|---|
//! | [`serve`] | the broker |
//! | [`publish`], [`lines`] | publish lines |
//! | [`tail`] | follow a namespace |
//! | [`rebuild`] | all of a namespace, with proof |
//! | [`get`] | the latest value of a key |
//! | [`namespaces`], [`stores`], [`groups`], [`subscribers`] | what there is |
//! | [`group`], [`work`] | consumer groups: to change one, to work in one |
//! | [`lock`] | a command that runs while a lock is held |
//! | [`subscribe`] | to be a durable subscriber |
//! | [`check`], [`repair`] | a data folder, verified offline; what is damaged, made whole |
//! | [`mod@bench`], [`health`] | load; whether a broker answers |
//! | [`connect`], [`error`], [`output`], [`progress`], [`signals`] | what they share |
//!
//! Results go to stdout, all else to stderr. An error is one line and a status of 1; a misspelled
//! command line has a status of 2; a check that finds nothing lost, but something derived that is wrong, 3.

mod bench;
mod check;
mod connect;
mod error;
mod get;
mod group;
mod groups;
mod health;
mod lines;
mod lock;
mod namespaces;
mod output;
mod progress;
mod publish;
mod rebuild;
mod repair;
mod serve;
mod signals;
mod stores;
mod subscribe;
mod subscribers;
mod tail;
mod work;

use std::future::Future;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};

use connect::Broker;
use error::CliError;

/// A durable append-only log and pub/sub broker.
#[derive(Parser, Debug)]
#[command(name = "tlog", version, propagate_version = true, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Run the broker
    ///
    /// Serves until SIGTERM or SIGINT, which finishes what is in flight; a second one stops at once. An
    /// acknowledged record is durable in either case.
    Serve(serve::ServeArgs),
    /// Publish lines from a file or stdin, each stored once
    ///
    /// Each line is a JSON value, and the value of a record; blank lines are left out. Lines are gathered
    /// into batches and sent as they come; what could not be sent is sent again, and stored once. A
    /// line that is broken is named, and what stands before it is stored.
    Publish(publish::PublishArgs),
    /// Follow a namespace: a record in JSON a line
    ///
    /// Goes on by itself behind the last record when the broker was away, until it is interrupted or
    /// nobody reads what it prints.
    Tail(tail::TailArgs),
    /// Read a whole namespace from the log, and prove that it is all there
    ///
    /// Verifies every checksum, offset and id, makes the chain anew from the bytes, and compares it with
    /// the broker's. Goes on where the connection broke.
    Rebuild(rebuild::RebuildArgs),
    /// Print the latest value of a key
    ///
    /// As it was published, with a line end behind text and JSON; --json prints the whole record.
    Get(get::GetArgs),
    /// List the namespaces
    Namespaces(namespaces::NamespacesArgs),
    /// Show the 256 stores, or rebuild one
    Stores(stores::StoresArgs),
    /// List the consumer groups of a namespace, or show one with its workers
    Groups(groups::GroupsArgs),
    /// Create, move or delete a consumer group
    #[command(subcommand)]
    Group(group::GroupCommand),
    /// Work in a consumer group: give each record to a command
    ///
    /// The command reads the record, a line of JSON, from stdin. If it ends with status 0 the record is done;
    /// with any other it is delivered again later, or becomes a dead letter, with the last line that the
    /// command wrote to stderr as its error. SIGTERM or SIGINT waits for the commands that run; a second
    /// one kills them.
    Work(work::WorkArgs),
    /// Run a command while a lock is held, or say who holds it
    ///
    /// The command gets the fencing token in TLOG_LOCK_TOKEN: every later holder has a higher one. Its status is that
    /// of this process. It is a process group of its own, does not read from the terminal, and is ended when the
    /// lock is lost: the broker could not be reached in time, or someone else has released it.
    Lock(lock::LockArgs),
    /// List the durable subscribers, or show one with its rooms, or delete it
    Subscribers(subscribers::SubscribersArgs),
    /// Be a durable subscriber: print what it missed, and then what comes
    ///
    /// With --room or --namespace the subscriber is created, or follows these from now on and no others;
    /// without, it must exist. A record in JSON a line, acked when it is printed: what is acked is not printed
    /// again, whoever subscribes by this name next.
    Subscribe(subscribe::SubscribeArgs),
    /// Verify a data folder: every CRC, offset, id and chain, and all that is derived
    ///
    /// Changes nothing. The status is 0 where all is as it must be (losses that a repair has marked are named),
    /// 1 where something of the log is lost, and 3 where only what is derived is wrong: it can be made again.
    Check(check::CheckArgs),
    /// Make a damaged data folder whole: mark what is lost, make the rest again
    ///
    /// Destroys nothing: what is replaced is moved to aside/ in the data folder. Readers of a namespace that has
    /// lost records are told which; all others are what they were. The status is 0 where the folder is whole
    /// then.
    Repair(repair::RepairArgs),
    /// Put load on a broker and measure it
    Bench {
        #[command(flatten)]
        broker: Broker,
        #[command(flatten)]
        args: bench::BenchArgs,
    },
    /// The server that does nothing, for bench --baseline
    #[command(name = bench::empty::COMMAND, hide = true)]
    BenchEmptyServer,
    /// Ask whether a broker is alive
    Health {
        #[command(flatten)]
        broker: Broker,
        #[command(flatten)]
        args: health::HealthArgs,
    },
}

/// How long the broker waits, once it has stopped, for tasks that hold a database: one that is still in use when the
/// process ends is torn down under their feet, and RocksDB aborts.
const TASKS_END: Duration = Duration::from_secs(10);

/// Parses the command line and does what it says.
pub(crate) fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read stdout has seen enough.
        Err(error) if error.is_closed_pipe() => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tlog: {error}");
            error.status()
        }
    }
}

fn run(command: Command) -> Result<(), CliError> {
    match command {
        Command::Serve(args) => in_runtime_until(serve::run(args), TASKS_END),
        Command::Publish(args) => in_runtime(publish::run(args)),
        Command::Tail(args) => in_runtime(tail::run(args)),
        Command::Rebuild(args) => in_runtime(rebuild::run(args)),
        Command::Get(args) => in_runtime(get::run(args)),
        Command::Namespaces(args) => in_runtime(namespaces::run(args)),
        Command::Stores(args) => in_runtime(stores::run(args)),
        Command::Groups(args) => in_runtime(groups::run(args)),
        Command::Group(command) => in_runtime(group::run(command)),
        Command::Work(args) => in_runtime(work::run(args)),
        Command::Lock(args) => in_runtime(lock::run(args)),
        Command::Subscribers(args) => in_runtime(subscribers::run(args)),
        Command::Subscribe(args) => in_runtime(subscribe::run(args)),
        Command::Check(args) => check::run(&args),
        Command::Repair(args) => repair::run(&args),
        Command::Bench { broker, args } => Ok(bench::run(&args, &broker.url, broker.json)?),
        Command::BenchEmptyServer => in_runtime(bench::empty::serve()),
        Command::Health { broker, args } => Ok(health::run(&args, &broker.url)?),
    }
}

fn in_runtime(command: impl Future<Output = Result<(), CliError>>) -> Result<(), CliError> {
    // A read of stdin can't be interrupted, and need not be waited for.
    in_runtime_until(command, Duration::ZERO)
}

/// Waits so long for tasks that are left when the command is done.
fn in_runtime_until(command: impl Future<Output = Result<(), CliError>>, tasks_end: Duration) -> Result<(), CliError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|source| CliError::io("starting", source))?;
    let done = runtime.block_on(command);
    runtime.shutdown_timeout(tasks_end);
    done
}
