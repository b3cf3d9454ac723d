//! The log as its users meet it: appends, conditions, retries, reads, rolls, restarts.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::sync::Arc;

use bytes::Bytes;
use support::{append, batch, create, open, producer, read_all, small, values};
use tlog::{Append, AppendError, ControlEvent, Disk, Memory, ReadError};
use wire::limits::MAX_EVENT_BYTES;
use wire::{NamespaceConfig, NamespaceId, NamespaceName};

#[tokio::test]
async fn a_batch_is_one_frame_and_offsets_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), &Arc::new(Disk), small()).unwrap();
    let orders = create(&log, "orders").await;
    let first = append(&log, &orders, &["a", "b", "c"]).await.unwrap();
    let second = append(&log, &orders, &["d"]).await.unwrap();
    assert_eq!((first.frame.base_offset(), first.frame.next_offset()), (0, 3));
    assert_eq!((second.frame.base_offset(), second.frame.next_offset()), (3, 4));
    let frames = read_all(&log, &orders);
    assert_eq!(frames.len(), 2);
    assert_eq!(values(&frames), ["a", "b", "c", "d"]);
    assert!(matches!(log.reader(&orders, 5), Err(ReadError::PastHead { next_offset: 4 })));
    let mut in_mid_frame = log.reader(&orders, 2).unwrap();
    assert_eq!(values(&[in_mid_frame.read_blocking(1).unwrap()[0].frame().clone()]), ["a", "b", "c"]);
    assert_eq!(in_mid_frame.offset(), 3);
}

#[tokio::test]
async fn a_condition_on_the_offset_holds_or_refuses() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), &Arc::new(Memory::new()), small()).unwrap();
    let orders = create(&log, "orders").await;
    let conditional = |at| Append { if_next_offset: Some(at), ..Append::new(batch(&["x", "y"])) };
    log.append(&orders, conditional(0)).await.unwrap();
    let stale = log.append(&orders, conditional(0)).await;
    assert!(matches!(stale, Err(AppendError::OffsetMismatch { next_offset: 2 })));
    log.append(&orders, conditional(2)).await.unwrap();
    assert_eq!(read_all(&log, &orders).len(), 2);
}

#[tokio::test]
async fn a_retry_is_stored_once_across_a_restart_and_a_loss_of_the_rows() {
    let dir = tempfile::tempdir().unwrap();
    let storage = Arc::new(Disk);
    let log = open(dir.path(), &storage, small()).unwrap();
    let orders = create(&log, "orders").await;
    let send = |sequence| Append { producer: producer(0, sequence), ..Append::new(batch(&["v"])) };
    for sequence in 0..30 {
        assert!(!log.append(&orders, send(sequence)).await.unwrap().duplicate);
    }
    // The condition was true when the batch was stored, so its retry is not refused for it.
    let retry = Append { if_next_offset: Some(29), ..send(29) };
    let again = log.append(&orders, retry).await.unwrap();
    assert!(again.duplicate);
    assert_eq!(again.frame.base_offset(), 29);
    drop(log);

    for lose_rows in [false, true] {
        if lose_rows {
            std::fs::remove_dir_all(dir.path().join("rows")).unwrap();
        }
        let log = open(dir.path(), &storage, small()).unwrap();
        let orders = log.namespace("orders").unwrap().unwrap();
        let again = log.append(&orders, send(20)).await.unwrap();
        assert_eq!((again.duplicate, again.frame.base_offset()), (true, 20));
        assert!(matches!(log.append(&orders, send(3)).await, Err(AppendError::ProducerForgotten { sequence: 3 })));
        assert!(matches!(log.append(&orders, send(31)).await, Err(AppendError::ProducerGap { expected: 30 })));
        assert_eq!(read_all(&log, &orders).len(), 30);
    }
}

