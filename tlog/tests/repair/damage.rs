//! Each way of damage by itself.

use std::fs;

use tlog::check::FaultKind;
use tlog::repair::RepairError;
use tlog::{Disk, OpenError};
use wire::{Frame, NamespaceId};

use crate::site::{Site, kinds, named, options, read, snapshot};
use crate::support::open;

/// A frame of a user's namespace that is not the last of its segment.
fn middle(site: &Site, partition: u16, segment: usize) -> Frame {
    let segments = site.segments(partition);
    let begin = segments[segment].0;
    let end = segments.get(segment + 1).map_or(u64::MAX, |(base, _)| *base);
    let frames = site.frames[usize::from(partition)].iter();
    let within: Vec<_> = frames.filter(|frame| (begin..end).contains(&frame.position())).collect();
    let users = within[..within.len() - 1]
        .iter()
        .filter(|frame| site.written.values().any(|written| written.id == frame.namespace()));
    (*users.clone().nth(users.count() / 2).unwrap()).clone()
}

#[tokio::test]
async fn a_folder_that_is_whole_needs_no_repair() {
    let site = Site::new(1).await;
    let report = site.check();
    assert!(report.is_clean() && report.marked.is_empty(), "{report:#?}");
    assert_eq!(site.repair().unwrap(), None);
    assert!(!site.path().join("aside").exists());
    site.judge(&Default::default(), true).await;
}

#[tokio::test]
async fn a_bit_flip_in_any_segment() {
    for (partition, sealed, rows) in [(0, true, true), (0, false, true), (1, true, false), (1, false, false)] {
        let site = Site::new(2).await;
        let last = site.segments(partition).len() - 1;
        let frame = middle(&site, partition, if sealed { 1 } else { last });
        let at = frame.position() + 130;
        site.overwrite(partition, at..at + 1, |byte| byte ^ 4);
        if !rows {
            site.delete_rows();
        }
        let report = site.check();
        assert_eq!(kinds(&report), [FaultKind::Frames]);
        let fault = &report.faults[0];
        assert_eq!(
            (fault.position, fault.end, &fault.file),
            (frame.position(), frame.end(), &site.place(partition, at).0)
        );
        assert_eq!(fault.lost.len(), 1, "{fault:?}");
        assert_eq!((fault.lost[0].from, fault.lost[0].to), (frame.base_offset(), frame.next_offset()));
        assert!(matches!(fault.lost[0].name.as_deref(), Some(name) if name.starts_with("ns/")));
        let destroyed = site.touched(partition, &(at..at + 1));
        let repaired = site.judge(&destroyed, rows).await.unwrap();
        assert_eq!(repaired.lost.len(), 1);
        let marked = site.check().marked;
        assert_eq!((marked.len(), marked[0].from, marked[0].to), (1, frame.base_offset(), frame.next_offset()));
    }
}

#[tokio::test]
async fn zeros_over_several_namespaces() {
    for rows in [true, false] {
        let site = Site::new(3).await;
        let (base, _) = site.segments(0)[1];
        let range = base + 700..base + 2500;
        let destroyed = site.touched(0, &range);
        assert!(destroyed.len() > 3);
        site.overwrite(0, range, |_| 0);
        if !rows {
            site.delete_rows();
        }
        site.judge(&destroyed, rows).await;
    }
}

#[tokio::test]
async fn a_misdirected_block() {
    let site = Site::new(4).await;
    let (path, _) = site.place(0, 0);
    let mut bytes = fs::read(&path).unwrap();
    let before = bytes.clone();
    bytes.copy_within(512..1024, 2048);
    let changed = (0..bytes.len()).filter(|at| bytes[*at] != before[*at]).map(|at| at as u64 - 64);
    let destroyed = changed.flat_map(|position| site.touched(0, &(position..position + 1))).collect();
    fs::write(&path, bytes).unwrap();
    site.judge(&destroyed, true).await;
}

#[tokio::test]
async fn two_regions_in_one_segment_and_one_in_another() {
    for rows in [true, false] {
        let site = Site::new(5).await;
        let segments = site.segments(1);
        let mut destroyed = site.touched(1, &(segments[0].0 + 800..segments[0].0 + 801));
        for at in [segments[0].0 + 800, segments[0].0 + 2600, segments[2].0 + 1500] {
            destroyed.extend(site.touched(1, &(at..at + 1)));
            site.overwrite(1, at..at + 1, |byte| !byte);
        }
        if !rows {
            site.delete_rows();
        }
        assert!(destroyed.len() >= 3);
        assert_eq!(site.check().faults.len(), 3);
        site.judge(&destroyed, rows).await;
    }
}

