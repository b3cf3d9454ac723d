//! Limits that the system sets a process: open files, and memory. Within them it answers or refuses,
//! past them it dies at once; nothing acknowledged is lost, and it recovers when there is room again.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;

use support::load::{Load, NAMESPACES};
use support::{Broker, client, eventually, folder, own_address};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::{JoinSet, block_in_place};

/// Small segments, so that there are many.
const SERVE: [&str; 4] = ["--partitions", "2", "--segment-bytes", "65536"];

/// A command that a shell runs within one of its `ulimit`s.
fn within(limit: &str, command: &Command) -> Command {
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(format!("ulimit {limit} && exec \"$0\" \"$@\""));
    shell.arg(command.get_program()).args(command.get_args());
    shell
}

/// Files that a process has open.
fn open_files(broker: &Broker) -> usize {
    fs::read_dir(format!("/proc/{}/fd", broker.pid())).unwrap().count()
}

/// Has more connections at once than there are files, and more segments.
async fn gets_by_with(files: usize) {
    let folder = tempfile::tempdir().unwrap();
    let (data, address) = (folder.path().join("data"), own_address());
    let command = within(&format!("-n {files}"), &Broker::command_at(&address, &data, &SERVE));
    let broker = block_in_place(|| Broker::try_start(command).unwrap());
    let load = Load::start(&broker.url(""));
    load.progress(20).await;
    let mut held = Vec::new();
    for index in 0..files {
        let mut stream = TcpStream::connect(&address).await.unwrap();
        let path = format!("/v1/namespaces/load-{}/events?from=start", index % NAMESPACES);
        stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).await.unwrap();
        held.push(stream);
    }
    eventually("all connections that may be are served", || async { connections(&broker) >= served(&broker) }).await;
    drop(held);
    // They have gone: who waited is served again.
    let segments = || folder::segments_of(&data, 0).len() + folder::segments_of(&data, 1).len();
    // Each has an index beside it.
    eventually("more segments than files", || async { 2 * segments() > files }).await;
    load.progress(20).await;
    assert!(open_files(&broker) <= files);
    let book = load.stop(&broker).await;
    book.check(&broker).await;
    assert_eq!(book.refused(), 0, "{}", broker.log());
    for said in ["Too many open files", "could not", "no spare"] {
        assert!(!broker.log().contains(said), "{}", broker.log());
    }
    assert!(block_in_place(|| broker.terminate()).success());
    folder::check(&data);
}

/// Connections that are open.
fn connections(broker: &Broker) -> usize {
    let tables = fs::read_dir(format!("/proc/{}/fd", broker.pid())).unwrap();
    let targets = tables.filter_map(|file| fs::read_link(file.ok()?.path()).ok());
    targets.filter(|target| target.to_string_lossy().starts_with("socket:")).count()
}

/// How many it says that it serves at once.
fn served(broker: &Broker) -> usize {
    let log = broker.log();
    let (_, said) = log.split_once("connections=").expect("it says so where the limit is low");
    said.split_whitespace().next().unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn more_connections_and_segments_than_128_files() {
    gets_by_with(128).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn more_connections_and_segments_than_the_fewest_files() {
    gets_by_with(104).await;
}

#[test]
fn too_few_files_are_refused_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let command = Broker::command(&folder.path().join("data"), &[]);
    for files in [8, 16, 24, 32, 64] {
        let ended = Broker::try_start(within(&format!("-n {files}"), &command)).expect_err("too few files");
        assert_eq!(ended.log.lines().count(), 1, "{files}: {}", ended.log);
        let said = ended.log.contains("open files") || ended.log.contains("needs 112 or more: raise the limit");
        assert!(said, "{files}: {}", ended.log);
    }
}

/// Address space that is free beyond what a broker has when it is at rest, KiB.
const FREE_KIB: u64 = 96 << 10;

#[tokio::test(flavor = "multi_thread")]
async fn past_its_memory_it_dies_at_once_and_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (data, address) = (folder.path().join("data"), own_address());
    let command = || Broker::command_at(&address, &data, &SERVE);
    let broker = block_in_place(|| Broker::try_start(command()).unwrap());
    let load = Load::start(&broker.url(""));
    load.progress(20).await;
    let limit = broker.address_space_bytes() / 1024 + FREE_KIB;
    broker.kill();

    let broker = block_in_place(|| Broker::try_start(within(&format!("-v {limit}"), &command())).unwrap());
    load.progress(20).await;
    let hogs = Hogs::start(&broker.url(""));
    let ended = broker.ended().await;
    hogs.stop().await;
    assert!(ended.status.signal().is_some() || ended.status.code() != Some(0), "{:?}", ended.status);

    let broker = block_in_place(|| Broker::try_start(command()).unwrap());
    load.progress(20).await;
    let book = load.stop(&broker).await;
    book.check_log(&broker).await;
    assert!(block_in_place(|| broker.terminate()).success());
    folder::check(&data);
}

/// Publishers of large batches, as many as it takes.
struct Hogs(JoinSet<()>);

impl Hogs {
    fn start(base: &str) -> Hogs {
        let mut hogs = JoinSet::new();
        for hog in 0..24 {
            let url = format!("{base}/v1/namespaces/hog-{hog}/records");
            hogs.spawn(async move {
                let line = format!("{{\"value\":\"{}\"}}\n", ".".repeat(500_000));
                while client()
                    .post(&url)
                    .body(line.repeat(24))
                    .header("content-type", "application/x-ndjson")
                    .send()
                    .await
                    .is_ok()
                {}
            });
        }
        Hogs(hogs)
    }

    /// They end with the broker.
    async fn stop(self) {
        self.0.join_all().await;
    }
}
