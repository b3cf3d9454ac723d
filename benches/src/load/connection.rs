//! A socket and what it has read. Requests go out, answers come back in order; there may be many on the way.

use std::net::SocketAddr;
use std::ops::ControlFlow;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::failure::Failure;
use crate::protocol::{Kind, Protocol, Request};

/// Bytes to make room for before each read.
const READ_BYTES: usize = 64 << 10;

/// A socket and what it has read.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    /// What has come and was not taken.
    pub(crate) buffer: BytesMut,
}

impl Connection {
    /// Connects, and says what a connection of this protocol begins with. `index` is the connection's own.
    pub(crate) async fn open(
        protocol: &impl Protocol,
        address: SocketAddr,
        index: usize,
    ) -> Result<Connection, Failure> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let mut connection = Connection { stream, buffer: BytesMut::with_capacity(READ_BYTES) };
        connection.exchange(protocol, &protocol.hello(index)).await?;
        Ok(connection)
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        Ok(self.stream.write_all(bytes).await?)
    }

    /// Reads what is there, at least a byte.
    pub(crate) async fn fill(&mut self) -> Result<(), Failure> {
        self.buffer.reserve(READ_BYTES);
        match self.stream.read_buf(&mut self.buffer).await? {
            0 => Err(Failure::Answer("the server closed the connection".to_owned())),
            _ => Ok(()),
        }
    }

    /// Sends a request and waits for all its answers; each must be what was asked for.
    pub(crate) async fn exchange(&mut self, protocol: &impl Protocol, request: &Request) -> Result<(), Failure> {
        self.send(&request.bytes).await?;
        self.answers(protocol, request.answers).await
    }

    /// Waits for this many answers.
    pub(crate) async fn answers(&mut self, protocol: &impl Protocol, count: u32) -> Result<(), Failure> {
        let mut missing = count;
        while missing > 0 {
            match protocol.answer(&self.buffer)? {
                None => self.fill().await?,
                Some(answer) => {
                    match answer.kind {
                        Kind::Refused => return Err(Failure::Refused(text(&self.buffer[..answer.bytes]))),
                        Kind::Done => missing -= 1,
                        Kind::Aside => {}
                    }
                    self.buffer.advance(answer.bytes);
                }
            }
        }
        Ok(())
    }

    /// Gives what comes to `take`, which says how many bytes it has taken, until it breaks off.
    pub(crate) async fn read<T>(
        &mut self,
        mut take: impl FnMut(&[u8]) -> Result<(usize, ControlFlow<T>), Failure>,
    ) -> Result<T, Failure> {
        loop {
            let (taken, flow) = take(&self.buffer)?;
            self.buffer.advance(taken);
            match flow {
                ControlFlow::Break(value) => return Ok(value),
                ControlFlow::Continue(()) => self.fill().await?,
            }
        }
    }
}

/// The beginning of an answer, to be shown.
pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(500)]).into_owned()
}
