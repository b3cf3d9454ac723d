//! A frame: a batch of records of one namespace, the unit that is written, checksummed, made
//! durable, indexed and sent. The same bytes stand in the segment, in the tail cache, and in the
//! binary body of an HTTP read or publish.
//!
//! ```text
//!   0   4  magic            "TLGF"
//!   4   4  CRC-32 (IEEE)    of bytes 8 to the end
//!   8   4  length           of the whole frame, bytes
//!  12   1  version          1
//!  13   1  flags            bit 0: a producer is named · bit 1: a draft, not yet placed · bit 2: a loss,
//!                          see [`crate::loss`]
//!  14   2  zero
//!  16   8  position         the frame's place in its partition
//!  24   4  commit distance  position minus that of the first frame of the same write
//!  28   4  zero
//!  32  32  chain            of the namespace, after this frame
//!  ── chained from here: chain = BLAKE3(chain before ‖ bytes 64 to the end) ──
//!  64   4  namespace id     below 2^24
//!  68   4  generation
//!  72   8  base offset      of the first record
//!  80   8  append time      signed, microseconds since the Unix epoch
//!  88  16  producer id      zero where none is named, as are epoch and sequence
//! 104   4  producer epoch
//! 108   4  record count     at least 1, but in a loss
//! 112   8  producer sequence
//! 120      records          see [`crate::record`]
//! ```
//!
//! All numbers are little-endian. The CRC stands ahead of what it covers, so that length, version
//! and flags are covered too. What is physical (position, commit distance) is not chained: a copy of
//! a namespace elsewhere has the same chain.

use bytes::Bytes;

use crate::chain::Chain;
use crate::ids::{Generation, NamespaceId, Offset, Position, Shard};
use crate::le::{array_at, u32_at, u64_at};
use crate::limits::{MAX_BATCH_RECORDS, MAX_FRAME_BYTES};
use crate::loss;
use crate::producer::{Producer, ProducerId};
use crate::record::Record;
use crate::shards::shards_of;

/// Bytes of a frame before its records.
pub const HEADER_BYTES: usize = 120;

/// The first four bytes of a frame.
pub const MAGIC: [u8; 4] = *b"TLGF";

/// The version that this code writes and reads.
pub const VERSION: u8 = 1;

/// Bytes that tell how long a frame is: see [`Frame::length`].
pub const PREFIX_BYTES: usize = 12;

/// Bytes of the shortest frame: a loss that knows nothing more.
const MIN_FRAME_BYTES: usize = loss::MIN_LOSS_BYTES;

pub(crate) const FLAG_PRODUCER: u8 = 1;
pub(crate) const FLAG_DRAFT: u8 = 2;
pub(crate) const FLAG_LOSS: u8 = 4;

pub(crate) mod at {
    pub(crate) const CRC: usize = 4;
    pub(crate) const LENGTH: usize = 8;
    pub(crate) const VERSION: usize = 12;
    pub(crate) const FLAGS: usize = 13;
    pub(crate) const POSITION: usize = 16;
    pub(crate) const COMMIT: usize = 24;
    pub(crate) const CHAIN: usize = 32;
    pub(crate) const NAMESPACE: usize = 64;
    pub(crate) const GENERATION: usize = 68;
    pub(crate) const BASE_OFFSET: usize = 72;
    pub(crate) const TIME: usize = 80;
    pub(crate) const PRODUCER: usize = 88;
    pub(crate) const EPOCH: usize = 104;
    pub(crate) const COUNT: usize = 108;
    pub(crate) const SEQUENCE: usize = 112;
}

