//! A call's query parameters, strictly read: none that the call does not know, none twice.

use axum::http::Uri;
use wire::Offset;
use wire::limits::{MAX_SAFE_INTEGER, MAX_WAIT_MS};

use crate::http::error::Refusal;
use crate::http::path::percent_decode;

/// A parameter that a call knows.
pub(crate) enum Known {
    /// It stands there once, or not at all.
    Once(&'static str),
    /// It may be repeated.
    Often(&'static str),
}

impl Known {
    fn name(&self) -> &'static str {
        match self {
            Known::Once(name) | Known::Often(name) => name,
        }
    }
}

/// Where a read begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Begin {
    /// At the first record.
    Start,
    /// Behind the last record as of the request.
    End,
    /// At an offset.
    At(Offset),
}

/// The parameters of a query.
#[derive(Debug)]
pub(crate) struct Query(Vec<(&'static str, String)>);

impl Query {
    /// Reads the query of a call that knows these parameters.
    pub(crate) fn parse(uri: &Uri, known: &[Known]) -> Result<Query, Refusal> {
        let mut query = Query(Vec::new());
        for pair in uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let name = decode(name)?;
            let Some(known) = known.iter().find(|known| known.name() == name) else {
                let names: Vec<&str> = known.iter().map(Known::name).collect();
                let takes = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
                return Err(Refusal::parameter(format!("there is no parameter {name:?}; this call takes {takes}")));
            };
            if matches!(known, Known::Once(_)) && query.get(known.name()).is_some() {
                return Err(Refusal::parameter(format!("{name} is given twice")));
            }
            query.0.push((known.name(), decode(value)?));
        }
        Ok(query)
    }

    /// A parameter's value.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.all(name).next()
    }

    /// The values of a parameter that may be repeated.
    pub(crate) fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(known, _)| *known == name).map(|(_, value)| value.as_str())
    }

    /// A number from 0 to `max`.
    pub(crate) fn number(&self, name: &str, max: u64) -> Result<Option<u64>, Refusal> {
        let Some(text) = self.get(name) else { return Ok(None) };
        let number = number(text).filter(|number| *number <= max);
        let refusal = || Refusal::parameter(format!("{name} is {text:?}, it must be a number from 0 to {max}"));
        Ok(Some(number.ok_or_else(refusal)?))
    }

    /// `limit`: a number from 1 to `max`.
    pub(crate) fn limit(&self, default: usize, max: usize) -> Result<usize, Refusal> {
        match self.number("limit", max as u64)? {
            None => Ok(default),
            Some(0) => Err(Refusal::parameter(format!("limit is 0, it must be 1 to {max}"))),
            Some(limit) => Ok(limit as usize),
        }
    }

    /// `wait`: milliseconds.
    pub(crate) fn wait(&self) -> Result<Option<u64>, Refusal> {
        self.number("wait", MAX_WAIT_MS)
    }

    /// `from`: `start`, `end` or an offset.
    pub(crate) fn from(&self, default: Begin) -> Result<Begin, Refusal> {
        match self.get("from") {
            None => Ok(default),
            Some("start") => Ok(Begin::Start),
            Some("end") => Ok(Begin::End),
            Some(text) => match offset(text) {
                Some(offset) => Ok(Begin::At(offset)),
                None => Err(Refusal::parameter(format!("from is {text:?}, it must be an offset, start or end"))),
            },
        }
    }
}

/// An offset as it is spelled in a parameter: digits, up to what JavaScript can hold.
pub(crate) fn offset(text: &str) -> Option<Offset> {
    number(text).filter(|offset| *offset <= MAX_SAFE_INTEGER)
}

/// A number in digits alone: no sign, no space.
pub(crate) fn number(text: &str) -> Option<u64> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
}

/// One name or value: `+` is a space, as browsers and most clients spell it.
fn decode(text: &str) -> Result<String, Refusal> {
    let malformed = |what| Refusal::parameter(format!("the query's {text:?} {what}"));
    let spaced = text.replace('+', " ");
    let bytes = percent_decode(&spaced).ok_or_else(|| malformed("has a % that no two hex digits follow"))?;
    String::from_utf8(bytes.into_owned()).map_err(|_| malformed("is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: &[Known] = &[Known::Once("from"), Known::Once("limit"), Known::Often("key")];

    fn query<T>(text: &str, read: impl FnOnce(&Query) -> Result<T, Refusal>) -> Result<T, String> {
        let uri: Uri = format!("/x?{text}").parse().unwrap();
        Query::parse(&uri, KNOWN).and_then(|query| read(&query)).map_err(|refusal| format!("{refusal:?}"))
    }

    #[test]
    fn values_are_decoded() {
        let keys =
            query("key=a+b&key=%C3%A4%26%2B&from=7", |q| Ok(q.all("key").map(str::to_owned).collect::<Vec<_>>()));
        assert_eq!(keys.unwrap(), ["a b", "ä&+"]);
        assert_eq!(query("from=7&&", |q| q.from(Begin::End)), Ok(Begin::At(7)));
        assert_eq!(query("", |q| q.from(Begin::End)), Ok(Begin::End));
        assert_eq!(query("from=start", |q| q.from(Begin::End)), Ok(Begin::Start));
        assert_eq!(query("limit=10", |q| q.limit(5, 10)), Ok(10));
    }

    #[test]
    fn what_is_not_known_or_not_right_is_named() {
        let refused = |text: &str, says: &str| {
            let error = query(text, |q| Ok((q.from(Begin::End)?, q.limit(1, 10)?))).unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
        };
        refused("form=7", "form");
        refused("from=1&from=2", "from is given twice");
        refused("key=%FF", "not UTF-8");
        refused("key=%f", "two hex digits");
        for bad in ["", "-1", "%2B1", "1.0", "9007199254740992", "99999999999999999999999", "latest"] {
            refused(&format!("from={bad}"), "it must be an offset, start or end");
        }
        refused("limit=0", "limit is 0");
        refused("limit=11", "from 0 to 10");
    }
}
