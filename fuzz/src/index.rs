//! The reader of a segment's index.
//!
//! ```text
//! 0  mode   bit 0: the checksums are made right · bit 1: the counts of rows are those of the file
//! 1  the index
//! ```

use tlog::fuzzing::Index;
use wire::NamespaceId;

use crate::forge::{put, u32_at};

const HEADER_BYTES: usize = 64;
const ROW_BYTES: usize = 16;

/// Runs the target.
pub fn run(data: &[u8]) {
    let [mode, bytes @ ..] = data else { return };
    let mut bytes = bytes.to_vec();
    if bytes.len() >= HEADER_BYTES {
        seal(&mut bytes, *mode);
    }
    let Ok(index) = Index::open(&bytes) else { return };
    let rows = (bytes.len() - HEADER_BYTES) / ROW_BYTES;
    let length = u64_at(&bytes, 24) - u64_at(&bytes, 16);
    let firsts = index.firsts();
    assert!(firsts.len() <= rows);
    let ids = firsts.iter().map(|(id, _)| id.get()).chain([0, 1, 2, (1 << 24) - 1, u32::from(*mode)]);
    for id in ids.filter_map(NamespaceId::new) {
        let Ok(entries) = index.entries(id) else { continue };
        assert!(entries.len() <= rows, "no more frames than rows");
        let mut due = 0;
        for (_, at, length_of) in entries {
            assert!(u64::from(at) >= due, "frames follow each other");
            due = u64::from(at) + u64::from(length_of);
        }
        assert!(due <= length, "frames lie in the segment");
    }
    if firsts.is_sorted_by(|(a, _), (b, _)| a < b) && firsts.len() == u32_at(&bytes, 32) as usize {
        check_found(&index, &bytes);
    }
}

/// Rows in order are found by the search, each with the rows that a look at the file finds.
fn check_found(index: &Index, bytes: &[u8]) {
    let (namespaces, frames) = (u32_at(bytes, 32), u32_at(bytes, 36));
    for row in 0..namespaces {
        let at = HEADER_BYTES + row as usize * ROW_BYTES;
        let id = NamespaceId::new(u32_at(bytes, at)).unwrap();
        let first = u32_at(bytes, at + 4);
        let end = if row + 1 == namespaces { frames } else { u32_at(bytes, at + ROW_BYTES + 4) };
        let Ok(entries) = index.entries(id) else { continue };
        assert_eq!(entries.len(), (end - first) as usize);
        for (n, (base_offset, place, length)) in entries.into_iter().enumerate() {
            let at = HEADER_BYTES + (namespaces as usize + first as usize + n) * ROW_BYTES;
            let row = (u64_at(bytes, at), u32_at(bytes, at + 8), u32_at(bytes, at + 12));
            assert_eq!(row, (base_offset, place, length));
        }
    }
}

fn seal(bytes: &mut [u8], mode: u8) {
    if mode & 2 != 0 {
        let rows = ((bytes.len() - HEADER_BYTES) / ROW_BYTES) as u32;
        let namespaces = u32_at(bytes, 32).min(rows);
        put(bytes, 32, &namespaces.to_le_bytes());
        put(bytes, 36, &(rows - namespaces).to_le_bytes());
    }
    if mode & 1 != 0 {
        let body = crc32fast::hash(&bytes[HEADER_BYTES..]);
        put(bytes, 0, b"TLOGIDX1");
        put(bytes, 12, &body.to_le_bytes());
        let header = crc32fast::hash(&bytes[12..HEADER_BYTES]);
        put(bytes, 8, &header.to_le_bytes());
    }
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(*bytes[at..].first_chunk().unwrap())
}
