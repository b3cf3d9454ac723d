//! Recovery: what a crash leaves is cut, what it can't have left is damage (invariant 5).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use support::{append, batch, create, open, read_all, values};
use tlog::{Append, Disk, OpenError, Options};
use wire::{Draft, Frame, NamespaceId, NewRecord, Place};

fn options() -> Options {
    Options { partitions: 1, segment_bytes: 64 << 10, ..Options::default() }
}

fn segment(dir: &Path) -> PathBuf {
    dir.join("partitions/000/00000000000000000000.log")
}

/// A folder whose log holds `n` values `0`, `1`, …, each a commit of its own, and where each frame ends
/// in its file. The rows are removed: what they stand for is another test's matter.
async fn folder_with(n: usize) -> (tempfile::TempDir, Vec<usize>) {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), &Arc::new(Disk), options()).unwrap();
    let orders = create(&log, "orders").await;
    let mut ends = Vec::new();
    for value in 0..n {
        let appended = append(&log, &orders, &[&value.to_string()]).await.unwrap();
        ends.push(64 + appended.frame.end() as usize);
    }
    drop(log);
    std::fs::remove_dir_all(dir.path().join("rows")).unwrap();
    (dir, ends)
}

fn reopen(dir: &Path) -> Result<Vec<String>, OpenError> {
    let log = open(dir, &Arc::new(Disk), options())?;
    let orders = log.namespace("orders").unwrap().unwrap();
    Ok(values(&read_all(&log, &orders)))
}

#[tokio::test]
async fn a_tail_that_is_torn_at_any_byte_is_cut_and_the_log_goes_on() {
    let (dir, ends) = folder_with(3).await;
    let path = segment(dir.path());
    let whole = std::fs::read(&path).unwrap();
    for cut in ends[1]..ends[2] {
        // The file is as long as ever, but the bytes from `cut` on never reached the disk.
        let mut torn = whole.clone();
        torn[cut..ends[2]].fill(0);
        if torn == whole {
            continue;
        }
        std::fs::write(&path, &torn).unwrap();
        let _ = std::fs::remove_dir_all(dir.path().join("rows"));
        assert_eq!(reopen(dir.path()).unwrap(), ["0", "1"], "torn at {cut}");
        let mut expected = whole.clone();
        expected[ends[1]..].fill(0);
        assert!(std::fs::read(&path).unwrap() == expected, "the rest is zeroed");
        assert_eq!(reopen(dir.path()).unwrap(), ["0", "1"]);
        assert!(std::fs::read(&path).unwrap() == expected, "recovery again changes nothing");
    }
}

#[tokio::test]
async fn what_was_cut_never_comes_back() {
    let (dir, ends) = folder_with(5).await;
    let path = segment(dir.path());
    let mut bytes = std::fs::read(&path).unwrap();
    // One commit of three frames, whose first did not reach the disk and whose others did: as if the
    // last three had been one write.
    let first = ends[1];
    for (at, end) in [(ends[2], ends[3]), (ends[3], ends[4])] {
        let distance = (at - first) as u32;
        bytes[at + 24..at + 28].copy_from_slice(&distance.to_le_bytes());
        let crc = crc32fast::hash(&bytes[at + 8..end]);
        bytes[at + 4..at + 8].copy_from_slice(&crc.to_le_bytes());
    }
    bytes[first..ends[2]].fill(0);
    std::fs::write(&path, &bytes).unwrap();
    let log = open(dir.path(), &Arc::new(Disk), options()).unwrap();
    let orders = log.namespace("orders").unwrap().unwrap();
    assert_eq!(values(&read_all(&log, &orders)), ["0", "1"]);
    // A frame of the same length takes the lost one's place, right before where the others stood.
    append(&log, &orders, &["x"]).await.unwrap();
    drop(log);
    assert_eq!(reopen(dir.path()).unwrap(), ["0", "1", "x"]);
}

#[tokio::test]
async fn damage_before_a_later_commit_is_an_error_that_names_the_place() {
    let (dir, ends) = folder_with(4).await;
    let path = segment(dir.path());
    let whole = std::fs::read(&path).unwrap();
    for at in (ends[0]..ends[1]).chain(ends[1]..ends[2]) {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x40;
        std::fs::write(&path, &damaged).unwrap();
        let frame = if at < ends[1] { ends[0] } else { ends[1] } as u64 - 64;
        match reopen(dir.path()).unwrap_err() {
            OpenError::Damaged { file, position, .. } => assert_eq!((file, position), (path.clone(), frame)),
            other => panic!("{other}"),
        }
        assert!(std::fs::read(&path).unwrap() == damaged, "nothing was changed");
    }
    std::fs::write(&path, &whole).unwrap();
    assert_eq!(reopen(dir.path()).unwrap(), ["0", "1", "2", "3"]);
}

