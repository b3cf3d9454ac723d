//! What holds for any batch: it comes back as it went in, and any damage to it is noticed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "common/strategies.rs"]
mod strategies;

use std::collections::HashMap;

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use strategies::{Content, batches, draft_of, frame_of, places};
use wire::{Draft, DraftError, Frame, FrameDecoder, FrameError, Place, Record, StreamItem, Trailer};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn a_batch_comes_back_as_it_went_in(batch in batches(), place in places(), counter in 1..1_u32 << 31) {
        let sent = draft_of(&batch).encode();
        let draft = Draft::decode(sent.clone()).unwrap();
        prop_assert_eq!(draft.len(), sent.len());
        prop_assert_eq!(draft.record_count() as usize, batch.len());
        for (index, (record, content)) in draft.records().zip(&batch).enumerate() {
            assert_content(&record, content);
            prop_assert_eq!((record.offset, record.id.counter()), (index as u64, 0));
        }

        let mut counters = HashMap::new();
        let mut next = |shard: u8| {
            let next = counters.entry(shard).or_insert(counter - 1);
            *next += 1;
            *next
        };
        let placed = draft.place(&place, |shard| next(shard.0));
        let frame = Frame::decode(placed.bytes().clone()).unwrap();
        prop_assert_eq!(&frame, &placed);
        assert_placed(&frame, &place);

        let mut counters = HashMap::new();
        prop_assert_eq!(frame.records().count(), batch.len());
        for (index, (record, content)) in frame.records().zip(&batch).enumerate() {
            assert_content(&record, content);
            prop_assert_eq!(record.offset, place.base_offset + index as u64);
            prop_assert_eq!(record.time_micros, place.time_micros);
            let hashed = content.key.as_ref().map_or(content.value.as_slice(), |key| key.as_bytes());
            let shard = blake3::hash(hashed).as_bytes()[0];
            let counter = counters.entry(shard).and_modify(|counter| *counter += 1).or_insert(counter);
            let id = u64::from(shard) << 56 | u64::from(place.namespace.get()) << 32 | u64::from(*counter);
            prop_assert_eq!(record.id.get(), id);
            let again = Record::decode(record.encoded, place.namespace, record.offset, record.time_micros);
            prop_assert_eq!(again.unwrap(), record);
        }
        let encoded: usize = frame.records().map(|record| record.encoded.len()).sum();
        prop_assert_eq!(encoded, frame.len() - 120);

        let chain = blake3::hash(&[&place.chain.0, &frame.bytes()[64..]].concat());
        prop_assert_eq!(frame.chain().0, *chain.as_bytes());
        prop_assert_eq!(frame.chain_after(&place.chain), frame.chain());
    }

    #[test]
    fn a_copy_elsewhere_has_the_same_chain(batch in batches(), place in places(), position in 0..1_u64 << 62) {
        let elsewhere = Place { position, commit_start: position, ..place };
        prop_assert_eq!(frame_of(&batch, &place).chain(), frame_of(&batch, &elsewhere).chain());
        let later = Place { base_offset: place.base_offset + 1, ..place };
        prop_assert_ne!(frame_of(&batch, &place).chain(), frame_of(&batch, &later).chain());
    }

    #[test]
    fn a_frame_is_no_draft_and_a_draft_no_frame(batch in batches(), place in places()) {
        let frame = frame_of(&batch, &place);
        prop_assert_eq!(Draft::decode(frame.bytes().to_vec()), Err(DraftError::AlreadyPlaced));
        let draft = draft_of(&batch).encode();
        prop_assert!(matches!(Frame::decode(draft.into()), Err(FrameError::Malformed(_))));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn any_flipped_bit_is_noticed(batch in batches(), place in places(), trailer in trailers()) {
        let frame = frame_of(&batch, &place).bytes().to_vec();
        for_each_flip(&frame, |flipped| Frame::decode(Bytes::copy_from_slice(flipped)).is_err());
        let draft = draft_of(&batch).encode();
        for_each_flip(&draft, |flipped| Draft::decode(flipped.to_vec()).is_err());
        for_each_flip(&trailer.encode(), |flipped| Trailer::decode(flipped).is_err());
    }

    #[test]
    fn any_truncation_is_noticed(batch in batches(), place in places(), trailer in trailers()) {
        let frame = frame_of(&batch, &place).bytes().clone();
        let draft = draft_of(&batch).encode();
        for end in 0..frame.len() {
            let need = if end < 12 { 12 } else { frame.len() };
            let truncated = FrameError::Truncated { need, have: end };
            prop_assert_eq!(Frame::decode(frame.slice(..end)), Err(truncated));
            prop_assert_eq!(Draft::decode(draft[..end].to_vec()), Err(DraftError::Frame(truncated)));
        }
        for end in 0..80 {
            let truncated = FrameError::Truncated { need: 80, have: end };
            prop_assert_eq!(Trailer::decode(&trailer.encode()[..end]), Err(truncated));
        }
    }

    /// What a torn write leaves in a file that was zeroed ahead of it.
    #[test]
    fn a_tail_of_zeros_is_noticed(batch in batches(), place in places()) {
        let frame = frame_of(&batch, &place).bytes().to_vec();
        let mut torn = frame.clone();
        for end in (0..frame.len()).rev() {
            torn[end] = 0;
            if torn != frame {
                prop_assert!(Frame::decode(Bytes::copy_from_slice(&torn)).is_err(), "torn at {}", end);
            }
        }
    }

    #[test]
    fn what_follows_is_noticed(batch in batches(), place in places(), trailer in trailers(), byte: u8) {
        let longer = |bytes: &[u8]| [bytes, &[byte]].concat();
        prop_assert!(Frame::decode(longer(frame_of(&batch, &place).bytes()).into()).is_err());
        prop_assert!(Draft::decode(longer(&draft_of(&batch).encode())).is_err());
        prop_assert!(Trailer::decode(&longer(&trailer.encode())).is_err());
    }

    #[test]
    fn a_stream_is_the_same_however_it_is_cut(
        batches in vec((batches(), places()), 0..4),
        trailer in trailers(),
        sizes in vec(1_usize..300, 1..8),
        damage in proptest::option::of((any::<prop::sample::Index>(), 1..=u8::MAX)),
    ) {
        let mut stream = Vec::new();
        for (batch, place) in &batches {
            stream.extend_from_slice(frame_of(batch, place).bytes());
        }
        stream.extend_from_slice(&trailer.encode());
        if let Some((at, mask)) = damage {
            let at = at.index(stream.len());
            stream[at] ^= mask;
        }
        let whole = items(&stream, [stream.len()].into_iter());
        if damage.is_none() {
            let frames = batches.iter().map(|(batch, place)| StreamItem::Frame(frame_of(batch, place)));
            let expected: Vec<_> = frames.chain([StreamItem::Trailer(trailer)]).collect();
            prop_assert_eq!(&whole, &(expected, Ok(0)));
        } else {
            prop_assert!(whole.0.len() <= batches.len(), "the damage went unnoticed");
        }
        prop_assert_eq!(&items(&stream, sizes.into_iter().cycle()), &whole);
        prop_assert_eq!(&items(&stream, std::iter::repeat(1)), &whole);
    }
}

