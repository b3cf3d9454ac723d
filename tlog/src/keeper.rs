//! The keeper of a partition's files: it does off the hot path what the sequencer must not wait for.
//! It zeroes the next segment ahead of need, seals those that are full, and flushes the rows.

use std::io::{self, IoSlice};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use parking_lot::Mutex;
use tracing::{debug, warn};

use crate::error::ReadError;
use crate::partition::Shared;
use crate::rows::Rows;
use crate::segment::open::OpenSegment;
use crate::segment::{HEADER_BYTES, sealed, spare_path};
use crate::storage::{File, Storage};

/// How much is zeroed by one write.
const ZERO_BYTES: usize = 1 << 20;

/// Asks that wait. One that finds no place is not needed: each ask does all that is due.
const MAX_ASKS: usize = 16;

#[derive(Debug)]
enum Ask {
    Prepare,
    Seal,
}

/// The sequencer's end of the keeper. Dropping it ends the keeper's thread.
#[derive(Debug)]
pub(crate) struct Keeper {
    asks: SyncSender<Ask>,
    work: Arc<Work>,
}

/// The keeper's own end: what it is asked to do.
#[derive(Debug)]
pub(crate) struct Chores {
    asked: Receiver<Ask>,
    work: Arc<Work>,
}

/// A segment that has no base yet. No two have one path, so that one which is being made is never
/// taken for one that is being put to use.
#[derive(Debug)]
pub(crate) struct Spare {
    pub(crate) path: PathBuf,
    pub(crate) file: Arc<dyn File>,
}

#[derive(Debug, Default)]
struct Spares {
    ready: Option<Spare>,
    made: u64,
}

/// What the keeper works on.
#[derive(Debug)]
pub(crate) struct Work {
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) dir: PathBuf,
    pub(crate) segment_bytes: u64,
    pub(crate) shared: Arc<Shared>,
    pub(crate) rows: Arc<Rows>,
    spares: Mutex<Spares>,
    sealing: Mutex<()>,
}

/// The keeper of a partition, as its two ends.
pub(crate) fn keeper(
    storage: Arc<dyn Storage>,
    dir: PathBuf,
    segment_bytes: u64,
    shared: Arc<Shared>,
    rows: Arc<Rows>,
) -> (Keeper, Chores) {
    let (spares, sealing) = (Mutex::default(), Mutex::default());
    let work = Arc::new(Work { storage, dir, segment_bytes, shared, rows, spares, sealing });
    let (asks, asked) = sync_channel(MAX_ASKS);
    (Keeper { asks, work: Arc::clone(&work) }, Chores { asked, work })
}

impl Keeper {
    /// Asks for a spare segment.
    pub(crate) fn prepare(&self) {
        // A full channel is a keeper that has work, and looks for more when it is done.
        let _ = self.asks.try_send(Ask::Prepare);
    }

    /// Asks that full segments be sealed.
    pub(crate) fn seal(&self) {
        let _ = self.asks.try_send(Ask::Seal);
    }

    /// Seals full segments here and now.
    pub(crate) fn seal_now(&self) {
        self.work.seal_all();
    }

    /// The spare segment, if it is ready.
    pub(crate) fn take_spare(&self) -> Option<Spare> {
        self.work.spares.lock().ready.take()
    }
}

impl Chores {
    /// Does what is asked until the sequencer has ended.
    pub(crate) fn run(&self) {
        while let Ok(ask) = self.asked.recv() {
            self.work.serve(&ask);
        }
    }

    /// Does what was asked first, if anything was.
    pub(crate) fn step(&self) -> bool {
        let asked = self.asked.try_recv();
        asked.is_ok_and(|ask| {
            self.work.serve(&ask);
            true
        })
    }
}

impl Work {
    fn serve(&self, ask: &Ask) {
        if matches!(ask, Ask::Prepare)
            && let Err(error) = self.prepare()
        {
            warn!(partition = self.shared.id, %error, "no spare segment could be made");
        }
        self.seal_all();
    }

    fn prepare(&self) -> io::Result<()> {
        let path = {
            let mut spares = self.spares.lock();
            if spares.ready.is_some() {
                return Ok(());
            }
            spares.made += 1;
            spare_path(&self.dir, spares.made)
        };
        match self.zeroed(&path) {
            Ok(file) => {
                self.spares.lock().ready = Some(Spare { path, file });
                Ok(())
            }
            Err(error) => {
                // Where this fails too, the next start removes it.
                let _ = self.storage.remove(&path);
                Err(error)
            }
        }
    }

    /// A new segment's file, zeros to its end and durable, so that writing to it later changes no
    /// metadata and an `fdatasync` has only data to write.
    fn zeroed(&self, path: &std::path::Path) -> io::Result<Arc<dyn File>> {
        let file = self.storage.create(path)?;
        let length = HEADER_BYTES as u64 + self.segment_bytes;
        file.allocate(length)?;
        zero(&*file, 0, length)?;
        file.sync_data()?;
        Ok(file)
    }

    fn seal_all(&self) {
        let _alone = self.sealing.lock();
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
    let zeros = vec![0; ZERO_BYTES.min((to - from) as usize)];
    while from < to {
        let part = zeros.len().min((to - from) as usize);
        file.write_at(&[IoSlice::new(&zeros[..part])], from)?;
        from += part as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use wire::Position;

    use super::*;
    use crate::partition::Watermark;
    use crate::recent::Recent;
    use crate::segment::log_path;
    use crate::segment::open::SegmentFile;
    use crate::storage::Memory;

    /// The keeper of a partition whose first segment is in use.
    fn beside_a_segment(memory: &Memory, folder: &std::path::Path) -> (Keeper, Chores) {
        let dir = folder.join("000");
        let path = log_path(&dir, 0);
        let file = memory.create(&path).unwrap();
        let active = OpenSegment::new(SegmentFile { path, base: 0, file });
        let watermark = Watermark { position: 0, records: 0 };
        let shared = Arc::new(Shared::new(0, Recent::new(Vec::new(), active, 0), watermark));
        let rows = Arc::new(Rows::open(&folder.join("rows"), 256).unwrap());
        keeper(Arc::new(memory.clone()), dir, 4096, shared, rows)
    }

    #[test]
    fn a_spare_that_is_being_put_to_use_is_left_alone_by_the_making_of_the_next() {
        let (memory, folder) = (Memory::new(), tempfile::tempdir().unwrap());
        let (keeper, chores) = beside_a_segment(&memory, folder.path());
        let mut bases: Vec<Position> = Vec::new();
        keeper.prepare();
        assert!(chores.step());
        for base in [1000, 2000, 3000] {
            let spare = keeper.take_spare().unwrap();
            // The keeper's turn comes before the spare has the name of a segment.
            keeper.prepare();
            assert!(chores.step());
            memory.rename(&spare.path, &log_path(&folder.path().join("000"), base)).unwrap();
            spare.file.write_at(&[IoSlice::new(&base.to_le_bytes())], 0).unwrap();
            bases.push(base);
        }
        for base in bases {
            let mut bytes = [0; 8];
            let named = memory.open(&log_path(&folder.path().join("000"), base)).unwrap();
            named.read_at(&mut bytes, 0).unwrap();
            assert_eq!(bytes, base.to_le_bytes(), "what was written is in the file that has the name");
        }
    }
}
