//! What the stores answer, against the model.

use consumers::{KeyRange, StoredRecord, Stores, StoresError};
use tlog::storage::simulated::Rng;
use wire::{ObjectId, Shard};

use super::SimStores;
use super::model::{Object, Seen, StoresModel, before};
use crate::world::{World, broken};

/// Holds the answer to a question about one store against what is due.
fn judge(
    what: &str,
    shard: Shard,
    seen: &Seen,
    answer: Result<Option<StoredRecord>, StoresError>,
    due: Option<(ObjectId, &Object)>,
) {
    let is_whole = !seen.rebuilding.contains(&shard.0);
    match answer {
        Err(StoresError::Rebuilding(of)) if of == shard && !is_whole => {}
        Ok(found) if is_whole => {
            let found = found.map(|found| (found.id(), Object::of(&found)));
            if found.as_ref().map(|(id, object)| (*id, object)) != due {
                broken!("{what} is {found:?} where {due:?} is due");
            }
        }
        answer => broken!("{what} is {answer:?}, whole: {is_whole}"),
    }
}

fn key(rng: &mut Rng) -> String {
    ["", "k", "k1", "k19", "l"]
        .get(rng.index(20))
        .map_or_else(|| format!("k{}", rng.below(21)), |key| (*key).to_owned())
}

impl World {
    /// Asks the stores something.
    pub(super) fn read_stores(&mut self, stores: &mut SimStores) {
        stores.counts.reads += 1;
        let seen = stores.seen();
        let due = StoresModel::new(&self.model, &seen);
        if self.model.namespaces.is_empty() {
            return;
        }
        let namespace = self.rng.index(self.model.namespaces.len());
        let stores = &stores.process.as_ref().unwrap().stores;
        match self.rng.below(5) {
            4 => self.wait_for_stores(stores, namespace, &seen),
            0 => {
                let (namespace, key) = (&self.model.namespaces[namespace].handle, key(&mut self.rng));
                let id = due.latest.get(&(namespace.id(), key.clone())).copied();
                let due = id.map(|id| (id, due.object(id).unwrap()));
                let shard = Shard::of(Some(&key), b"");
                judge("the latest of a key", shard, &seen, stores.latest(namespace, &key), due);
                // What was just read is in memory; only a store that is not whole is not answered from there.
                if let Ok(found) = stores.latest_in_memory(namespace, &key) {
                    judge("the latest of a key in memory", shard, &seen, Ok(found), due);
                }
            }
            1 | 2 => {
                let id = match due.objects.keys().nth(self.rng.index(due.objects.len() + 1)) {
                    Some((shard, namespace, counter)) => ObjectId::new(Shard(*shard), *namespace, *counter),
                    None => ObjectId::new(Shard(7), self.model.namespaces[namespace].handle.id(), 1),
                };
                let id = if self.rng.chance(1, 4) { ObjectId::from_u64(id.get() + 1) } else { id };
                judge("an object", id.shard(), &seen, stores.object(id), due.object(id).map(|object| (id, object)));
                match id.previous() {
                    Some(before) => {
                        let due = due.object(before).map(|object| (before, object));
                        judge("a previous object", id.shard(), &seen, stores.previous(id), due);
                    }
                    None if matches!(stores.previous(id), Ok(None)) => {}
                    None => broken!("there is something before {id}"),
                }
            }
            _ => self.read_range(stores, namespace, &seen, &due),
        }
    }

    /// Waits for what the stores have: that takes no turn of theirs.
    fn wait_for_stores(&self, stores: &Stores, namespace: usize, seen: &Seen) {
        let state = &self.model.namespaces[namespace];
        let live = seen.live(state.handle.id().partition(self.options.partitions));
        let Some(last) = state.frames.iter().rfind(|frame| state.live && frame.end() <= live) else { return };
        if let Err(error) = self.within_seconds(stores.wait_applied(&state.handle, last.next_offset() - 1)) {
            broken!("a record that is applied is waited for: {error}");
        }
    }

    /// Reads a range page by page.
    fn read_range(&mut self, stores: &Stores, namespace: usize, seen: &Seen, due: &StoresModel) {
        let rng = &mut self.rng;
        let mut range = KeyRange {
            prefix: if rng.chance(1, 3) { key(rng) } else { String::new() },
            from: rng.chance(1, 3).then(|| key(rng)),
            to: rng.chance(1, 3).then(|| key(rng)),
            after: rng.chance(1, 3).then(|| key(rng)),
            limit: 1 + rng.index(12),
        };
        let namespace = &self.model.namespaces[namespace].handle;
        let is_in = |key: &&String| {
            key.starts_with(&range.prefix)
                && range.from.as_ref().is_none_or(|from| *key >= from)
                && range.to.as_ref().is_none_or(|to| *key < to)
                && range.after.as_ref().is_none_or(|after| *key > after)
        };
        let of = due.latest.iter().filter(|((of, _), _)| *of == namespace.id());
        let all: Vec<_> = of.filter(|((_, key), _)| is_in(&key)).map(|(_, id)| *id).collect();
        let asked = format!("{range:?}");
        let mut pages = all.chunks(range.limit);
        loop {
            let page = match stores.range(namespace, &range) {
                Err(StoresError::Rebuilding(shard)) if seen.rebuilding.contains(&shard.0) => return,
                Ok(page) if seen.rebuilding.is_empty() => page,
                other => broken!("the keys {asked} are {other:?}"),
            };
            let ids: Vec<_> = page.records.iter().map(StoredRecord::id).collect();
            let same = page.records.iter().all(|record| due.object(record.id()) == Some(&Object::of(record)));
            if ids != pages.next().unwrap_or_default() || !same || page.next.is_some() != (pages.len() > 0) {
                broken!("a page of the keys {asked} is {ids:?}, next {:?}, of {all:?}", page.next);
            }
            match page.next {
                Some(next) => range.after = Some(next),
                None => return,
            }
        }
    }

    /// Holds what the stores say of themselves against the model.
    pub(super) fn check_states(&self, stores: &SimStores) {
        let seen = stores.seen();
        let due = StoresModel::new(&self.model, &seen);
        for state in stores.process.as_ref().unwrap().stores.states().unwrap() {
            let lag = |(id, partition)| partition_lag(partition, seen.of(state.shard.0, id));
            let lag: u64 = (0..).zip(&self.model.partitions).map(lag).sum();
            let rebuilding = seen.rebuilding.contains(&state.shard.0);
            if (state.objects, state.lag, state.rebuilding) != (due.count(state.shard), lag, rebuilding) {
                broken!("a store is {state:?} where {} objects and a lag of {lag} are due", due.count(state.shard));
            }
        }
    }
}

fn partition_lag(partition: &crate::model::PartitionModel, seen: u64) -> u64 {
    partition.records - before(partition, seen).0
}
