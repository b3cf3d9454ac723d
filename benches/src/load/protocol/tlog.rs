//! TLog: one record is a plain body, a batch is an encoded one. An empty HTTP server is asked the same.
//!
//! A replay goes through TLog's own client, which verifies it: every checksum, offset and id, and the chain.

use std::net::SocketAddr;

use bytes::Buf;
use memchr::memmem;
use serde::Serialize;
use wire::{DraftBuilder, NewRecord};

use super::{Answer, Protocol, Request, Share, http};
use crate::connection::Connection;
use crate::failure::Failure;
use crate::record::Record;

/// TLog's interface.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tlog;

impl Protocol for Tlog {
    const NAME: &'static str = "tlog";

    fn publish(&self, _: usize, stream: &str, records: &[Record]) -> Result<Request, Failure> {
        match records {
            [Record { key: None, value }] => Ok(post(stream, "application/octet-stream", value.as_bytes())),
            records => Ok(post(stream, wire::FRAMES_MEDIA_TYPE, &batch(records)?)),
        }
    }

    fn publish_live(&self, _: usize, stream: &str, record: &Record) -> Result<Request, Failure> {
        Ok(post(stream, "text/plain", record.value.as_bytes()))
    }

    fn answer(&self, bytes: &[u8]) -> Result<Option<Answer>, Failure> {
        http::answer(bytes)
    }

    fn follow(&self, stream: &str) -> Result<Vec<u8>, Failure> {
        let path = format!("/v1/namespaces/{stream}/events?from=end");
        Ok(http::request("GET", &path, "accept: text/event-stream\r\n", b"").bytes)
    }

    fn create(&self, stream: &str) -> Option<Request> {
        Some(http::request("PUT", &format!("/v1/namespaces/{stream}"), "", b""))
    }

    async fn replay(&self, _: Connection, address: SocketAddr, stream: &str, records: u64) -> Result<u64, Failure> {
        let client = sdk::Client::new(&format!("http://{address}"))?;
        let mut rebuild = client.namespace(stream)?.rebuild();
        let (mut bytes, mut read) = (0, 0);
        while let Some(frame) = rebuild.next().await? {
            for record in frame.records() {
                bytes += record.value.len() as u64;
                read += 1;
            }
        }
        let proof = rebuild.finish().await?;
        if read != records || proof.next_offset != records {
            return Err(Failure::Answer(format!("{read} records, not {records}")));
        }
        Ok(bytes)
    }

    async fn group(&self, connection: &mut Connection, stream: &str, group: &str) -> Result<(), Failure> {
        let path = format!("/v1/namespaces/{stream}/groups/{group}");
        connection.exchange(self, &http::request("PUT", &path, "", b"")).await
    }

    /// While a batch is being acked, the next one is leased: two connections.
    async fn work(&self, address: SocketAddr, share: Share<'_>) -> Result<u64, Failure> {
        let Share { stream, group, worker, batch } = share;
        let path = format!("/v1/namespaces/{stream}/groups/{group}");
        let lease = format!(r#"{{"worker":"bench-{worker}","max":{batch}}}"#);
        let lease = http::request("POST", &format!("{path}/lease"), JSON, lease.as_bytes());
        let ack = format!("{path}/ack");
        let mut leases = Connection::open(self, address, worker).await?;
        let mut acks = Connection::open(self, address, worker).await?;
        let mut acked = 0;
        leases.send(&lease.bytes).await?;
        let mut tokens = leased(&mut leases).await?;
        while tokens.count > 0 {
            let request = http::request("POST", &ack, JSON, tokens.json.as_bytes());
            acks.send(&request.bytes).await?;
            leases.send(&lease.bytes).await?;
            acked += tokens.count;
            let settled = acks.answers(self, 1);
            (_, tokens) = futures::try_join!(settled, leased(&mut leases))?;
        }
        Ok(acked)
    }
}

const JSON: &str = "content-type: application/json\r\n";

fn post(stream: &str, media_type: &str, body: &[u8]) -> Request {
    http::request("POST", &format!("/v1/namespaces/{stream}/records"), &format!("content-type: {media_type}\r\n"), body)
}

fn batch(records: &[Record]) -> Result<Vec<u8>, Failure> {
    let to_failure = |error: wire::DraftError| Failure::Arguments(error.to_string());
    let mut builder = DraftBuilder::with_capacity(records.iter().map(|record| record.value.len() + 64).sum());
    for Record { key, value } in records {
        let record = NewRecord::bytes(value.as_bytes());
        builder.push(&key.as_deref().map_or(record, |key| record.with_key(key))).map_err(to_failure)?;
    }
    Ok(builder.finish().map_err(to_failure)?.encode())
}

/// Tokens of leases, as the body of an ack.
#[derive(Debug, Default)]
struct Tokens {
    json: String,
    count: u64,
}

#[derive(Serialize)]
struct Ack<'a> {
    tokens: Vec<&'a str>,
}

/// The tokens in the next answer.
async fn leased(connection: &mut Connection) -> Result<Tokens, Failure> {
    loop {
        if let Some((body, length)) = http::body(&connection.buffer)? {
            let mark = br#""token":""#;
            let token = |at| {
                let token = &body[at + mark.len()..];
                let end = memchr::memchr(b'"', token)?;
                std::str::from_utf8(&token[..end]).ok()
            };
            let tokens: Vec<&str> = memmem::find_iter(body, mark).filter_map(token).collect();
            let count = tokens.len() as u64;
            let tokens = Tokens { json: serde_json::to_string(&Ack { tokens })?, count };
            connection.buffer.advance(length);
            return Ok(tokens);
        }
        connection.fill().await?;
    }
}
