//! Rows of rooms and subscribers: a function of the log however it was applied, slots that are given out again only
//! when no row has their bit, and changes that a crash cuts anywhere.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::collections::BTreeSet;
use std::future::Future;
use std::task::Poll;

use consumers::rooms::{Place, Room, Rooms, RoomsError, SubscriberName};
use consumers::{Ledger, OPEN_TABLES};
use futures::poll;
use support::create;
use support::rooms::{Site, room, seeds, subscriber};
use tlog::Namespace;

const NAMES: [&str; 5] = ["ann", "bob", "cid", "dan", "eve"];
const KEYS: [&str; 4] = ["", "a", "b", "c"];

fn some_rooms(site: &mut Site, namespaces: &[Namespace]) -> Vec<Room> {
    (0..site.random(6))
        .map(|_| {
            let namespace = site.random(namespaces.len() as u64) as usize;
            room(&namespaces[namespace], KEYS[site.random(KEYS.len() as u64) as usize])
        })
        .collect()
}

/// Drops it where it waits for the `polls`th time, as a crash would.
async fn cut<T>(site: &Site, work: impl Future<Output = Result<T, RoomsError>>, polls: u64) {
    let mut work = std::pin::pin!(work);
    for _ in 0..polls {
        match poll!(work.as_mut()) {
            Poll::Pending => {}
            Poll::Ready(Ok(_) | Err(RoomsError::SubscriberNotFound)) => return,
            Poll::Ready(Err(error)) => panic!("{error}"),
        }
        site.apply();
        tokio::task::yield_now().await;
    }
}

/// One step of a history: something is asked of the rooms, and a crash may cut it.
async fn step(site: &mut Site, namespaces: &mut [Namespace]) {
    let name = subscriber(NAMES[site.random(NAMES.len() as u64) as usize]);
    let rooms = some_rooms(site, namespaces);
    let polls = if site.chance(30) { site.random(12) } else { u64::MAX };
    match site.random(11) {
        0..=2 => cut(site, site.rooms.put(&name, rooms), polls).await,
        3 | 4 => cut(site, site.rooms.join(&name, rooms), polls).await,
        5 => cut(site, site.rooms.leave(&name, rooms), polls).await,
        6 => cut(site, site.rooms.delete(&name), polls).await,
        7 => cut(site, site.rooms.sweep(), polls).await,
        8 => {
            let at = &namespaces[site.random(namespaces.len() as u64) as usize];
            let next_offset = site.log.head(at).unwrap().next_offset;
            let place = Place { namespace: at.id(), generation: at.generation(), next_offset };
            cut(site, site.rooms.connect(&name, &[place]), polls).await;
        }
        9 => {
            let at = site.random(namespaces.len() as u64) as usize;
            let keys: Vec<String> = (0..=site.random(5)).map(|n| KEYS[n as usize % KEYS.len()].to_owned()).collect();
            site.publish(&namespaces[at], &keys).await;
        }
        _ => {
            let at = site.random(namespaces.len() as u64) as usize;
            if site.chance(30) {
                let old = namespaces[at].clone();
                site.log.delete(&old).await.unwrap();
                namespaces[at] = create(&site.log, old.name()).await;
            }
        }
    }
}

/// A ledger that is made of the log anew, in other steps and another order of partitions, has the same rows.
async fn check_rebuilt(site: &mut Site) {
    site.settle().await;
    let dir = tempfile::tempdir().unwrap();
    let fresh = Ledger::open_driven(dir.path(), site.log.clone(), OPEN_TABLES).unwrap();
    let partitions = site.log.partitions();
    let mut left: BTreeSet<u16> = (0..partitions).collect();
    while !left.is_empty() {
        let partition = site.random(u64::from(partitions)) as u16;
        let bytes = 1 + site.random(5_000) as usize;
        if !fresh.step(partition, bytes).unwrap() {
            left.remove(&partition);
        }
    }
    assert_eq!(site.ledger.driver().rows().unwrap(), fresh.driver().rows().unwrap());
    site.rows().check(partitions);
}

