//! The thread of a partition that keeps the stores up with the log.

use std::thread;
use std::time::{Duration, Instant};

use tlog::{ReadError, Watermark};
use tokio::sync::watch;
use tracing::{debug, error};
use wire::Frame;

use crate::insist::insist;
use crate::offsets::Consumer;
use crate::stores::apply::Applier;
use crate::stores::error::StoresError;
use crate::stores::metrics::{self, LiveMetrics};
use crate::stores::ring::{Partition, Ring};
use crate::stores::shards::ShardSet;

/// A batch of fewer records than this costs more by being a batch than by its records.
const FEW_RECORDS: u64 = 4096;

/// How long the log may gather after such a batch. Nobody waits for it: see [`Live::gather`]. A batch has a row
/// for each store that it writes to, so one of a hundred records costs a record three times what one of a
/// thousand does.
const GATHER: Duration = Duration::from_millis(20);

/// Applies a partition until the stores or the log are closed.
pub(crate) fn run(ring: &Ring, partition: &Partition) {
    partition.thread.get_or_init(thread::current);
    let mut live = Live::new(ring, partition);
    let errors = metrics::errors(&partition.id.to_string());
    insist(
        &ring.stop,
        || live.follow(),
        |error| {
            errors.increment(1);
            error!(partition = partition.id, %error, "the stores can't apply the log, and try again");
        },
    );
    debug!(partition = partition.id, "the stores follow no longer");
}

pub(crate) struct Live<'a> {
    ring: &'a Ring,
    partition: &'a Partition,
    metrics: LiveMetrics,
    watermark: watch::Receiver<Watermark>,
}

impl<'a> Live<'a> {
    pub(crate) fn new(ring: &'a Ring, partition: &'a Partition) -> Live<'a> {
        let watermark = ring.log.watermark(partition.id);
        Live { ring, partition, metrics: LiveMetrics::new(partition.id), watermark }
    }

    /// Applies what is in the log, and what comes, until the stores or the log are closed.
    fn follow(&mut self) -> Result<(), StoresError> {
        while !self.ring.stop.is_cancelled() {
            // Seen first, read then: what comes after the read moves it again.
            let end = *self.watermark.borrow_and_update();
            self.metrics.lag(end.records.saturating_sub(self.partition.applied.borrow().records));
            match self.step(self.ring.batch_bytes()) {
                Ok(Some(records)) => self.gather(records, end),
                Ok(None) => match self.ring.wait(self.watermark.changed()) {
                    Some(Ok(())) => {}
                    Some(Err(_)) | None => return Ok(()),
                },
                Err(StoresError::Read(ReadError::Closed)) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Applies what the log has next, about `max_bytes` of frames, and says how many records that was;
    /// nothing where it has no more.
    pub(crate) fn step(&self, max_bytes: usize) -> Result<Option<u64>, StoresError> {
        let from = self.partition.turn.lock().offset.position;
        let frames = self.ring.log.scan(self.partition.id, from).read_blocking(max_bytes)?;
        if frames.is_empty() {
            return Ok(None);
        }
        let begun = Instant::now();
        let records = self.apply(&frames)?;
        self.metrics.applied(records, begun);
        Ok(Some(records))
    }

    /// Lets more records gather after a batch of few that was all there was at its begin, unless a read waits for
    /// what comes, or until one does: applying each commit by itself takes several times the CPU, of those who
    /// publish.
    fn gather(&self, applied: u64, end: Watermark) {
        let was_all = self.partition.applied.borrow().position >= end.position;
        if was_all && applied < FEW_RECORDS && self.partition.applied.receiver_count() == 0 {
            // Whoever begins to wait unparks it, and whoever ends it.
            thread::park_timeout(GATHER);
        }
    }

    /// Applies frames to all stores that are not being rebuilt; says how many records they had.
    fn apply(&self, frames: &[Frame]) -> Result<u64, StoresError> {
        let mut turn = self.partition.turn.lock();
        let before = turn.offset.records;
        let applier = Applier {
            db: &self.ring.db,
            partition: self.partition,
            consumer: Consumer::Stores,
            shards: if mutant!(ApplyTwice) { ShardSet::NONE.others() } else { turn.rebuilding.others() },
        };
        let applied = applier.apply(frames, &mut turn.offset);
        let watermark = turn.offset.watermark();
        drop(turn);
        self.partition.applied.send_replace(watermark);
        applied?;
        Ok(watermark.records - before)
    }
}
