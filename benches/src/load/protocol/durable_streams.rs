//! Durable Streams over HTTP. A stream is bytes: it keeps no bounds between records, so a batch is their bytes in one
//! append, and a replay counts bytes.

use std::net::SocketAddr;
use std::ops::ControlFlow;

use super::{Answer, Protocol, Request, http};
use crate::connection::Connection;
use crate::failure::Failure;
use crate::record::Record;

/// The protocol of Durable Streams.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DurableStreams;

/// Text, so that events carry it as it is.
const TYPE: &str = "content-type: text/plain\r\n";

impl Protocol for DurableStreams {
    const NAME: &'static str = "durable-streams";
    const FOLLOWED: &'static str = "upToDate";

    fn create(&self, stream: &str) -> Option<Request> {
        Some(http::request("PUT", &format!("/{stream}"), TYPE, b""))
    }

    fn publish(&self, _: usize, stream: &str, records: &[Record]) -> Result<Request, Failure> {
        let body: String = records.iter().map(|record| record.value.as_str()).collect();
        Ok(http::request("POST", &format!("/{stream}"), TYPE, body.as_bytes()))
    }

    fn answer(&self, bytes: &[u8]) -> Result<Option<Answer>, Failure> {
        http::answer(bytes)
    }

    fn follow(&self, stream: &str) -> Result<Vec<u8>, Failure> {
        Ok(http::request("GET", &format!("/{stream}?offset=now&live=sse"), "", b"").bytes)
    }

    async fn replay(&self, mut connection: Connection, _: SocketAddr, stream: &str, _: u64) -> Result<u64, Failure> {
        connection.send(&http::request("GET", &format!("/{stream}?offset=-1"), "", b"").bytes).await?;
        let mut bytes = 0;
        http::read_body::<()>(&mut connection, |piece| {
            bytes += piece.len() as u64;
            Ok(ControlFlow::Continue(()))
        })
        .await?;
        Ok(bytes)
    }
}
