//! Ranges of keys, against a model: whatever is published, a range is what a sorted map would give.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::collections::BTreeMap;

use consumers::{KeyRange, Stores};
use proptest::prelude::*;
use support::{Fixture, append, create, publish, text};
use tlog::Namespace;
use tokio::runtime::Runtime;
use wire::NewRecord;
use wire::limits::{MAX_PAGE_BYTES, MAX_PAGE_RECORDS};

/// All pages of a range, one after another.
fn pages(stores: &Stores, namespace: &Namespace, mut range: KeyRange) -> Vec<(String, String)> {
    let mut all = Vec::new();
    loop {
        let page = stores.range(namespace, &range).unwrap();
        assert!(page.records.len() <= range.limit);
        assert!(page.next.is_none() || page.records.len() == range.limit, "only the last page is short");
        all.extend(page.records.iter().map(text).map(|(key, value)| (key.unwrap(), value)));
        match page.next {
            Some(next) => range.after = Some(next),
            None => return all,
        }
    }
}

fn key() -> impl Strategy<Value = String> {
    prop_oneof!["[a-c]{1,3}", "[a-c]{1,2}é?", Just("\u{10ffff}".to_owned())]
}

fn range() -> impl Strategy<Value = KeyRange> {
    let bound = || prop::option::of(key());
    ("[a-c]{0,2}", bound(), bound(), bound(), 1_usize..9).prop_map(|(prefix, from, to, after, limit)| KeyRange {
        prefix,
        from,
        to,
        after,
        limit,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn ranges_are_those_of_a_sorted_map(
        records in prop::collection::vec((key(), prop::option::weighted(0.7, "[0-9]{1,3}")), 1..60),
        ranges in prop::collection::vec(range(), 1..20),
    ) {
        let runtime = Runtime::new().unwrap();
        let fixture = Fixture::new();
        let log = fixture.log();
        let stores = fixture.stores(&log);
        let (namespace, neighbour) = runtime.block_on(async { (create(&log, "a").await, create(&log, "b").await) });
        let mut model = BTreeMap::new();
        let mut published = Vec::new();
        for (key, value) in &records {
            published.push(match value {
                Some(value) => NewRecord::text(value).with_key(key),
                None => NewRecord::tombstone(key),
            });
            match value {
                Some(value) => model.insert(key.clone(), value.clone()),
                None => model.remove(key),
            };
        }
        runtime.block_on(async {
            publish(&log, &stores, &neighbour, &[NewRecord::text("not mine").with_key("aa")]).await;
            publish(&log, &stores, &namespace, &published).await;
        });
        for range in ranges {
            let wanted: Vec<_> = model
                .iter()
                .filter(|(key, _)| {
                    key.starts_with(&range.prefix)
                        && range.from.as_ref().is_none_or(|from| *key >= from)
                        && range.to.as_ref().is_none_or(|to| *key < to)
                        && range.after.as_ref().is_none_or(|after| *key > after)
                })
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect();
            prop_assert_eq!(pages(&stores, &namespace, range), wanted);
        }
        stores.close();
    }
}

#[tokio::test]
async fn a_page_ends_at_its_limits() {
    let fixture = Fixture::new();
    let log = fixture.log();
    let stores = fixture.stores(&log);
    let (many, large) = (create(&log, "many").await, create(&log, "large").await);
    let keys: Vec<String> = (0..MAX_PAGE_RECORDS + 5).map(|key| format!("{key:06}")).collect();
    for keys in keys.chunks(5_000) {
        let records: Vec<_> = keys.iter().map(|key| NewRecord::text(key).with_key(key)).collect();
        let last = append(&log, &many, &records).await;
        stores.wait_applied(&many, last).await.unwrap();
    }
    let all = KeyRange { limit: usize::MAX, ..KeyRange::default() };
    let page = stores.range(&many, &all).unwrap();
    assert_eq!(page.records.len(), MAX_PAGE_RECORDS);
    assert_eq!(page.next.as_ref(), Some(&keys[MAX_PAGE_RECORDS - 1]));
    let rest = stores.range(&many, &KeyRange { after: page.next, ..all.clone() }).unwrap();
    assert_eq!((rest.records.len(), rest.next), (5, None));
    assert_eq!(stores.range(&many, &KeyRange { limit: 0, ..all.clone() }).unwrap().records.len(), 1);

    let value = "x".repeat(1_000_000);
    let fit = MAX_PAGE_BYTES.div_ceil(value.len());
    for key in &keys[..fit + 1] {
        publish(&log, &stores, &large, &[NewRecord::text(&value).with_key(key)]).await;
    }
    let page = stores.range(&large, &all).unwrap();
    assert_eq!((page.records.len(), page.next.as_ref()), (fit, Some(&keys[fit - 1])));
}
