//! Golden bytes: what is stored and sent today must be readable for ever, so the layouts are pinned
//! by fixtures that another implementation made, and by offsets that are written out here.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::borrow::Cow;
use std::path::Path;

use wire::json::{Lines, time_text, write_record};
use wire::{
    Chain, Draft, DraftBuilder, Frame, Kind, NamespaceId, NewRecord, ObjectId, Place, Producer, ProducerId, Shard,
    Trailer,
};

/// Reads a fixture: hex bytes, then `#`, the offset of the line's first byte, and what it is.
fn fixture(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
    let mut bytes = Vec::new();
    for line in std::fs::read_to_string(path).unwrap().lines() {
        let (hex, comment) = line.split_once('#').unwrap_or((line, ""));
        if hex.trim().is_empty() {
            continue;
        }
        let at: usize = comment.split_whitespace().next().unwrap().parse().unwrap();
        assert_eq!(at, bytes.len(), "{name}: {line}");
        bytes.extend(hex.split_whitespace().map(|byte| u8::from_str_radix(byte, 16).unwrap()));
    }
    bytes
}

/// A layout, field by field: where it stands, and its bytes. It must leave no byte out.
fn assert_layout(bytes: &[u8], fields: &[(usize, &str, &[u8])]) {
    let mut end = 0;
    for (at, what, field) in fields {
        assert_eq!(end, *at, "{what} stands elsewhere");
        end = at + field.len();
        assert_eq!(&bytes[*at..end], *field, "{what}");
    }
    assert_eq!(end, bytes.len());
}

const BATCH_JSON: &str = "{\"total\": 12.50,\r\n \"ok\":true}";
const BATCH_TEXT: &str = "Grüße\n\u{2028}東京";

fn one() -> Frame {
    let place = Place {
        position: 0x12340,
        commit_start: 0x12000,
        namespace: NamespaceId::new(1).unwrap(),
        generation: 2,
        base_offset: 0,
        time_micros: 1_700_000_000_123_456,
        producer: None,
        chain: Chain::EMPTY,
    };
    Draft::of(&NewRecord::text("hello")).unwrap().place(&place, |_| 10)
}

fn batch_draft() -> Draft {
    let headers = [("content-language", "de"), ("empty", ""), ("trace", "ä1")]
        .map(|(name, value)| (Cow::Borrowed(name), Cow::Borrowed(value)));
    let mut builder = DraftBuilder::default();
    for record in [
        NewRecord::json(BATCH_JSON).with_key("o-17").with_headers(&headers),
        NewRecord::text(BATCH_TEXT).with_key("o-18"),
        NewRecord::bytes(b"\x00\xff\r\n"),
        NewRecord::tombstone("o-17"),
    ] {
        builder.push(&record).unwrap();
    }
    builder.finish().unwrap()
}

fn batch_producer() -> Producer {
    Producer { id: ProducerId::of("orders-importer").unwrap(), epoch: 7, sequence: (1 << 32) + 9 }
}

fn batch() -> Frame {
    let place = Place {
        position: (1 << 40) + 5,
        commit_start: 1 << 40,
        namespace: NamespaceId::new(0xab_cdef).unwrap(),
        generation: 0x0102_0304,
        base_offset: (1 << 33) + 17,
        time_micros: -1,
        producer: Some(batch_producer()),
        chain: Chain([0x11; 32]),
    };
    let mut counters = [3, 1, 0xffff_fffe, 4].into_iter();
    batch_draft().place(&place, |_| counters.next().unwrap())
}

fn trailer() -> Trailer {
    Trailer {
        namespace: NamespaceId::new(0xab_cdef).unwrap(),
        generation: 3,
        first_offset: 17,
        next_offset: (1 << 33) + 21,
        frames: 1234,
        chain: Chain(std::array::from_fn(|i| 0xa0 + i as u8)),
    }
}

#[test]
fn a_frame_with_one_record_is_these_bytes() {
    assert_eq!(one().bytes()[..], fixture("frame.hex"));
}

#[test]
fn a_batch_is_these_bytes() {
    assert_eq!(batch().bytes()[..], fixture("batch.hex"));
}

#[test]
fn a_draft_is_these_bytes() {
    assert_eq!(batch_draft().encode(), fixture("draft.hex"));
    assert_eq!(Draft::decode(fixture("draft.hex")).unwrap(), batch_draft());
}