/// Why bytes are not a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// There are fewer bytes than the frame has.
    #[error("a frame is cut off: {have} bytes of {need}")]
    Truncated {
        /// Bytes that the frame has.
        need: usize,
        /// Bytes that are there.
        have: usize,
    },
    /// The first four bytes are others.
    #[error("no frame begins here")]
    BadMagic,
    /// The length is below the header's or above the limit.
    #[error("a frame's length of {0} bytes is not between {MIN_FRAME_BYTES} and {MAX_FRAME_BYTES}")]
    BadLength(usize),
    /// The checksum is another.
    #[error("a frame's CRC is {found:08x}, its bytes have {actual:08x}")]
    BadCrc {
        /// What the frame says.
        found: u32,
        /// What its bytes have.
        actual: u32,
    },
    /// It is whole, but of a version that this code does not know.
    #[error("a frame has version {0}, this is version {VERSION}")]
    BadVersion(u8),
    /// It is whole, but something in it is over its limit.
    #[error("{what} is {size}, the limit is {limit}")]
    OverLimit {
        /// What is measured, and in what.
        what: &'static str,
        /// Its size.
        size: usize,
        /// The limit.
        limit: usize,
    },
    /// It is whole, but what it says makes no sense.
    #[error("{0}")]
    Malformed(&'static str),
}

/// A frame whose CRC and structure have been checked. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Frame(Bytes);

impl Frame {
    /// How long the frame is that begins with these [`PREFIX_BYTES`] bytes or more.
    ///
    /// # Errors
    /// Where no frame begins here, its length is impossible, or there are too few bytes to tell.
    pub fn length(prefix: &[u8]) -> Result<usize, FrameError> {
        if prefix.len() < PREFIX_BYTES {
            return Err(FrameError::Truncated { need: PREFIX_BYTES, have: prefix.len() });
        }
        if prefix[..4] != MAGIC {
            return Err(FrameError::BadMagic);
        }
        let length = u32_at(prefix, at::LENGTH) as usize;
        if (MIN_FRAME_BYTES..=MAX_FRAME_BYTES).contains(&length) {
            Ok(length)
        } else {
            Err(FrameError::BadLength(length))
        }
    }

    /// The position that a frame would have that begins with these bytes; nothing of it has been checked.
    pub fn claimed_position(prefix: &[u8]) -> Option<Position> {
        (prefix.len() >= at::COMMIT).then(|| u64_at(prefix, at::POSITION))
    }

    /// Takes bytes as a frame, once CRC, header and every record's structure have been checked.
    ///
    /// # Errors
    /// Where the bytes are not exactly one placed frame.
    pub fn decode(bytes: Bytes) -> Result<Frame, FrameError> {
        check_placed(&bytes)?;
        Ok(Frame(bytes))
    }

    /// Takes bytes that [`crate::Draft::place`] has just written, or [`check_placed`] found sound.
    pub(crate) fn placed(bytes: Bytes) -> Frame {
        Frame(bytes)
    }

    /// The frame's place in its partition.
    #[inline]
    pub fn position(&self) -> Position {
        u64_at(&self.0, at::POSITION)
    }

    /// The position behind the frame: where the next one begins.
    pub fn end(&self) -> Position {
        self.position() + self.0.len() as u64
    }

    /// The position at which the write began that this frame was a part of. Everything before it
    /// was durable when this frame was written, which is what tells a torn tail from damage.
    pub fn commit_start(&self) -> Position {
        self.position() - u64::from(u32_at(&self.0, at::COMMIT))
    }

    /// The namespace of the records.
    #[inline]
    pub fn namespace(&self) -> NamespaceId {
        namespace_of(&self.0)
    }

    /// Which use of the namespace's id.
    pub fn generation(&self) -> Generation {
        u32_at(&self.0, at::GENERATION)
    }

    /// The offset of the first record.
    #[inline]
    pub fn base_offset(&self) -> Offset {
        u64_at(&self.0, at::BASE_OFFSET)
    }

    /// The offset behind the last record.
    #[inline]
    pub fn next_offset(&self) -> Offset {
        self.base_offset() + u64::from(self.record_count())
    }

    /// How many records there are: 1 or more. In a loss, how many there were: 0 or more.
    #[inline]
    pub fn record_count(&self) -> u32 {
        u32_at(&self.0, at::COUNT)
    }

