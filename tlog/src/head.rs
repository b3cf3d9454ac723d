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
//! ```
//!
//! Numbers are little-endian.

use wire::{Chain, Frame, Generation, Offset, Shard};

const FIXED_BYTES: usize = 52;
const COUNTER_BYTES: usize = 5;

/// A namespace's head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// The offset that the next record gets: how many there are.
    pub next_offset: Offset,
    /// The chain over all frames.
    pub chain: Chain,
    /// Bytes of all frames.
    pub bytes: u64,
    pub(crate) generation: Generation,
    pub(crate) counters: Counters,
}

impl Head {
    /// The head of a namespace without records.
    pub(crate) fn empty(generation: Generation) -> Head {
        Head { next_offset: 0, chain: Chain::EMPTY, bytes: 0, generation, counters: Counters::default() }
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
    }

    /// What the frame says that does not follow from this head, if anything does not.
    pub(crate) fn contradiction(&self, frame: &Frame) -> Option<String> {
        if frame.generation() != self.generation {
            return Some(format!("generation {} in a namespace of {}", frame.generation(), self.generation));
        }
        if frame.base_offset() != self.next_offset {
            return Some(format!("offset {} where {} is due", frame.base_offset(), self.next_offset));
        }
        if frame.chain_after(&self.chain) != frame.chain() {
            return Some(format!("the chain breaks at offset {}", self.next_offset));
        }
        let mut counters = self.counters.clone();
        frame.records().find_map(|record| {
            let due = counters.take(record.id.shard());
            let wrong = record.id.counter() != due || !record.shard_is_true();
            wrong.then(|| format!("offset {} has the id {}", record.offset, record.id))
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
        row
    }

    /// The head of a row, or nothing where the bytes are not one.
    pub(crate) fn decode(row: &[u8]) -> Option<Head> {
        let (generation, rest) = row.split_first_chunk::<4>()?;
        let (next_offset, rest) = rest.split_first_chunk::<8>()?;
        let (bytes, rest) = rest.split_first_chunk::<8>()?;
        let (chain, rest) = rest.split_first_chunk::<32>()?;
        let (counters, []) = rest.as_chunks::<COUNTER_BYTES>() else { return None };
        let counters =
            counters.iter().map(|[shard, a, b, c, d]| (*shard, u32::from_le_bytes([*a, *b, *c, *d]))).collect();
        Some(Head {
            generation: u32::from_le_bytes(*generation),
            next_offset: u64::from_le_bytes(*next_offset),
            bytes: u64::from_le_bytes(*bytes),
            chain: Chain(*chain),
            counters: Counters(counters),
        })
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

    fn set(&mut self, shard: Shard, counter: u32) {
        *self.slot(shard) = counter;
    }

    fn slot(&mut self, shard: Shard) -> &mut u32 {
        // A namespace that has records in every shard is indexed by shard.
        let at = if self.0.len() == wire::limits::SHARDS {
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

    proptest! {
        #[test]
        fn rows_round_trip(next_offset: u64, bytes: u64, chain: [u8; 32], generation: u32, taken in prop::collection::vec(any::<u8>(), 0..600)) {
            let mut counters = Counters::default();
            let mut expected = std::collections::BTreeMap::new();
            for shard in taken {
                let count = expected.entry(shard).or_insert(0);
                *count += 1;
                prop_assert_eq!(counters.take(Shard(shard)), *count);
            }
            let head = Head { next_offset, bytes, chain: Chain(chain), generation, counters };
            let row = head.encode();
            prop_assert_eq!(Head::decode(&row), Some(head));
            prop_assert_eq!(Head::decode(&row[..row.len() - 1]), None);
        }
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
    }

    #[test]
    fn ids_run_out() {
        let mut head = Head { next_offset: 1 << 40, ..Head::empty(1) };
        head.counters.set(Shard(9), u32::MAX - 5);
        assert!(head.has_ids_for(5));
        assert!(!head.has_ids_for(6));
    }
}
