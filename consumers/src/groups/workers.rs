//! Who works, and whose the 256 shards are.
//!
//! Each worker has a weight for each shard, a hash of both; a shard is the worker's whose weight for it
//! is the highest (rendezvous hashing). So who joins takes its share from all the others, who leaves
//! hands its share out to them, and no other shard moves.

use std::sync::Arc;

use rustc_hash::FxHashMap;
use wire::Shard;
use wire::limits::{MAX_GROUP_WORKERS, SHARDS};

/// A set of shards: a bit for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct ShardSet([u64; SHARDS / 64]);

impl ShardSet {
    pub(super) fn insert(&mut self, Shard(shard): Shard) {
        self.0[usize::from(shard / 64)] |= 1 << (shard % 64);
    }

    pub(super) fn remove(&mut self, Shard(shard): Shard) {
        self.0[usize::from(shard / 64)] &= !(1 << (shard % 64));
    }

    pub(super) fn and(self, ShardSet(other): ShardSet) -> ShardSet {
        ShardSet(std::array::from_fn(|index| self.0[index] & other[index]))
    }

    pub(super) fn is_empty(self) -> bool {
        self == ShardSet::default()
    }

    pub(super) fn len(self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// The first shard in it from `from` on, around the ring.
    pub(super) fn next(self, from: Shard) -> Option<Shard> {
        let words = self.0.len();
        let (first, bit) = (usize::from(from.0 / 64), from.0 % 64);
        let at = |word: usize, bits: u64| Shard((word * 64) as u8 + bits.trailing_zeros() as u8);
        let above = self.0[first] & (u64::MAX << bit);
        if above != 0 {
            return Some(at(first, above));
        }
        // What is below `from` in its own word comes last.
        (1..=words)
            .map(|step| (first + step) % words)
            .find(|word| self.0[*word] != 0)
            .map(|word| at(word, self.0[word]))
    }
}

/// What is known of a worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerFigures {
    /// What it calls itself.
    pub name: Arc<str>,
    /// Its last sign of life.
    pub seen: u64,
    /// Records that it has.
    pub in_flight: usize,
    /// Shards that are its own; they only matter where order is by key.
    pub shards: usize,
}

/// There are more workers than a group knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the group has {MAX_GROUP_WORKERS} workers, the limit: this one has to wait until another leaves")]
pub struct TooManyWorkers;

#[derive(Debug)]
struct Worker {
    name: Arc<str>,
    seen: u64,
    in_flight: usize,
    /// Whether it has not left. One that has stays known until nothing of its is in flight.
    present: bool,
    shards: ShardSet,
    weights: Box<[u64; SHARDS]>,
}

/// The workers of a group.
#[derive(Debug, Default)]
pub(super) struct Workers {
    workers: Vec<Worker>,
    free: Vec<u32>,
    by_name: FxHashMap<Arc<str>, u32>,
}

impl Workers {
    /// A sign of life of a worker, which joins with its first.
    pub(super) fn arrive(&mut self, name: &str, now: u64) -> Result<u32, TooManyWorkers> {
        if let Some(worker) = self.by_name.get(name).copied() {
            self.seen(worker, now);
            return Ok(worker);
        }
        if self.workers.len() - self.free.len() >= MAX_GROUP_WORKERS {
            return Err(TooManyWorkers);
        }
        let name: Arc<str> = name.into();
        let weights = weights(&name);
        let mut joining = Worker {
            name: Arc::clone(&name),
            seen: now,
            in_flight: 0,
            present: true,
            shards: ShardSet::default(),
            weights,
        };
        for shard in shards() {
            if let Some(owner) = self.owner(shard) {
                let owner = &mut self.workers[owner];
                if (joining.weight(shard), &joining.name) < (owner.weight(shard), &owner.name) {
                    continue;
                }
                owner.shards.remove(shard);
            }
            joining.shards.insert(shard);
        }
        let worker = match self.free.pop() {
            Some(worker) => {
                self.workers[worker as usize] = joining;
                worker
            }
            None => {
                self.workers.push(joining);
                (self.workers.len() - 1) as u32
            }
        };
        self.by_name.insert(name, worker);
        Ok(worker)
    }

