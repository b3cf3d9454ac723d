//! A log with losses in it: what stands around them is read, found and continued as if nothing were
//! missing, and nothing that was lost is given out again.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use support::{append, batch, create, open, producer};
use tlog::{Append, AppendError, Disk, Log, Namespace, OpenError, Options, SharedFrame};
use wire::loss::Known;
use wire::{Frame, Loss, NamespaceId, Shard};

fn options() -> Options {
    Options { partitions: 1, segment_bytes: 4096, ..Options::default() }
}

/// The segments of the only partition, by base.
fn segments(dir: &Path) -> Vec<PathBuf> {
    let files = std::fs::read_dir(dir.join("partitions/000")).unwrap().map(|entry| entry.unwrap().path());
    let mut logs: Vec<PathBuf> = files.filter(|path| path.extension().is_some_and(|e| e == "log")).collect();
    logs.sort();
    logs
}

/// The frames of a segment's file, and where each stands in it.
fn frames(bytes: &[u8]) -> Vec<(Range<usize>, Frame)> {
    let mut found = Vec::new();
    let mut at = 64;
    while let Some(Ok(length)) = bytes.get(at..).filter(|rest| rest.len() >= 12).map(Frame::length) {
        found.push((at..at + length, Frame::decode(bytes[at..at + length].to_vec().into()).unwrap()));
        at += length;
    }
    found
}

fn of(lost: &Frame, known: Known) -> Loss {
    Loss {
        position: lost.position(),
        length: lost.len(),
        namespace: lost.namespace(),
        generation: lost.generation(),
        base_offset: lost.base_offset(),
        count: lost.record_count(),
        time_micros: lost.time_micros(),
        known,
    }
}

/// Puts losses where `lose` says so, and removes all that is derived.
fn lose(dir: &Path, lose: impl Fn(&Frame) -> Option<Loss>) {
    for path in segments(dir) {
        let mut bytes = std::fs::read(&path).unwrap();
        for (place, frame) in frames(&bytes) {
            if let Some(loss) = lose(&frame) {
                bytes[place].copy_from_slice(loss.encode().unwrap().bytes());
            }
        }
        std::fs::write(&path, &bytes).unwrap();
        let _ = std::fs::remove_file(path.with_extension("idx"));
    }
    std::fs::remove_dir_all(dir.join("rows")).unwrap();
}

fn is_record(frame: &Frame, offsets: Range<u64>) -> bool {
    frame.namespace() != NamespaceId::CONTROL && offsets.contains(&frame.base_offset())
}

fn unlisted(frame: &Frame) -> Loss {
    of(frame, Known::Counters { unlisted: frame.record_count(), listed: Vec::new() })
}

fn read(log: &Log, namespace: &Namespace, from: u64) -> Vec<Arc<SharedFrame>> {
    let mut reader = log.reader(namespace, from).unwrap();
    let mut frames = Vec::new();
    loop {
        let more = reader.read_blocking(1000).unwrap();
        if more.is_empty() {
            return frames;
        }
        frames.extend(more);
    }
}

fn named(log: &Log, name: &str) -> Namespace {
    log.namespace(name).unwrap().unwrap()
}

/// Thirty records of `orders`, between them some of `others`, over several segments.
async fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), &Arc::new(Disk), options()).unwrap();
    let (orders, others) = (create(&log, "orders").await, create(&log, "others").await);
    for n in 0..30 {
        append(&log, &orders, &[&format!("{n}{}", "x".repeat(400))]).await.unwrap();
        append(&log, &others, &[&n.to_string()]).await.unwrap();
    }
    log.close();
    assert!(segments(dir.path()).len() > 3);
    dir
}

#[tokio::test]
async fn offsets_go_on_over_a_loss_from_wherever_a_reader_comes() {
    let dir = folder().await;
    let whole = {
        let log = open(dir.path(), &Arc::new(Disk), options()).unwrap();
        (read(&log, &named(&log, "orders"), 0), read(&log, &named(&log, "others"), 0))
    };
    let orders = whole.0[0].namespace();
    let lost = |frame: &Frame| frame.namespace() == orders && is_record(frame, 4..20);
    lose(dir.path(), |frame| lost(frame).then(|| unlisted(frame)));
    for start in 0..3 {
        if start == 2 {
            std::fs::remove_dir_all(dir.path().join("rows")).unwrap();
        }
        let log = open(dir.path(), &Arc::new(Disk), options()).unwrap();
        let found = read(&log, &named(&log, "orders"), 0);
        assert_eq!(found.len(), 30 + start, "start {start}");
        for (before, after) in whole.0.iter().zip(&found) {
            assert_eq!(after.base_offset(), before.base_offset());
            assert_eq!(after.is_loss(), lost(before));
            assert!(lost(before) || before.bytes() == after.bytes());
        }
        for from in 0..30 {
            assert_eq!(read(&log, &named(&log, "orders"), from)[0].base_offset(), from);
            let behind = log.position_behind(&named(&log, "orders"), from).unwrap();
            assert_eq!(behind, Some(whole.0[from as usize].end()));
        }
        let others = read(&log, &named(&log, "others"), 0);
        assert!(others.iter().zip(&whole.1).all(|(a, b)| a.bytes() == b.bytes()), "the others are what they were");
        let mut scan = log.scan(0, 0);
        let mut records = 0;
        while let Some(frame) = scan.read_blocking(1).unwrap().first() {
            records += u64::from(frame.record_count());
        }
        assert_eq!(records, log.watermark(0).borrow().records);
        let appended = append(&log, &named(&log, "orders"), &["more"]).await.unwrap().frame;
        assert_eq!(appended.base_offset(), 30 + start as u64);
        let id = appended.records().next().unwrap().id;
        let given = whole.0.iter().flat_map(|frame| frame.records()).any(|record| record.id == id);
        assert!(!given, "no id is given twice");
    }
}

