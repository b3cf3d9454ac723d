//! What a verifier proves, and that nothing gets past it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use proptest::prelude::*;
use sdk::{Frame, Lost, Proof, Verified, Verifier, VerifyError};
use support::{Log, batch};
use wire::loss::Known;
use wire::{Chain, Draft, NamespaceId, NewRecord, Shard, Trailer};

/// Where a record's shard stands in a frame of which it is the first.
const FIRST_SHARD_AT: usize = wire::frame::HEADER_BYTES + 12;

fn verify(bytes: &[u8]) -> Result<Proof, VerifyError> {
    let mut verifier = Verifier::new();
    verifier.push(bytes);
    while verifier.next()?.is_some() {}
    verifier.end()
}

fn stream(frames: &[Frame], trailer: &Trailer) -> Vec<u8> {
    let mut bytes: Vec<u8> = frames.iter().flat_map(|frame| frame.bytes().to_vec()).collect();
    bytes.extend_from_slice(&trailer.encode());
    bytes
}

/// A frame whose bytes were changed by someone who knows how to make chain and CRC right again.
fn forged(frame: &Frame, before: &Chain, change: impl FnOnce(&mut [u8])) -> Frame {
    let mut bytes = frame.bytes().to_vec();
    change(&mut bytes);
    let chain = before.after(&bytes[64..]);
    bytes[32..64].copy_from_slice(&chain.0);
    let crc = crc32fast::hash(&bytes[8..]);
    bytes[4..8].copy_from_slice(&crc.to_le_bytes());
    Frame::decode(bytes.into()).unwrap()
}

#[test]
fn golden() {
    let proof = verify(&Log::with(3, 4).stream(0)).unwrap();
    assert_eq!((proof.records, proof.frames, proof.next_offset, proof.bytes), (12, 3, 12, 646));
    assert_eq!(proof.chain.to_string(), "16df282278cdd48c85ac7fb95f05503cd93a9dcc950441d64780db547d46ecec");
    assert_eq!((proof.namespace.get(), proof.generation), (7, 0));
}

#[test]
fn the_chain_is_blake3_over_the_chained_parts() {
    let log = Log::with(3, 4);
    let chain = log
        .frames
        .iter()
        .fold([0; 32], |chain, frame| *blake3::hash(&[&chain, &frame.bytes()[64..]].concat()).as_bytes());
    assert_eq!(verify(&log.stream(0)).unwrap().chain, Chain(chain));
}

#[test]
fn an_empty_namespace_is_proved_too() {
    let proof = verify(&Log::default().stream(0)).unwrap();
    assert_eq!((proof.records, proof.frames, proof.chain), (0, 0, Chain::EMPTY));
}

#[test]
fn the_proofs_own_trailer_closes_a_copy() {
    let log = Log::with(3, 4);
    let proof = verify(&log.stream(0)).unwrap();
    assert_eq!(verify(&stream(&log.frames, &proof.trailer())).unwrap(), proof);
}

#[test]
fn what_is_lost_is_a_part_of_the_proof() {
    let mut log = Log::with(6, 4);
    let (bytes, chain) = (log.frames.iter().map(|frame| frame.len() as u64).sum::<u64>(), log.chain());
    log.lose(1..3);
    log.lose(3..4);
    let proof = verify(&log.stream(0)).unwrap();
    assert_eq!((proof.records, proof.next_offset, proof.frames, proof.bytes), (12, 24, 5, bytes));
    assert_eq!((proof.lost.records(), proof.lost.ranges()), (12, 2));
    assert_eq!(proof.lost.named(), [Lost { from: 4, to: 12 }, Lost { from: 16, to: 20 }]);
    assert_eq!(proof.chain, chain, "what came behind the loss has the chain that it had");
    assert_eq!(verify(&stream(&log.frames, &proof.trailer())).unwrap(), proof);

    // At the end there is no chain but that of what comes next.
    log.lose(4..5);
    let proof = verify(&log.stream(0)).unwrap();
    assert_eq!(
        (proof.lost.named(), proof.chain),
        (&[Lost { from: 4, to: 12 }, Lost { from: 16, to: 24 }][..], Chain::EMPTY)
    );
    log.append(batch(24, 4), None);
    log.lose(0..1);
    let proof = verify(&log.stream(0)).unwrap();
    assert_eq!(proof.lost.named(), [Lost { from: 0, to: 12 }, Lost { from: 16, to: 24 }]);
    assert_eq!((proof.records, proof.lost.to_string()), (8, "offsets 0 to 11, offsets 16 to 23".to_owned()));
}

