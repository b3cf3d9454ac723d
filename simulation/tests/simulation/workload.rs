//! What is asked of the log: by chance, and near to what can go wrong.

use std::sync::Arc;

use tlog::storage::simulated::Rng;
use wire::{Draft, DraftBuilder, Kind, NamespaceConfig, NamespaceName, NewRecord, Producer, ProducerId};

use crate::ledger::DEAD;
use crate::model::{Item, Model, NamespaceModel, Request};

/// Namespaces that may be alive at once.
const MAX_NAMESPACES: usize = 12;

/// What batches look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    Any,
    /// All of one length, so that a batch fits exactly where another was lost.
    Equal,
}

/// A request that makes sense, or just does not.
pub fn request(rng: &mut Rng, model: &Model, shape: Shape) -> Request {
    // What is for dead letters is for groups to write to.
    let is_ours = |namespace: &NamespaceModel| !namespace.handle.name().starts_with(DEAD);
    let live: Vec<usize> = model.live().filter(|(_, state)| is_ours(state)).map(|(at, _)| at).collect();
    if live.is_empty() || (live.len() < MAX_NAMESPACES && rng.chance(1, 8)) {
        return create(rng);
    }
    match rng.below(40) {
        0 => create(rng),
        1 => Request::Delete { namespace: live[rng.index(live.len())] },
        2 => {
            let all: Vec<usize> = (0..model.namespaces.len()).filter(|at| is_ours(&model.namespaces[*at])).collect();
            let any = all[rng.index(all.len())];
            append(rng, model, any, shape)
        }
        _ => {
            let one = live[rng.index(live.len())];
            append(rng, model, one, shape)
        }
    }
}

fn create(rng: &mut Rng) -> Request {
    let name = NamespaceName::new(&format!("ns-{}", rng.below(16))).unwrap();
    // One name in a few has a tight limit, and now and then another than it was created with.
    let tight = name.len().is_multiple_of(2) && !rng.chance(1, 10);
    let config = if tight { NamespaceConfig { max_record_bytes: 600 } } else { NamespaceConfig::default() };
    Request::Create { name, config }
}

fn append(rng: &mut Rng, model: &Model, namespace: usize, shape: Shape) -> Request {
    let state = &model.namespaces[namespace];
    let producer = rng.chance(1, 2).then(|| {
        let id = ProducerId::of(["p", "q"][rng.index(2)]).unwrap();
        let known = state.producers.get(&id).cloned().unwrap_or_default();
        let next = known.base_offsets.len() as u64;
        let (epoch, sequence) = match rng.below(20) {
            0 => (known.epoch + 1, 0),
            1 => (known.epoch + 1, 1),
            2 => (known.epoch.saturating_sub(1), next),
            3 => (known.epoch, next + 1),
            4 => (known.epoch, rng.below(next + 1)),
            5..8 => (known.epoch, next.saturating_sub(1 + rng.below(18))),
            // Its last batch again, as after an ack that was lost.
            8..10 => (known.epoch, next.saturating_sub(1)),
            _ => (known.epoch, next),
        };
        Producer { id, epoch, sequence }
    });
    let if_next_offset = rng.chance(1, 5).then(|| match rng.below(4) {
        0 => state.next_offset.saturating_sub(1 + rng.below(4)),
        1 => state.next_offset + rng.below(3),
        _ => state.next_offset,
    });
    Request::Append { namespace, items: Arc::new(items(rng, shape)), producer, if_next_offset }
}

fn items(rng: &mut Rng, shape: Shape) -> Vec<Item> {
    if shape == Shape::Equal {
        let value = (0..380).map(|_| b'a' + rng.below(26) as u8).collect();
        return vec![Item { key: None, headers: Vec::new(), kind: Kind::Text, value }];
    }
    if rng.chance(1, 60) {
        // Many of one key: more objects of a namespace in one store than are deleted one by one.
        let key = Some(format!("k{}", rng.below(20)));
        let item = Item { key, headers: Vec::new(), kind: Kind::Text, value: Vec::new() };
        return vec![item; 100 + rng.index(100)];
    }
    let (count, most) = match rng.below(40) {
        // Larger than a segment.
        0 => (1 + rng.below(3), 9_000),
        1 => (1, 30_000),
        2..6 => (1 + rng.below(30), 100),
        6..10 => (1 + rng.below(3), 2_000),
        _ => (1 + rng.below(3), 200),
    };
    (0..count).map(|_| item(rng, most)).collect()
}

fn item(rng: &mut Rng, most: u64) -> Item {
    let key = rng.chance(1, 2).then(|| format!("k{}", rng.below(20)));
    let headers = match rng.below(10) {
        0 => vec![("h".to_owned(), "v".repeat(rng.index(20))), ("i".to_owned(), String::new())],
        _ => Vec::new(),
    };
    if key.is_some() && rng.chance(1, 10) {
        return Item { key, headers, kind: Kind::Tombstone, value: Vec::new() };
    }
    let kind = [Kind::Bytes, Kind::Text, Kind::Json][rng.index(3)];
    let length = rng.index(most as usize + 1);
    let first = rng.number();
    let mut value: Vec<u8> =
        (0..length as u64).map(|n| b'0' + ((first.rotate_left(n as u32) ^ n) % 10) as u8).collect();
    match kind {
        // A value may hold what looks like a frame.
        Kind::Bytes if rng.chance(1, 8) => value.extend_from_slice(b"TLGF\0\0\0\0\0\x01\0\0"),
        Kind::Json => value = format!("\"{}\"", String::from_utf8(value).unwrap()).into_bytes(),
        _ => {}
    }
    Item { key, headers, kind, value }
}

/// The batch as it goes to the log.
pub fn draft(items: &[Item]) -> Draft {
    let mut builder = DraftBuilder::default();
    for item in items {
        let headers: Vec<_> =
            item.headers.iter().map(|(name, value)| (name.as_str().into(), value.as_str().into())).collect();
        let record = NewRecord { key: item.key.as_deref(), headers: &headers, kind: item.kind, value: &item.value };
        builder.push(&record).unwrap();
    }
    builder.finish().unwrap()
}
