//! Locks on a log and a ledger: what is durable before it is answered, what a restart makes of it, and who is gone.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use consumers::Ledger;
use consumers::locks::{Held, LockName, Locks, LocksError};
use futures::FutureExt;
use support::groups::HandSet;
use support::{Fixture, rows_in, until};
use tlog::{Driver, Log, Options};

const NOW: Duration = Duration::ZERO;
const LONG: Duration = Duration::from_secs(60);

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn lock(name: &str) -> LockName {
    LockName::new(name).unwrap()
}

/// One life of a broker's locks.
struct Life {
    log: Log,
    ledger: Arc<Ledger>,
    locks: Locks,
    clock: Arc<HandSet>,
}

impl Life {
    fn on(fixture: &Fixture, log: Log) -> Life {
        let clock = Arc::new(HandSet::default());
        let ledger = Ledger::open(fixture.dir.path(), log.clone(), 64).unwrap();
        Life { log, locks: Locks::new(Arc::clone(&ledger), Arc::clone(&clock) as _), ledger, clock }
    }

    async fn begin(fixture: &Fixture) -> Life {
        Life::on(fixture, fixture.log_once_free().await)
    }

    /// An orderly end.
    fn end(self) {
        self.ledger.close();
        self.log.close();
    }

    async fn ask(&self, name: &str, owner: &str, ttl: Duration) -> Result<Held, LocksError> {
        self.locks.ask(&lock(name), owner, ttl, NOW).await
    }

    async fn holder(&self, name: &str) -> Option<(String, u64)> {
        let state = self.locks.state(&lock(name)).await.unwrap();
        state.map(|state| (state.held.owner.to_string(), state.held.token))
    }
}

/// A log of one partition that becomes durable when it is told to.
fn driven() -> (Fixture, Life, Driver) {
    let fixture = Fixture::with(Options { partitions: 1, ..Options::default() });
    let (log, driver) = fixture.driven();
    let life = Life::on(&fixture, log);
    (fixture, life, driver)
}