/// Frames of one record each, all of one key, and so of one shard.
fn of_one_shard(frames: usize) -> (Log, Shard) {
    let mut log = Log::default();
    for number in 0..frames {
        log.append(Draft::of(&NewRecord::text(&number.to_string()).with_key("k")).unwrap(), None);
    }
    (log, Shard::of(Some("k"), b""))
}

#[test]
fn behind_a_loss_a_counter_is_where_the_loss_says() {
    let lost = |known: Known, length: usize| {
        let (mut log, _) = of_one_shard(8);
        log.lose_all_but(2..2 + length, known);
        verify(&log.stream(0))
    };
    let (_, shard) = of_one_shard(0);
    let listed = |counter| Known::Counters { unlisted: 0, listed: vec![(shard, counter)] };
    assert!(lost(listed(5), 3).is_ok());
    for wrong in [2, 4, 6] {
        let caught = lost(listed(wrong), 3);
        assert!(matches!(caught, Err(VerifyError::Id { offset: 5, .. })), "{wrong}: {caught:?}");
    }
    let caught = lost(listed(1), 3);
    assert!(matches!(caught, Err(VerifyError::Counter { at: 2, known: 2, found: 1, .. })), "{caught:?}");
    // Not listed, it may have gone on so far, and no further; and not at all where nothing may have.
    let unlisted = |unlisted| Known::Counters { unlisted, listed: vec![(Shard(shard.0 ^ 1), 9)] };
    assert!(lost(unlisted(3), 3).is_ok() && lost(unlisted(u32::MAX), 3).is_ok());
    for few in [0, 2] {
        assert!(matches!(lost(unlisted(few), 3), Err(VerifyError::Id { offset: 5, .. })), "{few}");
    }
}

#[test]
fn a_counter_is_known_again_with_its_next_record() {
    let known = Known::Counters { unlisted: 3, listed: Vec::new() };
    let (mut log, _) = of_one_shard(8);
    log.lose_all_but(2..5, known.clone());
    // The second frame behind the loss is gone, and nothing says so but its offset.
    let mut skipped = log.frames.clone();
    let behind = skipped.remove(4);
    let forged = forged(&skipped[4], &skipped[3].chain(), |bytes| bytes[72] = behind.base_offset() as u8);
    skipped.truncate(4);
    let trailer = Trailer { next_offset: forged.next_offset(), frames: 5, chain: forged.chain(), ..log.trailer(0) };
    skipped.push(forged);
    let caught = verify(&stream(&skipped, &trailer));
    assert!(matches!(caught, Err(VerifyError::Id { offset: 6, .. })), "{caught:?}");
}

#[test]
fn behind_a_loss_one_chain_is_taken_at_its_word_and_the_next_is_not() {
    let mut log = Log::with(4, 2);
    log.lose(0..1);
    log.frames[1] = forged(&log.frames[1], &Chain([7; 32]), |_| {});
    let caught = verify(&log.stream(0));
    assert!(matches!(caught, Err(VerifyError::Chain { at: 6, .. })), "{caught:?}");
    log.frames[2] = forged(&log.frames[2], &log.frames[1].chain(), |_| {});
    log.frames[3] = forged(&log.frames[3], &log.frames[2].chain(), |_| {});
    assert!(verify(&log.stream(0)).is_ok());
    // It is a loss that allows it, not a gap.
    log.frames.remove(0);
    assert_eq!(verify(&log.stream(0)), Err(VerifyError::Offset { expected: 0, found: 2 }));
}

#[test]
fn any_flipped_bit_is_caught() {
    let mut log = Log::with(4, 3);
    log.lose(1..2);
    let good = log.stream(0);
    for bit in 0..good.len() * 8 {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(verify(&bad).is_err(), "bit {bit}");
    }
}

