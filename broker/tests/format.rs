//! The format of a data folder: what version 1 wrote stays readable, and what a later version wrote is
//! refused in one line, and left as it is.
//!
//! `fixtures/format-1` is a folder as the first version wrote it, without what is derived (rows, stores)
//! and without the zeros behind the last frames.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use reqwest::{Client, StatusCode};
use serde_json::{Value, json};
use support::http::{self, Published};
use support::{Broker, client, eventually, folder, proof};
use tempfile::TempDir;

/// Bytes of a frame's header that these tests look at, see `wire::frame`.
const CRC: usize = 4;
const LENGTH: usize = 8;
const VERSION: usize = 12;

const ACTIVE: &str = "partitions/000/00000000000000006977.log";
const SEALED: &str = "partitions/000/00000000000000002963.log";

/// A copy of the fixture.
fn format_1() -> (TempDir, PathBuf) {
    let temporary = tempfile::tempdir().unwrap();
    let data = temporary.path().join("data");
    folder::copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/format-1"), &data);
    (temporary, data)
}

/// What is in the fixture: namespace, chain, records.
fn content() -> [(&'static str, &'static str, Value); 4] {
    let filler = |offset: u64, time: &str| {
        let value = format!("{offset}{}", ".".repeat(1200));
        json!({"offset": offset, "id": format!("9a0000060000000{}", offset + 1), "key": "f", "value": value, "time": time})
    };
    [
        (
            "orders",
            "e230d4705f88594b1ba5e222fa991f441c60a8e24526143d8f54ecddb854a72b",
            json!([
                {"offset": 0, "id": "0100000200000001", "key": "o-17", "value": {"item": "tea", "n": 2},
                    "headers": {"trace": "7", "who": "ä"}, "time": "2026-11-21T06:47:24.016064Z"},
                {"offset": 1, "id": "e800000200000001", "key": "o-18", "value": "text",
                    "time": "2026-11-21T06:47:24.041153Z"},
                {"offset": 2, "id": "6700000200000001", "value": [1, 2, 3], "time": "2026-11-21T06:47:24.041153Z"},
                {"offset": 3, "id": "0100000200000002", "key": "o-17", "value": null, "tombstone": true,
                    "time": "2026-11-21T06:47:24.041153Z"},
                {"offset": 4, "id": "d400000200000001", "key": "raw", "value_base64": "AAH+/w==",
                    "time": "2026-11-21T06:47:24.070467Z"},
                {"offset": 5, "id": "b600000200000001", "value": "plain text", "time": "2026-11-21T06:47:24.099725Z"},
                {"offset": 6, "id": "d400000200000002", "value": "again", "time": "2026-11-21T06:47:24.136273Z"},
            ]),
        ),
        (
            "gone",
            "67f3bc86c8625ce2d2c517116f996d48d239bb7cf8d2e28f8bff3ecb631b2947",
            json!([{"offset": 0, "id": "9700000800000001", "value": "second life",
                "time": "2026-11-21T06:47:24.382109Z"}]),
        ),
        (
            "filler",
            "a0ce536f451914d2c8a895f910675a283655e7ec5c07fda97b7c61b043002ef4",
            json!([
                filler(0, "2026-11-21T06:47:24.29682Z"),
                filler(1, "2026-11-21T06:47:24.321515Z"),
                filler(2, "2026-11-21T06:47:24.347875Z"),
                filler(3, "2026-11-21T06:47:24.370736Z"),
            ]),
        ),
        (
            "%C3%A4%2Fb",
            "c540954fed07dbeff16faf29d5d19cab443e6ec90d7658f5c1c2c926bc180876",
            json!([{"offset": 0, "id": "9300000100000001", "value": "named", "time": "2026-11-21T06:47:24.252798Z"}]),
        ),
    ]
}

async fn check_content(client: &Client, broker: &Broker) {
    for (name, chain, records) in content() {
        let url = broker.url(&format!("/v1/namespaces/{name}"));
        let page: Value = http::json(client.get(format!("{url}/records?from=0")).send().await.unwrap()).await;
        assert_eq!(page["records"], records, "{name}");
        assert_eq!(http::namespace(client, broker, name).await.chain, chain, "{name}");
        assert_eq!(proof::rebuild(client, broker, name).await.chain, chain, "{name}");
    }
    let listed: Value = http::json(client.get(broker.url("/v1/namespaces")).send().await.unwrap()).await;
    assert_eq!(listed["namespaces"].as_array().unwrap().len(), content().len());
    assert_eq!(listed["namespaces"][2]["config"], json!({"max_record_bytes": 65536}));
}

