//! A record as the client hands it out: owned, whatever way it came.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Serialize, Serializer};
use serde_json::value::{RawValue, to_raw_value};
use wire::json::{RecordJson, time_text};
use wire::{Frame, Kind, ObjectId, Offset};

use crate::error::Error;

/// A record of a namespace.
///
/// One that came as a frame (a read, a rebuild) shares the frame's bytes. One that came as JSON (a
/// subscription, a read by key) is a copy, and what JSON can't tell apart is [`Kind::Text`]: a text,
/// and a JSON value that is a string.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    /// Its namespace, where it came over a connection that carries more than one.
    pub namespace: Option<String>,
    /// Its place in the namespace.
    pub offset: Offset,
    /// Its content-addressed id.
    pub id: ObjectId,
    /// Its key, if it has one.
    pub key: Option<String>,
    /// Its headers: name and value.
    pub headers: Vec<(String, String)>,
    /// What the value was published as.
    pub kind: Kind,
    /// The value; empty for a tombstone.
    pub value: Bytes,
    /// When it was appended, microseconds since the Unix epoch.
    pub time_micros: i64,
}

impl Record {
    /// The value as text, where it is UTF-8.
    pub fn text(&self) -> Option<&str> {
        std::str::from_utf8(&self.value).ok()
    }

    /// The value, read from JSON.
    ///
    /// # Errors
    /// Where the value is not JSON, or not that of a `T`.
    pub fn json<T: DeserializeOwned>(&self) -> serde_json::Result<T> {
        serde_json::from_slice(&self.value)
    }

    /// Whether the record deletes its key.
    pub fn is_tombstone(&self) -> bool {
        self.kind == Kind::Tombstone
    }

    /// The record as JSON on one line, without a line break at its end: what the broker answers,
    /// and what NDJSON needs.
    ///
    /// # Errors
    /// Where a value of kind JSON is not JSON, which no broker lets in.
    pub fn json_line(&self) -> serde_json::Result<String> {
        // Inside of strings line breaks are escaped: those that are left stand between tokens.
        Ok(serde_json::to_string(self)?.replace(['\n', '\r'], " "))
    }

    pub(crate) fn of_frame(frame: &Frame, record: &wire::Record<'_>) -> Record {
        Record {
            namespace: None,
            offset: record.offset,
            id: record.id,
            key: record.key.map(str::to_owned),
            headers: record.headers.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
            kind: record.kind,
            value: frame.bytes().slice_ref(record.value),
            time_micros: record.time_micros,
        }
    }

    pub(crate) fn of_json(record: RecordJson) -> Result<Record, Error> {
        let reply = |what: &str, why: String| Error::Reply(format!("record {}: its {what}: {why}", record.offset));
        let id = record.id.parse::<ObjectId>().map_err(|error| reply("id", error.to_string()))?;
        let time = record.time.parse::<jiff::Timestamp>().map_err(|error| reply("time", error.to_string()))?;
        let (kind, value) = match (record.tombstone, &record.value, &record.value_base64) {
            (true, _, _) => (Kind::Tombstone, Bytes::new()),
            (false, Some(value), _) if value.get().starts_with('"') => {
                let text: String = serde_json::from_str(value.get()).map_err(|e| reply("value", e.to_string()))?;
                (Kind::Text, Bytes::from(text))
            }
            (false, Some(value), _) => (Kind::Json, Bytes::copy_from_slice(value.get().as_bytes())),
            (false, None, Some(value)) => {
                let bytes = STANDARD.decode(value).map_err(|error| reply("value", error.to_string()))?;
                (Kind::Bytes, Bytes::from(bytes))
            }
            // `null` reads as nothing.
            (false, None, None) => (Kind::Json, Bytes::from_static(b"null")),
        };
        Ok(Record {
            namespace: record.namespace,
            offset: record.offset,
            id,
            key: record.key,
            headers: record.headers.into_iter().collect(),
            kind,
            value,
            time_micros: time.as_microsecond(),
        })
    }
}

/// The records of a frame.
pub fn records(frame: &Frame) -> impl Iterator<Item = Record> {
    frame.records().map(|record| Record::of_frame(frame, &record))
}

impl Serialize for Record {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let failed = serde::ser::Error::custom::<serde_json::Error>;
        let text = |bytes| std::str::from_utf8(bytes).map_err(serde::ser::Error::custom);
        let (value, value_base64) = match self.kind {
            Kind::Tombstone => (Some(to_raw_value(&()).map_err(failed)?), None),
            Kind::Text => (Some(to_raw_value(text(&self.value)?).map_err(failed)?), None),
            Kind::Json => (Some(RawValue::from_string(text(&self.value)?.to_owned()).map_err(failed)?), None),
            Kind::Bytes => (None, Some(STANDARD.encode(&self.value))),
        };
        let json = RecordJson {
            namespace: self.namespace.clone(),
            offset: self.offset,
            id: self.id.to_string(),
            key: self.key.clone(),
            value,
            value_base64,
            tombstone: self.is_tombstone(),
            headers: self.headers.iter().cloned().collect(),
            time: time_text(self.time_micros),
        };
        json.serialize(serializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn record(kind: Kind, value: &str) -> Record {
        Record {
            namespace: None,
            offset: 17,
            id: "3f0000010000000a".parse().unwrap(),
            key: Some("o-17".into()),
            headers: vec![("a".into(), "1".into())],
            kind,
            value: Bytes::copy_from_slice(value.as_bytes()),
            time_micros: 1_500_000,
        }
    }

    #[test]
    fn a_record_is_printed_as_the_broker_does() {
        let line = record(Kind::Json, "{\n\"total\":12.50}").json_line().unwrap();
        assert_eq!(
            line,
            r#"{"offset":17,"id":"3f0000010000000a","key":"o-17","value":{ "total":12.50},"headers":{"a":"1"},"time":"1970-01-01T00:00:01.5Z"}"#
        );
    }

    #[test]
    fn what_is_no_record_is_refused() {
        let good = r#"{"offset":1,"id":"3f0000010000000a","value":1,"time":"2026-01-01T00:00:00Z"}"#;
        let parse = |text: &str| Record::of_json(serde_json::from_str(text).unwrap());
        assert!(parse(good).is_ok());
        assert_eq!(parse(&good.replace("1,\"time", "null,\"time")).unwrap().value, "null");
        for (from, to) in [("000000a", "0000000"), ("2026", "x")] {
            assert!(matches!(parse(&good.replace(from, to)), Err(Error::Reply(_))), "{to}");
        }
    }

    proptest! {
        #[test]
        fn records_come_back_from_their_json(value: String, kind in 0..4, time in 0..4_000_000_000_000_000i64) {
            let (kind, value) = match kind {
                0 => (Kind::Bytes, value),
                1 => (Kind::Text, value),
                2 => (Kind::Json, format!("[{}]", serde_json::to_string(&value).unwrap())),
                _ => (Kind::Tombstone, String::new()),
            };
            let record = Record { time_micros: time, ..record(kind, &value) };
            let line = record.json_line().unwrap();
            prop_assert!(!line.contains(['\n', '\r']));
            prop_assert_eq!(Record::of_json(serde_json::from_str(&line).unwrap()).unwrap(), record);
        }
    }
}
