//! Events of groups, locks, rooms and subscribers.
//!
//! ```text
//! 0  floor   of a group that takes them in, in steps
//! 1  events, each: length u8 · its bytes
//! ```

use std::collections::BTreeSet;

use consumers::fuzzing;
use consumers::groups::{GroupEvent, Progress, Progressed};

/// A group's configuration is JSON, of which there are many spellings.
const CONFIGURED: u8 = 1;

/// How far apart floors are.
const STEP: u64 = 1 << 30;

/// Offsets that an event may ack: one of a log acks what is there.
const MAX_ACKED: u64 = 1 << 16;

/// Runs the target.
pub fn run(data: &[u8]) {
    let [floor, rest @ ..] = data else { return };
    let mut model = Model::new(u64::from(*floor) * STEP);
    let mut rest = rest;
    while let [length, bytes @ ..] = rest {
        let (event, behind) = bytes.split_at(usize::from(*length).min(bytes.len()));
        rest = behind;
        check(event);
        if let Ok((_, GroupEvent::Progressed(progressed))) = GroupEvent::decode(event) {
            model.take(&progressed);
        }
    }
    // One that is as long as the input, too.
    check(data);
}

/// An event is refused, or there is one spelling of it.
fn check(event: &[u8]) {
    let Some(Ok(again)) = fuzzing::event(event) else { return };
    if event.first() == Some(&CONFIGURED) {
        assert_eq!(fuzzing::event(&again), Some(Ok(again)));
    } else {
        assert_eq!(again, event);
    }
}

/// A group's progress, and the same in the plainest way.
struct Model {
    progress: Progress,
    begin: u64,
    acked: BTreeSet<u64>,
}

impl Model {
    fn new(begin: u64) -> Model {
        Model { progress: Progress::new(begin), begin, acked: BTreeSet::new() }
    }

    fn take(&mut self, progressed: &Progressed) {
        let offsets: u64 = progressed.acked.iter().map(|range| range.end - range.start).fold(0, u64::saturating_add);
        if offsets > MAX_ACKED {
            return;
        }
        self.progress.apply(progressed);
        let dead = progressed.dead.iter().map(|dead| dead.offset);
        self.acked
            .extend(progressed.acked.iter().cloned().flatten().chain(dead).filter(|offset| *offset >= self.begin));
        let floor = (self.begin..).find(|offset| !self.acked.contains(offset)).unwrap();
        assert_eq!(self.progress.floor(), floor);
        assert!(self.acked.iter().all(|offset| self.progress.is_acked(*offset)));
        let above = self.acked.range(floor..).count() as u64;
        assert_eq!(self.progress.unacked(u64::MAX), u64::MAX - floor - above);
        for (offset, attempts) in &progressed.failed {
            let known = if self.progress.is_acked(*offset) { 0 } else { *attempts };
            assert_eq!(self.progress.attempts(*offset), known);
        }
        let row = self.progress.encode().unwrap();
        assert_eq!(Progress::decode(&row).as_ref(), Ok(&self.progress));
    }
}
