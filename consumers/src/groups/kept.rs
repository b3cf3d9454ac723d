//! What is kept of a group: a pure function of its events. The applier makes rows of it, and a live group
//! takes in its own events the same way, so the two can't differ.

use std::collections::BTreeMap;

use wire::{Generation, Offset};

use super::event::{Dead, GroupEvent, Progressed};
use super::progress::Progress;
use wire::group::GroupConfig;

/// What is kept of a group.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Kept {
    /// Which use of its namespace's id.
    pub(super) generation: Generation,
    /// Which use of its name.
    pub(super) incarnation: u32,
    /// Its configuration.
    pub(super) config: GroupConfig,
    /// What it has done.
    pub(super) progress: Progress,
    /// How many dead letters it has had: the number of the next one.
    pub(super) letters_made: u64,
    /// The dead letters that are not in their namespace yet, by number.
    pub(super) letters: BTreeMap<u64, Dead>,
}

impl Kept {
    /// Takes in an event. One of a group that does not exist changes nothing.
    pub(super) fn apply(kept: &mut Option<Kept>, generation: Generation, event: GroupEvent) {
        match (event, kept.as_mut()) {
            (GroupEvent::Configured { config, .. }, Some(kept)) => kept.config = config,
            (GroupEvent::Configured { incarnation, floor, config }, None) => {
                *kept = Some(Kept {
                    generation,
                    incarnation,
                    config,
                    progress: Progress::new(floor),
                    letters_made: 0,
                    letters: BTreeMap::new(),
                });
            }
            (GroupEvent::Deleted, _) => *kept = None,
            (GroupEvent::Progressed(progressed), Some(kept)) => kept.progressed(progressed),
            (GroupEvent::Moved { floor }, Some(kept)) => kept.progress = Progress::new(floor),
            (GroupEvent::Published { offsets }, Some(kept)) => kept.published(&offsets),
            (_, None) => {}
        }
    }

    /// Takes in what has been done.
    pub(super) fn progressed(&mut self, progressed: Progressed) {
        self.progress.apply(&progressed);
        if self.config.dead_letter.is_some() {
            for dead in progressed.dead {
                self.letters.insert(self.letters_made, dead);
                self.letters_made += 1;
            }
        }
    }

    /// Forgets letters that are where they should be. A record that was given up more than once has one
    /// for each time, and the first goes first.
    pub(super) fn published(&mut self, offsets: &[Offset]) {
        for offset in offsets {
            let letter = self.letters.iter().find(|(_, dead)| dead.offset == *offset).map(|(number, _)| *number);
            if let Some(number) = letter {
                self.letters.remove(&number);
            }
        }
    }
}
