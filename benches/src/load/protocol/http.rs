//! What contenders over HTTP/1.1 share: requests, where an answer ends, and bodies that come in chunks.

use std::ops::ControlFlow;

use super::{Answer, Kind, Request};
use crate::connection::{Connection, text};
use crate::failure::Failure;

/// Most headers of an answer.
const MAX_HEADERS: usize = 64;

/// How a body's end is known.
#[derive(Clone, Copy, Debug)]
enum Length {
    Bytes(usize),
    Chunked,
}

/// A request; `headers` are lines, each with its end.
pub(crate) fn request(method: &str, path: &str, headers: &str, body: &[u8]) -> Request {
    let length = match (method, body) {
        ("GET", []) => String::new(),
        (_, body) => format!("content-length: {}\r\n", body.len()),
    };
    let mut bytes = format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\n{headers}{length}\r\n").into_bytes();
    bytes.extend_from_slice(body);
    Request { bytes, answers: 1 }
}

/// The answer at the front, once it is whole.
pub(crate) fn answer(bytes: &[u8]) -> Result<Option<Answer>, Failure> {
    let Some((status, head, length)) = head(bytes)? else { return Ok(None) };
    let Length::Bytes(body) = length else {
        return Err(Failure::Answer("an answer that does not say its length".to_owned()));
    };
    let kind = if (200..300).contains(&status) { Kind::Done } else { Kind::Refused };
    Ok((bytes.len() >= head + body).then_some(Answer { bytes: head + body, kind }))
}

/// The body of the answer at the front, once it is whole, and the bytes of both. The status must be one of success.
pub(crate) fn body(bytes: &[u8]) -> Result<Option<(&[u8], usize)>, Failure> {
    match answer(bytes)? {
        None => Ok(None),
        Some(Answer { bytes: length, kind: Kind::Done }) => {
            let head = head(bytes)?.map_or(0, |(_, head, _)| head);
            Ok(Some((&bytes[head..length], length)))
        }
        Some(Answer { bytes: length, .. }) => Err(Failure::Refused(text(&bytes[..length]))),
    }
}

fn head(bytes: &[u8]) -> Result<Option<(u16, usize, Length)>, Failure> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    match response.parse(bytes) {
        Err(_) => Err(Failure::answer(bytes)),
        Ok(httparse::Status::Partial) => Ok(None),
        Ok(httparse::Status::Complete(head)) => {
            let status = response.code.unwrap_or_default();
            Ok(Some((status, head, length(status, response.headers))))
        }
    }
}

fn length(status: u16, headers: &[httparse::Header<'_>]) -> Length {
    let of = |name: &str| headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
    if status == 204 {
        return Length::Bytes(0);
    }
    match of("content-length").and_then(|header| std::str::from_utf8(header.value).ok()?.parse().ok()) {
        Some(bytes) => Length::Bytes(bytes),
        None if of("transfer-encoding").is_some() => Length::Chunked,
        None => Length::Bytes(0),
    }
}

/// Reads the body of an answer as it comes, whatever its framing. `piece` says when it has seen enough.
pub(crate) async fn read_body<T>(
    connection: &mut Connection,
    mut piece: impl FnMut(&[u8]) -> Result<ControlFlow<T>, Failure>,
) -> Result<Option<T>, Failure> {
    let (status, length) = connection
        .read(|bytes| {
            Ok(match head(bytes)? {
                None => (0, ControlFlow::Continue(())),
                Some((status, head, length)) => (head, ControlFlow::Break((status, length))),
            })
        })
        .await?;
    if status != 200 {
        return Err(Failure::Refused(format!("{status} {}", text(&connection.buffer))));
    }
    let mut left = match length {
        Length::Bytes(bytes) => bytes,
        Length::Chunked => 0,
    };
    let chunked = matches!(length, Length::Chunked);
    loop {
        if left == 0 {
            left = if chunked { connection.read(chunk).await? } else { 0 };
            if left == 0 {
                return Ok(None);
            }
        }
        let taken = |bytes: &[u8]| {
            let part = &bytes[..bytes.len().min(left)];
            if part.is_empty() {
                return Ok((0, ControlFlow::Continue(())));
            }
            let flow = piece(part)?;
            Ok((part.len(), ControlFlow::Break((part.len(), flow))))
        };
        let (bytes, flow) = connection.read(taken).await?;
        left -= bytes;
        if let ControlFlow::Break(value) = flow {
            return Ok(Some(value));
        }
    }
}

/// The head of a chunk, with the end of the one before.
fn chunk(bytes: &[u8]) -> Result<(usize, ControlFlow<usize>), Failure> {
    let begins = if bytes.starts_with(b"\r\n") { 2 } else { 0 };
    match httparse::parse_chunk_size(&bytes[begins..]) {
        Err(_) => Err(Failure::answer(bytes)),
        Ok(httparse::Status::Complete((head, size))) => Ok((begins + head, ControlFlow::Break(size as usize))),
        Ok(httparse::Status::Partial) => Ok((0, ControlFlow::Continue(()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_known_once_it_is_whole() {
        let text = b"HTTP/1.1 429 Too Many Requests\r\ncontent-length: 2\r\n\r\nno";
        for cut in 0..text.len() {
            assert!(answer(&text[..cut]).unwrap().is_none());
        }
        let whole = answer(text).unwrap().unwrap();
        assert_eq!((whole.bytes, whole.kind), (text.len(), Kind::Refused));
        let empty = answer(b"HTTP/1.1 204 No Content\r\nserver: x\r\n\r\n").unwrap().unwrap();
        assert_eq!(empty.kind, Kind::Done);
        assert!(answer(b"SSH-2.0-x\r\n\r\n").is_err());
    }

    #[test]
    fn a_chunk_begins_behind_the_end_of_the_one_before() {
        assert_eq!(chunk(b"\r\n1a\r\nxx").unwrap(), (6, ControlFlow::Break(26)));
        assert_eq!(chunk(b"\r\n1").unwrap(), (0, ControlFlow::Continue(())));
        assert_eq!(chunk(b"0\r\n\r\n").unwrap(), (3, ControlFlow::Break(0)));
    }
}
