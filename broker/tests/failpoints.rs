//! The real binary, killed on entering a named system call, under publishers, followers, readers and
//! rebuilds of stores: invariants 1 to 5, 7, 8 and 10, seen from outside. Nothing in the binary knows of
//! it: strace kills the process, and the call is not made.
//!
//! For each failpoint: it dies there · five recoveries in a row of a copy leave the same bytes, and `tlog
//! check` finds no fault · the broker starts again, and every client goes on · what each was told holds.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::fs;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};

use rustix::process::Signal;
use support::load::Load;
use support::strace::{Strace, may_trace};
use support::{Broker, eventually, folder, own_address, skip};
use tempfile::TempDir;
use tokio::task::{JoinSet, block_in_place};

/// Failpoints of one test that are tried at the same time.
const AT_ONCE: usize = 2;

/// Small segments: one is full after some thirty records.
const SERVE: [&str; 4] = ["--partitions", "2", "--segment-bytes", "65536"];

/// The segments' folder, and files whose names are known.
const SEGMENTS: &str = "partitions/000";
const FIRST: &str = "partitions/000/00000000000000000000.log";
const INDEX: &str = "partitions/000/00000000000000000000.idx.tmp";
const NEW: &str = "partitions/000/new.tmp";
const SPARE: &str = "partitions/000/spare-1.tmp";
/// What [`Site::prepare`] leaves for recovery.
const LEFT: &str = "partitions/000/spare-9.tmp";
/// Stands for the last segment, whose name is not known before.
const LAST: &str = "LAST";

/// Where a process is killed: when one of its threads is about to make its `nth` call of `calls` on `path`.
struct Failpoint {
    name: &'static str,
    calls: &'static str,
    /// In the data folder, which is the empty path; nothing: whatever it is made on.
    path: Option<&'static str>,
    nth: u32,
}

const fn at(name: &'static str, calls: &'static str, path: &'static str, nth: u32) -> Failpoint {
    Failpoint { name, calls, path: Some(path), nth }
}

/// The first start, in a folder that does not exist.
const FIRST_START: [Failpoint; 24] = [
    at("data folder made", "mkdir", "", 1),
    at("partition's folder made", "mkdir", SEGMENTS, 1),
    at("partitions' folder synced", "fsync", "partitions", 1),
    at("description created", "openat", "tlog.json.tmp", 1),
    at("description written", "pwritev", "tlog.json.tmp", 1),
    at("description synced", "fdatasync", "tlog.json.tmp", 1),
    at("description renamed", "rename", "tlog.json.tmp", 1),
    at("data folder synced", "fsync", "", 2),
    at("rows: identity renamed", "rename", "rows/000000.dbtmp", 1),
    at("rows: first manifest written", "write", "rows/MANIFEST-000001", 1),
    at("rows: first CURRENT renamed", "rename", "rows/000001.dbtmp", 1),
    at("rows: manifest synced", "fdatasync", "rows/MANIFEST-000005", 1),
    at("rows: second CURRENT renamed", "rename", "rows/000005.dbtmp", 1),
    at("first segment created", "openat", NEW, 1),
    at("first segment allocated", "fallocate", NEW, 1),
    at("first segment's header written", "pwritev", NEW, 1),
    at("first segment renamed", "rename", NEW, 1),
    at("first segment's folder synced", "fsync", SEGMENTS, 2),
    at("first segment zeroed", "pwritev", FIRST, 1),
    at("first segment synced", "fdatasync", FIRST, 1),
    at("stores: first manifest written", "write", "stores/MANIFEST-000001", 1),
    at("stores: first CURRENT renamed", "rename", "stores/000001.dbtmp", 1),
    at("stores: manifest synced", "fdatasync", "stores/MANIFEST-000005", 1),
    at("stores: second CURRENT renamed", "rename", "stores/000005.dbtmp", 1),
];

