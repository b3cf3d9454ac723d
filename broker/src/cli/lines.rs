//! Lines of input, and the records that they are.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::io;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt};
use wire::limits::MAX_LINE_BYTES;
use wire::record::HeaderPair;
use wire::{Kind, NewRecord};

/// What a line is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum LineFormat {
    /// A JSON value, and the record's too; its key stands in this field, if one is named.
    Json {
        /// The field.
        key: Option<String>,
    },
    /// A text, and the record's value.
    Text,
    /// A record in JSON: key, value, headers.
    Record,
}

/// What a line says of a record; borrowed from it where that is possible.
#[derive(PartialEq, Eq, Debug)]
pub(crate) struct LineRecord<'a> {
    key: Option<Cow<'a, str>>,
    headers: Vec<HeaderPair<'a>>,
    kind: Kind,
    value: Cow<'a, [u8]>,
}

impl LineRecord<'_> {
    /// The record to be published.
    pub(crate) fn record(&self) -> NewRecord<'_> {
        NewRecord { key: self.key.as_deref(), headers: &self.headers, kind: self.kind, value: &self.value }
    }
}

/// Why there is no next line.
#[derive(Debug)]
pub(crate) enum LineError {
    /// The input can't be read.
    Input(io::Error),
    /// It is over [`MAX_LINE_BYTES`].
    TooLong,
}

/// Reads the next line into `line`, without its end, which may be missing from the last one. Answers
/// whether there was one.
pub(crate) async fn read_line(input: &mut (impl AsyncBufRead + Unpin), line: &mut Vec<u8>) -> Result<bool, LineError> {
    line.clear();
    let mut bounded = input.take(MAX_LINE_BYTES as u64 + 1);
    if bounded.read_until(b'\n', line).await.map_err(LineError::Input)? == 0 {
        return Ok(false);
    }
    if line.last() == Some(&b'\n') {
        line.pop();
    }
    if line.len() > MAX_LINE_BYTES { Err(LineError::TooLong) } else { Ok(true) }
}

/// The record that a line is, or what is wrong with it.
pub(crate) fn parse<'a>(format: &LineFormat, line: &'a [u8]) -> Result<LineRecord<'a>, String> {
    match format {
        LineFormat::Json { key } => json(line, key.as_deref()),
        LineFormat::Text => text(line),
        LineFormat::Record => record(line),
    }
}

fn json<'a>(line: &'a [u8], field: Option<&str>) -> Result<LineRecord<'a>, String> {
    let value: &RawValue = serde_json::from_slice(line).map_err(|error| broken(&error))?;
    let key = field.map(|field| key_of(value, field)).transpose()?;
    Ok(LineRecord { key, headers: Vec::new(), kind: Kind::Json, value: value.get().as_bytes().into() })
}

/// The key that stands in a field: a string, or a number as it is written.
fn key_of<'a>(value: &'a RawValue, field: &str) -> Result<Cow<'a, str>, String> {
    let object: HashMap<Cow<'_, str>, &RawValue> = serde_json::from_str(value.get())
        .map_err(|_| format!("there is no field {field:?} to be the key: no object"))?;
    let text = object.get(field).ok_or_else(|| format!("there is no field {field:?} to be the key"))?.get();
    match text.as_bytes().first() {
        Some(b'"') => serde_json::from_str(text).map(Cow::Owned).map_err(|error| broken(&error)),
        Some(b'-' | b'0'..=b'9') => Ok(Cow::Borrowed(text)),
        _ => Err(format!("the field {field:?}, which is to be the key, is neither a string nor a number")),
    }
}

fn text(line: &[u8]) -> Result<LineRecord<'_>, String> {
    std::str::from_utf8(line).map_err(|_| "it is not UTF-8".to_owned())?;
    let value = line.strip_suffix(b"\r").unwrap_or(line);
    Ok(LineRecord { key: None, headers: Vec::new(), kind: Kind::Text, value: value.into() })
}

/// A record in JSON, as it is published or as `tail` prints it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RecordLine<'a> {
    #[serde(default)]
    key: Option<String>,
    /// `null` is a value.
    #[serde(default, borrow, deserialize_with = "given")]
    value: Option<&'a RawValue>,
    #[serde(default)]
    value_base64: Option<String>,
    #[serde(default)]
    tombstone: bool,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    // What a log gives a record, and another log gives anew.
    #[serde(default, rename = "namespace")]
    _namespace: IgnoredAny,
    #[serde(default, rename = "offset")]
    _offset: IgnoredAny,
    #[serde(default, rename = "id")]
    _id: IgnoredAny,
    #[serde(default, rename = "time")]
    _time: IgnoredAny,
}

fn given<'de: 'a, 'a, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'a RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