#[tokio::test]
async fn everything_is_there_after_rolls_restarts_and_losses_of_what_is_derived() {
    let dir = tempfile::tempdir().unwrap();
    let storage = Arc::new(Disk);
    let log = open(dir.path(), &storage, small()).unwrap();
    let mut expected = Vec::new();
    for n in 0..40 {
        expected.push((create(&log, &format!("ns-{n}")).await, Vec::new()));
    }
    let add = async |log: &tlog::Log, round: usize, expected: &mut Vec<(tlog::Namespace, Vec<String>)>| {
        for (n, (namespace, all)) in expected.iter_mut().enumerate() {
            if !(n + round).is_multiple_of(3) {
                let value = format!("{round}-{n}-{}", "x".repeat(n * 5));
                append(log, namespace, &[&value, "second"]).await.unwrap();
                all.extend([value, "second".to_owned()]);
            }
        }
    };
    let check = |log: &tlog::Log, expected: &[(tlog::Namespace, Vec<String>)]| {
        for (namespace, all) in expected {
            assert_eq!(log.namespace(namespace.name()).unwrap().as_ref(), Some(namespace));
            assert_eq!(&values(&read_all(log, namespace)), all);
        }
        let listed = log.list("", None, 1000).unwrap();
        assert_eq!(listed.len(), expected.len());
    };
    let mut log = log;
    for round in 0..12 {
        add(&log, round, &mut expected).await;
        check(&log, &expected);
        let heads: Vec<_> = expected.iter().map(|(namespace, _)| log.head(namespace).unwrap()).collect();
        drop(log);
        let partition = dir.path().join("partitions/000");
        match round % 4 {
            1 => std::fs::remove_dir_all(dir.path().join("rows")).unwrap(),
            2 => remove_indexes(&partition),
            3 => flip_in_indexes(&partition),
            _ => {}
        }
        log = open(dir.path(), &storage, small()).unwrap();
        let after: Vec<_> = expected.iter().map(|(namespace, _)| log.head(namespace).unwrap()).collect();
        assert_eq!(heads, after);
        check(&log, &expected);
    }
    let sealed = indexes(&dir.path().join("partitions/000")).len() + indexes(&dir.path().join("partitions/001")).len();
    assert!(sealed > 15, "the test is about many segments, {sealed} are sealed");
}

fn indexes(partition: &std::path::Path) -> Vec<std::path::PathBuf> {
    let files = std::fs::read_dir(partition).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|extension| extension == "idx")).collect()
}

fn remove_indexes(partition: &std::path::Path) {
    indexes(partition).iter().for_each(|path| std::fs::remove_file(path).unwrap());
}

fn flip_in_indexes(partition: &std::path::Path) {
    for (at, path) in indexes(partition).iter().enumerate() {
        let mut bytes = std::fs::read(path).unwrap();
        let byte = (at * 31) % bytes.len();
        bytes[byte] ^= 0x10;
        std::fs::write(path, bytes).unwrap();
    }
}

/// An index is believed until frames contradict it: whichever of its bytes is wrong, all is found that was there.
#[tokio::test]
async fn an_index_that_is_wrong_anywhere_leads_nobody_astray() {
    let dir = tempfile::tempdir().unwrap();
    let storage = Arc::new(Disk);
    let options = tlog::Options { partitions: 1, ..small() };
    let log = open(dir.path(), &storage, options).unwrap();
    let mut expected = Vec::new();
    for n in 0..3 {
        expected.push((create(&log, &format!("ns-{n}")).await, Vec::new()));
    }
    for round in 0..60 {
        let (namespace, all) = &mut expected[round % 3];
        let value = format!("{round}-{}", "x".repeat(120));
        append(&log, namespace, &[&value, "second"]).await.unwrap();
        all.extend([value, "second".to_owned()]);
    }
    drop(log);
    let index = indexes(&dir.path().join("partitions/000")).into_iter().min().unwrap();
    let sound = std::fs::read(&index).unwrap();
    for (at, bit) in (0..sound.len()).step_by(3).map(|at| (at, 1 << (at % 8))) {
        let mut bytes = sound.clone();
        bytes[at] ^= bit;
        std::fs::write(&index, &bytes).unwrap();
        let log = open(dir.path(), &storage, options).unwrap();
        for (namespace, all) in &expected {
            for from in [0, 1, 6, 7] {
                let frames = log.reader(namespace, from).unwrap().read_blocking(700).unwrap();
                assert!(frames[0].base_offset() <= from && from < frames[0].next_offset(), "byte {at}");
            }
            assert_eq!(&values(&read_all(&log, namespace)), all, "byte {at}");
        }
    }
}

