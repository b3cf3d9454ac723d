//! What connections are told of, against a naive model: every record of a subscriber's rooms once and in the order of
//! its namespace, whatever is joined, left, cut off, overflown and started anew meanwhile.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::collections::BTreeMap;

use consumers::rooms::{Connection, Place, Room, RoomsError};
use futures::FutureExt;
use support::create;
use support::rooms::{Site, next_now, read, room, seeds, subscriber};
use tlog::Namespace;
use wire::NamespaceId;

const KEYS: [&str; 4] = ["", "a", "b", "c"];

/// What a subscriber must get, and what it has got.
#[derive(Default)]
struct Model {
    exists: bool,
    /// Since when it is in which room.
    rooms: BTreeMap<(NamespaceId, String), u64>,
    /// What was in one of its rooms when it was published.
    matched: BTreeMap<(NamespaceId, u64), String>,
    /// All below was got, or nobody asks for it any more.
    got: BTreeMap<NamespaceId, u64>,
    /// What was acked.
    acked: BTreeMap<NamespaceId, u64>,
}

impl Model {
    fn is_in(&self, namespace: NamespaceId, offset: u64, key: &str) -> bool {
        ["", key].iter().any(|room| self.rooms.get(&(namespace, (*room).to_owned())).is_some_and(|at| *at <= offset))
    }

    fn published(&mut self, namespace: NamespaceId, offset: u64, key: &str) {
        if self.is_in(namespace, offset, key) {
            self.matched.insert((namespace, offset), key.to_owned());
        }
    }

    /// What it must still get: unless it has left the room since, which then may come or not.
    fn missing(&self) -> Vec<(NamespaceId, u64)> {
        let missing = self.matched.iter().filter(|((namespace, offset), key)| {
            *offset >= self.got.get(namespace).copied().unwrap_or(0) && self.is_in(*namespace, *offset, key)
        });
        missing.map(|(at, _)| *at).collect()
    }

    fn got(&mut self, namespace: NamespaceId, offset: u64, key: &str) {
        assert_eq!(self.matched.get(&(namespace, offset)).map(String::as_str), Some(key), "it was not for it");
        let got = self.got.entry(namespace).or_default();
        assert!(offset >= *got, "{offset} came again, or out of order");
        let before = *got;
        let skipped = self.matched.range((namespace, before)..(namespace, offset));
        let skipped: Vec<_> = skipped.map(|((_, offset), key)| (*offset, key.clone())).collect();
        *got = offset + 1;
        for (at, key) in skipped {
            assert!(!self.is_in(namespace, at, &key), "{at} did not come before {offset}");
        }
    }
}

struct World {
    site: Site,
    namespaces: Vec<Namespace>,
    models: Vec<Model>,
    connections: Vec<Option<Connection>>,
}

const SUBSCRIBERS: usize = 4;

impl World {
    async fn new(seed: u64) -> World {
        let site = Site::new(seed);
        let mut namespaces = Vec::new();
        for name in ["m", "n", "o"] {
            namespaces.push(create(&site.log, name).await);
        }
        World {
            site,
            namespaces,
            models: (0..SUBSCRIBERS).map(|_| Model::default()).collect(),
            connections: (0..SUBSCRIBERS).map(|_| None).collect(),
        }
    }

    fn name(who: usize) -> consumers::rooms::SubscriberName {
        subscriber(&format!("subscriber {who}"))
    }

    fn some_rooms(&mut self) -> Vec<Room> {
        (0..=self.site.random(4))
            .map(|_| {
                let namespace = self.site.random(self.namespaces.len() as u64) as usize;
                room(&self.namespaces[namespace], KEYS[self.site.random(KEYS.len() as u64) as usize])
            })
            .collect()
    }

    async fn publish(&mut self, count: u64) {
        let at = self.site.random(self.namespaces.len() as u64) as usize;
        let keys: Vec<String> = (0..count).map(|_| KEYS[self.site.random(KEYS.len() as u64) as usize].into()).collect();
        let namespace = &self.namespaces[at];
        let offsets = self.site.publish(namespace, &keys).await;
        for model in &mut self.models {
            offsets.clone().zip(&keys).for_each(|(offset, key)| model.published(namespace.id(), offset, key));
        }
        if self.site.chance(50) {
            self.site.apply();
        }
    }

    fn enter(&mut self, who: usize, rooms: &[Room]) {
        for Room { namespace, key } in rooms {
            let next_offset = self.site.log.head(namespace).unwrap().next_offset;
            let key = key.clone().unwrap_or_default();
            self.models[who].rooms.entry((namespace.id(), key)).or_insert(next_offset);
        }
    }

