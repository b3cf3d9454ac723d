//! Records that are leased, and what becomes of them.

use std::time::Duration;

use reqwest::Method;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use wire::Code;
use wire::json::RecordJson;

use crate::error::Error;
use crate::group::Group;
use crate::http::Repeat;
use crate::record::Record;

/// A record that is a worker's until its lease ends.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Leased {
    /// The record.
    pub record: Record,
    /// What settles it: [`Group::ack`], [`Group::nack`].
    pub token: String,
    /// The how-manieth delivery this is, from 1.
    pub delivery: u32,
    /// When the lease ends, microseconds since the Unix epoch by the broker's clock.
    pub expires_micros: i64,
}

/// What a call on tokens has done.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
pub struct Settled {
    /// How many took effect.
    pub done: u64,
    /// Those that did not, as they hold no more: the lease has ended, or was settled before. Of a
    /// call that was repeated, because its answer was lost, they may be those that it settled.
    pub lapsed: Vec<String>,
}

#[derive(Serialize)]
struct LeaseBody<'a> {
    worker: &'a str,
    max: usize,
    wait_ms: u64,
}

#[derive(Deserialize)]
struct LeaseAnswer<'a> {
    #[serde(borrow)]
    records: Vec<&'a RawValue>,
}

/// What stands beside a record's own fields.
#[derive(Deserialize)]
struct Grant {
    token: String,
    delivery: u32,
    expires: String,
}

#[derive(Serialize)]
struct Tokens<'a> {
    tokens: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    delay_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lease_ms: Option<u64>,
}

impl<'a> Tokens<'a> {
    fn of(tokens: &'a [String]) -> Tokens<'a> {
        Tokens { tokens, delay_ms: None, error: None, lease_ms: None }
    }
}

#[derive(Serialize)]
struct Leaving<'a> {
    worker: &'a str,
}

impl Leased {
    fn parse(json: &RawValue) -> Result<Leased, Error> {
        let reply = |error: &dyn std::fmt::Display| Error::Reply(format!("a leased record: {error}"));
        let record = serde_json::from_str::<RecordJson>(json.get()).map_err(|error| reply(&error))?;
        let grant = serde_json::from_str::<Grant>(json.get()).map_err(|error| reply(&error))?;
        let expires = grant.expires.parse::<jiff::Timestamp>().map_err(|error| reply(&error))?;
        Ok(Leased {
            record: Record::of_json(record)?,
            token: grant.token,
            delivery: grant.delivery,
            expires_micros: expires.as_microsecond(),
        })
    }
}

impl Group {
    /// Leases up to `max` records to the worker of this name; waits up to `wait` for a first one. A
    /// lease whose answer was lost ends by itself, and its records are delivered again.
    ///
    /// # Errors
    /// [`Code::GroupNotFound`] where there is no such group.
    pub async fn lease(&self, worker: &str, max: usize, wait: Duration) -> Result<Vec<Leased>, Error> {
        let body = LeaseBody { worker, max, wait_ms: millis(wait) };
        let request = self.request(Method::POST, &["lease"], Some(&body))?;
        let answer = self.namespace().client().call(&request, Repeat::Always, wait).await?;
        answer.json_of::<LeaseAnswer<'_>>()?.records.into_iter().map(Leased::parse).collect()
    }

    /// Acks records: when it answers, those that are done are not delivered again.
    pub async fn ack(&self, tokens: &[String]) -> Result<Settled, Error> {
        self.settle("ack", &Tokens::of(tokens)).await
    }

    /// Gives records back. They are delivered again after `delay`, or where that is none after the wait that
    /// the group is configured to; after their last delivery they become dead letters, with `error`.
    pub async fn nack(
        &self,
        tokens: &[String],
        delay: Option<Duration>,
        error: Option<&str>,
    ) -> Result<Settled, Error> {
        self.settle("nack", &Tokens { delay_ms: delay.map(millis), error, ..Tokens::of(tokens) }).await
    }

    /// Has leases end `lease` from now, or where that is none, as long as the group's leases are.
    pub async fn extend(&self, tokens: &[String], lease: Option<Duration>) -> Result<Settled, Error> {
        self.settle("extend", &Tokens { lease_ms: lease.map(millis), ..Tokens::of(tokens) }).await
    }

    /// Says that a worker has gone: its leases end at once.
    pub async fn leave(&self, worker: &str) -> Result<(), Error> {
        let request = self.request(Method::POST, &["leave"], Some(&Leaving { worker }))?;
        self.namespace().client().call(&request, Repeat::Always, Duration::ZERO).await.map(drop)
    }

    async fn settle(&self, call: &str, tokens: &Tokens<'_>) -> Result<Settled, Error> {
        if tokens.tokens.is_empty() {
            return Ok(Settled::default());
        }
        let request = self.request(Method::POST, &[call], Some(tokens))?;
        match self.namespace().client().call(&request, Repeat::Always, Duration::ZERO).await {
            Ok(answer) => answer.json(),
            Err(error) if error.code() == Some(Code::LeaseLapsed) => {
                Ok(Settled { done: 0, lapsed: tokens.tokens.to_vec() })
            }
            Err(error) => Err(error),
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
