//! The start of a log whose files are not what they were: edits of the fuzzer's choice on a sound log of
//! a few small segments, whose rows are gone.
//!
//! It opens or says why not. `check` says the same. What opens is readable to its end, takes more, is
//! then sound, and opens again to the same.

use std::collections::BTreeMap;
use std::io::IoSlice;
use std::path::Path;
use std::sync::{Arc, LazyLock};

use arbitrary::{Result as Taken, Unstructured};
use tlog::check::{Report, check};
use tlog::{Append, Clock, Driver, Log, Memory, Namespace, OpenError, Options, Storage};
use tokio::runtime::{Builder, Runtime};
use tokio::task::{JoinHandle, LocalSet};
use wire::limits::MAX_RECORD_BYTES;
use wire::{Chain, Draft, DraftBuilder, Frame, NamespaceConfig, NamespaceName, NewRecord, Producer, ProducerId};

use crate::forge::{Forge, put, seal_crc};

const HEADER_BYTES: usize = 64;

/// The most that a file grows by one edit.
const MAX_GROWTH: usize = 1 << 16;

/// The fields of a frame: place and bytes.
const FIELDS: [(usize, usize); 15] = [
    (0, 4),
    (8, 4),
    (12, 1),
    (13, 1),
    (16, 8),
    (24, 4),
    (32, 8),
    (64, 4),
    (68, 4),
    (72, 8),
    (80, 8),
    (88, 8),
    (104, 4),
    (108, 4),
    (112, 8),
];

/// The files of a folder, by path from it.
type Files = BTreeMap<String, Vec<u8>>;

/// Runs the target.
pub fn run(data: &[u8]) {
    let mut files = SOUND.clone();
    let mut input = Unstructured::new(data);
    // Input that ends in the midst of an edit has made those before it.
    let _end = edit_all(&mut input, &mut files);
    start(&files);
}

#[derive(Debug)]
struct StoppedClock;

impl Clock for StoppedClock {
    fn now_micros(&self) -> i64 {
        1_000_000
    }
    fn monotonic_nanos(&self) -> u64 {
        0
    }
}

fn options() -> Options {
    Options { partitions: 1, segment_bytes: 4096, ..Options::default() }
}

fn runtime() -> Runtime {
    Builder::new_current_thread().build().unwrap()
}

/// Files on a disk in memory, if the machine has one: RocksDB needs a folder.
fn folder() -> tempfile::TempDir {
    let shared = Path::new("/dev/shm");
    if shared.is_dir() { tempfile::tempdir_in(shared) } else { tempfile::tempdir() }.unwrap()
}

fn open(storage: &Memory, dir: &Path) -> Result<(Log, Driver), OpenError> {
    let storage: Arc<dyn Storage> = Arc::new(storage.clone());
    Log::open_driven(dir, storage, Arc::new(StoppedClock), options())
}

fn storage_of(files: &Files, dir: &Path) -> Memory {
    let storage = Memory::new();
    for (path, bytes) in files {
        let file = storage.create(&dir.join(path)).unwrap();
        file.write_at(&[IoSlice::new(bytes)], 0).unwrap();
    }
    storage
}

fn files_of(storage: &Memory, dir: &Path) -> Files {
    let listed = [dir.to_owned(), dir.join("partitions/000")].map(|dir| storage.list(&dir).unwrap());
    let read = |path: &std::path::PathBuf| {
        let file = storage.open(path).unwrap();
        let mut bytes = vec![0; file.len().unwrap() as usize];
        file.read_at(&mut bytes, 0).unwrap();
        (path.strip_prefix(dir).unwrap().to_str().unwrap().to_owned(), bytes)
    };
    listed.iter().flatten().map(read).collect()
}

/// Serves all of these appends as one commit.
fn commit(runtime: &Runtime, log: &Log, driver: &mut Driver, appends: Vec<(Namespace, Append)>) -> Vec<Frame> {
    let tasks = LocalSet::new();
    let waiting: Vec<JoinHandle<_>> = appends
        .into_iter()
        .map(|(namespace, append)| {
            let log = log.clone();
            tasks.spawn_local(async move { log.append(&namespace, append).await })
        })
        .collect();
    runtime.block_on(tasks.run_until(async {
        tokio::task::yield_now().await;
        while driver.commit(0) {}
        let mut frames = Vec::new();
        for task in waiting {
            frames.push(task.await.unwrap().unwrap().frame);
        }
        frames
    }))
}

fn batch(values: &[&str], key: &str) -> Draft {
    let mut builder = DraftBuilder::default();
    for value in values {
        builder.push(&NewRecord::text(value).with_key(key)).unwrap();
    }
    builder.finish().unwrap()
}