    fn exit(&mut self, who: usize, gone: impl Fn(NamespaceId, &str) -> bool) {
        self.models[who].rooms.retain(|(namespace, key), _| !gone(*namespace, key));
    }

    async fn change(&mut self, who: usize) {
        let (name, rooms) = (World::name(who), self.some_rooms());
        let has = |namespace: NamespaceId, key: &str| {
            rooms.iter().any(|room| room.namespace.id() == namespace && room.key.as_deref().unwrap_or("") == key)
        };
        match self.site.random(if self.models[who].exists { 4 } else { 1 }) {
            0 => {
                self.site.drive(self.site.rooms.put(&name, rooms.clone())).await.unwrap();
                self.models[who].exists = true;
                self.exit(who, |namespace, key| !has(namespace, key));
                self.enter(who, &rooms);
            }
            1 | 2 => {
                self.site.drive(self.site.rooms.join(&name, rooms.clone())).await.unwrap();
                self.enter(who, &rooms);
            }
            _ => {
                self.site.drive(self.site.rooms.leave(&name, rooms.clone())).await.unwrap();
                self.exit(who, has);
            }
        }
    }

    /// Takes some of what there is, a part at a time or less.
    async fn take(&mut self, who: usize, mut parts: u64) {
        while let Some(connection) = &mut self.connections[who] {
            if parts == 0 {
                return;
            }
            let Some(part) = next_now(connection) else { return };
            let part = part.unwrap();
            parts -= 1;
            let bytes = 1 + self.site.random(3_000) as usize;
            for (offset, key) in read(&self.site.log, connection, &part, bytes).await {
                self.models[who].got(part.namespace.id(), offset, &key);
            }
        }
    }

    async fn connect(&mut self, who: usize, resumes: bool) {
        let older = self.connections[who].take();
        let places: Vec<Place> = older.iter().flat_map(Connection::places).filter(|_| resumes).collect();
        let connection = self.site.drive(self.site.rooms.connect(&World::name(who), &places)).await.unwrap();
        if let Some(mut older) = older {
            assert!(matches!(self.site.drive(older.next()).await, Err(RoomsError::Replaced)));
        }
        self.connections[who] = Some(connection);
        let model = &mut self.models[who];
        if resumes {
            model.acked(&places);
        }
        // What is not acked comes again.
        model.got = model.acked.clone();
    }

    async fn ack(&mut self, who: usize) {
        let Some(connection) = &self.connections[who] else { return };
        let places: Vec<Place> = connection.places().collect();
        self.site.drive(self.site.rooms.ack(&World::name(who), &places)).await.unwrap();
        self.models[who].acked(&places);
    }

    async fn delete(&mut self, who: usize) {
        self.site.drive(self.site.rooms.delete(&World::name(who))).await.unwrap();
        self.models[who] = Model::default();
        if let Some(mut connection) = self.connections[who].take() {
            assert!(matches!(self.site.drive(connection.next()).await, Err(RoomsError::SubscriberNotFound)));
        }
    }

    /// A namespace goes, and another of its name comes.
    async fn replace_namespace(&mut self) {
        let at = self.site.random(self.namespaces.len() as u64) as usize;
        let old = self.namespaces[at].clone();
        self.site.log.delete(&old).await.unwrap();
        self.namespaces[at] = create(&self.site.log, old.name()).await;
        for who in 0..SUBSCRIBERS {
            self.exit(who, |namespace, _| namespace == old.id());
        }
    }

    /// The ledger is deleted and made anew. Connections are gone with the process.
    async fn restart(&mut self) {
        let places: Vec<Vec<Place>> = self
            .connections
            .iter()
            .map(|connection| connection.iter().flat_map(Connection::places).collect())
            .collect();
        let were = self.connections.iter_mut().map(|connection| connection.take().is_some()).collect::<Vec<_>>();
        let delete = self.site.chance(50);
        self.site.restart(delete);
        for who in (0..SUBSCRIBERS).filter(|who| were[*who]) {
            let name = World::name(who);
            self.connections[who] = Some(self.site.drive(self.site.rooms.connect(&name, &places[who])).await.unwrap());
            self.models[who].acked(&places[who]);
            self.models[who].got = self.models[who].acked.clone();
        }
    }

    /// Nothing is missing once all is applied and taken.
    async fn check(&mut self) {
        self.site.apply();
        for who in 0..SUBSCRIBERS {
            if self.models[who].exists && self.connections[who].is_none() {
                self.connect(who, false).await;
            }
            self.take(who, u64::MAX).await;
            assert_eq!(self.models[who].missing(), [], "of subscriber {who}");
        }
    }

