//! Bodies of a publish: JSON and NDJSON.
//!
//! ```text
//! 0  mode   0: JSON · 1: NDJSON · 2: records that are spelled in JSON first
//! 1  the body; with NDJSON one byte before it says how the body is cut into pieces
//! ```
//!
//! What is taken must be what `serde_json` reads in the same text, and a draft that a broker takes from
//! elsewhere: all that a publisher could have got wrong has been found.

use arbitrary::{Result as Taken, Unstructured};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use broker::fuzzing;
use bytes::Bytes;
use serde_json::{Map, Value, json};
use wire::limits::{MAX_LINE_BYTES, MAX_RECORD_BYTES};
use wire::{Draft, DraftBuilder, Kind, Record};

/// The limit of a namespace that takes only small records.
const SMALL_RECORD_BYTES: usize = 64;

/// Runs the target.
pub fn run(data: &[u8]) {
    let [mode, body @ ..] = data else { return };
    match mode % 4 {
        0 | 3 => json_body(body),
        1 => ndjson_body(body, if mode & 4 == 0 { MAX_RECORD_BYTES } else { SMALL_RECORD_BYTES }),
        _ => drop(spelled(&mut Unstructured::new(body))),
    }
}

fn json_body(body: &[u8]) {
    match fuzzing::json(body) {
        Ok(draft) => check_draft(draft, body),
        Err(code) => assert!((400..500).contains(&code.unwrap().status()), "a body is the caller's fault"),
    }
}

/// Holds a draft against what `serde_json` reads in its body. What that one does not read though it is
/// JSON (a number out of its range, a lone surrogate, a great depth) is kept as it was written.
fn check_draft(draft: Draft, body: &[u8]) {
    if let Ok(read) = serde_json::from_slice::<Value>(body) {
        let read = match read {
            Value::Array(records) => records,
            record => vec![record],
        };
        assert_eq!(read.len(), draft.record_count() as usize);
        for (record, read) in draft.records().zip(&read) {
            check_record(&record, read.as_object().unwrap());
        }
    }
    let again: Vec<_> = draft.records().map(|record| record.encoded.to_vec()).collect();
    let taken = Draft::decode(draft.encode()).expect("what JSON spells is a draft that is taken");
    assert_eq!(again, taken.records().map(|record| record.encoded.to_vec()).collect::<Vec<_>>());
}

fn check_record(record: &Record<'_>, read: &Map<String, Value>) {
    for field in read.keys() {
        assert!(["key", "value", "value_base64", "headers", "tombstone"].contains(&field.as_str()), "{field}");
    }
    assert_eq!(record.key, read.get("key").map(|key| key.as_str().unwrap()));
    match record.kind {
        Kind::Json => assert_eq!(&serde_json::from_slice::<Value>(record.value).unwrap(), &read["value"]),
        Kind::Bytes => assert_eq!(record.value, STANDARD.decode(read["value_base64"].as_str().unwrap()).unwrap()),
        Kind::Tombstone => {
            assert_eq!(read["tombstone"], true);
            assert!(read.get("value").is_none_or(Value::is_null) && !read.contains_key("value_base64"));
        }
        Kind::Text => panic!("JSON has no text values"),
    }
    let empty = Map::new();
    let headers = read.get("headers").map_or(&empty, |headers| headers.as_object().unwrap());
    assert_eq!(record.headers.count(), headers.len());
    assert!(record.headers.into_iter().all(|(name, value)| headers[name] == value));
}

fn ndjson_body(body: &[u8], limit: usize) {
    let Some((pieces, body)) = body.split_first() else { return };
    let size = usize::from(*pieces) + 1;
    let Some(lines) = fuzzing::lines(body.chunks(size).map(Bytes::copy_from_slice)) else {
        return assert!(body.len() > MAX_LINE_BYTES);
    };
    let expected: Vec<&[u8]> = body.split(|byte| *byte == b'\n').collect();
    assert_eq!(lines, expected, "lines do not depend on the pieces");
    let mut builder = DraftBuilder::default();
    let mut taken = Vec::new();
    for line in lines.iter().filter(|line| !line.trim_ascii().is_empty()) {
        let before = (builder.count(), builder.encoded_bytes());
        if fuzzing::push_record(line, limit, &mut builder).is_err() {
            assert_eq!((builder.count(), builder.encoded_bytes()), before, "after an error the batch is as it was");
            let is_record = line.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{');
            assert!(!is_record || limit < MAX_RECORD_BYTES || fuzzing::json(line).is_err());
        } else {
            taken.push(line.as_ref());
        }
    }
    let array = [b"[", taken.join(&b","[..]).as_slice(), b"]"].concat();
    match builder.finish() {
        Ok(draft) => assert_eq!(fuzzing::json(&array), Ok(draft), "lines are the records of an array"),
        Err(_) => assert!(taken.is_empty()),
    }
}

/// Records that a client spells: all are taken, unless the limits say otherwise.
fn spelled(input: &mut Unstructured<'_>) -> Taken<()> {
    let mut records = Vec::new();
    let mut valid = true;
    for _ in 0..input.int_in_range(1..=6)? {
        let (record, ok) = record(input)?;
        records.push(record);
        valid &= ok;
    }
    let body = serde_json::to_vec(&records).unwrap();
    match fuzzing::json(&body) {
        Ok(draft) => {
            assert!(valid, "{}", String::from_utf8_lossy(&body));
            check_draft(draft, &body);
        }
        Err(code) => assert!(!valid, "{code:?}: {}", String::from_utf8_lossy(&body)),
    }
    Ok(())
}

/// A record's JSON, and whether it is one.
fn record(input: &mut Unstructured<'_>) -> Taken<(Value, bool)> {
    let mut record = json!({});
    let mut valid = true;
    if input.arbitrary()? {
        let key: &str = input.arbitrary()?;
        valid &= wire::name::check_key(key).is_ok();
        record["key"] = key.into();
    }
    match input.int_in_range(0..=3)? {
        0 => record["value"] = input.arbitrary::<&str>()?.into(),
        1 => record["value"] = json!({"a": [input.arbitrary::<i64>()?, null, true], "b": input.arbitrary::<f64>()?}),
        2 => record["value_base64"] = STANDARD.encode(input.arbitrary::<&[u8]>()?).into(),
        _ => {
            valid &= record.get("key").is_some();
            record["tombstone"] = true.into();
        }
    }
    let pairs: Vec<(&str, &str)> = (0..input.int_in_range(0..=4)?).map(|_| input.arbitrary()).collect::<Taken<_>>()?;
    if !pairs.is_empty() {
        let headers: Map<String, Value> = pairs.iter().map(|(n, v)| ((*n).to_owned(), Value::from(*v))).collect();
        let kept = headers.iter().map(|(name, value)| (name.as_str(), value.as_str().unwrap_or_default()));
        valid &= wire::name::check_headers(kept).is_ok();
        record["headers"] = headers.into();
    }
    Ok((record, valid))
}