#[tokio::test]
async fn a_missing_segment_with_and_without_its_index() {
    for (segment, index, rows) in
        [(1, true, true), (1, false, true), (1, false, false), (0, true, true), (0, false, true), (0, true, false)]
    {
        let site = Site::new(6).await;
        let segments = site.segments(0);
        let range = segments[segment].0..segments[segment + 1].0;
        let destroyed = site.touched(0, &range);
        fs::remove_file(&segments[segment].1).unwrap();
        if !index {
            fs::remove_file(segments[segment].1.with_extension("idx")).unwrap();
        }
        if !rows {
            site.delete_rows();
        }
        let report = site.check();
        let kind = if index || segment == 0 { FaultKind::Segment } else { FaultKind::Frames };
        assert!(
            report.faults.iter().any(|fault| fault.kind == kind || fault.reason.contains("too early")),
            "{report:#?}"
        );
        site.judge(&destroyed, rows).await;
    }
}

#[tokio::test]
async fn a_sealed_segment_that_is_cut_off() {
    for length in [0, 20, 64, 700, 2000] {
        let site = Site::new(7).await;
        let segments = site.segments(0);
        let file = fs::OpenOptions::new().write(true).open(&segments[1].1).unwrap();
        file.set_len(length).unwrap();
        let from = segments[1].0 + length.saturating_sub(64);
        let destroyed = site.touched(0, &(from..segments[2].0));
        site.judge(&destroyed, true).await;
    }
}

#[tokio::test]
async fn an_end_that_the_rows_know_and_the_log_has_lost() {
    for missing in [true, false] {
        let site = Site::new(8).await;
        let (base, path) = site.segments(0).pop().unwrap();
        let from = if missing { base } else { base + 300 };
        let destroyed = site.touched(0, &(from..site.ends[0]));
        assert!(!destroyed.is_empty());
        if missing {
            fs::remove_file(&path).unwrap();
        } else {
            site.overwrite(0, from..site.ends[0], |_| 0);
        }
        assert!(matches!(
            open(site.path(), &std::sync::Arc::new(Disk), options()),
            Err(OpenError::RowsAhead { .. } | OpenError::Damaged { .. })
        ));
        site.judge(&destroyed, true).await;
    }
}

#[tokio::test]
async fn a_creation_that_is_lost_comes_back_by_its_name_or_by_one_that_says_so() {
    for rows in [true, false] {
        let site = Site::new(9).await;
        let control = site.frames[0].iter().find(|frame| frame.namespace() == NamespaceId::CONTROL).unwrap().clone();
        let at = control.position() + 140;
        let destroyed = site.touched(0, &(at..at + 1));
        site.overwrite(0, at..at + 1, |byte| byte ^ 1);
        if !rows {
            site.delete_rows();
        }
        site.judge(&destroyed, rows).await;
        let log = site.open();
        let made_up: Vec<_> = log.list("lost-", None, 10).unwrap();
        assert_eq!(made_up.len(), usize::from(!rows));
        if let [made_up] = &made_up[..] {
            let written = site.written.values().find(|written| written.id == made_up.id());
            if let Some(written) = written {
                let found = read(&log, made_up, 0);
                assert!(found.iter().zip(&written.frames).all(|(found, frame)| found.bytes() == frame.bytes()));
            }
        }
    }
}

#[tokio::test]
async fn what_is_derived_is_made_again() {
    let site = Site::new(10).await;
    let (_, path) = &site.segments(0)[1];
    let index = path.with_extension("idx");
    let whole = fs::read(&index).unwrap();
    let mut bytes = whole.clone();
    bytes[100] ^= 1;
    fs::write(&index, &bytes).unwrap();
    let other = site.segments(1)[0].1.with_extension("idx");
    fs::remove_file(&other).unwrap();
    fs::write(site.path().join("tlog.json"), "{").unwrap();
    let report = site.check();
    assert!(report.faults.is_empty());
    assert_eq!(kinds(&report), [FaultKind::Description, FaultKind::Index, FaultKind::Index]);
    let repaired = site.judge(&Default::default(), true).await.unwrap();
    assert_eq!(
        repaired.moved,
        ["partitions/000/".to_owned() + index.file_name().unwrap().to_str().unwrap(), "tlog.json".to_owned()]
    );
    assert!(fs::read(&index).unwrap() == whole && other.exists());
    assert!(fs::read(repaired.aside.join(&repaired.moved[0])).unwrap() == bytes);

    fs::remove_file(site.path().join("tlog.json")).unwrap();
    assert!(matches!(open(site.path(), &std::sync::Arc::new(Disk), options()), Err(OpenError::Description { .. })));
    let second = site.judge(&Default::default(), true).await.unwrap();
    assert!(second.aside.ends_with("aside/2") && second.moved.is_empty());
}