#[tokio::test]
async fn rows_are_a_function_of_the_log() {
    for seed in 1..=seeds(8) {
        let mut site = Site::new(seed);
        let mut namespaces = Vec::new();
        for name in ["m", "n", "o", "p"] {
            namespaces.push(create(&site.log, name).await);
        }
        for _ in 0..60 {
            step(&mut site, &mut namespaces).await;
            if site.chance(5) {
                site.restart(false);
            }
        }
        check_rebuilt(&mut site).await;
        // Whatever was cut: once swept, nobody is dead, and what is asked for again is as it was asked for.
        site.drive(site.rooms.sweep()).await.unwrap();
        let name = subscriber("ann");
        let wanted = some_rooms(&mut site, &namespaces);
        site.drive(site.rooms.put(&name, wanted.clone())).await.unwrap();
        let has = site.drive(site.rooms.get(&name)).await.unwrap().rooms;
        assert!(has.iter().all(|room| wanted.contains(room)) && wanted.iter().all(|room| has.contains(room)));
        let rows = site.rows();
        rows.check(site.log.partitions());
        assert!(rows.dead.is_empty(), "{rows:?}");
        check_rebuilt(&mut site).await;
    }
}

/// A name of this partition, other than those.
fn name_in(site: &Site, partition: u16, not: &[&SubscriberName]) -> SubscriberName {
    let names = (0..).map(|n| subscriber(&format!("name {n}")));
    let mut names = names.filter(|name| name.partition(site.log.partitions()) == partition && !not.contains(&name));
    names.next().unwrap()
}

#[tokio::test]
async fn a_slot_is_given_out_again_once_it_is_swept() {
    let mut site = Site::new(1);
    let namespaces = [create(&site.log, "m").await, create(&site.log, "n").await];
    let first = name_in(&site, 1, &[]);
    let rooms = vec![room(&namespaces[0], ""), room(&namespaces[0], "k"), room(&namespaces[1], "k")];
    assert!(site.drive(site.rooms.put(&first, rooms.clone())).await.unwrap());
    assert!(!site.drive(site.rooms.put(&first, rooms.clone())).await.unwrap());
    let slot = site.rows().subscribers[&*first];
    assert_eq!(slot, 1, "the first slot of partition 1");
    site.drive(site.rooms.delete(&first)).await.unwrap();
    assert!(matches!(site.drive(site.rooms.get(&first)).await, Err(RoomsError::SubscriberNotFound)));
    assert_eq!(site.rows().joined.len(), 3, "its bits are still there");

    // The same name anew, and another of the same partition: they have other slots.
    let second = name_in(&site, 1, &[&first]);
    site.drive(site.rooms.put(&first, Vec::new())).await.unwrap();
    site.drive(site.rooms.put(&second, rooms.clone())).await.unwrap();
    assert_eq!((site.rows().subscribers[&*first], site.rows().subscribers[&*second]), (3, 5));
    assert_eq!(site.drive(site.rooms.get(&first)).await.unwrap().rooms, []);

    // What a crash leaves is done at the next start.
    site.restart(true);
    site.apply();
    assert_eq!((site.rows().dead, site.rows().free), ([slot].into(), [].into()));
    site.drive(site.rooms.sweep()).await.unwrap();
    assert_eq!((site.rows().dead, site.rows().free), ([].into(), [slot].into()));
    assert!(site.rows().joined.iter().all(|(slot, _)| *slot == 5));
    let third = name_in(&site, 1, &[&first, &second]);
    site.drive(site.rooms.put(&third, rooms)).await.unwrap();
    assert_eq!(site.rows().subscribers[&*third], slot);
    check_rebuilt(&mut site).await;
}

#[tokio::test]
async fn slots_of_the_deleted_are_freed_by_a_task() {
    let site = Site::new(1);
    let dir = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(dir.path(), site.log.clone(), OPEN_TABLES).unwrap();
    let rooms = Rooms::new(std::sync::Arc::clone(&ledger), std::sync::Arc::<support::Ticks>::default(), 1);
    let namespace = create(&site.log, "n").await;
    let name = subscriber("ann");
    rooms.put(&name, vec![room(&namespace, "k")]).await.unwrap();
    rooms.delete(&name).await.unwrap();
    assert!(matches!(rooms.delete(&name).await, Err(RoomsError::SubscriberNotFound)));
    support::until(|| ledger.driver().rows().unwrap().iter().any(|(key, _)| key[0] == b'f')).await;
    assert!(!ledger.driver().rows().unwrap().iter().any(|(key, _)| b"rjd".contains(&key[0])));
    ledger.close();
    assert!(matches!(rooms.put(&name, Vec::new()).await, Err(RoomsError::Closed)));
}

