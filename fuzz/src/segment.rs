//! What reads a segment: the scan, the index made from it, the judgement of its tail.
//!
//! ```text
//! 0  mode   bit 0: checksums and positions are made right
//! 1  where a second scan begins and ends, and what is searched behind: in 32nds of the segment
//! 3  the frames: what stands behind the segment's header
//! ```

use std::collections::BTreeMap;

use bytes::Bytes;
use tlog::fuzzing::{Index, Segment};
use wire::{Frame, FrameError, NamespaceId, Position};

use crate::forge::Forge;

const HEADER_BYTES: usize = 64;
const BASE: Position = 0x7_0000;

/// Runs the target.
pub fn run(data: &[u8]) {
    let [mode, from, to, frames @ ..] = data else { return };
    let mut bytes = vec![0; HEADER_BYTES];
    bytes.extend_from_slice(frames);
    if mode & 1 != 0 {
        Forge::new(true, false).seal(&mut bytes[HEADER_BYTES..], BASE);
    }
    let segment = Segment::new(&bytes, BASE);
    let (found, _) = segment.scan(BASE, Position::MAX);
    let mut end = BASE;
    for frame in &found {
        assert_eq!(frame.position(), end, "frames follow each other");
        end = frame.end();
    }
    assert!(end - BASE <= frames.len() as u64);
    check_index(&segment, &found, end);
    assert!(segment.index(end + 1).is_err(), "no frame ends there");

    // From anywhere to anywhere, behind the end of the file too.
    let part = |part: u8| BASE + frames.len() as u64 * u64::from(part) / 32;
    let (part_of, _) = segment.scan(part(*from), part(*to));
    assert!(part_of.iter().all(|frame| frame.end() <= part(*to)), "a scan stops where it is to");
    for behind in [end, part(*to).min(BASE + frames.len() as u64)] {
        assert_eq!(segment.durable_behind(behind), later_commit(frames, &bytes, behind));
    }
}

/// The index says of each namespace what the scan has found.
fn check_index(segment: &Segment, found: &[Frame], end: Position) {
    let mut expected: BTreeMap<NamespaceId, Vec<(u64, u32, u32)>> = BTreeMap::new();
    for frame in found {
        let entry = (frame.base_offset(), (frame.position() - BASE) as u32, frame.len() as u32);
        expected.entry(frame.namespace()).or_default().push(entry);
    }
    let index = Index::open(&segment.index(end).unwrap()).unwrap();
    let firsts: Vec<_> = expected.iter().map(|(id, entries)| (*id, entries[0].0)).collect();
    assert_eq!(index.firsts(), firsts);
    for (id, entries) in expected {
        assert_eq!(index.entries(id), Ok(entries));
    }
}

/// The first frame in place whose write began behind a position: searched at every byte.
fn later_commit(frames: &[u8], bytes: &[u8], behind: Position) -> Option<Position> {
    let from = (behind - BASE) as usize;
    (from..frames.len()).find_map(|at| {
        let rest = &bytes[HEADER_BYTES + at..];
        let length = Frame::length(rest).ok().filter(|length| *length <= rest.len())?;
        let position = BASE + at as u64;
        let frame = match Frame::decode(Bytes::copy_from_slice(&rest[..length])) {
            // A frame of another version in its place may be of a later commit.
            Err(FrameError::BadVersion(_)) => {
                return (Frame::claimed_position(rest) == Some(position)).then_some(position);
            }
            frame => frame.ok()?,
        };
        (frame.position() == position && frame.commit_start() > behind).then_some(position)
    })
}
