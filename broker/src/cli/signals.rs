//! SIGTERM and SIGINT: the first asks for an orderly end, the second for one at once.

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::error::CliError;

/// What is heard of both, from when they are listened for.
#[derive(Debug)]
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Listens; neither ends the process by itself any more.
    pub(crate) fn listen() -> Result<Signals, CliError> {
        let listen = |kind| signal(kind).map_err(|source| CliError::io("listening for signals", source));
        Ok(Signals { terminate: listen(SignalKind::terminate())?, interrupt: listen(SignalKind::interrupt())? })
    }

    /// Waits for the next one.
    pub(crate) async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