#[tokio::test]
async fn a_namespace_takes_its_rooms_with_it_also_where_they_are_many() {
    let mut site = Site::new(1);
    let (goes, stays) = (create(&site.log, "goes").await, create(&site.log, "stays").await);
    let key = |n: u32| format!("{n:0>200}");
    for name in ["ann", "bob"] {
        let mut rooms: Vec<Room> = (0..9_000).map(|n| room(&goes, &key(n))).collect();
        rooms.push(room(&stays, "k"));
        site.drive(site.rooms.put(&subscriber(name), rooms)).await.unwrap();
    }
    assert_eq!((site.rows().rooms.len(), site.rows().joined.len()), (9_001, 18_002));
    site.log.delete(&goes).await.unwrap();
    site.apply();
    assert_eq!((site.rows().rooms.len(), site.rows().joined.len()), (1, 2));
    let left = site.drive(site.rooms.get(&subscriber("ann"))).await.unwrap();
    assert_eq!((left.rooms, left.cursors.len()), (vec![room(&stays, "k")], 1));
    check_rebuilt(&mut site).await;
}

#[tokio::test]
async fn what_can_not_be_is_refused() {
    let site = Site::new(1);
    let namespace = create(&site.log, "n").await;
    let many = |from: usize, count: usize| (from..from + count).map(|n| room(&namespace, &n.to_string())).collect();
    let name = subscriber("ann");
    let refused = site.rooms.put(&name, many(0, 10_001)).await.unwrap_err();
    assert!(matches!(refused, RoomsError::TooManyRooms { rooms: 10_001, limit: 10_000 }));
    let joining = site.drive(site.rooms.join(&name, many(0, 1))).await;
    assert!(matches!(joining, Err(RoomsError::SubscriberNotFound)));
    site.drive(site.rooms.put(&name, many(0, 10_000))).await.unwrap();
    for tenth in 1..10 {
        site.drive(site.rooms.join(&name, many(10_000 * tenth, 10_000))).await.unwrap();
    }
    let refused = site.drive(site.rooms.join(&name, many(99_990, 11))).await.unwrap_err();
    assert!(matches!(refused, RoomsError::TooManyRooms { rooms: 100_001, limit: 100_000 }));
    site.drive(site.rooms.leave(&name, many(0, 1))).await.unwrap();
    site.drive(site.rooms.join(&name, many(99_990, 11))).await.unwrap();

    let mut rooms = Vec::new();
    for n in 0..1_001 {
        rooms.push(room(&create(&site.log, &format!("one of many {n}")).await, ""));
    }
    let refused = site.rooms.put(&name, rooms.clone()).await.unwrap_err();
    assert!(matches!(refused, RoomsError::TooManyNamespaces { namespaces: 1_001, limit: 1_000 }));
    let other = subscriber("bob");
    site.drive(site.rooms.put(&other, rooms.split_off(1))).await.unwrap();
    let refused = site.drive(site.rooms.join(&other, rooms)).await.unwrap_err();
    assert!(matches!(refused, RoomsError::TooManyNamespaces { namespaces: 1_001, limit: 1_000 }));

    let place = Place { namespace: namespace.id(), generation: namespace.generation(), next_offset: 1 };
    let refused = site.drive(site.rooms.ack(&name, &[place])).await.unwrap_err();
    assert!(matches!(refused, RoomsError::PastHead { next_offset: 0, .. }));
    site.log.delete(&namespace).await.unwrap();
    let gone = site.drive(site.rooms.put(&name, many(0, 1))).await.unwrap_err();
    assert!(matches!(gone, RoomsError::NamespaceNotFound(name) if &*name == "n"));
    site.drive(site.rooms.ack(&name, &[place])).await.unwrap();
    let listed =
        |after, limit| site.rooms.list(after, limit).unwrap().into_iter().map(|listed| listed.name).collect::<Vec<_>>();
    assert_eq!(listed(None, 9), [name.clone(), other.clone()]);
    assert_eq!(listed(None, 1), [name]);
    assert_eq!(listed(Some("ann"), 9), [other]);
}
