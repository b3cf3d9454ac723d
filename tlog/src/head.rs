//! A namespace's head: what must be known of it to append the next frame, and nothing more.
//!
//! Its row:
//!
//! ```text
//!  0   4  generation
//!  4   8  next offset
//! 12   8  bytes        of all its frames
//! 20  32  chain
//! 52      counters     each: shard u8, counter of its last record u32; ascending by shard
//!         doubt u32    only where it is not 0: by how much counters may be ahead, at most
//! ```
//!
//! Numbers are little-endian.
//!
//! Where records are lost, the counters of their shards may not be known. They are taken to have gone on as
//! far as they can have, so that no object id is ever given twice; a frame behind the loss sets right
//! those that it has. The doubt says by how much it may do so.

use wire::limits::SHARDS;
use wire::loss::Known;
use wire::{Chain, Frame, Generation, Loss, NamespaceId, Offset, Shard};

const FIXED_BYTES: usize = 52;
const COUNTER_BYTES: usize = 5;
const DOUBT_BYTES: usize = 4;

/// A namespace's head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// The offset that the next record gets: how many there are.
    pub next_offset: Offset,
    /// The chain over all frames, or over those behind the last loss. Right behind a loss it is
    /// [`Chain::EMPTY`]: not known.
    pub chain: Chain,
    /// Bytes of all frames.
    pub bytes: u64,
    pub(crate) generation: Generation,
    pub(crate) counters: Counters,
    pub(crate) doubt: u32,
}

impl Head {
    /// The head of a namespace without records.
    pub(crate) fn empty(generation: Generation) -> Head {
        Head { next_offset: 0, chain: Chain::EMPTY, bytes: 0, generation, counters: Counters::default(), doubt: 0 }
    }

    /// The head as readers see it: without what only the sequencer needs.
    pub(crate) fn seen(&self) -> Head {
        Head { counters: Counters::default(), ..*self }
    }

    /// Moves the head behind a frame that continues it.
    pub(crate) fn advance(&mut self, frame: &Frame) {
        self.next_offset = frame.next_offset();
        self.chain = frame.chain();
        self.bytes += frame.len() as u64;
        for record in frame.records() {
            self.counters.set(record.id.shard(), record.id.counter());
        }
        if let Some(Loss { known: Known::Counters { unlisted, listed }, .. }) = frame.loss() {
            self.counters.add(unlisted);
            listed.iter().for_each(|(shard, counter)| self.counters.set(*shard, *counter));
            self.doubt = self.doubt.saturating_add(unlisted);
        }
    }

    /// What the frame says that does not follow from this head, if anything does not.
    pub(crate) fn contradiction(&self, frame: &Frame) -> Option<String> {
        self.contradiction_where(frame, |_| false)
    }

    /// The same where the counters of some shards may be further on than the head has them.
    pub(crate) fn contradiction_where(&self, frame: &Frame, unsure: impl Fn(Shard) -> bool) -> Option<String> {
        if frame.generation() != self.generation {
            return Some(format!("generation {} in a namespace of {}", frame.generation(), self.generation));
        }
        if frame.base_offset() != self.next_offset {
            return Some(format!("offset {} where {} is due", frame.base_offset(), self.next_offset));
        }
        if !frame.continues(&self.chain) {
            return Some(format!("the chain breaks at offset {}", self.next_offset));
        }
        match frame.loss() {
            Some(loss) => contradiction_of(&loss),
            // Control records are no objects: nobody looks for them by id, and a loss of them lists no counters.
            None if frame.namespace() == NamespaceId::CONTROL => None,
            None => self.wrong_id(frame, unsure),
        }
    }

    /// The first record of a frame whose id is not the next of its shard.
    fn wrong_id(&self, frame: &Frame, unsure: impl Fn(Shard) -> bool) -> Option<String> {
        let mut counters = self.counters.clone();
        frame.records().find_map(|record| {
            let (shard, counter) = (record.id.shard(), u64::from(record.id.counter()));
            let due = u64::from(counters.get(shard)) + 1;
            let set_right = counter < due && due - counter <= u64::from(self.doubt);
            let follows = counter == due || set_right || (counter > due && unsure(shard));
            counters.set(shard, record.id.counter());
            (!follows || !record.shard_is_true()).then(|| format!("offset {} has the id {}", record.offset, record.id))
        })
    }

