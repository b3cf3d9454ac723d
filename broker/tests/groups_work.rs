//! Workers against the real binary: killed, racing, joining and leaving; the broker killed under them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::future::join_all;
use rustix::process::{Pid, Signal, kill_process};
use sdk::{
    Backoff, Client, Code, DraftBuilder, Group, GroupConfig, Leased, NewRecord, Order, RetryWait, Worked, Worker,
};
use support::{Broker, Dice, eventually, own_address};

const LONG: Duration = Duration::from_secs(30);

fn quick() -> GroupConfig {
    GroupConfig { retry: RetryWait { min_ms: 1, max_ms: 20 }, ..GroupConfig::default() }
}

async fn group(broker: &Broker, config: &GroupConfig) -> Group {
    let client = Client::builder(&broker.url("")).backoff(Backoff::default()).build().unwrap();
    let work = client.namespace("work").unwrap();
    work.ensure(&sdk::NamespaceConfig::default()).await.unwrap();
    let group = work.group("g").unwrap();
    group.ensure(config).await.unwrap();
    group
}

/// Publishes the numbers of a range, each under one of `keys` keys.
async fn publish(group: &Group, numbers: std::ops::Range<u64>, keys: u64) {
    let mut batch = DraftBuilder::default();
    for number in numbers {
        let (key, value) = (format!("k{}", number % keys), number.to_string());
        batch.push(&NewRecord::json(&value).with_key(&key)).unwrap();
    }
    group.namespace().publish_batch(batch.finish().unwrap()).await.unwrap();
}

fn offsets(leased: &[Leased]) -> Vec<u64> {
    leased.iter().map(|leased| leased.record.offset).collect()
}

fn tokens(leased: &[Leased]) -> Vec<String> {
    leased.iter().map(|leased| leased.token.clone()).collect()
}

async fn lag(group: &Group) -> u64 {
    group.state().await.unwrap().lag.records
}

/// A worker that notes the offset and delivery of what it does.
async fn noting(group: &Group, name: &str, done: &Arc<Mutex<Vec<(u64, u32)>>>) -> Worker {
    let done = Arc::clone(done);
    let worker = group.worker().name(name).concurrency(4);
    let handler = move |leased: Leased| {
        done.lock().unwrap().push((leased.record.offset, leased.delivery));
        async { Ok::<(), String>(()) }
    };
    worker.start(handler).await.unwrap()
}

#[tokio::test]
async fn what_a_killed_worker_had_is_delivered_again() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path());
    // Long enough that none of the other worker's lapses on a machine that is slow.
    let group = group(&broker, &GroupConfig { lease_ms: 2000, ..quick() }).await;
    publish(&group, 0..20, 3).await;
    // It never says a word again.
    let lost = group.lease("killed", 7, LONG).await.unwrap();
    assert_eq!(offsets(&lost), (0..7).collect::<Vec<_>>());
    let done = Arc::default();
    let worker = noting(&group, "lives", &done).await;
    eventually("all is acked", async || lag(&group).await == 0).await;
    assert_eq!(worker.drain().await.unwrap(), Worked { acked: 20, failed: 0, lapsed: 0 });
    let done: BTreeMap<u64, u32> = done.lock().unwrap().iter().copied().collect();
    assert_eq!(done.len(), 20);
    assert!(done.iter().all(|(offset, delivery)| *delivery == if *offset < 7 { 2 } else { 1 }), "{done:?}");
    let settled = group.ack(&tokens(&lost)).await.unwrap();
    assert_eq!((settled.done, settled.lapsed.len()), (0, 7));
}

#[tokio::test]
async fn one_of_two_that_race_with_a_token_settles_it() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path());
    let group = group(&broker, &quick()).await;
    publish(&group, 0..200, 3).await;
    for _ in 0..20 {
        let leased = group.lease("w", 10, LONG).await.unwrap();
        let (acks, nacks) = (tokens(&leased), tokens(&leased).into_iter().rev().collect::<Vec<_>>());
        let (ack, again) = (group.ack(&acks), group.ack(&acks));
        let (ack, again, nack) = tokio::join!(ack, again, group.nack(&nacks, Some(Duration::ZERO), None));
        let done = [ack, again, nack].map(|settled| settled.unwrap().done);
        assert_eq!(done.iter().sum::<u64>(), 10, "{done:?}");
    }
    let done = Arc::default();
    let worker = noting(&group, "rest", &done).await;
    eventually("all is acked", async || lag(&group).await == 0).await;
    worker.drain().await.unwrap();
}

