//! An open file of the simulated disk.

use std::io::{self, IoSlice};
use std::path::PathBuf;

use parking_lot::MutexGuard;

use super::entries::FileId;
use super::faults::Fault;
use super::inode::SECTOR_BYTES;
use super::rng::Rng;
use super::{Machine, Simulated, eio};
use crate::storage::File;

#[derive(Debug)]
pub(super) struct SimulatedFile {
    pub(super) storage: Simulated,
    pub(super) id: FileId,
    pub(super) path: PathBuf,
    pub(super) process: u64,
}

impl SimulatedFile {
    fn begin(&self, what: &str, numbers: &[u64]) -> io::Result<MutexGuard<'_, Machine>> {
        let mut machine = self.storage.0.lock();
        machine.begin(what, &self.path, numbers)?;
        Ok(machine)
    }

    /// Writes the first sectors of what was to be written, up to a place that chance names.
    fn write_in_part(&self, machine: &mut Machine, bytes: &[u8], offset: u64) -> io::Result<()> {
        let part = machine.rng.index(bytes.len() + 1);
        let end = offset as usize + part;
        let whole = (end - end % SECTOR_BYTES).saturating_sub(offset as usize);
        machine.inode(self)?.write(&bytes[..whole], offset as usize);
        Ok(())
    }
}

impl File for SimulatedFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.storage.0.lock().inode(self)?.cache().len() as u64)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let mut machine = self.begin("read", &[offset, buffer.len() as u64])?;
        if machine.fails(Fault::ReadError) {
            return Err(eio("a read"));
        }
        if buffer.is_empty() {
            return Ok(());
        }
        let flipped = machine.fails(Fault::FlippedRead);
        let (byte, bit) = (machine.rng.index(buffer.len()), machine.rng.below(8));
        let from = offset as usize;
        let cache = machine.inode(self)?.cache();
        let found = cache.get(from..from + buffer.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(found);
        if flipped {
            buffer[byte] ^= 1 << bit;
        }
        Ok(())
    }

    fn write_at(&self, buffers: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        let bytes: Vec<u8> = buffers.iter().flat_map(|buffer| buffer.iter().copied()).collect();
        let mut machine = self.storage.0.lock();
        let ran = !machine.stopped;
        if let Err(error) = machine.begin("write", &self.path, &[offset, bytes.len() as u64, crc(&bytes)]) {
            if ran {
                self.write_in_part(&mut machine, &bytes, offset)?;
            }
            return Err(error);
        }
        let longer = machine.inode(self)?.cache().len() < offset as usize + bytes.len();
        if longer && machine.fails(Fault::NoSpace) {
            self.write_in_part(&mut machine, &bytes, offset)?;
            return Err(io::ErrorKind::StorageFull.into());
        }
        if machine.fails(Fault::WriteError) {
            self.write_in_part(&mut machine, &bytes, offset)?;
            return Err(eio("a write"));
        }
        machine.inode(self)?.write(&bytes, offset as usize);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let probe = self.storage.0.lock().probe.clone();
        if let Some(probe) = probe {
            probe();
        }
        let mut machine = self.begin("sync", &[])?;
        if machine.fails(Fault::Stop) {
            return Err(machine.stop());
        }
        if machine.fails(Fault::SyncError) {
            let mut rng = Rng::new(machine.rng.number());
            machine.inode(self)?.fail_sync(&mut rng);
            return Err(eio("a sync"));
        }
        machine.inode(self)?.sync();
        Ok(())
    }

    fn allocate(&self, length: u64) -> io::Result<()> {
        let mut machine = self.begin("allocate", &[length])?;
        if machine.inode(self)?.cache().len() as u64 >= length {
            return Ok(());
        }
        if machine.fails(Fault::NoSpace) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        machine.inode(self)?.set_length(length as usize);
        Ok(())
    }

    fn truncate(&self, length: u64) -> io::Result<()> {
        let mut machine = self.begin("truncate", &[length])?;
        if machine.fails(Fault::WriteError) {
            return Err(eio("a truncation"));
        }
        let inode = machine.inode(self)?;
        if inode.cache().len() as u64 > length {
            inode.set_length(length as usize);
        }
        Ok(())
    }
}

fn crc(bytes: &[u8]) -> u64 {
    u64::from(crc32fast::hash(bytes))
}
