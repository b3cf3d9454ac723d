//! The contract of the storage seam, held against every implementation.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::{ErrorKind, IoSlice};
use std::path::Path;

use tlog::storage::Simulated;
use tlog::{Disk, Memory, Storage};

fn each(check: impl Fn(&dyn Storage, &Path)) {
    for storage in [&Disk as &dyn Storage, &Memory::new(), &Simulated::new(1)] {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("made/here");
        storage.create_dir(&dir).unwrap();
        storage.create_dir(&dir).unwrap();
        check(storage, &dir);
    }
}

#[test]
fn what_is_written_is_read_wherever_it_is() {
    each(|storage, dir| {
        let file = storage.create(&dir.join("a")).unwrap();
        assert!(file.is_empty().unwrap());
        file.write_at(&[IoSlice::new(b"one"), IoSlice::new(b""), IoSlice::new(b"two")], 10).unwrap();
        file.sync_data().unwrap();
        assert_eq!(file.len().unwrap(), 16);
        let again = storage.open(&dir.join("a")).unwrap();
        let mut bytes = [9; 16];
        again.read_at(&mut bytes, 0).unwrap();
        assert_eq!(&bytes, b"\0\0\0\0\0\0\0\0\0\0onetwo");
        again.write_at(&[IoSlice::new(b"X")], 12).unwrap();
        file.read_at(&mut bytes[..3], 10).unwrap();
        assert_eq!(&bytes[..3], b"onX");
        assert_eq!(file.read_at(&mut bytes, 1).unwrap_err().kind(), ErrorKind::UnexpectedEof);
        file.read_at(&mut [], 99).unwrap();
    });
}

#[test]
fn more_buffers_than_one_call_takes_are_written_in_order() {
    each(|storage, dir| {
        let parts: Vec<Vec<u8>> = (0..5000u32).map(|n| n.to_le_bytes()[..n as usize % 5].to_vec()).collect();
        let buffers: Vec<IoSlice<'_>> = parts.iter().map(|part| IoSlice::new(part)).collect();
        let file = storage.create(&dir.join("a")).unwrap();
        file.write_at(&buffers, 7).unwrap();
        let mut bytes = vec![0; parts.concat().len()];
        file.read_at(&mut bytes, 7).unwrap();
        assert!(bytes == parts.concat());
    });
}

#[test]
fn space_is_zeros_and_does_not_shrink_a_file() {
    each(|storage, dir| {
        let file = storage.create(&dir.join("a")).unwrap();
        file.write_at(&[IoSlice::new(b"abc")], 0).unwrap();
        file.allocate(10_000).unwrap();
        file.allocate(5).unwrap();
        assert_eq!(file.len().unwrap(), 10_000);
        let mut bytes = vec![1; 10_000];
        file.read_at(&mut bytes, 0).unwrap();
        assert!(bytes.starts_with(b"abc") && bytes[3..].iter().all(|byte| *byte == 0));
        file.truncate(2).unwrap();
        assert_eq!(file.len().unwrap(), 2);
    });
}

#[test]
fn files_are_made_once_listed_renamed_and_removed() {
    each(|storage, dir| {
        assert_eq!(storage.open(&dir.join("a")).unwrap_err().kind(), ErrorKind::NotFound);
        let file = storage.create(&dir.join("a")).unwrap();
        assert_eq!(storage.create(&dir.join("a")).unwrap_err().kind(), ErrorKind::AlreadyExists);
        storage.create(&dir.join("c")).unwrap();
        file.write_at(&[IoSlice::new(b"kept")], 0).unwrap();
        storage.rename(&dir.join("a"), &dir.join("c")).unwrap();
        storage.create(&dir.join("b")).unwrap();
        storage.sync_dir(dir).unwrap();
        assert_eq!(storage.list(dir).unwrap(), [dir.join("b"), dir.join("c")]);
        assert_eq!(storage.open(&dir.join("c")).unwrap().len().unwrap(), 4);
        storage.remove(&dir.join("c")).unwrap();
        assert_eq!(storage.remove(&dir.join("c")).unwrap_err().kind(), ErrorKind::NotFound);
        // Who has it open goes on reading it.
        let mut bytes = [0; 4];
        file.read_at(&mut bytes, 0).unwrap();
        assert_eq!(&bytes, b"kept");
    });
}

#[test]
fn a_lock_is_held_once_and_goes_with_its_holder() {
    each(|storage, dir| {
        let path = dir.join("LOCK");
        let held = storage.lock(&path).unwrap();
        assert_eq!(storage.lock(&path).unwrap_err().kind(), ErrorKind::WouldBlock);
        drop(held);
        drop(storage.lock(&path).unwrap());
    });
}