#[tokio::test]
async fn what_only_fills_is_stepped_over() {
    let dir = folder().await;
    let whole = {
        let log = open(dir.path(), &Arc::new(Disk), options()).unwrap();
        read(&log, &named(&log, "orders"), 0)
    };
    // The last record of a segment and the first of the next, which nothing continues.
    lose(dir.path(), |frame| {
        let last = frame.namespace() == whole[0].namespace() && frame.base_offset() == 29;
        let nothing = Known::nothing(NamespaceId::CONTROL);
        let fill =
            Loss { namespace: NamespaceId::CONTROL, generation: 0, base_offset: 2, count: 0, ..of(frame, nothing) };
        last.then_some(fill)
    });
    let log = open(dir.path(), &Arc::new(Disk), options()).unwrap();
    assert_eq!(read(&log, &named(&log, "orders"), 0).len(), 29);
    assert_eq!(append(&log, &named(&log, "orders"), &["x"]).await.unwrap().frame.base_offset(), 29);
    assert_eq!(create(&log, "new").await.id(), NamespaceId::new(3).unwrap());
    log.close();
    drop(log);
    std::fs::remove_dir_all(dir.path().join("rows")).unwrap();
    let log = open(dir.path(), &Arc::new(Disk), options()).unwrap();
    assert_eq!(read(&log, &named(&log, "orders"), 0).len(), 30);
    assert!(log.namespace("new").unwrap().is_some());
}

#[tokio::test]
async fn what_a_control_loss_knows_is_so_again() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), &Arc::new(Disk), options()).unwrap();
    let (orders, gone) = (create(&log, "orders").await, create(&log, "gone").await);
    append(&log, &orders, &["kept"]).await.unwrap();
    log.delete(&gone).await.unwrap();
    create(&log, "after").await;
    // Of the same bytes, so of the same shard: the log's own records are counted as others are.
    let again = create(&log, "again").await;
    log.delete(&again).await.unwrap();
    log.close();
    drop(log);
    lose(dir.path(), |frame| {
        let values = frame.records().map(|record| bytes::Bytes::copy_from_slice(record.value)).collect();
        let control = frame.namespace() == NamespaceId::CONTROL && frame.base_offset() != 1;
        control.then(|| of(frame, Known::Events(values)))
    });
    let log = open(dir.path(), &Arc::new(Disk), options()).unwrap();
    let frames = read(&log, &named(&log, "orders"), 0);
    assert_eq!(support::values(&[frames[0].frame().clone()]), ["kept"]);
    assert_eq!(log.namespace("gone").unwrap(), None);
    assert_eq!(create(&log, "new").await.id().get(), again.id().get() + 1);
}

#[tokio::test]
async fn a_retry_of_what_was_lost_is_never_answered_with_another_place() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), &Arc::new(Disk), options()).unwrap();
    let orders = create(&log, "orders").await;
    let send = async |log: &Log, sequence: u64| {
        let draft = batch(&[&sequence.to_string()]);
        log.append(&named(log, "orders"), Append { producer: producer(0, sequence), ..Append::new(draft) }).await
    };
    for sequence in 0..6 {
        send(&log, sequence).await.unwrap();
    }
    log.close();
    drop((log, orders));
    lose(dir.path(), |frame| is_record(frame, 2..4).then(|| unlisted(frame)));
    let log = open(dir.path(), &Arc::new(Disk), options()).unwrap();
    for lost in 0..4 {
        assert!(matches!(send(&log, lost).await, Err(AppendError::ProducerForgotten { .. })), "{lost}");
    }
    for kept in 4..6 {
        let again = send(&log, kept).await.unwrap();
        assert!(again.duplicate && again.frame.base_offset() == kept);
    }
    assert_eq!(send(&log, 6).await.unwrap().frame.base_offset(), 6);
}

#[tokio::test]
async fn a_loss_that_does_not_follow_is_damage() {
    let dir = folder().await;
    for (wrong, reason) in [
        (Box::new(|loss| Loss { base_offset: 7, ..loss }) as Box<dyn Fn(Loss) -> Loss>, "offset 7 where 3 is due"),
        (Box::new(|loss| Loss { generation: 2, ..loss }), "generation 2 in a namespace of 1"),
        (Box::new(|loss| Loss { namespace: NamespaceId::new(99).unwrap(), ..loss }), "namespace 99 does not exist"),
        (
            Box::new(|loss| Loss { known: Known::Counters { unlisted: 0, listed: vec![(Shard(1), 9)] }, ..loss }),
            "shard 1 has 9 of 4 records",
        ),
    ] {
        let copy = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(copy.path().join("partitions/000")).unwrap();
        std::fs::create_dir_all(copy.path().join("rows")).unwrap();
        std::fs::copy(dir.path().join("tlog.json"), copy.path().join("tlog.json")).unwrap();
        for path in segments(dir.path()) {
            std::fs::copy(&path, copy.path().join("partitions/000").join(path.file_name().unwrap())).unwrap();
        }
        lose(copy.path(), |frame| {
            let third = frame.namespace() == NamespaceId::new(1).unwrap() && frame.base_offset() == 3;
            third.then(|| wrong(unlisted(frame)))
        });
        match open(copy.path(), &Arc::new(Disk), options()).unwrap_err() {
            OpenError::Damaged { reason: said, .. } => assert_eq!(said, reason),
            other => panic!("{other}"),
        }
    }
}
