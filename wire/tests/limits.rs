//! Each limit, at its bound and one over it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "common/seal.rs"]
mod seal;

use std::borrow::Cow;

use seal::seal;
use wire::record::HeaderPair;
use wire::{
    Chain, Draft, DraftBuilder, DraftError, Frame, FrameDecoder, FrameError, NameError, NamespaceConfig, NamespaceId,
    NamespaceName, NewRecord, Place, ProducerId, Record,
};

const MIB: usize = 1 << 20;

/// A draft and the frame that it becomes, both taken from their bytes.
fn decoded(draft: Draft) -> Frame {
    let place = Place {
        position: 0,
        commit_start: 0,
        namespace: NamespaceId::new((1 << 24) - 1).unwrap(),
        generation: 0,
        base_offset: 0,
        time_micros: 0,
        producer: None,
        chain: Chain::EMPTY,
    };
    let draft = Draft::decode(draft.encode()).unwrap();
    Frame::decode(draft.place(&place, |_| u32::MAX).bytes().clone()).unwrap()
}

fn too_long(what: &'static str, bytes: usize, limit: usize) -> NameError {
    NameError::TooLong { what, bytes, limit }
}

fn headers(count: usize, name_bytes: usize, value_bytes: usize) -> Vec<HeaderPair<'static>> {
    let name = |i: usize| format!("{i:0>name_bytes$}");
    (0..count).map(|i| (Cow::from(name(i)), Cow::from("v".repeat(value_bytes)))).collect()
}

#[test]
fn a_namespace_name_is_1_to_255_bytes() {
    let what = "the namespace's name";
    assert!(NamespaceName::new(&"n".repeat(255)).is_ok());
    assert_eq!(NamespaceName::new(&"n".repeat(256)), Err(too_long(what, 256, 255)));
    assert!(NamespaceName::new(&"ü".repeat(127)).is_ok());
    assert_eq!(NamespaceName::new(&"ü".repeat(128)), Err(too_long(what, 256, 255)));
    assert!(NamespaceName::new("n").is_ok());
    assert_eq!(NamespaceName::new(""), Err(NameError::Empty { what }));
}

#[test]
fn a_namespace_id_is_below_2_to_the_24() {
    assert!(NamespaceId::new((1 << 24) - 1).is_some());
    assert!(NamespaceId::new(1 << 24).is_none());
}

#[test]
fn a_producer_id_is_1_to_255_bytes() {
    let what = "the producer's id";
    assert!(ProducerId::of(&"p".repeat(255)).is_ok());
    assert_eq!(ProducerId::of(&"p".repeat(256)), Err(too_long(what, 256, 255)));
    assert_eq!(ProducerId::of(""), Err(NameError::Empty { what }));
}

#[test]
fn a_namespaces_own_limit_is_1_byte_to_1_mib() {
    let config = |max_record_bytes| NamespaceConfig { max_record_bytes }.check();
    assert_eq!(config(1), Ok(()));
    assert_eq!(config(MIB as u32), Ok(()));
    assert_eq!(config(0), Err("max_record_bytes is 0, it must be 1 to 1048576".into()));
    assert_eq!(config(MIB as u32 + 1), Err("max_record_bytes is 1048577, it must be 1 to 1048576".into()));
}

#[test]
fn a_key_is_1_to_1024_bytes() {
    let what = "the key";
    let long = "k".repeat(1025);
    let frame = decoded(Draft::of(&NewRecord::text("v").with_key(&long[..1024])).unwrap());
    assert_eq!(frame.records().next().unwrap().key, Some(&long[..1024]));
    assert_eq!(Draft::of(&NewRecord::text("v").with_key(&long)), Err(too_long(what, 1025, 1024).into()));
    assert_eq!(Draft::of(&NewRecord::text("v").with_key("")), Err(NameError::Empty { what }.into()));
}

#[test]
fn a_record_has_at_most_64_headers() {
    let headers = headers(65, 2, 0);
    let with = |count: usize| Draft::of(&NewRecord::text("v").with_headers(&headers[..count]));
    assert_eq!(decoded(with(64).unwrap()).records().next().unwrap().headers.count(), 64);
    assert_eq!(with(65), Err(NameError::TooManyHeaders { count: 65 }.into()));
}

