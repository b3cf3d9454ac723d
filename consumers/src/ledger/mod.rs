//! The ledger: what groups, locks and rooms keep, as rows in one RocksDB, and who makes them of the log: a thread a
//! partition that applies the events in its control frames. Rows and offset row go in one batch
//! (invariant 8), so rows are always those of a position.
//!
//! ```text
//!            step: frames up to a size
//!   log ──▶ apply: events ─▶ their changes ───┬─▶ batch ─▶ RocksDB ◀── groups, locks, rooms read
//!                            offset row ──────┘     │
//!                                                   ├─ then: hints to those who are connected
//!                                                   └─ then: applied, who waits goes on
//! ```
//!
//! | file | what it knows |
//! |---|---|
//! | `tags.rs` | whose an event is and whose a row |
//! | `codec.rs` | what events and rows are made of: varints, offsets, ranges |
//! | `apply.rs` | events become row changes |
//! | `check.rs` | what the rows must be, held against what they are, offline |
//! | `driver.rs` | what a simulation does with it |

mod apply;
mod check;
pub(crate) mod codec;
mod driver;
mod error;
pub(crate) mod tags;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, Builder, JoinHandle};
use std::time::Duration;

use futures::executor::block_on;
use metrics::counter;
use parking_lot::Mutex;
use rocksdb::{DB, Error, FlushOptions, Options};
use tlog::{Log, Watermark};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};
use wire::{Frame, Position};

pub use self::check::LedgerCheck;
pub use self::driver::LedgerDriver;
pub use self::error::LedgerError;
use crate::database::Database;
use crate::folder;
use crate::insist::insist;
use crate::offsets::{Consumer, OffsetRow};
use crate::rooms::{Hub, Notice, set_merge};
use crate::stores::options;

/// The version of the layout of all rows.
const VERSION: u16 = 1;

/// The ledger's folder in the data folder.
const FOLDER: &str = "ledger";

/// Frames that a partition applies at once, bytes.
const BATCH_BYTES: usize = 1 << 20;

/// How long the log may gather after a batch that nobody waits for.
const GATHER: Duration = Duration::from_millis(5);

/// The same while someone is connected, who is told of records behind the batch that they are in.
const SHORT_GATHER: Duration = Duration::from_millis(1);

/// After so much of the log the rows are saved: a crash costs no more than to read that again.
const SAVE_EVERY_BYTES: u64 = 128 << 20;

/// A memtable, bytes: rows are few and small.
const WRITE_BUFFER_BYTES: usize = 8 << 20;

/// Files that are kept open where nothing else is said.
const OPEN_TABLES: usize = 64;

/// The rows that are made of the log's control frames, as far as they are applied.
#[derive(Debug)]
pub struct Ledger {
    rows: Arc<Rows>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// What the threads share.
#[derive(Debug)]
struct Rows {
    dir: PathBuf,
    db: Database,
    log: Log,
    partitions: Vec<Partition>,
    /// Who is connected.
    hub: Hub,
    stop: CancellationToken,
}

#[derive(Debug)]
struct Partition {
    turn: Mutex<Turn>,
    applied: watch::Sender<Watermark>,
}

#[derive(Debug)]
struct Turn {
    offset: OffsetRow,
    saved: Position,
}

/// The options of the one column family; so many of its files are kept open.
fn options(open_tables: usize) -> Result<Options, Error> {
    let mut options = options::options(open_tables)?;
    options.set_write_buffer_size(WRITE_BUFFER_BYTES);
    set_merge(&mut options);
    Ok(options)
}

impl Ledger {
    /// Opens the ledger of a log in the folder `ledger` of `dir`, making it where there is none, and goes on
    /// applying the log. At most so many of its files are kept open. Blocking.
    ///
    /// # Errors
    /// Where the folder can't be read, or is not of this log.
    pub fn open(dir: &Path, log: Log, open_tables: usize) -> Result<Arc<Ledger>, LedgerError> {
        let ledger = Ledger::open_driven(dir, log, open_tables)?;
        // From here on a return ends the threads that were started.
        for partition in 0..ledger.log().partitions() {
            let rows = Arc::clone(&ledger.rows);
            let run = move || rows.run(partition);
            let thread =
                Builder::new().name(format!("ledger-{partition:03}")).spawn(run).map_err(LedgerError::Thread)?;
            ledger.threads.lock().push(thread);
        }
        info!(dir = %ledger.rows.dir.display(), "the ledger is open");
        Ok(ledger)
    }

    /// The same without threads: nothing is applied but by [`Ledger::step`].
    ///
    /// # Errors
    /// As [`Ledger::open`].
    pub fn open_driven(dir: &Path, log: Log, open_tables: usize) -> Result<Arc<Ledger>, LedgerError> {
        let rows = Arc::new(Rows::open(&dir.join(FOLDER), log, open_tables.min(OPEN_TABLES))?);
        Ok(Arc::new(Ledger { rows, threads: Mutex::default() }))
    }

    /// Applies what the log has next, about `max_bytes` of frames. Whether there was anything. Blocking.
    ///
    /// # Errors
    /// Where the log can't be read or the rows can't be written: then nothing has changed.
    pub fn step(&self, partition: u16, max_bytes: usize) -> Result<bool, LedgerError> {
        self.rows.step(partition, max_bytes)
    }

    /// What else a simulation does with it.
    pub fn driver(&self) -> LedgerDriver<'_> {
        LedgerDriver(self)
    }