#[tokio::test]
async fn damage_to_what_the_rows_stand_for_is_no_torn_tail() {
    let (dir, ends) = folder_with(3).await;
    let path = segment(dir.path());
    reopen(dir.path()).unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[ends[2] - 1] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    assert!(matches!(reopen(dir.path()), Err(OpenError::Damaged { .. })));
    bytes[ends[1]..].fill(0);
    std::fs::write(&path, &bytes).unwrap();
    let error = reopen(dir.path()).unwrap_err().to_string();
    assert!(error.contains("delete the folder, it is rebuilt from the log"), "{error}");
}

#[tokio::test]
async fn a_missing_segment_is_an_error_and_so_is_a_damaged_sealed_one_when_it_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let small = Options { segment_bytes: 4096, ..options() };
    let log = open(dir.path(), &Arc::new(Disk), small).unwrap();
    let orders = create(&log, "orders").await;
    for _ in 0..40 {
        append(&log, &orders, &[&"v".repeat(400)]).await.unwrap();
    }
    log.close();
    drop(log);
    let mut segments: Vec<PathBuf> = std::fs::read_dir(dir.path().join("partitions/000"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "log"))
        .collect();
    segments.sort();
    assert!(segments.len() > 3);

    let mut bytes = std::fs::read(&segments[1]).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&segments[1], &bytes).unwrap();
    let log = open(dir.path(), &Arc::new(Disk), small).unwrap();
    let orders = log.namespace("orders").unwrap().unwrap();
    let mut reader = log.reader(&orders, 0).unwrap();
    let error = std::iter::repeat_with(|| reader.read_blocking(1)).find_map(Result::err).unwrap();
    assert!(error.to_string().contains(segments[1].to_str().unwrap()), "{error}");
    drop((log, reader));
    let report = tlog::check::check(&Disk, dir.path(), |_| {}).unwrap();
    assert_eq!(report.faults.len(), 1, "{report:?}");
    assert_eq!(report.faults[0].file, segments[1]);

    bytes[middle] ^= 1;
    std::fs::write(&segments[1], &bytes).unwrap();
    let report = tlog::check::check(&Disk, dir.path(), |_| {}).unwrap();
    assert_eq!((report.faults.len(), report.derived_faults.len(), report.namespaces), (0, 0, 1), "{report:?}");
    assert_eq!((report.records, report.segments), (41, segments.len() as u64));
    std::fs::remove_file(&segments[2]).unwrap();
    let error = open(dir.path(), &Arc::new(Disk), small).unwrap_err().to_string();
    assert!(error.contains("the segment that begins here is missing"), "{error}");
    assert_eq!(tlog::check::check(&Disk, dir.path(), |_| {}).unwrap().faults.len(), 1);
}

#[tokio::test]
async fn zeros_in_a_sealed_segment_are_damage_to_that_segment_and_not_a_segment_that_is_missing() {
    let dir = tempfile::tempdir().unwrap();
    let small = Options { segment_bytes: 4096, ..options() };
    let log = open(dir.path(), &Arc::new(Disk), small).unwrap();
    let orders = create(&log, "orders").await;
    for _ in 0..30 {
        append(&log, &orders, &[&"v".repeat(400)]).await.unwrap();
    }
    log.close();
    drop(log);
    // A sector that was lost: all that follows in the segment is zeros, and the next one is there.
    let path = segment(dir.path());
    let mut bytes = std::fs::read(&path).unwrap();
    let from = bytes.len() / 2;
    bytes[from..].fill(0);
    std::fs::write(&path, &bytes).unwrap();
    let report = tlog::check::check(&Disk, dir.path(), |_| {}).unwrap();
    assert_eq!(report.faults.first().map(|fault| &fault.file), Some(&path), "{report:?}");
    // Whole frames are left, and nothing else.
    let end = 64 + report.faults[0].position as usize;
    bytes[end..].fill(0);
    std::fs::write(&path, &bytes).unwrap();
    let report = tlog::check::check(&Disk, dir.path(), |_| {}).unwrap();
    assert_eq!(report.faults.first().map(|fault| &fault.file), Some(&path), "{report:?}");
    assert_eq!(64 + report.faults[0].position as usize, end);
}

#[tokio::test]
async fn a_segment_cut_before_where_a_scan_begins_is_an_error_that_names_the_place() {
    let dir = tempfile::tempdir().unwrap();
    let small = Options { segment_bytes: 4096, tail_bytes: 0, ..options() };
    let log = open(dir.path(), &Arc::new(Disk), small).unwrap();
    let orders = create(&log, "orders").await;
    let mut position = 0;
    for _ in 0..20 {
        let appended = append(&log, &orders, &[&"v".repeat(400)]).await.unwrap();
        if appended.frame.end() < 3000 {
            position = appended.frame.end();
        }
    }
    log.close();
    drop(log);
    // A consumer stands in the midst of a sealed segment of which only the beginning is left.
    let log = open(dir.path(), &Arc::new(Disk), small).unwrap();
    std::fs::OpenOptions::new().write(true).open(segment(dir.path())).unwrap().set_len(1000).unwrap();
    let error = log.scan(0, position).read_blocking(1).unwrap_err().to_string();
    assert!(error.contains(&format!("damaged at position {position}: the segment ends too early")), "{error}");
}