/// Lets the tasks of the runtime go on until something holds.
async fn soon(mut holds: impl AsyncFnMut() -> bool) {
    for _ in 0..100_000 {
        if holds().await {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("it did not come about");
}

#[tokio::test]
async fn a_grant_is_durable_before_it_is_answered_and_its_tokens_only_grow() {
    let (_fixture, life, mut driver) = driven();
    let name = lock("l");
    let mut asked = pin!(life.locks.ask(&name, "anna", ms(500), LONG));
    assert!(asked.as_mut().now_or_never().is_none());
    soon(async || {
        assert_eq!(life.holder("l").await, None);
        asked.as_mut().now_or_never().is_none() && driver.commit(0)
    })
    .await;
    let held = asked.await.unwrap();
    assert_eq!(life.holder("l").await, Some(("anna".into(), held.token)));
    // The same owner gets the same, and nothing has to become durable for it.
    let again = life.ask("l", "anna", ms(400)).await.unwrap();
    assert_eq!((again.token, again.expires_micros), (held.token, 400_000));
    assert!(!driver.commit(0));

    let mut released = pin!(life.locks.release(&name, held.token));
    assert!(released.as_mut().now_or_never().is_none());
    assert!(driver.commit(0));
    released.await.unwrap();
    assert!(matches!(life.locks.release(&name, held.token).await, Err(LocksError::Lost)));
    let mut next = pin!(life.ask("l", "anna", ms(500)));
    soon(async || next.as_mut().now_or_never().is_none() && driver.commit(0)).await;
    // Granted, released, granted: nothing else was written.
    assert_eq!(next.await.unwrap().token, held.token + 2);
}

#[tokio::test]
async fn an_owner_that_asks_again_without_waiting_is_not_refused_for_its_own_sake() {
    let (_fixture, life, mut driver) = driven();
    let name = lock("l");
    let mut first = pin!(life.locks.ask(&name, "anna", ms(500), LONG));
    let mut again = pin!(life.locks.ask(&name, "anna", ms(400), NOW));
    soon(async || {
        assert!(first.as_mut().now_or_never().is_none());
        let other = life.locks.ask(&name, "ben", ms(500), NOW).now_or_never();
        matches!(other, Some(Err(LocksError::Held { .. })))
    })
    .await;
    assert!(again.as_mut().now_or_never().is_none());
    assert!(driver.commit(0));
    assert_eq!(first.await.unwrap().token, again.await.unwrap().token);
}

#[tokio::test]
async fn an_extension_is_answered_as_it_is_once_it_is_durable() {
    let (_fixture, life, mut driver) = driven();
    let name = lock("l");
    let mut asked = pin!(life.locks.ask(&name, "anna", ms(500), LONG));
    soon(async || asked.as_mut().now_or_never().is_none() && driver.commit(0)).await;
    let token = asked.await.unwrap().token;
    // While the longer time becomes durable, its owner asks for a shorter one, and that is over.
    let mut longer = pin!(life.locks.extend(&name, token, Some(LONG)));
    assert!(longer.as_mut().now_or_never().is_none());
    life.locks.extend(&name, token, Some(ms(100))).await.unwrap();
    life.clock.advance_ms(100);
    assert!(driver.commit(0));
    assert!(matches!(longer.await, Err(LocksError::Lost)));
}

#[tokio::test]
async fn who_is_gone_when_its_grant_is_durable_has_no_lock() {
    let (_fixture, life, mut driver) = driven();
    let name = lock("l");
    let mut gone = Box::pin(life.locks.ask(&name, "gone", LONG, LONG));
    assert!(gone.as_mut().now_or_never().is_none());
    let mut waits = pin!(life.locks.ask(&name, "waits", LONG, LONG));
    soon(async || waits.as_mut().now_or_never().is_none() && life.ledger_is_level().await).await;
    assert!(waits.as_mut().now_or_never().is_none());
    drop(gone);
    // The grant of the one that is gone, and then that of the next.
    assert!(driver.commit(0));
    soon(async || waits.as_mut().now_or_never().is_none() && driver.commit(0)).await;
    let held = waits.await.unwrap();
    assert_eq!(held.token, 2, "the one before was granted to nobody");
    assert_eq!(life.holder("l").await, Some(("waits".into(), 2)));

    // Where nobody waits it is free again, in the log too.
    let other = lock("other");
    let mut gone = Box::pin(life.locks.ask(&other, "gone", LONG, LONG));
    assert!(gone.as_mut().now_or_never().is_none());
    drop(gone);
    assert!(driver.commit(0));
    soon(async || driver.commit(0)).await;
    assert_eq!(life.holder("other").await, None);
    let mut asked = pin!(life.ask("other", "anna", LONG));
    soon(async || asked.as_mut().now_or_never().is_none() && driver.commit(0)).await;
    assert_eq!(asked.await.unwrap().token, 5, "granted to who was gone, released, granted");
}

impl Life {
    /// Whether the locks are loaded: asks wait for that.
    async fn ledger_is_level(&self) -> bool {
        self.locks.state(&lock("l")).now_or_never().is_some()
    }
}

#[tokio::test]
async fn a_longer_time_is_durable_before_it_is_answered() {
    let (_fixture, life, mut driver) = driven();
    let name = lock("l");
    let mut asked = pin!(life.ask("l", "anna", ms(500)));
    soon(async || asked.as_mut().now_or_never().is_none() && driver.commit(0)).await;
    let token = asked.await.unwrap().token;
    for _ in 0..2 {
        life.locks.extend(&name, token, Some(ms(300))).await.unwrap();
        assert_eq!(life.locks.extend(&name, token, None).await.unwrap().expires_micros, 500_000);
    }
    assert!(!driver.commit(0));
    let mut longer = pin!(life.locks.extend(&name, token, Some(ms(900))));
    let mut as_long = pin!(life.locks.extend(&name, token, Some(ms(900))));
    assert!(longer.as_mut().now_or_never().is_none());
    assert!(as_long.as_mut().now_or_never().is_none(), "it rests on what is not durable yet");
    assert!(driver.commit(0));
    assert_eq!(longer.await.unwrap().expires_micros, 900_000);
    assert_eq!(as_long.await.unwrap().token, token);
    assert!(matches!(life.locks.extend(&name, token + 1, None).await, Err(LocksError::Lost)));
}

#[tokio::test]
async fn a_restart_gives_each_holder_its_whole_time_again() {
    let fixture = Fixture::new();
    let life = Life::begin(&fixture).await;
    let mut tokens = Vec::new();
    for number in 0..20 {
        tokens.push(life.ask(&format!("l{number}"), "anna", ms(1000)).await.unwrap().token);
    }
    life.locks.extend(&lock("l1"), tokens[1], Some(ms(3000))).await.unwrap();
    life.locks.release(&lock("l2"), tokens[2]).await.unwrap();
    // Nearly all of the time is over when the broker ends, and most of the next one's.
    life.clock.advance_ms(999);
    life.end();
    let life = Life::begin(&fixture).await;
    for (number, token) in tokens.iter().enumerate() {
        let held = (number != 2).then(|| ("anna".to_owned(), *token));
        assert_eq!(life.holder(&format!("l{number}")).await, held, "l{number}");
    }
    life.clock.advance_ms(999);
    let Err(LocksError::Held { owner, expires_micros }) = life.ask("l0", "ben", ms(1000)).await else {
        panic!("it is held")
    };
    assert_eq!((&*owner, expires_micros), ("anna", 1_000_000));
    assert_eq!(life.ask("l3", "anna", ms(2000)).await.unwrap().token, tokens[3]);
    life.clock.advance_ms(1);
    let ben = life.ask("l0", "ben", ms(1000)).await.unwrap();
    assert!(ben.token > tokens[0]);
    assert!(matches!(life.locks.extend(&lock("l0"), tokens[0], None).await, Err(LocksError::Lost)));
    for held in ["l1", "l3"] {
        assert!(matches!(life.ask(held, "ben", ms(1)).await, Err(LocksError::Held { .. })), "{held} was extended");
    }
    life.end();
}

#[tokio::test]
async fn a_lock_that_lapses_goes_from_memory_and_from_the_rows() {
    let fixture = Fixture::new();
    let life = Life::begin(&fixture).await;
    for number in 0..20 {
        life.ask(&format!("l{number}"), "anna", ms(1000)).await.unwrap();
    }
    let kept = life.ask("kept", "anna", ms(2000)).await.unwrap().token;
    life.clock.advance_ms(1000);
    // Nobody asks: they are released in the log all the same.
    let folder = fixture.dir.path().join("ledger");
    let events = || (0..life.log.partitions()).map(|id| life.log.watermark(id).borrow().records).sum::<u64>();
    until(|| events() == 21 + 20).await;
    life.end();
    let life = Life::begin(&fixture).await;
    assert_eq!(life.holder("kept").await, Some(("anna".into(), kept)));
    for number in 0..20 {
        assert_eq!(life.holder(&format!("l{number}")).await, None);
    }
    life.end();
    let names: Vec<_> = rows_in(&folder, b"k").into_iter().map(|(key, _)| key[3..].to_vec()).collect();
    assert_eq!(names, [b"kept"]);
}

#[tokio::test]
async fn rows_come_back_from_the_log_alone() {
    let fixture = Fixture::new();
    let life = Life::begin(&fixture).await;
    let mut held: Vec<(String, u64)> = Vec::new();
    let mut random = 7_u64;
    for _ in 0..400 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let name = format!("l{}", (random >> 33) % 40);
        match held.iter().position(|(held, _)| *held == name) {
            Some(at) if random >> 62 == 0 => {
                life.locks.extend(&lock(&name), held[at].1, Some(ms(1000 + (random >> 40) % 5000))).await.unwrap();
            }
            Some(at) => {
                let (name, token) = held.remove(at);
                life.locks.release(&lock(&name), token).await.unwrap();
            }
            None => held.push((name.clone(), life.ask(&name, "anna", ms(1000)).await.unwrap().token)),
        }
    }
    life.end();
    let folder = fixture.dir.path().join("ledger");
    // Up to the end of the log, which the last life may not have applied.
    let life = Life::begin(&fixture).await;
    held.sort();
    for (name, token) in &held {
        assert_eq!(life.holder(name).await, Some(("anna".into(), *token)));
    }
    life.end();
    let before = rows_in(&folder, b"");
    assert_eq!(before.iter().filter(|(key, _)| key[0] == b'k').count(), held.len());
    std::fs::remove_dir_all(&folder).unwrap();
    let life = Life::begin(&fixture).await;
    for (name, _) in &held {
        assert!(life.holder(name).await.is_some());
    }
    life.end();
    assert_eq!(rows_in(&folder, b""), before);
}
