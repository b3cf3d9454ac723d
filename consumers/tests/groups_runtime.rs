//! Groups on a real log: leases, acks, what a restart keeps, and who is woken.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::sync::Arc;
use std::time::Duration;

use consumers::groups::{GroupConfig, GroupsError, Order, Seek, Start};
use futures::future::join_all;
use support::groups::{HandSet, Team, config, name, offsets, publish, tokens};
use support::{Fixture, append, create, loss_of};
use wire::NewRecord;
use wire::loss::Known;

const LONG: Duration = Duration::from_secs(30);

fn no_key(_: u64) -> Option<String> {
    None
}

#[tokio::test]
async fn what_is_acked_stays_acked_and_rows_come_back_to_the_same_bytes() {
    let fixture = Fixture::new();
    let (log, clock) = (fixture.log(), Arc::new(HandSet::default()));
    let namespace = create(&log, "orders").await;
    publish(&log, &namespace, 100, no_key).await;
    let mut acked = Vec::new();
    for round in 0..6 {
        let groups = fixture.groups(&log, &clock);
        let team = Team::new(&groups, &namespace, "work", config()).await;
        let leased = team.lease("a", 20).await;
        assert!(offsets(&leased).iter().all(|offset| !acked.contains(offset)), "round {round}");
        // Every other one, each in a call of its own, all at once.
        let acks: Vec<_> = leased.iter().step_by(2).map(std::slice::from_ref).collect();
        join_all(acks.iter().map(|leased| team.ack(leased))).await;
        acked.extend(acks.iter().map(|leased| leased[0].token.offset));
        if round % 2 == 0 {
            groups.ledger().close();
        }
        drop((team, groups));
        if round == 3 {
            fixture.delete_groups();
        }
    }
    let groups = fixture.groups(&log, &clock);
    let team = Team::existing(&groups, &namespace, "work");
    let state = groups.state(&namespace, &team.name).await.unwrap();
    let floor = (0..).find(|offset| !acked.contains(offset)).unwrap();
    assert_eq!((state.floor, state.lag_records), (floor, 100 - acked.len() as u64));
    groups.ledger().close();
    drop((team, groups));
    // Where the other partition has come to does not matter.
    let rows = || fixture.group_rows().into_iter().filter(|(key, _)| key[0] != b'p').collect::<Vec<_>>();
    let before = rows();
    fixture.delete_groups();
    let groups = fixture.groups(&log, &clock);
    groups.state(&namespace, &name("work")).await.unwrap();
    groups.ledger().close();
    drop(groups);
    assert_eq!(before, rows());
    assert_eq!(before.len(), 2);
}

#[tokio::test]
async fn rows_that_are_older_than_the_log_catch_up_before_anything_is_leased() {
    let fixture = Fixture::new();
    let (log, clock) = (fixture.log(), Arc::new(HandSet::default()));
    let namespace = create(&log, "orders").await;
    publish(&log, &namespace, 20, no_key).await;
    let groups = fixture.groups(&log, &clock);
    let team = Team::new(&groups, &namespace, "work", config()).await;
    groups.ledger().close();
    drop((team, groups));
    fixture.copy_groups("older");
    let groups = fixture.groups(&log, &clock);
    let team = Team::existing(&groups, &namespace, "work");
    team.ack(&team.lease("a", 7).await).await;
    groups.ledger().close();
    drop((team, groups));
    fixture.restore_groups("older");
    let groups = fixture.groups(&log, &clock);
    let team = Team::existing(&groups, &namespace, "work");
    assert_eq!(offsets(&team.lease("a", 100).await), (7..20).collect::<Vec<_>>());
    assert_eq!(team.floor().await, 7);
}

#[tokio::test]
async fn a_lease_that_lapses_is_given_again_and_its_token_is_late() {
    let fixture = Fixture::new();
    let (log, clock) = (fixture.log(), Arc::new(HandSet::default()));
    let namespace = create(&log, "orders").await;
    let groups = fixture.groups(&log, &clock);
    let team = Team::new(&groups, &namespace, "work", config()).await;
    publish(&log, &namespace, 2, no_key).await;
    let first = team.lease("a", 10).await;
    assert_eq!(first.iter().map(|leased| leased.delivery).collect::<Vec<_>>(), [1, 1]);
    assert_eq!(first[0].expires_micros, 1_000_000);
    clock.advance_ms(600);
    let extended = groups.extend(&namespace, &team.name, tokens(&first[..1]), None).await.unwrap();
    assert_eq!((extended.done, extended.lapsed.len()), (1, 0));
    clock.advance_ms(600);
    // Only the second has lapsed; who waits is woken.
    let second = team.lease_within("b", 10, LONG).await;
    assert_eq!((offsets(&second), second[0].delivery), (vec![1], 2));
    team.ack_late(&first[1..]).await;
    team.ack(&first[..1]).await;
    team.ack(&second).await;
    assert_eq!(team.floor().await, 2);
    let state = groups.state(&namespace, &team.name).await.unwrap();
    assert_eq!((state.delivered, state.redelivered, state.in_flight, state.lag_records), (3, 1, 0, 0));
}

