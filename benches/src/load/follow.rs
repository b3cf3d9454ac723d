//! Publishers and those who follow: deliveries a second, and the time from when a record was due to each delivery.
//!
//! Publishers are threads, each with a connection, that wait for their acks. Without a rate they go as fast as the
//! followers take: so many records at most are on their way to all. With a rate, a record is due at a fixed time,
//! whatever became of those before, and its latency counts from there.

use std::cell::{Cell, RefCell};
use std::io::{self, BufRead};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use futures::future::try_join_all;
use futures::{StreamExt, TryStreamExt, stream as futures_stream};
use hdrhistogram::Histogram;
use serde::Serialize;
use tokio::net::TcpStream;
use tokio::runtime;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::task::coop::unconstrained;

use crate::connection::{Connection, text};
use crate::failure::Failure;
use crate::protocol::{Protocol, http};
use crate::publish::stream;
use crate::report::{self, Latency, histogram};
use crate::stamp;

mod publisher;

use publisher::Publisher;

/// Bytes to read at once. One buffer serves all followers.
const READ_BYTES: usize = 256 << 10;

/// Followers that are being connected at once.
const CONNECTING: usize = 64;

/// What an HTTP server's answer to a follower begins with.
const FOLLOWS: &[u8] = b"HTTP/1.1 200";

/// How long to wait at the end for what is still on its way.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct FollowArgs {
    /// Streams
    #[arg(long, default_value_t = 1)]
    streams: usize,
    /// Followers of each
    #[arg(long, default_value_t = 1)]
    followers: usize,
    /// Connections that publish
    #[arg(long, default_value_t = 16)]
    publishers: usize,
    /// Records at most on their way
    #[arg(long, default_value_t = 64)]
    window: u64,
    /// Records a second, all publishers together; as fast as it goes without
    #[arg(long)]
    rate: Option<f64>,
    /// Bytes of a record's value
    #[arg(long, default_value_t = 256)]
    record_bytes: usize,
    /// Seconds to measure
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Seconds to publish before that, unmeasured
    #[arg(long, default_value_t = 1.0)]
    warmup: f64,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct HoldArgs {
    /// Streams
    #[arg(long, default_value_t = 1)]
    streams: usize,
    /// Followers of each
    #[arg(long)]
    followers: usize,
    /// What a follower asks for over HTTP, instead of its stream; {} stands for its number
    #[arg(long)]
    path: Option<String>,
}

#[derive(Debug, Serialize)]
struct Followed {
    seconds: f64,
    deliveries_per_second: f64,
    records_per_second: f64,
    /// From when a record was due to when a follower had read it, milliseconds; all followers'.
    delivery_ms: Latency,
    /// From when it was due to its ack.
    ack_ms: Latency,
    all_records: u64,
    all_deliveries: u64,
    /// Deliveries that should have been and were not.
    missing: u64,
    cpu_seconds: f64,
}

/// What publishers and followers share.
#[derive(Debug)]
struct Traffic {
    origin: Instant,
    measured_from: u64,
    end: u64,
    /// Followers of a stream.
    fan: u64,
    published: AtomicU64,
    delivered: AtomicU64,
    /// Publishers that wait for followers.
    waiting: AtomicU64,
    gate: Mutex<()>,
    opened: Condvar,
}