fn record(line: &[u8]) -> Result<LineRecord<'_>, String> {
    // The parser would take an array for the fields in their order.
    if !line.trim_ascii_start().starts_with(b"{") {
        return Err("it is not a record in JSON".into());
    }
    let record: RecordLine<'_> = serde_json::from_slice(line).map_err(|error| broken(&error))?;
    let (kind, value) = match (record.tombstone, record.value, &record.value_base64) {
        (true, None, None) => (Kind::Tombstone, Cow::Borrowed([].as_slice())),
        (true, Some(value), None) if value.get() == "null" => (Kind::Tombstone, Cow::Borrowed([].as_slice())),
        (true, _, _) => return Err("a tombstone has no value".into()),
        (false, Some(value), None) => (Kind::Json, Cow::Borrowed(value.get().as_bytes())),
        (false, None, Some(text)) => {
            let bytes = STANDARD.decode(text).map_err(|error| format!("value_base64 is not base64: {error}"))?;
            (Kind::Bytes, Cow::Owned(bytes))
        }
        (false, None, None) => return Err("the value is missing: value, value_base64, or tombstone true".into()),
        (false, Some(_), Some(_)) => return Err("value and value_base64 are both given".into()),
    };
    let headers = record.headers.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
    Ok(LineRecord { key: record.key.map(Cow::Owned), headers, kind, value })
}

/// What the parser says, without the line, which is always the first.
fn broken(error: &serde_json::Error) -> String {
    let what = if error.is_data() { "it is not what it must be" } else { "it is not JSON" };
    format!("{what}: {}", error.to_string().replace(" at line 1 column ", " at column "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(format: &LineFormat, line: &str) -> Result<(Option<String>, Kind, String), String> {
        let parsed = parse(format, line.as_bytes())?;
        let record = parsed.record();
        Ok((record.key.map(str::to_owned), record.kind, String::from_utf8_lossy(record.value).into_owned()))
    }

    #[test]
    fn a_line_is_a_value_and_a_field_of_it_the_key() {
        let keyed = |line| parsed(&LineFormat::Json { key: Some("id".into()) }, line);
        let plain = |line| parsed(&LineFormat::Json { key: None }, line);
        assert_eq!(plain(" [1, 2.50] \r"), Ok((None, Kind::Json, "[1, 2.50]".into())));
        assert_eq!(plain("\"x\""), Ok((None, Kind::Json, "\"x\"".into())));
        assert_eq!(keyed(r#"{"id":"a\u0062"}"#).unwrap().0.as_deref(), Some("ab"));
        assert_eq!(keyed(r#"{"x":1,"id":17.0}"#).unwrap().0.as_deref(), Some("17.0"));
        for (line, says) in [
            ("hello", "not JSON"),
            ("{} {}", "not JSON"),
            ("[1]", "no object"),
            (r#"{"x":1}"#, "no field \"id\""),
            (r#"{"id":null}"#, "neither a string nor a number"),
        ] {
            assert!(keyed(line).unwrap_err().contains(says), "{line}: {:?}", keyed(line));
        }
    }

    #[test]
    fn a_line_is_text() {
        assert_eq!(parsed(&LineFormat::Text, "héllo\r"), Ok((None, Kind::Text, "héllo".into())));
        assert!(parse(&LineFormat::Text, b"\xff").is_err());
    }

    #[test]
    fn a_line_is_a_record() {
        let read = |line| parsed(&LineFormat::Record, line);
        assert_eq!(read(r#"{"key":"k","value":null}"#), Ok((Some("k".into()), Kind::Json, "null".into())));
        assert_eq!(read(r#"{"value_base64":"AAE="}"#), Ok((None, Kind::Bytes, "\0\u{1}".into())));
        let tombstone = Ok((Some("k".into()), Kind::Tombstone, String::new()));
        assert_eq!(read(r#"{"key":"k","tombstone":true}"#), tombstone);
        assert_eq!(read(r#"{"key":"k","value":null,"tombstone":true}"#), tombstone);
        let tailed =
            r#"{"offset":1,"id":"3f0000010000000a","value":1,"headers":{"a":"b"},"time":"2026-01-01T00:00:00Z"}"#;
        assert_eq!(read(tailed), Ok((None, Kind::Json, "1".into())));
        for (line, says) in [
            ("[]", "not a record"),
            ("{", "not JSON"),
            ("{}", "value is missing"),
            (r#"{"value":1,"value_base64":""}"#, "both"),
            (r#"{"value":1,"tombstone":true}"#, "tombstone has no value"),
            (r#"{"value_base64":"?"}"#, "not base64"),
            (r#"{"valeu":1}"#, "valeu"),
            (r#"{"value":1,"headers":{"a":1}}"#, "string"),
        ] {
            assert!(read(line).unwrap_err().contains(says), "{line}: {:?}", read(line));
        }
    }

    #[tokio::test]
    async fn lines_are_read_one_by_one() {
        let mut input = b"a\n\nb\r\nc".as_slice();
        let mut lines = Vec::new();
        let mut line = Vec::new();
        while read_line(&mut input, &mut line).await.unwrap() {
            lines.push(String::from_utf8(line.clone()).unwrap());
        }
        assert_eq!(lines, ["a", "", "b\r", "c"]);
        let long = vec![b'x'; MAX_LINE_BYTES + 1];
        assert!(matches!(read_line(&mut long.as_slice(), &mut line).await, Err(LineError::TooLong)));
        assert!(matches!(read_line(&mut &long[1..], &mut line).await, Ok(true)));
    }
}
