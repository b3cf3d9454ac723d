//! The index file of a sealed segment: a namespace's frames in it are found without a scan.
//!
//! ```text
//!  0   8  magic          "TLOGIDX1"
//!  8   4  CRC-32 (IEEE)  of bytes 12 to 64
//! 12   4  CRC-32 (IEEE)  of all bytes from 64 on
//! 16   8  base           position of the segment's first frame
//! 24   8  end            position behind its last
//! 32   4  namespaces     how many have frames in it
//! 36   4  frames         how many have a row below
//! 40  24  zero
//! 64      a row for each namespace, ascending by id:
//!          0  4  namespace id
//!          4  4  its first frame, counted over the rows below
//!          8  8  base offset of that frame
//!         a row for each frame, by namespace, then offset; none for a loss that only fills:
//!          0  8  base offset
//!          8  4  position minus the segment's base
//!         12  4  length, bytes
//! ```
//!
//! Numbers are little-endian. An index is derived: one that is missing or fails its checksums is
//! made again from its segment.
//!
//! A reader of a few frames need not read all of an index to check it: each frame says what it is, and one
//! that is skipped is missed. So what was opened by its header alone is believed until the frames contradict it.

use std::io::{self, IoSlice};
use std::sync::Arc;

use wire::{NamespaceId, Offset, Position};

use super::open::{Entry, OpenSegment};
use crate::storage::File;

const MAGIC: [u8; 8] = *b"TLOGIDX1";
const HEADER_BYTES: usize = 64;
const ROW_BYTES: usize = 16;

/// How much is read at once to check the body.
const CHECK_BYTES: usize = 1 << 20;

/// What a reader of a few frames is likely to need of an index: its header, and the rows of some thousand namespaces.
const AHEAD_BYTES: u64 = 64 << 10;

/// What an index says of its segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct IndexHeader {
    pub(crate) base: Position,
    pub(crate) end: Position,
    pub(crate) namespaces: u32,
    pub(crate) frames: u32,
    body_crc: u32,
}