    /// A worker leaves: its shards go to the others.
    pub(super) fn leave(&mut self, name: &str) {
        let Some(worker) = self.by_name.remove(name) else { return };
        let leaving = &mut self.workers[worker as usize];
        leaving.present = false;
        let left = std::mem::take(&mut leaving.shards);
        for shard in shards().filter(|shard| !left.and(only(*shard)).is_empty()) {
            if let Some(heir) = self.heaviest(shard) {
                self.workers[heir].shards.insert(shard);
            }
        }
        self.forget_if_gone(worker);
    }

    /// A worker has been given so many records.
    pub(super) fn given(&mut self, worker: u32, records: usize) {
        self.workers[worker as usize].in_flight += records;
    }

    /// How many records the worker of this name has.
    pub(super) fn held(&self, name: &str) -> usize {
        self.find(name).map_or(0, |worker| self.workers[worker as usize].in_flight)
    }

    /// A worker has a record no more.
    pub(super) fn done(&mut self, worker: u32) {
        self.workers[worker as usize].in_flight -= 1;
        self.forget_if_gone(worker);
    }

    /// A sign of life.
    pub(super) fn seen(&mut self, worker: u32, now: u64) {
        let worker = &mut self.workers[worker as usize];
        worker.seen = worker.seen.max(now);
    }

    /// A worker's shards.
    pub(super) fn shards(&self, worker: u32) -> ShardSet {
        self.workers[worker as usize].shards
    }

    /// The worker of that name.
    pub(super) fn find(&self, name: &str) -> Option<u32> {
        self.by_name.get(name).copied()
    }

    /// Whose a shard is.
    pub(super) fn owner_name(&self, shard: Shard) -> Option<&str> {
        self.owner(shard).map(|owner| &*self.workers[owner].name)
    }

    /// What is known of each, by name.
    pub(super) fn figures(&self) -> Vec<WorkerFigures> {
        let mut figures: Vec<WorkerFigures> = self.present().map(|(_, worker)| worker.figures()).collect();
        figures.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        figures
    }

    fn present(&self) -> impl Iterator<Item = (usize, &Worker)> {
        self.workers.iter().enumerate().filter(|(_, worker)| worker.present)
    }

    fn owner(&self, shard: Shard) -> Option<usize> {
        self.present().find(|(_, worker)| !worker.shards.and(only(shard)).is_empty()).map(|(index, _)| index)
    }

    fn heaviest(&self, shard: Shard) -> Option<usize> {
        self.present().max_by_key(|(_, worker)| (worker.weight(shard), &worker.name)).map(|(index, _)| index)
    }

    fn forget_if_gone(&mut self, worker: u32) {
        let known = &self.workers[worker as usize];
        if !known.present && known.in_flight == 0 {
            self.free.push(worker);
        }
    }
}

impl Worker {
    fn weight(&self, Shard(shard): Shard) -> u64 {
        self.weights[usize::from(shard)]
    }

    fn figures(&self) -> WorkerFigures {
        let Worker { name, seen, in_flight, shards, .. } = self;
        WorkerFigures { name: Arc::clone(name), seen: *seen, in_flight: *in_flight, shards: shards.len() }
    }
}

fn shards() -> impl Iterator<Item = Shard> {
    (0..=u8::MAX).map(Shard)
}

fn only(shard: Shard) -> ShardSet {
    let mut set = ShardSet::default();
    set.insert(shard);
    set
}

