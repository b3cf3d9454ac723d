//! Damage to what was durable: a bit that flips, a block that comes back old, one that is written over
//! another. The log must say so and name the place, or have lost nothing (invariant 5).

use std::ops::Range;
use std::path::{Path, PathBuf};

use tlog::storage::Simulated;
use tlog::{Log, OpenError, ReadError};
use wire::Frame;

use crate::durable::{SEGMENT_HEADER_BYTES, partition_dir, segments};
use crate::folder::Fate;
use crate::world::{End, World, broken};

const SECTOR_BYTES: u64 = 512;

/// What was damaged.
#[derive(Debug)]
struct Damage {
    file: PathBuf,
    bytes: Range<u64>,
}

/// Damages copies of what a run has left, and looks at what the log makes of them.
pub fn rounds(world: &mut World) {
    // All doubts are resolved first, so that it is known what must be there.
    world.restart(End::Killed);
    let end = [End::Closed, End::Killed, End::PowerCut][world.rng.index(3)];
    let fate = world.end(end);
    world.rows.save();
    for _ in 0..1 + world.rng.below(3) {
        let disk = world.storage.fork();
        let Some(damage) = inflict(world, &disk) else { continue };
        world.rows.restore();
        judge(world, &disk, &damage, fate);
        world.note(&format!("{:?}", damage.bytes));
        world.counts.add_all(&disk.counts_since(&world.storage));
    }
}

fn inflict(world: &mut World, disk: &Simulated) -> Option<Damage> {
    let rng = &mut world.rng;
    let files = disk.files();
    let logs: Vec<_> = files.iter().filter(|path| path.extension().is_some_and(|e| e == "log")).collect();
    let file =
        if rng.chance(3, 4) && !logs.is_empty() { logs[rng.index(logs.len())] } else { &files[rng.index(files.len())] };
    let sectors = disk.sectors(file);
    if sectors == 0 {
        return None;
    }
    let sector = rng.below(sectors);
    let mut bytes = sector * SECTOR_BYTES..(sector + 1) * SECTOR_BYTES;
    let done = match rng.below(3) {
        0 => {
            let byte = rng.below(disk.durable(file)?.len() as u64);
            bytes = byte..byte + 1;
            disk.flip_bit(file, byte, rng.below(8) as u32);
            true
        }
        1 => disk.make_stale(file, sector),
        _ => {
            let from = &files[rng.index(files.len())];
            disk.misdirect((from, rng.below(disk.sectors(from))), (file, sector))
        }
    };
    done.then(|| Damage { file: file.clone(), bytes })
}

/// A partition's frame that begins at a position, and the bytes of its file that it takes.
fn place(disk: &Simulated, data: &Path, partition: u16, frame: &Frame) -> (PathBuf, Range<u64>) {
    let segments = segments(disk, data, partition);
    let (base, path) = segments.iter().rev().find(|(base, _)| *base <= frame.position()).unwrap();
    let from = SEGMENT_HEADER_BYTES + frame.position() - base;
    (path.clone(), from..from + frame.len() as u64)
}

impl Damage {
    fn hits(&self, disk: &Simulated, data: &Path, partition: u16, frame: &Frame) -> bool {
        let (file, bytes) = place(disk, data, partition, frame);
        file == self.file && bytes.start < self.bytes.end && self.bytes.start < bytes.end
    }

    /// Holds what an error names against what was damaged.
    fn is_named(&self, world: &World, disk: &Simulated, file: &Path, position: u64, reason: &str) {
        if file != self.file {
            broken!("{} is said to be damaged, it was {self:?}", file.display());
        }
        let partition = (0..world.options.partitions).find(|id| file.parent() == Some(&partition_dir(&world.dir, *id)));
        let Some(partition) = partition else { broken!("{} is no segment", file.display()) };
        let state = &world.model.partitions[usize::from(partition)];
        // What was written behind the last frame may look like what was lost there.
        let behind_all = position == state.end;
        let in_header = self.bytes.start < SEGMENT_HEADER_BYTES;
        let named = state.frames.iter().find(|frame| frame.position() == position);
        if !in_header && !behind_all && !named.is_some_and(|frame| self.hits(disk, &world.dir, partition, frame)) {
            broken!("position {position} is said to be damaged ({reason}), it was {self:?}");
        }
    }
}

