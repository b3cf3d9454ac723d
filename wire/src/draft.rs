//! A draft: a frame whose records are encoded and whose place is not yet known.
//!
//! Whoever parses a publish encodes it once, as a draft; the sequencer only fills in its place. A
//! draft has the layout of a frame ([`crate::frame`]), flag bit 1 set, and zeros for all that the
//! sequencer decides: position, commit distance, chain, namespace, generation, base offset, time,
//! producer, and each record's counter.

use bytes::Bytes;

use crate::chain::Chain;
use crate::frame::{self, FLAG_DRAFT, FLAG_PRODUCER, Frame, FrameError, HEADER_BYTES, MAGIC, Records, VERSION, at};
use crate::ids::{Generation, NamespaceId, Offset, Position, Shard};
use crate::le::{put, u16_at, u32_at};
use crate::limits::{MAX_BATCH_BYTES, MAX_BATCH_RECORDS, MAX_RECORD_BYTES};
use crate::name::{NameError, check_headers, check_key};
use crate::producer::Producer;
use crate::record::{Kind, NewRecord, RECORD_HEADER_BYTES, Record, SHARD_AT};

/// Why a record can't be part of a batch, or bytes are not a draft.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DraftError {
    /// A key or header is not one.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A record is over its limit.
    #[error("a record is {bytes} bytes, the limit is {MAX_RECORD_BYTES}")]
    RecordTooLarge {
        /// Its key, headers and value together.
        bytes: usize,
    },
    /// The batch is over its limit of bytes.
    #[error("the batch is over the limit of {MAX_BATCH_BYTES} bytes")]
    BatchTooLarge,
    /// The batch is over its limit of records.
    #[error("the batch is over the limit of {MAX_BATCH_RECORDS} records")]
    TooManyRecords,
    /// The batch has no record.
    #[error("the batch has no record")]
    Empty,
    /// A tombstone deletes a key, and has none.
    #[error("a tombstone needs a key")]
    TombstoneWithoutKey,
    /// A tombstone has a value.
    #[error("a tombstone has no value")]
    TombstoneWithValue,
    /// A value is said to be text and is not UTF-8.
    #[error("a value that is marked as text is not UTF-8")]
    NotText,
    /// A value is said to be JSON and is not.
    #[error("a value that is marked as JSON is not: {0}")]
    NotJson(String),
    /// A record's shard is not that of its content.
    #[error("a record's shard is not the first byte of its BLAKE3")]
    WrongShard,
    /// What the sequencer decides is already there.
    #[error("the frame has already been given a place")]
    AlreadyPlaced,
    /// The bytes are not a frame at all.
    #[error(transparent)]
    Frame(#[from] FrameError),
}

/// Gathers records into a draft; each is checked as it comes.
#[derive(Debug)]
pub struct DraftBuilder {
    bytes: Vec<u8>,
    count: usize,
}

impl Default for DraftBuilder {
    fn default() -> Self {
        DraftBuilder::with_capacity(0)
    }
}

impl DraftBuilder {
    /// An empty batch, with room for this many bytes of encoded records.
    pub fn with_capacity(bytes: usize) -> DraftBuilder {
        let mut buffer = Vec::with_capacity(HEADER_BYTES + bytes.min(MAX_BATCH_BYTES));
        buffer.resize(HEADER_BYTES, 0);
        DraftBuilder { bytes: buffer, count: 0 }
    }

    /// Adds a record. After an error the batch is as it was.
    ///
    /// That a value of kind JSON or text is so is the caller's to know; [`Draft::decode`] checks it
    /// for what comes from elsewhere.
    pub fn push(&mut self, record: &NewRecord<'_>) -> Result<(), DraftError> {
        check_record(record)?;
        let headers: usize = record.headers.iter().map(|(name, value)| 4 + name.len() + value.len()).sum();
        let size = RECORD_HEADER_BYTES + record.key.map_or(0, str::len) + headers + record.value.len();
        if self.count == MAX_BATCH_RECORDS {
            return Err(DraftError::TooManyRecords);
        }
        if self.bytes.len() - HEADER_BYTES + size > MAX_BATCH_BYTES {
            return Err(DraftError::BatchTooLarge);
        }
        record.encode(&mut self.bytes);
        self.count += 1;
        Ok(())
    }

