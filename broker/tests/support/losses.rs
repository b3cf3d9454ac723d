//! A data folder that has lost records, as a repair leaves it.

use std::ops::Range;
use std::path::Path;

use wire::loss::Known;
use wire::{Frame, Loss, NamespaceId};

/// Bytes of a segment before its first frame.
const SEGMENT_HEADER_BYTES: usize = 64;

/// Puts a loss where the frames of each range of a namespace's offsets stand, one behind the other, and
/// removes all that is derived. Nobody may have the folder open.
pub fn lose(data: &Path, namespace: u32, ranges: &[Range<u64>]) {
    let namespace = NamespaceId::new(namespace).unwrap();
    let mut lost = 0;
    for partition in std::fs::read_dir(data.join("partitions")).unwrap() {
        for file in std::fs::read_dir(partition.unwrap().path()).unwrap() {
            let path = file.unwrap().path();
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("log") => {
                    let mut segment = std::fs::read(&path).unwrap();
                    lost += ranges.iter().filter(|range| lose_in(&mut segment, namespace, range)).count();
                    std::fs::write(&path, &segment).unwrap();
                }
                _ => std::fs::remove_file(&path).unwrap(),
            }
        }
    }
    assert_eq!(lost, ranges.len(), "each range stands in one segment");
    for derived in ["rows", "stores", "ledger"] {
        if data.join(derived).exists() {
            std::fs::remove_dir_all(data.join(derived)).unwrap();
        }
    }
}

/// Says whether there was something to lose.
fn lose_in(segment: &mut [u8], namespace: NamespaceId, range: &Range<u64>) -> bool {
    let mut lost = frames(segment);
    lost.retain(|(_, frame)| frame.namespace() == namespace && range.contains(&frame.base_offset()));
    let Some(((at, first), (last_at, last))) = lost.first().zip(lost.last()) else { return false };
    assert!(lost.windows(2).all(|pair| pair[0].1.end() == pair[1].1.position()), "they are adjacent");
    assert_eq!((first.base_offset(), last.next_offset()), (range.start, range.end), "they are whole");
    let (length, count) = (last_at + last.len() - at, (range.end - range.start) as u32);
    let loss = Loss {
        position: first.position(),
        length,
        namespace,
        generation: first.generation(),
        base_offset: range.start,
        count,
        time_micros: first.time_micros(),
        known: Known::Counters { unlisted: count, listed: Vec::new() },
    };
    segment[*at..at + length].copy_from_slice(loss.encode().unwrap().bytes());
    true
}

/// The frames of a segment, and where each stands in the file.
fn frames(segment: &[u8]) -> Vec<(usize, Frame)> {
    let mut found = Vec::new();
    let mut at = SEGMENT_HEADER_BYTES;
    while let Some(Ok(length)) = segment.get(at..).filter(|rest| rest.len() >= 12).map(Frame::length) {
        found.push((at, Frame::decode(segment[at..at + length].to_vec().into()).unwrap()));
        at += length;
    }
    found
}
