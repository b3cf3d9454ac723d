//! Dead letters: each is there once, says where it comes from, and can be sent back once.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use consumers::groups::{GroupConfig, GroupsError, Retry};
use support::groups::{HandSet, Team, config, content, name, offsets, publish};
use support::{Fixture, append, create};
use tlog::{Log, Namespace};
use wire::{NamespaceConfig, NamespaceName, NewRecord};

const LONG: Duration = Duration::from_secs(30);

fn dead_after(max_deliveries: u32) -> GroupConfig {
    let dead_letter = Some(NamespaceName::new("dead").unwrap());
    GroupConfig { max_deliveries, dead_letter, retry: Retry { min_ms: 0, max_ms: 0 }, ..config() }
}

/// Waits until the dead-letter namespace has so many records.
async fn letters(log: &Log, count: u64) -> Namespace {
    let wait = async {
        loop {
            if let Some(dead) = log.namespace("dead").unwrap()
                && log.head(&dead).unwrap().next_offset >= count
            {
                return dead;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(LONG, wait).await.expect("the dead letters did not come in time")
}

#[tokio::test]
async fn a_record_that_is_given_up_becomes_a_letter_and_can_be_sent_back_once() {
    let fixture = Fixture::new();
    let (log, clock) = (fixture.log(), Arc::new(HandSet::default()));
    let namespace = create(&log, "orders").await;
    let headers = [(Cow::from("content"), Cow::from("plain"))];
    append(&log, &namespace, &[NewRecord::text("poison").with_key("k").with_headers(&headers)]).await;
    let groups = fixture.groups(&log, &clock);
    let team = Team::new(&groups, &namespace, "work", dead_after(3)).await;
    // Once it lapses, twice it is given back.
    team.lease("a", 1).await;
    clock.advance_ms(1_000);
    for _ in 0..2 {
        let leased = team.lease_within("a", 1, LONG).await;
        assert_eq!(team.nack(&leased, None, "it\nis bad").await, 1);
    }
    assert_eq!(team.floor().await, 1);
    let dead = letters(&log, 1).await;
    let reader = Team::new(&groups, &dead, "reader", config()).await;
    let letter = reader.lease("a", 10).await;
    let (value, headers) = content(&letter[0]);
    assert_eq!(value, "poison");
    let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (&**name, &**value)).collect();
    let expected = [
        ("content", "plain"),
        ("tlog-deliveries", "3"),
        ("tlog-error", "it is bad"),
        ("tlog-group", "work"),
        ("tlog-namespace", "orders"),
        ("tlog-offset", "0"),
    ];
    assert_eq!(headers, expected);
    assert_eq!(groups.redrive(&namespace, &team.name).await.unwrap(), 1);
    assert_eq!(groups.redrive(&namespace, &team.name).await.unwrap(), 0);
    let back = team.lease_within("a", 10, LONG).await;
    assert_eq!((offsets(&back), back[0].delivery), (vec![1], 1));
    let (value, headers) = content(&back[0]);
    assert_eq!((&*value, headers.len()), ("poison", 1));
    // Letters of another group are not sent back with it.
    let other = Team::new(&groups, &namespace, "other", dead_after(1)).await;
    assert_eq!(groups.redrive(&namespace, &other.name).await.unwrap(), 0);
    let without = Team::new(&groups, &namespace, "without", config()).await;
    assert!(matches!(groups.redrive(&namespace, &without.name).await, Err(GroupsError::NoDeadLetters)));
}

#[tokio::test]
async fn letters_are_stored_once_whenever_the_process_ends() {
    let fixture = Fixture::new();
    let (log, clock) = (fixture.log(), Arc::new(HandSet::default()));
    let namespace = create(&log, "orders").await;
    publish(&log, &namespace, 200, |_| None).await;
    let mut given_up = 0;
    for round in 0..12_u64 {
        let groups = fixture.groups(&log, &clock);
        let team = Team::new(&groups, &namespace, "work", dead_after(1)).await;
        let leased = team.lease("a", 10).await;
        given_up += team.nack(&leased, None, "no").await as u64;
        match round % 4 {
            // Nothing of them has been sent, or some of it, or all.
            0 => {}
            1 => {
                for _ in 0..round * 5 {
                    tokio::task::yield_now().await;
                }
            }
            2 => drop(letters(&log, given_up - 5).await),
            _ => drop(letters(&log, given_up).await),
        }
        let ledger = Arc::downgrade(groups.ledger());
        drop((team, groups));
        // What looks for letters may be at work, and has the ledger open until it is not.
        let gone = async {
            while ledger.strong_count() > 0 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(LONG, gone).await.expect("the ledger is not let go of");
        if round % 3 == 0 {
            fixture.delete_groups();
        }
    }
    // Nobody asks for the group: what a crash has kept back is sent all the same.
    let groups = fixture.groups(&log, &clock);
    let dead = letters(&log, given_up).await;
    let team = Team::existing(&groups, &namespace, "work");
    let mut from: Vec<u64> = Vec::new();
    for frame in log.reader(&dead, 0).unwrap().read_blocking(1 << 20).unwrap() {
        for mut record in frame.records() {
            from.push(record.headers.find(|(name, _)| *name == "tlog-offset").unwrap().1.parse().unwrap());
        }
    }
    from.sort_unstable();
    assert_eq!(from, (0..given_up).collect::<Vec<_>>());
    assert_eq!((given_up, team.floor().await), (120, 120));
    assert_eq!(log.head(&dead).unwrap().next_offset, given_up);
    groups.ledger().close();
    drop((team, groups));
    // Rows that come back from the log agree, and no letter is left among them.
    let check = fixture.groups(&log, &clock);
    let work = Team::existing(&check, &namespace, "work");
    assert_eq!(work.floor().await, 120);
}

#[tokio::test]
async fn a_letter_that_does_not_fit_leaves_its_value_where_it_is() {
    let fixture = Fixture::new();
    let (log, clock) = (fixture.log(), Arc::new(HandSet::default()));
    let namespace = create(&log, "orders").await;
    let small = NamespaceConfig { max_record_bytes: 1_000 };
    log.create(&NamespaceName::new("dead").unwrap(), small).await.unwrap();
    let value = "x".repeat(5_000);
    append(&log, &namespace, &[NewRecord::text(&value)]).await;
    let groups = fixture.groups(&log, &clock);
    let team = Team::new(&groups, &namespace, "work", dead_after(1)).await;
    team.nack(&team.lease("a", 1).await, None, "no").await;
    let dead = letters(&log, 1).await;
    let reader = Team::new(&groups, &dead, "reader", config()).await;
    let (left, headers) = content(&reader.lease("a", 1).await[0]);
    assert_eq!((&*left, headers["tlog-value"].as_str(), headers["tlog-offset"].as_str()), ("", "left out", "0"));
    assert_eq!(groups.redrive(&namespace, &team.name).await.unwrap(), 1);
    let back = team.lease_within("a", 1, LONG).await;
    assert_eq!(content(&back[0]).0, value);
}

#[tokio::test]
async fn without_a_place_for_letters_records_are_given_up_all_the_same() {
    let fixture = Fixture::new();
    let (log, clock) = (fixture.log(), Arc::new(HandSet::default()));
    let namespace = create(&log, "orders").await;
    publish(&log, &namespace, 700, |_| None).await;
    let groups = fixture.groups(&log, &clock);
    let team = Team::new(&groups, &namespace, "work", GroupConfig { max_deliveries: 1, ..config() }).await;
    let mut leased = team.lease("a", 700).await;
    while leased.len() < 700 {
        leased.extend(team.lease("a", 700).await);
    }
    assert_eq!(team.nack(&leased, None, "no").await, 700);
    let state = groups.state(&namespace, &name("work")).await.unwrap();
    assert_eq!((state.floor, state.dead_lettered, state.in_flight), (700, 700, 0));
    assert!(log.namespace("dead").unwrap().is_none());
}
