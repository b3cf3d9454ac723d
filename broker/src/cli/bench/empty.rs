//! A server that does nothing: the cost of HTTP alone, on the same machine and with the same
//! generator. It is a process of its own, as a broker is.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};

use axum::Router;
use axum::body::Bytes;
use tokio::net::TcpListener;

use super::BenchError;
use crate::cli::error::CliError;

/// What the hidden command is called that is this server.
pub(in crate::cli) const COMMAND: &str = "bench-empty-server";

/// The server, as a child process. Ended when dropped.
#[derive(Debug)]
pub(super) struct EmptyServer {
    child: Child,
    address: SocketAddr,
}

impl EmptyServer {
    /// Starts this same binary as the server, and waits until it listens.
    pub(super) fn start() -> Result<EmptyServer, BenchError> {
        EmptyServer::spawn()
            .map_err(|source| BenchError::Io { what: "starting the server that does nothing".to_owned(), source })
    }

    fn spawn() -> io::Result<EmptyServer> {
        let mut child =
            Command::new(std::env::current_exe()?).arg(COMMAND).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        if let Some(stdout) = child.stdout.take() {
            BufReader::new(stdout).read_line(&mut line)?;
        }
        let address = line.trim().parse().map_err(|_| io::Error::other("it does not say where it listens"))?;
        Ok(EmptyServer { child, address })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for EmptyServer {
    fn drop(&mut self) {
        // It ends by itself once its standard input is closed; this only saves the wait.
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

/// The server: takes any request, reads its body, answers 200 with no body. Says on standard output where
/// it listens, and ends when its standard input does.
pub(in crate::cli) async fn serve() -> Result<(), CliError> {
    listen().await.map_err(|source| CliError::io(COMMAND, source))
}

async fn listen() -> io::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    println!("{}", listener.local_addr()?);
    io::stdout().flush()?;
    let handler = axum::routing::any(|_: Bytes| async {}).layer(axum::extract::DefaultBodyLimit::disable());
    let app = Router::new().fallback_service(handler);
    let ended = || _ = io::copy(&mut io::stdin(), &mut io::sink());
    tokio::select! {
        served = axum::serve(listener, app) => served,
        _ = tokio::task::spawn_blocking(ended) => Ok(()),
    }
}
