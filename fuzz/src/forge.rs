//! Frames as an attacker would have them: any bytes, behind checksums, positions and chains that hold.

use std::collections::HashMap;

use wire::frame::{HEADER_BYTES, MAGIC};
use wire::record::RECORD_HEADER_BYTES;
use wire::stream::{TRAILER_BYTES, TRAILER_MAGIC};
use wire::{Chain, Position, Shard};

/// Bytes of the shortest frame.
const MIN_FRAME_BYTES: usize = HEADER_BYTES + RECORD_HEADER_BYTES;

/// What is made right, and how far it has come.
#[derive(Debug, Default)]
pub struct Forge {
    namespaces: HashMap<[u8; 4], Forged>,
    positions: bool,
    continues: bool,
}

/// What was forged of a namespace so far.
#[derive(Debug)]
struct Forged {
    next_offset: u64,
    chain: Chain,
    counters: HashMap<u8, u32>,
}

impl Forge {
    /// Makes CRCs right; `positions` too; and where a frame `continues` its namespace, also offsets,
    /// chains, shards and counters.
    pub fn new(positions: bool, continues: bool) -> Forge {
        Forge { namespaces: HashMap::new(), positions, continues }
    }

    /// Takes bytes as frames one after another, the first at position `base`, and makes of each what
    /// would be believed. Zeros are left, and so is what is too short: nothing stands there.
    pub fn seal(&mut self, bytes: &mut [u8], base: Position) {
        let mut at = 0;
        while bytes.len() - at >= TRAILER_BYTES && bytes[at..at + TRAILER_BYTES].iter().any(|byte| *byte != 0) {
            let rest = &mut bytes[at..];
            let length = if rest[..4] == TRAILER_MAGIC {
                put(rest, 8, &(TRAILER_BYTES as u32).to_le_bytes());
                TRAILER_BYTES
            } else if rest.len() >= MIN_FRAME_BYTES {
                let said = u32_at(rest, 8) as usize;
                let length = if (MIN_FRAME_BYTES..=rest.len()).contains(&said) { said } else { rest.len() };
                put(rest, 0, &MAGIC);
                put(rest, 8, &(length as u32).to_le_bytes());
                if self.positions {
                    put(rest, 16, &base.wrapping_add(at as u64).to_le_bytes());
                }
                if self.continues {
                    continue_namespace(&mut rest[..length], &mut self.namespaces);
                }
                length
            } else {
                return;
            };
            seal_crc(&mut rest[..length]);
            at += length;
        }
    }
}

/// Makes the CRC right of what begins as frames and trailers do.
pub fn seal_crc(bytes: &mut [u8]) {
    let crc = crc32fast::hash(&bytes[8..]);
    put(bytes, 4, &crc.to_le_bytes());
}

fn continue_namespace(frame: &mut [u8], namespaces: &mut HashMap<[u8; 4], Forged>) {
    let id = *frame[64..].first_chunk().unwrap();
    let forged = namespaces.entry(id).or_insert_with(|| Forged {
        next_offset: 0,
        chain: Chain::EMPTY,
        counters: HashMap::new(),
    });
    put(frame, 72, &forged.next_offset.to_le_bytes());
    let mut at = HEADER_BYTES;
    let mut records = 0_u32;
    while let Some((key, value, end)) = record(frame, at) {
        let hashed = if key.is_empty() { value } else { key };
        let shard = Shard::of(None, &frame[hashed]).0;
        let counter = forged.counters.entry(shard).or_default();
        *counter += 1;
        put(frame, at + 4, &counter.to_le_bytes());
        frame[at + 12] = shard;
        (at, records) = (end, records + 1);
    }
    // A count that is wrong is what the fuzzer wants; one in two is made right.
    if frame[108] & 1 == 0 {
        put(frame, 108, &records.to_le_bytes());
    }
    forged.next_offset = forged.next_offset.saturating_add(u64::from(u32_at(frame, 108)));
    forged.chain = forged.chain.after(&frame[64..]);
    put(frame, 32, &forged.chain.0);
}

/// Where a record's key and value stand, and where it ends.
fn record(frame: &[u8], at: usize) -> Option<(std::ops::Range<usize>, std::ops::Range<usize>, usize)> {
    let header = frame.get(at..at + RECORD_HEADER_BYTES)?;
    let u16_at = |at| usize::from(u16::from_le_bytes(*header[at..].first_chunk().unwrap()));
    let key = at + RECORD_HEADER_BYTES;
    let headers = key + u16_at(8);
    let value = headers + u16_at(10);
    let end = value.checked_add(u32_at(header, 0) as usize)?;
    (end <= frame.len()).then_some((key..headers, value..end, end))
}

/// A little-endian number in bytes.
pub fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(*bytes[at..].first_chunk().unwrap())
}

/// Puts bytes over others.
pub fn put(bytes: &mut [u8], at: usize, what: &[u8]) {
    bytes[at..at + what.len()].copy_from_slice(what);
}
