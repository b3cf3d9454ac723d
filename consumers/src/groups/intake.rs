//! Where a group reads on, and what of the log it need not work on: what was done before, and what is lost.

use std::ops::Range;

use wire::Offset;

use super::progress::Progress;

/// What is read next.
#[derive(Debug)]
pub(super) struct Intake {
    /// What was done before: it is asked for offsets below its ceiling.
    past: Progress,
    ceiling: Offset,
    next: Offset,
    skipped: Vec<Range<Offset>>,
}

impl Intake {
    /// Behind what was done.
    pub(super) fn new(progress: &Progress) -> Intake {
        let (ceiling, next) = (progress.ceiling(), progress.floor());
        Intake { past: progress.clone(), ceiling, next, skipped: Vec::new() }
    }

    /// The first offset that was not read.
    pub(super) fn next(&self) -> Offset {
        self.next
    }

    /// Whether a record was acked before.
    pub(super) fn was_acked(&self, offset: Offset) -> bool {
        offset < self.ceiling && self.past.is_acked(offset) && !mutant!(RedeliverAcked)
    }

    /// How many deliveries of a record failed before.
    pub(super) fn attempts(&self, offset: Offset) -> u32 {
        if offset < self.ceiling { self.past.attempts(offset) } else { 0 }
    }

    /// Goes behind a record, and what was acked before behind that. `reads_again`: whether records are to be read
    /// once more that were read already.
    pub(super) fn go_behind(&mut self, offset: Offset, reads_again: bool) {
        self.next = offset.saturating_add(1);
        if self.next < self.ceiling && !mutant!(RedeliverAcked) {
            self.next = self.past.next_unacked(self.next);
        } else if self.ceiling > 0 && !reads_again {
            (self.past, self.ceiling) = (Progress::default(), 0);
        }
    }

    /// There are no more records before `offset`.
    pub(super) fn pass(&mut self, offset: Offset) {
        if offset > self.next {
            self.skipped.push(self.next..offset);
            self.next = offset;
        }
    }

    /// Takes what was passed over.
    pub(super) fn take_skipped(&mut self) -> Vec<Range<Offset>> {
        std::mem::take(&mut self.skipped)
    }
}
