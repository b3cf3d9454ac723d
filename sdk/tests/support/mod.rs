//! Frames as a broker makes them, without one.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of this")]

pub mod fake;

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use wire::loss::Known;
use wire::{Chain, Draft, DraftBuilder, Frame, Loss, NamespaceId, NewRecord, Place, Producer, Shard, Trailer};

/// A namespace's log in memory: gives drafts their place, as a sequencer does.
#[derive(Clone, Debug)]
pub struct Log {
    pub namespace: NamespaceId,
    pub generation: u32,
    pub frames: Vec<Frame>,
    counters: HashMap<Shard, u32>,
}

impl Default for Log {
    fn default() -> Self {
        Log::of(NamespaceId::new(7).unwrap(), 0)
    }
}

impl Log {
    pub fn of(namespace: NamespaceId, generation: u32) -> Log {
        Log { namespace, generation, frames: Vec::new(), counters: HashMap::new() }
    }

    /// A log of `frames` frames of `records` records each, every third with a key.
    pub fn with(frames: usize, records: usize) -> Log {
        let mut log = Log::default();
        for frame in 0..frames {
            log.append(batch(frame * records, records), None);
        }
        log
    }

    pub fn next_offset(&self) -> u64 {
        self.frames.last().map_or(0, Frame::next_offset)
    }

    pub fn chain(&self) -> Chain {
        self.frames.last().map_or(Chain::EMPTY, Frame::chain)
    }

    pub fn append(&mut self, draft: Draft, producer: Option<Producer>) -> Frame {
        let position = self.frames.last().map_or(0, Frame::end);
        let place = Place {
            position,
            commit_start: position,
            namespace: self.namespace,
            generation: self.generation,
            base_offset: self.next_offset(),
            time_micros: 1_767_225_600_000_000 + self.next_offset() as i64,
            producer,
            chain: self.chain(),
        };
        let frame = draft.place(&place, |shard| {
            let counter = self.counters.entry(shard).or_default();
            *counter += 1;
            *counter
        });
        self.frames.push(frame.clone());
        frame
    }

    /// Loses frames: one stands in their place that knows where their counters went.
    pub fn lose(&mut self, frames: Range<usize>) {
        let mut listed = BTreeMap::new();
        for record in self.frames[frames.clone()].iter().flat_map(Frame::records) {
            listed.insert(record.id.shard().0, record.id.counter());
        }
        let listed = listed.into_iter().map(|(shard, counter)| (Shard(shard), counter)).collect();
        self.lose_all_but(frames, Known::Counters { unlisted: 0, listed });
    }

    /// Loses frames, of which no more is known than this.
    pub fn lose_all_but(&mut self, frames: Range<usize>, known: Known) {
        let lost = &self.frames[frames.clone()];
        let (first, last) = (&lost[0], &lost[lost.len() - 1]);
        let loss = Loss {
            position: first.position(),
            length: lost.iter().map(Frame::len).sum::<usize>().max(known.loss_bytes()),
            namespace: self.namespace,
            generation: self.generation,
            base_offset: first.base_offset(),
            count: (last.next_offset() - first.base_offset()) as u32,
            time_micros: first.time_micros(),
            known,
        };
        self.frames.splice(frames, [loss.encode().unwrap()]);
    }

    /// The trailer of a stream that began at `first_offset`.
    pub fn trailer(&self, first_offset: u64) -> Trailer {
        Trailer {
            namespace: self.namespace,
            generation: self.generation,
            first_offset,
            next_offset: self.next_offset(),
            frames: self.from(first_offset).count() as u64,
            chain: self.chain(),
        }
    }

    /// The frames from an offset on.
    pub fn from(&self, offset: u64) -> impl Iterator<Item = &Frame> {
        self.frames.iter().filter(move |frame| frame.next_offset() > offset)
    }

    /// A rebuild from an offset on.
    pub fn stream(&self, from: u64) -> Vec<u8> {
        let mut bytes: Vec<u8> = self.from(from).flat_map(|frame| frame.bytes().iter().copied()).collect();
        bytes.extend_from_slice(&self.trailer(from).encode());
        bytes
    }
}

/// A batch of `count` records that are numbered from `first`, every third with a key.
pub fn batch(first: usize, count: usize) -> Draft {
    let mut builder = DraftBuilder::default();
    for number in first..first + count {
        let (key, value) = (format!("k{}", number % 5), format!("value {number}"));
        let record = NewRecord::text(&value);
        builder.push(&if number.is_multiple_of(3) { record.with_key(&key) } else { record }).unwrap();
    }
    builder.finish().unwrap()
}
