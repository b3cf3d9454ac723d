//! Server-Sent Events as text.
//!
//! ```text
//! id: 17⏎                                    the record's offset; or a resume token
//! data: {"offset":17,"id":"3f00…",…}⏎        the record, as reads answer it
//! ⏎
//! ```
//!
//! A parser of events ends a line at LF, CR or CRLF, so `data` is split at all three and each part
//! gets a `data:` of its own: whatever a value holds, it can't begin a field or an event. (Only JSON
//! values can hold them, between tokens, where it makes no difference that the reader gets LF.)
//!
//! Where frames were lost, a stream says so with an event that has a name, and goes on behind it:
//!
//! ```text
//! id: 51⏎                                    the last offset that is lost; or a resume token
//! event: reset⏎
//! data: {"from":40,"to":52,"reason":"lost"}⏎ see [`wire::json::Reset`]
//! ⏎
//! ```
//!
//! What a stream says beside that: a comment to begin with, `retry`, and comments as heartbeats.
//! An event without `data` is not dispatched, but its `id` counts: that is how a follower learns
//! where it is before its first record, and while none of the records are for it.

use bytes::Bytes;
use tlog::{FrameText, SharedFrame};
use wire::json::{Lines, Lost, time_text, write_record};
use wire::{Frame, Offset};

/// What a browser waits before it connects again, milliseconds.
const RETRY_MS: u32 = 1_000;

/// What one waits whose place another connection has taken, milliseconds: an hour.
const SUPERSEDED_RETRY_MS: u32 = 3_600_000;

/// Bytes that a record's text has more than its key and value, as a rule: room to be reserved.
const RECORD_ROOM: usize = 128;

const ID: &[u8] = b"id: ";
const RESET: &[u8] = b"event: reset\n";
const DATA: &[u8] = b"data: ";

/// What a stream begins with; `id` is where it stands, if that is to be known.
pub(crate) fn opening(id: Option<&str>) -> Bytes {
    let mut text = format!(": tlog\nretry: {RETRY_MS}\n");
    push_id(&mut text, id);
    text.into()
}

/// What a stream says when it has had nothing to say for a while.
pub(crate) fn heartbeat(id: &str) -> Bytes {
    let mut text = ":\n".to_owned();
    push_id(&mut text, Some(id));
    text.into()
}

/// What a stream says when another connection has taken its place: not to come back at once, as that would
/// end the other in turn.
pub(crate) fn superseded() -> Bytes {
    let text = format!("retry: {SUPERSEDED_RETRY_MS}\nevent: superseded\ndata: {{}}\n\n");
    text.into()
}

fn push_id(text: &mut String, id: Option<&str>) {
    if let Some(id) = id {
        text.push_str("id: ");
        text.push_str(id);
        text.push('\n');
    }
    text.push('\n');
}

/// A frame's events from an offset on. But for a loss of which a part has passed, they are a part of a
/// text that is made once, and shared by all who follow.
pub(crate) fn events_from(frame: &SharedFrame, from: Offset) -> Bytes {
    let before = from.saturating_sub(frame.base_offset());
    if frame.is_loss() && before > 0 {
        return loss_text(Lost { from, to: frame.next_offset() }).bytes;
    }
    let text = frame.text(frame_text);
    text.bytes.slice(begin_of(text, before as usize)..)
}

/// The event of a frame that holds an offset, or begins behind it, and the offset to go on at.
pub(crate) fn event_at(frame: &SharedFrame, from: Offset) -> (Bytes, Offset) {
    if frame.is_loss() {
        return (events_from(frame, from), frame.next_offset());
    }
    let text = frame.text(frame_text);
    let index = from.saturating_sub(frame.base_offset()) as usize;
    let event = text.bytes.slice(begin_of(text, index)..begin_of(text, index + 1));
    (event, frame.base_offset() + index as u64 + 1)
}

/// Where the event of a frame's `index`th record begins; behind the last, where the text ends.
fn begin_of(text: &FrameText, index: usize) -> usize {
    let Some(before) = index.checked_sub(1) else { return 0 };
    text.ends.get(before).map_or(text.bytes.len(), |end| *end as usize)
}

