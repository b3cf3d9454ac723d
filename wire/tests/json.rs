//! Records as JSON text: whatever a value holds, the text is JSON, says the same, and forges no line.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "common/strategies.rs"]
mod strategies;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;
use serde_json::Value;
use strategies::{batches, frame_of, places};
use wire::json::{Lines, Lost, RecordJson, Reset, ResetLine, time_text, write_record};
use wire::{Chain, Draft, Frame, Kind, NamespaceId, NewRecord, Place, Record};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_record_comes_back_from_its_json(
        batch in batches(),
        place in places(),
        namespace in proptest::option::of("[^\\p{Cc}]{1,20}"),
    ) {
        let frame = frame_of(&batch, &place);
        let time = time_text(frame.time_micros());
        for record in frame.records() {
            for lines in [Lines::Keep, Lines::Fold] {
                let mut text = Vec::new();
                write_record(&mut text, &record, &time, namespace.as_deref(), lines).unwrap();
                let json: RecordJson = serde_json::from_slice(&text).unwrap();
                assert_same(&json, &record, lines);
                prop_assert_eq!((&json.time, &json.namespace), (&time, &namespace));
                if lines == Lines::Fold {
                    prop_assert!(!text.iter().any(|byte| matches!(byte, b'\r' | b'\n')));
                }
                // What was read can be written again.
                let again: Value = serde_json::from_slice(&serde_json::to_vec(&json).unwrap()).unwrap();
                prop_assert_eq!(again, serde_json::from_slice::<Value>(&text).unwrap());
            }
        }
    }

    #[test]
    fn a_line_a_record_is_what_ndjson_holds(batch in batches(), place in places()) {
        let frame = frame_of(&batch, &place);
        let mut text = Vec::new();
        for record in frame.records() {
            write_record(&mut text, &record, "now", None, Lines::Fold).unwrap();
            text.push(b'\n');
        }
        let offsets: Vec<u64> = text
            .split_inclusive(|byte| *byte == b'\n')
            .map(|line| serde_json::from_slice::<RecordJson>(line).unwrap().offset)
            .collect();
        prop_assert_eq!(offsets, (frame.base_offset()..frame.next_offset()).collect::<Vec<_>>());
    }

    #[test]
    fn any_reset_comes_back_from_its_json(from: u64, to: u64, reason: String, namespace: Option<String>) {
        let line = ResetLine { reset: Reset { namespace, lost: Lost { from, to }, reason } };
        let text = serde_json::to_string(&line).unwrap();
        prop_assert!(!text.contains(['\r', '\n']));
        prop_assert_eq!(serde_json::from_str::<ResetLine>(&text).unwrap(), line);
    }

    #[test]
    fn adjacent_ranges_are_one(lengths in proptest::collection::vec((0_u64..3, 1_u64..9), 0..20)) {
        let (mut ranges, mut at) = (Vec::new(), 0);
        let mut lost = Vec::new();
        for (gap, length) in lengths {
            let range = Lost { from: at + gap, to: at + gap + length };
            range.push_to(&mut ranges);
            lost.extend(range.from..range.to);
            at = range.to;
        }
        prop_assert!(ranges.is_sorted_by(|before, after| before.to < after.from));
        prop_assert_eq!(ranges.iter().flat_map(|range| range.from..range.to).collect::<Vec<_>>(), lost);
    }

    #[test]
    fn a_time_is_always_a_timestamp(micros: i64) {
        let time: jiff::Timestamp = time_text(micros).parse().unwrap();
        let bounds = (jiff::Timestamp::MIN.as_microsecond(), jiff::Timestamp::MAX.as_microsecond());
        prop_assert_eq!(time.as_microsecond(), micros.clamp(bounds.0, bounds.1));
    }
}

