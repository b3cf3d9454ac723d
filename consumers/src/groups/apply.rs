//! The groups' rows, and who makes them: a thread a partition that applies the events in its control
//! frames. Rows and offset row go in one batch (invariant 8), so rows are always those of a position.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use futures::executor::block_on;
use parking_lot::Mutex;
use rocksdb::{DB, FlushOptions, WriteBatch};
use tlog::{ControlEvent, Log, Namespace, ReadError, Watermark};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error};
use wire::{Frame, Generation, NamespaceId, Position};

use super::error::GroupsError;
use super::event::GroupEvent;
use super::kept::Kept;
use super::metrics;
use super::rows;
use crate::insist::insist;
use crate::offsets::{Consumer, OffsetError, OffsetRow};
use crate::stores::options::{options, unlogged};
use wire::GroupName;

/// Frames that a partition applies at once, bytes.
const BATCH_BYTES: usize = 1 << 20;

/// How long the log may gather after a batch that nobody waits for.
const GATHER: Duration = Duration::from_millis(5);

/// After so much of the log the rows are saved: a crash costs no more than to read that again.
const SAVE_EVERY_BYTES: u64 = 128 << 20;

/// A memtable, bytes: rows are few and small.
const WRITE_BUFFER_BYTES: usize = 8 << 20;

/// Files that are kept open.
pub(super) const OPEN_TABLES: usize = 64;

/// The groups' rows, as far as they are applied.
#[derive(Debug)]
pub(super) struct Ledger {
    pub(super) dir: PathBuf,
    pub(super) db: DB,
    pub(super) log: Log,
    partitions: Vec<Partition>,
    pub(super) stop: CancellationToken,
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

/// The groups that some frames touch: as their rows are, and as they become.
#[derive(Default)]
struct Touched(BTreeMap<(NamespaceId, String), (Option<Kept>, Option<Kept>)>);

impl Ledger {
    /// Opens the rows in `dir`, as far as they have come.
    pub(super) fn open(dir: &Path, log: Log, open_tables: usize) -> Result<Ledger, GroupsError> {
        let failed = |source| GroupsError::Open { dir: dir.to_owned(), source };
        let mut options = options(open_tables).map_err(failed)?;
        options.set_write_buffer_size(WRITE_BUFFER_BYTES);
        let db = DB::open(&options, dir).map_err(failed)?;
        let stop = CancellationToken::new();
        let mut ledger = Ledger { dir: dir.to_owned(), db, log, partitions: Vec::new(), stop };
        ledger.check_meta()?;
        for id in 0..ledger.log.partitions() {
            let offset = OffsetRow::read(&ledger.db, Consumer::Groups, id)?.unwrap_or(OffsetRow::START);
            offset.verify(&ledger.log, id).map_err(|error| match error {
                OffsetError::PastEnd { .. } | OffsetError::OtherFrame { .. } => ledger.other_log(error.to_string()),
                error => error.into(),
            })?;
            let turn = Mutex::new(Turn { offset, saved: offset.position });
            ledger.partitions.push(Partition { turn, applied: watch::Sender::new(offset.watermark()) });
        }
        Ok(ledger)
    }

