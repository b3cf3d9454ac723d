//! Whose turn it is. In a broker each partition's sequencer and keeper have a thread; a simulation
//! gives them their turns one by one, in an order of its own, and so the same run comes out of the
//! same seed.

use std::path::Path;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};

use crate::error::{OpenError, ReadError};
use crate::keeper::Chores;
use crate::queue::Queue;
use crate::rows::Rows;
use crate::sequencer::Sequencer;

/// The sequencers and keepers of a log that has no threads: see [`Log::open_driven`](crate::Log::open_driven).
///
/// Dropping it is as the end of the process: what waits is never served, and the rows are not flushed
/// by it.
#[derive(Debug)]
pub struct Driver {
    pub(crate) turns: Vec<Turn>,
    pub(crate) rows: Arc<Rows>,
}

/// What the threads of a partition do.
#[derive(Debug)]
pub(crate) struct Turn {
    pub(crate) queue: Arc<Queue>,
    pub(crate) sequencer: Sequencer,
    pub(crate) chores: Chores,
}

impl Driver {
    /// Gives each sequencer and each keeper a thread. Sequencers come first in the result: a keeper
    /// ends after its sequencer.
    pub(crate) fn start(self) -> Result<Vec<JoinHandle<()>>, OpenError> {
        let mut sequencers = Vec::new();
        let mut keepers = Vec::new();
        for (id, Turn { queue, sequencer, chores }) in self.turns.into_iter().enumerate() {
            let thread = |what: &str| Builder::new().name(format!("{what}-{id:03}"));
            keepers.push(thread("keeper").spawn(move || chores.run()).map_err(OpenError::Thread)?);
            let sequencer = thread("sequencer").spawn(move || sequencer.run(&queue));
            sequencers.push(sequencer.map_err(OpenError::Thread)?);
        }
        sequencers.extend(keepers);
        Ok(sequencers)
    }

    /// Serves all that waits in a partition, as one commit or as few as its size allows. Whether
    /// anything waited.
    pub fn commit(&mut self, partition: u16) -> bool {
        let turn = self.turns.get_mut(usize::from(partition));
        turn.is_some_and(|Turn { queue, sequencer, .. }| sequencer.step(queue))
    }

    /// Does what a partition's keeper was asked first, if anything was. Whether it was.
    pub fn keep(&mut self, partition: u16) -> bool {
        self.turns.get(usize::from(partition)).is_some_and(|turn| turn.chores.step())
    }

    /// Makes the rows durable as they are, and copies their folder to `to`, which must not exist:
    /// what a crash would leave of them that came right now.
    ///
    /// # Errors
    /// Where RocksDB can't.
    pub fn copy_rows(&self, to: &Path) -> Result<(), ReadError> {
        self.rows.copy(to)
    }
}
