//! The rows of a data folder, held against those that come of the frames up to where each partition's
//! stand. They are made in a folder of their own, and compared byte for byte.

use std::cmp::Ordering;
use std::path::Path;
use std::sync::Arc;

use wire::{Frame, Position};

use super::report::{Fault, FaultKind, Report};
use super::survey::{Segment, Survey};
use crate::error::{OpenError, ReadError};
use crate::keeper::locate;
use crate::rows::{OFFLINE_TABLES, Row, Rows, partition_of};
use crate::segment::sealed;
use crate::state::{REPLAY_GATHER, State};

/// Heads that are kept in memory, bytes.
const HEAD_CACHE_BYTES: usize = 4 << 20;

/// Most rows that are named one by one.
const MAX_NAMED: u64 = 20;

/// What makes rows again.
const REBUILT_BY: &str = "tlog repair and the next start";

/// The rows of a partition.
struct Of {
    applied: Position,
    located: Position,
    state: State,
    /// Why they can't be compared: the log has not all that they stand for.
    is_comparable: bool,
}

/// Rows that are being checked.
pub(crate) struct RowsCheck<'a> {
    real: &'a Rows,
    scratch: Arc<Rows>,
    partitions: Vec<Of>,
    faults: Vec<Fault>,
}

impl<'a> RowsCheck<'a> {
    pub(crate) fn new(real: &'a Rows, scratch: &Path, partitions: u16) -> Result<RowsCheck<'a>, OpenError> {
        let scratch = Arc::new(Rows::open(&scratch.join("rows"), OFFLINE_TABLES)?);
        let mut check = RowsCheck { real, scratch, partitions: Vec::new(), faults: Vec::new() };
        for partition in 0..partitions {
            let row = real.partition(partition);
            let located = real.located(partition);
            let is_comparable = row.is_ok() && located.is_ok();
            for error in row.as_ref().err().into_iter().chain(located.as_ref().err()) {
                check.fault(None, 0, &error.to_string());
            }
            let state = State::load(partition, partitions, Arc::clone(&check.scratch), HEAD_CACHE_BYTES)?;
            let applied = row.ok().flatten().map_or(0, |row| row.applied);
            let located = located.unwrap_or(0);
            check.partitions.push(Of { applied, located, state, is_comparable });
        }
        Ok(check)
    }

    fn fault(&mut self, key: Option<&[u8]>, position: Position, reason: &str) {
        let fault = Fault::derived(FaultKind::Rows, self.real.dir().to_owned(), position, reason, REBUILT_BY);
        self.faults.push(Fault { key: key.map(|key| key.escape_ascii().to_string()), ..fault });
    }

    /// Takes in the next frame of a partition.
    pub(crate) fn frame(&mut self, partition: u16, frame: &Frame) -> Result<(), OpenError> {
        let of = &mut self.partitions[usize::from(partition)];
        if !of.is_comparable || frame.end() > of.applied {
            return Ok(());
        }
        if of.state.apply(frame).is_err() {
            // The survey has believed it, so it is the survey that says what is wrong.
            of.is_comparable = false;
            return Ok(());
        }
        if of.state.has_gathered(REPLAY_GATHER) {
            of.state.write()?;
        }
        Ok(())
    }

    /// Takes in that a partition has no more frames.
    pub(crate) fn close(&mut self, survey: &Survey, partition: u16) -> Result<(), OpenError> {
        let intact = survey.holes.first().map_or(survey.end, |hole| hole.from);
        let of = &mut self.partitions[usize::from(partition)];
        if !of.is_comparable || of.applied > intact {
            of.is_comparable = false;
            return Ok(());
        }
        if of.state.end() > 0 {
            of.state.write()?;
        }
        let (applied, located) = (of.applied, of.located);
        if of.state.end() != applied {
            self.fault(None, applied, "no frame ends where they stand");
            self.partitions[usize::from(partition)].is_comparable = false;
            return Ok(());
        }
        self.locate(survey, partition, located)
    }

    fn locate(&self, survey: &Survey, partition: u16, to: Position) -> Result<(), OpenError> {
        let sealed = survey.segments.iter().filter(|segment| !segment.is_last && segment.end <= to);
        for Segment { file, end, .. } in sealed {
            let Some(file) = file else { continue };
            locate(&self.scratch, partition, &sealed::index_again(file, *end)?)?;
        }
        Ok(())
    }

    /// Holds all rows against those that come of the frames.
    pub(crate) fn report(mut self, report: &mut Report) -> Result<(), OpenError> {
        let scratch = Arc::clone(&self.scratch);
        let mut real = self.real.all();
        let mut due = scratch.all();
        let (mut found, mut expected) = (next(&mut real)?, next(&mut due)?);
        let mut differing = 0;
        loop {
            let order = match (&found, &expected) {
                (None, None) => break,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some((found, _)), Some((expected, _))) => found.cmp(expected),
            };
            let reason = match order {
                Ordering::Less => "nothing in the log says so",
                Ordering::Greater => "it is missing",
                Ordering::Equal if found != expected => "it is not what the log amounts to",
                Ordering::Equal => "",
            };
            let row = if order == Ordering::Greater { &expected } else { &found };
            let key = row.as_ref().map(|(key, _)| key).filter(|key| !reason.is_empty() && self.is_comparable(key));
            if let Some(key) = key {
                differing += 1;
                if differing <= MAX_NAMED {
                    self.fault(Some(key), 0, reason);
                }
            }
            if order != Ordering::Greater {
                found = next(&mut real)?;
            }
            if order != Ordering::Less {
                expected = next(&mut due)?;
            }
        }
        if differing > MAX_NAMED {
            self.fault(None, 0, &format!("{} more rows are not what the log amounts to", differing - MAX_NAMED));
        }
        self.faults.into_iter().for_each(|fault| report.derived(fault));
        Ok(())
    }

    /// Whether a row is of a partition whose rows can be compared.
    fn is_comparable(&self, key: &[u8]) -> bool {
        let partitions = self.partitions.len() as u16;
        let of = |partition: u16| self.partitions.get(usize::from(partition)).is_none_or(|of| of.is_comparable);
        partition_of(key, partitions).is_none_or(of)
    }
}

fn next(rows: &mut impl Iterator<Item = Result<Row, ReadError>>) -> Result<Option<Row>, OpenError> {
    Ok(rows.next().transpose()?)
}