    /// The first row of all says what made the others, so that there is no other where it is missing.
    fn check_meta(&self) -> Result<(), GroupsError> {
        let partitions = self.log.partitions();
        let ([a, b], [c, d]) = (rows::VERSION.to_le_bytes(), partitions.to_le_bytes());
        let Some(row) = self.db.get_pinned(rows::META)? else {
            let mut batch = WriteBatch::default();
            batch.put(rows::META, [a, b, c, d]);
            return Ok(self.db.write_opt(batch, &unlogged())?);
        };
        let [a, b, c, d] = (&*row).try_into().map_err(|_| GroupsError::damaged(&rows::META, "it is malformed"))?;
        let (found, of) = (u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d]));
        if found != rows::VERSION {
            return Err(GroupsError::Layout { dir: self.dir.clone(), found, known: rows::VERSION });
        }
        if of != partitions {
            return Err(self.other_log(format!("it has {of} partitions, the log has {partitions}")));
        }
        Ok(())
    }

    fn other_log(&self, reason: String) -> GroupsError {
        GroupsError::OtherLog { dir: self.dir.clone(), reason }
    }

    /// Reads what is kept of a group, once all of the log that is durable by now is applied.
    pub(super) async fn read(&self, namespace: &Namespace, name: &GroupName) -> Result<Option<Kept>, GroupsError> {
        let partition = namespace.id().partition(self.log.partitions());
        let durable = self.log.watermark(partition).borrow().position;
        self.wait_applied(partition, durable).await?;
        let kept = rows::read(&self.db, namespace.id(), name)?;
        Ok(kept.filter(|kept| kept.generation == namespace.generation()))
    }

    /// Waits until a partition is applied up to a position.
    pub(super) async fn wait_applied(&self, partition: u16, position: Position) -> Result<(), GroupsError> {
        let mut applied = self.applied(partition);
        let wait = applied.wait_for(|applied| applied.position >= position);
        match self.stop.run_until_cancelled(wait).await {
            Some(Ok(_)) => Ok(()),
            Some(Err(_)) | None => Err(GroupsError::Closed),
        }
    }

    /// Up to where a partition is applied, and word of its moves.
    pub(super) fn applied(&self, partition: u16) -> watch::Receiver<Watermark> {
        self.partitions[usize::from(partition)].applied.subscribe()
    }

    /// Applies a partition until the groups or the log are closed.
    pub(super) fn run(&self, partition: u16) {
        let errors = metrics::apply_errors(partition);
        insist(
            &self.stop,
            || self.follow(partition),
            |error| {
                errors.increment(1);
                error!(partition, %error, "the groups can't apply the log, and try again");
            },
        );
        debug!(partition, "the groups follow no longer");
    }

    fn follow(&self, partition: u16) -> Result<(), GroupsError> {
        let mut watermark = self.log.watermark(partition);
        while !self.stop.is_cancelled() {
            // Seen first, read then: what comes after the read moves it again.
            watermark.borrow_and_update();
            match self.step(partition, BATCH_BYTES) {
                // Whoever ends the thread unparks it.
                Ok(true) if self.partitions[usize::from(partition)].applied.receiver_count() == 0 => {
                    thread::park_timeout(GATHER);
                }
                Ok(true) => {}
                Ok(false) => match block_on(self.stop.run_until_cancelled(watermark.changed())) {
                    Some(Ok(())) => {}
                    Some(Err(_)) | None => return Ok(()),
                },
                Err(GroupsError::Closed) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Applies what the log has next, about `max_bytes` of frames. Whether there was anything.
    pub(super) fn step(&self, partition: u16, max_bytes: usize) -> Result<bool, GroupsError> {
        let Partition { turn, applied } = &self.partitions[usize::from(partition)];
        let mut turn = turn.lock();
        let frames = self.log.scan(partition, turn.offset.position).read_blocking(max_bytes);
        let frames = frames.map_err(|error: ReadError| GroupsError::from(error))?;
        let mut touched = Touched::default();
        let mut offset = turn.offset;
        for frame in &frames {
            touched.apply(&self.db, frame)?;
            offset.pass(frame);
        }
        if frames.is_empty() {
            return Ok(false);
        }
        let mut batch = WriteBatch::default();
        for ((namespace, name), (before, now)) in &mut touched.0 {
            rows::write(&mut batch, *namespace, name, before.as_ref(), now.as_mut())?;
        }
        offset.put(&mut batch, Consumer::Groups, partition);
        self.db.write_opt(batch, &unlogged())?;
        turn.offset = offset;
        if offset.position - turn.saved > SAVE_EVERY_BYTES {
            let mut flush = FlushOptions::default();
            flush.set_wait(false);
            self.db.flush_opt(&flush)?;
            turn.saved = offset.position;
        }
        drop(turn);
        applied.send_replace(offset.watermark());
        Ok(true)
    }

    /// At most `limit` groups of a namespace whose names sort behind `after`, by name.
    pub(super) fn list(
        &self,
        namespace: &Namespace,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(GroupName, Kept)>, GroupsError> {
        let prefix = rows::groups_of(namespace.id());
        let mut groups = Vec::new();
        let mut rows = self.db.raw_iterator();
        rows.seek(rows::group(namespace.id(), after.unwrap_or_default()));
        while let Some((key, value)) = rows.item().filter(|(key, _)| groups.len() < limit && key.starts_with(&prefix)) {
            let name = name_in(key, prefix.len())?;
            let kept = rows::decode(value).map_err(|reason| GroupsError::damaged(key, &reason))?;
            if after.is_none_or(|after| &*name > after) && kept.generation == namespace.generation() {
                groups.push((name, kept));
            }
            rows.next();
        }
        rows.status()?;
        Ok(groups)
    }

    /// The groups that have dead letters which are not in their namespace yet.
    pub(super) fn with_letters(&self) -> Result<Vec<(NamespaceId, GroupName)>, GroupsError> {
        let mut groups = Vec::new();
        let mut rows = self.db.raw_iterator();
        rows.seek([rows::LETTER]);
        while let Some(key) = rows.key().filter(|key| key[0] == rows::LETTER) {
            let found =
                rows::group_of_letter(key).and_then(|(namespace, name)| Some((namespace, GroupName::new(name).ok()?)));
            let (namespace, name) = found.ok_or_else(|| GroupsError::damaged(key, "it is of no group"))?;
            rows.seek(rows::behind_letters(namespace, &name));
            groups.push((namespace, name));
        }
        rows.status()?;
        Ok(groups)
    }
}

impl Touched {
    fn apply(&mut self, db: &DB, frame: &Frame) -> Result<(), GroupsError> {
        if frame.namespace() != NamespaceId::CONTROL {
            return Ok(());
        }
        for event in ControlEvent::all_in(frame) {
            match event? {
                ControlEvent::Created { .. } => {}
                ControlEvent::Deleted { id, .. } => self.forget(db, id)?,
                ControlEvent::Consumers { id, .. } if id == NamespaceId::CONTROL => {}
                ControlEvent::Consumers { id, generation, event, .. } => self.take(db, id, generation, &event)?,
            }
        }
        Ok(())
    }

    fn take(&mut self, db: &DB, id: NamespaceId, generation: Generation, event: &[u8]) -> Result<(), GroupsError> {
        let (name, event) = GroupEvent::decode(event)?;
        Kept::apply(self.group(db, id, name)?, generation, event);
        Ok(())
    }

    fn forget(&mut self, db: &DB, namespace: NamespaceId) -> Result<(), GroupsError> {
        let prefix = rows::groups_of(namespace);
        let mut rows = db.raw_iterator();
        rows.seek(prefix);
        while let Some(key) = rows.key().filter(|key| key.starts_with(&prefix)) {
            self.group(db, namespace, &name_in(key, prefix.len())?)?;
            rows.next();
        }
        rows.status()?;
        let of_it = self.0.iter_mut().filter(|((id, _), _)| *id == namespace);
        of_it.for_each(|(_, (_, now))| *now = None);
        Ok(())
    }

    /// A group as it is so far.
    fn group(&mut self, db: &DB, namespace: NamespaceId, name: &str) -> Result<&mut Option<Kept>, GroupsError> {
        match self.0.entry((namespace, name.to_owned())) {
            Entry::Occupied(known) => Ok(&mut known.into_mut().1),
            Entry::Vacant(new) => {
                let kept = rows::read(db, namespace, name)?;
                Ok(&mut new.insert((kept.clone(), kept)).1)
            }
        }
    }
}

fn name_in(key: &[u8], at: usize) -> Result<GroupName, GroupsError> {
    let name = std::str::from_utf8(&key[at..]).ok().and_then(|name| GroupName::new(name).ok());
    name.ok_or_else(|| GroupsError::damaged(key, "it names no group"))
}