/// A namespace that has little in each segment, then fills some alone, then has little again.
async fn thin_and_thick(dir: &std::path::Path) -> (tlog::Log, tlog::Namespace) {
    let options = tlog::Options { partitions: 1, ..small() };
    let log = open(dir, &Arc::new(Disk), options).unwrap();
    let (thin, other) = (create(&log, "thin").await, create(&log, "other").await);
    for round in 0..600 {
        let namespace = if round % 12 == 0 || (200..300).contains(&round) { &thin } else { &other };
        append(&log, namespace, &[&format!("{round}-{}", "x".repeat(300))]).await.unwrap();
    }
    drop(log);
    // What is in memory is not read from segments.
    (open(dir, &Arc::new(Disk), options).unwrap(), thin)
}

#[tokio::test]
async fn segments_that_hold_little_of_a_namespace_are_read_side_by_side() {
    let dir = tempfile::tempdir().unwrap();
    let (log, thin) = thin_and_thick(dir.path()).await;
    let all = read_all(&log, &thin);
    let longest = all.iter().map(wire::Frame::len).max().unwrap();
    for max_bytes in [1, 700, 9000, 1 << 20] {
        for from in [0, 1, 20, 90, all.len() as u64] {
            let mut reader = log.reader(&thin, from).unwrap();
            let (mut found, mut reads) = (Vec::new(), 0);
            loop {
                let frames = reader.read(max_bytes).await.unwrap();
                if frames.is_empty() {
                    break;
                }
                let bytes: usize = frames.iter().map(|frame| frame.len()).sum();
                assert!(bytes <= max_bytes + 16 * longest, "{bytes} of {max_bytes}");
                found.extend(frames.iter().map(|frame| frame.frame().clone()));
                reads += 1;
            }
            assert_eq!(found, all[from as usize..], "from {from}, {max_bytes} at once");
            assert!(max_bytes < 1 << 20 || reads <= 10, "{reads} reads");
        }
    }
}

#[tokio::test]
async fn what_is_damaged_ahead_is_said_when_the_cursor_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let (log, thin) = thin_and_thick(dir.path()).await;
    let all = read_all(&log, &thin);
    let damaged = &all[15];
    let segments = std::fs::read_dir(dir.path().join("partitions/000")).unwrap().map(|entry| entry.unwrap().path());
    let holder = segments.filter(|path| path.extension().is_some_and(|extension| extension == "log")).find(|path| {
        let mut bytes = std::fs::read(path).unwrap();
        let Some(at) = memchr::memmem::find(&bytes, damaged.bytes()) else { return false };
        bytes[at + damaged.len() - 1] ^= 1;
        std::fs::write(path, bytes).unwrap();
        true
    });
    assert!(holder.is_some());
    let mut reader = log.reader(&thin, 0).unwrap();
    let mut found = Vec::new();
    let error = loop {
        match reader.read(1 << 20).await {
            Ok(frames) => found.extend(frames.iter().map(|frame| frame.frame().clone())),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, ReadError::Damaged { position, .. } if position == damaged.position()), "{error}");
    assert_eq!(found, all[..15]);
    let rest = log.reader(&thin, damaged.next_offset()).unwrap().read(1 << 20).await.unwrap();
    assert_eq!(rest[0].frame(), &all[16]);
}

#[tokio::test]
async fn a_frame_larger_than_a_segment_has_one_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let storage = Arc::new(Disk);
    let log = open(dir.path(), &storage, small()).unwrap();
    let orders = create(&log, "orders").await;
    let large = "x".repeat(50_000);
    for _ in 0..3 {
        append(&log, &orders, &["small"]).await.unwrap();
        append(&log, &orders, &[&large]).await.unwrap();
    }
    assert_eq!(values(&read_all(&log, &orders))[5], large);
    drop(log);
    let log = open(dir.path(), &storage, small()).unwrap();
    let orders = log.namespace("orders").unwrap().unwrap();
    assert_eq!(values(&read_all(&log, &orders))[5], large);
}