#[tokio::test]
async fn attempts_and_acks_outlive_a_crash_and_leases_do_not() {
    let fixture = Fixture::new();
    let (log, clock) = (fixture.log(), Arc::new(HandSet::default()));
    let namespace = create(&log, "orders").await;
    publish(&log, &namespace, 3, no_key).await;
    let groups = fixture.groups(&log, &clock);
    let team = Team::new(&groups, &namespace, "work", config()).await;
    let leased = team.lease("a", 3).await;
    assert_eq!(team.nack(&leased[..1], Some(LONG), "no").await, 1);
    drop((team, groups));
    let groups = fixture.groups(&log, &clock);
    let team = Team::existing(&groups, &namespace, "work");
    team.ack_late(&leased).await;
    let again = team.lease("a", 3).await;
    assert_eq!(again.iter().map(|leased| leased.delivery).collect::<Vec<_>>(), [2, 1, 1]);
}

#[tokio::test]
async fn a_retry_waits_for_its_delay_and_wakes_who_waits() {
    let fixture = Fixture::new();
    let (log, clock) = (fixture.log(), Arc::new(HandSet::default()));
    let namespace = create(&log, "orders").await;
    publish(&log, &namespace, 1, no_key).await;
    let groups = fixture.groups(&log, &clock);
    let team = Team::new(&groups, &namespace, "work", config()).await;
    team.nack(&team.lease("a", 1).await, Some(Duration::from_millis(500)), "later").await;
    assert!(team.lease("a", 1).await.is_empty());
    let waiting = tokio::spawn({
        let team = team.clone();
        async move { team.lease_within("a", 1, LONG).await }
    });
    clock.advance_ms(499);
    assert!(team.lease("b", 1).await.is_empty());
    clock.advance_ms(1);
    assert_eq!(offsets(&waiting.await.unwrap()), [0]);
}

#[tokio::test]
async fn who_waits_is_woken_by_records_acks_seeks_goodbyes_and_the_end() {
    let fixture = Fixture::new();
    let (log, clock) = (fixture.log(), Arc::new(HandSet::default()));
    let namespace = create(&log, "orders").await;
    let groups = fixture.groups(&log, &clock);
    let team = Team::new(&groups, &namespace, "work", GroupConfig { order: Order::Key, ..config() }).await;
    let wait = |worker: &'static str| {
        let team = team.clone();
        tokio::spawn(async move { team.lease_within(worker, 1, LONG).await })
    };
    let waiting = wait("a");
    publish(&log, &namespace, 2, |_| Some("key".to_owned())).await;
    let first = waiting.await.unwrap();
    assert_eq!(offsets(&first), [0]);
    // The second of the key is held up by the first.
    let waiting = wait("a");
    team.ack(&first).await;
    let second = waiting.await.unwrap();
    assert_eq!(offsets(&second), [1]);
    let waiting = wait("a");
    groups.leave(&namespace, &team.name, "b").await.unwrap();
    assert_eq!(groups.seek(&namespace, &team.name, Seek::Offset(0)).await.unwrap(), 0);
    assert_eq!(offsets(&waiting.await.unwrap()), [0]);
    team.ack_late(&second).await;
    // Who says goodbye leaves its records to others, without a mark against them.
    groups.leave(&namespace, &team.name, "a").await.unwrap();
    let taken = wait("b").await.unwrap();
    assert_eq!((offsets(&taken), taken[0].delivery), (vec![0], 1));
    let ask = consumers::groups::Ask { worker: "c".to_owned(), max: 1, max_bytes: 1, max_held: 1, wait: LONG };
    let waiting = tokio::spawn({
        let team = team.clone();
        async move { team.groups.lease(&team.namespace, &team.name, ask).await }
    });
    while !groups.state(&namespace, &team.name).await.unwrap().workers.iter().any(|worker| worker.name == "c") {
        tokio::task::yield_now().await;
    }
    log.delete(&namespace).await.unwrap();
    assert!(matches!(waiting.await.unwrap(), Err(GroupsError::NamespaceNotFound)));
    // Its groups go with it: also their rows.
    let other = create(&log, "orders").await;
    assert!(matches!(groups.state(&other, &team.name).await, Err(GroupsError::GroupNotFound)));
    groups.ledger().close();
    drop((team, groups));
    assert!(fixture.group_rows().iter().all(|(key, _)| key[0] != b'g'));
}

