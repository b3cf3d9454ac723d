//! The decoders of `wire`: frames, drafts, trailers, and streams that arrive in any pieces.
//!
//! ```text
//! 0  mode     bit 0: checksums are made right · bit 1: positions too · bit 2: as one draft
//! 1  pieces   how the stream is cut
//! 2  the stream
//! ```

use bytes::Bytes;
use wire::frame::HEADER_BYTES;
use wire::json::{Lines, RecordJson, time_text, write_record};
use wire::{Chain, Draft, Frame, FrameDecoder, FrameError, Kind, NamespaceId, Place, StreamItem, Trailer};

use crate::forge::{Forge, put, seal_crc};

/// Where a frame's flags stand, and those that say nothing of how many records there are.
const FLAGS_AT: usize = 13;
const KNOWN_FLAGS: u8 = 0b11;

/// Runs the target.
pub fn run(data: &[u8]) {
    let [mode, pieces, stream @ ..] = data else { return };
    let mut stream = stream.to_vec();
    if mode & 1 != 0 {
        Forge::new(mode & 2 != 0, false).seal(&mut stream, 0);
    }
    if mode & 4 != 0 {
        draft(stream, mode & 8 != 0);
        return;
    }
    let whole = decode([stream.as_slice()].into_iter());
    let size = usize::from(*pieces) + 1;
    let cut = decode(stream.chunks(size));
    assert_eq!(whole, cut, "what a stream says does not depend on its pieces");
    let mut at = 0;
    for item in &whole.0 {
        match item {
            StreamItem::Frame(frame) => {
                assert_eq!(frame.bytes(), &stream[at..at + frame.len()], "a frame is its bytes");
                check_frame(frame);
                at += frame.len();
            }
            StreamItem::Trailer(trailer) => {
                let bytes = trailer.encode();
                assert_eq!(bytes, stream[at..at + bytes.len()], "a trailer is spelled in one way");
                at += bytes.len();
            }
        }
    }
    // What the stream stopped at is nothing that the decoders of one thing take.
    if whole.1.is_some() {
        let rest = &stream[at..];
        let length = Frame::length(rest).unwrap_or(rest.len()).min(rest.len());
        assert!(Frame::decode(Bytes::copy_from_slice(&rest[..length])).is_err());
    }
    let _any_answer = Trailer::decode(&stream);
}

fn decode<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<StreamItem>, Option<FrameError>, usize) {
    let mut decoder = FrameDecoder::default();
    let mut items = Vec::new();
    for piece in pieces {
        decoder.push(piece);
        loop {
            match decoder.next() {
                Ok(Some(item)) => items.push(item),
                Ok(None) => break,
                Err(error) => {
                    assert_eq!(decoder.next(), Err(error), "what is wrong is not skipped");
                    return (items, Some(error), 0);
                }
            }
        }
    }
    (items, None, decoder.pending())
}

fn check_frame(frame: &Frame) {
    assert!(frame.end() > frame.position() && frame.commit_start() <= frame.position());
    assert!(frame.next_offset() > frame.base_offset());
    assert_eq!(Frame::decode(frame.bytes().clone()).as_ref(), Ok(frame));
    let _sum = (frame.chain_after(&Chain::EMPTY), frame.producer(), frame.generation());
    if frame.bytes()[FLAGS_AT] & !KNOWN_FLAGS == 0 {
        assert_eq!(frame.records().count(), frame.record_count() as usize);
        let records: usize = frame.records().map(|record| record.encoded.len()).sum();
        assert_eq!(HEADER_BYTES + records, frame.len(), "the records fill the frame");
        assert_eq!(frame.records().last().map(|last| last.offset + 1), Some(frame.next_offset()));
    }
    for record in frame.records() {
        let mut line = Vec::new();
        let time = time_text(record.time_micros);
        write_record(&mut line, &record, &time, None, Lines::Fold).unwrap();
        assert!(!line.contains(&b'\n') && !line.contains(&b'\r'), "a record is one line");
        // A frame may hold a JSON value that is not: it was never published as one.
        if record.kind != Kind::Json {
            let read: RecordJson = serde_json::from_slice(&line).unwrap();
            assert_eq!(read.key.as_deref(), record.key);
            assert_eq!(read.offset, record.offset);
        }
    }
}

/// Takes bytes as a draft from elsewhere; one that is taken can be placed, and is then a frame.
fn draft(mut bytes: Vec<u8>, unplaced: bool) {
    if unplaced && bytes.len() > HEADER_BYTES {
        bytes[16..108].fill(0);
        bytes[112..HEADER_BYTES].fill(0);
        put(&mut bytes, 12, &[1, 2]);
        seal_crc(&mut bytes);
    }
    let Ok(draft) = Draft::decode(bytes.clone()) else { return };
    let encoded = Draft::decode(bytes).unwrap().encode();
    assert_eq!(Draft::decode(encoded).as_ref(), Ok(&draft), "a draft is what it was sent as");
    let sent: Vec<_> = draft.records().map(|record| (record.key.map(str::to_owned), record.value.to_vec())).collect();
    let place = Place {
        position: 1 << 40,
        commit_start: (1 << 40) - 500,
        namespace: NamespaceId::new(7).unwrap(),
        generation: 1,
        base_offset: 17,
        time_micros: -1,
        producer: None,
        chain: Chain::EMPTY,
    };
    let frame = draft.place(&place, |_| 1);
    assert_eq!(Frame::decode(frame.bytes().clone()).as_ref(), Ok(&frame));
    assert_eq!(frame.chain(), frame.chain_after(&Chain::EMPTY));
    let kept: Vec<_> = frame.records().map(|record| (record.key.map(str::to_owned), record.value.to_vec())).collect();
    assert_eq!(sent, kept);
    check_frame(&frame);
}