fn judge(world: &World, disk: &Simulated, damage: &Damage, fate: Fate) {
    // The files as they are before recovery works on them.
    let before = disk.fork();
    match world.open_on(disk, &world.dir) {
        Ok((log, _driver)) => {
            for partition in 0..world.options.partitions {
                judge_partition(world, &before, &log, partition, damage, fate);
            }
        }
        Err(OpenError::Damaged { file, position, reason }) => {
            damage.is_named(world, &before, &file, position, &reason);
            let report = tlog::check::check(&before, &world.dir, |_| {}).unwrap();
            // That a header is wrong, or that the rows stand for more than a torn tail leaves, is for a
            // start to find.
            let found = report.torn_bytes > 0 || report.faults.iter().any(|fault| fault.file == file);
            if !found && damage.bytes.start >= SEGMENT_HEADER_BYTES {
                broken!("the check finds nothing in {}: {report:?}", file.display());
            }
        }
        Err(OpenError::Description { file, .. } | OpenError::Format { file, .. }) if file == damage.file => {}
        Err(OpenError::RowsAhead { .. }) if damage.file.extension().is_some_and(|e| e == "log") => {}
        Err(error) => broken!("{error}, after {damage:?}"),
    }
}

fn judge_partition(world: &World, disk: &Simulated, log: &Log, partition: u16, damage: &Damage, fate: Fate) {
    let due = &world.model.partitions[usize::from(partition)].frames;
    let mut scan = log.scan(partition, 0);
    let mut found = 0;
    loop {
        match scan.read_blocking(2000) {
            Ok(frames) if frames.is_empty() => break,
            Ok(frames) => {
                for frame in frames {
                    if due.get(found) != Some(&frame) {
                        broken!("another frame at {} after {damage:?}", frame.position());
                    }
                    found += 1;
                }
            }
            Err(ReadError::Damaged { file, position, reason }) => {
                damage.is_named(world, disk, &file, position, &reason);
                found = due.len();
                break;
            }
            Err(error) => broken!("{error}, after {damage:?}"),
        }
    }
    if found < due.len() {
        judge_cut(world, disk, partition, &due[found..], damage, fate);
        return;
    }
    for (_, state) in world.model.live().filter(|(_, state)| state.handle.id().partition(log.partitions()) == partition)
    {
        let mut reader = log.reader(&state.handle, 0).unwrap();
        let mut due = state.frames.iter();
        loop {
            match reader.read_blocking(3000) {
                Ok(frames) if frames.is_empty() => break,
                Ok(frames) => {
                    if frames.iter().any(|frame| Some(frame.frame()) != due.next()) {
                        broken!("{} has other records after {damage:?}", state.handle.name());
                    }
                }
                Err(ReadError::Damaged { file, position, reason }) => {
                    damage.is_named(world, disk, &file, position, &reason);
                    due = [].iter();
                    break;
                }
                Err(error) => broken!("{error}, after {damage:?}"),
            }
        }
        if due.next().is_some() {
            broken!("{} ends too early after {damage:?}", state.handle.name());
        }
    }
}

/// Damage to the last commit can't be told from a power cut in the midst of it, unless the rows stand
/// for it, or something later does. Nothing else may be cut.
fn judge_cut(world: &World, disk: &Simulated, partition: u16, lost: &[Frame], damage: &Damage, fate: Fate) {
    let at = lost[0].position();
    let hits = |frame: &Frame| damage.hits(disk, &world.dir, partition, frame);
    if !hits(&lost[0]) {
        broken!("position {at} is cut, {damage:?} is elsewhere");
    }
    if fate == Fate::Kept {
        broken!("position {at} is cut, the rows stand for it");
    }
    if let Some(later) = lost.iter().find(|frame| frame.commit_start() > at && !hits(frame)) {
        broken!("position {at} is cut, it was durable when {} was written", later.position());
    }
}
