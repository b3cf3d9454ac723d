//! Offset rows: how far a consumer has come in each partition of the log.
//!
//! A consumer is whatever has an offset row. The row stands beside the state that the consumer has
//! made of the log, and the two change in one `WriteBatch` (invariant 8).
//!
//! ```text
//! key    'p' · consumer 1 · shard 1 · partition 2, big-endian
//!
//! value   0  8  position   where to go on: the end of the last frame that is in the state
//!         8  8  records    in all frames before it, control records too
//!        16  8  frame      where that last frame begins
//!        24 32  chain      of its namespace after it, as the frame says
//! ```
//!
//! The numbers of the value are little-endian. The last frame proves on opening that this log is the
//! one that the state was made of: another log has another chain there, or no frame at all.

use rocksdb::{DB, WriteBatch};
use tlog::{Log, ReadError, Watermark};
use wire::{Chain, Frame, Position, Shard};

/// The first byte of an offset row's key.
pub(crate) const TAG: u8 = b'p';

const ROW_BYTES: usize = 56;

/// Who follows the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consumer {
    /// The 256 stores, but for those that are being rebuilt.
    Stores,
    /// The rebuild of one store; it has rows only as long as it takes.
    Rebuild(Shard),
    /// The ledger: what groups keep.
    Ledger,
}

impl Consumer {
    pub(crate) fn key(self, partition: u16) -> [u8; 5] {
        let (consumer, shard) = match self {
            Consumer::Stores => (0, 0),
            Consumer::Rebuild(shard) => (1, shard.0),
            Consumer::Ledger => (2, 0),
        };
        let [a, b] = partition.to_be_bytes();
        [TAG, consumer, shard, a, b]
    }
}

/// How far a consumer has come in a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OffsetRow {
    /// Where to go on.
    pub position: Position,
    /// Records in all frames before it, control records too.
    pub records: u64,
    pub(crate) frame: Position,
    chain: Chain,
}

/// Why a log is not the one that an offset row was written for.
#[derive(Debug, thiserror::Error)]
pub enum OffsetError {
    /// The log is shorter.
    #[error("they stand for position {position} of partition {partition}, which ends at {end}")]
    PastEnd {
        /// The partition.
        partition: u16,
        /// What the row stands for.
        position: Position,
        /// Where the log ends.
        end: Position,
    },
    /// The log has something else where the last frame should be.
    #[error("the frame that they have seen at position {frame} of partition {partition} is not there: {found}")]
    OtherFrame {
        /// The partition.
        partition: u16,
        /// Where the frame should begin.
        frame: Position,
        /// What is there.
        found: String,
    },
    /// The row is not one.
    #[error("the offset row of partition {partition} is not one")]
    Malformed {
        /// The partition.
        partition: u16,
    },
    /// The log could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The row could not be read.
    #[error(transparent)]
    Rows(#[from] rocksdb::Error),
}

impl OffsetRow {
    /// The row of a consumer that has seen nothing.
    pub const START: OffsetRow = OffsetRow { position: 0, records: 0, frame: 0, chain: Chain::EMPTY };

    /// Goes past a frame, which begins where this row stood. A loss counts with what it had.
    pub fn pass(&mut self, frame: &Frame) {
        self.position = frame.end();
        self.records += u64::from(frame.record_count());
        self.frame = frame.position();
        self.chain = frame.chain();
    }

    /// Position and records, as the log counts them too.
    pub fn watermark(&self) -> Watermark {
        Watermark { position: self.position, records: self.records }
    }

    /// The row of a consumer in a partition, where there is one.
    pub fn read(db: &DB, consumer: Consumer, partition: u16) -> Result<Option<OffsetRow>, OffsetError> {
        let Some(row) = db.get_pinned(consumer.key(partition))? else { return Ok(None) };
        OffsetRow::decode(&row).map(Some).ok_or(OffsetError::Malformed { partition })
    }

    /// Adds the row to the batch that holds the state it stands for.
    pub fn put(&self, batch: &mut WriteBatch, consumer: Consumer, partition: u16) {
        batch.put(consumer.key(partition), self.encode());
    }

    /// Sees to it that the log holds what the row stands for.
    ///
    /// # Errors
    /// Where it does not, or can't be read.
    pub fn verify(&self, log: &Log, partition: u16) -> Result<(), OffsetError> {
        let end = log.watermark(partition).borrow().position;
        if self.position > end {
            return Err(OffsetError::PastEnd { partition, position: self.position, end });
        }
        if *self == OffsetRow::START {
            return Ok(());
        }
        let other = |found: String| OffsetError::OtherFrame { partition, frame: self.frame, found };
        let frames = match log.scan(partition, self.frame).read_blocking(1) {
            Err(ReadError::Damaged { reason, .. }) => return Err(other(reason)),
            frames => frames?,
        };
        match frames.first() {
            Some(frame) if frame.is_loss() && self.chain != Chain::EMPTY => Err(other("it was lost".to_owned())),
            Some(frame) if frame.position() == self.frame && frame.end() == self.position => {
                let same = frame.chain() == self.chain;
                if same { Ok(()) } else { Err(other("another frame has its place".to_owned())) }
            }
            _ => Err(other("no frame of its length begins there".to_owned())),
        }
    }

    pub(crate) fn encode(&self) -> [u8; ROW_BYTES] {
        let mut row = [0; ROW_BYTES];
        row[..8].copy_from_slice(&self.position.to_le_bytes());
        row[8..16].copy_from_slice(&self.records.to_le_bytes());
        row[16..24].copy_from_slice(&self.frame.to_le_bytes());
        row[24..].copy_from_slice(&self.chain.0);
        row
    }

    fn decode(row: &[u8]) -> Option<OffsetRow> {
        let (position, rest) = row.split_first_chunk()?;
        let (records, rest) = rest.split_first_chunk()?;
        let (frame, rest) = rest.split_first_chunk()?;
        Some(OffsetRow {
            position: u64::from_le_bytes(*position),
            records: u64::from_le_bytes(*records),
            frame: u64::from_le_bytes(*frame),
            chain: Chain(rest.try_into().ok()?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_row_and_round_trip() {
        let row = OffsetRow { position: 0x0102, records: 3, frame: 4, chain: Chain([9; 32]) };
        let mut golden = [0; ROW_BYTES];
        (golden[0], golden[1], golden[8], golden[16]) = (2, 1, 3, 4);
        golden[24..].fill(9);
        assert_eq!(row.encode(), golden);
        assert_eq!(OffsetRow::decode(&golden), Some(row));
        assert_eq!(OffsetRow::decode(&golden[1..]), None);
    }

    #[test]
    fn golden_keys() {
        assert_eq!(Consumer::Stores.key(0x0102), *b"p\0\0\x01\x02");
        assert_eq!(Consumer::Ledger.key(1), *b"p\x02\0\0\x01");
        assert_eq!(Consumer::Rebuild(Shard(0x3f)).key(1), *b"p\x01\x3f\0\x01");
    }
}
