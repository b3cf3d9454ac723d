//! How long to wait before the next attempt, and when to give up.

use std::time::{Duration, Instant};

use crate::error::Error;

/// When a failed request is sent again. Waits double from `min` to `max`, each shortened by up to
/// half at random, so that clients that failed together do not come back together.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Backoff {
    /// The first wait.
    pub min: Duration,
    /// The longest wait.
    pub max: Duration,
    /// How long after the first failure the last attempt may begin. Zero: there is only one attempt.
    pub give_up_after: Duration,
}

impl Default for Backoff {
    /// From 50 ms to 2 s, for 30 s.
    fn default() -> Self {
        Backoff { min: Duration::from_millis(50), max: Duration::from_secs(2), give_up_after: Duration::from_secs(30) }
    }
}

impl Backoff {
    /// One attempt, no second one.
    pub const NONE: Backoff = Backoff { min: Duration::ZERO, max: Duration::ZERO, give_up_after: Duration::ZERO };

    /// The same waits, without an end.
    pub fn forever(self) -> Backoff {
        Backoff { give_up_after: Duration::MAX, ..self }
    }

    fn wait(&self, failures: u32, random: u32) -> Duration {
        let longest = self.min.saturating_mul(1 << failures.min(20)).min(self.max);
        longest - longest.mul_f64(0.5 * f64::from(random) / f64::from(u32::MAX))
    }
}

/// The attempts at one thing: counts failures since the last success.
#[derive(Debug)]
pub(crate) struct Attempts {
    backoff: Backoff,
    failures: u32,
    failing_since: Option<Instant>,
}

impl Attempts {
    pub(crate) fn new(backoff: Backoff) -> Attempts {
        Attempts { backoff, failures: 0, failing_since: None }
    }

    /// Something worked: the next failure is the first again.
    pub(crate) fn succeeded(&mut self) {
        self.failures = 0;
        self.failing_since = None;
    }

    /// How long to wait before the next attempt, or nothing where it is time to give up. What the
    /// broker asks for in `Retry-After` is the least.
    pub(crate) fn failed(&mut self, error: &Error) -> Option<Duration> {
        self.failed_at(Instant::now(), error)
    }

    fn failed_at(&mut self, now: Instant, error: &Error) -> Option<Duration> {
        let since = *self.failing_since.get_or_insert(now);
        let wait = self.backoff.wait(self.failures, random_u32()).max(error.retry_after().unwrap_or_default());
        if now.duration_since(since).saturating_add(wait) >= self.backoff.give_up_after {
            return None;
        }
        self.failures = self.failures.saturating_add(1);
        Some(wait)
    }
}

/// Randomness of the system; where there is none, waits are not spread, which harms nothing.
fn random_u32() -> u32 {
    getrandom::u32().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_and_lose_at_most_half() {
        let backoff = Backoff::default();
        let waits: Vec<u128> = (0..8).map(|failures| backoff.wait(failures, 0).as_millis()).collect();
        assert_eq!(waits, [50, 100, 200, 400, 800, 1600, 2000, 2000]);
        assert_eq!(backoff.wait(2, u32::MAX).as_millis(), 100);
        assert_eq!(backoff.wait(u32::MAX, 0), backoff.max);
    }

    #[test]
    fn gives_up_once_the_time_is_over_and_starts_anew_after_a_success() {
        let error = Error::Broken("x".into());
        let mut attempts = Attempts::new(Backoff { give_up_after: Duration::from_secs(5), ..Backoff::default() });
        let began = Instant::now();
        let after = |seconds| began + Duration::from_secs(seconds);
        assert!(attempts.failed_at(began, &error).is_some());
        assert!(attempts.failed_at(after(4), &error).is_some());
        assert_eq!(attempts.failed_at(after(5), &error), None);
        attempts.succeeded();
        assert!(attempts.failed_at(after(5), &error).is_some());
        assert_eq!(Attempts::new(Backoff::NONE).failed(&error), None);
    }

    #[test]
    fn waits_at_least_as_long_as_the_broker_asks() {
        let problem = Box::new(wire::Problem::new(wire::Code::TooBusy, "busy"));
        let error = Error::Problem { problem, retry_after: Some(Duration::from_secs(1)) };
        let wait = Attempts::new(Backoff::default()).failed(&error);
        assert_eq!(wait, Some(Duration::from_secs(1)));
    }
}
