//! A loss: a frame that stands where frames were lost. A repair writes it, so that positions and
//! offsets go on without a gap and every reader is told what is missing, and never has to guess.
//!
//! Its header is that of any frame, with flag bit 2. The record count says how many offsets are lost,
//! from the base offset on; none, where it only fills. There is no producer. The chain is 32 zeros, and
//! begins anew: the next frame's is taken at its word, for what it was made from is gone.
//!
//! ```text
//! 120  4  unlisted   every shard's counter that is not listed below may have gone on by so many
//! 124  4  listed     how many follow
//! 128     listed     in a namespace, each: shard u8, counter u32: that shard's, behind the loss
//!                    in the control namespace, each: length u32, and the value of a control record:
//!                    what is known to have been lost there, and is so again
//!         zeros      up to the frame's length
//! ```
//!
//! Numbers are little-endian. A loss of some frames fits into their place: each of them had a header
//! and for each record or event more bytes than are needed here.

use bytes::Bytes;

use crate::chain::Chain;
use crate::frame::{FLAG_LOSS, Frame, FrameError, HEADER_BYTES, MAGIC, VERSION, at};
use crate::ids::{Generation, NamespaceId, Offset, Position, Shard};
use crate::le::{put, u32_at};
use crate::limits::{MAX_FRAME_BYTES, SHARDS};

const UNLISTED: usize = HEADER_BYTES;
const LISTED: usize = HEADER_BYTES + 4;
const LIST: usize = HEADER_BYTES + 8;
const COUNTER_BYTES: usize = 5;
const EVENT_LENGTH_BYTES: usize = 4;

/// Bytes of the shortest loss.
pub const MIN_LOSS_BYTES: usize = LIST;

/// What is lost, and where its frame stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loss {
    /// The frame's place in its partition.
    pub position: Position,
    /// How many bytes it takes: from [`MIN_LOSS_BYTES`] to [`MAX_FRAME_BYTES`].
    pub length: usize,
    /// The namespace whose records are lost.
    pub namespace: NamespaceId,
    /// Which use of the namespace's id.
    pub generation: Generation,
    /// The first offset that is lost.
    pub base_offset: Offset,
    /// How many are: 0 fills a place whose records are not known.
    pub count: u32,
    /// When, microseconds since the Unix epoch: not before what precedes it.
    pub time_micros: i64,
    /// What else is known of it.
    pub known: Known,
}

/// What is known of what was lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Known {
    /// In a namespace: where its counters are behind the loss, as [`Known::Counters::listed`] has it for
    /// some shards; each other may have gone on by `unlisted`, and is taken to have.
    Counters {
        /// At most how far a shard that is not listed has gone on.
        unlisted: u32,
        /// The counters of shards, ascending by shard.
        listed: Vec<(Shard, u32)>,
    },
    /// In the control namespace: values of control records, in their order.
    Events(Vec<Bytes>),
}

/// Why a loss can't be written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LossError {
    /// The place is too small for what is known, or larger than a frame may be.
    #[error("a loss that needs {need} bytes does not go into {have}")]
    NoRoom {
        /// Bytes that it needs.
        need: usize,
        /// Bytes that there are, or that a frame may have.
        have: usize,
    },
    /// It does not make sense.
    #[error("{0}")]
    Malformed(&'static str),
}

impl Known {
    /// Nothing more.
    pub fn nothing(namespace: NamespaceId) -> Known {
        if namespace == NamespaceId::CONTROL {
            Known::Events(Vec::new())
        } else {
            Known::Counters { unlisted: 0, listed: Vec::new() }
        }
    }

    /// Bytes that a loss which knows this needs at least.
    pub fn loss_bytes(&self) -> usize {
        LIST + match self {
            Known::Counters { listed, .. } => listed.len() * COUNTER_BYTES,
            Known::Events(events) => events.iter().map(|event| EVENT_LENGTH_BYTES + event.len()).sum(),
        }
    }
}

impl Loss {
    /// The loss as a frame.
    ///
    /// # Errors
    /// Where it has no room, or would not be read back.
    pub fn encode(&self) -> Result<Frame, LossError> {
        let need = self.known.loss_bytes();
        if self.length < need {
            return Err(LossError::NoRoom { need, have: self.length });
        }
        if self.length > MAX_FRAME_BYTES {
            return Err(LossError::NoRoom { need: self.length, have: MAX_FRAME_BYTES });
        }
        let mut bytes = vec![0; self.length];
        put(&mut bytes, 0, &MAGIC);
        put(&mut bytes, at::LENGTH, &(self.length as u32).to_le_bytes());
        put(&mut bytes, at::VERSION, &[VERSION, FLAG_LOSS]);
        put(&mut bytes, at::POSITION, &self.position.to_le_bytes());
        put(&mut bytes, at::NAMESPACE, &self.namespace.get().to_le_bytes());
        put(&mut bytes, at::GENERATION, &self.generation.to_le_bytes());
        put(&mut bytes, at::BASE_OFFSET, &self.base_offset.to_le_bytes());
        put(&mut bytes, at::TIME, &self.time_micros.to_le_bytes());
        put(&mut bytes, at::COUNT, &self.count.to_le_bytes());
        self.put_known(&mut bytes);
        let crc = crc32fast::hash(&bytes[at::LENGTH..]);
        put(&mut bytes, at::CRC, &crc.to_le_bytes());
        Frame::decode(Bytes::from(bytes)).map_err(|error| match error {
            FrameError::Malformed(what) => LossError::Malformed(what),
            _ => LossError::Malformed("a loss that would not be read back"),
        })
    }

