//! A data folder as files: what is in it, a copy of it, and what `tlog check` says of it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Bytes of a segment before its first frame.
pub const SEGMENT_HEADER_BYTES: usize = 64;

/// Files by their paths in a folder.
pub type Files = BTreeMap<PathBuf, Vec<u8>>;

/// Every file below a folder.
pub fn files(folder: &Path) -> Files {
    let mut found = BTreeMap::new();
    walk(folder, &mut |path, is_dir| {
        if !is_dir {
            found.insert(path.strip_prefix(folder).unwrap().to_owned(), fs::read(path).unwrap());
        }
    });
    found
}

fn walk(folder: &Path, visit: &mut impl FnMut(&Path, bool)) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        visit(&path, path.is_dir());
        if path.is_dir() {
            walk(&path, visit);
        }
    }
}

/// The files of the log itself: segments and their indexes.
pub fn segments(data: &Path) -> Files {
    let is_of_log = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "log" || extension == "idx");
    files(&data.join("partitions")).into_iter().filter(|(path, _)| is_of_log(path)).collect()
}

/// The paths of a partition's segments, in order.
pub fn segments_of(data: &Path, partition: u16) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(data.join(format!("partitions/{partition:03}"))) else { return Vec::new() };
    let paths = entries.map(|entry| entry.unwrap().path());
    let mut segments: Vec<PathBuf> =
        paths.filter(|path| path.extension().is_some_and(|extension| extension == "log")).collect();
    segments.sort();
    segments
}

/// Copies a folder, which no process writes to. Where there is none, the copy is none either.
pub fn copy(from: &Path, to: &Path) {
    if !from.exists() {
        return;
    }
    fs::create_dir_all(to).unwrap();
    walk(from, &mut |path, is_dir| {
        let copied = to.join(path.strip_prefix(from).unwrap());
        if is_dir {
            fs::create_dir(copied).unwrap();
        } else {
            fs::copy(path, copied).unwrap();
        }
    });
}

/// Where the frames of a segment end that has nothing but zeros behind them.
pub fn end_of(segment: &[u8]) -> usize {
    segment.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1).max(SEGMENT_HEADER_BYTES)
}

/// Writes what a write that was cut off leaves behind the last frame of a segment: the beginning of one.
pub fn tear(segment: &Path) {
    let mut bytes = fs::read(segment).unwrap();
    let end = end_of(&bytes);
    let torn = [b"TLGF".as_slice(), &[0x5a; 500]].concat();
    bytes.resize(bytes.len().max(end + torn.len()), 0);
    bytes[end..end + torn.len()].copy_from_slice(&torn);
    fs::write(segment, bytes).unwrap();
}

/// Fails the test unless `tlog check` finds the log and its indexes without a fault.
pub fn check(data: &Path) {
    let checked =
        Command::new(env!("CARGO_BIN_EXE_tlog")).args(["check", "--json", "--data"]).arg(data).output().unwrap();
    let said = String::from_utf8_lossy(&checked.stdout);
    assert!(checked.status.success(), "{said}{}", String::from_utf8_lossy(&checked.stderr));
    let report: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!((&report["faults"], &report["derived_faults"]), (&serde_json::json!([]), &serde_json::json!([])));
}