    /// Whether `records` more can be given object ids.
    pub(crate) fn has_ids_for(&self, records: u32) -> bool {
        let most = u64::from(u32::MAX) - u64::from(records);
        // No counter can be larger than the number of records.
        self.next_offset <= most || u64::from(self.counters.largest()) <= most
    }

    /// Bytes of memory that the head takes.
    pub(crate) fn weight(&self) -> u64 {
        (size_of::<Head>() + self.counters.0.capacity() * size_of::<(u8, u32)>()) as u64
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut row = Vec::with_capacity(FIXED_BYTES + COUNTER_BYTES * self.counters.0.len());
        row.extend_from_slice(&self.generation.to_le_bytes());
        row.extend_from_slice(&self.next_offset.to_le_bytes());
        row.extend_from_slice(&self.bytes.to_le_bytes());
        row.extend_from_slice(&self.chain.0);
        for (shard, counter) in &self.counters.0 {
            row.push(*shard);
            row.extend_from_slice(&counter.to_le_bytes());
        }
        if self.doubt > 0 {
            row.extend_from_slice(&self.doubt.to_le_bytes());
        }
        row
    }

    /// The head of a row, or nothing where the bytes are not one.
    pub(crate) fn decode(row: &[u8]) -> Option<Head> {
        let (generation, rest) = row.split_first_chunk::<4>()?;
        let (next_offset, rest) = rest.split_first_chunk::<8>()?;
        let (bytes, rest) = rest.split_first_chunk::<8>()?;
        let (chain, rest) = rest.split_first_chunk::<32>()?;
        let (counters, rest) = rest.as_chunks::<COUNTER_BYTES>();
        let doubt = match rest.len() {
            0 => 0,
            DOUBT_BYTES => rest.first_chunk().map(|doubt| u32::from_le_bytes(*doubt)).filter(|doubt| *doubt > 0)?,
            _ => return None,
        };
        let counters =
            counters.iter().map(|[shard, a, b, c, d]| (*shard, u32::from_le_bytes([*a, *b, *c, *d]))).collect();
        Some(Head {
            generation: u32::from_le_bytes(*generation),
            next_offset: u64::from_le_bytes(*next_offset),
            bytes: u64::from_le_bytes(*bytes),
            chain: Chain(*chain),
            counters: Counters(counters),
            doubt,
        })
    }
}

/// What a loss says that can't be, if anything can't.
fn contradiction_of(loss: &Loss) -> Option<String> {
    let next_offset = loss.base_offset + u64::from(loss.count);
    match &loss.known {
        Known::Counters { unlisted, .. } if *unlisted > loss.count => {
            Some(format!("counters go on by {unlisted}, and {} records are lost", loss.count))
        }
        Known::Counters { listed, .. } => listed
            .iter()
            .find(|(_, counter)| u64::from(*counter) > next_offset)
            .map(|(shard, counter)| format!("shard {shard} has {counter} of {next_offset} records")),
        Known::Events(_) => None,
    }
}

/// The counter of the last record in each shard that has one, ascending by shard.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Counters(Vec<(u8, u32)>);

impl Counters {
    /// Gives out the next counter of a shard. The caller has asked [`Head::has_ids_for`].
    pub(crate) fn take(&mut self, shard: Shard) -> u32 {
        let counter = self.slot(shard);
        *counter += 1;
        *counter
    }

    pub(crate) fn get(&self, shard: Shard) -> u32 {
        if self.0.len() == SHARDS {
            return self.0[usize::from(shard.0)].1;
        }
        let found = self.0.binary_search_by_key(&shard.0, |(shard, _)| *shard);
        found.ok().map_or(0, |at| self.0[at].1)
    }

    fn set(&mut self, shard: Shard, counter: u32) {
        *self.slot(shard) = counter;
    }

    /// Has every shard go on by so many. One that reaches the last counter there is has none left to give.
    pub(crate) fn add(&mut self, more: u32) {
        if more == 0 {
            return;
        }
        *self = Counters(
            (0..SHARDS as u32)
                .map(|shard| Shard(shard as u8))
                .map(|shard| (shard.0, self.get(shard).saturating_add(more)))
                .collect(),
        );
    }

