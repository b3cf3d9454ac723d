//! The ledger, held against the log offline. The rows that come of its control frames, up to where each
//! partition is applied, are made in a folder of their own, and compared byte for byte.

use std::path::Path;

use rocksdb::{DB, IteratorMode};
use tlog::check::{Fault, FaultKind, Whole};
use wire::{Frame, NamespaceId, SubscriberName};

use super::error::LedgerError;
use super::{FOLDER, VERSION, apply, options, tags};
use crate::database::Database;
use crate::findings::Findings;
use crate::folder;
use crate::offsets::{self, Consumer, OffsetRow};

/// Frames that are applied at once, bytes.
const BATCH_BYTES: usize = 1 << 20;

/// A check of the ledger that is fed the log's frames.
pub struct LedgerCheck {
    findings: Findings,
    real: DB,
    scratch: Database,
    partitions: Vec<Following>,
}

/// A partition: how far the ledger has it, and how far it is made again.
struct Following {
    to: OffsetRow,
    at: OffsetRow,
    frames: Vec<Frame>,
    bytes: usize,
}

impl LedgerCheck {
    /// A check of the ledger of a data folder, which is not changed; nothing where there is none, or the
    /// process that made it ended before any row was on the disk. Rows are made in `scratch`; what is left
    /// in it is the caller's to delete.
    ///
    /// # Errors
    /// Where it can't be opened: what it is can't be told, and it can be made again.
    pub fn open(data: &Path, scratch: &Path, partitions: u16) -> Result<Option<LedgerCheck>, LedgerError> {
        let dir = data.join(FOLDER);
        if !dir.join("CURRENT").exists() {
            return Ok(None);
        }
        let failed = |source| folder::failed(&dir, source);
        let options = options(super::OPEN_TABLES).map_err(failed)?;
        let real = DB::open_for_read_only(&options, &dir, false).map_err(failed)?;
        if real.iterator(IteratorMode::Start).next().transpose()?.is_none() {
            return Ok(None);
        }
        let scratch = Database::new(DB::open(&options, scratch.join(FOLDER)).map_err(failed)?);
        scratch.put(folder::META, folder::meta(VERSION, partitions))?;
        let follow = |partition| {
            let to = OffsetRow::read(&real, Consumer::Ledger, partition)?.unwrap_or(OffsetRow::START);
            Ok(Following { to, at: OffsetRow::START, frames: Vec::new(), bytes: 0 })
        };
        let partitions = (0..partitions).map(follow).collect::<Result<_, LedgerError>>()?;
        let findings = Findings::new(FaultKind::Ledger, dir.clone());
        Ok(Some(LedgerCheck { findings, real, scratch, partitions }))
    }

    /// Takes in the next frame of a partition.
    ///
    /// # Errors
    /// Where it can't be applied, or not be written to the scratch folder.
    pub fn frame(&mut self, partition: u16, frame: &Frame) -> Result<(), LedgerError> {
        let here = [partition, self.partitions.len() as u16];
        let Some(following) = self.partitions.get_mut(usize::from(partition)) else { return Ok(()) };
        if frame.end() > following.to.position {
            return Ok(());
        }
        following.bytes += frame.len();
        following.frames.push(frame.clone());
        if following.bytes < BATCH_BYTES { Ok(()) } else { following.apply(&self.scratch, here) }
    }

    /// What is wrong, once all frames have been taken in. `wholes` says how far the log itself is whole.
    ///
    /// # Errors
    /// Where rows can't be read.
    pub fn finish(mut self, wholes: &[Whole]) -> Result<Vec<Fault>, LedgerError> {
        let (mut is_comparable, partitions) = (Vec::new(), self.partitions.len() as u16);
        for ((partition, following), whole) in (0..).zip(&mut self.partitions).zip(wholes) {
            following.apply(&self.scratch, [partition, partitions])?;
            let to = following.to.position;
            is_comparable.push(self.findings.is_comparable(usize::from(partition), to, whole));
        }
        let all = is_comparable.iter().all(|is| *is);
        let of = |key: &[u8]| partition_of(key, partitions).and_then(|of| is_comparable.get(usize::from(of)).copied());
        Ok(self.findings.compare(&self.real, &self.scratch, |key| of(key).unwrap_or(all))?)
    }
}

impl Following {
    fn apply(&mut self, scratch: &Database, here: [u16; 2]) -> Result<(), LedgerError> {
        self.bytes = 0;
        let frames = std::mem::take(&mut self.frames);
        let mut rest = &frames[..];
        while !rest.is_empty() {
            let applied = apply::apply(scratch, here, &self.at, rest)?;
            self.at = applied.offset;
            rest = &rest[applied.frames..];
        }
        Ok(())
    }
}

/// The partition that a row is of, where its key says so.
fn partition_of(key: &[u8], partitions: u16) -> Option<u16> {
    let of_namespace = |id| NamespaceId::from_be_bytes(id).partition(partitions);
    match *key {
        [offsets::TAG, _, _, a, b] => Some(u16::from_be_bytes([a, b])),
        [tags::LOCK | tags::FREE | tags::NEXT_SLOT, a, b, ..] => Some(u16::from_be_bytes([a, b])),
        [tags::GROUP | tags::LETTER | tags::ROOM, a, b, c, ..] => Some(of_namespace([a, b, c])),
        [tags::JOINED, _, _, _, _, a, b, c, ..] => Some(of_namespace([a, b, c])),
        [tags::ACKED | tags::DEAD, a, b, c, d, ..] => {
            u16::try_from(u32::from_be_bytes([a, b, c, d]) % u32::from(partitions)).ok()
        }
        [tags::SUBSCRIBER, ref name @ ..] => {
            let name = std::str::from_utf8(name).ok().and_then(|name| SubscriberName::new(name).ok());
            name.map(|name| name.partition(partitions))
        }
        _ => None,
    }
}
