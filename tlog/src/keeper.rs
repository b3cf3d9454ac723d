//! The keeper of a partition's files: it does off the hot path what the sequencer must not wait for.
//! It zeroes the next segment ahead of need, seals those that are full, and flushes the rows.

use std::io::{self, IoSlice};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use parking_lot::Mutex;
use tracing::{debug, warn};

use crate::error::ReadError;
use crate::partition::Shared;
use crate::rows::Rows;
use crate::segment::open::OpenSegment;
use crate::segment::{HEADER_BYTES, SPARE, sealed};
use crate::storage::{File, Storage};

/// How much is zeroed by one write.
const ZERO_BYTES: usize = 1 << 20;

/// Asks that wait. One that finds no place is not needed: each ask does all that is due.
const MAX_ASKS: usize = 16;

#[derive(Debug)]
enum Ask {
    Prepare,
    Seal,
    /// Seal, and say when it has been tried.
    SealNow(SyncSender<()>),
}

/// The sequencer's end of the keeper. Dropping it ends the keeper's thread.
#[derive(Debug)]
pub(crate) struct Keeper {
    asks: SyncSender<Ask>,
    spare: Arc<Mutex<Option<Arc<dyn File>>>>,
}

/// What the keeper works on.
#[derive(Debug)]
pub(crate) struct Work {
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) dir: PathBuf,
    pub(crate) segment_bytes: u64,
    pub(crate) shared: Arc<Shared>,
    pub(crate) rows: Arc<Rows>,
}

impl Keeper {
    /// Starts the keeper of a partition.
    pub(crate) fn start(work: Work) -> io::Result<(Keeper, JoinHandle<()>)> {
        let (asks, asked) = sync_channel(MAX_ASKS);
        let spare = Arc::new(Mutex::new(None));
        let keeper = Keeper { asks, spare: Arc::clone(&spare) };
        let name = format!("keeper-{:03}", work.shared.id);
        let thread = std::thread::Builder::new().name(name).spawn(move || work.run(&asked, &spare))?;
        Ok((keeper, thread))
    }

    /// Asks for a spare segment.
    pub(crate) fn prepare(&self) {
        // A full channel is a keeper that has work, and looks for more when it is done.
        let _ = self.asks.try_send(Ask::Prepare);
    }

    /// Asks that full segments be sealed.
    pub(crate) fn seal(&self) {
        let _ = self.asks.try_send(Ask::Seal);
    }

    /// Asks that full segments be sealed, and waits until that has been tried.
    pub(crate) fn seal_now(&self) {
        let (tried, wait) = sync_channel(1);
        if self.asks.send(Ask::SealNow(tried)).is_ok() {
            // An error is a keeper that has ended: what it did not do shows in what is unsealed.
            let _ = wait.recv();
        }
    }

    /// The spare segment, if it is ready.
    pub(crate) fn take_spare(&self) -> Option<Arc<dyn File>> {
        self.spare.lock().take()
    }
}

impl Work {
    fn run(&self, asks: &Receiver<Ask>, spare: &Mutex<Option<Arc<dyn File>>>) {
        while let Ok(ask) = asks.recv() {
            if matches!(&ask, Ask::Prepare) && spare.lock().is_none() {
                match self.zeroed() {
                    Ok(file) => *spare.lock() = Some(file),
                    Err(error) => warn!(partition = self.shared.id, %error, "no spare segment could be made"),
                }
            }
            self.seal_all();
            if let Ask::SealNow(tried) = ask {
                let _ = tried.send(());
            }
        }
    }

    /// A new segment's file, zeros to its end and durable, so that writing to it later changes no
    /// metadata and an `fdatasync` has only data to write.
    fn zeroed(&self) -> io::Result<Arc<dyn File>> {
        let path = self.dir.join(SPARE);
        match self.storage.remove(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = self.storage.create(&path)?;
        let length = HEADER_BYTES as u64 + self.segment_bytes;
        file.allocate(length)?;
        zero(&*file, 0, length)?;
        file.sync_data()?;
        Ok(file)
    }

    fn seal_all(&self) {
        loop {
            let Some(segment) = self.shared.recent.read().next_to_seal() else { return };
            match self.seal(&segment) {
                Ok(()) => debug!(segment = %segment.file.path.display(), "sealed"),
                // Its index stays in memory, and the next roll asks again.
                Err(error) => {
                    warn!(segment = %segment.file.path.display(), %error, "a segment could not be sealed");
                    return;
                }
            }
        }
    }

    fn seal(&self, segment: &OpenSegment) -> Result<(), ReadError> {
        let io = |source| ReadError::Io { file: segment.file.path.clone(), source };
        sealed::seal(&*self.storage, &self.dir, segment).map_err(io)?;
        locate(&self.rows, self.shared.id, segment)?;
        self.shared.recent.write().seal();
        // What a restart has to read again is bounded by this.
        self.rows.flush()
    }
}

/// Writes the rows that tell in which sealed segment a namespace's offsets are.
pub(crate) fn locate(rows: &Rows, partition: u16, segment: &OpenSegment) -> Result<(), ReadError> {
    let firsts = segment.namespaces().into_iter().map(|(id, entries)| (id, entries[0].base_offset));
    rows.locate(partition, firsts, segment.file.base, segment.end)
}

/// Writes zeros over a part of a file.
pub(crate) fn zero(file: &dyn File, mut from: u64, to: u64) -> io::Result<()> {
    let zeros = vec![0; ZERO_BYTES];
    while from < to {
        let part = ZERO_BYTES.min((to - from) as usize);
        file.write_at(&[IoSlice::new(&zeros[..part])], from)?;
        from += part as u64;
    }
    Ok(())
}
