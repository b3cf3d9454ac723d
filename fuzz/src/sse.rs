//! Events as text: a parser written from the HTML standard reads back exactly what went in.
//!
//! ```text
//! 0  mode   bit 0: a frame as it stands in a log, forged · else records of any kind
//! 1  the frame or the records
//! ```

use std::borrow::Cow;

use arbitrary::{Result as Taken, Unstructured};
use broker::fuzzing;
use bytes::Bytes;
use wire::json::{Lines, RecordJson, time_text, write_record};
use wire::record::HeaderPair;
use wire::{Chain, DraftBuilder, Frame, Kind, NamespaceId, NewRecord, Place};

use crate::forge::Forge;

/// Space that may stand between the tokens of JSON, and ends lines of an event stream.
const SPACES: [&str; 7] = ["", "\r", "\n", "\r\n", "\n\r", "\r\r\n\n", " \t"];

/// Runs the target.
pub fn run(data: &[u8]) {
    let [mode, rest @ ..] = data else { return };
    if mode & 1 == 0 {
        if let Ok(Some(frame)) = frame_of(&mut Unstructured::new(rest)) {
            check(&frame);
            frame.records().for_each(|record| check_content(&record));
        }
        return;
    }
    let mut bytes = rest.to_vec();
    Forge::new(true, false).seal(&mut bytes, 0);
    let length = Frame::length(&bytes).unwrap_or(0).min(bytes.len());
    if let Ok(frame) = Frame::decode(Bytes::copy_from_slice(&bytes[..length])) {
        check(&frame);
    }
}

/// An event as the standard's parser dispatches it.
#[derive(Debug, PartialEq, Eq)]
struct Event {
    kind: String,
    id: String,
    data: String,
}

/// "Interpreting an event stream", step by step: <https://html.spec.whatwg.org/multipage/server-sent-events.html>.
fn parse(stream: &[u8]) -> Vec<Event> {
    let text = String::from_utf8_lossy(stream);
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let (mut events, mut last_id) = (Vec::new(), String::new());
    let (mut kind, mut data) = (String::new(), String::new());
    let mut rest = text;
    // What stands behind the last line end is no line yet.
    while let Some(end) = rest.find(['\r', '\n']) {
        let line = &rest[..end];
        rest = rest[end..].strip_prefix("\r\n").unwrap_or(&rest[end + 1..]);
        if line.is_empty() {
            if data.pop().is_some() {
                events.push(Event { kind: kind.clone(), id: last_id.clone(), data: data.clone() });
            }
            (kind, data) = (String::new(), String::new());
            continue;
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut kind),
            "data" => {
                data.push_str(value);
                data.push('\n');
            }
            "id" if !value.contains('\0') => value.clone_into(&mut last_id),
            // A comment, `retry`, or what the standard does not know.
            _ => {}
        }
    }
    events
}

/// One event for each record, its offset as `id`, its JSON as data, whatever the values hold.
fn check(frame: &Frame) {
    let text = fuzzing::events(frame);
    let stream = [&fuzzing::opening(Some("16")), &text.bytes[..], &fuzzing::heartbeat("99"), &text.bytes].concat();
    let events = parse(&stream);
    let count = frame.record_count() as usize;
    assert_eq!((events.len(), text.ends.len()), (2 * count, count), "no event is lost, none is forged");
    assert_eq!(events[..count], events[count..]);
    let time = time_text(frame.time_micros());
    let mut begin = 0;
    for ((event, record), end) in events.iter().zip(frame.records()).zip(&text.ends) {
        let mut json = Vec::new();
        write_record(&mut json, &record, &time, None, Lines::Keep).unwrap();
        let data = with_lf(std::str::from_utf8(&json).unwrap());
        assert_eq!(event, &Event { kind: String::new(), id: record.offset.to_string(), data: data.clone() });

        let one = &text.bytes[begin..*end as usize];
        begin = *end as usize;
        let named = parse(&fuzzing::event_of(one, "token", "\"a \\\" b\""));
        let data = data.replacen('{', "{\"namespace\":\"a \\\" b\",", 1);
        assert_eq!(named, [Event { kind: String::new(), id: "token".into(), data }]);
    }
    assert_eq!(begin, text.bytes.len());
}

