//! NATS: JetStream for what is stored, its core for those who only follow. Its protocol is lines, with a payload behind
//! some of them.
//!
//! One stream holds all subjects, as JetStream means it to be used.

use std::net::SocketAddr;
use std::ops::ControlFlow;

use memchr::memmem;
use serde_json::json;

use super::{Answer, Kind, Protocol, Request, Share};
use crate::connection::Connection;
use crate::failure::Failure;
use crate::record::Record;

/// The protocol of NATS.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Nats;

/// Records that a replay asks for at once. Two requests are on their way, so that the server need not wait.
const PULL: u64 = 5_000;

const CONNECT: &str =
    r#"CONNECT {"verbose":false,"pedantic":false,"headers":true,"no_responders":true,"name":"bench"}"#;

impl Protocol for Nats {
    const NAME: &'static str = "nats";
    const FOLLOWED: &'static str = "PONG\r\n";

    fn hello(&self, index: usize) -> Request {
        let bytes = format!("{CONNECT}\r\nSUB {} 1\r\nPING\r\n", inbox(index)).into_bytes();
        Request { bytes, answers: 1 }
    }

    /// The first connection asks for it.
    fn set_up(&self) -> Option<Request> {
        let stream = json!({"name": "bench", "subjects": ["s.>"], "storage": "file", "retention": "limits"});
        Some(call("$JS.API.STREAM.CREATE.bench", 0, &stream))
    }

    fn publish(&self, connection: usize, stream: &str, records: &[Record]) -> Result<Request, Failure> {
        let (subject, inbox, mut bytes) = (subject(stream), inbox(connection), Vec::new());
        for Record { value, .. } in records {
            bytes.extend_from_slice(format!("PUB {subject} {inbox} {}\r\n{value}\r\n", value.len()).as_bytes());
        }
        Ok(Request { bytes, answers: records.len() as u32 })
    }

    /// The core keeps nothing and answers nothing.
    fn publish_live(&self, _: usize, stream: &str, record: &Record) -> Result<Request, Failure> {
        let bytes = format!("PUB f.{stream} {}\r\n{}\r\n", record.value.len(), record.value).into_bytes();
        Ok(Request { bytes, answers: 0 })
    }

