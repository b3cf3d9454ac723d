//! `load`: the generator of the comparisons. One loop drives every contender; what differs is a protocol's bytes.
//!
//! | module | what it knows |
//! |---|---|
//! | [`protocol`] | a contender's requests, and where its answers end: one file each, no I/O |
//! | [`connection`] | a socket and what it has read |
//! | [`record`] | the bytes of the records: the same for all |
//! | [`closed`] | a closed loop: so many connections, so many requests in flight |
//! | [`publish`], [`request`] | what is sent in it: records, or one HTTP request after the other |
//! | [`follow`], [`stamp`] | publishers and followers: deliveries, and the time from one to the other |
//! | [`replay`], [`work`] | all records of a stream; a group of workers |
//! | [`bare`], [`limits`] | servers that do nothing but what the kernel asks for; memory and loopback |
//! | [`report`] | what was seen, as a line of JSON |

mod bare;
mod closed;
mod connection;
mod failure;
mod follow;
mod limits;
mod protocol;
mod publish;
mod record;
mod replay;
mod report;
mod request;
mod stamp;
mod work;

use std::net::SocketAddr;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};

use failure::Failure;
use protocol::bare::Bare;
use protocol::durable_streams::DurableStreams;
use protocol::nats::Nats;
use protocol::nchan::Nchan;
use protocol::redis::Redis;
use protocol::s2::S2;
use protocol::tlog::Tlog;

/// Puts load on TLog or on one of its peers, and says in a line of JSON what came of it.
#[derive(Parser, Debug)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// Whom to speak to, and how.
#[derive(Args, Clone, Copy, Debug)]
struct Target {
    /// What the server speaks
    #[arg(long, value_enum)]
    protocol: Name,
    /// Where it listens
    #[arg(long)]
    address: SocketAddr,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Name {
    Tlog,
    DurableStreams,
    S2,
    Redis,
    Nats,
    Nchan,
    Bare,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Publish in a closed loop
    Publish {
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        args: publish::PublishArgs,
    },
    /// Send one HTTP request after the other, each with another number in its path
    Request {
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        args: request::RequestArgs,
    },
    /// Publish to streams that are followed
    Follow {
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        args: follow::FollowArgs,
    },
    /// Follow, and do nothing until standard input ends
    Hold {
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        args: follow::HoldArgs,
    },
    /// Read all of a stream
    Replay {
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        args: replay::ReplayArgs,
    },
    /// Share all of a stream out among workers that only ack
    Work {
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        args: work::WorkArgs,
    },
    /// What memory and loopback can do, for records of this size
    Limits(limits::LimitsArgs),
    /// A server that writes what is published to all who follow, and no more
    BareServer,
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("load: {failure}");
            ExitCode::FAILURE
        }
    }
}

/// Calls `$run` with the target's protocol, which is a type of its own each.
macro_rules! with_protocol {
    ($target:expr, $args:expr, $run:path) => {
        match $target.protocol {
            Name::Tlog => $run(&Tlog, $target.address, &$args),
            Name::DurableStreams => $run(&DurableStreams, $target.address, &$args),
            Name::S2 => $run(&S2, $target.address, &$args),
            Name::Redis => $run(&Redis, $target.address, &$args),
            Name::Nats => $run(&Nats, $target.address, &$args),
            Name::Nchan => $run(&Nchan, $target.address, &$args),
            Name::Bare => $run(&Bare, $target.address, &$args),
        }
    };
}

fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Publish { target, args } => with_protocol!(target, args, publish::run),
        Command::Request { target, args } => request::run(target.address, &args),
        Command::Follow { target, args } => with_protocol!(target, args, follow::run),
        Command::Hold { target, args } => with_protocol!(target, args, follow::hold),
        Command::Replay { target, args } => with_protocol!(target, args, replay::run),
        Command::Work { target, args } => with_protocol!(target, args, work::run),
        Command::Limits(args) => limits::run(&args),
        Command::BareServer => bare::serve(),
    }
}
