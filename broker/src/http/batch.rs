//! Records as they are published in JSON, straight into a draft.
//!
//! ```text
//! {"key":"o-17","value":…,"headers":{"name":"value"}}      a JSON value, kept as it was written
//! {"key":"o-17","value_base64":"AAEC"}                     bytes
//! {"key":"o-17","value":null,"tombstone":true}             a tombstone; "value" may be left out
//! ```
//!
//! The same shape as reads answer, less what the log decides. Nothing is built in between: keys,
//! headers and values are borrowed from the body, and a batch is pushed record by record.

use std::borrow::Cow;
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use wire::limits::MAX_RECORD_BYTES;
use wire::record::HeaderPair;
use wire::{Code, Draft, DraftBuilder, Kind, NewRecord};

use crate::http::error::Refusal;

/// Bytes that an encoded record may have more than its JSON: room to be reserved.
const RECORD_ROOM: usize = 64;

/// The draft that a body of `application/json` spells: a record, or an array of them.
pub(crate) fn json(body: &[u8]) -> Result<Draft, Refusal> {
    let mut builder = DraftBuilder::with_capacity(body.len() + RECORD_ROOM);
    match body.iter().find(|byte| !byte.is_ascii_whitespace()) {
        Some(b'{') => push_record(body, MAX_RECORD_BYTES, &mut builder)?,
        Some(b'[') => parse(body, BatchSeed(&mut builder))?,
        Some(_) => return Err(Refusal::new(Code::InvalidBody, "the body must be a record or an array of records")),
        None => return Err(Refusal::new(Code::EmptyBatch, "the body is empty")),
    }
    Ok(builder.finish()?)
}

/// Adds the record that a text spells, if it is not larger than `limit` bytes of key, headers and
/// value. After an error the batch is as it was.
pub(crate) fn push_record(text: &[u8], limit: usize, builder: &mut DraftBuilder) -> Result<(), Refusal> {
    // Nothing is added before the text has ended: what follows a record makes its line no record.
    let Spelled(fields) = serde_json::from_slice(text).map_err(|error| broken(&error))?;
    fields?.push(limit, builder)
}

/// The bytes of the one JSON value that a text is, without the space around it.
pub(crate) fn value(text: &[u8]) -> Result<&[u8], Refusal> {
    match serde_json::from_slice::<&RawValue>(text) {
        Ok(value) => Ok(value.get().as_bytes()),
        Err(error) => Err(broken(&error)),
    }
}

/// Parses the whole of a text.
fn parse<'t>(text: &'t [u8], seed: impl DeserializeSeed<'t, Value = Result<(), Refusal>>) -> Result<(), Refusal> {
    let mut parser = serde_json::Deserializer::from_slice(text);
    let parsed = seed.deserialize(&mut parser).and_then(|pushed| parser.end().map(|()| pushed));
    parsed.unwrap_or_else(|error| Err(broken(&error)))
}

/// What the parser says of a text that is not JSON, or not what stands at the top of this file.
pub(crate) fn broken(error: &serde_json::Error) -> Refusal {
    let what = if error.is_data() { "the JSON is not what this call takes" } else { "the JSON is broken" };
    // Most texts are one line, and a line of NDJSON has a number of its own.
    let error = error.to_string().replace(" at line 1 column ", " at column ");
    Refusal::new(Code::InvalidBody, format!("{what}: {error}"))
}

/// An array of records. What is wrong with one of them is the seed's value rather than an error of
/// the parser, so that it keeps its code; the rest of the text is then only skipped.
struct BatchSeed<'b>(&'b mut DraftBuilder);

impl<'de> DeserializeSeed<'de> for BatchSeed<'_> {
    type Value = Result<(), Refusal>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for BatchSeed<'_> {
    type Value = Result<(), Refusal>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of records")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut records: A) -> Result<Self::Value, A::Error> {
        while let Some(Spelled(fields)) = records.next_element()? {
            if let Err(refusal) = fields.and_then(|fields| fields.push(MAX_RECORD_BYTES, self.0)) {
                while records.next_element::<IgnoredAny>()?.is_some() {}
                return Ok(Err(refusal.within(format_args!("record {} of the batch", self.0.count() + 1))));
            }
        }
        Ok(Ok(()))
    }
}

/// One record as it stands there. A field that does not exist is its value rather than an error of the
/// parser, as with a batch.
struct Spelled<'a>(Result<Fields<'a>, Refusal>);

