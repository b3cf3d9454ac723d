//! The process stops for longer than anyone waits for it, and the wall clock is moved under it: clients
//! go on, nothing is lost, nothing is there twice, append times never go back, and nothing times out that
//! should not.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::process::Signal;
use serde_json::{Value, json};
use support::load::Load;
use support::sse::Events;
use support::{Broker, client, folder, http, own_address, proof, skip};
use tokio::task::block_in_place;

/// Longer than the 15 s between two heartbeats, and much longer than the SDK's clients wait here.
const STOPPED: Duration = Duration::from_secs(16);

const MICROS_PER_HOUR: i64 = 3_600_000_000;

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_was_stopped_for_longer_than_a_heartbeat_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path());
    let load = Load::start(&broker.url(""));
    load.progress(20).await;
    broker.signal(Signal::STOP);
    // Meanwhile the SDK's publishers give up one connection after the other, and send again on the next:
    // all of it waits in sockets that nobody reads.
    tokio::time::sleep(STOPPED).await;
    broker.signal(Signal::CONT);
    load.progress(20).await;
    let book = load.stop(&broker).await;
    book.check(&broker).await;
    assert_eq!(book.refused(), 0);
    assert!(block_in_place(|| broker.terminate()).success());
    folder::check(folder.path());
}

/// A wall clock of a process's own, which a test may move: that of libfaketime for many threads.
struct WallClock {
    library: PathBuf,
    file: PathBuf,
}

impl WallClock {
    /// One that is kept in this folder; nothing where libfaketime is not installed.
    fn new(folder: &Path) -> Option<WallClock> {
        let architectures = fs::read_dir("/usr/lib").ok()?.map(|entry| entry.unwrap().path());
        let mut libraries = architectures.map(|path| path.join("faketime/libfaketimeMT.so.1"));
        Some(WallClock { library: libraries.find(|library| library.exists())?, file: folder.join("clock") })
    }

    /// Moves it to so many hours from the true time.
    fn set(&self, hours: i64) {
        let new = self.file.with_extension("new");
        fs::write(&new, format!("{:+}", hours * 3600)).unwrap();
        fs::rename(new, &self.file).unwrap();
    }

    fn apply(&self, mut command: Command) -> Command {
        command.env("LD_PRELOAD", &self.library).env("FAKETIME_TIMESTAMP_FILE", &self.file);
        command.env("FAKETIME_NO_CACHE", "1").env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        command
    }
}

/// When the last record of a namespace was appended, in hours from now.
async fn appended(client: &reqwest::Client, broker: &Broker, namespace: &str) -> i64 {
    http::publish(client, broker, namespace, &json!({"value": 1})).await;
    let time = proof::rebuild(client, broker, namespace).await.records.last().unwrap().time;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros() as i64;
    ((time - now) as f64 / MICROS_PER_HOUR as f64).round() as i64
}

#[tokio::test(flavor = "multi_thread")]
async fn the_wall_clock_is_moved_an_hour_either_way() {
    let folder = tempfile::tempdir().unwrap();
    let Some(clock) = WallClock::new(folder.path()) else {
        return skip("the wall clock is moved", "libfaketime is not installed");
    };
    let (data, address, client) = (folder.path().join("data"), own_address(), client());
    let start = || {
        let command = clock.apply(Broker::command_at(&address, &data, &["--partitions", "1"]));
        block_in_place(|| Broker::try_start(command).unwrap())
    };
    clock.set(-1);
    let mut broker = start();
    let load = Load::start(&broker.url(""));
    load.progress(20).await;
    assert_eq!(appended(&client, &broker, "moved").await, -1);

    // Who waits while the clock moves goes on waiting.
    let quiet = http::publish(&client, &broker, "quiet", &json!({"value": 0})).await;
    let url = broker.url("/v1/namespaces/quiet");
    let mut events = Events::connect(&client, &format!("{url}/events"), None).await;
    let waits = client.get(format!("{url}/records?from={}&wait=30000", quiet.next_offset)).send();
    let waits = tokio::spawn(async move { http::json::<Value>(waits.await.unwrap()).await });
    for hours in [1, 0, -1, 1] {
        clock.set(hours);
        load.progress(20).await;
        // An hour that was seen once is not unseen.
        assert_eq!(appended(&client, &broker, "moved").await, 1);
    }
    assert!(!waits.is_finished(), "a wait ended early");
    http::publish(&client, &broker, "quiet", &json!({"value": 7})).await;
    assert_eq!(waits.await.unwrap()["records"][0]["value"], 7);
    assert_eq!(events.next().await.expect("the stream was not cut off").id, "1");

    for hours in [-1, 1, 0] {
        broker.kill();
        clock.set(hours);
        broker = start();
        load.progress(20).await;
        assert_eq!(appended(&client, &broker, "moved").await, 1);
    }
    let book = load.stop(&broker).await;
    book.check_log(&broker).await;
    assert_eq!(book.refused(), 0);
    assert!(block_in_place(|| broker.terminate()).success());
    folder::check(&data);
}
