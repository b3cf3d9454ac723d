//! What a contender is told, and where its answers end. Each protocol is written by hand, as thin as it can be: on a
//! machine that also runs the server, what a client library takes would be taken from the server.
//!
//! | file | contender |
//! |---|---|
//! | [`http`] | what those over HTTP share |
//! | [`tlog`], [`durable_streams`], [`s2`], [`nchan`] | over HTTP |
//! | [`redis`], [`nats`] | over protocols of their own |
//! | [`bare`] | a server that does nothing |

pub(crate) mod bare;
pub(crate) mod durable_streams;
pub(crate) mod http;
pub(crate) mod nats;
pub(crate) mod nchan;
pub(crate) mod redis;
pub(crate) mod s2;
pub(crate) mod tlog;

use std::net::SocketAddr;

use crate::connection::Connection;
use crate::failure::Failure;
use crate::record::Record;

/// Bytes to send, and how many answers they have.
#[derive(Clone, Debug, Default)]
pub(crate) struct Request {
    pub(crate) bytes: Vec<u8>,
    pub(crate) answers: u32,
}

/// What stands at the front of what has come.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Answer {
    /// How long it is.
    pub(crate) bytes: usize,
    pub(crate) kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// What was asked is done.
    Done,
    /// It is not.
    Refused,
    /// Not an answer to anything.
    Aside,
}

/// A share of a group's work.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Share<'a> {
    pub(crate) stream: &'a str,
    pub(crate) group: &'a str,
    /// The worker's number.
    pub(crate) worker: usize,
    /// Records in a lease, and in an ack.
    pub(crate) batch: usize,
}

/// A contender's protocol.
pub(crate) trait Protocol: Copy + Send + 'static {
    /// What it is called in messages.
    const NAME: &'static str;

    /// What a follower has read once it will see all that is published from then on.
    const FOLLOWED: &'static str = "\r\n\r\n";

    /// What a connection begins with. The index is the connection's own.
    fn hello(&self, index: usize) -> Request {
        _ = index;
        Request::default()
    }

    /// What has to be made once, before all streams.
    fn set_up(&self) -> Option<Request> {
        None
    }

    /// Makes a stream, where that is not done by publishing to it.
    fn create(&self, stream: &str) -> Option<Request> {
        _ = stream;
        None
    }

    /// Publishes records durably, as far as the contender can.
    fn publish(&self, connection: usize, stream: &str, records: &[Record]) -> Result<Request, Failure>;

    /// Publishes a record to those who follow. Its value is text, and must come out as it went in.
    fn publish_live(&self, connection: usize, stream: &str, record: &Record) -> Result<Request, Failure> {
        self.publish(connection, stream, std::slice::from_ref(record))
    }

    /// The answer at the front of what has come, once it is whole.
    fn answer(&self, bytes: &[u8]) -> Result<Option<Answer>, Failure>;

    /// What a follower sends.
    fn follow(&self, stream: &str) -> Result<Vec<u8>, Failure> {
        _ = stream;
        unsupported::<Self, _>("follow")
    }

    /// Reads this many records from a stream's start, and says how many bytes of values they had.
    async fn replay(
        &self,
        connection: Connection,
        address: SocketAddr,
        stream: &str,
        records: u64,
    ) -> Result<u64, Failure> {
        _ = (connection, address, stream, records);
        unsupported::<Self, _>("replay")
    }

    /// Makes a group that begins at the stream's start.
    async fn group(&self, connection: &mut Connection, stream: &str, group: &str) -> Result<(), Failure> {
        _ = (connection, stream, group);
        unsupported::<Self, _>("work")
    }

    /// Takes records and acks them until none are left, and says how many were acked.
    async fn work(&self, address: SocketAddr, share: Share<'_>) -> Result<u64, Failure> {
        _ = (address, share);
        unsupported::<Self, _>("work")
    }

    /// Waits until the server has taken in all acks, where it does not answer each.
    async fn settled(&self, connection: &mut Connection, stream: &str, group: &str) -> Result<(), Failure> {
        _ = (connection, stream, group);
        Ok(())
    }
}

fn unsupported<P: Protocol, T>(what: &str) -> Result<T, Failure> {
    Err(Failure::Arguments(format!("{} can't be asked to {what}", P::NAME)))
}