/// A worker's weight for each shard: its name's BLAKE3, read on for 8 bytes a shard.
fn weights(name: &str) -> Box<[u64; SHARDS]> {
    let mut hash = blake3::Hasher::new().update(name.as_bytes()).finalize_xof();
    Box::new(std::array::from_fn(|_| {
        let mut weight = [0; 8];
        hash.fill(&mut weight);
        u64::from_le_bytes(weight)
    }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn owners(workers: &Workers) -> Vec<Option<String>> {
        shards().map(|shard| workers.owner_name(shard).map(str::to_owned)).collect()
    }

    /// The definition, without the bookkeeping.
    fn rendezvous(names: &[String]) -> Vec<Option<String>> {
        let weighed: Vec<_> = names.iter().map(|name| (weights(name), name)).collect();
        let heaviest = |Shard(shard)| weighed.iter().max_by_key(|(weights, name)| (weights[usize::from(shard)], *name));
        shards().map(|shard| heaviest(shard).map(|(_, name)| String::clone(name))).collect()
    }

    #[test]
    fn golden_weights() {
        // BLAKE3 of "abc" begins 6437b3ac38465133: the published test vector.
        assert_eq!(weights("abc")[0], u64::from_le_bytes([0x64, 0x37, 0xb3, 0xac, 0x38, 0x46, 0x51, 0x33]));
    }

    #[test]
    fn who_joins_or_leaves_moves_its_share_only() {
        for count in [1, 2, 5, 20, 50] {
            let mut workers = Workers::default();
            for n in 0..count {
                workers.arrive(&format!("worker {n}"), 0).unwrap();
            }
            let before = owners(&workers);
            workers.arrive("another", 0).unwrap();
            let with = owners(&workers);
            let moved: Vec<usize> = (0..SHARDS).filter(|shard| before[*shard] != with[*shard]).collect();
            assert!(!moved.is_empty() && moved.len() < 2 * SHARDS / (count + 1), "{} of {count}", moved.len());
            assert!(moved.iter().all(|shard| with[*shard].as_deref() == Some("another")));
            workers.leave("another");
            assert_eq!(owners(&workers), before);
        }
    }

    #[test]
    fn there_is_a_limit_and_room_again_once_one_has_left() {
        let mut workers = Workers::default();
        for n in 0..MAX_GROUP_WORKERS {
            workers.arrive(&n.to_string(), 0).unwrap();
        }
        assert_eq!(workers.arrive("x", 0), Err(TooManyWorkers));
        let held = workers.arrive("7", 1).unwrap();
        workers.given(held, 1);
        workers.leave("7");
        assert_eq!(workers.arrive("x", 0), Err(TooManyWorkers));
        workers.done(held);
        assert_eq!(workers.arrive("x", 0), Ok(held));
    }

    proptest! {
        #[test]
        fn shards_are_shared_out_by_rendezvous(steps in prop::collection::vec((any::<bool>(), 0..8u8), 0..40)) {
            let mut workers = Workers::default();
            let mut names: Vec<String> = Vec::new();
            for (joins, n) in steps {
                let name = format!("w{n}");
                names.retain(|known| *known != name);
                if joins {
                    workers.arrive(&name, 0).unwrap();
                    names.push(name);
                } else {
                    workers.leave(&name);
                }
                prop_assert_eq!(owners(&workers), rendezvous(&names));
                let figures = workers.figures();
                prop_assert_eq!(figures.len(), names.len());
                prop_assert_eq!(figures.iter().map(|f| f.shards).sum::<usize>(), if names.is_empty() { 0 } else { SHARDS });
            }
        }

        #[test]
        fn the_next_shard_goes_around(members in prop::collection::btree_set(any::<u8>(), 0..9), from: u8) {
            let mut set = ShardSet::default();
            members.iter().for_each(|shard| set.insert(Shard(*shard)));
            let expected = members.range(from..).chain(members.range(..from)).next().map(|shard| Shard(*shard));
            prop_assert_eq!(set.next(Shard(from)), expected);
            prop_assert_eq!(set.len(), members.len());
        }
    }
}