impl<'de: 'a, 'a> Deserialize<'de> for Spelled<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct RecordVisitor;

        impl<'de> Visitor<'de> for RecordVisitor {
            type Value = Spelled<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a record")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Spelled<'de>, A::Error> {
                let mut fields = Fields::default();
                let mut unknown = None;
                while let Some(Text(name)) = map.next_key()? {
                    match name.as_ref() {
                        "key" => once("key", &mut fields.key, map.next_value()?)?,
                        "value" => once("value", &mut fields.value, map.next_value()?)?,
                        "value_base64" => once("value_base64", &mut fields.value_base64, map.next_value()?)?,
                        "headers" => once("headers", &mut fields.headers, map.next_value()?)?,
                        "tombstone" => once("tombstone", &mut fields.tombstone, map.next_value()?)?,
                        _ => {
                            map.next_value::<IgnoredAny>()?;
                            unknown.get_or_insert(name);
                        }
                    }
                }
                Ok(Spelled(match unknown {
                    None => Ok(fields),
                    Some(name) => {
                        let detail =
                            format!("there is no field {name:?}: key, value, value_base64, headers, tombstone");
                        Err(Refusal::new(Code::UnknownField, detail))
                    }
                }))
            }
        }

        deserializer.deserialize_map(RecordVisitor)
    }
}

fn once<T, E: serde::de::Error>(name: &'static str, field: &mut Option<T>, value: T) -> Result<(), E> {
    match field.replace(value) {
        None => Ok(()),
        Some(_) => Err(E::duplicate_field(name)),
    }
}

/// The fields of a record as they stand there.
#[derive(Default)]
struct Fields<'a> {
    key: Option<Text<'a>>,
    value: Option<&'a RawValue>,
    value_base64: Option<Text<'a>>,
    headers: Option<Pairs<'a>>,
    tombstone: Option<bool>,
}

impl Fields<'_> {
    fn push(&self, limit: usize, builder: &mut DraftBuilder) -> Result<(), Refusal> {
        let refuse = |detail: &str| Err(Refusal::new(Code::InvalidBody, detail));
        let decoded;
        let (kind, value) = match (self.tombstone.unwrap_or(false), self.value, &self.value_base64) {
            (false, Some(value), None) => (Kind::Json, value.get().as_bytes()),
            (false, None, Some(Text(text))) => {
                let broken = |error| Refusal::new(Code::InvalidBody, format!("value_base64 is not base64: {error}"));
                decoded = STANDARD.decode(text.as_bytes()).map_err(broken)?;
                (Kind::Bytes, decoded.as_slice())
            }
            (false, None, None) => return refuse("the value is missing: value, value_base64, or tombstone true"),
            (_, Some(_), Some(_)) => return refuse("value and value_base64 are both given"),
            (true, value, None) if value.is_none_or(|value| value.get() == "null") => (Kind::Tombstone, [].as_slice()),
            (true, _, _) => return refuse("a tombstone has no value"),
        };
        let headers = self.headers.as_ref().map_or([].as_slice(), |pairs| &pairs.0);
        let key = self.key.as_ref().map(|Text(key)| key.as_ref());
        let headers_bytes: usize = headers.iter().map(|(name, value)| name.len() + value.len()).sum();
        let bytes = key.map_or(0, str::len) + headers_bytes + value.len();
        if bytes > limit {
            let detail = format!("a record is {bytes} bytes, the limit is {limit}");
            return Err(Refusal::new(Code::RecordTooLarge, detail));
        }
        Ok(builder.push(&NewRecord { key, headers, kind, value })?)
    }
}

/// A string, borrowed where it has no escapes.
struct Text<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextVisitor;

        impl<'de> Visitor<'de> for TextVisitor {
            type Value = Text<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Text<'de>, E> {
                Ok(Text(text.into()))
            }

            fn visit_str<E>(self, text: &str) -> Result<Text<'de>, E> {
                Ok(Text(text.to_owned().into()))
            }
        }

        deserializer.deserialize_str(TextVisitor)
    }
}

/// An object of strings, in its order.
struct Pairs<'a>(Vec<HeaderPair<'a>>);

