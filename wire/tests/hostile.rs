//! Bytes that nobody of ours wrote: none makes a decoder panic, and whatever gets past the CRC meets
//! a rule for each thing that it could get wrong.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "common/seal.rs"]
mod seal;
#[path = "common/strategies.rs"]
mod strategies;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use seal::{seal, seal_crc};
use strategies::{batches, draft_of, frame_of, places};
use wire::json::{Lines, RecordJson, time_text, write_record};
use wire::{
    Chain, Draft, DraftError, Frame, FrameDecoder, FrameError, NamespaceId, NewRecord, ObjectId, Place, Record,
    StreamItem, Trailer,
};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8000))]

    #[test]
    fn arbitrary_bytes_panic_nowhere(
        bytes in vec(any::<u8>(), 0..400),
        magic in prop_oneof![Just(None), Just(Some(b"TLGF")), Just(Some(b"TLGE"))],
        sizes in vec(1_usize..100, 1..4),
    ) {
        let mut bytes = bytes;
        if let (Some(magic), 4..) = (magic, bytes.len()) {
            bytes[..4].copy_from_slice(magic);
        }
        decode_everything(&bytes, &sizes);
    }

    #[test]
    fn a_sealed_frame_of_arbitrary_bytes_panics_nowhere(
        body in vec(any::<u8>(), 136..500),
        plausible: bool,
        count in 1_u32..4,
        sizes in vec(1_usize..100, 1..4),
    ) {
        let mut bytes = body;
        if plausible {
            // Past the header's rules, so that the records' are met.
            bytes[12..16].copy_from_slice(&[1, 1, 0, 0]);
            bytes[28..32].fill(0);
            bytes[67] = 0;
            bytes[108..112].copy_from_slice(&count.to_le_bytes());
        }
        seal(&mut bytes);
        decode_everything(&bytes, &sizes);
    }

    #[test]
    fn a_sealed_frame_with_arbitrary_edits_panics_nowhere(
        batch in batches(),
        place in places(),
        edits in vec((any::<Index>(), prop_oneof![vec(any::<u8>(), 1..9), vec(Just(0xff), 1..9), vec(0_u8..4, 1..5)]), 1..4),
        cut in proptest::option::of(any::<Index>()),
        sizes in vec(1_usize..100, 1..4),
    ) {
        for bytes in [frame_of(&batch, &place).bytes().to_vec(), draft_of(&batch).encode()] {
            let mut bytes = bytes;
            for (at, edit) in &edits {
                let at = at.index(bytes.len());
                bytes.iter_mut().skip(at).zip(edit).for_each(|(byte, new)| *byte = *new);
            }
            if let Some(cut) = cut {
                bytes.truncate(12 + cut.index(bytes.len() - 12));
            }
            seal(&mut bytes);
            decode_everything(&bytes, &sizes);
        }
    }

    #[test]
    fn a_sealed_trailer_of_arbitrary_bytes_panics_nowhere(body: [u8; 40], rest: [u8; 40], plausible: bool) {
        let mut bytes = [body, rest].concat();
        bytes[..4].copy_from_slice(b"TLGE");
        if plausible {
            bytes[8..16].copy_from_slice(&[80, 0, 0, 0, 1, 0, 0, 0]);
            bytes[19] = 0;
        }
        seal_crc(&mut bytes);
        if let Ok(trailer) = Trailer::decode(&bytes) {
            prop_assert_eq!(&trailer.encode()[..], &bytes[..]);
            prop_assert!(trailer.first_offset <= trailer.next_offset);
        }
        decode_everything(&bytes, &[7]);
    }

    #[test]
    fn a_record_of_arbitrary_bytes_panics_nowhere(
        bytes in vec(any::<u8>(), 0..200),
        lengths in (0_u32..60, 0_u16..40, 0_u16..40, 0_u8..5),
    ) {
        let namespace = NamespaceId::new(1).unwrap();
        read_record(&bytes, namespace);
        let mut bytes = bytes;
        if bytes.len() >= 16 {
            bytes[..4].copy_from_slice(&lengths.0.to_le_bytes());
            bytes[8..10].copy_from_slice(&lengths.1.to_le_bytes());
            bytes[10..12].copy_from_slice(&lengths.2.to_le_bytes());
            bytes[13..16].copy_from_slice(&[lengths.3, 0, 0]);
            read_record(&bytes, namespace);
        }
    }
}

