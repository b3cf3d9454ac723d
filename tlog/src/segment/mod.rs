//! Segments: the files of a partition. One is active, those before it are sealed, each with an
//! index beside it.
//!
//! ```text
//! DIR/partitions/003/00000000000000000000.log   sealed, immutable
//! DIR/partitions/003/00000000000000000000.idx   where each namespace's frames are in it
//! DIR/partitions/003/00000000000033554368.log   active: frames, then zeros up to its size
//! DIR/partitions/003/spare-1.tmp                the next one, zeroed ahead of need
//! ```
//!
//! A segment is named by its base, the position of its first frame. It begins with a header, and
//! frames follow without a gap: the frame at a position stands at `64 + position − base`.
//!
//! ```text
//!  0   8  magic          "TLOGSEG1"
//!  8   4  CRC-32 (IEEE)  of bytes 12 to 64
//! 12   4  partition
//! 16   8  base position
//! 24  40  zero
//! ```

pub(crate) mod index;
pub(crate) mod open;
pub(crate) mod scan;
pub(crate) mod sealed;

use std::path::{Path, PathBuf};

use wire::Position;

/// Bytes of a segment before its first frame.
pub(crate) const HEADER_BYTES: usize = 64;

const MAGIC: [u8; 8] = *b"TLOGSEG1";

/// The folder of a partition's segments.
pub(crate) fn partition_dir(data: &Path, partition: u16) -> PathBuf {
    data.join("partitions").join(format!("{partition:03}"))
}

/// The path of the `n`th file that is made to be the next segment.
pub(crate) fn spare_path(dir: &Path, n: u64) -> PathBuf {
    dir.join(format!("spare-{n}.tmp"))
}

/// The path of the segment with this base.
pub(crate) fn log_path(dir: &Path, base: Position) -> PathBuf {
    dir.join(format!("{base:020}.log"))
}

/// The path of the index of the segment with this base.
pub(crate) fn index_path(dir: &Path, base: Position) -> PathBuf {
    dir.join(format!("{base:020}.idx"))
}

/// The base of the segment at a path, if one is there.
pub(crate) fn base_of(path: &Path) -> Option<Position> {
    base_before(path, ".log")
}

/// The base of the segment whose index is at a path, if one is there.
pub(crate) fn index_base_of(path: &Path) -> Option<Position> {
    base_before(path, ".idx")
}

fn base_before(path: &Path, suffix: &str) -> Option<Position> {
    let digits = path.file_name()?.to_str()?.strip_suffix(suffix)?;
    (digits.len() == 20).then(|| digits.parse().ok())?
}

/// The header of a segment.
pub(crate) fn encode_header(partition: u16, base: Position) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[..8].copy_from_slice(&MAGIC);
    header[12..16].copy_from_slice(&u32::from(partition).to_le_bytes());
    header[16..24].copy_from_slice(&base.to_le_bytes());
    let crc = crc32fast::hash(&header[12..]);
    header[8..12].copy_from_slice(&crc.to_le_bytes());
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_header_and_names() {
        let header = encode_header(3, 0x0102);
        assert_eq!(header[..8], *b"TLOGSEG1");
        assert_eq!(header[8..12], crc32fast::hash(&header[12..]).to_le_bytes());
        assert_eq!(header[12..24], [3, 0, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0]);
        assert_eq!(header[24..], [0; 40]);
        let path = log_path(&partition_dir(Path::new("d"), 3), 33_554_368);
        assert_eq!(path, Path::new("d/partitions/003/00000000000033554368.log"));
        assert_eq!(base_of(&path), Some(33_554_368));
        for other in ["spare-1.tmp", "1.log", "00000000000033554368.idx", "0000000000003355436x.log"] {
            assert_eq!(base_of(Path::new(other)), None, "{other}");
        }
    }
}