    fn put_known(&self, bytes: &mut [u8]) {
        let mut end = LIST;
        let mut append = |field: &[u8]| {
            put(bytes, end, field);
            end += field.len();
        };
        let listed = match &self.known {
            Known::Counters { listed, .. } => {
                for (shard, counter) in listed {
                    append(&[shard.0]);
                    append(&counter.to_le_bytes());
                }
                listed.len()
            }
            Known::Events(events) => {
                for event in events {
                    append(&(event.len() as u32).to_le_bytes());
                    append(event);
                }
                events.len()
            }
        };
        put(bytes, LISTED, &(listed as u32).to_le_bytes());
        if let Known::Counters { unlisted, .. } = &self.known {
            put(bytes, UNLISTED, &unlisted.to_le_bytes());
        }
    }
}

impl Frame {
    /// Whether frames were lost where this one stands. It has offsets then, and no records.
    pub fn is_loss(&self) -> bool {
        self.bytes()[at::FLAGS] & FLAG_LOSS != 0
    }

    /// What was lost where this frame stands, if something was.
    pub fn loss(&self) -> Option<Loss> {
        let known = if self.is_loss() { known(self.bytes(), self.namespace()).ok()? } else { return None };
        Some(Loss {
            position: self.position(),
            length: self.len(),
            namespace: self.namespace(),
            generation: self.generation(),
            base_offset: self.base_offset(),
            count: self.record_count(),
            time_micros: self.time_micros(),
            known,
        })
    }

    /// Whether the frame's chain is the one that it must have behind `before`. Behind a loss any is.
    pub fn continues(&self, before: &Chain) -> bool {
        if self.is_loss() {
            return self.chain() == Chain::EMPTY;
        }
        let behind_a_loss = *before == Chain::EMPTY && self.base_offset() > 0;
        behind_a_loss || self.chain_after(before) == self.chain()
    }
}

/// Checks what stands behind the header of a loss.
pub(crate) fn check(bytes: &[u8], namespace: NamespaceId) -> Result<(), FrameError> {
    known(bytes, namespace).map(|_| ())
}

fn known(bytes: &[u8], namespace: NamespaceId) -> Result<Known, FrameError> {
    let cut_off = FrameError::Malformed("a loss is cut off");
    let mut rest = bytes.get(LIST..).ok_or(cut_off)?;
    let (unlisted, listed) = (u32_at(bytes, UNLISTED), u32_at(bytes, LISTED) as usize);
    let known = if namespace == NamespaceId::CONTROL {
        if unlisted != 0 {
            return Err(FrameError::Malformed("the control namespace has no counters"));
        }
        let mut events = Vec::new();
        for _ in 0..listed {
            let (length, behind) = rest.split_first_chunk::<EVENT_LENGTH_BYTES>().ok_or(cut_off)?;
            let (event, behind) = behind.split_at_checked(u32::from_le_bytes(*length) as usize).ok_or(cut_off)?;
            events.push(Bytes::copy_from_slice(event));
            rest = behind;
        }
        Known::Events(events)
    } else {
        if listed > SHARDS {
            return Err(FrameError::OverLimit { what: "a loss's count of shards", size: listed, limit: SHARDS });
        }
        let (list, behind) = rest.split_at_checked(listed * COUNTER_BYTES).ok_or(cut_off)?;
        rest = behind;
        let (list, _) = list.as_chunks::<COUNTER_BYTES>();
        let counters = list.iter().map(|[shard, a, b, c, d]| (Shard(*shard), u32::from_le_bytes([*a, *b, *c, *d])));
        let listed: Vec<(Shard, u32)> = counters.collect();
        if !listed.is_sorted_by(|(before, _), (after, _)| before.0 < after.0) {
            return Err(FrameError::Malformed("the shards of a loss do not ascend"));
        }
        Known::Counters { unlisted, listed }
    };
    if rest.iter().any(|byte| *byte != 0) {
        return Err(FrameError::Malformed("bytes follow a loss"));
    }
    Ok(known)
}