/// A sound log: two sealed segments and a last one, three namespaces and one that was deleted, producers,
/// and commits of several frames.
static SOUND: LazyLock<Files> = LazyLock::new(|| {
    let dir = folder();
    let storage = Memory::new();
    let (log, mut driver) = open(&storage, dir.path()).unwrap();
    let runtime = runtime();
    let create = |driver: &mut Driver, name: &str| {
        let (log, name) = (log.clone(), NamespaceName::new(name).unwrap());
        let tasks = LocalSet::new();
        let created = tasks.spawn_local(async move { log.create(&name, NamespaceConfig::default()).await });
        runtime.block_on(tasks.run_until(async {
            tokio::task::yield_now().await;
            while driver.commit(0) {}
            created.await.unwrap().unwrap().namespace
        }))
    };
    let [a, b, gone] = ["a", "b", "gone"].map(|name| create(&mut driver, name));
    let long = "v".repeat(300);
    for round in 0..12_u64 {
        let id = ProducerId::of("p").unwrap();
        let retried = Append {
            draft: batch(&["1", "2"], "k"),
            producer: Some(Producer { id, epoch: 0, sequence: round }),
            if_next_offset: None,
        };
        let appends = vec![
            (a.clone(), Append::new(batch(&["x", &long, "TLGF"], "a"))),
            (b.clone(), retried),
            (gone.clone(), Append::new(batch(&["y"], &round.to_string()))),
        ];
        commit(&runtime, &log, &mut driver, appends);
        commit(&runtime, &log, &mut driver, vec![(a.clone(), Append::new(batch(&[&long], "z")))]);
        while driver.keep(0) {}
    }
    let tasks = LocalSet::new();
    let deleted = {
        let log = log.clone();
        tasks.spawn_local(async move { log.delete(&gone).await })
    };
    runtime.block_on(tasks.run_until(async {
        tokio::task::yield_now().await;
        while driver.commit(0) {}
        deleted.await.unwrap().unwrap();
    }));
    commit(&runtime, &log, &mut driver, vec![(b.clone(), Append::new(batch(&["last"], "k")))]);
    while driver.keep(0) {}
    let mut files = files_of(&storage, dir.path());
    files.remove("LOCK");
    files.retain(|path, _| !path.ends_with(".tmp"));
    assert!(files.keys().filter(|path| path.ends_with(".log")).count() >= 3);
    files
});

fn edit_all(input: &mut Unstructured<'_>, files: &mut Files) -> Taken<()> {
    let paths: Vec<String> = files.keys().filter(|path| path.starts_with("partitions")).cloned().collect();
    while !input.is_empty() {
        let path = input.choose(&paths)?;
        let other = files[input.choose(&paths)?].clone();
        edit(input, files.entry(path.clone()).or_default(), &other)?;
        if input.ratio(1_u8, 16_u8)? {
            forge(input, files)?;
        }
        if input.ratio(1_u8, 64_u8)? {
            files.insert(path.clone(), Vec::new());
        }
    }
    Ok(())
}

/// A place in a file.
fn place(input: &mut Unstructured<'_>, bytes: &[u8]) -> Taken<usize> {
    input.int_in_range(0..=bytes.len())
}

fn edit(input: &mut Unstructured<'_>, bytes: &mut Vec<u8>, other: &[u8]) -> Taken<()> {
    let at = place(input, bytes)?;
    match input.int_in_range(0..=7_u8)? {
        0 => {
            let bit: u8 = input.int_in_range(0..=7)?;
            bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << bit);
        }
        1 => {
            let what: &[u8] = input.arbitrary()?;
            let length = what.len().min(bytes.len() - at);
            put(bytes, at, &what[..length]);
        }
        2 => {
            let end = place(input, bytes)?.max(at);
            bytes[at..end].fill(0);
        }
        3 => {
            // A block that belongs elsewhere, or is older.
            let from = place(input, other)?;
            let length = place(input, &other[from..])?.min(bytes.len() - at);
            put(bytes, at, &other[from..from + length]);
        }
        4 => bytes.truncate(at),
        5 => {
            let zeros = usize::from(input.arbitrary::<u16>()?).min(MAX_GROWTH);
            bytes.resize(bytes.len() + zeros, 0);
            bytes.extend_from_slice(input.arbitrary::<&[u8]>()?);
        }
        6 => {
            // Another segment's frames behind this one's header.
            bytes.truncate(HEADER_BYTES);
            bytes.extend_from_slice(input.arbitrary::<&[u8]>()?);
        }
        _ => field(input, bytes)?,
    }
    Ok(())
}

/// Another value in a field of a frame, or a byte of its records, with a CRC that is right.
fn field(input: &mut Unstructured<'_>, bytes: &mut [u8]) -> Taken<()> {
    let frames: Vec<(usize, usize)> = frames(bytes);
    if frames.is_empty() {
        return Ok(());
    }
    let (at, length) = *input.choose(&frames)?;
    let frame = &mut bytes[at..at + length];
    if input.arbitrary()? {
        let (at, size) = *input.choose(&FIELDS)?;
        let value: [u8; 8] = if input.arbitrary()? { [0xff; 8] } else { input.arbitrary()? };
        put(frame, at, &value[..size]);
    } else {
        let at = input.int_in_range(120..=length - 1)?;
        frame[at] = input.arbitrary()?;
    }
    seal_crc(frame);
    Ok(())
}