#[test]
fn any_cut_is_caught() {
    let good = Log::with(3, 4).stream(0);
    for length in 0..good.len() {
        assert!(matches!(verify(&good[..length]), Err(VerifyError::CutOff { .. })), "{length} bytes");
    }
    let longer = [good.as_slice(), b"x"].concat();
    assert_eq!(verify(&longer), Err(VerifyError::Trailing(1)));
}

#[test]
fn a_dropped_repeated_or_swapped_frame_is_caught() {
    let log = Log::with(4, 3);
    for index in 0..4 {
        let mut dropped = log.frames.clone();
        dropped.remove(index);
        let mut repeated = log.frames.clone();
        repeated.insert(index, log.frames[index].clone());
        let mut swapped = log.frames.clone();
        swapped.swap(index, (index + 1) % 4);
        for frames in [dropped, repeated, swapped] {
            // Even where the trailer fits what is there.
            let last = frames.last().unwrap();
            let trailer = Trailer {
                next_offset: last.next_offset(),
                frames: frames.len() as u64,
                chain: last.chain(),
                ..log.trailer(0)
            };
            let caught = verify(&stream(&frames, &trailer));
            let honest = index == 3 && frames.len() == 3;
            assert_eq!(caught.is_ok(), honest, "frame {index} of {}", frames.len());
            assert!(verify(&stream(&frames, &log.trailer(0))).is_err());
        }
    }
}

#[test]
fn a_trailer_that_tells_otherwise_is_caught() {
    let log = Log::with(3, 4);
    let true_one = log.trailer(0);
    let lies = [
        Trailer { first_offset: 1, ..true_one },
        Trailer { next_offset: 13, ..true_one },
        Trailer { frames: 2, ..true_one },
        Trailer { chain: Chain::EMPTY, ..true_one },
        Trailer { generation: 1, ..true_one },
        Trailer { namespace: NamespaceId::new(8).unwrap(), ..true_one },
    ];
    for lie in lies {
        assert!(verify(&stream(&log.frames, &lie)).is_err(), "{lie:?}");
    }
}

/// A stream whose second frame is a forgery, with a trailer that fits it.
fn with_forged_second(change: impl FnOnce(&mut [u8])) -> Result<Proof, VerifyError> {
    let log = Log::with(2, 1);
    let forgery = forged(&log.frames[1], &log.frames[0].chain(), change);
    let trailer = Trailer { chain: forgery.chain(), ..log.trailer(0) };
    verify(&stream(&[log.frames[0].clone(), forgery], &trailer))
}

#[test]
fn a_forgery_whose_crc_and_chain_fit_is_caught_by_its_ids() {
    assert!(with_forged_second(|_| {}).is_ok());
    let wrong_shard = with_forged_second(|bytes| bytes[FIRST_SHARD_AT] ^= 1);
    assert!(matches!(wrong_shard, Err(VerifyError::Shard { offset: 1, .. })), "{wrong_shard:?}");
    let wrong_counter = with_forged_second(|bytes| bytes[wire::frame::HEADER_BYTES + 4] += 1);
    assert!(matches!(wrong_counter, Err(VerifyError::Id { offset: 1, .. })), "{wrong_counter:?}");
    let wrong_value = with_forged_second(|bytes| *bytes.last_mut().unwrap() ^= 1);
    assert!(matches!(wrong_value, Err(VerifyError::Shard { .. })), "{wrong_value:?}");
    let wrong_namespace = with_forged_second(|bytes| bytes[64] = 8);
    assert!(matches!(wrong_namespace, Err(VerifyError::Namespace { at: 1, .. })), "{wrong_namespace:?}");
    let wrong_generation = with_forged_second(|bytes| bytes[68] = 1);
    assert!(matches!(wrong_generation, Err(VerifyError::Namespace { at: 1, .. })), "{wrong_generation:?}");
    let wrong_offset = with_forged_second(|bytes| bytes[72] = 2);
    assert_eq!(wrong_offset, Err(VerifyError::Offset { expected: 1, found: 2 }));
}

#[test]
fn a_frame_after_another_history_is_caught_by_its_chain() {
    let (log, mut other) = (Log::with(1, 2), Log::default());
    other.append(batch(50, 2), None);
    let next = other.append(batch(2, 2), None);
    let caught = verify(&stream(&[log.frames[0].clone(), next], &other.trailer(0)));
    assert!(matches!(caught, Err(VerifyError::Chain { at: 4, .. })), "{caught:?}");
}