    /// When the frame was appended, microseconds since the Unix epoch.
    pub fn time_micros(&self) -> i64 {
        u64_at(&self.0, at::TIME).cast_signed()
    }

    /// The producer that sent the batch, if it named itself.
    pub fn producer(&self) -> Option<Producer> {
        (self.0[at::FLAGS] & FLAG_PRODUCER != 0).then(|| Producer {
            id: ProducerId(array_at(&self.0, at::PRODUCER)),
            epoch: u32_at(&self.0, at::EPOCH),
            sequence: u64_at(&self.0, at::SEQUENCE),
        })
    }

    /// The namespace's chain after this frame, as the frame says.
    pub fn chain(&self) -> Chain {
        Chain(array_at(&self.0, at::CHAIN))
    }

    /// The namespace's chain after this frame, as its bytes have it, given the chain before.
    pub fn chain_after(&self, before: &Chain) -> Chain {
        before.after(&self.0[at::NAMESPACE..])
    }

    /// The records, in order; a loss has none.
    pub fn records(&self) -> Records<'_> {
        records(&self.0)
    }

    /// The shards that the records' contents have, in order, into `shards`, whose room is used again. That is
    /// much less work for all of them than for one after the other.
    pub fn shards(&self, shards: &mut Vec<Shard>) {
        shards_of_records(&self.0, shards);
    }

    /// The whole frame.
    #[inline]
    pub fn bytes(&self) -> &Bytes {
        &self.0
    }

    /// The length of the whole frame, bytes.
    #[expect(clippy::len_without_is_empty, reason = "a frame is never empty")]
    #[inline]
    pub fn len(&self) -> usize {
        self.0.len()
    }
}

/// The records of a frame, in order.
#[derive(Clone, Debug)]
pub struct Records<'a> {
    rest: &'a [u8],
    namespace: NamespaceId,
    offset: Offset,
    time_micros: i64,
}

impl<'a> Iterator for Records<'a> {
    type Item = Record<'a>;

    #[inline]
    fn next(&mut self) -> Option<Record<'a>> {
        // The frame was checked when it was made, so this fails only where the records end.
        let record = Record::decode(self.rest, self.namespace, self.offset, self.time_micros).ok()?;
        self.rest = &self.rest[record.encoded.len()..];
        self.offset += 1;
        Some(record)
    }
}

fn namespace_of(frame: &[u8]) -> NamespaceId {
    let [a, b, c, _] = array_at(frame, at::NAMESPACE);
    NamespaceId::from_be_bytes([c, b, a])
}

/// The records of a frame that has been checked.
pub(crate) fn records(frame: &[u8]) -> Records<'_> {
    Records {
        rest: if is_loss(frame) { &[] } else { &frame[HEADER_BYTES..] },
        namespace: namespace_of(frame),
        offset: u64_at(frame, at::BASE_OFFSET),
        time_micros: u64_at(frame, at::TIME).cast_signed(),
    }
}

/// The shards of the records of a frame or draft that has been checked, as their contents have them.
pub(crate) fn shards_of_records(frame: &[u8], shards: &mut Vec<Shard>) {
    let count = if is_loss(frame) { 0 } else { u32_at(frame, at::COUNT) as usize };
    shards_of(count, &mut records(frame).map(|record| record.content()), shards);
}

/// Checks CRC, header and the structure of every record; `bytes` must be exactly one frame or draft.
pub(crate) fn check(bytes: &[u8]) -> Result<(), FrameError> {
    let malformed = |what| Err(FrameError::Malformed(what));
    let length = Frame::length(bytes)?;
    if bytes.len() < length {
        return Err(FrameError::Truncated { need: length, have: bytes.len() });
    }
    if bytes.len() > length {
        return malformed("bytes follow the frame");
    }
    let (found, actual) = (u32_at(bytes, at::CRC), crc32fast::hash(&bytes[at::LENGTH..]));
    if found != actual {
        return Err(FrameError::BadCrc { found, actual });
    }
    if bytes[at::VERSION] != VERSION {
        return Err(FrameError::BadVersion(bytes[at::VERSION]));
    }
    check_header(bytes)?;
    if is_loss(bytes) { loss::check(bytes, namespace_of(bytes)) } else { check_records(bytes) }
}

