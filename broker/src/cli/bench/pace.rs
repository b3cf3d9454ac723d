//! When a request is to be sent.
//!
//! A closed loop sends the next request when an answer is there: it measures what the server can
//! do, and slows down with it. An open loop sends at a fixed rate, as the world does, and counts a
//! latency from the moment at which its request was due, so that a server that stands still for a
//! second answers for all that was due in it, not for one request only.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

/// Where the load ends.
#[derive(Clone, Copy, Debug)]
pub(super) enum End {
    /// No request is sent from then on.
    At(Instant),
    /// After this many requests.
    Count(u64),
}

/// Gives each request its time. Shared by all connections.
#[derive(Debug)]
pub(super) struct Pace {
    end: End,
    taken: AtomicU64,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    began: Instant,
    interval: Duration,
    /// A permit a request that is due.
    due: Arc<Semaphore>,
}

impl Pace {
    /// The pace of a load of `connections` that begins now.
    pub(super) fn new(began: Instant, end: End, rate: Option<f64>, connections: u32) -> Pace {
        let open = rate.map(|rate| {
            let open = Open { began, interval: Duration::from_secs_f64(1.0 / rate), due: Arc::new(Semaphore::new(0)) };
            let (due, interval) = (Arc::clone(&open.due), open.interval);
            // A runtime's timers are good to a millisecond; a sleeping thread's to a twentieth of one.
            thread::spawn(move || release(&due, began, interval, end, connections));
            open
        });
        Pace { end, taken: AtomicU64::new(0), open }
    }

    /// Waits until a request is due, and answers from when on its latency counts. Nothing at the end.
    pub(super) async fn next(&self) -> Option<Instant> {
        if let Some(open) = &self.open {
            open.due.acquire().await.ok()?.forget();
        }
        let index = self.taken.fetch_add(1, Ordering::Relaxed);
        if matches!(self.end, End::Count(count) if index >= count) {
            return None;
        }
        match &self.open {
            Some(open) => Some(open.began + scaled(open.interval, index)),
            None => {
                let now = Instant::now();
                matches!(self.end, End::At(end) if now >= end).then_some(()).map_or(Some(now), |()| None)
            }
        }
    }

    /// Requests that were due when the load ended and had not been sent: the server was too slow for the rate.
    pub(super) fn unsent(&self) -> u64 {
        match (&self.open, self.end) {
            (Some(open), End::At(end)) => {
                let due = (end - open.began).as_nanos() / open.interval.as_nanos().max(1);
                (due as u64).saturating_sub(self.taken.load(Ordering::Relaxed))
            }
            _ => 0,
        }
    }
}

/// Releases requests as they fall due, and then whoever still waits.
fn release(due: &Semaphore, began: Instant, interval: Duration, end: End, connections: u32) {
    let mut index = 0;
    loop {
        let at = began + scaled(interval, index);
        match end {
            End::At(end) if at >= end => return due.close(),
            End::Count(count) if index >= count => return due.add_permits(connections as usize),
            End::At(_) | End::Count(_) => {}
        }
        thread::sleep(at.saturating_duration_since(Instant::now()));
        due.add_permits(1);
        index += 1;
    }
}

fn scaled(interval: Duration, index: u64) -> Duration {
    Duration::from_nanos((interval.as_nanos() as u64).saturating_mul(index))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_open_loop_counts_from_when_a_request_was_due() {
        let began = Instant::now();
        let pace = Pace::new(began, End::Count(5), Some(1000.0), 1);
        let mut last = began;
        for index in 0..5 {
            let due = pace.next().await.unwrap();
            assert_eq!(due, began + Duration::from_millis(index));
            assert!(due >= last && Instant::now() >= due);
            last = due;
        }
        assert_eq!(pace.next().await, None);
    }

    #[tokio::test]
    async fn a_closed_loop_ends_by_count_or_by_time() {
        let pace = Pace::new(Instant::now(), End::Count(2), None, 4);
        assert!(pace.next().await.is_some() && pace.next().await.is_some());
        assert_eq!(pace.next().await, None);
        assert_eq!(Pace::new(Instant::now(), End::At(Instant::now()), None, 4).next().await, None);
    }
}