#[test]
fn nothing_is_given_out_after_the_proof() {
    let mut verifier = Verifier::new();
    verifier.push(&Log::with(1, 1).stream(0));
    assert!(matches!(verifier.next(), Ok(Some(Verified::Frame(_)))));
    assert!(matches!(verifier.next(), Ok(Some(Verified::Proof(_)))));
    assert_eq!(verifier.next(), Ok(None));
    verifier.push(Log::with(1, 1).frames[0].bytes());
    assert!(matches!(verifier.next(), Err(VerifyError::Trailing(_))));
}

proptest! {
    #[test]
    fn however_the_bytes_come_the_proof_is_the_same(
        frames in 0usize..6,
        records in 1usize..8,
        cuts: Vec<prop::sample::Index>,
    ) {
        let bytes = Log::with(frames, records).stream(0);
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        cuts.extend([0, bytes.len()]);
        cuts.sort_unstable();
        let mut verifier = Verifier::new();
        for cut in cuts.windows(2) {
            verifier.push(&bytes[cut[0]..cut[1]]);
            while verifier.next().unwrap().is_some() {}
        }
        prop_assert_eq!(verifier.end(), verify(&bytes));
    }

    #[test]
    fn wherever_it_breaks_off_it_goes_on_to_the_same_proof(
        frames in 1usize..6,
        records in 1usize..8,
        breaks: Vec<prop::sample::Index>,
        grow: bool,
    ) {
        let mut log = Log::with(frames, records);
        let mut verifier = Verifier::new();
        for at in breaks {
            let bytes = log.stream(verifier.next_offset());
            // Short of the trailer's last byte.
            verifier.push(&bytes[..at.index(bytes.len())]);
            while verifier.next().unwrap().is_some() {}
            verifier.resume();
            if grow {
                log.append(batch(log.next_offset() as usize, records), None);
            }
        }
        verifier.push(&log.stream(verifier.next_offset()));
        while verifier.next().unwrap().is_some() {}
        prop_assert_eq!(verifier.end(), verify(&log.stream(0)));
    }

    #[test]
    fn whatever_is_lost_is_told_and_all_else_is_there(
        frames in 1usize..9,
        records in 1usize..5,
        losses in prop::collection::vec((any::<prop::sample::Index>(), 1usize..4, any::<bool>()), 0..4),
        breaks: Vec<prop::sample::Index>,
    ) {
        let whole = Log::with(frames, records);
        let mut log = whole.clone();
        for (at, length, is_known) in losses {
            let at = at.index(log.frames.len());
            let range = at..log.frames.len().min(at + length);
            // What was lost already is not lost twice: nobody knows its counters.
            if log.frames[range.clone()].iter().any(Frame::is_loss) {
                continue;
            }
            let unlisted = (range.len() * records) as u32;
            match is_known {
                true => log.lose(range),
                false => log.lose_all_but(range, Known::Counters { unlisted, listed: Vec::new() }),
            }
        }
        let (mut verifier, mut offsets, mut lost) = (Verifier::new(), Vec::new(), Vec::new());
        for at in breaks.into_iter().map(Some).chain([None]) {
            let bytes = log.stream(verifier.next_offset());
            verifier.push(&bytes[..at.map_or(bytes.len(), |at| at.index(bytes.len()))]);
            while let Some(verified) = verifier.next().unwrap() {
                match verified {
                    Verified::Frame(frame) => offsets.extend(frame.records().map(|record| record.offset)),
                    Verified::Lost(frame) => lost.extend(frame.base_offset()..frame.next_offset()),
                    Verified::Proof(_) => {}
                }
            }
            if at.is_some() {
                verifier.resume();
            }
        }
        let proof = verifier.end().unwrap();
        prop_assert_eq!(&proof, &verify(&log.stream(0)).unwrap());
        prop_assert_eq!((proof.records, proof.lost.records()), (offsets.len() as u64, lost.len() as u64));
        prop_assert_eq!(proof.lost.named().iter().flat_map(|lost| lost.from..lost.to).collect::<Vec<_>>(), lost.clone());
        let mut all = [offsets, lost].concat();
        all.sort_unstable();
        prop_assert_eq!(all, (0..whole.next_offset()).collect::<Vec<_>>());
    }
}
