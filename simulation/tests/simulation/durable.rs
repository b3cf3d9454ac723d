//! What is durable, looked up on the disk itself (invariants 1 and 2).

use std::path::{Path, PathBuf};

use tlog::Log;
use tlog::storage::Simulated;
use wire::Frame;

use crate::model::Model;
use crate::world::broken;

/// Bytes of a segment before its first frame.
pub const SEGMENT_HEADER_BYTES: u64 = 64;

pub fn partition_dir(data: &Path, partition: u16) -> PathBuf {
    data.join(format!("partitions/{partition:03}"))
}

/// The segments of a partition with their bases, ascending.
pub fn segments(storage: &Simulated, data: &Path, partition: u16) -> Vec<(u64, PathBuf)> {
    let dir = partition_dir(data, partition);
    let logs = storage.files().into_iter().filter(|path| path.parent() == Some(&dir));
    let based = logs.filter_map(|path| {
        let name = path.file_name()?.to_str()?.strip_suffix(".log")?;
        Some((name.parse().ok()?, path))
    });
    based.collect()
}

/// Whether frames would survive a power cut that loses whatever it can.
pub fn check(storage: &Simulated, data: &Path, partition: u16, frames: &[Frame]) {
    let segments = segments(storage, data, partition);
    let mut frames = frames.iter().peekable();
    for (at, (base, path)) in segments.iter().enumerate() {
        let end = segments.get(at + 1).map_or(u64::MAX, |(next, _)| *next);
        if frames.peek().is_none_or(|frame| frame.position() >= end) {
            continue;
        }
        let Some(bytes) = storage.durable(path) else { broken!("the name of {} is not durable", path.display()) };
        while let Some(frame) = frames.next_if(|frame| frame.position() < end) {
            let from = (SEGMENT_HEADER_BYTES + frame.position() - base) as usize;
            if bytes.get(from..from + frame.len()) != Some(frame.bytes()) {
                broken!("acked and not durable: position {} in {}", frame.position(), path.display());
            }
        }
    }
    if let Some(frame) = frames.next() {
        broken!("no segment holds position {} of partition {partition}", frame.position());
    }
}

/// What is checked in the midst of a commit: just before a sync, when the bytes are written and not
/// durable.
pub struct Probe {
    storage: Simulated,
    dir: PathBuf,
    log: Log,
}

impl Probe {
    pub fn new(storage: &Simulated, dir: &Path, log: &Log, _model: &Model) -> Probe {
        Probe { storage: storage.clone(), dir: dir.to_owned(), log: log.clone() }
    }

    pub fn check(&self) {
        for partition in 0..self.log.partitions() {
            let watermark = *self.log.watermark(partition).borrow();
            let segments = segments(&self.storage, &self.dir, partition);
            if let Some((base, path)) = segments.iter().rev().find(|(base, _)| *base < watermark.position) {
                let length = (SEGMENT_HEADER_BYTES + watermark.position - base) as usize;
                let (durable, contents) = (self.storage.durable(path), self.storage.contents(path));
                let shown = contents.as_deref().and_then(|bytes| bytes.get(..length));
                if shown.is_none() || durable.as_deref().and_then(|bytes| bytes.get(..length)) != shown {
                    broken!("readers of partition {partition} are shown what is not durable");
                }
            }
            match self.log.scan(partition, watermark.position).read_blocking(1) {
                Ok(frames) if frames.is_empty() => {}
                other => broken!("a scan of partition {partition} goes past the watermark: {other:?}"),
            }
        }
    }
}