/// The JSON of an event says what was published.
fn check_content(record: &wire::Record<'_>) {
    let mut json = Vec::new();
    write_record(&mut json, record, &time_text(record.time_micros), None, Lines::Keep).unwrap();
    let read: RecordJson = serde_json::from_str(&with_lf(std::str::from_utf8(&json).unwrap())).unwrap();
    assert_eq!((read.key.as_deref(), read.offset), (record.key, record.offset));
    assert_eq!(read.id, record.id.to_string());
    let headers: Vec<_> = record.headers.collect();
    assert_eq!(headers.len(), read.headers.len());
    assert!(headers.iter().all(|(name, value)| read.headers[*name] == *value));
    assert_eq!(read.tombstone, record.kind == Kind::Tombstone);
    let value = read.value.as_ref().map(|value| value.get());
    let sent = String::from_utf8_lossy(record.value);
    match record.kind {
        Kind::Json => assert_eq!(value, Some(with_lf(&sent).trim_matches([' ', '\t', '\n', '\r']))),
        Kind::Text => assert_eq!(serde_json::from_str::<String>(value.unwrap()).unwrap(), sent),
        Kind::Tombstone => assert_eq!(value, Some("null")),
        Kind::Bytes => {
            use base64::Engine;
            let bytes = base64::engine::general_purpose::STANDARD.decode(read.value_base64.unwrap());
            assert_eq!(bytes.as_deref(), Ok(record.value));
        }
    }
}

fn with_lf(text: &str) -> String {
    text.replace("\r\n", "\n").replace('\r', "\n")
}

/// A frame of records that could have been published.
fn frame_of(input: &mut Unstructured<'_>) -> Taken<Option<Frame>> {
    let mut builder = DraftBuilder::default();
    for _ in 0..input.int_in_range(1..=4)? {
        let key: Option<&str> = input.arbitrary()?;
        let kind = *input.choose(&[Kind::Bytes, Kind::Text, Kind::Json, Kind::Tombstone])?;
        let headers: Vec<HeaderPair<'_>> = (0..input.int_in_range(0..=3)?)
            .map(|_| Ok((Cow::from(input.arbitrary::<&str>()?), Cow::from(input.arbitrary::<&str>()?))))
            .collect::<Taken<_>>()?;
        let value = match kind {
            Kind::Tombstone => Vec::new(),
            Kind::Bytes => input.arbitrary::<&[u8]>()?.to_vec(),
            Kind::Text => input.arbitrary::<&str>()?.into(),
            Kind::Json => json_text(input)?.into_bytes(),
        };
        // What can't be published is not what is tried here.
        let _refused = builder.push(&NewRecord { key, headers: &headers, kind, value: &value });
    }
    let place = Place {
        position: 0,
        commit_start: 0,
        namespace: NamespaceId::new(3).unwrap(),
        generation: 1,
        base_offset: u64::from(input.arbitrary::<u32>()?),
        time_micros: input.arbitrary()?,
        producer: None,
        chain: Chain::EMPTY,
    };
    Ok(builder.finish().ok().map(|draft| draft.place(&place, |_| 1)))
}

/// A JSON text: the input where it is one, else the input as a string among others, with space that
/// tries to end lines.
fn json_text(input: &mut Unstructured<'_>) -> Taken<String> {
    let text: &str = input.arbitrary()?;
    if serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok() {
        return Ok(text.to_owned());
    }
    let string = serde_json::to_string(text).unwrap();
    let mut json = String::from("[");
    for token in [string.as_str(), ",", "{", "\"id\"", ":", "7", "}", "]"] {
        json.push_str(input.choose(&SPACES)?);
        json.push_str(token);
    }
    Ok(json)
}