#[test]
fn headers_are_at_most_4_kib_together() {
    let full = headers(64, 2, 62);
    assert_eq!(decoded(Draft::of(&NewRecord::text("v").with_headers(&full)).unwrap()).len(), 120 + 16 + 64 * 68 + 1);
    let mut over = full;
    over[63].1.to_mut().push('v');
    let error = too_long("the headers together", 4097, 4096);
    assert_eq!(Draft::of(&NewRecord::text("v").with_headers(&over)), Err(error.into()));
}

#[test]
fn a_record_is_at_most_1_mib() {
    let bytes = vec![b'v'; MIB + 1];
    let bare = |len: usize| Draft::of(&NewRecord::bytes(&bytes[..len]));
    assert_eq!(decoded(bare(MIB).unwrap()).len(), 120 + 16 + MIB);
    assert_eq!(bare(MIB + 1), Err(DraftError::RecordTooLarge { bytes: MIB + 1 }));

    // Key, headers and value count together: here 1024 + 4096 and the rest.
    let (key, headers) = ("k".repeat(1024), headers(64, 2, 62));
    let laden = |len: usize| Draft::of(&NewRecord::bytes(&bytes[..len]).with_key(&key).with_headers(&headers));
    assert_eq!(decoded(laden(MIB - 5120).unwrap()).record_count(), 1);
    assert_eq!(laden(MIB - 5119), Err(DraftError::RecordTooLarge { bytes: MIB + 1 }));
}

#[test]
fn a_batch_has_1_to_10_000_records() {
    let mut builder = DraftBuilder::default();
    for _ in 0..10_000 {
        builder.push(&NewRecord::text("v")).unwrap();
    }
    assert_eq!(builder.push(&NewRecord::text("v")), Err(DraftError::TooManyRecords));
    assert_eq!((builder.count(), builder.encoded_bytes()), (10_000, 170_000));
    assert_eq!(decoded(builder.finish().unwrap()).records().count(), 10_000);
    assert_eq!(DraftBuilder::default().finish(), Err(DraftError::Empty));
}

#[test]
fn a_batch_is_at_most_16_mib() {
    let bytes = vec![0; MIB];
    let mut builder = DraftBuilder::default();
    for _ in 0..15 {
        builder.push(&NewRecord::bytes(&bytes)).unwrap();
    }
    let left = MIB - 16 * 16;
    assert_eq!(builder.push(&NewRecord::bytes(&bytes[..left + 1])), Err(DraftError::BatchTooLarge));
    // A refused record leaves the batch as it was.
    assert_eq!((builder.count(), builder.encoded_bytes()), (15, 15 * (MIB + 16)));
    builder.push(&NewRecord::bytes(&bytes[..left])).unwrap();
    assert_eq!(builder.encoded_bytes(), 16 * MIB);
    assert_eq!(builder.push(&NewRecord::bytes(b"")), Err(DraftError::BatchTooLarge));
    let frame = decoded(builder.finish().unwrap());
    assert_eq!((frame.len(), frame.record_count()), (120 + 16 * MIB, 16));
}

/// The bytes of a frame or draft of empty records, as a publisher that is not ours could send them.
fn of_empty_records(count: u32, flags: u8) -> Vec<u8> {
    let record = {
        let mut record = [0; 16];
        record[4] = u8::from(flags == 0);
        record[12] = 0xaf;
        record
    };
    let mut bytes = [[0; 120].as_slice(), &record.repeat(count as usize)].concat();
    bytes[12..14].copy_from_slice(&[1, flags]);
    bytes[64] = u8::from(flags == 0);
    bytes[108..112].copy_from_slice(&count.to_le_bytes());
    seal(&mut bytes);
    bytes
}

#[test]
fn a_record_count_over_its_limit_is_refused_by_decode() {
    assert!(Draft::decode(of_empty_records(10_000, 2)).is_ok());
    assert!(Frame::decode(of_empty_records(10_000, 0).into()).is_ok());
    let over = FrameError::OverLimit { what: "a frame's count of records", size: 10_001, limit: 10_000 };
    assert_eq!(Draft::decode(of_empty_records(10_001, 2)), Err(DraftError::Frame(over)));
    assert_eq!(Frame::decode(of_empty_records(10_001, 0).into()), Err(over));
    assert_eq!(over.to_string(), "a frame's count of records is 10001, the limit is 10000");
}