#[tokio::test]
async fn a_folder_of_format_1_is_read_record_by_record() {
    let (_temporary, data) = format_1();
    folder::check(&data);
    let broker = Broker::start(&data);
    let client = client();
    check_content(&client, &broker).await;
    // What is derived comes from the log: the stores, and what a producer has sent.
    eventually("the stores are level", || http::stores_are_level(&client, &broker)).await;
    let orders = broker.url("/v1/namespaces/orders");
    let key: Value = http::json(client.get(format!("{orders}/keys/o-18")).send().await.unwrap()).await;
    assert_eq!(key, content()[0].2[1]);
    let deleted = client.get(format!("{orders}/keys/o-17")).send().await.unwrap();
    http::expect(deleted, StatusCode::NOT_FOUND).await;
    for (value, sequence, offset) in [("again", 1, 6), ("plain text", 0, 5), ("new", 2, 7)] {
        let publish = client.post(format!("{orders}/records")).header("content-type", "text/plain").body(value);
        let publish =
            publish.header("producer-id", "till").header("producer-epoch", 3).header("producer-seq", sequence);
        let published: Published = http::json(publish.send().await.unwrap()).await;
        assert_eq!(published.first_offset, offset, "{value}");
    }
    assert!(broker.terminate().success());
    folder::check(&data);
}

#[tokio::test]
async fn five_recoveries_of_a_folder_of_format_1_leave_its_frames_as_they_are() {
    let (_temporary, data) = format_1();
    let before = folder::segments(&data);
    folder::tear(&data.join(ACTIVE));
    let client = client();
    for round in 0..5 {
        let broker = Broker::start(&data);
        check_content(&client, &broker).await;
        broker.kill();
        for (path, bytes) in folder::segments(&data) {
            let frames = &bytes[..bytes.len().min(before[&path].len())];
            assert!(frames == before[&path], "round {round}: {} is another", path.display());
            assert!(bytes[frames.len()..].iter().all(|byte| *byte == 0), "the torn tail is left");
        }
    }
    folder::check(&data);
}

/// Starts a broker on a folder that it must refuse, in one line, without changing any of these files.
fn refused(data: &Path, files: impl Fn(&Path) -> folder::Files) -> String {
    let before = files(data);
    let ended = Broker::try_start(Broker::command(data, &[])).expect_err("it is refused");
    assert_eq!(ended.status.code(), Some(1), "{}", ended.log);
    let lines: Vec<&str> = ended.log.lines().collect();
    let [line] = lines[..] else { panic!("it is not one line: {}", ended.log) };
    assert!(files(data) == before, "it was changed");
    line.to_owned()
}

#[test]
fn a_later_format_is_refused_and_left_as_it_is() {
    let (_temporary, data) = format_1();
    let description = data.join("tlog.json");
    fs::write(&description, r#"{"format":2,"partitions":2,"compression":"zstd"}"#).unwrap();
    let said = refused(&data, folder::files);
    assert_eq!(said, format!("tlog: {} says format 2, this version reads format 1", description.display()));
}

#[test]
fn an_unknown_field_of_the_description_is_refused_and_named() {
    let (_temporary, data) = format_1();
    let description = data.join("tlog.json");
    fs::write(&description, r#"{"format":1,"partitions":2,"encrypted":true}"#).unwrap();
    let said = refused(&data, folder::files);
    assert!(said.contains(description.to_str().unwrap()) && said.contains("unknown field `encrypted`"), "{said}");
}

/// Makes a frame one of version 2, with the right CRC. Answers its position.
fn of_version_2(segment: &Path, frame: usize) -> usize {
    let mut bytes = fs::read(segment).unwrap();
    let mut at = folder::SEGMENT_HEADER_BYTES;
    let length =
        |bytes: &[u8], at: usize| u32::from_le_bytes(bytes[at + LENGTH..at + LENGTH + 4].try_into().unwrap()) as usize;
    (0..frame).for_each(|_| at += length(&bytes, at));
    bytes[at + VERSION] = 2;
    let crc = crc32fast::hash(&bytes[at + LENGTH..at + length(&bytes, at)]);
    bytes[at + CRC..at + CRC + 4].copy_from_slice(&crc.to_le_bytes());
    fs::write(segment, bytes).unwrap();
    let base: usize = segment.file_stem().unwrap().to_str().unwrap().parse().unwrap();
    base + at - folder::SEGMENT_HEADER_BYTES
}

#[test]
fn a_frame_of_a_later_version_is_refused_and_never_cut() {
    // The last frame of all looks most like a torn tail.
    for (segment, frame) in [(ACTIVE, 0), (ACTIVE, 1), (SEALED, 0), (SEALED, 2)] {
        let (_temporary, data) = format_1();
        let path = data.join(segment);
        let position = of_version_2(&path, frame);
        let said = refused(&data, folder::segments);
        assert!(said.contains(path.to_str().unwrap()) && said.contains("version 2"), "{said}");
        assert!(said.contains(&format!("position {position}")), "{said}");
    }
}

#[test]
fn a_frame_of_a_later_version_behind_rubbish_is_not_taken_for_a_torn_tail() {
    let (_temporary, data) = format_1();
    let path = data.join(ACTIVE);
    of_version_2(&path, 1);
    let mut bytes = fs::read(&path).unwrap();
    bytes[folder::SEGMENT_HEADER_BYTES + 20] ^= 1;
    fs::write(&path, bytes).unwrap();
    let said = refused(&data, folder::segments);
    assert!(said.contains(path.to_str().unwrap()) && said.contains("position 6977"), "{said}");
}