/// Gives the bytes to every decoder, and reads all of what one takes.
fn decode_everything(bytes: &[u8], sizes: &[usize]) {
    if let Ok(frame) = Frame::decode(bytes.to_vec().into()) {
        read_frame(&frame);
    }
    if let Ok(draft) = Draft::decode(bytes.to_vec()) {
        read_draft(draft);
    }
    if let Ok(trailer) = Trailer::decode(bytes) {
        assert_eq!(trailer.encode()[..], *bytes);
    }
    let mut decoder = FrameDecoder::default();
    let mut rest = bytes;
    for size in sizes.iter().cycle() {
        let (chunk, after) = rest.split_at((*size).min(rest.len()));
        decoder.push(chunk);
        rest = after;
        while let Ok(Some(item)) = decoder.next() {
            if let StreamItem::Frame(frame) = item {
                read_frame(&frame);
            }
        }
        if rest.is_empty() {
            break;
        }
    }
    read_record(bytes, NamespaceId::new(1).unwrap());
}

fn read_frame(frame: &Frame) {
    assert_eq!(frame.end() - frame.position(), frame.len() as u64);
    assert!(frame.commit_start() <= frame.position());
    assert_eq!(frame.next_offset() - frame.base_offset(), u64::from(frame.record_count()));
    assert_eq!(frame.records().count(), frame.record_count() as usize);
    assert_ne!(frame.chain_after(&frame.chain()), frame.chain());
    let _ = (frame.generation(), frame.producer());
    let time = time_text(frame.time_micros());
    for record in frame.records() {
        if frame.namespace() != NamespaceId::CONTROL {
            assert_eq!(record.id.to_string().parse(), Ok(record.id));
        }
        write_record(&mut Vec::new(), &record, &time, Some("ns"), Lines::Fold).unwrap();
    }
}

/// A draft that is taken can be placed, read back, and shown.
fn read_draft(draft: Draft) {
    let place = Place {
        position: 1 << 40,
        commit_start: 0,
        namespace: NamespaceId::new(1).unwrap(),
        generation: 0,
        base_offset: 0,
        time_micros: 0,
        producer: None,
        chain: Chain::EMPTY,
    };
    let count = draft.record_count();
    let frame = Frame::decode(draft.place(&place, |_| 1).bytes().clone()).unwrap();
    assert_eq!(frame.records().count(), count as usize);
    for record in frame.records() {
        let mut text = Vec::new();
        write_record(&mut text, &record, "now", None, Lines::Fold).unwrap();
        assert!(!text.iter().any(|byte| matches!(byte, b'\r' | b'\n')));
        serde_json::from_slice::<RecordJson>(&text).unwrap();
    }
}

fn read_record(bytes: &[u8], namespace: NamespaceId) {
    if let Ok(record) = Record::decode(bytes, namespace, 0, 0) {
        assert!(bytes.starts_with(record.encoded));
        let headers: usize = record.headers.map(|(name, value)| 4 + name.len() + value.len()).sum();
        let content = record.key.map_or(0, str::len) + headers + record.value.len();
        assert_eq!(record.encoded.len(), 16 + content);
        let _ = record.shard_is_true();
        write_record(&mut Vec::new(), &record, "now", None, Lines::Keep).unwrap();
    }
}

const KEYED: usize = 136;

/// A frame of one record with a key of 3 bytes, a header of 4 + 1 + 1 and a value of 5.
fn sound() -> Vec<u8> {
    let place = Place {
        position: 1 << 20,
        commit_start: 0,
        namespace: NamespaceId::new(1).unwrap(),
        generation: 0,
        base_offset: 0,
        time_micros: 0,
        producer: None,
        chain: Chain::EMPTY,
    };
    sound_draft().place(&place, |_| 1).bytes().to_vec()
}

