//! What the simulated disk promises, and the crashes that it once found, each as a test of its own.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::io::IoSlice;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use support::{batch, read_all, values};
use tlog::storage::Simulated;
use tlog::storage::simulated::{Fault, Rng};
use tlog::{Append, AppendError, Driver, Log, Namespace, Options, Storage};
use wire::{NamespaceConfig, NamespaceName};

fn options() -> Options {
    Options { partitions: 1, segment_bytes: 4096, tail_bytes: 0, ..Options::default() }
}

fn open(dir: &Path, disk: &Simulated) -> (Log, Driver) {
    Log::open_driven(dir, Arc::new(disk.clone()), Arc::new(disk.clone()), options()).unwrap()
}

/// Asks, has it served, and takes the answer.
fn served<T>(driver: &mut Driver, asked: impl Future<Output = T>) -> T {
    let mut asked = pin!(asked);
    let mut context = Context::from_waker(Waker::noop());
    if let Poll::Ready(answer) = asked.as_mut().poll(&mut context) {
        return answer;
    }
    driver.commit(0);
    match asked.poll(&mut context) {
        Poll::Ready(answer) => answer,
        Poll::Pending => panic!("served and not answered"),
    }
}

fn create(log: &Log, driver: &mut Driver) -> Namespace {
    let name = NamespaceName::new("orders").unwrap();
    served(driver, log.create(&name, NamespaceConfig::default())).unwrap().namespace
}

fn append(log: &Log, driver: &mut Driver, orders: &Namespace, value: &str) -> Result<(), AppendError> {
    served(driver, log.append(orders, Append::new(batch(&[value])))).map(drop)
}

#[test]
fn a_power_cut_keeps_what_was_synced_and_any_of_the_rest() {
    let (path, dir) = (Path::new("d/a"), Path::new("d"));
    let (mut seen, mut lost_names) = (std::collections::BTreeSet::new(), 0);
    for seed in 0..200 {
        let disk = Simulated::new(seed);
        disk.create_dir(dir).unwrap();
        let file = disk.create(path).unwrap();
        file.write_at(&[IoSlice::new(&[1; 1024])], 0).unwrap();
        file.sync_data().unwrap();
        disk.sync_dir(dir).unwrap();
        file.write_at(&[IoSlice::new(&[2; 1024])], 0).unwrap();
        disk.create(&dir.join("b")).unwrap();
        disk.power_cut();
        assert!(file.len().is_err(), "what the last process had open is gone");
        let mut bytes = [0; 1024];
        disk.open(path).unwrap().read_at(&mut bytes, 0).unwrap();
        assert!(bytes[..512].iter().all(|byte| *byte == bytes[0]), "a sector is not torn");
        seen.insert((bytes[0], bytes[1023]));
        lost_names += usize::from(disk.open(&dir.join("b")).is_err());
    }
    assert_eq!(seen.len(), 4, "each sector is kept or lost by itself");
    assert!((1..200).contains(&lost_names));
}

#[test]
fn a_failed_sync_leaves_pages_that_look_clean() {
    let mut lost = 0;
    for seed in 0..100 {
        let disk = Simulated::new(seed);
        disk.create_dir(Path::new("d")).unwrap();
        let file = disk.create(Path::new("d/a")).unwrap();
        disk.sync_dir(Path::new("d")).unwrap();
        file.allocate(512).unwrap();
        file.sync_data().unwrap();
        file.write_at(&[IoSlice::new(b"x")], 0).unwrap();
        disk.plan(Fault::SyncError, 0);
        file.sync_data().unwrap_err();
        file.sync_data().unwrap();
        let mut byte = [0];
        file.read_at(&mut byte, 0).unwrap();
        assert_eq!(byte, *b"x", "it is read as if it were there");
        lost += usize::from(disk.durable(Path::new("d/a")).unwrap()[0] == 0);
    }
    assert!((1..100).contains(&lost), "{lost}");
}