#[tokio::test]
async fn work_outlives_a_broker_that_is_killed_in_its_midst() {
    let folder = tempfile::tempdir().unwrap();
    let listen = own_address();
    let start = || Broker::try_start(Broker::command_at(&listen, folder.path(), &[])).unwrap();
    let mut broker = start();
    let group = group(&broker, &quick()).await;
    publish(&group, 0..3000, 7).await;
    let done: Arc<Mutex<Vec<(u64, u32)>>> = Arc::default();
    let mut workers = Vec::new();
    for number in 0..4 {
        workers.push(noting(&group, &format!("w{number}"), &done).await);
    }
    for part in 1..=3 {
        eventually("there is work done", async || done.lock().unwrap().len() >= part * 600).await;
        broker.kill();
        broker = start();
    }
    eventually("all is acked", async || lag(&group).await == 0).await;
    let worked = join_all(workers.into_iter().map(Worker::drain)).await;
    let acked: u64 = worked.into_iter().map(|worked| worked.unwrap().acked).sum();
    let seen: BTreeSet<u64> = done.lock().unwrap().iter().map(|(offset, _)| *offset).collect();
    assert_eq!(seen.len(), 3000);
    // An ack whose answer was lost with the broker is not counted.
    assert!(acked <= 3000, "{acked}");
    // What was acked stays so.
    broker.kill();
    let broker = start();
    let state = group.state().await.unwrap();
    assert_eq!((state.floor, state.lag.records), (3000, 0));
    assert_eq!(group.lease("late", 10, Duration::ZERO).await.unwrap(), []);
    drop(broker);
}

#[tokio::test]
async fn what_always_fails_becomes_a_dead_letter_and_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path());
    let dead_letter = Some(wire::NamespaceName::new("dead").unwrap());
    let group = group(&broker, &GroupConfig { max_deliveries: 3, dead_letter, order: Order::Key, ..quick() }).await;
    publish(&group, 0..30, 3).await;
    assert_eq!(group.redrive().await.unwrap(), 0, "there is no dead letter yet");
    let tried: Arc<Mutex<HashMap<u64, u32>>> = Arc::default();
    let handler = {
        let tried = Arc::clone(&tried);
        move |leased: Leased| {
            let poison = leased.record.offset % 10 == 4;
            *tried.lock().unwrap().entry(leased.record.offset).or_default() += 1;
            async move { if poison { Err(format!("can't do {}", leased.record.offset)) } else { Ok(()) } }
        }
    };
    let worker = group.worker().start(handler).await.unwrap();
    eventually("all is acked or dead", async || lag(&group).await == 0).await;
    let worked = worker.drain().await.unwrap();
    assert_eq!((worked.acked, worked.failed), (27, 9));
    assert_eq!([4, 14, 24].map(|offset| tried.lock().unwrap()[&offset]), [3, 3, 3]);
    let dead = group.namespace().client().namespace("dead").unwrap();
    eventually("the letters are there", async || dead.info().await.is_ok_and(|info| info.next_offset == 3)).await;
    let letters = dead.read(0, 10, Duration::ZERO).await.unwrap().records;
    for letter in &letters {
        let headers: HashMap<_, _> = letter.headers.iter().cloned().collect();
        let offset = letter.text().unwrap();
        assert_eq!(headers["tlog-namespace"], "work");
        assert_eq!((headers["tlog-offset"].as_str(), headers["tlog-group"].as_str()), (offset, "g"));
        assert_eq!(headers["tlog-deliveries"], "3");
        assert_eq!(headers["tlog-error"], format!("can't do {offset}"));
    }
    assert_eq!(group.redrive().await.unwrap(), 3);
    assert_eq!(group.redrive().await.unwrap(), 0);
    assert_eq!(lag(&group).await, 3);
    let done = Arc::default();
    let worker = noting(&group, "after", &done).await;
    eventually("they are done", async || lag(&group).await == 0).await;
    worker.drain().await.unwrap();
    let done: BTreeSet<u64> = done.lock().unwrap().iter().map(|(offset, _)| *offset).collect();
    assert_eq!(done, BTreeSet::from([30, 31, 32]));
}