#[tokio::test]
async fn a_tail_full_of_what_looks_like_frames_is_judged_in_time() {
    let (dir, ends) = folder_with(3).await;
    let path = segment(dir.path());
    let mut bytes = std::fs::read(&path).unwrap();
    bytes.truncate(ends[2]);
    // Each says that it is 8 MiB long: to take the CRC of each would take an hour.
    let fake = [b"TLGF\0\0\0\0".as_slice(), &(8u32 << 20).to_le_bytes()].concat();
    bytes.extend_from_slice(&fake.repeat((16 << 20) / fake.len()));
    std::fs::write(&path, &bytes).unwrap();
    assert_eq!(reopen(dir.path()).unwrap(), ["0", "1", "2"]);
}

#[tokio::test]
async fn a_namespace_that_is_created_twice_is_damage() {
    let (dir, ends) = folder_with(1).await;
    let path = segment(dir.path());
    let mut bytes = std::fs::read(&path).unwrap();
    let length = Frame::length(&bytes[64..]).unwrap();
    let created = Frame::decode(bytes[64..64 + length].to_vec().into()).unwrap();
    let value = created.records().next().unwrap().value;
    let position = ends[0] as u64 - 64;
    let place = Place {
        position,
        commit_start: position,
        namespace: NamespaceId::CONTROL,
        generation: 0,
        base_offset: 1,
        time_micros: 0,
        producer: None,
        chain: created.chain(),
    };
    let again = Draft::of(&NewRecord::bytes(value)).unwrap().place(&place, |_| 2);
    bytes[ends[0]..ends[0] + again.len()].copy_from_slice(again.bytes());
    std::fs::write(&path, &bytes).unwrap();
    match reopen(dir.path()).unwrap_err() {
        OpenError::Damaged { position: at, reason, .. } => {
            assert_eq!(at, position);
            assert!(reason.contains("is created and exists"), "{reason}");
        }
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn a_segment_that_was_just_made_is_taken_as_empty() {
    let (dir, ends) = folder_with(2).await;
    let path = segment(dir.path());
    let end = ends[1];
    let whole = std::fs::read(&path).unwrap();
    // As after a crash in the midst of a roll: the new file is there, its header is not.
    std::fs::write(&path, &whole[..end]).unwrap();
    let next = dir.path().join(format!("partitions/000/{:020}.log", end - 64));
    for header in [&[][..], &[0; 64], &[0; 4096]] {
        std::fs::write(&next, header).unwrap();
        let _ = std::fs::remove_file(path.with_extension("idx"));
        assert_eq!(reopen(dir.path()).unwrap(), ["0", "1"]);
    }
    let log = open(dir.path(), &Arc::new(Disk), options()).unwrap();
    let orders = log.namespace("orders").unwrap().unwrap();
    log.append(&orders, Append::new(batch(&["2"]))).await.unwrap();
    drop(log);
    assert_eq!(reopen(dir.path()).unwrap(), ["0", "1", "2"]);
}

#[test]
fn a_folder_of_another_format_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let description = dir.path().join("tlog.json");
    let error = |text: &str| {
        std::fs::write(&description, text).unwrap();
        open(dir.path(), &Arc::new(Disk), options()).unwrap_err().to_string()
    };
    assert!(error(r#"{"format":2,"partitions":1,"new":0}"#).ends_with("says format 2, this version reads format 1"));
    assert!(error("{").contains("is not the description of a TLog data folder"));
    assert!(error(r#"{"format":1,"partitions":3}"#).contains("power of two"));
    assert!(!dir.path().join("rows").exists());
}

#[tokio::test]
async fn a_sealed_segment_with_the_header_of_another_partition_is_not_read() {
    let dir = tempfile::tempdir().unwrap();
    let two = Options { partitions: 2, segment_bytes: 4096, tail_bytes: 0, ..Options::default() };
    let log = open(dir.path(), &Arc::new(Disk), two).unwrap();
    for name in ["a", "b", "c", "d", "e", "f"] {
        let namespace = create(&log, name).await;
        for _ in 0..20 {
            append(&log, &namespace, &[&"v".repeat(400)]).await.unwrap();
        }
    }
    log.close();
    drop(log);
    let first = |partition: &str| dir.path().join("partitions").join(partition).join("00000000000000000000.log");
    let mut bytes = std::fs::read(first("000")).unwrap();
    bytes[..64].copy_from_slice(&std::fs::read(first("001")).unwrap()[..64]);
    std::fs::write(first("000"), &bytes).unwrap();
    // Sealed segments are taken at the word of their indexes at a start, so it is found when it is read.
    let log = open(dir.path(), &Arc::new(Disk), two).unwrap();
    let error = log.scan(0, 0).read_blocking(1).unwrap_err().to_string();
    assert!(error.contains("damaged at position 0: the segment's header is not its own"), "{error}");
    assert!(log.scan(1, 0).read_blocking(1).is_ok());
}