    /// Waits until a partition is applied up to a position.
    ///
    /// # Errors
    /// [`LedgerError::Closed`] where it is closed before.
    pub async fn wait_applied(&self, partition: u16, position: Position) -> Result<(), LedgerError> {
        let mut applied = self.applied(partition);
        let wait = applied.wait_for(|applied| applied.position >= position);
        match self.rows.stop.run_until_cancelled(wait).await {
            Some(Ok(_)) => Ok(()),
            Some(Err(_)) | None => Err(LedgerError::Closed),
        }
    }

    /// Waits until a partition is applied up to all that is durable by now.
    ///
    /// # Errors
    /// As [`Ledger::wait_applied`].
    pub(crate) async fn wait_durable(&self, partition: u16) -> Result<(), LedgerError> {
        let durable = self.log().watermark(partition).borrow().position;
        self.wait_applied(partition, durable).await
    }

    /// Up to where a partition is applied, and word of its moves.
    pub(crate) fn applied(&self, partition: u16) -> watch::Receiver<Watermark> {
        self.rows.partitions[usize::from(partition)].applied.subscribe()
    }

    /// The rows.
    pub(crate) fn db(&self) -> &DB {
        &self.rows.db
    }

    /// Who is connected.
    pub(crate) fn hub(&self) -> &Hub {
        &self.rows.hub
    }

    /// The log that they are made of.
    pub(crate) fn log(&self) -> &Log {
        &self.rows.log
    }

    /// Cancelled once the ledger is closed.
    pub(crate) fn closed(&self) -> &CancellationToken {
        &self.rows.stop
    }

    /// Ends the threads and saves what is applied. Blocking.
    pub fn close(&self) {
        self.end_threads();
        if let Err(error) = self.rows.db.flush() {
            warn!(%error, "the ledger's rows could not be flushed, the next start applies more of the log");
        }
    }

    fn end_threads(&self) {
        self.rows.stop.cancel();
        for thread in std::mem::take(&mut *self.threads.lock()) {
            thread.thread().unpark();
            if thread.join().is_err() {
                error!("a thread of the ledger ended in a panic");
            }
        }
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        self.end_threads();
    }
}

impl Rows {
    fn open(dir: &Path, log: Log, open_tables: usize) -> Result<Rows, LedgerError> {
        let db = folder::open(dir, options(open_tables))?;
        let (hub, stop) = (Hub::new(), CancellationToken::new());
        let mut rows = Rows { dir: dir.to_owned(), db, log, partitions: Vec::new(), hub, stop };
        folder::check_meta::<LedgerError>(&rows.db, dir, VERSION, rows.log.partitions())?;
        for id in 0..rows.log.partitions() {
            let offset = folder::offset::<LedgerError>(&rows.db, dir, &rows.log, Consumer::Ledger, id)?;
            let turn = Mutex::new(Turn { offset, saved: offset.position });
            rows.partitions.push(Partition { turn, applied: watch::Sender::new(offset.watermark()) });
        }
        Ok(rows)
    }

    /// Applies a partition until the ledger or the log is closed.
    fn run(&self, partition: u16) {
        let errors = counter!("tlog_ledger_apply_errors_total", "partition" => partition.to_string());
        insist(
            &self.stop,
            || self.follow(partition),
            |error| {
                errors.increment(1);
                error!(partition, %error, "the ledger can't apply the log, and tries again");
            },
        );
        debug!(partition, "the ledger follows no longer");
    }

    fn follow(&self, partition: u16) -> Result<(), LedgerError> {
        let mut watermark = self.log.watermark(partition);
        while !self.stop.is_cancelled() {
            // Seen first, read then: what comes after the read moves it again.
            let end = *watermark.borrow_and_update();
            let applied = &self.partitions[usize::from(partition)].applied;
            match self.step(partition, BATCH_BYTES) {
                // Behind all there was, and where nobody waits. Whoever ends the thread unparks it.
                Ok(true) if applied.borrow().position >= end.position && applied.receiver_count() == 0 => {
                    thread::park_timeout(if self.hub.is_active() { SHORT_GATHER } else { GATHER });
                }
                Ok(true) => {}
                Ok(false) => match block_on(self.stop.run_until_cancelled(watermark.changed())) {
                    Some(Ok(())) => {}
                    Some(Err(_)) | None => return Ok(()),
                },
                Err(LedgerError::Closed) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn step(&self, partition: u16, max_bytes: usize) -> Result<bool, LedgerError> {
        let mut turn = self.partitions[usize::from(partition)].turn.lock();
        let frames = self.log.scan(partition, turn.offset.position).read_blocking(max_bytes)?;
        let mut rest = &frames[..];
        while !rest.is_empty() {
            if mutant!(HintBeforeWrite) {
                self.hub.tell(&self.db, rest)?;
            }
            let applied = apply::apply(&self.db, [partition, self.log.partitions()], &turn.offset, rest)?;
            let (done, behind) = rest.split_at(applied.frames);
            rest = behind;
            turn.offset = applied.offset;
            self.tell(partition, turn.offset.watermark(), done, &applied.notices)?;
        }
        if turn.offset.position - turn.saved > SAVE_EVERY_BYTES {
            let mut flush = FlushOptions::default();
            flush.set_wait(false);
            self.db.flush_opt(&flush)?;
            turn.saved = turn.offset.position;
        }
        Ok(!frames.is_empty())
    }

    /// Tells of frames that are written; then says that they are applied.
    fn tell(
        &self,
        partition: u16,
        watermark: Watermark,
        frames: &[Frame],
        notices: &[Notice],
    ) -> Result<(), LedgerError> {
        self.hub.notice(notices);
        let told = if mutant!(HintBeforeWrite) { Ok(()) } else { self.hub.tell(&self.db, frames) };
        self.partitions[usize::from(partition)].applied.send_replace(watermark);
        told
    }
}