#[tokio::test]
async fn groups_are_independent_configured_listed_and_deleted() {
    let fixture = Fixture::new();
    let (log, clock) = (fixture.log(), Arc::new(HandSet::default()));
    let namespace = create(&log, "orders").await;
    publish(&log, &namespace, 10, no_key).await;
    let groups = fixture.groups(&log, &clock);
    let all = Team::new(&groups, &namespace, "all", config()).await;
    let late = GroupConfig { start: Start::Latest, ..config() };
    let new = Team::new(&groups, &namespace, "new", late.clone()).await;
    let at = Team::new(&groups, &namespace, "at", GroupConfig { start: Start::At(12), ..config() }).await;
    assert!(new.lease("a", 100).await.is_empty());
    assert!(at.lease("a", 100).await.is_empty());
    all.ack(&all.lease("a", 4).await).await;
    publish(&log, &namespace, 5, no_key).await;
    assert_eq!(offsets(&new.lease("a", 100).await), [10, 11, 12, 13, 14]);
    assert_eq!(offsets(&at.lease("a", 100).await), [12, 13, 14]);
    assert_eq!(offsets(&all.lease("a", 100).await), (4..15).collect::<Vec<_>>());
    let listed = |after| groups.list(&namespace, after, 2).unwrap().into_iter().map(|(name, _)| name.to_string());
    assert_eq!(listed(None).collect::<Vec<_>>(), ["all", "at"]);
    assert_eq!(listed(Some("at")).collect::<Vec<_>>(), ["new"]);
    let configure = |name_of: &str, config| {
        let (groups, namespace, group) = (groups.clone(), namespace.clone(), name(name_of));
        async move { groups.configure(&namespace, &group, config).await }
    };
    assert!(!configure("all", config()).await.unwrap().new);
    assert!(matches!(configure("all", late.clone()).await, Err(GroupsError::StartDiffers)));
    assert!(!configure("all", GroupConfig { max_deliveries: 3, ..config() }).await.unwrap().new);
    let state = groups.state(&namespace, &all.name).await.unwrap();
    assert_eq!((state.floor, state.config.max_deliveries, state.lag_records), (4, 3, 11));
    groups.delete(&namespace, &all.name).await.unwrap();
    assert!(matches!(groups.delete(&namespace, &all.name).await, Err(GroupsError::GroupNotFound)));
    assert!(configure("all", late).await.unwrap().new);
    assert_eq!(all.floor().await, 15);
}

#[tokio::test]
async fn a_seek_goes_to_an_offset_a_time_or_an_end() {
    let fixture = Fixture::new();
    let (log, clock) = (fixture.log(), Arc::new(HandSet::default()));
    let namespace = create(&log, "orders").await;
    publish(&log, &namespace, 50, no_key).await;
    let groups = fixture.groups(&log, &clock);
    let team = Team::new(&groups, &namespace, "work", config()).await;
    team.ack(&team.lease("a", 50).await).await;
    let seek = |to| {
        let team = team.clone();
        async move { team.groups.seek(&team.namespace, &team.name, to).await }
    };
    assert_eq!(seek(Seek::Earliest).await.unwrap(), 0);
    assert_eq!(team.lease("a", 100).await.len(), 50);
    assert_eq!(seek(Seek::Offset(48)).await.unwrap(), 48);
    assert_eq!(offsets(&team.lease("a", 100).await), [48, 49]);
    assert_eq!(seek(Seek::Latest).await.unwrap(), 50);
    assert!(matches!(seek(Seek::Offset(51)).await, Err(GroupsError::PastHead { next_offset: 50 })));
    let frames = log.reader(&namespace, 0).unwrap().read_blocking(1 << 20).unwrap();
    for frame in &frames {
        assert_eq!(seek(Seek::Time(frame.time_micros())).await.unwrap(), frame.base_offset());
    }
    assert_eq!(seek(Seek::Time(i64::MAX)).await.unwrap(), 50);
    assert_eq!(seek(Seek::Time(i64::MIN)).await.unwrap(), 0);
}

