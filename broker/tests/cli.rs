//! The command line, as a user types it: the real binary against a real broker.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::time::Instant;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use support::{Broker, PATIENCE, losses};
use tempfile::TempDir;

/// A broker, and its folder.
struct Site {
    broker: Broker,
    folder: TempDir,
}

impl Site {
    fn start() -> Site {
        let folder = tempfile::tempdir().unwrap();
        let broker = Broker::start(&folder.path().join("data"));
        Site { broker, folder }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tlog"));
        command.args(args).env("TLOG_URL", self.broker.url(""));
        command
    }

    fn tlog(&self, args: &[&str]) -> Output {
        self.tlog_with(args, "")
    }

    fn tlog_with(&self, args: &[&str], input: &str) -> Output {
        run(self.command(args), input)
    }

    /// What a command that works prints.
    fn says(&self, args: &[&str]) -> String {
        stdout(&self.tlog(args))
    }

    fn publish(&self, args: &[&str], input: &str) -> String {
        stdout(&self.tlog_with(&[&["publish"], args].concat(), input))
    }
}

fn run(mut command: Command, input: &str) -> Output {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_owned();
    // A command that fails early does not read it all.
    let writer = std::thread::spawn(move || drop(stdin.write_all(input.as_bytes())));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    output
}

fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    assert_eq!(stderr(output), "", "no progress bar in a pipe, and no word without need");
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// The one line of a command that fails.
#[track_caller]
fn fails(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let error = stderr(output);
    assert!(error.starts_with("tlog: ") && error.ends_with('\n') && error.lines().count() == 1, "{error:?}");
    error
}

fn json(line: &str) -> Value {
    serde_json::from_str(line).unwrap()
}

fn numbers(count: usize) -> String {
    (0..count).map(|number| format!("{{\"n\":{number},\"name\":\"k{}\"}}\n", number % 10)).collect()
}

#[test]
fn publish_then_rebuild_get_and_list() {
    let site = Site::start();
    let said = site.publish(&["orders", "--key", "name"], &numbers(2500));
    assert_eq!(said, "2500 records published, offsets 0 to 2499\n");

    let value = site.says(&["get", "orders", "k3", "--min-offset", "2499"]);
    assert_eq!(value, "{\"n\":2493,\"name\":\"k3\"}\n");
    let record = json(&site.says(&["get", "orders", "k3", "--json"]));
    assert_eq!((&record["offset"], &record["key"]), (&2493.into(), &"k3".into()));

    let said = site.says(&["rebuild", "orders"]);
    assert!(said.starts_with("orders: 2500 records in "), "{said}");
    let proof = json(&site.says(&["rebuild", "orders", "--json"]));
    assert_eq!((&proof["records"], &proof["next_offset"]), (&2500.into(), &2500.into()));
    assert!(said.ends_with(&format!(", proved\nchain {}\n", proof["chain"].as_str().unwrap())), "{said}");

    site.publish(&["other/äöü 東京", "--text"], "one\ntwo\n");
    let listed = site.says(&["namespaces"]);
    let rows: Vec<Vec<&str>> = listed.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0], ["RECORDS", "BYTES", "NAMESPACE"]);
    assert_eq!((rows[1][0], rows[1].last()), ("2500", Some(&"orders")));
    assert!(listed.ends_with("  other/äöü 東京\n"), "{listed}");
    let info = json(&site.says(&["namespaces", "--prefix", "or", "--json"]));
    assert_eq!(
        (&info["name"], &info["next_offset"], &info["chain"]),
        (&"orders".into(), &2500.into(), &proof["chain"])
    );
}

#[test]
fn what_a_rebuild_writes_can_be_proved_again() {
    let site = Site::start();
    site.publish(&["orders"], &numbers(300));
    let file = site.folder.path().join("orders.frames");
    let proof = json(&site.says(&["rebuild", "orders", "--json", "--out", file.to_str().unwrap()]));
    let bytes = std::fs::read(&file).unwrap();
    let mut verifier = sdk::Verifier::new();
    verifier.push(&bytes);
    while verifier.next().unwrap().is_some() {}
    assert_eq!(verifier.end().unwrap().chain.to_string(), proof["chain"]);
    assert!(!Path::new(&format!("{}.part", file.display())).exists());

    let lines = site.folder.path().join("orders.ndjson");
    site.says(&["rebuild", "orders", "--out", lines.to_str().unwrap(), "--format", "ndjson"]);
    let lines = std::fs::read_to_string(lines).unwrap();
    let values: Vec<Value> = lines.lines().map(|line| json(line)["value"]["n"].clone()).collect();
    assert_eq!(values, (0..300).map(Value::from).collect::<Vec<_>>());

    let output = site.tlog(&["rebuild", "orders", "--out", "-"]);
    assert_eq!((output.status.success(), output.stdout.len()), (true, bytes.len()));
    assert!(stderr(&output).starts_with("orders: 300 records"), "{}", stderr(&output));
}

