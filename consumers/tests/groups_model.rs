//! Groups at random, with several workers and crashes, against what was promised: no record comes again
//! whose ack was answered, none is lost, order by key holds, and what has lapsed changes nothing.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use consumers::groups::{GroupConfig, Leased, Order};
use futures::future::join_all;
use support::groups::{HandSet, Team, config, offsets, publish, tokens};
use support::{Fixture, create};
use tlog::Namespace;

const WORKERS: [&str; 3] = ["a", "b", "c"];
const KEYS: u64 = 4;

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % bound
    }
}

/// What a group must have done.
struct Model {
    team: Option<Team>,
    keyed: bool,
    /// Acks that were answered.
    acked: BTreeSet<u64>,
    /// What each worker has.
    held: BTreeMap<&'static str, Vec<Leased>>,
}

impl Model {
    fn team(&self) -> &Team {
        self.team.as_ref().unwrap()
    }

    /// A record may come only if its ack was not answered; where order is by key, only if nothing of its
    /// key before it is left, other than what came with it.
    fn delivered(&mut self, worker: &'static str, leased: Vec<Leased>, key_of: impl Fn(u64) -> u64) {
        let now: BTreeSet<u64> = offsets(&leased).into_iter().collect();
        assert_eq!(now.len(), leased.len(), "a record came twice at once");
        for offset in &now {
            assert!(!self.acked.contains(offset), "{offset} came again, its ack was answered");
            if self.keyed {
                let before = (0..*offset).filter(|before| key_of(*before) == key_of(*offset));
                let missing: Vec<u64> =
                    before.filter(|before| !self.acked.contains(before) && !now.contains(before)).collect();
                assert_eq!(missing, Vec::<u64>::new(), "{offset} came before them");
            }
        }
        self.held.entry(worker).or_default().extend(leased);
    }

    async fn step(&mut self, random: &mut Random, key_of: impl Fn(u64) -> u64) {
        let worker = WORKERS[random.below(3) as usize];
        match random.below(8) {
            0..3 => {
                let leased = self.team().lease(worker, random.below(8) as usize + 1).await;
                self.delivered(worker, leased, key_of);
            }
            3..6 => self.ack_some(random, worker).await,
            6 => {
                let some = self.take(random, worker);
                let delay = (random.below(2) == 0).then(|| Duration::from_millis(random.below(300)));
                self.team().nack(&some, delay, "no").await;
            }
            _ => {
                if random.below(3) == 0 {
                    let Team { groups, namespace, name } = self.team();
                    groups.leave(namespace, name, worker).await.unwrap();
                }
            }
        }
    }

    fn take(&mut self, random: &mut Random, worker: &'static str) -> Vec<Leased> {
        let held = self.held.entry(worker).or_default();
        let (some, rest) = held.drain(..).partition(|_| random.below(2) == 0);
        *held = rest;
        some
    }

    /// Everything that is left comes, and then nothing more.
    async fn finish(&mut self, random: &mut Random, clock: &HandSet, head: u64, key_of: impl Fn(u64) -> u64) {
        while self.acked.len() as u64 != head {
            clock.advance_ms(1_500);
            for worker in WORKERS {
                let leased = self.team().lease_within(worker, 100, Duration::from_millis(1)).await;
                self.delivered(worker, leased, &key_of);
                for _ in 0..3 {
                    self.ack_some(random, worker).await;
                }
            }
        }
    }

    /// Acks in several calls at once; those that are answered as done are done.
    async fn ack_some(&mut self, random: &mut Random, worker: &'static str) {
        let some = self.take(random, worker);
        let Team { groups, namespace, name } = self.team();
        let acks = some.chunks(2).map(|leased| async {
            let done = groups.ack(namespace, name, tokens(leased)).await.unwrap();
            assert_eq!(done.done + done.lapsed.len(), leased.len());
            leased.iter().filter(|leased| !done.lapsed.contains(&leased.token)).cloned().collect::<Vec<_>>()
        });
        for done in join_all(acks).await.into_iter().flatten() {
            assert!(self.acked.insert(done.token.offset), "an ack took effect twice");
        }
    }
}

async fn run(seed: u64) {
    let fixture = Fixture::new();
    let (mut log, clock) = (fixture.log(), Arc::new(HandSet::default()));
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let namespace: Namespace = create(&log, "orders").await;
    // Batches are of five records each, and each publish starts at a multiple of that.
    let key_of = |offset: u64| offset % 5 % KEYS;
    let mut groups = fixture.groups(&log, &clock);
    let mut models = Vec::new();
    for (name, order) in [("none", Order::None), ("key", Order::Key)] {
        let config = GroupConfig { order, max_deliveries: 1_000, ..config() };
        let team = Team::new(&groups, &namespace, name, config).await;
        models.push(Model {
            team: Some(team),
            keyed: order == Order::Key,
            acked: BTreeSet::new(),
            held: BTreeMap::new(),
        });
    }
    let mut head = 0;
    for step in 0..60 {
        match random.below(16) {
            0..3 => {
                let count = 5 * (1 + random.below(3));
                publish(&log, &namespace, count, |index| Some(format!("k{}", key_of(index)))).await;
                head += count;
            }
            3 => clock.advance_ms(random.below(1_500)),
            4 => {
                let kind = random.below(5);
                if kind == 0 {
                    groups.ledger().close();
                }
                models.iter_mut().for_each(|model| model.team = None);
                drop(groups);
                if kind == 1 {
                    fixture.delete_groups();
                }
                if kind == 2 {
                    log.close();
                    drop(log);
                    log = fixture.log_once_free().await;
                }
                groups = fixture.groups(&log, &clock);
                for model in &mut models {
                    let name = if model.keyed { "key" } else { "none" };
                    model.team = Some(Team::existing(&groups, &namespace, name));
                }
            }
            _ => {
                let model = &mut models[(step % 2) as usize];
                model.step(&mut random, key_of).await;
            }
        }
    }
    for model in &mut models {
        let finish = model.finish(&mut random, &clock, head, key_of);
        tokio::time::timeout(Duration::from_secs(60), finish).await.expect("records are lost");
        assert_eq!(model.team().floor().await, head, "seed {seed}");
    }
}

#[test]
fn what_was_promised_holds_at_random() {
    let seeds = std::env::var("TLOG_GROUPS_SEEDS").map_or(40, |seeds| seeds.parse().unwrap());
    let base = std::env::var("TLOG_GROUPS_BASE").map_or(0, |base| base.parse().unwrap());
    for seed in base..base + seeds {
        let run = std::panic::AssertUnwindSafe(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(run(seed));
        });
        if let Err(panic) = std::panic::catch_unwind(run) {
            eprintln!("TLOG_GROUPS_BASE={seed} TLOG_GROUPS_SEEDS=1 runs it again");
            std::panic::resume_unwind(panic);
        }
    }
}
