//! Which broker to talk to, and with how much patience.

use clap::Args;
use sdk::{Backoff, Client};

use super::error::CliError;

/// What all commands that talk to a broker take.
#[derive(Args, Clone, Debug)]
pub(crate) struct Broker {
    /// The broker's address
    #[arg(long, env = "TLOG_URL", default_value = "http://127.0.0.1:7256", value_name = "URL")]
    pub(crate) url: String,
    /// Print results as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

impl Broker {
    /// A client that tries once: where the broker is not there, the command says so at once.
    pub(crate) fn client(&self) -> Result<Client, CliError> {
        Ok(Client::builder(&self.url).backoff(Backoff::NONE).build()?)
    }

    /// A client for what has begun well and is to outlive a restart of the broker.
    pub(crate) fn patient_client(&self) -> Result<Client, CliError> {
        Ok(Client::new(&self.url)?)
    }
}
