//! Redis Streams: one command a record, pipelined. Its protocol is lines and bytes with their length before them.

use std::net::SocketAddr;
use std::ops::ControlFlow;

use super::{Answer, Kind, Protocol, Request, Share};
use crate::connection::Connection;
use crate::failure::Failure;
use crate::record::Record;

/// The protocol of Redis.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Redis;

/// Records in a page of a replay.
const PAGE: usize = 1_000;

impl Protocol for Redis {
    const NAME: &'static str = "redis";

    fn publish(&self, _: usize, stream: &str, records: &[Record]) -> Result<Request, Failure> {
        let mut bytes = Vec::new();
        for record in records {
            command(&mut bytes, &["XADD", stream, "*", "v", &record.value]);
        }
        Ok(Request { bytes, answers: records.len() as u32 })
    }

    fn answer(&self, bytes: &[u8]) -> Result<Option<Answer>, Failure> {
        let mut reply = Reply::default();
        let kind = if bytes.first() == Some(&b'-') { Kind::Refused } else { Kind::Done };
        Ok(reply.read(bytes, |_| {})?.then_some(Answer { bytes: reply.at, kind }))
    }

    async fn replay(
        &self,
        mut connection: Connection,
        _: SocketAddr,
        stream: &str,
        records: u64,
    ) -> Result<u64, Failure> {
        let (mut read, mut bytes, mut from) = (0, 0, "-".to_owned());
        loop {
            let mut range = Vec::new();
            command(&mut range, &["XRANGE", stream, &from, "+", "COUNT", &PAGE.to_string()]);
            connection.send(&range).await?;
            let page = entries(&mut connection).await?;
            let Some(last) = page.ids.last() else { break };
            from = format!("({last}");
            read += page.ids.len() as u64;
            bytes += page.value_bytes;
        }
        if read == records { Ok(bytes) } else { Err(Failure::Answer(format!("{read} records, not {records}"))) }
    }

    async fn group(&self, connection: &mut Connection, stream: &str, group: &str) -> Result<(), Failure> {
        let mut bytes = Vec::new();
        command(&mut bytes, &["XGROUP", "CREATE", stream, group, "0"]);
        connection.exchange(self, &Request { bytes, answers: 1 }).await
    }

    /// The ack of a batch and the lease of the next one are sent together.
    async fn work(&self, address: SocketAddr, share: Share<'_>) -> Result<u64, Failure> {
        let Share { stream, group, worker, batch } = share;
        let (worker, count) = (format!("bench-{worker}"), batch.to_string());
        let mut lease = Vec::new();
        command(&mut lease, &["XREADGROUP", "GROUP", group, &worker, "COUNT", &count, "STREAMS", stream, ">"]);
        let mut connection = Connection::open(self, address, 0).await?;
        let mut acked = 0;
        connection.send(&lease).await?;
        let mut leased = entries(&mut connection).await?;
        while !leased.ids.is_empty() {
            let mut request = Vec::new();
            let mut ack = vec!["XACK", stream, group];
            ack.extend(leased.ids.iter().map(String::as_str));
            command(&mut request, &ack);
            request.extend_from_slice(&lease);
            connection.send(&request).await?;
            connection.answers(self, 1).await?;
            acked += leased.ids.len() as u64;
            leased = entries(&mut connection).await?;
        }
        Ok(acked)
    }
}

/// A command is an array of strings.
fn command(out: &mut Vec<u8>, words: &[&str]) {
    out.extend_from_slice(format!("*{}\r\n", words.len()).as_bytes());
    for word in words {
        out.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        out.extend_from_slice(word.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
}

/// A part of a reply.
#[derive(Clone, Copy, Debug)]
enum Part<'a> {
    /// So many parts follow that belong together.
    Array,
    Text(&'a [u8]),
    /// A number, a status or nothing.
    Other,
}

/// How far a reply has been read: it goes on where it stopped when more has come.
#[derive(Debug)]
struct Reply {
    at: usize,
    missing: i64,
}

impl Default for Reply {
    fn default() -> Reply {
        Reply { at: 0, missing: 1 }
    }
}

impl Reply {
    /// Reads on; whether it is whole.
    fn read(&mut self, bytes: &[u8], mut each: impl FnMut(Part<'_>)) -> Result<bool, Failure> {
        while self.missing > 0 {
            let rest = &bytes[self.at..];
            let Some(end) = memchr::memchr(b'\n', rest) else { return Ok(false) };
            let number = || -> Result<i64, Failure> {
                let digits = std::str::from_utf8(&rest[1..end.max(2) - 1]).ok();
                digits.and_then(|digits| digits.parse().ok()).ok_or_else(|| Failure::answer(rest))
            };
            let mut length = end + 1;
            match rest[0] {
                b'*' => {
                    self.missing += number()?.max(0);
                    each(Part::Array);
                }
                b'$' if number()? >= 0 => {
                    let text = number()? as usize;
                    length += text + 2;
                    if rest.len() < length {
                        return Ok(false);
                    }
                    each(Part::Text(&rest[end + 1..end + 1 + text]));
                }
                b'$' | b'+' | b':' | b'-' => each(Part::Other),
                _ => return Err(Failure::answer(rest)),
            }
            self.missing -= 1;
            self.at += length;
        }
        Ok(true)
    }
}

/// A page of a stream.
#[derive(Debug, Default)]
struct Entries {
    ids: Vec<String>,
    value_bytes: u64,
}

/// The entries in the next reply. An entry is an array of its id, and an array of a field and its value; so a text behind
/// an array is an id if it has a dash, and one behind a text is a value. The stream's name is told by its digits.
async fn entries(connection: &mut Connection) -> Result<Entries, Failure> {
    let (mut reply, mut entries, mut behind_array) = (Reply::default(), Entries::default(), false);
    connection
        .read(|bytes| {
            if bytes.first() == Some(&b'-') {
                return Err(Failure::answer(bytes));
            }
            let whole = reply.read(bytes, |part| {
                match part {
                    Part::Text(text) if behind_array && is_id(text) => {
                        entries.ids.push(String::from_utf8_lossy(text).into_owned());
                    }
                    Part::Text(text) if !behind_array => entries.value_bytes += text.len() as u64,
                    _ => {}
                }
                behind_array = matches!(part, Part::Array);
            })?;
            Ok(if whole { (reply.at, ControlFlow::Break(())) } else { (0, ControlFlow::Continue(())) })
        })
        .await?;
    Ok(entries)
}

fn is_id(text: &[u8]) -> bool {
    text.first().is_some_and(u8::is_ascii_digit) && text.contains(&b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_is_read_as_it_comes() {
        let text = b"*1\r\n*2\r\n$7\r\nbench-0\r\n*1\r\n*2\r\n$3\r\n1-0\r\n*2\r\n$1\r\nv\r\n$4\r\nab\r\n\r\n:1\r\n";
        for cut in 0..text.len() - 4 {
            let mut reply = Reply::default();
            assert!(!reply.read(&text[..cut], |_| {}).unwrap(), "{cut}");
            let mut texts = 0;
            assert!(reply.read(text, |part| texts += i32::from(matches!(part, Part::Text(_)))).unwrap());
            assert_eq!(reply.at, text.len() - 4);
        }
        let error = Redis.answer(b"-ERR no\r\n").unwrap().unwrap();
        assert_eq!((error.bytes, error.kind), (9, Kind::Refused));
        assert_eq!(Redis.answer(b"$-1\r\n").unwrap().unwrap().bytes, 5);
    }
}
