//! A body in JSON, strictly read: an object, and no field that the call does not know.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use wire::{Code, NameError};

use crate::http::batch::broken;
use crate::http::error::Refusal;

/// A body without fields.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Nothing {}

/// An object with the fields of `T`, and no other. An empty body is none: it is nothing where `T` may be.
pub(crate) fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    let body = body.trim_ascii();
    // The parser would take an array for the fields in their order.
    if !body.is_empty() && !body.starts_with(b"{") {
        return Err(Refusal::new(Code::InvalidBody, "the body must be a JSON object"));
    }
    let body = if body.is_empty() { b"null" } else { body };
    serde_json::from_slice(body).map_err(|error| {
        if error.to_string().starts_with("unknown field") {
            return Refusal::new(Code::UnknownField, format!("the body has an {error}"));
        }
        if body == b"null" {
            return Refusal::new(Code::InvalidBody, "the body is missing: a JSON object");
        }
        broken(&error)
    })
}

/// A number of a body that must be within these bounds.
pub(crate) fn within<T: PartialOrd + Display>(what: &str, number: T, bounds: RangeInclusive<T>) -> Result<T, Refusal> {
    if bounds.contains(&number) {
        return Ok(number);
    }
    let detail = format!("{what} is {number}, it must be {} to {}", bounds.start(), bounds.end());
    Err(Refusal::new(Code::InvalidBody, detail))
}

/// A time of a body in milliseconds.
pub(crate) fn millis(what: &str, millis: u64, bounds: RangeInclusive<u64>) -> Result<Duration, Refusal> {
    within(what, millis, bounds).map(Duration::from_millis)
}

/// A name in a body.
pub(crate) fn named(checked: Result<(), NameError>) -> Result<(), Refusal> {
    checked.map_err(|error| Refusal::new(Code::InvalidBody, error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::GroupConfig;

    #[derive(Deserialize, Debug)]
    #[serde(deny_unknown_fields)]
    struct Body {
        _worker: String,
    }

    #[test]
    fn a_body_is_read_strictly() {
        let refusal = |body: &str| parse::<Body>(body.as_bytes()).unwrap_err();
        for bad in ["", " ", "[]", "[\"w\"]", "null", "7", "{", "{}", "{\"_worker\":1}"] {
            assert_eq!(refusal(bad).code(), Some(Code::InvalidBody), "{bad}");
        }
        let unknown = refusal("{\"_worker\":\"w\",\"wrkr\":1}");
        assert_eq!(unknown.code(), Some(Code::UnknownField));
        assert!(format!("{unknown:?}").contains("wrkr"));
        assert!(parse::<Body>(b" {\"_worker\":\"w\"} ").is_ok());
        assert_eq!(parse::<Option<GroupConfig>>(b"").unwrap(), None);
        assert_eq!(parse::<Option<GroupConfig>>(b"{}").unwrap(), Some(GroupConfig::default()));
        assert_eq!(parse::<Option<GroupConfig>>(b"{\"x\":1}").unwrap_err().code(), Some(Code::UnknownField));
    }
}