const RECORDS: u64 = 4000;
const KEYS: u64 = 97;

/// What workers that come and go have done, and in which order the records of each key.
#[derive(Default)]
struct Model {
    done: BTreeSet<u64>,
    /// The last that was done of each key.
    last: HashMap<String, u64>,
    /// What is being done of each key.
    busy: HashMap<String, u64>,
}

impl Model {
    fn begins(&mut self, key: &str, offset: u64) {
        assert_eq!(self.busy.insert(key.to_owned(), offset), None, "two of {key} at one time");
    }

    fn ends(&mut self, key: &str, offset: u64) {
        self.busy.remove(key);
        let last = self.last.insert(key.to_owned(), offset);
        assert!(last.is_none_or(|last| last + KEYS == offset), "{key}: {offset} came behind {last:?}");
        assert!(self.done.insert(offset), "{offset} came twice");
    }

    fn count(&self) -> u64 {
        self.done.len() as u64
    }
}

/// One after another, workers that each stay for a while.
async fn shifts(group: Group, model: Arc<Mutex<Model>>, seed: u64) {
    let mut dice = Dice::new(seed);
    let count = || model.lock().unwrap().count();
    while count() < RECORDS {
        let handler = {
            let model = Arc::clone(&model);
            move |leased: Leased| {
                let model = Arc::clone(&model);
                async move {
                    let (offset, key) = (leased.record.offset, leased.record.key.unwrap());
                    model.lock().unwrap().begins(&key, offset);
                    tokio::task::yield_now().await;
                    model.lock().unwrap().ends(&key, offset);
                    Ok::<(), String>(())
                }
            }
        };
        let worker = group.worker().concurrency(6).start(handler).await.unwrap();
        // It stays until the team has done so much more, or the work is over.
        let enough = (count() + 20 + dice.below(400)).min(RECORDS);
        eventually("the work goes on", async || count() >= enough).await;
        let worked = worker.drain().await.unwrap();
        assert_eq!((worked.failed, worked.lapsed), (0, 0), "{worked:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_workers_come_and_go_and_each_record_is_done_once_and_in_its_keys_order() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path());
    let group = group(&broker, &GroupConfig { order: Order::Key, ..quick() }).await;
    let model: Arc<Mutex<Model>> = Arc::default();
    let workers: Vec<_> = (0..50).map(|seed| tokio::spawn(shifts(group.clone(), Arc::clone(&model), seed))).collect();
    for batch in 0..RECORDS / 50 {
        publish(&group, batch * 50..(batch + 1) * 50, KEYS).await;
    }
    for worker in workers {
        worker.await.unwrap();
    }
    let state = group.state().await.unwrap();
    assert_eq!((state.floor, state.lag.records, state.in_flight, state.dead_lettered), (RECORDS, 0, 0, 0));
}

#[tokio::test]
async fn a_long_handler_keeps_its_record_and_a_drain_waits_for_it() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path());
    let group = group(&broker, &GroupConfig { lease_ms: 1_500, ..quick() }).await;
    publish(&group, 0..2, 1).await;
    let (begun, mut begins) = tokio::sync::mpsc::unbounded_channel();
    let (release, released) = tokio::sync::watch::channel(false);
    let handler = move |leased: Leased| {
        begun.send(leased.record.offset).unwrap();
        let mut released = released.clone();
        async move {
            released.wait_for(|released| *released).await.unwrap();
            Ok::<(), String>(())
        }
    };
    let worker = group.worker().concurrency(1).start(handler).await.unwrap();
    assert_eq!(begins.recv().await, Some(0));
    let mut other = group.lease("other", 2, LONG).await.unwrap();
    assert_eq!(offsets(&other), [1]);
    // More than two leases long nobody else gets it, but its own. A busy machine may be late by most of one.
    let until = Instant::now() + Duration::from_secs(4);
    while Instant::now() < until {
        other.extend(group.lease("other", 2, Duration::from_millis(100)).await.unwrap());
    }
    assert!(offsets(&other).iter().all(|offset| *offset == 1), "{:?}", offsets(&other));
    let drained = tokio::spawn(worker.drain());
    assert!(!drained.is_finished());
    release.send_replace(true);
    assert_eq!(drained.await.unwrap().unwrap(), Worked { acked: 1, failed: 0, lapsed: 0 });
    group.delete().await.unwrap();
    let gone = group.worker().start(|_| async { Ok::<(), String>(()) }).await.unwrap_err();
    assert_eq!(gone.code(), Some(Code::GroupNotFound));
}

