//! S2 over HTTP: appends in protobuf, one at a time on a connection; a replay as one session of framed protobuf.

use std::net::SocketAddr;
use std::ops::ControlFlow;

use bytes::{Buf, BytesMut};

use super::{Answer, Protocol, Request, http};
use crate::connection::Connection;
use crate::failure::Failure;
use crate::record::Record;

/// The protocol of S2.
#[derive(Clone, Copy, Debug)]
pub(crate) struct S2;

const APPEND: &str = "s2-basin: benchmark\r\ncontent-type: application/protobuf\r\naccept: application/protobuf\r\n";
const SESSION: &str = "s2-basin: benchmark\r\ncontent-type: s2s/proto\r\n";

impl Protocol for S2 {
    const NAME: &'static str = "s2";

    fn create(&self, stream: &str) -> Option<Request> {
        let headers = "s2-basin: benchmark\r\ncontent-type: application/json\r\n";
        Some(http::request("PUT", &format!("/v1/streams/{stream}"), headers, b"{}"))
    }

    fn publish(&self, _: usize, stream: &str, records: &[Record]) -> Result<Request, Failure> {
        let mut body = Vec::with_capacity(records.iter().map(|record| record.value.len() + 16).sum());
        for record in records {
            let mut append = Vec::with_capacity(record.value.len() + 8);
            field(&mut append, 3, record.value.as_bytes());
            field(&mut body, 1, &append);
        }
        Ok(http::request("POST", &format!("/v1/streams/{stream}/records"), APPEND, &body))
    }

    fn answer(&self, bytes: &[u8]) -> Result<Option<Answer>, Failure> {
        http::answer(bytes)
    }

    async fn replay(
        &self,
        mut connection: Connection,
        _: SocketAddr,
        stream: &str,
        records: u64,
    ) -> Result<u64, Failure> {
        let path = format!("/v1/streams/{stream}/records?seq_num=0&count={records}");
        connection.send(&http::request("GET", &path, SESSION, b"").bytes).await?;
        let (mut read, mut bytes, mut buffer) = (0, 0, BytesMut::new());
        let done = http::read_body(&mut connection, |piece| {
            buffer.extend_from_slice(piece);
            while let Some(message) = frame(&buffer)? {
                each_record(&buffer[4..message], |value| {
                    read += 1;
                    bytes += value.len() as u64;
                });
                buffer.advance(message);
            }
            Ok(if read == records { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        })
        .await?;
        match done {
            Some(()) => Ok(bytes),
            None => Err(Failure::Answer(format!("{read} records, not {records}"))),
        }
    }
}

/// How long the frame at the front is, once it is whole: a length of three bytes, flags, a message.
fn frame(bytes: &[u8]) -> Result<Option<usize>, Failure> {
    let [a, b, c, flags, ..] = bytes else { return Ok(None) };
    let length = 3 + u32::from_be_bytes([0, *a, *b, *c]) as usize;
    if bytes.len() < length {
        return Ok(None);
    }
    match flags & 0b1110_0000 {
        0 => Ok(Some(length)),
        _ => Err(Failure::answer(&bytes[4..length])),
    }
}

/// The body of each record in a batch.
fn each_record(batch: &[u8], mut value: impl FnMut(&[u8])) {
    fields(batch, |number, record| {
        if number == 1 {
            fields(record, |number, body| {
                if number == 4 {
                    value(body);
                }
            });
        }
    });
}

/// Writes a field of bytes.
fn field(out: &mut Vec<u8>, number: u8, bytes: &[u8]) {
    out.push(number << 3 | 2);
    let mut length = bytes.len();
    while length >= 0x80 {
        out.push(length as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
    out.extend_from_slice(bytes);
}

/// Reads fields: of numbers and of bytes, which are all that there are here.
fn fields<'a>(mut bytes: &'a [u8], mut each: impl FnMut(u64, &'a [u8])) {
    while let Some((tag, rest)) = varint(bytes) {
        let Some((length, rest)) = varint(rest) else { return };
        let length = if tag & 7 == 2 { length as usize } else { 0 };
        let Some((body, rest)) = rest.split_at_checked(length) else { return };
        each(tag >> 3, body);
        bytes = rest;
    }
}

fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0;
    for (index, byte) in bytes.iter().enumerate().take(10) {
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Some((value, &bytes[index + 1..]));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_of_a_batch_are_found() {
        let (mut batch, mut values) = (Vec::new(), Vec::new());
        for value in ["one", &"x".repeat(300)] {
            let mut record = vec![1 << 3, 0x96, 0x01];
            field(&mut record, 4, value.as_bytes());
            field(&mut batch, 1, &record);
        }
        each_record(&batch, |value| values.push(value.len()));
        assert_eq!(values, [3, 300]);
    }
}
