//! What a group has done: a floor below which all is acked, what is acked above it, and how often the
//! others have failed.
//!
//! ```text
//! 0  8  floor      little-endian
//! 8     failed     count varint, each: offset, attempts varint: see `codec.rs`
//!       acked      what is acked above the floor: a Roaring bitset of 64-bit numbers in the portable
//!                  format, each container as its smallest form, as an array rather than as runs of
//!                  the same size; nothing where there is none
//! ```
//!
//! The floor itself is never acked, nor is anything at or above it that has an attempt. So two groups
//! that have done the same have the same bytes, whatever the order in which they did it (invariant 7).

use std::collections::BTreeMap;
use std::ops::Range;

use roaring::RoaringTreemap;
use wire::Offset;
use wire::limits::MAX_GROUP_PROGRESS_BYTES;

use super::event::{self, Progressed};
use crate::ledger::codec::{Malformed, Reader};

/// Values of a container that may be an array.
const MAX_ARRAY: u64 = 4096;

/// What a group has done.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Progress {
    floor: Offset,
    acked: RoaringTreemap,
    failed: BTreeMap<Offset, u32>,
}

/// Why a group's progress can't be written or read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProgressError {
    /// There is more of it than a row may hold.
    #[error("a group's progress is {bytes} bytes, the limit is {MAX_GROUP_PROGRESS_BYTES}")]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// The bytes are not a group's progress.
    #[error("a group's progress is not one: {0}")]
    Malformed(&'static str),
}

impl From<Malformed> for ProgressError {
    fn from(Malformed(what): Malformed) -> Self {
        ProgressError::Malformed(what)
    }
}

impl Progress {
    /// Nothing is done from `floor` on.
    pub fn new(floor: Offset) -> Progress {
        Progress { floor, ..Progress::default() }
    }

    /// The first offset that is not acked.
    pub fn floor(&self) -> Offset {
        self.floor
    }

    /// Whether a record is acked.
    pub fn is_acked(&self, offset: Offset) -> bool {
        offset < self.floor || self.acked.contains(offset)
    }

    /// How many deliveries of a record have failed.
    pub fn attempts(&self, offset: Offset) -> u32 {
        self.failed.get(&offset).copied().unwrap_or(0)
    }

    /// How many offsets below `head` are not acked.
    pub fn unacked(&self, head: Offset) -> u64 {
        head.saturating_sub(self.floor).saturating_sub(self.acked.len())
    }

    /// The first offset that is not acked, from `from` on.
    pub fn next_unacked(&self, from: Offset) -> Offset {
        let mut offset = from.max(self.floor);
        // A run of acked offsets may go on in the bitmap of the next 2^32.
        while let Some(run) = self.run_from(offset) {
            offset = run.end;
        }
        offset
    }

    /// An offset from which on nothing is known of any record.
    pub fn ceiling(&self) -> Offset {
        let acked = self.acked.max().map_or(0, |last| last + 1);
        let failed = self.failed.last_key_value().map_or(0, |(last, _)| last + 1);
        self.floor.max(acked).max(failed)
    }

    /// Takes in what has become durable. What is known already changes nothing.
    pub fn apply(&mut self, progressed: &Progressed) {
        for range in &progressed.acked {
            self.ack(range.clone());
        }
        for dead in &progressed.dead {
            self.ack(dead.offset..dead.offset + 1);
        }
        for (offset, attempts) in &progressed.failed {
            if !self.is_acked(*offset) {
                self.failed.insert(*offset, *attempts);
            }
        }
    }

    fn ack(&mut self, range: Range<Offset>) {
        let range = range.start.max(self.floor)..range.end;
        if range.is_empty() {
            return;
        }
        self.failed.extract_if(range.clone(), |_, _| true).for_each(drop);
        if range.start > self.floor {
            self.acked.insert_range(range);
            return;
        }
        self.floor = range.end;
        while let Some(first) = self.acked.min()
            && first <= self.floor
        {
            self.floor = self.next_unacked(self.floor);
            self.acked.remove_range(..self.floor);
        }
    }

