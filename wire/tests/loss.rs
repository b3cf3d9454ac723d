//! Losses: their bytes, what is read back from them, and what is refused.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "common/seal.rs"]
mod seal;

use bytes::Bytes;
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use wire::loss::{Known, LossError, MIN_LOSS_BYTES};
use wire::{Chain, Draft, Frame, Loss, NamespaceId, NewRecord, Place, Shard};

fn loss() -> Loss {
    Loss {
        position: 0x12340,
        length: 160,
        namespace: NamespaceId::new(0xab_cdef).unwrap(),
        generation: 3,
        base_offset: 17,
        count: 5,
        time_micros: -1,
        known: Known::Counters { unlisted: 2, listed: vec![(Shard(3), 0x0102), (Shard(0xfe), 9)] },
    }
}

fn namespaces() -> impl Strategy<Value = u32> {
    prop_oneof![Just(0), 1u32..1 << 24]
}

prop_compose! {
    fn losses()(
        (position, room, namespace, generation) in (0..1_u64 << 62, 0..64_usize, namespaces(), any::<u32>()),
        (base_offset, count, time_micros) in (0..1_u64 << 53, any::<u32>(), any::<i64>()),
        (unlisted, counters) in (any::<u32>(), btree_map(any::<u8>(), any::<u32>(), 0..=256)),
        events in vec(vec(any::<u8>(), 0..40), 0..5),
    ) -> Loss {
        let namespace = NamespaceId::new(namespace).unwrap();
        let known = if namespace == NamespaceId::CONTROL {
            Known::Events(events.into_iter().map(Bytes::from).collect())
        } else {
            Known::Counters { unlisted, listed: counters.into_iter().map(|(shard, n)| (Shard(shard), n)).collect() }
        };
        let length = known.loss_bytes() + room;
        Loss { position, length, namespace, generation, base_offset, count, time_micros, known }
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(loss in losses()) {
        let frame = loss.encode().unwrap();
        prop_assert_eq!(frame.len(), loss.length);
        prop_assert!(frame.is_loss() && frame.records().next().is_none() && frame.producer().is_none());
        prop_assert_eq!(frame.next_offset(), loss.base_offset + u64::from(loss.count));
        prop_assert_eq!(Frame::decode(frame.bytes().clone()).unwrap().loss(), Some(loss));
    }

    #[test]
    fn what_has_no_room_is_refused(mut loss in losses(), missing in 1usize..200) {
        let need = loss.known.loss_bytes();
        loss.length = need.saturating_sub(missing);
        prop_assert_eq!(loss.encode(), Err(LossError::NoRoom { need, have: loss.length }));
    }

    #[test]
    fn sealed_rubbish_never_panics(loss in losses(), edits in vec((12usize..400, any::<u8>()), 1..20)) {
        let mut bytes = loss.encode().unwrap().bytes().to_vec();
        for (at, byte) in edits {
            let at = at % bytes.len();
            bytes[at] = byte;
        }
        seal::seal(&mut bytes);
        if let Ok(frame) = Frame::decode(bytes.clone().into()) {
            let written = frame.loss().map(|loss| loss.encode().unwrap().bytes().to_vec());
            prop_assert!(written.is_none_or(|written| written == bytes), "what is read is all there is");
        }
    }
}

#[test]
fn golden_bytes() {
    let frame = loss().encode().unwrap();
    let mut expected = vec![0; 160];
    let fields: [(usize, &[u8]); 10] = [
        (8, &[160, 0, 0, 0, 1, 4]),
        (16, &[0x40, 0x23, 1]),
        (64, &[0xef, 0xcd, 0xab]),
        (68, &[3]),
        (72, &[17]),
        (80, &[0xff; 8]),
        (108, &[5]),
        (120, &[2, 0, 0, 0, 2, 0, 0, 0]),
        (128, &[3, 2, 1, 0, 0]),
        (133, &[0xfe, 9, 0, 0, 0]),
    ];
    for (at, field) in fields {
        expected[at..at + field.len()].copy_from_slice(field);
    }
    seal::seal(&mut expected);
    assert_eq!(frame.bytes()[..], expected);
    assert_eq!(frame.loss(), Some(loss()));
}

#[test]
fn a_chain_begins_anew_behind_a_loss() {
    let frame = loss().encode().unwrap();
    assert!(frame.continues(&Chain([9; 32])));
    assert_eq!(frame.chain(), Chain::EMPTY);
    let place = |base_offset| Place {
        position: 0,
        commit_start: 0,
        namespace: NamespaceId::new(1).unwrap(),
        generation: 1,
        base_offset,
        time_micros: 0,
        producer: None,
        chain: Chain([9; 32]),
    };
    let behind = |base_offset| Draft::of(&NewRecord::text("v")).unwrap().place(&place(base_offset), |_| 1);
    assert!(behind(22).continues(&Chain::EMPTY), "what came before is gone");
    assert!(behind(22).continues(&Chain([9; 32])));
    assert!(!behind(22).continues(&Chain([8; 32])));
    assert!(!behind(0).continues(&Chain::EMPTY), "nothing came before the first");
}

#[test]
fn a_loss_is_no_batch() {
    let mut bytes = loss().encode().unwrap().bytes().to_vec();
    bytes[13] |= 2;
    seal::seal(&mut bytes);
    assert!(Draft::decode(bytes).is_err(), "nobody publishes a loss");
    for (at, byte) in [(13, 5), (24, 1), (40, 1), (95, 1), (159, 1)] {
        let mut bytes = loss().encode().unwrap().bytes().to_vec();
        bytes[at] = byte;
        seal::seal(&mut bytes);
        assert!(Frame::decode(bytes.into()).is_err(), "byte {at}");
    }
    let descending = Known::Counters { unlisted: 0, listed: vec![(Shard(3), 1), (Shard(3), 2)] };
    assert!(matches!(Loss { known: descending, ..loss() }.encode(), Err(LossError::Malformed(_))));
    let past_the_last = Loss { base_offset: u64::MAX, ..loss() };
    assert!(matches!(past_the_last.encode(), Err(LossError::Malformed(_))));
    let short = Loss { known: Known::nothing(loss().namespace), length: MIN_LOSS_BYTES, ..loss() };
    assert_eq!(short.encode().unwrap().loss(), Some(short));
}