/// What a decoder gives for a stream that arrives in chunks of these sizes: its items, and the error
/// that ended it or the bytes that were left.
fn items(mut stream: &[u8], mut sizes: impl Iterator<Item = usize>) -> (Vec<StreamItem>, Result<usize, FrameError>) {
    let mut decoder = FrameDecoder::default();
    let mut items = Vec::new();
    while !stream.is_empty() {
        let (chunk, rest) = stream.split_at(sizes.next().unwrap().min(stream.len()));
        decoder.push(chunk);
        stream = rest;
        loop {
            match decoder.next() {
                Ok(Some(item)) => items.push(item),
                Ok(None) => break,
                Err(error) => {
                    decoder.push(stream);
                    assert_eq!(decoder.next(), Err(error), "a stream can't be read on after an error");
                    return (items, Err(error));
                }
            }
        }
    }
    (items, Ok(decoder.pending()))
}

fn trailers() -> impl Strategy<Value = Trailer> {
    (places(), any::<u64>(), any::<u64>(), any::<u64>()).prop_map(|(place, a, b, frames)| Trailer {
        namespace: place.namespace,
        generation: place.generation,
        first_offset: a.min(b),
        next_offset: a.max(b),
        frames,
        chain: place.chain,
    })
}

fn for_each_flip(bytes: &[u8], noticed: impl Fn(&[u8]) -> bool) {
    let mut flipped = bytes.to_vec();
    for bit in 0..bytes.len() * 8 {
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(noticed(&flipped), "bit {} of byte {} was flipped", bit % 8, bit / 8);
        flipped[bit / 8] ^= 1 << (bit % 8);
    }
}

fn assert_content(record: &Record<'_>, content: &Content) {
    assert_eq!(record.key, content.key.as_deref());
    assert_eq!((record.kind, record.value), (content.kind, content.value.as_slice()));
    let headers: Vec<_> = content.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(record.headers.collect::<Vec<_>>(), headers);
    assert!(record.shard_is_true());
}

fn assert_placed(frame: &Frame, place: &Place) {
    assert_eq!((frame.position(), frame.commit_start()), (place.position, place.commit_start));
    assert_eq!(frame.end(), place.position + frame.len() as u64);
    assert_eq!((frame.namespace(), frame.generation()), (place.namespace, place.generation));
    assert_eq!(frame.next_offset(), place.base_offset + u64::from(frame.record_count()));
    assert_eq!((frame.base_offset(), frame.time_micros()), (place.base_offset, place.time_micros));
    assert_eq!(frame.producer(), place.producer);
    assert!(frame.records().all(|record| record.id.namespace() == place.namespace));
}
