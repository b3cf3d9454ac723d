//! One keep-alive HTTP/1.1 connection, one request at a time. It reads of an answer what a load
//! generator needs, its status and its length, so that the generator's own cost stays small beside
//! that of the server on the same cores.

use std::io;
use std::net;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Most headers of an answer.
const MAX_HEADERS: usize = 64;

/// Largest answer, bytes: the ids of a full batch, with room.
const MAX_ANSWER_BYTES: usize = 1 << 20;

/// A connection that is not in the middle of anything.
#[derive(Debug)]
pub(super) struct Connection {
    stream: TcpStream,
    buffer: BytesMut,
}

/// An answer.
#[derive(Debug)]
pub(super) struct Answer {
    /// Its status.
    pub(super) status: u16,
    /// Its body, if that says what went wrong.
    pub(super) refusal: Option<Bytes>,
}

impl Connection {
    /// Takes a connected socket; inside of a runtime.
    pub(super) fn new(stream: net::TcpStream) -> io::Result<Connection> {
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        Ok(Connection { stream: TcpStream::from_std(stream)?, buffer: BytesMut::with_capacity(16 << 10) })
    }

    /// Sends a request and reads its answer.
    pub(super) async fn exchange(&mut self, head: &[u8], body: &[u8]) -> io::Result<Answer> {
        self.stream.write_all_buf(&mut Buf::chain(head, body)).await?;
        loop {
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the server closed the connection"));
            }
            if let Some((status, head_bytes, body_bytes)) = parse(&self.buffer)? {
                if self.buffer.len() >= head_bytes + body_bytes {
                    return Ok(self.take(status, head_bytes, body_bytes));
                }
                self.buffer.reserve(head_bytes + body_bytes - self.buffer.len());
            }
        }
    }

    fn take(&mut self, status: u16, head_bytes: usize, body_bytes: usize) -> Answer {
        self.buffer.advance(head_bytes);
        let refusal = if (200..300).contains(&status) {
            self.buffer.advance(body_bytes);
            None
        } else {
            Some(self.buffer.split_to(body_bytes).freeze())
        };
        Answer { status, refusal }
    }
}

/// Status, bytes of the head and bytes of the body, once the head is whole.
fn parse(bytes: &[u8]) -> io::Result<Option<(u16, usize, usize)>> {
    let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what);
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    let head_bytes = match response.parse(bytes).map_err(|error| invalid(&error.to_string()))? {
        httparse::Status::Complete(head_bytes) => head_bytes,
        httparse::Status::Partial if bytes.len() > MAX_ANSWER_BYTES => {
            return Err(invalid("the answer's head is too long"));
        }
        httparse::Status::Partial => return Ok(None),
    };
    let length = response
        .headers
        .iter()
        .find(|header| header.name.eq_ignore_ascii_case("content-length"))
        .and_then(|header| std::str::from_utf8(header.value).ok()?.parse().ok())
        .ok_or_else(|| invalid("the answer does not say its length"))?;
    if length > MAX_ANSWER_BYTES {
        return Err(invalid("the answer is too long"));
    }
    Ok(Some((response.code.unwrap_or_default(), head_bytes, length)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_known_once_its_head_is_whole() {
        let text = b"HTTP/1.1 429 Too Many Requests\r\ncontent-length: 2\r\n\r\nno";
        for cut in 0..text.len() - 2 {
            assert!(parse(&text[..cut]).unwrap().is_none());
        }
        assert_eq!(parse(text).unwrap(), Some((429, text.len() - 2, 2)));
        assert!(parse(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
        assert!(parse(b"SSH-2.0-x\r\n\r\n").is_err());
    }
}