#[test]
fn a_trailer_is_these_bytes() {
    assert_eq!(trailer().encode()[..], fixture("trailer.hex"));
    assert_eq!(Trailer::decode(&fixture("trailer.hex")).unwrap(), trailer());
}

#[test]
fn the_frame_with_one_record_says_this() {
    let frame = Frame::decode(fixture("frame.hex").into()).unwrap();
    assert_eq!((frame.position(), frame.end(), frame.commit_start()), (0x12340, 0x12340 + 141, 0x12000));
    assert_eq!((frame.namespace().get(), frame.generation()), (1, 2));
    assert_eq!((frame.base_offset(), frame.next_offset(), frame.record_count()), (0, 1, 1));
    assert_eq!((frame.time_micros(), frame.producer(), frame.len()), (1_700_000_000_123_456, None, 141));
    assert_eq!(frame.chain(), frame.chain_after(&Chain::EMPTY));
    let records: Vec<_> = frame.records().collect();
    assert_eq!(records.len(), 1);
    let record = records[0];
    // BLAKE3 of "hello" begins with ea.
    assert_eq!(record.id, ObjectId::new(Shard(0xea), frame.namespace(), 10));
    assert_eq!(record.id.to_string(), "ea0000010000000a");
    assert_eq!((record.offset, record.time_micros, record.key), (0, frame.time_micros(), None));
    assert_eq!((record.kind, record.value, record.headers.is_empty()), (Kind::Text, b"hello".as_slice(), true));
}

#[test]
fn the_batch_says_this() {
    let frame = Frame::decode(fixture("batch.hex").into()).unwrap();
    assert_eq!((frame.position(), frame.end(), frame.commit_start()), ((1 << 40) + 5, (1 << 40) + 294, 1 << 40));
    assert_eq!((frame.namespace().get(), frame.generation()), (0xab_cdef, 0x0102_0304));
    assert_eq!((frame.base_offset(), frame.next_offset()), ((1 << 33) + 17, (1 << 33) + 21));
    assert_eq!((frame.record_count(), frame.time_micros(), frame.producer()), (4, -1, Some(batch_producer())));
    assert_eq!(frame.chain(), frame.chain_after(&Chain([0x11; 32])));

    let records: Vec<_> = frame.records().collect();
    let ids: Vec<_> = records.iter().map(|record| record.id.to_string()).collect();
    assert_eq!(ids, ["01abcdef00000003", "e8abcdef00000001", "a0abcdeffffffffe", "01abcdef00000004"]);
    let offsets: Vec<_> = records.iter().map(|record| record.offset - (1 << 33)).collect();
    assert_eq!(offsets, [17, 18, 19, 20]);
    let contents: Vec<_> = records.iter().map(|record| (record.key, record.kind, record.value)).collect();
    assert_eq!(
        contents,
        [
            (Some("o-17"), Kind::Json, BATCH_JSON.as_bytes()),
            (Some("o-18"), Kind::Text, BATCH_TEXT.as_bytes()),
            (None, Kind::Bytes, b"\x00\xff\r\n"),
            (Some("o-17"), Kind::Tombstone, b""),
        ]
    );
    let headers: Vec<_> = records[0].headers.collect();
    assert_eq!(headers, [("content-language", "de"), ("empty", ""), ("trace", "ä1")]);
    assert!(records[1..].iter().all(|record| record.headers.is_empty()));
    assert!(records.iter().all(|record| record.shard_is_true()));
}