#[tokio::test]
async fn a_deleted_namespace_is_gone_and_its_name_can_be_used_again() {
    let dir = tempfile::tempdir().unwrap();
    let storage = Arc::new(Disk);
    let log = open(dir.path(), &storage, small()).unwrap();
    let old = create(&log, "orders").await;
    append(&log, &old, &["old"]).await.unwrap();
    let mut reader = log.reader(&old, 0).unwrap();
    let follower = log.follower(std::slice::from_ref(&old));
    log.delete(&old).await.unwrap();
    follower.changed().await;
    assert!(matches!(reader.read_blocking(1), Err(ReadError::NamespaceNotFound)));
    assert!(log.namespace("orders").unwrap().is_none());
    assert!(matches!(append(&log, &old, &["x"]).await, Err(AppendError::NamespaceNotFound)));
    assert!(matches!(log.delete(&old).await, Err(AppendError::NamespaceNotFound)));
    let new = create(&log, "orders").await;
    assert_ne!(new.id(), old.id());
    append(&log, &new, &["new"]).await.unwrap();
    assert!(matches!(log.head(&old), Err(ReadError::NamespaceNotFound)));
    for round in 0..3 {
        assert_eq!(values(&read_all(&log, &new)), ["new"], "round {round}");
    }
    drop((log, reader));
    std::fs::remove_dir_all(dir.path().join("rows")).unwrap();
    let log = open(dir.path(), &storage, small()).unwrap();
    assert_eq!(log.namespace("orders").unwrap(), Some(new.clone()));
    assert_eq!(values(&read_all(&log, &new)), ["new"]);
    assert!(log.namespace_by_id(old.id()).unwrap().is_none());
}

#[tokio::test]
async fn a_namespace_is_created_once_and_with_one_configuration() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), &Arc::new(Memory::new()), small()).unwrap();
    let name = NamespaceName::new("orders").unwrap();
    let tight = NamespaceConfig { max_record_bytes: 10 };
    let created = log.create(&name, tight).await.unwrap();
    assert!(created.new);
    let again = log.create(&name, tight).await.unwrap();
    assert!(!again.new);
    assert_eq!(again.namespace, created.namespace);
    assert!(matches!(log.create(&name, NamespaceConfig::default()).await, Err(AppendError::ConfigConflict)));
    let refused = append(&log, &created.namespace, &["eleven byte"]).await;
    assert!(matches!(refused, Err(AppendError::RecordTooLarge { bytes: 11, limit: 10 })));
    append(&log, &created.namespace, &["ten bytes."]).await.unwrap();
    for n in 0..50 {
        let namespace = create(&log, &format!("n{n}")).await;
        assert_eq!(namespace.id().partition(2), namespace.name().partition(2));
        assert_ne!(namespace.id(), wire::NamespaceId::CONTROL);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_writers_and_a_follower_that_misses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), &Arc::new(Disk), small()).unwrap();
    let orders = create(&log, "orders").await;
    let total = 2_000u64;
    let follower = tokio::spawn({
        let (log, orders) = (log.clone(), orders.clone());
        async move {
            let follower = log.follower(std::slice::from_ref(&orders));
            let mut reader = log.reader(&orders, 0).unwrap();
            let mut next = 0;
            while next < total {
                let frames = reader.read(4000).await.unwrap();
                if frames.is_empty() {
                    follower.changed().await;
                }
                for frame in frames {
                    assert_eq!(frame.base_offset(), next, "no gap, no repeat");
                    assert!(frame.next_offset() <= log.head(&orders).unwrap().next_offset, "invariant 2");
                    next = frame.next_offset();
                }
            }
        }
    });
    let writers = (0..20).map(|writer| {
        let (log, orders) = (log.clone(), orders.clone());
        tokio::spawn(async move {
            for n in 0..total / 20 {
                let appended = append(&log, &orders, &[&format!("{writer}-{n}")]).await.unwrap();
                let read = log.reader(&orders, appended.frame.base_offset()).unwrap().read_blocking(1).unwrap();
                assert_eq!(read[0].frame(), &appended.frame, "what was acked can be read");
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    follower.await.unwrap();
    let mut all = values(&read_all(&log, &orders));
    all.sort();
    all.dedup();
    assert_eq!(all.len() as u64, total);
}

#[tokio::test]
async fn a_scan_sees_every_frame_of_a_partition_in_order_up_to_the_watermark() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), &Arc::new(Disk), small()).unwrap();
    for n in 0..30 {
        let namespace = create(&log, &format!("ns-{n}")).await;
        append(&log, &namespace, &[&"v".repeat(500)]).await.unwrap();
    }
    for partition in 0..log.partitions() {
        let watermark = *log.watermark(partition).borrow();
        let mut scan = log.scan(partition, 0);
        let mut records = 0;
        loop {
            let from = scan.position();
            let frames = scan.read_blocking(700).unwrap();
            let Some(first) = frames.first() else { break };
            assert_eq!(first.position(), from);
            assert!(frames.windows(2).all(|pair| pair[0].end() == pair[1].position()));
            records += frames.iter().map(|frame| u64::from(frame.record_count())).sum::<u64>();
        }
        assert_eq!((scan.position(), records), (watermark.position, watermark.records));
    }
}

#[tokio::test]
async fn time_does_not_go_back_and_a_second_process_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let storage = Arc::new(Disk);
    let clock = Arc::new(support::TestClock::default());
    let set = |micros| clock.micros.store(micros, std::sync::atomic::Ordering::Relaxed);
    let log = tlog::Log::open(dir.path(), storage.clone(), clock.clone(), small()).unwrap();
    let orders = create(&log, "orders").await;
    set(5_000_000);
    append(&log, &orders, &["a"]).await.unwrap();
    set(1_000_000);
    append(&log, &orders, &["b"]).await.unwrap();
    let times: Vec<i64> = read_all(&log, &orders).iter().map(wire::Frame::time_micros).collect();
    assert_eq!(times, [5_000_000, 5_000_000]);
    let second = open(dir.path(), &storage, small()).unwrap_err();
    assert_eq!(second.to_string(), format!("{} is in use by another tlog process", dir.path().display()));
}