    fn slot(&mut self, shard: Shard) -> &mut u32 {
        // A namespace that has records in every shard is indexed by shard.
        let at = if self.0.len() == SHARDS {
            usize::from(shard.0)
        } else {
            match self.0.binary_search_by_key(&shard.0, |(shard, _)| *shard) {
                Ok(at) => at,
                Err(at) => {
                    self.0.insert(at, (shard.0, 0));
                    at
                }
            }
        };
        &mut self.0[at].1
    }

    fn largest(&self) -> u32 {
        self.0.iter().map(|(_, counter)| *counter).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use wire::{DraftBuilder, NewRecord, Place};

    proptest! {
        #[test]
        fn rows_round_trip(next_offset: u64, bytes: u64, chain: [u8; 32], generation: u32, taken in prop::collection::vec(any::<u8>(), 0..600), doubt in prop_oneof![Just(0), any::<u32>()]) {
            let mut counters = Counters::default();
            let mut expected = std::collections::BTreeMap::new();
            for shard in taken {
                let count = expected.entry(shard).or_insert(0);
                *count += 1;
                prop_assert_eq!(counters.take(Shard(shard)), *count);
            }
            let head = Head { next_offset, bytes, chain: Chain(chain), generation, counters, doubt };
            let row = head.encode();
            prop_assert_eq!(Head::decode(&row), Some(head.clone()));
            prop_assert_ne!(Head::decode(&row[..row.len() - 1]), Some(head.clone()));
            prop_assert_eq!(Head::decode(&[&row[..], &[0; 3]].concat()), None);
        }
    }

    /// A frame of text records, one for each value, with the ids and the chain that `head` gives them.
    fn frame(head: &mut Head, values: &[u8]) -> Frame {
        let mut builder = DraftBuilder::default();
        values.iter().for_each(|value| builder.push(&NewRecord::bytes(&[*value])).unwrap());
        let place = Place {
            position: 0,
            commit_start: 0,
            namespace: NamespaceId::new(1).unwrap(),
            generation: head.generation,
            base_offset: head.next_offset,
            time_micros: 0,
            producer: None,
            chain: head.chain,
        };
        let frame = builder.finish().unwrap().place(&place, |shard| head.counters.take(shard));
        assert_eq!(frame.base_offset(), head.next_offset);
        head.advance(&frame);
        frame
    }

    fn loss(before: &Head, count: u32, unlisted: u32, listed: Vec<(Shard, u32)>) -> Frame {
        let loss = Loss {
            position: 0,
            length: 4096,
            namespace: NamespaceId::new(1).unwrap(),
            generation: before.generation,
            base_offset: before.next_offset,
            count,
            time_micros: 0,
            known: Known::Counters { unlisted, listed },
        };
        loss.encode().unwrap()
    }

    proptest! {
        /// What is written, and which frames of it are lost; of a loss only what its repair can know is
        /// listed: any shards exactly, and how many records are left over.
        #[test]
        fn behind_a_loss_every_frame_follows_and_no_id_is_given_twice(
            written in prop::collection::vec((prop::collection::vec(any::<u8>(), 1..5), any::<bool>()), 1..40),
            knows in prop::collection::vec(any::<bool>(), 256),
        ) {
            let (mut truth, mut left) = (Head::empty(1), Head::empty(1));
            let mut lost: Vec<Frame> = Vec::new();
            let mut last_given = std::collections::BTreeMap::new();
            let end = (vec![7], false);
            for (values, is_lost) in written.iter().chain([&end]) {
                let frame = frame(&mut truth, values);
                last_given.extend(frame.records().map(|record| (record.id.shard(), record.id.counter())));
                if *is_lost {
                    lost.push(frame);
                    continue;
                }
                let count: u32 = lost.iter().map(Frame::record_count).sum();
                if count > 0 {
                    let records = || lost.iter().flat_map(Frame::records);
                    let shards: std::collections::BTreeMap<Shard, u32> =
                        records().map(|record| (record.id.shard(), record.id.counter())).collect();
                    let listed: Vec<_> = shards.into_iter().filter(|(shard, _)| knows[usize::from(shard.0)]).collect();
                    let known = records().filter(|record| knows[usize::from(record.id.shard().0)]).count() as u32;
                    let loss = loss(&left, count, count - known, listed);
                    prop_assert_eq!(left.contradiction(&loss), None);
                    left.advance(&loss);
                    prop_assert_eq!(left.chain, Chain::EMPTY);
                    lost.clear();
                }
                prop_assert_eq!(left.contradiction(&frame), None);
                left.advance(&frame);
            }
            prop_assert_eq!((left.next_offset, left.chain), (truth.next_offset, truth.chain));
            for (shard, last) in last_given {
                prop_assert!(left.counters.take(shard) > last);
            }
        }
    }

    #[test]
    fn what_a_loss_can_not_say_is_a_contradiction() {
        let mut head = Head::empty(1);
        frame(&mut head, b"abc");
        let wrong = |frame: &Frame| head.contradiction(frame).unwrap();
        assert!(wrong(&loss(&Head::empty(1), 1, 0, Vec::new())).contains("offset 0 where 3 is due"));
        assert!(wrong(&loss(&Head { generation: 2, ..head.clone() }, 1, 0, Vec::new())).contains("generation 2"));
        assert!(wrong(&loss(&head, 1, 2, Vec::new())).contains("counters go on by 2, and 1 records are lost"));
        assert!(wrong(&loss(&head, 1, 0, vec![(Shard(9), 5)])).contains("shard 9 has 5 of 4 records"));
        assert_eq!(head.contradiction(&loss(&head, 1, 0, vec![(Shard(9), 4)])), None);
    }

    #[test]
    fn a_counter_that_is_ahead_is_set_right_and_no_further_than_the_doubt() {
        let mut truth = Head::empty(1);
        let first = frame(&mut truth, b"a");
        let shard = first.records().next().unwrap().id.shard();
        let mut left = Head::empty(1);
        left.advance(&first);
        left.advance(&loss(&left, 3, 3, Vec::new()));
        truth.next_offset += 3;
        assert_eq!((left.counters.get(shard), left.doubt), (4, 3));
        let behind = frame(&mut truth, b"a");
        assert_eq!(left.contradiction(&behind), None, "none of the three was of this shard");
        left.doubt = 2;
        assert!(left.contradiction(&behind).unwrap().starts_with("offset 4 has the id"));
        left.doubt = 3;
        left.advance(&behind);
        assert_eq!(left.counters.get(shard), 2);
    }

    #[test]
    fn a_shard_whose_counter_may_be_the_last_there_is_gives_none_out() {
        let mut head = Head { next_offset: 1 << 40, ..Head::empty(1) };
        head.counters.set(Shard(9), u32::MAX - 5);
        head.advance(&loss(&head, 10, 10, Vec::new()));
        assert_eq!(head.counters.get(Shard(9)), u32::MAX);
        assert!(!head.has_ids_for(1));
        let mut other = Head { counters: Counters::default(), ..head.clone() };
        head.counters.add(u32::MAX);
        head.doubt = 0;
        assert!(head.contradiction(&frame(&mut other, b"a")).is_some());
    }

    #[test]
    fn golden_row() {
        let mut head = Head { next_offset: 2, bytes: 300, ..Head::empty(1) };
        head.counters.take(Shard(7));
        head.counters.take(Shard(3));
        let mut row = vec![1, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0x2c, 1, 0, 0, 0, 0, 0, 0];
        row.extend_from_slice(&[0; 32]);
        row.extend_from_slice(&[3, 1, 0, 0, 0, 7, 1, 0, 0, 0]);
        assert_eq!(head.encode(), row);
        head.doubt = 0x0102;
        row.extend_from_slice(&[2, 1, 0, 0]);
        assert_eq!(head.encode(), row);
    }

    #[test]
    fn ids_run_out() {
        let mut head = Head { next_offset: 1 << 40, ..Head::empty(1) };
        head.counters.set(Shard(9), u32::MAX - 5);
        assert!(head.has_ids_for(5));
        assert!(!head.has_ids_for(6));
    }
}