/// Checks that `bytes` are exactly one frame, and no draft.
pub(crate) fn check_placed(bytes: &[u8]) -> Result<(), FrameError> {
    check(bytes)?;
    if is_draft(bytes) { Err(FrameError::Malformed("a draft stands where a frame should")) } else { Ok(()) }
}

/// Checks all that the fields behind the version could get wrong, so that no sum of them overflows.
fn check_header(bytes: &[u8]) -> Result<(), FrameError> {
    let malformed = |what| Err(FrameError::Malformed(what));
    let flags = bytes[at::FLAGS];
    if flags & !(FLAG_PRODUCER | FLAG_DRAFT | FLAG_LOSS) != 0 || bytes[14..16] != [0; 2] || bytes[28..32] != [0; 4] {
        return malformed("a frame's reserved bits are not zero");
    }
    let no_producer = bytes[at::PRODUCER..at::COUNT] == [0; 20] && u64_at(bytes, at::SEQUENCE) == 0;
    if flags & FLAG_PRODUCER == 0 && !no_producer {
        return malformed("a frame without a producer has one's bytes");
    }
    if u64_at(bytes, at::SEQUENCE) == u64::MAX {
        return malformed("a producer's sequence is the last there is");
    }
    let position = u64_at(bytes, at::POSITION);
    if position.checked_add(bytes.len() as u64).is_none() {
        return malformed("a frame lies where no partition reaches");
    }
    if u64::from(u32_at(bytes, at::COMMIT)) > position {
        return malformed("a frame's write begins before its partition");
    }
    if NamespaceId::new(u32_at(bytes, at::NAMESPACE)).is_none() {
        return malformed("a frame's namespace id is 2^24 or more");
    }
    let count = u32_at(bytes, at::COUNT);
    if is_loss(bytes) {
        let is_alone =
            flags == FLAG_LOSS && u32_at(bytes, at::COMMIT) == 0 && bytes[at::CHAIN..at::NAMESPACE] == [0; 32];
        if !is_alone {
            return malformed("a loss has a producer, a chain or a write of its own");
        }
    } else if count == 0 {
        return malformed("a frame has no record");
    } else if count as usize > MAX_BATCH_RECORDS {
        let (what, limit) = ("a frame's count of records", MAX_BATCH_RECORDS);
        return Err(FrameError::OverLimit { what, size: count as usize, limit });
    }
    if u64_at(bytes, at::BASE_OFFSET).checked_add(u64::from(count)).is_none() {
        return malformed("a frame's offsets are past the last there is");
    }
    Ok(())
}

/// Checks that there are as many records as the header says, and nothing else. A record that has a
/// place has a counter too; only the log's own need no object id.
fn check_records(bytes: &[u8]) -> Result<(), FrameError> {
    let namespace = namespace_of(bytes);
    let counted = !is_draft(bytes) && namespace != NamespaceId::CONTROL;
    let mut rest = &bytes[HEADER_BYTES..];
    for _ in 0..u32_at(bytes, at::COUNT) {
        let record = Record::decode(rest, namespace, 0, 0)?;
        if counted && record.id.counter() == 0 {
            return Err(FrameError::Malformed("a record has no counter"));
        }
        rest = &rest[record.encoded.len()..];
    }
    if rest.is_empty() { Ok(()) } else { Err(FrameError::Malformed("bytes follow a frame's last record")) }
}

fn is_loss(bytes: &[u8]) -> bool {
    bytes[at::FLAGS] & FLAG_LOSS != 0
}

fn is_draft(bytes: &[u8]) -> bool {
    bytes[at::FLAGS] & FLAG_DRAFT != 0
}