/// Where frames stand in a segment, and how long they are.
fn frames(bytes: &[u8]) -> Vec<(usize, usize)> {
    let mut frames = Vec::new();
    let mut at = HEADER_BYTES;
    while let Some(length) = bytes.get(at..).and_then(|rest| Frame::length(rest).ok())
        && at + length <= bytes.len()
    {
        frames.push((at, length));
        at += length;
    }
    frames
}

/// Makes all segments what would be believed.
fn forge(input: &mut Unstructured<'_>, files: &mut Files) -> Taken<()> {
    let mut forge = Forge::new(true, input.arbitrary()?);
    for (path, bytes) in files.iter_mut().filter(|(path, _)| path.ends_with(".log")) {
        let base = path[path.len() - 24..path.len() - 4].parse().unwrap();
        if bytes.len() > HEADER_BYTES {
            forge.seal(&mut bytes[HEADER_BYTES..], base);
        }
    }
    Ok(())
}

/// Opens the folder, and holds what comes of it against what `check` says.
fn start(files: &Files) {
    let dir = folder();
    let storage = storage_of(files, dir.path());
    let before = match check(&storage, dir.path(), |_| {}) {
        Ok(report) => report,
        // Nothing can be judged then, a start only must not panic.
        Err(OpenError::FrameVersion { .. }) => return drop(open(&storage, dir.path())),
        Err(other) => panic!("{other}"),
    };
    let (log, mut driver) = match open(&storage, dir.path()) {
        Ok(opened) => opened,
        Err(error) => {
            let of_header = match &error {
                OpenError::Damaged { reason, .. } => reason.contains("header"),
                OpenError::FrameVersion { .. } => false,
                other => panic!("{other}"),
            };
            assert!(!before.faults.is_empty() || of_header, "{error} but {before:?}");
            return;
        }
    };
    let read = read_all(&log);
    let scanned = scan(&log);
    if !surplus(&before, files) {
        assert!(!lost_frames(&before), "{before:?}");
        assert_eq!(scanned.len() as u64, before.frames, "{before:?}");
        assert_eq!(scanned.iter().map(|frame| frame.len() as u64).sum::<u64>(), before.bytes);
        assert_eq!(read.len() as u64, before.namespaces);
    }

    let runtime = runtime();
    let mut after = read.clone();
    for (name, frames) in &mut after {
        let namespace = log.namespace(name).unwrap().unwrap();
        // A namespace may be configured to take nothing.
        if namespace.config().max_record_bytes as usize == MAX_RECORD_BYTES {
            let append = vec![(namespace, Append::new(batch(&["more"], "m")))];
            frames.extend(commit(&runtime, &log, &mut driver, append));
        }
    }
    assert!(read_all(&log) == after, "what is appended stands behind what was there");
    while driver.keep(0) {}
    drop((log, driver));

    let report = check(&storage, dir.path(), |_| {}).unwrap();
    assert!(surplus(&report, files) || (!lost_frames(&report) && report.torn_bytes == 0), "{report:?}");
    let (log, driver) = open(&storage, dir.path()).unwrap();
    assert!(read_all(&log) == after, "what was recovered stays");
    drop((log, driver));
}

/// Whether a report names a frame that is lost. The header of a sealed segment is not one.
fn lost_frames(report: &Report) -> bool {
    report.faults.iter().any(|fault| !fault.reason.contains("header"))
}

/// Whether a check stopped at bytes behind the last frame of a sealed segment: nothing is lost there, and
/// a start does not read them.
fn surplus(report: &Report, files: &Files) -> bool {
    let begins = |position| files.contains_key(&format!("partitions/000/{position:020}.log"));
    report.faults.iter().any(|fault| begins(fault.position) && !fault.reason.contains("segment"))
}

/// The frames of all namespaces, by name; each continues the one before.
fn read_all(log: &Log) -> BTreeMap<String, Vec<Frame>> {
    let mut all = BTreeMap::new();
    for namespace in log.list("", None, 1000).unwrap() {
        let mut reader = log.reader(&namespace, 0).unwrap();
        let mut frames: Vec<Frame> = Vec::new();
        loop {
            let read = reader.read_blocking(1000).unwrap();
            if read.is_empty() {
                break;
            }
            frames.extend(read.iter().map(|frame| frame.frame().clone()));
        }
        let (mut next, mut chain) = (0, Chain::EMPTY);
        for frame in &frames {
            assert_eq!(frame.base_offset(), next, "offsets have no gap");
            chain = frame.chain_after(&chain);
            assert_eq!(frame.chain(), chain, "the chain holds");
            next = frame.next_offset();
        }
        let head = log.head(&namespace).unwrap();
        assert_eq!((head.next_offset, head.chain), (next, chain), "all is read");
        all.insert(namespace.name().to_string(), frames);
    }
    all
}

/// All frames of the partition, control frames too.
fn scan(log: &Log) -> Vec<Frame> {
    let mut scan = log.scan(0, 0);
    let mut frames = Vec::new();
    loop {
        let read = scan.read_blocking(1000).unwrap();
        if read.is_empty() {
            return frames;
        }
        frames.extend(read);
    }
}