#[tokio::test]
async fn events_of_consumers_are_durable_control_records() {
    let dir = tempfile::tempdir().unwrap();
    let storage = Arc::new(Memory::new());
    let log = open(dir.path(), &storage, small()).unwrap();
    let orders = create(&log, "orders").await;
    append(&log, &orders, &["a", "b"]).await.unwrap();
    let partition = orders.id().partition(log.partitions());
    let before = log.watermark(partition).borrow().position;
    let event = Bytes::from_static(b"acked 1 to 5");
    let noted = log.append_event(&orders, event.clone()).await.unwrap();
    assert_eq!(noted.next_offset, 2);
    let of_partition = log.append_partition_event(partition, event.clone()).await.unwrap();
    let again = log.append_partition_event(partition, event.clone()).await.unwrap();
    assert_eq!(again.next_offset, of_partition.next_offset + 1);
    let too_large = log.append_event(&orders, vec![0; MAX_EVENT_BYTES + 1].into()).await;
    assert!(matches!(too_large, Err(AppendError::RecordTooLarge { .. })));
    log.delete(&orders).await.unwrap();
    assert!(matches!(log.append_event(&orders, event.clone()).await, Err(AppendError::NamespaceNotFound)));
    drop(log);

    let log = open(dir.path(), &storage, small()).unwrap();
    let frames = log.scan(partition, before).read_blocking(1 << 20).unwrap();
    let ends: Vec<_> = frames.iter().map(|frame| frame.end()).take(3).collect();
    assert_eq!(ends, [noted.end, of_partition.end, again.end]);
    assert_eq!(frames[1].base_offset(), of_partition.next_offset, "its own offset");
    let events: Vec<_> = frames[..2].iter().flat_map(ControlEvent::all_in).map(Result::unwrap).collect();
    let (id, generation) = (orders.id(), orders.generation());
    let of_orders = ControlEvent::Consumers { id, generation, next_offset: 2, event: event.clone() };
    let (id, next_offset) = (NamespaceId::CONTROL, of_partition.next_offset);
    assert_eq!(events, [of_orders, ControlEvent::Consumers { id, generation: 0, next_offset, event }]);
}