impl<'de: 'a, 'a> Deserialize<'de> for Pairs<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PairsVisitor;

        impl<'de> Visitor<'de> for PairsVisitor {
            type Value = Pairs<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of strings")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs<'de>, A::Error> {
                let mut pairs = Vec::new();
                while let Some((Text(name), Text(value))) = map.next_entry()? {
                    pairs.push((name, value));
                }
                Ok(Pairs(pairs))
            }
        }

        deserializer.deserialize_map(PairsVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(body: &str) -> (Option<Code>, String) {
        let refusal = json(body.as_bytes()).unwrap_err();
        (refusal.code(), format!("{refusal:?}"))
    }

    #[test]
    fn a_record_is_kept_as_it_was_written() {
        let body = br#" {"headers":{"a":"1","b\u0021":"\u00e4"},"value": {"x" : [1, 2.50]} ,"key":"k\"1"} "#;
        let draft = json(body).unwrap();
        let record = draft.records().next().unwrap();
        assert_eq!((record.key, record.kind), (Some("k\"1"), Kind::Json));
        assert_eq!(record.value, br#"{"x" : [1, 2.50]}"#);
        assert_eq!(record.headers.collect::<Vec<_>>(), [("a", "1"), ("b!", "ä")]);
    }

    #[test]
    fn a_batch_holds_all_kinds() {
        let draft = json(br#"[{"value":null},{"value_base64":"AAH/"},{"key":"k","tombstone":true,"value":null}]"#);
        let draft = draft.unwrap();
        let records: Vec<_> = draft.records().map(|record| (record.kind, record.value)).collect();
        let expected: [(Kind, &[u8]); 3] = [(Kind::Json, b"null"), (Kind::Bytes, &[0, 1, 255]), (Kind::Tombstone, b"")];
        assert_eq!(records, expected);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let cases = [
            ("", Code::EmptyBatch, "empty"),
            (" \n", Code::EmptyBatch, "empty"),
            ("[]", Code::EmptyBatch, "no record"),
            ("7", Code::InvalidBody, "a record or an array"),
            ("{}", Code::InvalidBody, "the value is missing"),
            ("{\"value\":1", Code::InvalidBody, "broken"),
            ("{\"value\":1}x", Code::InvalidBody, "broken"),
            ("[{\"value\":1},7]", Code::InvalidBody, "expected a record"),
            ("{\"value\":1,\"value\":2}", Code::InvalidBody, "duplicate field `value`"),
            ("{\"value\":1,\"ttl\":2}", Code::UnknownField, "ttl"),
            ("[{\"value\":1},{\"value\":1,\"ttl\":[2]},{\"value\":3}]", Code::UnknownField, "record 2"),
            ("{\"value\":1,\"key\":7}", Code::InvalidBody, "expected a string"),
            ("{\"value\":1,\"key\":\"\"}", Code::InvalidKey, "empty"),
            ("{\"value\":1,\"key\":\"a\\u0000\"}", Code::InvalidKey, "U+0000"),
            ("{\"value\":1,\"headers\":{\"a\":\"x\\r\"}}", Code::InvalidHeaders, "U+000D"),
            ("{\"value\":1,\"headers\":{\"a\":1}}", Code::InvalidBody, "expected a string"),
            ("{\"value\":1,\"value_base64\":\"AA==\"}", Code::InvalidBody, "both"),
            ("{\"value_base64\":\"A\"}", Code::InvalidBody, "not base64"),
            ("{\"tombstone\":true}", Code::InvalidKey, "needs a key"),
            ("{\"key\":\"k\",\"tombstone\":true,\"value\":1}", Code::InvalidBody, "no value"),
        ];
        for (body, code, says) in cases {
            let (found, text) = refusal(body);
            assert_eq!(found, Some(code), "{body}: {text}");
            assert!(text.contains(says), "{body}: {text}");
        }
        assert_eq!(json(b"{\"value\":\"\xff\"}").unwrap_err().code(), Some(Code::InvalidBody));
    }

    #[test]
    fn a_line_that_is_no_record_adds_nothing() {
        let mut builder = DraftBuilder::default();
        push_record(br#"{"value":1}"#, 100, &mut builder).unwrap();
        let before = (builder.count(), builder.encoded_bytes());
        for line in [r#"{"value":1}x"#, r#"{"value":1}{"value":2}"#, r#"{"value":1}]"#, r#"{"value":1,"ttl":2}"#] {
            assert!(push_record(line.as_bytes(), 100, &mut builder).is_err(), "{line}");
            assert_eq!((builder.count(), builder.encoded_bytes()), before, "{line}");
        }
    }

    #[test]
    fn a_batch_over_the_limit_is_refused() {
        let body = format!("[{}{{\"value\":1}}]", "{\"value\":1},".repeat(10_000));
        assert_eq!(refusal(&body).0, Some(Code::BatchTooLarge));
        let body = format!("{{\"value\":\"{}\"}}", "x".repeat(1 << 20));
        assert_eq!(refusal(&body).0, Some(Code::RecordTooLarge));
    }
}