fn sound_draft() -> Draft {
    Draft::of(&NewRecord::text("hello").with_key("key").with_headers(&[("h".into(), "v".into())])).unwrap()
}

/// One field of a sound frame is made wrong at a time, and the CRC right again.
#[test]
fn each_rule_of_a_frame_is_kept() {
    let malformed: &[(&str, usize, &[u8])] = &[
        ("a frame's reserved bits are not zero", 13, &[0b1000]),
        ("a loss has a producer, a chain or a write of its own", 13, &[0b100]),
        ("a frame's reserved bits are not zero", 14, &[1]),
        ("a frame's reserved bits are not zero", 15, &[1]),
        ("a frame's reserved bits are not zero", 28, &[1]),
        ("a frame's reserved bits are not zero", 31, &[1]),
        ("a draft stands where a frame should", 13, &[0b10]),
        ("a frame lies where no partition reaches", 16, &[0xff; 8]),
        ("a frame's write begins before its partition", 16, &[0, 0, 0x0f]),
        ("a frame's namespace id is 2^24 or more", 67, &[1]),
        ("a frame's offsets are past the last there is", 72, &[0xff; 8]),
        ("a frame without a producer has one's bytes", 88, &[1]),
        ("a frame without a producer has one's bytes", 103, &[1]),
        ("a frame without a producer has one's bytes", 104, &[1]),
        ("a frame without a producer has one's bytes", 112, &[1]),
        ("a frame without a producer has one's bytes", 119, &[1]),
        ("a frame has no record", 108, &[0]),
        ("a record's header is cut off", 108, &[2]),
        ("a record is cut off", 120, &[6]),
        ("bytes follow a frame's last record", 120, &[4]),
        ("a record has no counter", 124, &[0]),
        ("a record's kind is unknown", 133, &[4]),
        ("a tombstone has a value, or no key", 133, &[3]),
        ("a record's reserved bytes are not zero", 134, &[1]),
        ("a record's reserved bytes are not zero", 135, &[1]),
        ("a key is not UTF-8", KEYED, &[0xff]),
        ("a record's headers are malformed", KEYED + 3, &[3]),
        ("a record's headers are malformed", KEYED + 5, &[2]),
        ("a record's headers are malformed", KEYED + 7, &[0xff]),
        ("a record's headers are malformed", KEYED + 8, &[0xff]),
    ];
    for (reason, at, edit) in malformed {
        let mut bytes = sound();
        bytes[*at..*at + edit.len()].copy_from_slice(edit);
        seal(&mut bytes);
        assert_eq!(Frame::decode(bytes.into()), Err(FrameError::Malformed(reason)), "byte {at}");
    }
    let with = |at: usize, byte: u8| {
        let mut bytes = sound();
        bytes[at] = byte;
        Frame::decode(bytes.into())
    };
    let mut last_sequence = sound();
    last_sequence[13] = 1;
    last_sequence[112..120].fill(0xff);
    seal(&mut last_sequence);
    let reason = "a producer's sequence is the last there is";
    assert_eq!(Frame::decode(last_sequence.into()), Err(FrameError::Malformed(reason)));
    assert_eq!(with(0, b'X'), Err(FrameError::BadMagic));
    assert!(matches!(with(4, 0), Err(FrameError::BadCrc { .. })));
    let mut next_version = sound();
    next_version[12] = 2;
    seal(&mut next_version);
    assert_eq!(Frame::decode(next_version.into()), Err(FrameError::BadVersion(2)));
    let longer = [sound(), vec![0]].concat();
    assert_eq!(Frame::decode(longer.into()), Err(FrameError::Malformed("bytes follow the frame")));
}

#[test]
fn a_record_of_the_logs_own_namespace_needs_no_counter() {
    let mut bytes = sound();
    bytes[64] = 0;
    bytes[124] = 0;
    seal(&mut bytes);
    assert!(Frame::decode(bytes.into()).is_ok());
}

