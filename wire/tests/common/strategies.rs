//! Any record, any batch, any place: what the property tests draw from.

use std::borrow::Cow;
use std::collections::BTreeMap;

use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use wire::record::HeaderPair;
use wire::{Chain, Draft, DraftBuilder, Frame, Kind, NamespaceId, NewRecord, Place, Producer, ProducerId};

/// A record, owned.
#[derive(Clone, Debug)]
pub(crate) struct Content {
    pub(crate) key: Option<String>,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) kind: Kind,
    pub(crate) value: Vec<u8>,
}

/// The draft of a batch.
pub(crate) fn draft_of(batch: &[Content]) -> Draft {
    let mut builder = DraftBuilder::default();
    for content in batch {
        let headers: Vec<HeaderPair<'_>> =
            content.headers.iter().map(|(name, value)| (Cow::from(name), Cow::from(value))).collect();
        let Content { key, kind, value, .. } = content;
        builder.push(&NewRecord { key: key.as_deref(), headers: &headers, kind: *kind, value }).unwrap();
    }
    builder.finish().unwrap()
}

/// The frame of a batch, its counters from 1.
pub(crate) fn frame_of(batch: &[Content], place: &Place) -> Frame {
    let mut counter = 0;
    draft_of(batch).place(place, |_| {
        counter += 1;
        counter
    })
}

/// A batch of few records.
pub(crate) fn batches() -> impl Strategy<Value = Vec<Content>> {
    vec(contents(), 1..6)
}

/// A place in any namespace but the log's own.
pub(crate) fn places() -> impl Strategy<Value = Place> {
    let physical = (0..1_u64 << 62, any::<u32>());
    let namespace = (1..1_u32 << 24, any::<u32>());
    let logical = (0..1_u64 << 53, any::<i64>(), any::<[u8; 32]>());
    (physical, namespace, logical, option::of(producers())).prop_map(
        |((position, distance), (namespace, generation), (base_offset, time_micros, chain), producer)| Place {
            position,
            commit_start: position.saturating_sub(u64::from(distance)),
            namespace: NamespaceId::new(namespace).unwrap(),
            generation,
            base_offset,
            time_micros,
            producer,
            chain: Chain(chain),
        },
    )
}

fn producers() -> impl Strategy<Value = Producer> {
    (any::<[u8; 16]>(), any::<u32>(), any::<u64>()).prop_map(|(id, epoch, sequence)| Producer {
        id: ProducerId(id),
        epoch,
        sequence,
    })
}

fn contents() -> impl Strategy<Value = Content> {
    let headers = || btree_map(names(), "[^\\p{Cc}]{0,12}", 0..4);
    let valued = (option::of(names()), headers(), values()).prop_map(|(key, headers, (kind, value))| Content {
        key,
        headers,
        kind,
        value,
    });
    let tombstone = (names(), headers()).prop_map(|(key, headers)| Content {
        key: Some(key),
        headers,
        kind: Kind::Tombstone,
        value: Vec::new(),
    });
    prop_oneof![6 => valued, 1 => tombstone]
}

/// What a key or a header's name may be: anything but control characters.
fn names() -> impl Strategy<Value = String> {
    "[^\\p{Cc}]{1,12}"
}

fn values() -> impl Strategy<Value = (Kind, Vec<u8>)> {
    prop_oneof![
        vec(any::<u8>(), 0..80).prop_map(|value| (Kind::Bytes, value)),
        texts().prop_map(|value| (Kind::Text, value.into_bytes())),
        json_texts().prop_map(|value| (Kind::Json, value.into_bytes())),
    ]
}

/// Any text, rich in what breaks lines and strings.
fn texts() -> impl Strategy<Value = String> {
    let awkward = "[\\x00-\\x1f\\x7f\\u{80}-\\u{9f}\\u{2028}\\u{2029}\\u{feff}\"\\\\a]{0,20}";
    prop_oneof![any::<String>(), awkward.prop_map(|text: String| text)]
}

/// Any JSON text, with all that JSON allows between its tokens.
fn json_texts() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        any::<bool>().prop_map(|value| value.to_string()),
        any::<i64>().prop_map(|value| value.to_string()),
        "-?(0|[1-9][0-9]{0,30})(\\.[0-9]{1,5})?([eE][+-]?[0-9]{1,2})?",
        texts().prop_map(|text| serde_json::to_string(&text).unwrap()),
        Just("\"\\ud83d\\ude00\\/\\u0000\"".to_owned()),
    ];
    let spaced = (gaps(), leaf, gaps()).prop_map(|(before, token, after)| before + &token + &after);
    spaced.prop_recursive(3, 12, 4, |inner| {
        let member = (gaps(), texts(), gaps(), inner.clone()).prop_map(|(before, name, after, value)| {
            format!("{before}{}{after}:{value}", serde_json::to_string(&name).unwrap())
        });
        prop_oneof![
            (gaps(), vec(inner, 1..4), gaps()).prop_map(|(a, items, b)| format!("{a}[{}]{b}", items.join(","))),
            (gaps(), vec(member, 1..4), gaps()).prop_map(|(a, members, b)| format!("{a}{{{}}}{b}", members.join(","))),
        ]
    })
}

fn gaps() -> impl Strategy<Value = String> {
    "[ \\t\\r\\n]{0,2}"
}