    fn answer(&self, bytes: &[u8]) -> Result<Option<Answer>, Failure> {
        let Some(message) = Message::parse(bytes)? else { return Ok(None) };
        let kind = match message.kind {
            Verb::Pong => Kind::Done,
            Verb::Message if memmem::find(message.payload, br#""error""#).is_none() => Kind::Done,
            Verb::Message | Verb::Status | Verb::Error => Kind::Refused,
            Verb::Aside => Kind::Aside,
        };
        Ok(Some(Answer { bytes: message.bytes, kind }))
    }

    fn follow(&self, stream: &str) -> Result<Vec<u8>, Failure> {
        Ok(format!("{CONNECT}\r\nSUB f.{stream} 1\r\nPING\r\n").into_bytes())
    }

    async fn replay(
        &self,
        mut connection: Connection,
        _: SocketAddr,
        stream: &str,
        records: u64,
    ) -> Result<u64, Failure> {
        let name = format!("replay-{}", std::process::id());
        consumer(&mut connection, stream, &name, "none").await?;
        let (mut asked, mut read, mut bytes) = (0, 0, 0);
        while read < records {
            while asked < records && asked < read + 2 * PULL {
                let count = PULL.min(records - asked);
                connection.send(&next(&name, 0, &json!({"batch": count, "expires": 30_000_000_000_u64}))).await?;
                asked += count;
            }
            let until = if asked < records { asked - PULL } else { records };
            let more = |payload: &[u8], _: Option<&str>| bytes += payload.len() as u64;
            let (count, refusal) = messages(&mut connection, until - read, more).await?;
            read += count;
            if let Some(refusal) = refusal {
                return Err(Failure::Refused(refusal));
            }
        }
        Ok(bytes)
    }

    async fn group(&self, connection: &mut Connection, stream: &str, group: &str) -> Result<(), Failure> {
        consumer(connection, stream, group, "explicit").await
    }

    /// The acks of a batch and the request for the next one are sent together. An ack is not answered: that is how
    /// JetStream's clients do it where they can.
    async fn work(&self, address: SocketAddr, share: Share<'_>) -> Result<u64, Failure> {
        let Share { group, worker, batch, .. } = share;
        let mut connection = Connection::open(self, address, worker).await?;
        let lease = next(group, worker, &json!({"batch": batch, "no_wait": true}));
        let (mut acked, mut request) = (0, lease.clone());
        loop {
            connection.send(&request).await?;
            request.clear();
            let ack = |_: &[u8], reply: Option<&str>| {
                if let Some(reply) = reply {
                    request.extend_from_slice(format!("PUB {reply} 4\r\n+ACK\r\n").as_bytes());
                }
            };
            let (count, _) = messages(&mut connection, batch as u64, ack).await?;
            if count == 0 {
                return Ok(acked);
            }
            acked += count;
            request.extend_from_slice(&lease);
        }
    }

    async fn settled(&self, connection: &mut Connection, _: &str, group: &str) -> Result<(), Failure> {
        loop {
            let info = call(&format!("$JS.API.CONSUMER.INFO.bench.{group}"), 0, &json!({}));
            connection.send(&info.bytes).await?;
            let mut settled = false;
            let read = |payload: &[u8], _: Option<&str>| {
                settled = memmem::find(payload, br#""num_ack_pending":0"#).is_some();
            };
            if let (_, Some(refusal)) = messages(connection, 1, read).await? {
                return Err(Failure::Refused(refusal));
            }
            if settled {
                return Ok(());
            }
        }
    }
}

fn inbox(index: usize) -> String {
    format!("_INBOX.bench.{index}")
}

fn subject(stream: &str) -> String {
    format!("s.{stream}")
}

/// A call of JetStream's interface.
fn call(subject: &str, index: usize, body: &serde_json::Value) -> Request {
    let body = body.to_string();
    Request { bytes: format!("PUB {subject} {} {}\r\n{body}\r\n", inbox(index), body.len()).into_bytes(), answers: 1 }
}

/// Asks for the next records.
fn next(consumer: &str, index: usize, body: &serde_json::Value) -> Vec<u8> {
    call(&format!("$JS.API.CONSUMER.MSG.NEXT.bench.{consumer}"), index, body).bytes
}

async fn consumer(connection: &mut Connection, stream: &str, name: &str, acks: &str) -> Result<(), Failure> {
    let config = json!({
        "durable_name": name, "ack_policy": acks, "deliver_policy": "all", "max_ack_pending": 100_000,
        "filter_subject": subject(stream), "replay_policy": "instant",
    });
    let body = json!({"stream_name": "bench", "config": config});
    connection.exchange(&Nats, &call(&format!("$JS.API.CONSUMER.DURABLE.CREATE.bench.{name}"), 0, &body)).await
}

/// Reads up to `count` messages, fewer where a status says that there are no more; gives that, too.
async fn messages(
    connection: &mut Connection,
    count: u64,
    mut each: impl FnMut(&[u8], Option<&str>),
) -> Result<(u64, Option<String>), Failure> {
    let mut read = 0;
    connection
        .read(|bytes| {
            let mut at = 0;
            while read < count {
                let Some(message) = Message::parse(&bytes[at..])? else {
                    return Ok((at, ControlFlow::Continue(())));
                };
                at += message.bytes;
                match message.kind {
                    Verb::Message => {
                        each(message.payload, message.reply);
                        read += 1;
                    }
                    Verb::Status => {
                        let status = String::from_utf8_lossy(message.payload).into_owned();
                        return Ok((at, ControlFlow::Break(Some(status))));
                    }
                    Verb::Error => return Err(Failure::answer(bytes)),
                    Verb::Pong | Verb::Aside => {}
                }
            }
            Ok((at, ControlFlow::Break(None)))
        })
        .await
        .map(|status| (read, status))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verb {
    Message,
    /// A message that has headers, which here only a refusal has.
    Status,
    Pong,
    Error,
    Aside,
}

/// What the server has said.
#[derive(Debug)]
struct Message<'a> {
    kind: Verb,
    bytes: usize,
    reply: Option<&'a str>,
    payload: &'a [u8],
}

impl<'a> Message<'a> {
    /// The message at the front, once it is whole.
    fn parse(bytes: &'a [u8]) -> Result<Option<Message<'a>>, Failure> {
        let Some(end) = memchr::memchr(b'\n', bytes) else { return Ok(None) };
        let bad = || Failure::answer(bytes);
        let line = std::str::from_utf8(&bytes[..end]).map_err(|_| bad())?.trim_end();
        let mut words = line.split(' ');
        let kind = match words.next() {
            Some("MSG") => Verb::Message,
            Some("HMSG") => Verb::Status,
            Some("PONG") => Verb::Pong,
            Some("-ERR") => Verb::Error,
            Some("INFO" | "PING" | "+OK") => Verb::Aside,
            _ => return Err(bad()),
        };
        if !matches!(kind, Verb::Message | Verb::Status) {
            return Ok(Some(Message { kind, bytes: end + 1, reply: None, payload: &bytes[..end] }));
        }
        // subject, subscription, perhaps a reply's subject, the headers' length where there are any, the length.
        let words: Vec<&str> = words.collect();
        let lengths = if kind == Verb::Status { 2 } else { 1 };
        let length: usize = words.last().and_then(|length| length.parse().ok()).ok_or_else(bad)?;
        let reply = (words.len() == 3 + lengths).then(|| words[2]);
        let whole = end + 1 + length + 2;
        let payload = bytes.get(end + 1..whole).map(|payload| &payload[..length]);
        Ok(payload.map(|payload| Message { kind, bytes: whole, reply, payload }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_known_once_it_is_whole() {
        let text = b"MSG _INBOX.bench.0 1 $JS.ACK.a 5\r\nhello\r\n";
        for cut in 0..text.len() {
            assert!(Message::parse(&text[..cut]).unwrap().is_none());
        }
        let message = Message::parse(text).unwrap().unwrap();
        assert_eq!((message.reply, message.payload, message.bytes), (Some("$JS.ACK.a"), &b"hello"[..], text.len()));
        let status = b"HMSG _INBOX.bench.0 1 28 28\r\nNATS/1.0 404 No Messages\r\n\r\n\r\n";
        assert_eq!(Message::parse(status).unwrap().unwrap().kind, Verb::Status);
        assert_eq!(Nats.answer(b"PONG\r\n").unwrap().unwrap().kind, Kind::Done);
    }
}