fn assert_same(json: &RecordJson, record: &Record<'_>, lines: Lines) {
    assert_eq!((json.offset, &json.id), (record.offset, &record.id.to_string()));
    assert_eq!((json.key.as_deref(), json.tombstone), (record.key, record.kind == Kind::Tombstone));
    let headers: Vec<_> = json.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(headers, record.headers.collect::<Vec<_>>());
    let value = json.value.as_ref().map(|value| value.get());
    match record.kind {
        Kind::Tombstone => assert_eq!(value, Some("null")),
        Kind::Bytes => assert_eq!(STANDARD.decode(json.value_base64.as_ref().unwrap()).unwrap(), record.value),
        Kind::Text => {
            let text: String = serde_json::from_str(value.unwrap()).unwrap();
            assert_eq!(text.as_bytes(), record.value);
        }
        Kind::Json => {
            let published = std::str::from_utf8(record.value).unwrap().trim_matches([' ', '\t', '\r', '\n']);
            match lines {
                Lines::Keep => assert_eq!(value, Some(published)),
                Lines::Fold => assert_eq!(value.unwrap(), published.replace(['\r', '\n'], " ")),
            }
            let parse = |text| serde_json::from_str::<Value>(text).unwrap();
            assert_eq!(parse(value.unwrap()), parse(published));
        }
    }
    assert_eq!(json.value_base64.is_some(), record.kind == Kind::Bytes);
    assert_eq!(json.value.is_some(), record.kind != Kind::Bytes);
}

fn shown(record: &NewRecord<'_>) -> String {
    let place = Place {
        position: 0,
        commit_start: 0,
        namespace: NamespaceId::new(1).unwrap(),
        generation: 0,
        base_offset: 0,
        time_micros: 0,
        producer: None,
        chain: Chain::EMPTY,
    };
    let frame: Frame = Draft::of(record).unwrap().place(&place, |_| 1);
    let mut text = Vec::new();
    for record in frame.records() {
        write_record(&mut text, &record, &time_text(0), None, Lines::Fold).unwrap();
    }
    String::from_utf8(text).unwrap()
}

#[test]
fn a_value_that_looks_like_an_event_stays_a_value() {
    let forged = "a\r\n\r\nid: 99\rdata: {}\n\nevent: reset";
    let text = shown(&NewRecord::text(forged));
    assert!(text.contains(r#""value":"a\r\n\r\nid: 99\rdata: {}\n\nevent: reset","#), "{text}");
    let text = shown(&NewRecord::json("{\"a\"\r\n:\n\r1\r}"));
    assert!(text.contains(r#""value":{"a"  :  1 },"#), "{text}");
}

#[test]
fn null_is_a_value_and_no_tombstone() {
    let json: RecordJson = serde_json::from_str(&shown(&NewRecord::json("null").with_key("k"))).unwrap();
    assert_eq!((json.value.map(|value| value.get().to_owned()), json.tombstone), (Some("null".to_owned()), false));
    let json: RecordJson = serde_json::from_str(&shown(&NewRecord::bytes(b""))).unwrap();
    assert!(json.value.is_none());
    assert_eq!(json.value_base64.as_deref(), Some(""));
}

/// JSON's grammar allows what many a parser can't hold: half of a surrogate pair, which is what
/// JavaScript writes for one, and a number past every float. It goes through as it was written.
#[test]
fn json_that_few_can_hold_is_shown_as_it_was_written() {
    for published in [r#""\ud800""#, r#"{"\udc00":[1e999,-1e-999]}"#] {
        let record = NewRecord::json(published);
        assert!(Draft::decode(Draft::of(&record).unwrap().encode()).is_ok());
        let json: RecordJson = serde_json::from_str(&shown(&record)).unwrap();
        assert_eq!(json.value.unwrap().get(), published);
    }
}

#[test]
fn a_reset_as_it_is_spelled() {
    let mut reset = Lost { from: 40, to: 52 }.reset();
    let text = |reset: &Reset| serde_json::to_string(reset).unwrap();
    assert_eq!(text(&reset), r#"{"from":40,"to":52,"reason":"lost"}"#);
    let line = serde_json::to_string(&ResetLine { reset: reset.clone() }).unwrap();
    assert_eq!(line, r#"{"reset":{"from":40,"to":52,"reason":"lost"}}"#);
    reset.namespace = Some("a\"b".into());
    assert_eq!(text(&reset), r#"{"namespace":"a\"b","from":40,"to":52,"reason":"lost"}"#);
    assert_eq!(reset.lost.to_string(), "offsets 40 to 51");
    assert_eq!((Lost { from: 7, to: 8 }).to_string(), "offset 7");
}