    async fn step(&mut self) {
        let who = self.site.random(SUBSCRIBERS as u64) as usize;
        let is_connected = self.connections[who].is_some();
        match self.site.random(22) {
            0..=6 => {
                let count = 1 + self.site.random(30);
                self.publish(count).await;
            }
            // So many that hints overflow.
            7 => {
                for _ in 0..40 {
                    self.publish(200).await;
                }
            }
            8..=10 => self.change(who).await,
            11..=13 => {
                let parts = self.site.random(8);
                self.take(who, parts).await;
            }
            14 | 15 if self.models[who].exists => {
                let resumes = self.site.chance(70);
                self.connect(who, resumes).await;
            }
            16 => drop(self.connections[who].take()),
            17 => self.ack(who).await,
            18 if is_connected => {
                let connection = self.connections[who].as_mut().unwrap();
                self.site.drive(connection.settle()).await.unwrap();
            }
            19 if self.models[who].exists && self.site.chance(40) => self.delete(who).await,
            20 if self.site.chance(30) => self.replace_namespace().await,
            20 if self.site.chance(30) => self.restart().await,
            21 => self.check().await,
            _ => {}
        }
    }
}

impl Model {
    fn acked(&mut self, places: &[Place]) {
        for place in places {
            let acked = self.acked.entry(place.namespace).or_default();
            *acked = place.next_offset.max(*acked);
        }
    }
}

#[tokio::test]
async fn every_record_of_its_rooms_comes_once_and_in_order() {
    for seed in 1..=seeds(10) {
        let mut world = World::new(seed).await;
        for _ in 0..150 {
            world.step().await;
        }
        world.check().await;
        let rows = world.site.rows();
        rows.check(world.site.log.partitions());
    }
}

fn offsets(got: &[(u64, String)]) -> Vec<u64> {
    got.iter().map(|(offset, _)| *offset).collect()
}

#[tokio::test]
async fn who_follows_keys_gets_what_has_them() {
    let site = Site::new(1);
    let namespace = create(&site.log, "n").await;
    let keys = |text: &str| text.chars().map(|key| key.to_string()).collect::<Vec<_>>();
    site.publish(&namespace, &keys("abcab")).await;
    let mut following = site.rooms.follow_keys(&namespace, keys("bc"), 2).unwrap();
    let mut other = site.rooms.follow_keys(&namespace, keys("x"), 5).unwrap();
    let refused = site.rooms.follow_keys(&namespace, keys("x"), 6).unwrap_err();
    assert!(matches!(refused, RoomsError::PastHead { next_offset: 5, .. }));

    let part = site.drive(following.next()).await.unwrap();
    assert_eq!((part.offsets.clone(), part.wants(0, Some("b")).unwrap()), (2..5, false));
    assert_eq!(offsets(&read(&site.log, &mut following, &part, 1 << 20).await), [2, 4]);
    assert!(next_now(&mut following).is_none() && next_now(&mut other).is_none());

    site.publish(&namespace, &keys("aabbac")).await;
    assert!(next_now(&mut following).is_none(), "nothing is told of before it is applied");
    site.apply();
    assert!(next_now(&mut other).is_none(), "other keys do not wake it");
    let mut got = Vec::new();
    while let Some(part) = next_now(&mut following) {
        got.extend(read(&site.log, &mut following, &part.unwrap(), 1 << 20).await);
    }
    assert_eq!(offsets(&got), [7, 8, 10]);
    assert_eq!((following.place(&namespace), other.place(&namespace)), (Some(11), Some(5)));
    other.settle().await.unwrap();
    assert_eq!(other.place(&namespace), Some(11), "a quiet place moves on");

    // More hints than are kept: it looks for itself.
    for _ in 0..30 {
        site.publish(&namespace, &keys(&"ab".repeat(50))).await;
    }
    site.apply();
    let mut got = Vec::new();
    while let Some(part) = next_now(&mut following) {
        got.extend(read(&site.log, &mut following, &part.unwrap(), 5_000).await);
    }
    assert_eq!(offsets(&got), (12..3_011).step_by(2).collect::<Vec<_>>());

    site.log.delete(&namespace).await.unwrap();
    site.apply();
    assert!(matches!(next_now(&mut other), Some(Err(RoomsError::NamespaceNotFound(name))) if &*name == "n"));
    assert!(matches!(site.rooms.follow_keys(&namespace, keys("a"), 0), Err(RoomsError::NamespaceNotFound(_))));
}