/// Publishes and follows.
pub(crate) fn run(protocol: &impl Protocol, address: SocketAddr, args: &FollowArgs) -> Result<(), Failure> {
    let runtime = runtime::Builder::new_current_thread().enable_io().build()?;
    let publishers = (0..args.publishers).map(|index| Publisher::open(*protocol, address, index, args));
    let publishers = publishers.collect::<Result<Vec<_>, _>>()?;
    let requests = (0..args.streams * args.followers).map(|index| protocol.follow(&stream(index % args.streams)));
    let followers = runtime.block_on(connect(protocol, address, requests))?;
    let cpu = report::cpu_seconds();
    let nanos = |seconds: f64| (seconds * 1e9) as u64;
    let traffic = &Traffic {
        origin: Instant::now(),
        measured_from: nanos(args.warmup),
        end: nanos(args.warmup + args.seconds),
        fan: args.followers as u64,
        published: AtomicU64::new(0),
        delivered: AtomicU64::new(0),
        waiting: AtomicU64::new(0),
        gate: Mutex::new(()),
        opened: Condvar::new(),
    };
    let (stop, stopped) = oneshot::channel();
    thread::scope(|scope| {
        let reader = scope.spawn(move || runtime.block_on(unconstrained(follow(followers, traffic, stopped))));
        let publish = |publisher: Publisher<_>| scope.spawn(move || publisher.run(traffic));
        let threads: Vec<_> = publishers.into_iter().map(publish).collect();
        traffic.sleep_until(traffic.measured_from);
        let before = (traffic.now(), traffic.delivered(), traffic.published());
        traffic.sleep_until(traffic.end);
        let after = (traffic.now(), traffic.delivered(), traffic.published());
        let mut acks = histogram();
        for thread in threads {
            // Both were made with the same bounds, so adding can't fail.
            _ = acks.add(thread.join().map_err(|_| Failure::Thread)??);
        }
        traffic.await_deliveries();
        // It has ended already where it failed.
        _ = stop.send(());
        let deliveries = reader.join().map_err(|_| Failure::Thread)??;
        let seconds = (after.0 - before.0) as f64 / 1e9;
        report::print(&Followed {
            seconds,
            deliveries_per_second: (after.1 - before.1) as f64 / seconds,
            records_per_second: (after.2 - before.2) as f64 / seconds,
            delivery_ms: Latency::of(&deliveries),
            ack_ms: Latency::of(&acks),
            all_records: traffic.published(),
            all_deliveries: traffic.delivered(),
            missing: (traffic.published() * traffic.fan).saturating_sub(traffic.delivered()),
            cpu_seconds: report::cpu_seconds() - cpu,
        })
    })
}

/// Follows, says so in a line, takes what comes until standard input ends, and says how much that was.
pub(crate) fn hold(protocol: &impl Protocol, address: SocketAddr, args: &HoldArgs) -> Result<(), Failure> {
    let runtime = runtime::Builder::new_current_thread().enable_io().build()?;
    let followers = runtime.block_on(async {
        let mut connection = Connection::open(protocol, address, 0).await?;
        for create in (0..args.streams).filter_map(|index| protocol.create(&stream(index))) {
            connection.exchange(protocol, &create).await?;
        }
        let request = |index: usize| match &args.path {
            Some(path) => Ok(http::request("GET", &path.replace("{}", &index.to_string()), "", b"").bytes),
            None => protocol.follow(&stream(index % args.streams)),
        };
        connect(protocol, address, (0..args.streams * args.followers).map(request)).await
    })?;
    report::print(&serde_json::json!({ "followers": followers.len() }))?;
    let ended = runtime.spawn_blocking(|| io::stdin().lock().lines().for_each(drop));
    let bytes = runtime.block_on(unconstrained(drain(followers, ended)))?;
    report::print(&serde_json::json!({ "bytes": bytes }))
}

/// Reads and forgets until the end, and says how many bytes that were.
async fn drain(followers: Vec<TcpStream>, ended: JoinHandle<()>) -> Result<u64, Failure> {
    let (bytes, buffer) = (Cell::new(0), RefCell::new(vec![0; READ_BYTES]));
    let read = |socket: TcpStream| {
        let (bytes, buffer) = (&bytes, &buffer);
        async move {
            loop {
                socket.readable().await?;
                bytes.set(bytes.get() + written(socket.try_read(&mut buffer.borrow_mut()))? as u64);
            }
        }
    };
    tokio::select! {
        failed = try_join_all(followers.into_iter().map(read)) => failed.map(|_: Vec<()>| ()).map_err(Failure::Io)?,
        _ = ended => {}
    }
    Ok(bytes.get())
}

impl Traffic {
    /// Nanoseconds since it began.
    fn now(&self) -> u64 {
        self.origin.elapsed().as_nanos() as u64
    }

    fn sleep_until(&self, nanos: u64) {
        thread::sleep(Duration::from_nanos(nanos.saturating_sub(self.now())));
    }

    fn delivered(&self) -> u64 {
        self.delivered.load(Ordering::Relaxed)
    }

    fn published(&self) -> u64 {
        self.published.load(Ordering::Relaxed)
    }

    /// Takes a place among the records on their way, once there is one.
    fn enter(&self, window: u64) {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        while !self.enters(window)
            && let Ok(gate) = self.gate.lock()
        {
            // A wake-up that came before this began to wait is made good for by the time.
            drop(self.opened.wait_timeout(gate, Duration::from_millis(1)));
        }
        self.waiting.fetch_sub(1, Ordering::SeqCst);
    }

    fn enters(&self, window: u64) -> bool {
        let room = |published| (published * self.fan < self.delivered() + window * self.fan).then_some(published + 1);
        self.now() >= self.end || self.published.fetch_update(Ordering::SeqCst, Ordering::SeqCst, room).is_ok()
    }