/// Why a file is not the index of its segment.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IndexError {
    #[error("{0}")]
    Invalid(&'static str),
    #[error(transparent)]
    Io(#[from] io::Error),
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes[at..].first_chunk().map_or(0, |field| u32::from_le_bytes(*field))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes[at..].first_chunk().map_or(0, |field| u64::from_le_bytes(*field))
}

/// The index file of a segment.
pub(crate) fn encode(segment: &OpenSegment) -> Vec<u8> {
    let namespaces = segment.namespaces();
    let rows = namespaces.len() + segment.frames() as usize;
    let mut file = vec![0; HEADER_BYTES];
    file.reserve_exact(rows * ROW_BYTES);
    let mut first_frame = 0u32;
    for (id, entries) in &namespaces {
        file.extend_from_slice(&id.get().to_le_bytes());
        file.extend_from_slice(&first_frame.to_le_bytes());
        file.extend_from_slice(&entries[0].base_offset.to_le_bytes());
        first_frame += entries.len() as u32;
    }
    for entry in namespaces.iter().flat_map(|(_, entries)| *entries) {
        file.extend_from_slice(&entry.base_offset.to_le_bytes());
        file.extend_from_slice(&entry.at.to_le_bytes());
        file.extend_from_slice(&entry.length.to_le_bytes());
    }
    let body_crc = crc32fast::hash(&file[HEADER_BYTES..]);
    file[..8].copy_from_slice(&MAGIC);
    file[12..16].copy_from_slice(&body_crc.to_le_bytes());
    file[16..24].copy_from_slice(&segment.file.base.to_le_bytes());
    file[24..32].copy_from_slice(&segment.end.to_le_bytes());
    file[32..36].copy_from_slice(&(namespaces.len() as u32).to_le_bytes());
    file[36..40].copy_from_slice(&segment.frames().to_le_bytes());
    let crc = crc32fast::hash(&file[12..HEADER_BYTES]);
    file[8..12].copy_from_slice(&crc.to_le_bytes());
    file
}

impl IndexHeader {
    /// Reads and checks the header alone, and that the file is as long as it says.
    pub(crate) fn read(file: &dyn File) -> Result<IndexHeader, IndexError> {
        let mut bytes = [0; HEADER_BYTES];
        let length = file.len()?;
        if length < HEADER_BYTES as u64 {
            return Err(IndexError::Invalid("it is shorter than its header"));
        }
        file.read_at(&mut bytes, 0)?;
        if bytes[..8] != MAGIC || u32_at(&bytes, 8) != crc32fast::hash(&bytes[12..]) {
            return Err(IndexError::Invalid("its header fails its checksum"));
        }
        let header = IndexHeader {
            base: u64_at(&bytes, 16),
            end: u64_at(&bytes, 24),
            namespaces: u32_at(&bytes, 32),
            frames: u32_at(&bytes, 36),
            body_crc: u32_at(&bytes, 12),
        };
        if header.end < header.base {
            return Err(IndexError::Invalid("its segment ends before it begins"));
        }
        let rows = u64::from(header.namespaces) + u64::from(header.frames);
        if length != HEADER_BYTES as u64 + rows * ROW_BYTES as u64 {
            return Err(IndexError::Invalid("its length is not what its header says"));
        }
        Ok(header)
    }
}

/// An index file that is open, and searched where it lies: it takes no memory.
#[derive(Debug)]
pub(crate) struct Index {
    file: Arc<dyn File>,
    header: IndexHeader,
}

impl Index {
    /// Asks for what a reader of a few frames is likely to need of an index.
    pub(crate) fn will_open(file: &dyn File) {
        file.will_read(0, AHEAD_BYTES);
    }

    /// Opens an index, checking its header alone. What its rows lead to is to be checked by who reads it.
    pub(crate) fn open_unchecked(file: Arc<dyn File>) -> Result<Index, IndexError> {
        IndexHeader::read(&*file).map(|header| Index { file, header })
    }

    /// Opens an index, checking all of it.
    pub(crate) fn open(file: Arc<dyn File>) -> Result<Index, IndexError> {
        let header = IndexHeader::read(&*file)?;
        let mut crc = crc32fast::Hasher::new();
        let mut at = HEADER_BYTES as u64;
        let end = file.len()?;
        let mut buffer = vec![0; CHECK_BYTES];
        while at < end {
            let part = &mut buffer[..CHECK_BYTES.min((end - at) as usize)];
            file.read_at(part, at)?;
            crc.update(part);
            at += part.len() as u64;
        }
        if crc.finalize() != header.body_crc && !mutant!(TrustIndex) {
            return Err(IndexError::Invalid("its rows fail their checksum"));
        }
        Ok(Index { file, header })
    }

    /// What the index says of its segment.
    pub(crate) fn header(&self) -> &IndexHeader {
        &self.header
    }

    fn row(&self, index: u32) -> io::Result<[u8; ROW_BYTES]> {
        let mut row = [0; ROW_BYTES];
        self.file.read_at(&mut row, HEADER_BYTES as u64 + u64::from(index) * ROW_BYTES as u64)?;
        Ok(row)
    }

    /// A namespace's frames in the segment, in order; none where it has none.
    ///
    /// # Errors
    /// Where the rows are not what was written.
    pub(crate) fn entries(&self, namespace: NamespaceId) -> Result<Vec<Entry>, IndexError> {
        let (mut low, mut high) = (0, self.header.namespaces);
        while low < high {
            let middle = low.midpoint(high);
            if u32_at(&self.row(middle)?, 0) < namespace.get() {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        if low == self.header.namespaces {
            return Ok(Vec::new());
        }
        let row = self.row(low)?;
        if u32_at(&row, 0) != namespace.get() {
            return Ok(Vec::new());
        }
        let next = low + 1;
        let end = if next == self.header.namespaces { self.header.frames } else { u32_at(&self.row(next)?, 4) };
        self.entries_between(u32_at(&row, 4), end)
    }

    fn entries_between(&self, first: u32, end: u32) -> Result<Vec<Entry>, IndexError> {
        if first >= end || end > self.header.frames {
            return Err(IndexError::Invalid("a row points to rows that are not there"));
        }
        let mut rows = vec![0; (end - first) as usize * ROW_BYTES];
        let at = HEADER_BYTES as u64 + (u64::from(self.header.namespaces) + u64::from(first)) * ROW_BYTES as u64;
        self.file.read_at(&mut rows, at)?;
        let (rows, _) = rows.as_chunks::<ROW_BYTES>();
        let mut entries = Vec::with_capacity(rows.len());
        let (mut due, length) = (0, self.header.end - self.header.base);
        for row in rows {
            let entry = Entry { base_offset: u64_at(row, 0), at: u32_at(row, 8), length: u32_at(row, 12) };
            let end = u64::from(entry.at) + u64::from(entry.length);
            if u64::from(entry.at) < due || end > length {
                return Err(IndexError::Invalid("a row points to where no frame can be"));
            }
            due = end;
            entries.push(entry);
        }
        Ok(entries)
    }

    /// All entries, by namespace, then offset.
    pub(crate) fn all(&self) -> Result<Vec<(NamespaceId, Entry)>, IndexError> {
        let mut all = Vec::new();
        for (namespace, _) in self.firsts()? {
            all.extend(self.entries(namespace)?.into_iter().map(|entry| (namespace, entry)));
        }
        Ok(all)
    }

    /// Each namespace with the offset of its first record in the segment, ascending by id.
    pub(crate) fn firsts(&self) -> io::Result<Vec<(NamespaceId, Offset)>> {
        let mut rows = vec![0; self.header.namespaces as usize * ROW_BYTES];
        self.file.read_at(&mut rows, HEADER_BYTES as u64)?;
        let (rows, _) = rows.as_chunks::<ROW_BYTES>();
        Ok(rows.iter().filter_map(|row| Some((NamespaceId::new(u32_at(row, 0))?, u64_at(row, 8)))).collect())
    }
}

/// Writes an index file and makes it durable, but for its folder's entry.
pub(crate) fn write(file: &dyn File, segment: &OpenSegment) -> io::Result<()> {
    file.write_at(&[IoSlice::new(&encode(segment))], 0)?;
    file.sync_data()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::segment::open::SegmentFile;
    use crate::storage::{Memory, Storage};
    use proptest::prelude::*;
    use std::path::Path;
    use wire::{Chain, Draft, NewRecord, Place};

    fn segment(storage: &Memory, base: Position, namespaces: &[u32]) -> OpenSegment {
        let path = Path::new("p/segment").to_owned();
        let file = storage.create(&path).unwrap();
        let mut segment = OpenSegment::new(SegmentFile { path, base, file });
        let mut offsets = std::collections::HashMap::new();
        for id in namespaces {
            let offset = offsets.entry(*id).or_insert(u64::from(*id) * 10);
            let place = Place {
                position: segment.end,
                commit_start: segment.end,
                namespace: NamespaceId::new(*id).unwrap(),
                generation: 1,
                base_offset: *offset,
                time_micros: 0,
                producer: None,
                chain: Chain::EMPTY,
            };
            *offset += 1;
            segment.push(&Draft::of(&NewRecord::text("v")).unwrap().place(&place, |_| 1));
        }
        segment
    }

    fn file_of(storage: &Memory, bytes: &[u8]) -> Arc<dyn File> {
        let path = Path::new("p/index");
        let _ = storage.remove(path);
        let file = storage.create(path).unwrap();
        file.write_at(&[IoSlice::new(bytes)], 0).unwrap();
        file
    }

    proptest! {
        #[test]
        fn every_entry_is_found_again(namespaces in prop::collection::vec(1u32..20, 1..80), base in 0..1u64 << 40) {
            let storage = Memory::new();
            let segment = segment(&storage, base, &namespaces);
            let index = Index::open(file_of(&storage, &encode(&segment))).unwrap();
            prop_assert_eq!((index.header().base, index.header().end), (base, segment.end));
            for id in 0..25 {
                let id = NamespaceId::new(id).unwrap();
                let expected = segment.frames_of(id).map_or(&[][..], |frames| &frames.entries);
                prop_assert_eq!(index.entries(id).unwrap(), expected);
            }
            let firsts: Vec<_> = segment.namespaces().iter().map(|(id, entries)| (*id, entries[0].base_offset)).collect();
            prop_assert_eq!(index.firsts().unwrap(), firsts);
        }

        #[test]
        fn any_flipped_bit_and_any_cut_is_found(bit in 0usize..8 * 128, cut in 0usize..128) {
            let storage = Memory::new();
            let bytes = encode(&segment(&storage, 7, &[1, 2]));
            prop_assert_eq!(bytes.len(), 128);
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(Index::open(file_of(&storage, &flipped)).is_err());
            prop_assert!(Index::open(file_of(&storage, &bytes[..cut])).is_err());
        }
    }

    #[test]
    fn a_segment_that_ends_before_it_begins_is_refused() {
        let storage = Memory::new();
        let mut bytes = encode(&segment(&storage, 7, &[1, 2]));
        bytes[24..32].copy_from_slice(&6u64.to_le_bytes());
        let crc = crc32fast::hash(&bytes[12..HEADER_BYTES]);
        bytes[8..12].copy_from_slice(&crc.to_le_bytes());
        assert!(matches!(Index::open(file_of(&storage, &bytes)), Err(IndexError::Invalid(_))));
    }

    #[test]
    fn golden_bytes() {
        let bytes = encode(&segment(&Memory::new(), 0x99, &[2, 1]));
        assert_eq!(bytes[..8], *b"TLOGIDX1");
        assert_eq!(bytes[16..24], 0x99u64.to_le_bytes());
        assert_eq!(bytes[24..32], (0x99u64 + 2 * 137).to_le_bytes());
        assert_eq!(bytes[32..40], [2, 0, 0, 0, 2, 0, 0, 0]);
        assert_eq!(bytes[64..80], [1, 0, 0, 0, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(bytes[80..96], [2, 0, 0, 0, 1, 0, 0, 0, 20, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(bytes[96..112], [10, 0, 0, 0, 0, 0, 0, 0, 137, 0, 0, 0, 137, 0, 0, 0]);
        assert_eq!(bytes[112..], [20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 137, 0, 0, 0]);
    }
}