/// At work: commits, rolls and seals. A segment takes few commits: where many wait, one holds a large part of it.
const AT_WORK: [Failpoint; 18] = [
    at("second commit, before its write", "pwritev", FIRST, 2),
    at("second commit, between write and sync", "fdatasync", FIRST, 2),
    at("commit, before its write", "pwritev", FIRST, 4),
    at("commit, between write and sync", "fdatasync", FIRST, 5),
    Failpoint { name: "commit, between sync and ack", calls: "writev,sendto", path: None, nth: 12 },
    at("spare created", "openat", SPARE, 1),
    at("spare allocated", "fallocate", SPARE, 1),
    at("spare zeroed", "pwritev", SPARE, 1),
    at("spare synced", "fdatasync", SPARE, 1),
    at("roll: spare renamed into place", "rename", SPARE, 1),
    at("roll: later spare renamed into place", "rename", "partitions/000/spare-3.tmp", 1),
    at("roll: folder synced", "fsync", SEGMENTS, 3),
    at("seal: segment truncated", "ftruncate", FIRST, 1),
    at("seal: index created", "openat", INDEX, 1),
    at("seal: index written", "pwritev", INDEX, 1),
    at("seal: index synced", "fdatasync", INDEX, 1),
    at("seal: index renamed", "rename", INDEX, 1),
    at("seal: later index renamed", "rename", "partitions/001/00000000000000000000.idx.tmp", 1),
];

/// At work: what RocksDB does for the rows, which are flushed when a segment is sealed, and for the
/// stores, which are flushed at the end of a rebuild. Those are written past the page cache where the file system
/// can do that, which takes other calls: they are synced once, when their length is set.
const ROCKSDB: [Failpoint; 10] = [
    at("rows: sst written", "write", "rows/000008.sst", 1),
    at("rows: sst synced", "fdatasync", "rows/000008.sst", 1),
    at("rows: later sst synced", "fdatasync", "rows/000009.sst", 1),
    at("rows: manifest written", "write", "rows/MANIFEST-000005", 8),
    at("rows: manifest synced after a flush", "fdatasync", "rows/MANIFEST-000005", 2),
    at("stores: sst written", "write,pwrite64", "stores/000008.sst", 1),
    at("stores: sst synced", "fdatasync,fsync", "stores/000008.sst", 1),
    at("stores: later sst synced", "fdatasync,fsync", "stores/000009.sst", 1),
    at("stores: manifest written after a rebuild", "write", "stores/MANIFEST-000005", 8),
    at("stores: manifest synced after a rebuild", "fdatasync", "stores/MANIFEST-000005", 2),
];