#[tokio::test]
async fn a_segment_header_that_is_not_its_own() {
    for last in [false, true] {
        let site = Site::new(11).await;
        let segments = site.segments(0);
        let (_, path) = if last { segments.last().unwrap() } else { &segments[1] };
        let mut bytes = fs::read(path).unwrap();
        bytes[13] ^= 1;
        fs::write(path, bytes).unwrap();
        assert_eq!(kinds(&site.check()), [FaultKind::Header]);
        site.judge(&Default::default(), true).await;
    }
}

#[tokio::test]
async fn rows_that_are_not_what_the_log_amounts_to() {
    let site = Site::new(12).await;
    let name = site.written.keys().next().unwrap().clone();
    let id = site.written[&name].id;
    let rows = site.path().join("rows");
    let alter = |change: &dyn Fn(&rocksdb::DB)| {
        let db = rocksdb::DB::open(&rocksdb::Options::default(), &rows).unwrap();
        change(&db);
        db.flush().unwrap();
    };
    let [a, b, c] = id.to_be_bytes();
    let (head, info) = ([b'h', a, b, c], [b'i', a, b, c]);
    alter(&|db| {
        let mut row = db.get(head).unwrap().unwrap();
        row[4] += 1;
        db.put(head, row).unwrap();
        db.delete(info).unwrap();
        db.put(b"nnobody", [0, 0, 9]).unwrap();
    });
    let report = site.check();
    assert_eq!(kinds(&report), [FaultKind::Rows; 3]);
    let keys: Vec<_> =
        report.derived_faults.iter().map(|fault| (fault.key.clone().unwrap(), fault.reason.as_str())).collect();
    assert_eq!(keys[2], ("nnobody".to_owned(), "nothing in the log says so"));
    assert_eq!((keys[0].1, keys[1].1), ("it is not what the log amounts to", "it is missing"));
    let repaired = site.judge(&Default::default(), true).await.unwrap();
    assert_eq!(repaired.moved, ["rows"]);

    let sst = snapshot(&rows).into_keys().find(|path| path.extension().is_some_and(|e| e == "sst")).unwrap();
    let mut bytes = fs::read(&sst).unwrap();
    let at = bytes.len() / 3;
    bytes[at] ^= 0xff;
    fs::write(&sst, &bytes).unwrap();
    let report = site.check();
    assert!(report.faults.is_empty() && kinds(&report).contains(&FaultKind::Rows), "{report:#?}");
    site.judge(&Default::default(), true).await;
    site.delete_rows();
    assert!(site.check().is_clean(), "rows that are not there are made at the next start");
}

#[tokio::test]
async fn a_torn_tail_is_left_to_the_start() {
    let site = Site::new(13).await;
    site.delete_rows();
    let last = site.frames[0].last().unwrap().clone();
    let at = last.end() - 1;
    site.overwrite(0, at..at + 1, |byte| byte ^ 1);
    let report = site.check();
    assert!(report.is_clean() && report.torn_bytes > 0, "{report:#?}");
    assert_eq!(site.repair().unwrap(), None);
}

#[tokio::test]
async fn damaged_again_after_a_repair() {
    let site = Site::new(14).await;
    let first = middle(&site, 0, 1);
    let mut destroyed = site.touched(0, &(first.position()..first.position() + 1));
    site.overwrite(0, first.position()..first.position() + 1, |_| 0);
    site.repair().unwrap().unwrap();
    let second = middle(&site, 0, 2);
    destroyed.extend(site.touched(0, &(second.position()..second.position() + 1)));
    // The loss itself is damaged as well.
    site.overwrite(0, first.position() + 100..first.position() + 101, |byte| byte ^ 1);
    site.overwrite(0, second.position()..second.position() + 1, |_| 0);
    let repaired = site.judge(&destroyed, false).await.unwrap();
    assert!(repaired.aside.ends_with("aside/2"));
}

#[tokio::test]
async fn what_is_not_a_data_folder_is_refused_and_nothing_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let refused = tlog::repair::Plan::make(&Disk, dir.path(), None, &mut |_, _| {}, &mut |_| {});
    assert!(matches!(refused.map(drop), Err(RepairError::Open(OpenError::Io { .. }))));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    let site = Site::new(15).await;
    let log = site.open();
    let refused = tlog::repair::Plan::make(&Disk, site.path(), None, &mut |_, _| {}, &mut |_| {});
    assert!(matches!(refused.map(drop), Err(RepairError::Open(OpenError::Locked { .. }))));
    let _ = named(&log, site.written.keys().next().unwrap());
}
