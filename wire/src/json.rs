//! A record as JSON text: what reads, events and key lookups answer.
//!
//! ```text
//! {"offset":17,"id":"3f0000010000000a","key":"o-17","value":…,"headers":{…},"time":"…Z"}
//! ```
//!
//! A value is shown as what it was published as: JSON as it was written, text as a string, other
//! bytes under `value_base64`, a tombstone as `"value":null,"tombstone":true`. `key` and `headers`
//! are left out where there are none. A followed record says its `namespace` where a connection
//! carries more than one.
//!
//! Where records were lost, a reset says so among them, in the order of offsets: in a stream of events
//! as the event `reset`, in NDJSON on a line of its own, under that name:
//!
//! ```text
//! {"from":40,"to":52,"reason":"lost"}              12 offsets, 40 to 51, have no record any more
//! {"reset":{"from":40,"to":52,"reason":"lost"}}    the same as a line
//! ```

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde::ser::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use crate::ids::Offset;
use crate::record::{Kind, Record};

/// What becomes of line breaks between the tokens of a JSON value. There are none inside of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lines {
    /// They stay: the value is to the byte what was published.
    Keep,
    /// They become spaces, so that the record is one line, as NDJSON needs.
    Fold,
}

/// An append time as text, RFC 3339 in UTC.
pub fn time_text(time_micros: i64) -> String {
    match Timestamp::from_microsecond(time_micros) {
        Ok(time) => time.to_string(),
        Err(_) if time_micros < 0 => Timestamp::MIN.to_string(),
        Err(_) => Timestamp::MAX.to_string(),
    }
}

/// Appends a record as JSON. `time` is [`time_text`] of its frame, made once for all its records.
///
/// # Errors
/// Only what `out` answers; a `Vec<u8>` takes everything.
pub fn write_record(
    out: &mut Vec<u8>,
    record: &Record<'_>,
    time: &str,
    namespace: Option<&str>,
    lines: Lines,
) -> serde_json::Result<()> {
    out.extend_from_slice(b"{");
    if let Some(namespace) = namespace {
        out.extend_from_slice(b"\"namespace\":");
        serde_json::to_writer(&mut *out, namespace)?;
        out.push(b',');
    }
    out.extend_from_slice(b"\"offset\":");
    serde_json::to_writer(&mut *out, &record.offset)?;
    out.extend_from_slice(b",\"id\":");
    serde_json::to_writer(&mut *out, &format_args!("{}", record.id))?;
    if let Some(key) = record.key {
        out.extend_from_slice(b",\"key\":");
        serde_json::to_writer(&mut *out, key)?;
    }
    write_value(out, record, lines)?;
    if !record.headers.is_empty() {
        let mut before = b",\"headers\":{".as_slice();
        for (name, value) in record.headers {
            out.extend_from_slice(before);
            serde_json::to_writer(&mut *out, name)?;
            out.push(b':');
            serde_json::to_writer(&mut *out, value)?;
            before = b",";
        }
        out.push(b'}');
    }
    out.extend_from_slice(b",\"time\":\"");
    out.extend_from_slice(time.as_bytes());
    out.extend_from_slice(b"\"}");
    Ok(())
}

/// Appends bytes as base64: none of its letters is escaped in JSON.
fn write_base64(out: &mut Vec<u8>, bytes: &[u8]) -> serde_json::Result<()> {
    let begin = out.len();
    out.resize(begin + bytes.len().div_ceil(3) * 4, 0);
    STANDARD.encode_slice(bytes, &mut out[begin..]).map(drop).map_err(serde_json::Error::custom)
}

fn write_value(out: &mut Vec<u8>, record: &Record<'_>, lines: Lines) -> serde_json::Result<()> {
    match (record.kind, std::str::from_utf8(record.value)) {
        (Kind::Tombstone, _) => out.extend_from_slice(b",\"value\":null,\"tombstone\":true"),
        (Kind::Json, Ok(_)) => {
            out.extend_from_slice(b",\"value\":");
            let begin = out.len();
            out.extend_from_slice(record.value);
            if lines == Lines::Fold {
                out[begin..].iter_mut().filter(|b| matches!(b, b'\n' | b'\r')).for_each(|b| *b = b' ');
            }
        }
        (Kind::Text, Ok(text)) => {
            out.extend_from_slice(b",\"value\":");
            serde_json::to_writer(&mut *out, text)?;
        }
        // Publishing lets no text or JSON in that is not UTF-8, so these are bytes.
        (Kind::Bytes | Kind::Json | Kind::Text, _) => {
            out.extend_from_slice(b",\"value_base64\":\"");
            write_base64(out, record.value)?;
            out.push(b'"');
        }
    }
    Ok(())
}

/// A record as a client reads it from JSON.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RecordJson {
    /// The namespace, where the connection carries more than one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// The record's place in its namespace.
    pub offset: Offset,
    /// Its object id, 16 hex digits.
    pub id: String,
    /// Its key, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The value, where it is JSON or text. `null` for a tombstone, and for a JSON `null`.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub value: Option<Box<RawValue>>,
    /// The value, where it is other bytes, in base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value_base64: Option<String>,
    /// Whether the record deletes its key.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub tombstone: bool,
    /// Its headers.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// When it was appended, RFC 3339.
    pub time: String,
}

/// Takes a value that is there, `null` too: left to itself, an `Option` takes that for nothing.
fn present<'de, D: Deserializer<'de>>(value: D) -> Result<Option<Box<RawValue>>, D::Error> {
    Box::<RawValue>::deserialize(value).map(Some)
}

/// A range of offsets whose records were lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lost {
    /// The first offset.
    pub from: Offset,
    /// The offset behind the last: where records go on.
    pub to: Offset,
}

/// That records are missing, where they would stand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reset {
    /// The namespace, where the connection carries more than one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Which.
    #[serde(flatten)]
    pub lost: Lost,
    /// Why; so far always [`REASON_LOST`].
    pub reason: String,
}

/// A reset as a line of NDJSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResetLine {
    /// The reset.
    pub reset: Reset,
}

/// The reason of a reset: the records' bytes were damaged, and the log was repaired without them.
pub const REASON_LOST: &str = "lost";

impl Lost {
    /// How many records they are.
    pub fn records(&self) -> u64 {
        self.to.saturating_sub(self.from)
    }

    /// Adds a range to those before it; one that begins where the last ends makes that longer.
    pub fn push_to(self, ranges: &mut Vec<Lost>) {
        match ranges.last_mut() {
            Some(last) if last.to == self.from => last.to = self.to,
            _ => ranges.push(self),
        }
    }

    /// The reset that tells of them.
    pub fn reset(self) -> Reset {
        Reset { namespace: None, lost: self, reason: REASON_LOST.to_owned() }
    }
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.records() {
            0 | 1 => write!(f, "offset {}", self.from),
            _ => write!(f, "offsets {} to {}", self.from, self.to - 1),
        }
    }
}