/// The events of a frame, each with its offset as `id`: one a record; of a loss the one that tells of it.
pub(crate) fn frame_text(frame: &Frame) -> FrameText {
    if frame.is_loss() {
        return loss_text(Lost { from: frame.base_offset(), to: frame.next_offset() });
    }
    let time = time_text(frame.time_micros());
    let count = frame.record_count() as usize;
    let mut text = Vec::with_capacity(frame.len() + count * RECORD_ROOM);
    let mut ends = Vec::with_capacity(count);
    for record in frame.records() {
        text.extend_from_slice(ID);
        text.extend_from_slice(itoa::Buffer::new().format(record.offset).as_bytes());
        text.extend_from_slice(b"\n");
        text.extend_from_slice(DATA);
        let begin = text.len();
        let written = write_record(&mut text, &record, &time, None, Lines::Keep);
        debug_assert!(written.is_ok(), "a Vec takes everything");
        split_lines(&mut text, begin);
        text.extend_from_slice(b"\n\n");
        ends.push(text.len() as u32);
    }
    FrameText { bytes: text.into(), ends: ends.into() }
}

/// The event that tells of a loss; nothing where there is no offset to tell of.
fn loss_text(lost: Lost) -> FrameText {
    let mut text = Vec::new();
    if lost.records() > 0 {
        text.extend_from_slice(ID);
        text.extend_from_slice(itoa::Buffer::new().format(lost.to - 1).as_bytes());
        text.extend_from_slice(b"\n");
        text.extend_from_slice(RESET);
        text.extend_from_slice(DATA);
        let written = serde_json::to_writer(&mut text, &lost.reset());
        debug_assert!(written.is_ok(), "a Vec takes everything");
        text.extend_from_slice(b"\n\n");
    }
    let ends = [text.len() as u32];
    FrameText { bytes: text.into(), ends: ends.into() }
}

/// An event with another `id`, and its namespace: for a stream that carries many. `event` is its text
/// in [`frame_text`]; `namespace` is the namespace's name as JSON.
pub(crate) fn push_event_of(out: &mut Vec<u8>, event: &[u8], id: &str, namespace: &str) {
    let line = memchr::memchr(b'\n', event).map_or(0, |end| end + 1);
    let rest = event.get(line..).unwrap_or_default();
    let (name, rest) = rest.strip_prefix(RESET).map_or((&b""[..], rest), |rest| (RESET, rest));
    let object = rest.get(DATA.len() + 1..).unwrap_or_default();
    out.extend_from_slice(ID);
    out.extend_from_slice(id.as_bytes());
    out.extend_from_slice(b"\n");
    out.extend_from_slice(name);
    out.extend_from_slice(b"data: {\"namespace\":");
    out.extend_from_slice(namespace.as_bytes());
    out.push(b',');
    out.extend_from_slice(object);
}