#[tokio::test]
async fn quiet_places_are_kept_without_an_ack_and_others_are_not() {
    let site = Site::new(1);
    let (quiet, busy) = (create(&site.log, "quiet").await, create(&site.log, "busy").await);
    let name = subscriber("ann");
    site.drive(site.rooms.put(&name, vec![room(&quiet, "k"), room(&busy, "k")])).await.unwrap();
    let mut connection = site.drive(site.rooms.connect(&name, &[])).await.unwrap();
    assert!(next_now(&mut connection).is_none());
    site.publish(&busy, &["k".to_owned()]).await;
    let others = vec!["other".to_owned(); 5_000];
    for namespace in [&quiet, &busy, &quiet] {
        site.publish(namespace, &others).await;
        site.apply();
    }
    let part = next_now(&mut connection).unwrap().unwrap();
    assert_eq!(read(&site.log, &mut connection, &part, 1 << 20).await.len(), 1);
    assert!(next_now(&mut connection).is_none());
    site.drive(connection.settle()).await.unwrap();
    assert!(next_now(&mut connection).is_none());
    let place = |namespace: &Namespace, next_offset| Place {
        namespace: namespace.id(),
        generation: namespace.generation(),
        next_offset,
    };
    assert_eq!(connection.places().collect::<Vec<_>>(), [place(&busy, 5_001)], "that of the quiet one is kept");
    let kept = site.drive(site.rooms.get(&name)).await.unwrap().cursors;
    let kept: Vec<_> =
        kept.iter().map(|cursor| (&**cursor.namespace.name(), cursor.next_offset, cursor.head)).collect();
    assert!(kept.contains(&("quiet", 10_000, 10_000)) && kept.contains(&("busy", 0, 5_001)), "{kept:?}");

    // Who comes again without having acked gets it again; who has left everything keeps no cursor.
    drop(connection);
    let mut connection = site.drive(site.rooms.connect(&name, &[])).await.unwrap();
    let part = site.drive(connection.next()).await.unwrap();
    assert_eq!((part.namespace.id(), part.offsets), (busy.id(), 0..5_001));
    site.drive(site.rooms.put(&name, Vec::new())).await.unwrap();
    drop(site.drive(site.rooms.connect(&name, &[])).await.unwrap());
    assert!(site.rows().acked.is_empty());
}

#[tokio::test]
async fn who_is_told_is_said_by_the_rooms_as_they_are_where_the_record_stands() {
    let site = Site::new(1);
    let namespace = create(&site.log, "n").await;
    let name = subscriber("ann");
    site.drive(site.rooms.put(&name, vec![room(&namespace, "k")])).await.unwrap();
    let mut connection = site.drive(site.rooms.connect(&name, &[])).await.unwrap();
    assert!(next_now(&mut connection).is_none());
    // Two records, and a leave between them, which are applied at once.
    let slot = site.rows().subscribers["ann"];
    let left = [&[41][..], &slot.to_le_bytes(), &[1, 1, b'k']].concat();
    site.publish(&namespace, &["k".to_owned()]).await;
    site.log.append_event(&namespace, left.into()).await.unwrap();
    site.publish(&namespace, &["k".to_owned()]).await;
    let partition = namespace.id().partition(site.log.partitions());
    assert!(site.ledger.step(partition, 1 << 20).unwrap());
    let part = next_now(&mut connection).unwrap().unwrap();
    assert_eq!(offsets(&read(&site.log, &mut connection, &part, 1).await), [0]);
    assert!(next_now(&mut connection).is_none());
}

#[tokio::test]
async fn a_ledger_that_is_made_anew_forgets_no_place() {
    let mut site = Site::new(1);
    let name = subscriber("ann");
    let home = name.partition(2);
    let mut namespaces = Vec::new();
    for number in 0..8 {
        namespaces.push(create(&site.log, &format!("n{number}")).await);
    }
    let other = namespaces.into_iter().find(|namespace| namespace.id().partition(2) != home).unwrap();
    site.drive(site.rooms.put(&name, vec![room(&other, "")])).await.unwrap();
    site.publish(&other, &["a".to_owned(), String::new()]).await;
    let acked = Place { namespace: other.id(), generation: other.generation(), next_offset: 2 };
    site.drive(site.rooms.ack(&name, &[acked])).await.unwrap();

    // It connects while only its own partition is applied, which does not know of its rooms.
    site.restart(true);
    let rooms = site.rooms.clone();
    let mut connecting = Box::pin(rooms.connect(&name, &[]));
    let mut connected = None;
    for _ in 0..50_000 {
        while site.ledger.step(home, 2_000).unwrap() {}
        connected = connected.or_else(|| (&mut connecting).now_or_never());
        if connected.is_some() {
            break;
        }
        tokio::task::yield_now().await;
    }
    let mut connection = match connected {
        Some(connected) => connected.unwrap(),
        None => site.drive(connecting).await.unwrap(),
    };
    site.apply();
    assert!(next_now(&mut connection).is_none(), "what it has acked is for it again");
    let cursors = site.drive(site.rooms.get(&name)).await.unwrap().cursors;
    assert_eq!(cursors[0].next_offset, 2);
}