#[tokio::test]
async fn lost_records_are_passed_over() {
    let fixture = Fixture::new();
    let clock = Arc::new(HandSet::default());
    let log = fixture.log();
    let namespace = create(&log, "orders").await;
    publish(&log, &namespace, 20, no_key).await;
    log.close();
    drop(log);
    let id = namespace.id();
    fixture.lose(|frame| {
        let lost = frame.namespace() == id && (frame.base_offset() == 5 || frame.base_offset() == 15);
        lost.then(|| loss_of(frame, Known::Counters { unlisted: frame.record_count(), listed: Vec::new() }))
    });
    let log = fixture.log();
    let namespace = log.namespace("orders").unwrap().unwrap();
    let groups = fixture.groups(&log, &clock);
    let team = Team::new(&groups, &namespace, "work", config()).await;
    let leased = team.lease("a", 100).await;
    assert_eq!(offsets(&leased), (0..5).chain(10..15).collect::<Vec<_>>());
    team.ack(&leased).await;
    assert_eq!(team.floor().await, 20);
}

#[tokio::test]
async fn order_by_key_holds_over_a_restart() {
    let fixture = Fixture::new();
    let (log, clock) = (fixture.log(), Arc::new(HandSet::default()));
    let namespace = create(&log, "orders").await;
    publish(&log, &namespace, 60, |index| Some(format!("k{}", index % 3))).await;
    let mut seen: Vec<Vec<u64>> = vec![Vec::new(); 3];
    for round in 0.. {
        let groups = fixture.groups(&log, &clock);
        let team = Team::new(&groups, &namespace, "work", GroupConfig { order: Order::Key, ..config() }).await;
        let mut any = false;
        for worker in ["a", "b"] {
            let leased = team.lease(worker, 10).await;
            any |= !leased.is_empty();
            for leased in leased.chunks(1).take(4) {
                seen[(leased[0].token.offset % 3) as usize].push(leased[0].token.offset);
                team.ack(leased).await;
            }
        }
        if !any && team.floor().await == 60 {
            break;
        }
        assert!(round < 200);
    }
    for (key, offsets) in seen.iter().enumerate() {
        assert_eq!(*offsets, (0..20).map(|index| index * 3 + key as u64).collect::<Vec<_>>());
    }
}

/// So many groups at once cost little, and an idle one is only rows.
#[tokio::test]
async fn a_thousand_groups_are_cheap() {
    let fixture = Fixture::new();
    let (log, clock) = (fixture.log(), Arc::new(HandSet::default()));
    let namespace = create(&log, "orders").await;
    publish(&log, &namespace, 5, no_key).await;
    let groups = fixture.groups(&log, &clock);
    let before = resident();
    let names: Vec<String> = (0..1_000).map(|index| format!("group {index}")).collect();
    for chunk in names.chunks(50) {
        let teams = chunk.iter().map(|name| async {
            let config = GroupConfig { order: Order::Key, ..config() };
            let team = Team::new(&groups, &namespace, name, config).await;
            team.ack(&team.lease("a", 2).await).await;
        });
        join_all(teams).await;
    }
    let grown = resident().saturating_sub(before);
    eprintln!("1,000 live groups: {} KiB", grown >> 10);
    assert!(grown < 64 << 20, "{grown} bytes");
    assert_eq!(groups.list(&namespace, None, 10_000).unwrap().len(), 1_000);
    for name in names.iter().step_by(100) {
        assert_eq!(Team::existing(&groups, &namespace, name).floor().await, 2);
    }
}

/// What the process has in memory, bytes.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

#[tokio::test]
async fn a_record_as_it_comes_is_leased_with_its_frame() {
    let fixture = Fixture::new();
    let (log, clock) = (fixture.log(), Arc::new(HandSet::default()));
    let namespace = create(&log, "orders").await;
    let groups = fixture.groups(&log, &clock);
    let team = Team::new(&groups, &namespace, "work", config()).await;
    for index in 0..30_u64 {
        append(&log, &namespace, &[NewRecord::text(&format!("v{index}"))]).await;
        let leased = team.lease_within("a", 1, LONG).await;
        assert_eq!(support::groups::content(&leased[0]).0, format!("v{index}"));
        team.ack(&leased).await;
    }
    // Large frames leave memory; they are read again for who needs them.
    let value = "x".repeat(300 << 10);
    for _ in 0..10 {
        append(&log, &namespace, &[NewRecord::text(&value)]).await;
    }
    let mut leased = Vec::new();
    while leased.len() < 10 {
        leased.extend(team.lease_within("a", 100, LONG).await);
    }
    assert!(leased.iter().all(|leased| support::groups::content(leased).0 == value));
}
