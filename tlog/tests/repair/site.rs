//! A data folder made by a real run, with all that is known of it; and what must hold of it once it was
//! damaged and repaired.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tempfile::TempDir;
use tlog::check::{FaultKind, Report, check_all};
use tlog::repair::{Plan, RepairError, Repaired};
use tlog::storage::simulated::Rng;
use tlog::{Append, Disk, Log, Namespace, Options, SharedFrame};
use wire::{Frame, NamespaceId, ObjectId};

use crate::support::{append, batch, create, open};

pub const SEGMENT_HEADER_BYTES: u64 = 64;

pub fn options() -> Options {
    Options { partitions: 2, segment_bytes: 4096, ..Options::default() }
}

/// What was written to a namespace.
#[derive(Debug, Clone)]
pub struct Written {
    pub id: NamespaceId,
    pub frames: Vec<Frame>,
}

pub struct Site {
    pub dir: TempDir,
    /// By name.
    pub written: BTreeMap<String, Written>,
    /// All frames of each partition.
    pub frames: Vec<Vec<Frame>>,
    pub ends: Vec<u64>,
}

/// Which frames are destroyed, by partition and position.
pub type Destroyed = BTreeSet<(u16, u64)>;

impl Site {
    /// Some namespaces over several segments of two partitions; the log is closed.
    pub async fn new(seed: u64) -> Site {
        let dir = tempfile::tempdir().unwrap();
        let log = open(dir.path(), &Arc::new(Disk), options()).unwrap();
        let mut rng = Rng::new(seed);
        let mut names: Vec<String> = Vec::new();
        for n in 0..90 {
            if names.len() < 8 && (names.is_empty() || rng.chance(1, 6)) {
                let name = format!("ns/{n}");
                create(&log, &name).await;
                names.push(name);
            }
            if names.len() > 5 && rng.chance(1, 40) {
                let name = names.remove(rng.index(names.len()));
                log.delete(&named(&log, &name)).await.unwrap();
                continue;
            }
            let namespace = named(&log, &names[rng.index(names.len())]);
            let values: Vec<String> =
                (0..=rng.below(3)).map(|at| format!("{n}.{at}{}", "x".repeat(rng.index(200)))).collect();
            append(&log, &namespace, &values.iter().map(String::as_str).collect::<Vec<_>>()).await.unwrap();
        }
        // So that the last segments hold some too.
        for n in 0..12 {
            append(&log, &named(&log, &names[n % names.len()]), &["end"]).await.unwrap();
        }
        let written = names
            .iter()
            .map(|name| {
                let namespace = named(&log, name);
                let frames = read(&log, &namespace, 0).iter().map(|frame| frame.frame().clone()).collect();
                (name.clone(), Written { id: namespace.id(), frames })
            })
            .collect();
        let frames = (0..2).map(|partition| scan(&log, partition)).collect();
        let ends = (0..2).map(|partition| log.watermark(partition).borrow().position).collect();
        log.close();
        Site { dir, written, frames, ends }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn open(&self) -> Log {
        open(self.path(), &Arc::new(Disk), options()).unwrap()
    }

    pub fn check(&self) -> Report {
        let before = snapshot(self.path());
        let scratch = tempfile::tempdir().unwrap();
        let report = check_all(&Disk, self.path(), Some(scratch.path()), &mut |_, _| {}, &mut |_| {}).unwrap();
        assert!(snapshot(self.path()) == before, "a check changes nothing");
        report
    }

    pub fn repair(&self) -> Result<Option<Repaired>, RepairError> {
        let scratch = tempfile::tempdir().unwrap();
        let plan = Plan::make(&Disk, self.path(), Some(scratch.path()), &mut |_, _| {}, &mut |_| {})?;
        if plan.is_empty() { Ok(None) } else { plan.carry_out().map(Some) }
    }

    pub fn delete_rows(&self) {
        std::fs::remove_dir_all(self.path().join("rows")).unwrap();
    }

    /// The segments of a partition: base and path.
    pub fn segments(&self, partition: u16) -> Vec<(u64, PathBuf)> {
        let dir = self.path().join(format!("partitions/{partition:03}"));
        let files = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
        let mut logs: Vec<(u64, PathBuf)> = files
            .filter_map(|path| Some((path.file_name()?.to_str()?.strip_suffix(".log")?.parse().ok()?, path)))
            .collect();
        logs.sort();
        logs
    }

    /// The file of a position, and the place in it.
    pub fn place(&self, partition: u16, position: u64) -> (PathBuf, u64) {
        let segments = self.segments(partition);
        let (base, path) = segments.iter().rev().find(|(base, _)| *base <= position).unwrap();
        (path.clone(), SEGMENT_HEADER_BYTES + position - base)
    }

    /// Writes over a range of positions.
    pub fn overwrite(&self, partition: u16, mut range: Range<u64>, byte: impl Fn(u8) -> u8) {
        for (base, path) in self.segments(partition).into_iter().rev() {
            let mut bytes = std::fs::read(&path).unwrap();
            let place = |position: u64| (SEGMENT_HEADER_BYTES + position - base) as usize;
            let (from, to) = (range.start.max(base), range.end.max(base));
            range.end = range.end.min(base);
            let to = place(to).min(bytes.len());
            for found in bytes.get_mut(place(from)..to).into_iter().flatten() {
                *found = byte(*found);
            }
            std::fs::write(&path, bytes).unwrap();
        }
    }

    /// The frames that a range of positions touches.
    pub fn touched(&self, partition: u16, range: &Range<u64>) -> Destroyed {
        let frames = self.frames[usize::from(partition)].iter();
        let hit = frames.filter(|frame| frame.position() < range.end && range.start < frame.end());
        hit.map(|frame| (partition, frame.position())).collect()
    }

    /// The frames that are not what they were.
    pub fn changed(&self) -> Destroyed {
        let all = (0u16..)
            .zip(&self.frames)
            .flat_map(|(partition, frames)| frames.iter().map(move |frame| (partition, frame)));
        let changed = all.filter(|(partition, frame)| {
            let (path, place) = self.place(*partition, frame.position());
            !std::fs::read(path).unwrap()[place as usize..].starts_with(frame.bytes())
        });
        changed.map(|(partition, frame)| (partition, frame.position())).collect()
    }

    /// Namespaces of which no frame is destroyed.
    fn is_untouched(&self, written: &Written, destroyed: &Destroyed) -> bool {
        let partition = written.id.partition(2);
        !written.frames.iter().any(|frame| destroyed.contains(&(partition, frame.position())))
    }

    /// Checks, repairs and checks again, and looks at all that must hold then. `exact`: what is lost can be
    /// known, to the offset and the id.
    pub async fn judge(&self, destroyed: &Destroyed, exact: bool) -> Option<Repaired> {
        let before = self.check();
        assert_eq!(before.faults.is_empty(), destroyed.is_empty(), "{before:#?}");
        let originals = snapshot(self.path());
        let repaired = self.repair().unwrap();
        if let Some(repaired) = &repaired {
            for path in &repaired.moved {
                let (was, is) = (self.path().join(path), repaired.aside.join(path));
                if let Some(bytes) = originals.get(&was) {
                    assert!(std::fs::read(&is).unwrap() == *bytes, "{path} is aside as it was");
                }
            }
        }
        let after = self.check();
        assert!(after.is_clean(), "{after:#?}\nbefore: {before:#?}");
        assert_eq!(self.repair().unwrap(), None, "a second repair does nothing");
        self.judge_open(destroyed, exact).await;
        self.judge_open(destroyed, exact).await;
        let last = self.check();
        assert!(last.is_clean(), "{last:#?}");
        repaired
    }

    async fn judge_open(&self, destroyed: &Destroyed, exact: bool) {
        let log = self.open();
        for (name, written) in &self.written {
            let partition = written.id.partition(2);
            let is_lost = |frame: &Frame| destroyed.contains(&(partition, frame.position()));
            let Some(namespace) = self.find(&log, name, written) else {
                assert!(!exact, "{name} is gone");
                assert!(written.frames.iter().all(is_lost), "{name} is gone, and not all of it was");
                continue;
            };
            let found = read(&log, &namespace, 0);
            self.judge_frames(name, written, &found, &is_lost, exact);
            if self.is_untouched(written, destroyed) && exact {
                assert_eq!(&**namespace.name(), name);
            }
            let given: BTreeSet<ObjectId> =
                written.frames.iter().flat_map(Frame::records).map(|record| record.id).collect();
            let known_all = exact || written.frames.last().is_none_or(|last| !is_lost(last));
            for value in 0..16 {
                let frame = append(&log, &namespace, &[&value.to_string()]).await.unwrap().frame;
                let id = frame.records().next().unwrap().id;
                assert!(!known_all || !given.contains(&id), "{id} of {name} is given twice");
            }
            for from in 0..log.head(&namespace).unwrap().next_offset {
                let first = &log.reader(&namespace, from).unwrap().read_blocking(1).unwrap()[0];
                assert!(first.base_offset() <= from && from < first.next_offset());
            }
        }
        let fresh = create(&log, &format!("fresh/{}", log.watermark(0).borrow().position)).await;
        log.append(&fresh, Append::new(batch(&["x"]))).await.unwrap();
        log.close();
    }

    /// A namespace, by its name or by the one that it was given where that is lost.
    pub fn find(&self, log: &Log, name: &str, written: &Written) -> Option<Namespace> {
        let by_name = log.namespace(name).unwrap();
        by_name.or_else(|| log.namespace_by_id(written.id).unwrap())
    }

    fn judge_frames(
        &self,
        name: &str,
        written: &Written,
        found: &[Arc<SharedFrame>],
        is_lost: &dyn Fn(&Frame) -> bool,
        exact: bool,
    ) {
        let mut due = 0;
        let mut lost: BTreeSet<u64> = BTreeSet::new();
        for frame in found {
            assert_eq!(frame.base_offset(), due, "{name} has a gap");
            due = frame.next_offset();
            if frame.is_loss() {
                lost.extend(frame.base_offset()..due);
            }
        }
        for frame in &written.frames {
            if is_lost(frame) {
                let all = (frame.base_offset()..frame.next_offset()).all(|offset| lost.remove(&offset));
                assert!(all || !exact, "{name} does not say that {} is lost", frame.base_offset());
            } else {
                let same = found.iter().any(|found| found.bytes() == frame.bytes());
                assert!(same, "offset {} of {name} was not destroyed and is not there", frame.base_offset());
            }
        }
        assert!(!exact || lost.is_empty(), "{name} says that {lost:?} are lost, which are not");
    }
}

pub fn named(log: &Log, name: &str) -> Namespace {
    log.namespace(name).unwrap().unwrap()
}

pub fn read(log: &Log, namespace: &Namespace, from: u64) -> Vec<Arc<SharedFrame>> {
    let mut reader = log.reader(namespace, from).unwrap();
    let mut frames = Vec::new();
    loop {
        let more = reader.read_blocking(2000).unwrap();
        if more.is_empty() {
            return frames;
        }
        frames.extend(more);
    }
}

fn scan(log: &Log, partition: u16) -> Vec<Frame> {
    let mut scan = log.scan(partition, 0);
    let mut frames = Vec::new();
    loop {
        let more = scan.read_blocking(2000).unwrap();
        if more.is_empty() {
            return frames;
        }
        frames.extend(more);
    }
}

/// All files of a folder, with their bytes; but for the lock.
pub fn snapshot(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(snapshot(&path));
        } else if path.file_name().is_some_and(|name| name != "LOCK") {
            files.insert(path.clone(), std::fs::read(&path).unwrap());
        }
    }
    files
}

pub fn kinds(report: &Report) -> Vec<FaultKind> {
    report.faults.iter().chain(&report.derived_faults).map(|fault| fault.kind).collect()
}