/// A publisher that is not ours, and gets one thing wrong.
#[test]
fn each_rule_of_a_draft_is_kept() {
    let refused = |edits: &[(usize, &[u8])]| {
        let mut bytes = sound_draft().encode();
        for (at, edit) in edits {
            bytes[*at..*at + edit.len()].copy_from_slice(edit);
        }
        seal(&mut bytes);
        Draft::decode(bytes).unwrap_err()
    };
    // Position, chain, namespace, generation, base offset, time; a counter.
    for at in [16, 32, 63, 64, 68, 72, 80, 124] {
        assert_eq!(refused(&[(at, &[1])]), DraftError::AlreadyPlaced, "byte {at}");
    }
    // A frame; a draft that names its producer, which is for the request to do.
    assert_eq!(refused(&[(13, &[0])]), DraftError::AlreadyPlaced);
    assert_eq!(refused(&[(13, &[0b11]), (88, &[1])]), DraftError::AlreadyPlaced);
    assert_eq!(refused(&[(132, &[0])]), DraftError::WrongShard);
    assert_eq!(refused(&[(KEYED, b"k\ny")]).to_string(), "the key holds the control character U+000A");
    assert_eq!(refused(&[(KEYED + 7, b"\r")]).to_string(), "a header's name holds the control character U+000D");
    assert_eq!(refused(&[(KEYED + 8, b"\0")]).to_string(), "a header's value holds the control character U+0000");
    assert_eq!(refused(&[(KEYED + 3, &[0, 0, 2])]).to_string(), "a header's name is empty");
    assert_eq!(refused(&[(KEYED + 9, &[0xff])]), DraftError::NotText);
    assert!(matches!(refused(&[(133, &[2])]), DraftError::NotJson(_)));
    assert!(matches!(refused(&[(133, &[2]), (KEYED + 9, b"\"\xffab\"")]), DraftError::NotJson(_)));
}

/// JSON that a parser with a stack of its own could choke on is checked without one.
#[test]
fn json_as_deep_as_a_record_is_checked_and_shown() {
    let deep = "[".repeat(500_000) + &"]".repeat(500_000);
    let draft = Draft::of(&NewRecord::json(&deep)).unwrap();
    read_draft(Draft::decode(draft.encode()).unwrap());
    let draft = Draft::of(&NewRecord::json(&deep[1..])).unwrap();
    assert!(matches!(Draft::decode(draft.encode()), Err(DraftError::NotJson(_))));
}

#[test]
fn each_rule_of_a_trailer_is_kept() {
    let trailer = Trailer {
        namespace: NamespaceId::new(1).unwrap(),
        generation: 0,
        first_offset: 5,
        next_offset: 5,
        frames: 0,
        chain: Chain::EMPTY,
    };
    let refused = |at: usize, byte: u8| {
        let mut bytes = trailer.encode().to_vec();
        bytes[at] = byte;
        seal_crc(&mut bytes);
        Trailer::decode(&bytes).unwrap_err()
    };
    assert_eq!(refused(0, b'X'), FrameError::BadMagic);
    assert_eq!(refused(12, 2), FrameError::BadVersion(2));
    for at in [8, 11, 13, 15] {
        let reason = "a trailer's fixed fields are not as they must be";
        assert_eq!(refused(at, 1), FrameError::Malformed(reason), "byte {at}");
    }
    assert_eq!(refused(19, 1), FrameError::Malformed("a trailer's namespace id is 2^24 or more"));
    assert_eq!(refused(32, 4), FrameError::Malformed("a trailer's offsets run backwards"));
    let longer = [&trailer.encode()[..], &[0]].concat();
    assert_eq!(Trailer::decode(&longer), Err(FrameError::Malformed("bytes follow the trailer")));
}

#[test]
fn ids_and_chains_are_hex_and_nothing_else() {
    for sign in ["+", "-", " "] {
        assert!(format!("{sign}{}", "0".repeat(63)).parse::<Chain>().is_err(), "{sign}");
        assert!(format!("00{sign}{}", "0".repeat(61)).parse::<Chain>().is_err(), "{sign}");
        assert!(format!("{sign}{}", "1".repeat(15)).parse::<ObjectId>().is_err(), "{sign}");
    }
}