#[test]
fn what_is_lost_is_told_by_rebuild_and_tail() {
    let mut site = Site::start();
    for _ in 0..5 {
        site.publish(&["orders"], &numbers(3));
    }
    let id = json(&site.says(&["namespaces", "--json"]))["id"].as_u64().unwrap();
    let data = site.folder.path().join("data");
    site.broker.kill();
    losses::lose(&data, id as u32, &[3..9, 12..15]);
    site.broker = Broker::start(&data);

    let warning = "tlog: 9 records were lost before: offsets 3 to 8, offsets 12 to 14\n";
    let output = site.tlog(&["rebuild", "orders"]);
    assert!(output.status.success() && stderr(&output) == warning, "{output:?}");
    assert!(String::from_utf8(output.stdout).unwrap().starts_with("orders: 6 records in "));
    let file = site.folder.path().join("orders.frames");
    let output = site.tlog(&["rebuild", "orders", "--json", "--out", file.to_str().unwrap()]);
    assert_eq!(stderr(&output), warning);
    let proof = json(std::str::from_utf8(&output.stdout).unwrap());
    assert_eq!((&proof["records"], &proof["lost_records"], &proof["next_offset"]), (&6.into(), &9.into(), &15.into()));
    assert_eq!(proof["lost"], json(r#"[{"from":3,"to":9},{"from":12,"to":15}]"#));
    let mut verifier = sdk::Verifier::new();
    verifier.push(&std::fs::read(&file).unwrap());
    while verifier.next().unwrap().is_some() {}
    assert_eq!(verifier.end().unwrap().lost.records(), 9);
    let output = site.tlog(&["rebuild", "orders", "--out", "-", "--format", "ndjson"]);
    let lines = String::from_utf8(output.stdout).unwrap();
    let reset = r#"{"reset":{"from":3,"to":9,"reason":"lost"}}"#;
    assert_eq!((lines.lines().count(), lines.lines().nth(3)), (8, Some(reset)));

    let output = site.tlog(&["tail", "orders", "--from", "1", "-n", "4"]);
    assert_eq!(stderr(&output), "tlog: records were lost: offsets 3 to 8\n");
    let offsets = |output: &Output| -> Vec<Value> {
        String::from_utf8(output.stdout.clone()).unwrap().lines().map(|line| json(line)["offset"].clone()).collect()
    };
    assert_eq!(offsets(&output), [1, 2, 9, 10]);
    let output = site.tlog(&["tail", "orders", "--from", "1", "-n", "4", "--json"]);
    assert!(String::from_utf8(output.stdout.clone()).unwrap().lines().nth(2) == Some(reset), "{output:?}");
    assert_eq!(offsets(&output), [1.into(), 2.into(), Value::Null, 9.into(), 10.into()]);
}

#[test]
fn lines_are_values_texts_or_records() {
    let site = Site::start();
    let tail = |count: &str| {
        let lines = site.says(&["tail", "mixed", "--from", "start", "-n", count]);
        lines.lines().map(json).collect::<Vec<Value>>()
    };
    site.publish(&["mixed"], "[1,\t2.50]\n\n \"x\" \n");
    site.publish(&["mixed", "--text"], "plain {\n");
    let records = concat!(
        r#"{"key":"a","value":{"b":1},"headers":{"h":"v"}}"#,
        "\n",
        r#"{"value_base64":"AAEC"}"#,
        "\n",
        r#"{"key":"a","tombstone":true}"#,
        "\n",
    );
    site.publish(&["mixed", "--records"], records);
    let lines = tail("6");
    let values: Vec<&Value> = lines.iter().map(|line| &line["value"]).collect();
    assert_eq!(values[..4], [&json("[1,2.50]"), &json("\"x\""), &json("\"plain {\""), &json("{\"b\":1}")]);
    assert_eq!((&lines[3]["key"], &lines[3]["headers"]["h"]), (&"a".into(), &"v".into()));
    assert_eq!(lines[4]["value_base64"], "AAEC");
    assert_eq!((values[5], &lines[5]["tombstone"]), (&Value::Null, &true.into()));

    // What tail prints, publish takes: a copy has the same ids, but for the namespace in them.
    let copied = site.says(&["tail", "mixed", "--from", "start", "-n", "6"]);
    assert_eq!(site.publish(&["copy", "--records"], &copied), "6 records published, offsets 0 to 5\n");
    let copy = site.says(&["tail", "copy", "--from", "start", "-n", "6"]);
    let without = |line: &str| {
        let mut record = json(line);
        for field in ["id", "time"] {
            record.as_object_mut().unwrap().remove(field);
        }
        record
    };
    assert_eq!(copy.lines().map(without).collect::<Vec<_>>(), copied.lines().map(without).collect::<Vec<_>>());
}

#[test]
fn a_file_is_published_as_stdin_is() {
    let site = Site::start();
    let file = site.folder.path().join("lines");
    std::fs::write(&file, numbers(10)).unwrap();
    let said = json(&site.publish(&["files", file.to_str().unwrap(), "--json"], ""));
    assert_eq!(said, json(r#"{"records":10,"first_offset":0,"next_offset":10}"#));
    assert_eq!(site.publish(&["files", "-"], "1\n"), "1 record published, offsets 10 to 10\n");
    let missing = site.folder.path().join("missing");
    assert!(fails(&site.tlog(&["publish", "files", missing.to_str().unwrap()])).contains("No such file"));
}

#[test]
fn a_broken_line_is_named_and_what_stood_before_it_is_stored() {
    let site = Site::start();
    let error = fails(&site.tlog_with(&["publish", "lines"], "1\n2\n{\n4\n"));
    assert!(error.contains("line 3: it is not JSON") && error.contains("2 records stored"), "{error}");
    let error = fails(&site.tlog_with(&["publish", "lines", "--key", "id"], "{\"id\":1}\n{}\n"));
    assert!(error.contains("line 2: there is no field \"id\""), "{error}");
    let error = fails(&site.tlog_with(&["publish", "lines", "--key", "id"], "{\"id\":\"a\\nb\"}\n"));
    assert!(error.contains("line 1: ") && error.contains("control character"), "{error}");
    let error = fails(&site.tlog_with(&["publish", "lines", "--text"], &"x".repeat((1 << 20) + 1)));
    assert!(error.contains("line 1: ") && error.contains("1048576"), "{error}");
    let error = fails(&site.tlog_with(&["publish", "lines", "--text"], &"x".repeat((2 << 20) + 1)));
    assert!(error.contains("line 1: it is over the limit"), "{error}");
    assert!(fails(&site.tlog_with(&["publish", "lines"], "\n\n")).contains("no record"));
    assert!(site.says(&["rebuild", "lines"]).starts_with("lines: 3 records"));
}

/// A `tail` under way.
struct Tail {
    child: Child,
    /// What it prints; nothing once the test has closed it.
    lines: Option<BufReader<ChildStdout>>,
}

impl Tail {
    fn start(site: &Site, args: &[&str]) -> Tail {
        let mut command = site.command(&[&["tail"], args].concat());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = child.stdout.take().map(BufReader::new);
        Tail { child, lines }
    }

    fn next(&mut self) -> Value {
        let mut line = String::new();
        self.lines.as_mut().unwrap().read_line(&mut line).unwrap();
        json(&line)
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[test]
fn a_tail_follows_as_records_come() {
    let site = Site::start();
    site.publish(&["live"], &numbers(3));
    let mut tail = Tail::start(&site, &["live", "--from", "1"]);
    assert_eq!((tail.next()["offset"].clone(), tail.next()["offset"].clone()), (1.into(), 2.into()));
    // Each is printed as it comes, though stdout is a pipe.
    for number in 3..6 {
        site.publish(&["live"], "{}\n");
        assert_eq!(tail.next()["offset"], number);
    }
    let mut keyed = Tail::start(&site, &["live", "--from", "start", "--key", "a", "--key", "b"]);
    site.publish(&["live", "--key", "k"], "{\"k\":\"a\"}\n{\"k\":\"x\"}\n{\"k\":\"b\"}\n");
    assert_eq!((keyed.next()["key"].clone(), keyed.next()["key"].clone()), ("a".into(), "b".into()));
}

#[test]
fn a_tail_ends_quietly_when_nobody_reads_it() {
    let site = Site::start();
    site.publish(&["live"], "0\n");
    let mut tail = Tail::start(&site, &["live", "--from", "start"]);
    tail.next();
    tail.lines = None;
    let began = Instant::now();
    let status = loop {
        site.publish(&["live"], "1\n");
        if let Some(status) = tail.child.try_wait().unwrap() {
            break status;
        }
        assert!(began.elapsed() < PATIENCE, "tail goes on");
    };
    let mut error = String::new();
    tail.child.stderr.take().unwrap().read_to_string(&mut error).unwrap();
    assert_eq!((status.code(), error.as_str()), (Some(0), ""));
}

#[test]
fn publish_and_tail_outlive_a_broker_that_is_killed() {
    let mut site = Site::start();
    let address = site.broker.address().to_string();
    site.publish(&["live"], "{\"n\":0}\n");
    let mut tail = Tail::start(&site, &["live", "--from", "start"]);
    tail.next();
    let mut publish = site.command(&["publish", "live"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut input = publish.stdin.take().unwrap();
    let mut due = 1;
    let mut follow = |tail: &mut Tail, until: u64| {
        while due < until {
            let record = tail.next();
            assert_eq!((&record["offset"], &record["value"]["n"]), (&due.into(), &due.into()));
            due += 1;
        }
    };
    for round in 1..4u64 {
        let lines: String = (round * 1000 - 999..=round * 1000).map(|n| format!("{{\"n\":{n}}}\n")).collect();
        input.write_all(lines.as_bytes()).unwrap();
        // Some of them are on their way, or not even sent.
        follow(&mut tail, round * 1000 - 500);
        let data = site.folder.path().join("data");
        let mut command = Command::new(env!("CARGO_BIN_EXE_tlog"));
        command.arg("serve").arg("--data").arg(data).args(["--listen", &address]);
        site.broker.kill();
        site.broker = Broker::try_start(command).unwrap();
    }
    drop(input);
    let published = stdout(&publish.wait_with_output().unwrap());
    assert_eq!(published, "3000 records published, offsets 1 to 3000\n");
    follow(&mut tail, 3001);
    assert!(site.says(&["rebuild", "live"]).starts_with("live: 3001 records"));
}

#[test]
fn a_tail_ends_when_its_namespace_is_deleted() {
    let site = Site::start();
    site.publish(&["gone"], "0\n");
    let mut tail = Tail::start(&site, &["gone", "--from", "start"]);
    tail.next();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let client = sdk::Client::new(&site.broker.url("")).unwrap();
    runtime.block_on(client.namespace("gone").unwrap().delete()).unwrap();
    assert_eq!(tail.child.wait().unwrap().code(), Some(1));
}

#[test]
fn stores_are_listed_and_one_is_rebuilt() {
    let site = Site::start();
    site.publish(&["orders"], &numbers(500));
    site.publish(&["wait", "--key", "k"], "{\"k\":\"k\"}\n");
    site.says(&["get", "wait", "k", "--min-offset", "0"]);
    // All of a partition's records are applied in its order; the other partition's may lag behind.
    let began = Instant::now();
    let stores = loop {
        let stores: Vec<Value> = site.says(&["stores", "--json"]).lines().map(json).collect();
        if stores.iter().all(|store| store["lag"] == 0) {
            break stores;
        }
        assert!(began.elapsed() < PATIENCE, "the stores lag behind");
    };
    assert_eq!(stores.len(), 256);
    let objects: u64 = stores.iter().map(|store| store["objects"].as_u64().unwrap()).sum();
    assert_eq!(objects, 501);
    assert!(site.says(&["stores"]).ends_with("256 stores, 501 objects, the last one is 0 records behind\n"));

    let full = stores.iter().max_by_key(|store| store["objects"].as_u64()).unwrap();
    let rebuilt = json(&site.says(&["stores", "--json", "--rebuild", &full["shard"].to_string()]));
    assert_eq!((&rebuilt["shard"], &rebuilt["objects"]), (&full["shard"], &full["objects"]));
}

#[test]
fn errors_are_one_line_and_a_status() {
    let site = Site::start();
    for command in ["tail", "rebuild"] {
        let error = fails(&site.tlog(&[command, "nowhere"]));
        assert!(error.contains("\"nowhere\""), "{error}");
    }
    site.publish(&["orders"], "1\n");
    assert!(fails(&site.tlog(&["get", "orders", "nothing"])).contains("the key \"nothing\" has no value"));
    assert!(fails(&site.tlog(&["tail", "orders", "--from", "2"])).contains("the next is 1"));
    assert!(fails(&site.tlog(&["tail", ""])).contains("name is empty"));
    assert!(fails(&site.tlog(&["get", "orders", ".."])).contains("URL"));
    assert!(fails(&site.tlog(&["namespaces", "--url", "https://127.0.0.1"])).contains("http://"));
    let no_folder = site.folder.path().join("no/folder");
    let error = fails(&site.tlog(&["rebuild", "orders", "--out", no_folder.to_str().unwrap()]));
    assert!(error.contains("No such file"), "{error}");

    // Nobody listens at port 1.
    for args in
        [&["tail", "x"][..], &["publish", "x"], &["rebuild", "x"], &["get", "x", "y"], &["namespaces"], &["stores"]]
    {
        let mut command = site.command(args);
        command.env("TLOG_URL", "http://127.0.0.1:1");
        let error = fails(&run(command, "1\n"));
        assert!(error.contains("no connection to http://127.0.0.1:1"), "{error}");
    }
    for usage in [&["tail"][..], &["nonsense"], &["tail", "x", "--from", "soon"], &["stores", "--rebuild", "256"], &[]]
    {
        let output = site.tlog(usage);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
    }
}

#[test]
fn a_broker_that_can_not_start_says_why() {
    let site = Site::start();
    let data = site.folder.path().join("data");
    let serve = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tlog"));
        command.args(["serve", "--listen", "127.0.0.1:0"]).args(args);
        run(command, "")
    };
    let error = fails(&serve(&["--data", data.to_str().unwrap()]));
    assert!(error.contains(data.to_str().unwrap()), "the folder is in use: {error}");
    let fresh = site.folder.path().join("fresh");
    let error = fails(&serve(&["--data", fresh.to_str().unwrap(), "--partitions", "3"]));
    assert!(error.contains("power of two"), "{error}");
    let error = fails(&serve(&["--data", fresh.to_str().unwrap(), "--cors-origin", "nonsense"]));
    assert!(error.contains("nonsense"), "{error}");
    let taken = site.broker.address().to_string();
    let mut command = Command::new(env!("CARGO_BIN_EXE_tlog"));
    command.args(["serve", "--data", fresh.to_str().unwrap(), "--listen", &taken]);
    assert!(fails(&run(command, "")).contains(&taken));
}

#[test]
fn a_broker_logs_in_json_if_it_is_told_to_and_stops_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start_with(folder.path(), &["--log-format", "json", "--segment-bytes", "1048576"]);
    let began = Instant::now();
    let log = loop {
        // It was seen on the way, and is kept a moment later.
        let log = broker.log();
        if log.contains("listening on") {
            break log;
        }
        assert!(began.elapsed() < PATIENCE, "it does not say where it listens: {log}");
        std::thread::yield_now();
    };
    let line = log.lines().find(|line| line.contains("listening on")).unwrap();
    let line: Value = json(line);
    assert_eq!(line["fields"]["message"], format!("listening on http://{}", broker.address()));
    assert!(broker.terminate().success());
}

#[test]
fn a_second_signal_stops_at_once() {
    let site = Site::start();
    // A request that will not end, so that there is something to wait for.
    let mut request = TcpStream::connect(site.broker.address()).unwrap();
    request.write_all(b"POST /v1/namespaces/n/records HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n{").unwrap();
    // Requests are taken in order of their connections: this one behind that.
    site.says(&["namespaces"]);
    let pid = Pid::from_raw(i32::try_from(site.broker.pid()).unwrap()).unwrap();
    kill_process(pid, Signal::INT).unwrap();
    let began = Instant::now();
    while !site.broker.log().contains("stopping") {
        assert!(began.elapsed() < PATIENCE, "the signal is not heard");
        std::thread::yield_now();
    }
    assert_eq!(site.broker.terminate().code(), Some(130));
    drop(request);
}
