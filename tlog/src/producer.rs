//! What the sequencer knows of a producer in a namespace: enough to store a retry once.
//!
//! Its row:
//!
//! ```text
//!  0  4  epoch
//!  4  8  next sequence
//! 12     base offsets of its last batches, 8 bytes each, oldest first; at most 16
//! ```
//!
//! Numbers are little-endian.

use std::collections::VecDeque;

use wire::{Offset, Producer};

use crate::error::AppendError;

/// How many of a producer's last batches can be answered again with where they are: more than any
/// client has in flight.
const REMEMBERED: usize = 16;

/// A producer's state in a namespace.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct ProducerState {
    epoch: u32,
    next_sequence: u64,
    base_offsets: VecDeque<Offset>,
}

/// What a batch is, seen from its producer's state.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The one that is due.
    New,
    /// One that is stored already, from this offset on.
    Duplicate(Offset),
}

impl ProducerState {
    /// Judges a batch; `known` is the state of its producer, if it has one.
    pub(crate) fn judge(known: Option<&ProducerState>, batch: &Producer) -> Result<Verdict, AppendError> {
        let due = match known {
            Some(state) if batch.epoch < state.epoch => return Err(AppendError::ProducerFenced { epoch: state.epoch }),
            Some(state) if batch.epoch == state.epoch => state.next_sequence,
            // An unknown producer, and one in a new epoch, begins at 0.
            _ => 0,
        };
        if batch.sequence > due {
            return Err(AppendError::ProducerGap { expected: due });
        }
        if batch.sequence == due || mutant!(StoreRetries) {
            return Ok(Verdict::New);
        }
        let sequence = batch.sequence;
        let age = (due - 1 - sequence) as usize;
        known
            .and_then(|state| state.base_offsets.iter().rev().nth(age))
            .map(|base| Verdict::Duplicate(*base))
            .ok_or(AppendError::ProducerForgotten { sequence })
    }

    /// Takes in a batch that was judged new and is stored from `base_offset` on.
    ///
    /// Where batches are missing before it, they were lost. What is remembered is counted from the last
    /// one backwards, so what came before the lost ones is forgotten with them.
    pub(crate) fn advance(&mut self, batch: &Producer, base_offset: Offset) {
        if batch.epoch != self.epoch || batch.sequence != self.next_sequence {
            *self = ProducerState { epoch: batch.epoch, ..ProducerState::default() };
        }
        self.next_sequence = batch.sequence + 1;
        if self.base_offsets.len() == REMEMBERED {
            self.base_offsets.pop_front();
        }
        self.base_offsets.push_back(base_offset);
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut row = Vec::with_capacity(12 + 8 * self.base_offsets.len());
        row.extend_from_slice(&self.epoch.to_le_bytes());
        row.extend_from_slice(&self.next_sequence.to_le_bytes());
        for offset in &self.base_offsets {
            row.extend_from_slice(&offset.to_le_bytes());
        }
        row
    }

    /// The state of a row, or nothing where the bytes are not one.
    pub(crate) fn decode(row: &[u8]) -> Option<ProducerState> {
        let (epoch, rest) = row.split_first_chunk::<4>()?;
        let (next_sequence, rest) = rest.split_first_chunk::<8>()?;
        let (offsets, []) = rest.as_chunks::<8>() else { return None };
        if offsets.len() > REMEMBERED {
            return None;
        }
        Some(ProducerState {
            epoch: u32::from_le_bytes(*epoch),
            next_sequence: u64::from_le_bytes(*next_sequence),
            base_offsets: offsets.iter().map(|offset| u64::from_le_bytes(*offset)).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::ProducerId;

    fn batch(epoch: u32, sequence: u64) -> Producer {
        Producer { id: ProducerId([7; 16]), epoch, sequence }
    }

    #[test]
    fn a_producer_goes_on_by_one_and_a_new_epoch_begins_at_zero() {
        let judge = |state: &ProducerState, e, s| ProducerState::judge(Some(state), &batch(e, s));
        assert!(matches!(ProducerState::judge(None, &batch(3, 1)), Err(AppendError::ProducerGap { expected: 0 })));
        assert!(matches!(ProducerState::judge(None, &batch(3, 0)), Ok(Verdict::New)));
        let mut state = ProducerState::default();
        state.advance(&batch(3, 0), 100);
        state.advance(&batch(3, 1), 110);
        assert!(matches!(judge(&state, 3, 0), Ok(Verdict::Duplicate(100))));
        assert!(matches!(judge(&state, 3, 1), Ok(Verdict::Duplicate(110))));
        assert!(matches!(judge(&state, 3, 2), Ok(Verdict::New)));
        assert!(matches!(judge(&state, 3, 3), Err(AppendError::ProducerGap { expected: 2 })));
        assert!(matches!(judge(&state, 2, 2), Err(AppendError::ProducerFenced { epoch: 3 })));
        assert!(matches!(judge(&state, 4, 1), Err(AppendError::ProducerGap { expected: 0 })));
        assert!(matches!(judge(&state, 4, 0), Ok(Verdict::New)));
        state.advance(&batch(4, 0), 120);
        assert!(matches!(judge(&state, 3, 2), Err(AppendError::ProducerFenced { epoch: 4 })));
        assert!(matches!(judge(&state, 4, 0), Ok(Verdict::Duplicate(120))));
    }

    #[test]
    fn a_batch_that_was_lost_is_never_answered_with_the_place_of_another() {
        let mut state = ProducerState::default();
        for (sequence, offset) in [(0, 100), (1, 110), (3, 130), (4, 140)] {
            state.advance(&batch(0, sequence), offset);
        }
        let judge = |s| ProducerState::judge(Some(&state), &batch(0, s));
        for lost in 0..3 {
            assert!(matches!(judge(lost), Err(AppendError::ProducerForgotten { sequence }) if sequence == lost));
        }
        assert!(matches!(judge(3), Ok(Verdict::Duplicate(130))));
        assert!(matches!(judge(4), Ok(Verdict::Duplicate(140))));
        assert!(matches!(judge(5), Ok(Verdict::New)));
    }

    #[test]
    fn memory_of_a_producer_is_bounded_and_survives_its_row() {
        let mut state = ProducerState::default();
        for sequence in 0..40 {
            state.advance(&batch(0, sequence), sequence * 10);
            assert_eq!(ProducerState::decode(&state.encode()).as_ref(), Some(&state));
        }
        assert_eq!(state.base_offsets.len(), REMEMBERED);
        let judge = |s| ProducerState::judge(Some(&state), &batch(0, s));
        assert!(matches!(judge(24), Ok(Verdict::Duplicate(240))));
        assert!(matches!(judge(23), Err(AppendError::ProducerForgotten { sequence: 23 })));
    }
}