    fn deliver(&self, count: u64) {
        let before = self.delivered.fetch_add(count, Ordering::SeqCst);
        // Only all deliveries of a record make room for another.
        let arrived = (before + count) / self.fan - before / self.fan;
        for _ in 0..arrived.min(self.waiting.load(Ordering::SeqCst)) {
            self.opened.notify_one();
        }
    }

    /// Waits until all that was published has come, or nothing has for a while.
    fn await_deliveries(&self) {
        let (mut last, mut since) = (self.delivered(), Instant::now());
        while self.delivered() < self.published() * self.fan && since.elapsed() < PATIENCE {
            thread::sleep(Duration::from_millis(5));
            if self.delivered() > last {
                (last, since) = (self.delivered(), Instant::now());
            }
        }
    }
}

/// Connects followers, and waits until each will see all that comes.
async fn connect<P: Protocol>(
    _: &P,
    address: SocketAddr,
    requests: impl Iterator<Item = Result<Vec<u8>, Failure>>,
) -> Result<Vec<TcpStream>, Failure> {
    let one = |request: Result<Vec<u8>, Failure>| async move { connect_one::<P>(address, &request?).await };
    futures_stream::iter(requests).map(one).buffer_unordered(CONNECTING).try_collect().await
}

async fn connect_one<P: Protocol>(address: SocketAddr, request: &[u8]) -> Result<TcpStream, Failure> {
    let socket = TcpStream::connect(address).await?;
    let (mut sent, mut answer) = (0, vec![0; 4096]);
    while sent < request.len() {
        socket.writable().await?;
        sent += written(socket.try_write(&request[sent..]))?;
    }
    let mut read = 0;
    while memchr::memmem::find(&answer[..read], P::FOLLOWED.as_bytes()).is_none() {
        socket.readable().await?;
        match written(socket.try_read(&mut answer[read..])) {
            Ok(more) => read += more,
            Err(_) => return Err(Failure::Refused(text(&answer[..read]))),
        }
        if read >= FOLLOWS.len() && answer.starts_with(b"HTTP/") && !answer.starts_with(FOLLOWS) {
            return Err(Failure::Refused(text(&answer[..read])));
        }
    }
    Ok(socket)
}

/// How many bytes went; an end is an error.
fn written(result: io::Result<usize>) -> io::Result<usize> {
    match result {
        Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
        result => result,
    }
}

/// What all followers of a thread share.
#[derive(Debug)]
struct Reading<'a> {
    traffic: &'a Traffic,
    buffer: RefCell<Vec<u8>>,
    latencies: RefCell<Histogram<u64>>,
}

/// Reads until told to stop, and gives the latencies.
async fn follow(
    followers: Vec<TcpStream>,
    traffic: &Traffic,
    stopped: oneshot::Receiver<()>,
) -> Result<Histogram<u64>, Failure> {
    let reading = Reading { traffic, buffer: RefCell::new(vec![0; READ_BYTES]), latencies: RefCell::new(histogram()) };
    let all = try_join_all(followers.into_iter().map(|socket| reading.read(socket)));
    tokio::select! {
        ended = all => ended.map(drop)?,
        _ = stopped => {}
    }
    Ok(reading.latencies.into_inner())
}

impl Reading<'_> {
    async fn read(&self, socket: TcpStream) -> Result<(), Failure> {
        // What may be the beginning of a stamp.
        let mut rest = Vec::with_capacity(stamp::STAMP_BYTES);
        loop {
            socket.readable().await?;
            let mut buffer = self.buffer.borrow_mut();
            buffer[..rest.len()].copy_from_slice(&rest);
            let read = written(socket.try_read(&mut buffer[rest.len()..]))?;
            if read > 0 {
                self.take(&buffer[..rest.len() + read], &mut rest);
            }
        }
    }

    fn take(&self, bytes: &[u8], rest: &mut Vec<u8>) {
        let (now, mut count) = (self.traffic.now(), 0);
        let mut latencies = self.latencies.borrow_mut();
        let left = stamp::read(bytes, |due| {
            count += 1;
            if (self.traffic.measured_from..self.traffic.end).contains(&due) {
                latencies.saturating_record(now.saturating_sub(due));
            }
        });
        rest.clear();
        rest.extend_from_slice(&bytes[bytes.len() - left..]);
        if count > 0 {
            self.traffic.deliver(count);
        }
    }
}