#[test]
fn a_frame_has_its_fields_where_the_drawing_has_them() {
    let bytes = fixture("batch.hex");
    let hash = |parts: &[&[u8]]| *blake3::hash(&parts.concat()).as_bytes();
    let chain = hash(&[&[0x11; 32], &bytes[64..]]);
    let producer = hash(&[b"orders-importer"]);
    assert_layout(
        &bytes[..120],
        &[
            (0, "magic", b"TLGF"),
            (4, "CRC", &crc32fast::hash(&bytes[8..]).to_le_bytes()),
            (8, "length", &289_u32.to_le_bytes()),
            (12, "version", &[1]),
            (13, "flags", &[0b01]),
            (14, "zero", &[0; 2]),
            (16, "position", &((1_u64 << 40) + 5).to_le_bytes()),
            (24, "commit distance", &5_u32.to_le_bytes()),
            (28, "zero", &[0; 4]),
            (32, "chain", &chain),
            (64, "namespace id", &0xab_cdef_u32.to_le_bytes()),
            (68, "generation", &0x0102_0304_u32.to_le_bytes()),
            (72, "base offset", &((1_u64 << 33) + 17).to_le_bytes()),
            (80, "append time", &(-1_i64).to_le_bytes()),
            (88, "producer id", &producer[..16]),
            (104, "producer epoch", &7_u32.to_le_bytes()),
            (108, "record count", &4_u32.to_le_bytes()),
            (112, "producer sequence", &((1_u64 << 32) + 9).to_le_bytes()),
        ],
    );
    let shard = hash(&[b"o-17"])[0];
    assert_layout(
        &bytes[120..212],
        &[
            (0, "value length", &29_u32.to_le_bytes()),
            (4, "counter", &3_u32.to_le_bytes()),
            (8, "key length", &4_u16.to_le_bytes()),
            (10, "headers length", &43_u16.to_le_bytes()),
            (12, "shard", &[shard]),
            (13, "kind", &[2]),
            (14, "zero", &[0; 2]),
            (16, "key", b"o-17"),
            (20, "headers", "\x10\0\x02\0content-languagede\x05\0\0\0empty\x05\0\x03\0traceä1".as_bytes()),
            (63, "value", BATCH_JSON.as_bytes()),
        ],
    );
}

#[test]
fn a_draft_has_zeros_for_what_the_sequencer_decides() {
    let (draft, frame) = (fixture("draft.hex"), fixture("batch.hex"));
    assert_layout(
        &draft[..120],
        &[
            (0, "magic", b"TLGF"),
            (4, "CRC", &crc32fast::hash(&draft[8..]).to_le_bytes()),
            (8, "length", &289_u32.to_le_bytes()),
            (12, "version", &[1]),
            (13, "flags", &[0b10]),
            (14, "zero, to the record count", &[0; 94]),
            (108, "record count", &4_u32.to_le_bytes()),
            (112, "producer sequence", &[0; 8]),
        ],
    );
    // Records begin at 120, 212, 249 and 269; a frame's differ from a draft's in their counters only.
    let counters: Vec<usize> = [120, 212, 249, 269].into_iter().flat_map(|at| at + 4..at + 8).collect();
    for at in 120..draft.len() {
        let expected = if counters.contains(&at) { 0 } else { frame[at] };
        assert_eq!(draft[at], expected, "byte {at}");
    }
}

#[test]
fn a_trailer_has_its_fields_where_the_drawing_has_them() {
    let bytes = fixture("trailer.hex");
    assert_layout(
        &bytes,
        &[
            (0, "magic", b"TLGE"),
            (4, "CRC", &crc32fast::hash(&bytes[8..]).to_le_bytes()),
            (8, "length", &80_u32.to_le_bytes()),
            (12, "version", &[1]),
            (13, "zero", &[0; 3]),
            (16, "namespace id", &0xab_cdef_u32.to_le_bytes()),
            (20, "generation", &3_u32.to_le_bytes()),
            (24, "first offset", &17_u64.to_le_bytes()),
            (32, "next offset", &((1_u64 << 33) + 21).to_le_bytes()),
            (40, "frames", &1234_u64.to_le_bytes()),
            (48, "chain", &trailer().chain.0),
        ],
    );
}

#[test]
fn the_batch_as_json_is_these_lines() {
    let frame = batch();
    let mut out = Vec::new();
    for record in frame.records() {
        write_record(&mut out, &record, &time_text(frame.time_micros()), None, Lines::Fold).unwrap();
        out.push(b'\n');
    }
    let golden = r#"{"offset":8589934609,"id":"01abcdef00000003","key":"o-17","value":{"total": 12.50,   "ok":true},"headers":{"content-language":"de","empty":"","trace":"ä1"},"time":"1969-12-31T23:59:59.999999Z"}
{"offset":8589934610,"id":"e8abcdef00000001","key":"o-18","value":"Grüße\n東京","time":"1969-12-31T23:59:59.999999Z"}
{"offset":8589934611,"id":"a0abcdeffffffffe","value_base64":"AP8NCg==","time":"1969-12-31T23:59:59.999999Z"}
{"offset":8589934612,"id":"01abcdef00000004","key":"o-17","value":null,"tombstone":true,"time":"1969-12-31T23:59:59.999999Z"}
"#;
    // The golden text leaves out U+2028, which editors show as a line's end.
    assert_eq!(String::from_utf8(out).unwrap().replace('\u{2028}', ""), golden);
}