/// Recovery from a kill under load that left a torn tail, an unfinished spare, and no index of the first
/// segment.
const RECOVERY: [Failpoint; 18] = [
    at("data folder synced at a start", "fsync", "", 1),
    Failpoint { name: "rows: CURRENT renamed at a start", calls: "rename", path: None, nth: 1 },
    at("rows: folder synced at a start", "fsync", "rows", 1),
    at("unfinished spare removed", "unlink", LEFT, 1),
    at("partition's folder synced at a start", "fsync", SEGMENTS, 1),
    at("sealed again: segment synced", "fdatasync", FIRST, 1),
    at("sealed again: index written", "pwritev", INDEX, 1),
    at("sealed again: index synced", "fdatasync", INDEX, 1),
    at("sealed again: index renamed", "rename", INDEX, 1),
    at("sealed again: folder synced", "fsync", SEGMENTS, 2),
    at("torn tail cut", "ftruncate", LAST, 1),
    at("torn tail: space allocated again", "fallocate", LAST, 1),
    at("torn tail zeroed", "pwritev", LAST, 1),
    at("torn tail synced", "fdatasync", LAST, 1),
    at("last write written again", "pwritev", LAST, 2),
    at("last write synced again", "fdatasync", LAST, 2),
    at("stores: folder synced at a start", "fsync", "stores", 1),
    at("stores: folder synced again at a start", "fsync", "stores", 2),
];

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    FirstStart,
    AtWork,
    Recovery,
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_the_first_start() {
    for_each(&FIRST_START, Stage::FirstStart).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_work() {
    for_each(&AT_WORK, Stage::AtWork).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_while_rocksdb_writes() {
    for_each(&ROCKSDB, Stage::AtWork).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_in_recovery() {
    for_each(&RECOVERY, Stage::Recovery).await;
}

async fn for_each(points: &'static [Failpoint], stage: Stage) {
    if !may_trace() {
        return skip("kills at failpoints", "strace is not there, or may not trace");
    }
    let (mut waiting, mut failed) = (points.iter(), 0);
    let mut running = JoinSet::new();
    loop {
        while running.len() < AT_ONCE
            && let Some(point) = waiting.next()
        {
            running.spawn(Site::new(point, stage).run());
        }
        let Some(ended) = running.join_next().await else { break };
        failed += usize::from(ended.is_err());
    }
    assert_eq!(failed, 0, "of {} failpoints", points.len());
}

/// A failpoint that is being tried, and where.
struct Site {
    point: &'static Failpoint,
    stage: Stage,
    folder: TempDir,
    /// Where every broker of this site listens, so that clients go on.
    address: String,
}

impl Site {
    fn new(point: &'static Failpoint, stage: Stage) -> Site {
        Site { point, stage, folder: tempfile::tempdir().unwrap(), address: own_address() }
    }

    fn data(&self) -> PathBuf {
        self.folder.path().canonicalize().unwrap().join("data")
    }

    fn start(&self) -> Broker {
        block_in_place(|| Broker::try_start(Broker::command_at(&self.address, &self.data(), &SERVE)).unwrap())
    }

    async fn run(self) {
        let load = Load::start(&format!("http://{}", self.address));
        if self.stage == Stage::Recovery {
            self.prepare(&load).await;
        }
        self.be_killed().await;
        let copy = self.folder.path().join("copy");
        folder::copy(&self.data(), &copy);
        block_in_place(|| recover_five_times(&copy));
        let broker = self.start();
        load.progress(5).await;
        let book = load.stop(&broker).await;
        book.check(&broker).await;
        assert_eq!(book.refused(), 0, "{}: a publish was refused", self.point.name);
        assert!(block_in_place(|| broker.terminate()).success());
        folder::check(&self.data());
    }

    /// Leaves what recovery has most to do with.
    async fn prepare(&self, load: &Load) {
        let last = loop {
            let broker = self.start();
            eventually("three segments", || async { folder::segments_of(&self.data(), 0).len() >= 3 }).await;
            load.progress(5).await;
            broker.kill();
            let last = folder::segments_of(&self.data(), 0).pop().unwrap();
            // It may have been killed on entering a new one.
            if folder::end_of(&fs::read(&last).unwrap()) > folder::SEGMENT_HEADER_BYTES {
                break last;
            }
        };
        folder::tear(&last);
        fs::write(self.data().join(LEFT), b"unfinished").unwrap();
        let _ = fs::remove_file(self.data().join(INDEX.trim_end_matches(".tmp")));
    }

    /// Starts the broker under strace, and sees to it that it dies at the failpoint.
    async fn be_killed(&self) {
        let Failpoint { name, calls, path, nth } = self.point;
        let path = path.map(|path| match path {
            "" => self.data(),
            LAST => folder::segments_of(&self.data(), 0).pop().unwrap(),
            path => self.data().join(path),
        });
        let trace = self.folder.path().join("trace");
        let command = Broker::command_at(&self.address, &self.data(), &SERVE);
        let started =
            block_in_place(|| Broker::try_start(Strace::kill_at(&command, calls, path.as_slice(), *nth, &trace)));
        assert_eq!(started.is_ok(), self.stage == Stage::AtWork, "{name}: {started:?}");
        let ended = match started {
            Ok(broker) => broker.ended().await,
            Err(ended) => ended,
        };
        assert_eq!(ended.status.signal(), Some(Signal::KILL.as_raw()), "{name}: {ended:?}");
        eventually("strace has written where it ended", || async {
            let trace = fs::read_to_string(&trace).unwrap();
            trace.lines().any(|line| line.ends_with("= ?") && calls.split(',').any(|call| line.contains(call)))
        })
        .await;
        let _ = writeln!(std::io::stderr(), "hit: {name}");
    }
}

/// Starts and ends a broker five times; from the first recovery on the log's bytes stay what they are.
fn recover_five_times(data: &Path) {
    let mut recovered = None;
    for round in 0..5 {
        let broker = Broker::start_with(data, &SERVE);
        if round % 2 == 0 {
            broker.kill();
        } else {
            assert!(broker.terminate().success());
        }
        let now = folder::segments(data);
        assert!(*recovered.get_or_insert_with(|| now.clone()) == now, "recovery {round} left other bytes");
    }
    folder::check(data);
}
