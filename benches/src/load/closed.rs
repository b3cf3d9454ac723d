//! A closed loop: each connection keeps so many requests in flight, and sends the next when an answer is there.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Buf;
use clap::Args;
use futures::future::try_join_all;
use hdrhistogram::Histogram;
use serde::Serialize;

use crate::connection::{Connection, text};
use crate::failure::Failure;
use crate::protocol::{Kind, Protocol, Request};
use crate::report::{Latency, histogram};

/// Requests up to this are gathered into one write.
const SMALL_BYTES: usize = 16 << 10;

/// How long a loop goes on.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct Span {
    /// Seconds to measure
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Seconds to send before that, unmeasured
    #[arg(long, default_value_t = 1.0)]
    warmup: f64,
    /// Send this many requests instead, all measured
    #[arg(long)]
    count: Option<u64>,
}

/// A connection, and what it is to send, over and over.
pub(crate) type Sender = (Connection, Vec<Request>);

/// What a loop saw.
#[derive(Debug, Serialize)]
pub(crate) struct Seen {
    /// From the first to the last answer that was measured.
    pub(crate) seconds: f64,
    /// Answers in that time.
    requests: u64,
    requests_per_second: f64,
    /// All answers, also those before: what the processors' time was for.
    pub(crate) all_requests: u64,
    latency_ms: Latency,
    refused: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    first_refusal: Option<String>,
}

impl Seen {
    pub(crate) fn requests(&self) -> u64 {
        self.requests
    }
}

/// Sends, with `in_flight` requests of each connection at once.
pub(crate) async fn run(
    protocol: &impl Protocol,
    senders: Vec<Sender>,
    in_flight: usize,
    span: Span,
) -> Result<Seen, Failure> {
    let began = Instant::now();
    let warmup = if span.count.is_some() { 0.0 } else { span.warmup };
    let measured_from = began + Duration::from_secs_f64(warmup);
    let tally = RefCell::new(Tally {
        left: span.count,
        end: measured_from + Duration::from_secs_f64(if span.count.is_some() { 1e6 } else { span.seconds }),
        measured_from,
        last: measured_from,
        latencies: histogram(),
        all: 0,
        refused: 0,
        first_refusal: None,
    });
    let loops = senders.into_iter().map(|(connection, requests)| {
        let tally = &tally;
        async move { drive(protocol, connection, &requests, in_flight, tally).await }
    });
    try_join_all(loops).await?;
    tally.into_inner().seen()
}

async fn drive(
    protocol: &impl Protocol,
    mut connection: Connection,
    requests: &[Request],
    in_flight: usize,
    tally: &RefCell<Tally>,
) -> Result<(), Failure> {
    // When each was sent, and how many answers it waits for.
    let mut waiting: VecDeque<(Instant, u32)> = VecDeque::with_capacity(in_flight);
    let mut next = requests.iter().cycle();
    let mut gathered = Vec::with_capacity(SMALL_BYTES);
    loop {
        let now = Instant::now();
        while waiting.len() < in_flight && tally.borrow_mut().takes(now) {
            let Some(request) = next.next() else { return Ok(()) };
            waiting.push_back((now, request.answers));
            if request.bytes.len() > SMALL_BYTES {
                connection.send(&request.bytes).await?;
            } else {
                gathered.extend_from_slice(&request.bytes);
            }
        }
        if waiting.is_empty() {
            return Ok(());
        }
        if !gathered.is_empty() {
            connection.send(&gathered).await?;
            gathered.clear();
        }
        connection.fill().await?;
        let now = Instant::now();
        while let Some(answer) = protocol.answer(&connection.buffer)? {
            let refusal = (answer.kind == Kind::Refused).then(|| text(&connection.buffer[..answer.bytes]));
            connection.buffer.advance(answer.bytes);
            if answer.kind == Kind::Aside {
                continue;
            }
            let Some((sent, missing)) = waiting.front_mut() else {
                return Err(Failure::Answer("an answer to nothing".to_owned()));
            };
            *missing -= 1;
            let sent = (*missing == 0).then_some(*sent);
            tally.borrow_mut().answered(sent, now, refusal);
            if sent.is_some() {
                waiting.pop_front();
            }
        }
    }
}

/// What was seen so far, by all connections.
#[derive(Debug)]
struct Tally {
    left: Option<u64>,
    end: Instant,
    measured_from: Instant,
    last: Instant,
    latencies: Histogram<u64>,
    all: u64,
    refused: u64,
    first_refusal: Option<String>,
}

impl Tally {
    /// Whether one more request is to be sent.
    fn takes(&mut self, now: Instant) -> bool {
        match &mut self.left {
            Some(0) => false,
            Some(left) => {
                *left -= 1;
                true
            }
            None => now < self.end,
        }
    }

    /// An answer has come; the last one of its request where `sent` says when that was sent.
    fn answered(&mut self, sent: Option<Instant>, now: Instant, refusal: Option<String>) {
        if let Some(refusal) = refusal {
            self.refused += 1;
            self.first_refusal.get_or_insert(refusal);
            return;
        }
        let Some(sent) = sent else { return };
        self.all += 1;
        if sent >= self.measured_from {
            self.latencies.saturating_record((now - sent).as_nanos() as u64);
            self.last = now;
        }
    }

    fn seen(self) -> Result<Seen, Failure> {
        let requests = self.latencies.len();
        match self.first_refusal {
            Some(refusal) if requests == 0 => return Err(Failure::Refused(refusal)),
            _ => {}
        }
        let seconds = (self.last - self.measured_from).as_secs_f64();
        Ok(Seen {
            seconds,
            requests,
            requests_per_second: if seconds > 0.0 { requests as f64 / seconds } else { 0.0 },
            all_requests: self.all,
            latency_ms: Latency::of(&self.latencies),
            refused: self.refused,
            first_refusal: self.first_refusal,
        })
    }
}