#[test]
fn a_segment_takes_no_more_once_the_next_could_not_be_made_and_nothing_acked_is_cut() {
    // The roll's fourth folder operation is its sync: the new file has its name by then.
    for nth in 0..4 {
        let dir = tempfile::tempdir().unwrap();
        let disk = Simulated::new(nth);
        let (log, mut driver) = open(dir.path(), &disk);
        let orders = create(&log, &mut driver);
        append(&log, &mut driver, &orders, &"a".repeat(3000)).unwrap();
        disk.plan(Fault::FolderError, nth);
        let mut acked = vec!["a".repeat(3000)];
        // The second does not fit the segment, the third would.
        for value in ["b".repeat(2000), "c".to_owned(), "d".repeat(2000), "e".to_owned()] {
            if append(&log, &mut driver, &orders, &value).is_ok() {
                acked.push(value);
            }
        }
        drop((log, driver));
        disk.resume();
        let (log, _driver) = open(dir.path(), &disk);
        assert_eq!(values(&read_all(&log, &orders)), acked, "folder operation {nth}");
    }
}

#[test]
fn what_a_process_left_without_its_folder_sync_is_synced_by_the_next() {
    for nth in 0..40 {
        let dir = tempfile::tempdir().unwrap();
        let disk = Simulated::new(nth);
        disk.stop_after(nth);
        let opened = Log::open_driven(dir.path(), Arc::new(disk.clone()), Arc::new(disk.clone()), options());
        drop(opened);
        disk.resume();
        let (log, mut driver) = open(dir.path(), &disk);
        let orders = create(&log, &mut driver);
        append(&log, &mut driver, &orders, "kept").unwrap();
        drop((log, driver));
        std::fs::remove_dir_all(dir.path().join("rows")).unwrap();
        disk.power_cut();
        // Only a folder that has lost its description would be made with as many partitions as this says.
        let (disk, others) = (Arc::new(disk), Options { partitions: 2, ..options() });
        let (log, _driver) = Log::open_driven(dir.path(), Arc::clone(&disk) as _, disk, others).unwrap();
        assert_eq!(log.partitions(), 1, "stopped at operation {nth}");
        assert_eq!(values(&read_all(&log, &orders)), ["kept"], "stopped at operation {nth}");
    }
}

#[test]
fn a_torn_tail_whose_cut_fails_is_off_the_disk_once_a_start_succeeds() {
    let mut failed = 0;
    for seed in 0..60 {
        let dir = tempfile::tempdir().unwrap();
        let disk = Simulated::new(seed);
        let (log, mut driver) = open(dir.path(), &disk);
        let orders = create(&log, &mut driver);
        disk.stop_after(0);
        append(&log, &mut driver, &orders, &"torn".repeat(800)).unwrap_err();
        drop((log, driver));
        disk.resume();
        disk.plan(Fault::SyncError, 0);
        let again = Log::open_driven(dir.path(), Arc::new(disk.clone()), Arc::new(disk.clone()), options());
        failed += usize::from(again.is_err());
        drop(again);
        disk.resume();
        let (log, _driver) = open(dir.path(), &disk);
        let end = 64 + log.watermark(0).borrow().position as usize;
        let segment = disk.durable(&dir.path().join("partitions/000/00000000000000000000.log")).unwrap();
        assert!(segment[end..].iter().all(|byte| *byte == 0), "seed {seed}");
    }
    assert!(failed > 30, "{failed}");
}

#[test]
fn a_bit_that_flips_in_an_index_that_is_open_hides_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Simulated::new(1);
    let (log, mut driver) = open(dir.path(), &disk);
    let orders = create(&log, &mut driver);
    for n in 0..30 {
        append(&log, &mut driver, &orders, &format!("{n}{}", "x".repeat(500))).unwrap();
        while driver.keep(0) {}
    }
    let all = values(&read_all(&log, &orders));
    assert_eq!(all.len(), 30);
    let index = disk.files().into_iter().find(|path| path.extension().is_some_and(|e| e == "idx")).unwrap();
    let bits = disk.durable(&index).unwrap().len() as u64 * 8;
    let mut rng = Rng::new(1);
    for _ in 0..200 {
        let bit = rng.below(bits);
        disk.flip_bit(&index, bit / 8, (bit % 8) as u32);
        assert_eq!(values(&read_all(&log, &orders)), all, "bit {bit}");
        // An index that was found out has been made again; otherwise the bit goes back.
        let _ = read_all(&log, &orders);
    }
}