/// Makes what stands from `begin` on, behind a `data:`, into as many lines of data as it has.
fn split_lines(text: &mut Vec<u8>, begin: usize) {
    let Some(first) = memchr::memchr2(b'\n', b'\r', &text[begin..]) else { return };
    let rest = text.split_off(begin + first);
    let mut at = 0;
    while at < rest.len() {
        // A line break stands at `at`.
        at += if rest[at..].starts_with(b"\r\n") { 2 } else { 1 };
        let end = memchr::memchr2(b'\n', b'\r', &rest[at..]).map_or(rest.len(), |next| at + next);
        text.push(b'\n');
        text.extend_from_slice(DATA);
        text.extend_from_slice(&rest[at..end]);
        at = end;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use wire::json::Reset;
    use wire::loss::{Known, Loss, MIN_LOSS_BYTES};
    use wire::{Chain, Draft, DraftBuilder, Kind, NamespaceId, NewRecord, Place};

    use super::*;

    fn loss(base_offset: u64, count: u32) -> SharedFrame {
        let namespace = NamespaceId::new(3).unwrap();
        let known = Known::nothing(namespace);
        let (position, length, generation, time_micros) = (0, MIN_LOSS_BYTES, 1, 0);
        let loss = Loss { position, length, namespace, generation, base_offset, count, time_micros, known };
        SharedFrame::new(loss.encode().unwrap())
    }

    /// An event as the standard's parser dispatches it.
    #[derive(Debug, PartialEq, Eq)]
    struct Event {
        kind: String,
        id: String,
        data: String,
    }

    /// "Interpreting an event stream", step by step as the HTML standard has it.
    fn parse(stream: &str) -> Vec<Event> {
        let (mut events, mut last_id, mut kind, mut data) = (Vec::new(), String::new(), String::new(), String::new());
        let normal = stream.replace("\r\n", "\n").replace('\r', "\n");
        for line in normal.split_terminator('\n') {
            if line.is_empty() {
                if !data.is_empty() {
                    data.pop();
                    events.push(Event { kind: kind.clone(), id: last_id.clone(), data: data.clone() });
                }
                (data, kind) = (String::new(), String::new());
                continue;
            }
            let (field, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "event" => kind = value.to_owned(),
                "data" => {
                    data.push_str(value);
                    data.push('\n');
                }
                "id" if !value.contains('\0') => last_id = value.to_owned(),
                _ => {}
            }
        }
        events
    }

    fn frame(draft: Draft) -> Frame {
        let namespace = NamespaceId::new(3).unwrap();
        draft.place(
            &Place {
                position: 0,
                commit_start: 0,
                namespace,
                generation: 1,
                base_offset: 17,
                time_micros: 0,
                producer: None,
                chain: Chain::EMPTY,
            },
            |_| 10,
        )
    }

    #[test]
    fn golden_event() {
        let draft = Draft::of(&NewRecord::json("{\"a\":\r\n1}").with_key("k")).unwrap();
        let text = frame_text(&frame(draft));
        let expected = "id: 17\ndata: {\"offset\":17,\"id\":\"5c0000030000000a\",\"key\":\"k\",\"value\":{\"a\":\n\
                        data: 1},\"time\":\"1970-01-01T00:00:00Z\"}\n\n";
        assert_eq!(std::str::from_utf8(&text.bytes).unwrap(), expected);
        assert_eq!(&*text.ends, [expected.len() as u32]);

        let mut many = Vec::new();
        push_event_of(&mut many, &text.bytes, "token", "\"a b\"");
        let events = parse(std::str::from_utf8(&many).unwrap());
        assert_eq!(events[0].id, "token");
        assert!(events[0].data.starts_with("{\"namespace\":\"a b\",\"offset\":17,"), "{}", events[0].data);
        assert!(events[0].data.ends_with("Z\"}"));
    }

    #[test]
    fn golden_reset() {
        let frame = loss(40, 12);
        let expected = "id: 51\nevent: reset\ndata: {\"from\":40,\"to\":52,\"reason\":\"lost\"}\n\n";
        for (from, whole) in [(0, true), (40, true), (45, false)] {
            let text = events_from(&frame, from);
            let expected = if whole { expected.to_owned() } else { expected.replace("40", "45") };
            assert_eq!(std::str::from_utf8(&text).unwrap(), expected);
            assert_eq!(event_at(&frame, from), (text.clone(), 52));
            // Made once, and shared.
            assert_eq!(text.as_ptr() == events_from(&frame, from).as_ptr(), whole);
        }
        let mut many = Vec::new();
        push_event_of(&mut many, &events_from(&frame, 0), "token", "\"a b\"");
        let expected = expected.replace("51", "token").replace("{", "{\"namespace\":\"a b\",");
        assert_eq!(std::str::from_utf8(&many).unwrap(), expected);
        assert_eq!(event_at(&loss(40, 0), 40), (Bytes::new(), 40));
    }

    #[test]
    fn what_is_said_beside_records_is_no_event() {
        assert_eq!(parse(std::str::from_utf8(&opening(Some("16"))).unwrap()), []);
        assert_eq!(parse(std::str::from_utf8(&heartbeat("16")).unwrap()), []);
        let id = "id: 16\n\n";
        assert!(opening(Some("16")).ends_with(id.as_bytes()) && heartbeat("16").ends_with(id.as_bytes()));
    }

    /// Values of all kinds that try to forge events.
    fn value() -> impl Strategy<Value = (Kind, Vec<u8>)> {
        let piece =
            prop::sample::select(vec!["\r", "\n", "\r\n", "id: 1", "data:", ":", "event: reset", " ", "ä", "\0"]);
        let text = prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat());
        let space = prop::sample::select(vec!["", "\r", "\n", "\r\n", "\n\r", "\r\r\n\n", " "]);
        let json = (prop::collection::vec(space, 4), text.clone()).prop_map(|(space, text)| {
            let text = serde_json::to_string(&text).unwrap();
            format!("[{}{text}{},{}7{}]", space[0], space[1], space[2], space[3])
        });
        prop_oneof![
            text.prop_map(|text| (Kind::Text, text.into_bytes())),
            json.prop_map(|json| (Kind::Json, json.into_bytes())),
            prop::collection::vec(any::<u8>(), 0..20).prop_map(|bytes| (Kind::Bytes, bytes)),
        ]
    }

    proptest! {
        #[test]
        fn a_standard_parser_reads_back_what_went_in(values in prop::collection::vec(value(), 1..5)) {
            let mut builder = DraftBuilder::default();
            for (kind, value) in &values {
                builder.push(&NewRecord { key: None, headers: &[], kind: *kind, value }).unwrap();
            }
            let frame = frame(builder.finish().unwrap());
            let text = frame_text(&frame);
            let events = parse(std::str::from_utf8(&text.bytes).unwrap());
            prop_assert_eq!(events.len(), values.len());
            for ((event, record), (kind, value)) in events.iter().zip(frame.records()).zip(&values) {
                prop_assert_eq!((&event.kind, &event.id), (&String::new(), &record.offset.to_string()));
                let read: wire::json::RecordJson = serde_json::from_str(&event.data).unwrap();
                let spelled = read.value.as_ref().map(|value| value.get());
                match kind {
                    Kind::Json => {
                        let sent = std::str::from_utf8(value).unwrap().replace("\r\n", "\n").replace('\r', "\n");
                        prop_assert_eq!(spelled.unwrap(), sent);
                    }
                    Kind::Text => {
                        let text: String = serde_json::from_str(spelled.unwrap()).unwrap();
                        prop_assert_eq!(text.as_bytes(), value.as_slice());
                    }
                    _ => prop_assert!(read.value_base64.is_some()),
                }
            }
        }

        #[test]
        fn a_standard_parser_reads_back_what_is_lost(base in 0..1_u64 << 53, count in 1_u32.., passed: u32, name: String) {
            let frame = loss(base, count);
            let lost = Lost { from: base + u64::from(passed % count), to: base + u64::from(count) };
            let event = events_from(&frame, lost.from);
            let mut many = Vec::new();
            push_event_of(&mut many, &event, "token", &serde_json::to_string(&name).unwrap());
            for (text, id, namespace) in [(&event[..], (lost.to - 1).to_string(), None), (&many[..], "token".into(), Some(name))] {
                let events = parse(std::str::from_utf8(text).unwrap());
                prop_assert_eq!((events.len(), &*events[0].kind, &events[0].id), (1, "reset", &id));
                let read: Reset = serde_json::from_str(&events[0].data).unwrap();
                prop_assert_eq!(read, Reset { namespace, ..lost.reset() });
            }
        }

        #[test]
        fn each_record_is_found_by_its_end(values in prop::collection::vec(value(), 1..5)) {
            let mut builder = DraftBuilder::default();
            for (kind, value) in &values {
                builder.push(&NewRecord { key: None, headers: &[], kind: *kind, value }).unwrap();
            }
            let text = frame_text(&frame(builder.finish().unwrap()));
            let mut begin = 0;
            for (index, end) in text.ends.iter().enumerate() {
                let events = parse(std::str::from_utf8(&text.bytes[begin..*end as usize]).unwrap());
                prop_assert_eq!(events.len(), 1);
                prop_assert_eq!(&events[0].id, &(17 + index).to_string());
                begin = *end as usize;
            }
        }
    }
}