    /// How many records there are.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Bytes of encoded records so far.
    pub fn encoded_bytes(&self) -> usize {
        self.bytes.len() - HEADER_BYTES
    }

    /// The draft.
    ///
    /// # Errors
    /// [`DraftError::Empty`] where there is no record.
    pub fn finish(mut self) -> Result<Draft, DraftError> {
        if self.count == 0 {
            return Err(DraftError::Empty);
        }
        let length = self.bytes.len() as u32;
        put(&mut self.bytes, 0, &MAGIC);
        put(&mut self.bytes, at::LENGTH, &length.to_le_bytes());
        put(&mut self.bytes, at::VERSION, &[VERSION, FLAG_DRAFT]);
        put(&mut self.bytes, at::COUNT, &(self.count as u32).to_le_bytes());
        let mut shards = Vec::new();
        frame::shards_of_records(&self.bytes, &mut shards);
        let mut record_at = HEADER_BYTES;
        for shard in shards {
            self.bytes[record_at + SHARD_AT] = shard.0;
            record_at += record_size(&self.bytes, record_at);
        }
        Ok(Draft(self.bytes))
    }
}

fn check_record(record: &NewRecord<'_>) -> Result<(), DraftError> {
    if let Some(key) = record.key {
        check_key(key)?;
    }
    check_headers(record.headers.iter().map(|(name, value)| (name.as_ref(), value.as_ref())))?;
    if record.kind == Kind::Tombstone {
        if record.key.is_none() {
            return Err(DraftError::TombstoneWithoutKey);
        }
        if !record.value.is_empty() {
            return Err(DraftError::TombstoneWithValue);
        }
    }
    let headers = record.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
    check_size(record.key, headers, record.value)
}

fn check_size(key: Option<&str>, headers: usize, value: &[u8]) -> Result<(), DraftError> {
    let bytes = key.map_or(0, str::len) + headers + value.len();
    if bytes > MAX_RECORD_BYTES { Err(DraftError::RecordTooLarge { bytes }) } else { Ok(()) }
}

/// Where the sequencer puts a draft.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// The frame's place in its partition.
    pub position: Position,
    /// Where the write begins that it is a part of: at `position` or less than 4 GiB before it.
    pub commit_start: Position,
    /// The namespace.
    pub namespace: NamespaceId,
    /// Which use of the namespace's id.
    pub generation: Generation,
    /// The offset of the first record.
    pub base_offset: Offset,
    /// Append time, microseconds since the Unix epoch.
    pub time_micros: i64,
    /// Who sent it, if it is to be stored once.
    pub producer: Option<Producer>,
    /// The namespace's chain before.
    pub chain: Chain,
}

/// A batch that is encoded, but has no place yet.
#[derive(PartialEq, Eq, Debug)]
pub struct Draft(Vec<u8>);

impl Draft {
    /// A draft of one record.
    pub fn of(record: &NewRecord<'_>) -> Result<Draft, DraftError> {
        let mut builder = DraftBuilder::with_capacity(RECORD_HEADER_BYTES + record.value.len() + 64);
        builder.push(record)?;
        builder.finish()
    }

    /// Takes bytes from elsewhere as a draft, once everything that a builder guarantees is checked.
    pub fn decode(mut bytes: Vec<u8>) -> Result<Draft, DraftError> {
        frame::check(&bytes)?;
        let placed = bytes[at::FLAGS] != FLAG_DRAFT
            || bytes[at::POSITION..at::COUNT].iter().any(|b| *b != 0)
            || bytes[at::SEQUENCE..HEADER_BYTES].iter().any(|b| *b != 0);
        if placed {
            return Err(DraftError::AlreadyPlaced);
        }
        frame::records(&bytes).try_for_each(|record| check_from_elsewhere(&record))?;
        let mut shards = Vec::new();
        frame::shards_of_records(&bytes, &mut shards);
        if frame::records(&bytes).zip(shards).any(|(record, shard)| record.id.shard() != shard) {
            return Err(DraftError::WrongShard);
        }
        // A CRC is made when a draft is sent; in memory it has none, so that it equals its copy.
        put(&mut bytes, at::CRC, &[0; 4]);
        Ok(Draft(bytes))
    }

