//! `tlog check` and `tlog repair`, on folders that a real broker has left and that were damaged since.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use support::Broker;
use tempfile::TempDir;

fn tlog(args: &[&str], data: &Path) -> (i32, String, String) {
    let Output { status, stdout, stderr } =
        Command::new(env!("CARGO_BIN_EXE_tlog")).args(args).arg("--data").arg(data).output().unwrap();
    (status.code().unwrap(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

fn publish(broker: &Broker, namespace: &str, lines: &str) {
    let file = TempDir::new().unwrap();
    let path = file.path().join("lines");
    std::fs::write(&path, lines).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_tlog"));
    command.args(["publish", namespace, path.to_str().unwrap()]).env("TLOG_URL", broker.url(""));
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

/// A folder with two namespaces, a record a batch in one of them; the broker has ended in order.
fn folder() -> (TempDir, PathBuf) {
    let dir = TempDir::new().unwrap();
    let data = dir.path().join("data");
    let broker = Broker::start(&data);
    for n in 0..5 {
        publish(&broker, "orders", &format!("{{\"n\":{n}}}\n"));
    }
    publish(&broker, "others", "{\"n\":1}\n{\"n\":2}\n");
    broker.terminate();
    (dir, data)
}

/// The segment that holds some bytes, and where.
fn find(data: &Path, needle: &[u8]) -> (PathBuf, usize) {
    for partition in 0..4 {
        let path = data.join(format!("partitions/{partition:03}/00000000000000000000.log"));
        let bytes = std::fs::read(&path).unwrap();
        if let Some(at) = bytes.windows(needle.len()).position(|window| window == needle) {
            return (path, at);
        }
    }
    panic!("{needle:?} is in no segment");
}

fn flip(path: &Path, at: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[at] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

#[test]
fn what_is_lost_is_named_marked_and_told() {
    let (_dir, data) = folder();
    let (code, said, error) = tlog(&["check"], &data);
    assert_eq!((code, error.as_str()), (0, ""), "{said}");
    assert!(said.starts_with("9 records in "), "{said}");
    let (path, at) = find(&data, b"{\"n\":3}");
    flip(&path, at + 5);

    let (code, said, error) = tlog(&["check"], &data);
    assert_eq!((code, error.as_str()), (1, "tlog: the log is damaged in 1 place(s)\n"));
    assert!(
        said.contains(&format!("DAMAGED: {}", path.display())) && said.contains("lost: orders (namespace "),
        "{said}"
    );
    assert!(said.contains("), offset 3\n"), "{said}");
    let (code, said, _) = tlog(&["check", "--json"], &data);
    let lost = &json(&said)["faults"][0]["lost"][0];
    assert_eq!((code, &lost["namespace"], &lost["from"], &lost["to"]), (1, &"orders".into(), &3.into(), &4.into()));

    let (code, said, _) = tlog(&["repair", "--dry-run"], &data);
    assert!(
        code == 0 && said.contains("LOST, and would be marked so: orders") && said.contains("nothing was done"),
        "{said}"
    );
    assert!(!data.join("aside").exists());
    assert_eq!(tlog(&["check"], &data).0, 1);
    let (code, said, error) = tlog(&["repair"], &data);
    assert_eq!((code, error.as_str()), (0, ""), "{said}");
    assert!(said.contains("the folder is whole: what is lost is marked, and readers are told"), "{said}");
    for kept in ["aside/1/rows", "aside/1/stores", "aside/1/repair.json"] {
        assert!(data.join(kept).exists(), "{kept}");
    }
    assert_eq!(tlog(&["repair"], &data), (0, "nothing is to be repaired\n".to_owned(), String::new()));
    let (code, said, _) = tlog(&["check"], &data);
    assert!(
        code == 0 && said.contains("marked as lost: orders (namespace ") && said.contains("), offset 3\n"),
        "{said}"
    );
    let (_, said, _) = tlog(&["check", "--json"], &data);
    assert_eq!(json(&said)["marked"][0]["from"], 3);

    let broker = Broker::start(&data);
    publish(&broker, "orders", "{\"n\":5}\n");
    publish(&broker, "others", "{\"n\":3}\n");
    broker.terminate();
    let (code, said, error) = tlog(&["check"], &data);
    assert_eq!((code, error.as_str()), (0, ""), "{said}");
    assert!(said.starts_with("10 records in "), "{said}");
}

#[test]
fn what_is_derived_has_a_status_of_its_own_and_comes_back() {
    let (_dir, data) = folder();
    let stores = data.join("stores");
    {
        let db = rocksdb_open(&stores);
        let (key, value) =
            db.iterator(rocksdb::IteratorMode::From(b"s", rocksdb::Direction::Forward)).next().unwrap().unwrap();
        let mut value = value.to_vec();
        value[0] ^= 1;
        db.put(&key, value).unwrap();
        db.put(b"s\x01k\0\0\x01nobody", [1, 0, 0, 0]).unwrap();
        db.flush().unwrap();
    }
    let (code, said, error) = tlog(&["check"], &data);
    assert_eq!(code, 3, "{said}{error}");
    assert_eq!(error, "tlog: nothing is lost; what is derived is wrong in 2 place(s), and can be made again\n");
    assert!(said.contains("nobody): nothing in the log says so"), "{said}");
    let (code, said, _) = tlog(&["check", "--json"], &data);
    let faults = json(&said)["derived_faults"].as_array().unwrap().clone();
    assert!(code == 3 && faults.iter().all(|fault| fault["kind"] == "stores" && fault["key"].is_string()));
    let (code, said, _) = tlog(&["repair", "--json"], &data);
    assert_eq!((code, &json(&said)["done"], &json(&said)["replaced"][0]), (0, &true.into(), &"stores".into()));
    assert!(!stores.exists() && data.join("rows").exists());
    Broker::start(&data).terminate();
    assert_eq!(tlog(&["check"], &data).0, 0);
}

#[test]
fn a_ledger_that_is_wrong_is_named_and_made_again() {
    let (_dir, data) = folder();
    let ledger = data.join("ledger");
    {
        let db = rocksdb_open(&ledger);
        db.put(b"g\0\0\x01nobody", b"?").unwrap();
        db.flush().unwrap();
    }
    let (code, said, error) = tlog(&["check"], &data);
    assert_eq!(code, 3, "{said}{error}");
    assert!(said.contains("nobody): nothing in the log says so"), "{said}");
    let (_, said, _) = tlog(&["check", "--json"], &data);
    let faults = json(&said)["derived_faults"].as_array().unwrap().clone();
    assert!(faults.len() == 1 && faults[0]["kind"] == "ledger" && faults[0]["key"].is_string());
    let (code, said, _) = tlog(&["repair", "--json"], &data);
    assert_eq!((code, &json(&said)["done"], &json(&said)["replaced"]), (0, &true.into(), &json("[\"ledger\"]")));
    assert!(!ledger.exists() && data.join("stores").exists());
    Broker::start(&data).terminate();
    assert_eq!(tlog(&["check"], &data).0, 0);
}

fn rocksdb_open(dir: &Path) -> rocksdb::DB {
    rocksdb::DB::open(&rocksdb::Options::default(), dir).unwrap()
}

#[test]
fn a_folder_in_use_or_of_something_else_is_refused() {
    let (dir, data) = folder();
    let broker = Broker::start(&data);
    for command in ["check", "repair"] {
        let (code, _, error) = tlog(&[command], &data);
        assert_eq!((code, error), (1, format!("tlog: {} is in use by another tlog process\n", data.display())));
        assert_eq!(tlog(&[command], &dir.path().join("nothing")).0, 1);
    }
    assert!(!dir.path().join("nothing").exists());
    broker.terminate();
}