fn tlog(broker: &Broker, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tlog"));
    command
        .args(args)
        .env("TLOG_URL", broker.url(""))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn lines(path: &Path) -> Vec<String> {
    std::fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
}

#[tokio::test]
async fn tlog_work_gives_each_record_to_a_command_and_drains_when_it_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(&folder.path().join("data"));
    let created = tlog(&broker, &["namespaces"]).output().unwrap();
    assert!(created.status.success());
    let group = group(&broker, &quick()).await;
    let args =
        ["group", "create", "work", "g", "--max-deliveries", "2", "--dead-letter", "dead", "--retry-min-ms", "1"];
    assert_eq!(tlog(&broker, &args).output().unwrap().stdout, b"g is configured\n");
    publish(&group, 0..10, 3).await;
    let out = folder.path().join("out");
    // The seventh is refused, with a reason; the last one takes until it is released.
    let script = format!(
        "read -r line; case $line in *'\"value\":6,'*) echo noise >&2; echo no sixes >&2; exit 3;; \
         *'\"value\":9,'*) while [ ! -e {0}.go ]; do sleep 0.01; done;; esac; echo \"$line\" >> {0}",
        out.display()
    );
    let mut worker = tlog(&broker, &["work", "work", "g", "--concurrency", "2", "--json", "--", "sh", "-c", &script])
        .spawn()
        .unwrap();
    let dead = group.namespace().client().namespace("dead").unwrap();
    eventually("all but the last are done", async || lag(&group).await == 1).await;
    eventually("there is a dead letter", async || dead.info().await.is_ok_and(|info| info.next_offset == 1)).await;
    let letter = &dead.read(0, 1, Duration::ZERO).await.unwrap().records[0];
    assert!(letter.headers.contains(&("tlog-error".to_owned(), "no sixes".to_owned())), "{letter:?}");
    kill_process(Pid::from_child(&worker), Signal::TERM).unwrap();
    assert_eq!(worker.try_wait().unwrap(), None, "it waits for the command");
    std::fs::write(format!("{}.go", out.display()), "").unwrap();
    let output = tokio::task::spawn_blocking(move || worker.wait_with_output()).await.unwrap().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "{\"acked\":9,\"failed\":2,\"lapsed\":0}\n");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "noise\nno sixes\nnoise\nno sixes\n");
    assert_eq!(lines(&out).len(), 9);
    let state = group.state().await.unwrap();
    assert_eq!((state.lag.records, state.workers.len(), state.dead_lettered), (0, 0, 1));

    let listed = tlog(&broker, &["groups", "work"]).output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    let rows: Vec<Vec<&str>> = listed.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!((rows[0][0], rows[1][0], rows[1].last()), ("FLOOR", "10", Some(&"g")));
    for (args, says) in [
        (&["group", "redrive", "work", "g"][..], "1 dead letter published where they came from\n"),
        (&["group", "seek", "work", "g", "earliest"], "g goes on at offset 0\n"),
        (&["group", "delete", "work", "g", "--json"], "{\"deleted\":true}\n"),
        (&["groups", "work", "--json"], ""),
    ] {
        let output = tlog(&broker, args).output().unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), says, "{args:?}");
    }
    let none = tlog(&broker, &["work", "work", "g", "--", "true"]).output().unwrap();
    assert_eq!(none.status.code(), Some(1));
    assert_eq!(String::from_utf8(none.stderr).unwrap(), "tlog: the namespace \"work\" has no group \"g\"\n");
}
