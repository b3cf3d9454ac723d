//! A set of shards.

use wire::Shard;

/// Some of the 256 shards: one bit each.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct ShardSet([u64; 4]);

impl ShardSet {
    /// None of them.
    pub(crate) const NONE: ShardSet = ShardSet([0; 4]);

    /// This one only.
    pub(crate) fn only(shard: Shard) -> ShardSet {
        let mut set = ShardSet::NONE;
        set.insert(shard);
        set
    }

    /// All but those of this set.
    pub(crate) fn others(&self) -> ShardSet {
        ShardSet(self.0.map(|word| !word))
    }

    pub(crate) fn contains(&self, shard: Shard) -> bool {
        self.0[usize::from(shard.0 >> 6)] >> (shard.0 & 63) & 1 == 1
    }

    pub(crate) fn insert(&mut self, shard: Shard) {
        self.0[usize::from(shard.0 >> 6)] |= 1 << (shard.0 & 63);
    }

    pub(crate) fn remove(&mut self, shard: Shard) {
        self.0[usize::from(shard.0 >> 6)] &= !(1 << (shard.0 & 63));
    }

    /// Those of the set, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Shard> {
        let set = *self;
        (0..=u8::MAX).map(Shard).filter(move |shard| set.contains(*shard))
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::btree_set;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_set_holds_what_was_put_in(shards in btree_set(any::<u8>(), 0..256), out in btree_set(any::<u8>(), 0..256)) {
            let mut set = ShardSet::NONE;
            shards.iter().for_each(|shard| set.insert(Shard(*shard)));
            out.iter().for_each(|shard| set.remove(Shard(*shard)));
            let left: Vec<Shard> = shards.difference(&out).copied().map(Shard).collect();
            prop_assert_eq!(set.iter().collect::<Vec<_>>(), left);
            prop_assert!(set.others().iter().all(|shard| !set.contains(shard)));
            prop_assert_eq!(set.others().others(), set);
        }
    }
}
