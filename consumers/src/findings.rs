//! What rows must be, held against what they are: what is wrong, row by row.

use std::cmp::Ordering;
use std::path::PathBuf;

use rocksdb::{DB, Error, IteratorMode};
use tlog::check::{Fault, FaultKind, Whole};
use wire::Position;

use crate::database::RawRow;

/// Most rows that are named one by one.
const MAX_NAMED: u64 = 20;

/// What makes the rows again.
pub(crate) const REBUILT_BY: &str = "tlog repair and the next start";

/// What is wrong with the rows of a folder.
#[derive(Debug)]
pub(crate) struct Findings {
    kind: FaultKind,
    dir: PathBuf,
    faults: Vec<Fault>,
}

impl Findings {
    pub(crate) fn new(kind: FaultKind, dir: PathBuf) -> Findings {
        Findings { kind, dir, faults: Vec::new() }
    }

    /// Whether a partition's rows, which stand for its log up to `to`, can be told from what they must be.
    pub(crate) fn is_comparable(&mut self, partition: usize, to: Position, whole: &Whole) -> bool {
        if to > whole.end {
            let reason = format!("they stand for position {to} of partition {partition}, which ends at {}", whole.end);
            self.add(None, to, &reason);
        }
        to <= whole.intact
    }

    /// Compares all rows whose keys are comparable, byte for byte.
    pub(crate) fn compare(
        mut self,
        real: &DB,
        due: &DB,
        is_comparable: impl Fn(&[u8]) -> bool,
    ) -> Result<Vec<Fault>, Error> {
        let (mut real, mut due) = (real.iterator(IteratorMode::Start), due.iterator(IteratorMode::Start));
        let (mut found, mut expected): (Option<RawRow>, Option<RawRow>) =
            (real.next().transpose()?, due.next().transpose()?);
        let mut differing = 0;
        loop {
            let order = match (&found, &expected) {
                (None, None) => break,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some((found, _)), Some((expected, _))) => found.cmp(expected),
            };
            let reason = match order {
                Ordering::Less => Some("nothing in the log says so"),
                Ordering::Greater => Some("it is missing"),
                Ordering::Equal => (found != expected).then_some("it is not what the log amounts to"),
            };
            let row = if order == Ordering::Greater { &expected } else { &found };
            if let (Some((key, _)), Some(reason)) = (row, reason)
                && is_comparable(key)
            {
                differing += 1;
                if differing <= MAX_NAMED {
                    self.add(Some(key), 0, reason);
                }
            }
            if order != Ordering::Greater {
                found = real.next().transpose()?;
            }
            if order != Ordering::Less {
                expected = due.next().transpose()?;
            }
        }
        if differing > MAX_NAMED {
            self.add(None, 0, &format!("{} more rows are not what the log amounts to", differing - MAX_NAMED));
        }
        Ok(self.faults)
    }

    fn add(&mut self, key: Option<&[u8]>, position: Position, reason: &str) {
        let fault = Fault::derived(self.kind, self.dir.clone(), position, reason, REBUILT_BY);
        self.faults.push(Fault { key: key.map(|key| key.escape_ascii().to_string()), ..fault });
    }
}