/// What a record declares is refused by its first bytes; none of what it declares need be there.
#[test]
fn a_records_declared_lengths_are_refused_before_they_are_believed() {
    let declared = |value: u32, key: u16, headers: u16| {
        let mut bytes = [0; 16];
        bytes[..4].copy_from_slice(&value.to_le_bytes());
        bytes[8..10].copy_from_slice(&key.to_le_bytes());
        bytes[10..12].copy_from_slice(&headers.to_le_bytes());
        Record::decode(&bytes, NamespaceId::CONTROL, 0, 0).unwrap_err()
    };
    let over = |what, size, limit| FrameError::OverLimit { what, size, limit };
    let cut_off = FrameError::Malformed("a record is cut off");
    assert_eq!(declared(MIB as u32, 1024, 4096 + 64 * 4), cut_off);
    assert_eq!(declared(MIB as u32 + 1, 0, 0), over("a value's length in bytes", MIB + 1, MIB));
    assert_eq!(declared(u32::MAX, 0, 0), over("a value's length in bytes", u32::MAX as usize, MIB));
    assert_eq!(declared(0, 1025, 0), over("a key's length in bytes", 1025, 1024));
    assert_eq!(declared(0, 0, 4353), over("the encoded headers' length in bytes", 4353, 4352));
}

/// A decoder is told of a frame that is too long by its first 12 bytes, and waits for no more. Its
/// buffer only ever holds what was pushed, so a declared length makes it allocate nothing.
#[test]
fn a_frames_declared_length_is_refused_before_it_is_waited_for() {
    let prefix = |length: usize| [b"TLGF", [0; 4].as_slice(), &(length as u32).to_le_bytes()].concat();
    for length in [0, 120, 127, 120 + 16 * MIB + 1, u32::MAX as usize] {
        let bad = FrameError::BadLength(length);
        assert_eq!(Frame::length(&prefix(length)), Err(bad));
        let mut decoder = FrameDecoder::default();
        decoder.push(&prefix(length));
        assert_eq!(decoder.next(), Err(bad));
        assert_eq!(Frame::decode(prefix(length).into()), Err(bad));
        assert_eq!(Draft::decode(prefix(length)), Err(DraftError::Frame(bad)));
    }
    for length in [128, 120 + 16 * MIB] {
        assert_eq!(Frame::length(&prefix(length)), Ok(length));
        let mut decoder = FrameDecoder::default();
        decoder.push(&prefix(length));
        assert_eq!((decoder.next(), decoder.pending()), (Ok(None), 12));
        let truncated = FrameError::Truncated { need: length, have: 12 };
        assert_eq!(Frame::decode(prefix(length).into()), Err(truncated));
    }
    assert_eq!(
        FrameError::BadLength(20 * MIB).to_string(),
        "a frame's length of 20971520 bytes is not between 128 and 16777336"
    );
}

/// Headers that are many, and each of nearly nothing, are refused by a draft whoever encoded it.
#[test]
fn a_draft_from_elsewhere_keeps_to_the_limits_of_headers() {
    let with_headers = |encoded: &[u8], value: usize| {
        let mut bytes = [[0; 136].as_slice(), encoded, &vec![0; value]].concat();
        bytes[12..14].copy_from_slice(&[1, 2]);
        bytes[108] = 1;
        bytes[120..124].copy_from_slice(&(value as u32).to_le_bytes());
        bytes[130..132].copy_from_slice(&(encoded.len() as u16).to_le_bytes());
        bytes[132] = blake3::hash(&vec![0; value]).as_bytes()[0];
        seal(&mut bytes);
        Draft::decode(bytes)
    };
    let one = |name: &[u8], value: usize| {
        [&(name.len() as u16).to_le_bytes(), &(value as u16).to_le_bytes(), name, &vec![b'v'; value]].concat()
    };
    let many = |count: u8| (0..count).flat_map(|i| one(&[b'a' + i / 26, b'a' + i % 26], 0)).collect::<Vec<_>>();
    assert!(with_headers(&many(64), 0).is_ok());
    assert_eq!(with_headers(&many(65), 0), Err(NameError::TooManyHeaders { count: 65 }.into()));
    assert!(with_headers(&one(b"n", 4095), 0).is_ok());
    let error = too_long("the headers together", 4097, 4096);
    assert_eq!(with_headers(&one(b"n", 4096), 0), Err(error.into()));
    let twice = [one(b"n", 1), one(b"n", 2)].concat();
    assert_eq!(with_headers(&twice, 0), Err(NameError::TwiceInHeaders { name: "n".into() }.into()));

    assert!(with_headers(&one(b"n", 4095), MIB - 4096).is_ok());
    let over = DraftError::RecordTooLarge { bytes: MIB + 1 };
    assert_eq!(with_headers(&one(b"n", 4095), MIB - 4095), Err(over));
}
