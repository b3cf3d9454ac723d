//! The storage seam: files, their syncs, folder syncs and the lock. Nothing else of the log touches
//! a disk, so that a simulated one can tear, lose and flip what it likes.
//!
//! The contract, which `tests/storage.rs` checks on every implementation:
//!
//! - Bytes written are read back at once; they survive a crash only after [`File::sync_data`].
//! - A file made, renamed or removed is so after a crash only after [`Storage::sync_dir`] on its folder.
//! - [`File::allocate`] gives every byte a place on the disk, so that a write below that length does
//!   not fail for want of space. New bytes are zero.
//! - A failed write or sync leaves what was to be written in an unknown state, to the byte.

mod disk;
mod memory;
pub mod simulated;

use std::fmt::Debug;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use disk::Disk;
pub use memory::Memory;
pub use simulated::Simulated;

/// Files by path. See the [module](self) for the contract.
pub trait Storage: Debug + Send + Sync + 'static {
    /// Makes a folder and those above it, and makes their entries durable.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;

    /// Makes a file that must not exist yet.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>>;

    /// Opens a file that exists, to read and write it.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>>;

    /// The files of a folder, by name.
    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>>;

    /// Gives a file another name, in its folder or another, replacing what had that name.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Makes what was made, renamed and removed in a folder durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;

    /// Takes the lock of this name for as long as the result lives.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] where someone else holds it.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Lock>>;
}

/// An open file. All offsets and lengths are bytes.
pub trait File: Debug + Send + Sync {
    /// The length of the file.
    fn len(&self) -> io::Result<u64>;

    /// Whether the file has no bytes.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Fills `buffer` from `offset` on.
    ///
    /// # Errors
    /// [`io::ErrorKind::UnexpectedEof`] where the file ends before.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;

    /// Says that this is going to be read: it may be brought into memory meanwhile. May do nothing.
    fn will_read(&self, _offset: u64, _length: u64) {}

    /// Writes all of the buffers, one behind the other, from `offset` on.
    fn write_at(&self, buffers: &[IoSlice<'_>], offset: u64) -> io::Result<()>;

    /// Makes all that was written durable: `fdatasync`.
    fn sync_data(&self) -> io::Result<()>;

    /// Gives the file at least this length, zeros at its end, each byte with a place on the disk.
    fn allocate(&self, length: u64) -> io::Result<()>;

    /// Cuts the file to this length.
    fn truncate(&self, length: u64) -> io::Result<()>;
}

/// A held lock; dropping it lets go.
pub trait Lock: Debug + Send + Sync {}