    /// The bytes to send to a broker, with a CRC.
    pub fn encode(mut self) -> Vec<u8> {
        let crc = crc32fast::hash(&self.0[at::LENGTH..]);
        put(&mut self.0, at::CRC, &crc.to_le_bytes());
        self.0
    }

    /// Bytes of the frame that this becomes.
    #[expect(clippy::len_without_is_empty, reason = "a draft is never empty")]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// How many records there are.
    pub fn record_count(&self) -> u32 {
        u32_at(&self.0, at::COUNT)
    }

    /// The records as they are so far: offsets from 0, no namespace, counters 0.
    pub fn records(&self) -> Records<'_> {
        frame::records(&self.0)
    }

    /// The frame: the draft with all that the sequencer decides filled in. `next_counter` gives the
    /// counter of the next record of a shard.
    pub fn place(mut self, place: &Place, mut next_counter: impl FnMut(Shard) -> u32) -> Frame {
        let bytes = &mut self.0;
        let mut counters_at = HEADER_BYTES;
        while counters_at < bytes.len() {
            let size = record_size(bytes, counters_at);
            let counter = next_counter(Shard(bytes[counters_at + SHARD_AT]));
            put(bytes, counters_at + 4, &counter.to_le_bytes());
            counters_at += size;
        }
        let distance = (place.position - place.commit_start) as u32;
        put(bytes, at::FLAGS, &[if place.producer.is_some() { FLAG_PRODUCER } else { 0 }]);
        put(bytes, at::POSITION, &place.position.to_le_bytes());
        put(bytes, at::COMMIT, &distance.to_le_bytes());
        put(bytes, at::NAMESPACE, &place.namespace.get().to_le_bytes());
        put(bytes, at::GENERATION, &place.generation.to_le_bytes());
        put(bytes, at::BASE_OFFSET, &place.base_offset.to_le_bytes());
        put(bytes, at::TIME, &place.time_micros.to_le_bytes());
        if let Some(producer) = place.producer {
            put(bytes, at::PRODUCER, &producer.id.0);
            put(bytes, at::EPOCH, &producer.epoch.to_le_bytes());
            put(bytes, at::SEQUENCE, &producer.sequence.to_le_bytes());
        }
        let chain = place.chain.after(&bytes[at::NAMESPACE..]);
        put(bytes, at::CHAIN, &chain.0);
        let crc = crc32fast::hash(&bytes[at::LENGTH..]);
        put(bytes, at::CRC, &crc.to_le_bytes());
        Frame::placed(Bytes::from(self.0))
    }
}

/// What only a publisher could have got wrong: the content of a record that is whole.
fn check_from_elsewhere(record: &Record<'_>) -> Result<(), DraftError> {
    if record.id.counter() != 0 {
        return Err(DraftError::AlreadyPlaced);
    }
    if let Some(key) = record.key {
        check_key(key)?;
    }
    check_headers(record.headers)?;
    check_size(record.key, record.headers.map(|(name, value)| name.len() + value.len()).sum(), record.value)?;
    match record.kind {
        Kind::Bytes | Kind::Tombstone => Ok(()),
        Kind::Text => std::str::from_utf8(record.value).map(drop).map_err(|_| DraftError::NotText),
        Kind::Json => {
            let text = std::str::from_utf8(record.value).map_err(|_| DraftError::NotJson("it is not UTF-8".into()))?;
            serde_json::from_str::<serde::de::IgnoredAny>(text)
                .map(drop)
                .map_err(|error| DraftError::NotJson(error.to_string()))
        }
    }
}

fn record_size(bytes: &[u8], at: usize) -> usize {
    RECORD_HEADER_BYTES
        + u32_at(bytes, at) as usize
        + usize::from(u16_at(bytes, at + 8))
        + usize::from(u16_at(bytes, at + 10))
}