    /// The acked offsets from `offset` on that follow one another, within 2^32 of them.
    fn run_from(&self, offset: Offset) -> Option<Range<Offset>> {
        let (high, low) = ((offset >> 32) as u32, offset as u32);
        let (_, bitmap) = self.acked.bitmaps().find(|(key, _)| *key == high)?;
        let mut iter = bitmap.iter();
        iter.advance_to(low);
        let run = iter.next_range().filter(|run| *run.start() == low)?;
        Some(offset..(offset - u64::from(low)) + u64::from(*run.end()) + 1)
    }

    /// The progress as bytes. Packs what is in memory, too.
    ///
    /// # Errors
    /// Where there is more of it than may be kept.
    pub fn encode(&mut self) -> Result<Vec<u8>, ProgressError> {
        self.settle_ties();
        self.acked.optimize();
        let bitset = if self.acked.is_empty() { 0 } else { self.acked.serialized_size() };
        let mut bytes = self.floor.to_le_bytes().to_vec();
        if mutant!(ForgetAttempts) {
            self.failed.clear();
        }
        event::put_failed(
            &mut bytes,
            self.failed.iter().map(|(offset, attempts)| (*offset, *attempts)),
            self.failed.len(),
        )?;
        if bytes.len() + bitset > MAX_GROUP_PROGRESS_BYTES {
            return Err(ProgressError::TooLarge { bytes: bytes.len() + bitset });
        }
        if bitset > 0 {
            bytes.reserve_exact(bitset);
            self.acked.serialize_into(&mut bytes).map_err(|_| Malformed("its bitset can't be written"))?;
        }
        Ok(bytes)
    }

    /// Makes arrays of containers that are as large as runs: left to itself such a one stays what it was
    /// made as, and so tells of the order in which things were done.
    fn settle_ties(&mut self) {
        let mut ties: Vec<Vec<Offset>> = Vec::new();
        for (high, bitmap) in self.acked.bitmaps() {
            let mut values = bitmap.iter();
            while let Some(first) = values.next() {
                let container = first & !0xffff..=first | 0xffff;
                let count = bitmap.range_cardinality(container.clone());
                // Two bytes a value, or two and four a run.
                if count % 2 == 1 && count < MAX_ARRAY {
                    let values: Vec<u32> = bitmap.range(container.clone()).collect();
                    let runs = 1 + values.windows(2).filter(|pair| pair[0] + 1 < pair[1]).count() as u64;
                    if count == 2 * runs + 1 {
                        ties.push(values.into_iter().map(|low| u64::from(high) << 32 | u64::from(low)).collect());
                    }
                }
                let Some(behind) = container.end().checked_add(1) else { break };
                values.advance_to(behind);
            }
        }
        for tie in ties {
            self.acked -= RoaringTreemap::from_iter(&tie);
            self.acked.extend(&tie);
        }
    }

