//! One thread that publishes, a record at a time.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use hdrhistogram::Histogram;

use super::{FollowArgs, Traffic};
use crate::connection::text;
use crate::failure::Failure;
use crate::protocol::{Kind, Protocol, Request};
use crate::publish::stream;
use crate::record::{Record, Records};
use crate::report::histogram;
use crate::stamp::{self, STAMP_BYTES};

/// Longest silence of a server.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A connection, and the requests that it sends in turn.
#[derive(Debug)]
pub(super) struct Publisher<P> {
    protocol: P,
    index: usize,
    args: FollowArgs,
    socket: TcpStream,
    /// What has come and was not taken.
    answers: Vec<u8>,
    /// Each with the place of its stamp.
    requests: Vec<(Request, usize)>,
}

impl<P: Protocol> Publisher<P> {
    /// Connects, and makes its streams.
    pub(super) fn open(protocol: P, address: SocketAddr, index: usize, args: &FollowArgs) -> Result<Self, Failure> {
        let socket = TcpStream::connect(address)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(TIMEOUT))?;
        let mut publisher =
            Publisher { protocol, index, args: *args, socket, answers: Vec::new(), requests: Vec::new() };
        publisher.exchange(&protocol.hello(index))?;
        let streams = match args.streams < args.publishers {
            true => vec![index % args.streams],
            false => (index..args.streams).step_by(args.publishers).collect(),
        };
        let mut records = Records::new(args.record_bytes.saturating_sub(STAMP_BYTES), 0);
        for name in streams.into_iter().map(stream) {
            if let Some(create) = protocol.create(&name) {
                publisher.exchange(&create)?;
            }
            let Some(Record { key, value }) = records.next() else { continue };
            let record = Record { key, value: value + &stamp::blank() };
            let request = protocol.publish_live(index, &name, &record)?;
            let at = stamp::place(&request.bytes).ok_or_else(|| Failure::Answer("no stamp".to_owned()))?;
            publisher.requests.push((request, at));
        }
        Ok(publisher)
    }

    /// Publishes until the end, and gives the latencies of the acks.
    pub(super) fn run(mut self, traffic: &Traffic) -> Result<Histogram<u64>, Failure> {
        let mut acks = histogram();
        let mut requests = std::mem::take(&mut self.requests);
        for turn in 0.. {
            let due = self.due(traffic, turn);
            if due >= traffic.end {
                break;
            }
            let at = turn as usize % requests.len();
            let (request, stamp) = &mut requests[at];
            stamp::write(&mut request.bytes, *stamp, due);
            self.exchange(request)?;
            if due >= traffic.measured_from {
                acks.saturating_record(traffic.now() - due);
            }
        }
        Ok(acks)
    }

    /// Waits until the next record is due, counts it, and says when that was.
    fn due(&self, traffic: &Traffic, turn: u64) -> u64 {
        let Some(rate) = self.args.rate else {
            traffic.enter(self.args.window);
            return traffic.now();
        };
        let turn = turn * self.args.publishers as u64 + self.index as u64;
        let due = (turn as f64 * 1e9 / rate) as u64;
        if due < traffic.end {
            traffic.sleep_until(due);
            traffic.published.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
        due
    }

    fn exchange(&mut self, request: &Request) -> Result<(), Failure> {
        self.socket.write_all(&request.bytes)?;
        let mut missing = request.answers;
        while missing > 0 {
            match self.protocol.answer(&self.answers)? {
                None => {
                    let mut more = [0; 4096];
                    match self.socket.read(&mut more)? {
                        0 => return Err(Failure::Answer("the server closed the connection".to_owned())),
                        read => self.answers.extend_from_slice(&more[..read]),
                    }
                }
                Some(answer) => {
                    match answer.kind {
                        Kind::Refused => return Err(Failure::Refused(text(&self.answers))),
                        Kind::Done => missing -= 1,
                        Kind::Aside => {}
                    }
                    self.answers.drain(..answer.bytes);
                }
            }
        }
        Ok(())
    }
}
