//! A file of the simulated disk: what is read of it, what is durable of it, and what lies between.
//!
//! ```text
//!            write, allocate, truncate               sync
//!   cache ◀──────────── now ────────────▶ pending ──────────▶ disk ──▶ older
//!     │                                      │ power cut: any of it    ▲ what a stale block shows
//!     └─ read                                └─────────────────────────┘
//! ```
//!
//! A sector is written whole or not at all. Each version of a sector that was ever in the cache may be
//! what a power cut leaves, in any combination over sectors. Lengths are metadata: they are journaled,
//! so a power cut keeps the first few changes of them, in their order.

use std::collections::{BTreeMap, BTreeSet};

use super::rng::Rng;

/// Bytes of a sector, the unit that is written whole.
pub(super) const SECTOR_BYTES: usize = 512;

type Sector = [u8; SECTOR_BYTES];

#[derive(Debug, Clone)]
enum Change {
    Sector { at: usize, bytes: Box<Sector> },
    Length(usize),
}

#[derive(Debug, Clone, Default)]
pub(super) struct Inode {
    cache: Vec<u8>,
    disk: Vec<u8>,
    pending: Vec<Change>,
    /// What was durable before, sector by sector, oldest first.
    older: BTreeMap<usize, Vec<Sector>>,
}

fn sector_of(bytes: &[u8], at: usize) -> Box<Sector> {
    let mut sector = Box::new([0; SECTOR_BYTES]);
    let from = at * SECTOR_BYTES;
    if let Some(rest) = bytes.get(from..) {
        let length = rest.len().min(SECTOR_BYTES);
        sector[..length].copy_from_slice(&rest[..length]);
    }
    sector
}

fn put_sector(bytes: &mut [u8], at: usize, sector: &Sector) {
    // What lies behind the end of the file is not kept.
    if let Some(rest) = bytes.get_mut(at * SECTOR_BYTES..) {
        let length = rest.len().min(SECTOR_BYTES);
        rest[..length].copy_from_slice(&sector[..length]);
    }
}

impl Inode {
    pub(super) fn cache(&self) -> &[u8] {
        &self.cache
    }

    /// What is left where nothing is kept that was not synced.
    pub(super) fn disk(&self) -> &[u8] {
        &self.disk
    }

    pub(super) fn write(&mut self, bytes: &[u8], offset: usize) {
        if bytes.is_empty() {
            return;
        }
        let end = offset + bytes.len();
        if self.cache.len() < end {
            self.set_length(end);
        }
        self.cache[offset..end].copy_from_slice(bytes);
        for at in offset / SECTOR_BYTES..end.div_ceil(SECTOR_BYTES) {
            self.pending.push(Change::Sector { at, bytes: sector_of(&self.cache, at) });
        }
    }

    /// Cuts the file to a length, or gives it zeros up to there.
    pub(super) fn set_length(&mut self, length: usize) {
        self.cache.resize(length, 0);
        self.pending.push(Change::Length(length));
    }

    pub(super) fn sync(&mut self) {
        for change in std::mem::take(&mut self.pending) {
            self.persist(&change);
        }
    }

    /// A sync that fails: some sectors are durable, and all look as if they were. A later sync knows
    /// nothing of them. Lengths stay pending: a file system that can't write its journal stops.
    pub(super) fn fail_sync(&mut self, rng: &mut Rng) {
        let percent = rng.below(101);
        let (lengths, sectors): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.pending).into_iter().partition(|change| matches!(change, Change::Length(_)));
        for change in sectors {
            if rng.chance(percent, 100) {
                self.persist(&change);
            }
        }
        self.pending = lengths;
    }

    /// Forgets what is in memory only because a sync has failed: the cache had to give way.
    /// Returns how many sectors changed.
    pub(super) fn evict(&mut self, rng: &mut Rng) -> u64 {
        let dirty: BTreeSet<usize> = self
            .pending
            .iter()
            .filter_map(|change| match change {
                Change::Sector { at, .. } => Some(*at),
                Change::Length(_) => None,
            })
            .collect();
        let mut evicted = 0;
        for at in 0..self.cache.len().min(self.disk.len()).div_ceil(SECTOR_BYTES) {
            let disk = sector_of(&self.disk, at);
            if !dirty.contains(&at) && sector_of(&self.cache, at) != disk && rng.chance(1, 2) {
                put_sector(&mut self.cache, at, &disk);
                evicted += 1;
            }
        }
        evicted
    }

    /// Keeps what the power cut leaves: each sector write by a chance of `percent`, and the first few
    /// changes of the length. Returns how many sector writes were lost.
    pub(super) fn power_cut(&mut self, rng: &mut Rng, percent: u64) -> u64 {
        let pending = std::mem::take(&mut self.pending);
        let lengths = pending.iter().filter(|change| matches!(change, Change::Length(_))).count();
        let mut lengths_kept = match percent {
            0 => 0,
            100 => lengths,
            _ => rng.index(lengths + 1),
        };
        let mut lost = 0;
        for change in &pending {
            let kept = match change {
                Change::Sector { .. } => rng.chance(percent, 100),
                Change::Length(_) => {
                    let kept = lengths_kept > 0;
                    lengths_kept -= usize::from(kept);
                    kept
                }
            };
            if kept {
                self.persist(change);
            } else {
                lost += 1;
            }
        }
        self.cache.clone_from(&self.disk);
        lost
    }

    fn persist(&mut self, change: &Change) {
        match change {
            Change::Length(length) => self.disk.resize(*length, 0),
            Change::Sector { at, bytes } => {
                let before = sector_of(&self.disk, *at);
                put_sector(&mut self.disk, *at, bytes);
                if at * SECTOR_BYTES < self.disk.len() && before != *bytes {
                    self.older.entry(*at).or_default().push(*before);
                }
            }
        }
    }

    /// The sectors that have something in them or once had.
    pub(super) fn sectors(&self) -> usize {
        self.disk.len().div_ceil(SECTOR_BYTES)
    }

    /// Turns a bit of what is durable.
    pub(super) fn flip(&mut self, byte: usize, bit: u32) {
        for bytes in [&mut self.disk, &mut self.cache] {
            if let Some(byte) = bytes.get_mut(byte) {
                *byte ^= 1 << bit;
            }
        }
    }

    /// Puts an older version of a sector in the place of the last. Whether that changed anything.
    pub(super) fn make_stale(&mut self, at: usize, rng: &mut Rng) -> bool {
        let Some(versions) = self.older.get(&at) else { return false };
        let older = versions[rng.index(versions.len())];
        self.overwrite(at, &older)
    }

    pub(super) fn sector(&self, at: usize) -> Box<Sector> {
        sector_of(&self.disk, at)
    }

    /// Puts other bytes in the place of a sector. Whether that changed anything.
    pub(super) fn overwrite(&mut self, at: usize, sector: &Sector) -> bool {
        let before = sector_of(&self.disk, at);
        put_sector(&mut self.disk, at, sector);
        put_sector(&mut self.cache, at, sector);
        sector_of(&self.disk, at) != before
    }
}