    /// Reads it back.
    ///
    /// # Errors
    /// Where the bytes are not a group's progress.
    pub fn decode(bytes: &[u8]) -> Result<Progress, ProgressError> {
        if bytes.len() > MAX_GROUP_PROGRESS_BYTES {
            return Err(ProgressError::TooLarge { bytes: bytes.len() });
        }
        let mut reader = Reader(bytes);
        let floor = u64::from_le_bytes(reader.array()?);
        let failed: BTreeMap<_, _> = event::failed(&mut reader)?.into_iter().collect();
        let mut acked = RoaringTreemap::new();
        if !reader.0.is_empty() {
            acked = RoaringTreemap::deserialize_from(&mut reader.0).map_err(|_| Malformed("its bitset is damaged"))?;
            reader.end()?;
        }
        let progress = Progress { floor, acked, failed };
        if progress.acked.min().is_some_and(|first| first <= floor) {
            return Err(ProgressError::Malformed("its bitset begins at or below its floor"));
        }
        if progress.acked.max() == Some(Offset::MAX) {
            return Err(ProgressError::Malformed("its bitset holds 2^64 - 1"));
        }
        if progress.failed.keys().any(|offset| progress.is_acked(*offset)) {
            return Err(ProgressError::Malformed("something is acked and has failed"));
        }
        Ok(progress)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::super::event::{Dead, merged};
    use super::*;

    /// The same, in the plainest way.
    #[derive(Debug, Default)]
    struct Naive {
        acked: BTreeSet<Offset>,
        failed: BTreeMap<Offset, u32>,
    }

    impl Naive {
        fn apply(&mut self, progressed: &Progressed) {
            self.acked.extend(progressed.acked.iter().cloned().flatten());
            self.acked.extend(progressed.dead.iter().map(|dead| dead.offset));
            self.failed.extend(progressed.failed.iter().copied());
            self.failed.retain(|offset, _| !self.acked.contains(offset));
        }

        fn next_unacked(&self, from: Offset) -> Offset {
            (from..).find(|offset| !self.acked.contains(offset)).unwrap()
        }
    }

    fn acks(ranges: &[Range<Offset>]) -> Progressed {
        Progressed { acked: merged(ranges.to_vec()), ..Progressed::default() }
    }

    fn progressed(offsets: Range<Offset>) -> impl Strategy<Value = Progressed> {
        let range = (offsets.clone(), 1..40u64).prop_map(|(start, length)| start..start + length);
        let failed = prop::collection::btree_map(offsets.clone(), 1..9u32, 0..4);
        let dead = prop::collection::btree_set(offsets, 0..3);
        (prop::collection::vec(range, 0..5), failed, dead).prop_map(|(acked, failed, dead)| Progressed {
            acked: merged(acked),
            failed: failed.into_iter().collect(),
            dead: dead.into_iter().map(|offset| Dead::new(offset, 3, "")).collect(),
        })
    }

    #[test]
    fn golden_bytes_and_round_trip() {
        let mut progress = Progress::new(0x0102);
        assert_eq!(progress.encode().unwrap(), b"\x02\x01\0\0\0\0\0\0\0");
        let mut failed = acks(&[0..0x0100, 0x0105..0x0106, 0x0110..0x0120]);
        failed.failed = vec![(0x0102, 2)];
        progress.apply(&failed);
        // One bitmap, for the high half 0; in it one container of runs.
        let golden = b"\x02\x01\0\0\0\0\0\0\x01\x82\x02\x02\
            \x01\0\0\0\0\0\0\0\0\0\0\0\x3b\x30\0\0\x01\0\0\x10\0\x02\0\x05\x01\0\0\x10\x01\x0f\0";
        assert_eq!(progress.encode().unwrap(), golden);
        assert_eq!(Progress::decode(golden), Ok(progress));
    }

    #[test]
    fn what_is_no_progress_is_refused() {
        let wrong = |bytes: &[u8]| Progress::decode(bytes).unwrap_err().to_string();
        assert!(wrong(b"\0\0\0\0\0\0\0").contains("it is cut off"));
        assert!(wrong(b"\0\0\0\0\0\0\0\0\x09").contains("it is cut off"));
        assert!(wrong(b"\x09\0\0\0\0\0\0\0\x01\x08\x01").contains("is acked and has failed"));
        assert!(wrong(b"\0\0\0\0\0\0\0\0\0\x01").contains("its bitset is damaged"));
        assert!(wrong(&vec![0; MAX_GROUP_PROGRESS_BYTES + 1]).contains("the limit is 4194304"));
        let mut progress = Progress::new(4);
        progress.apply(&acks(std::slice::from_ref(&(6..7))));
        let mut bytes = progress.encode().unwrap();
        bytes[0] = 6;
        assert!(wrong(&bytes).contains("begins at or below its floor"));
    }

    /// One record is stuck and a hundred million behind it are acked: that costs next to nothing.
    #[test]
    fn a_stuck_record_costs_little() {
        let mut progress = Progress::new(0);
        for hundred in 0..1_000_000 {
            let start = 1 + hundred * 100;
            progress.apply(&acks(std::slice::from_ref(&(start..start + 100))));
            if hundred % 100_000 == 0 {
                progress.encode().unwrap();
            }
        }
        assert_eq!((progress.floor(), progress.unacked(100_000_001)), (0, 1));
        assert!(progress.encode().unwrap().len() < 32 << 10);
        progress.apply(&acks(std::slice::from_ref(&(0..1))));
        assert_eq!(progress, Progress::new(100_000_001));
    }

    #[test]
    fn runs_go_on_from_one_bitmap_to_the_next() {
        let edge = 1 << 32;
        let mut progress = Progress::new(edge - 10);
        progress.apply(&acks(&[edge - 9..edge + 9, edge + 11..edge + 12]));
        assert_eq!(progress.next_unacked(edge - 5), edge + 9);
        progress.apply(&acks(std::slice::from_ref(&(edge - 10..edge - 9))));
        assert_eq!(progress.floor(), edge + 9);
        assert_eq!(progress.unacked(edge + 12), 2);
    }

    proptest! {
        #[test]
        fn it_is_as_the_naive_model(
            base in prop_oneof![Just(0u64), Just((1 << 32) - 150), Just(65_536 - 150)],
            steps in prop::collection::vec(progressed(0..300), 1..30),
        ) {
            let mut progress = Progress::new(base);
            let mut naive = Naive::default();
            for step in &steps {
                let shifted = Progressed {
                    acked: step.acked.iter().map(|range| range.start + base..range.end + base).collect(),
                    failed: step.failed.iter().map(|(offset, attempts)| (offset + base, *attempts)).collect(),
                    dead: step.dead.iter().map(|dead| Dead::new(dead.offset + base, 3, "")).collect(),
                };
                progress.apply(&shifted);
                naive.apply(&shifted);
                prop_assert_eq!(progress.floor(), naive.next_unacked(base));
                let bytes = progress.encode().unwrap();
                prop_assert_eq!(Progress::decode(&bytes), Ok(progress.clone()));
            }
            let head = base + 400;
            for offset in base..head {
                prop_assert_eq!(progress.is_acked(offset), naive.acked.contains(&offset));
                prop_assert_eq!(progress.attempts(offset), naive.failed.get(&offset).copied().unwrap_or(0));
                prop_assert_eq!(progress.next_unacked(offset), naive.next_unacked(offset.max(progress.floor())));
            }
            prop_assert_eq!(progress.unacked(head), head - base - naive.acked.len() as u64);
            let known = naive.acked.iter().chain(naive.failed.keys()).max().map_or(base, |last| last + 1);
            prop_assert_eq!(progress.ceiling(), known);
        }

        /// Invariant 7: bytes are a function of what was done, and not of its order.
        #[test]
        fn the_order_of_acks_leaves_no_trace(
            acked in prop_oneof![
                prop::collection::btree_set(0..9_000u64, 0..6_000),
                prop::collection::btree_set(0..16u64, 0..12),
            ],
            seed: u64,
        ) {
            let ordered: Vec<Offset> = acked.into_iter().collect();
            let mut shuffled = ordered.clone();
            shuffled.sort_by_key(|offset| (offset ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15));
            let reversed: Vec<Offset> = ordered.iter().rev().copied().collect();
            let mut bytes = [&ordered, &shuffled, &reversed].into_iter().map(|offsets| {
                let mut progress = Progress::new(0);
                for (index, offset) in offsets.iter().enumerate() {
                    progress.apply(&acks(std::slice::from_ref(&(*offset..offset + 1))));
                    let few = offsets.len() < 16 && index % 2 == (seed % 2) as usize;
                    if few || index == offsets.len() / 2 {
                        let bytes = progress.encode().unwrap();
                        progress = Progress::decode(&bytes).unwrap();
                    }
                }
                progress.encode().unwrap()
            });
            let first = bytes.next();
            prop_assert_eq!(&first, &bytes.next());
            prop_assert_eq!(&first, &bytes.next());
        }

        /// Whatever is read is sound; nothing makes it panic.
        #[test]
        fn hostile_bytes_are_refused_or_sound(
            step in progressed(0..300),
            at: prop::sample::Index,
            flip: u8,
            cut: prop::sample::Index,
        ) {
            let mut progress = Progress::new(1);
            progress.apply(&step);
            let mut bytes = progress.encode().unwrap();
            let index = at.index(bytes.len());
            bytes[index] ^= flip;
            bytes.truncate(cut.index(bytes.len() + 1));
            if let Ok(mut read) = Progress::decode(&bytes) {
                let floor = read.floor();
                prop_assert!(!read.is_acked(floor));
                let again = read.encode().unwrap();
                prop_assert_eq!(Progress::decode(&again), Ok(read));
            }
        }
    }
}
