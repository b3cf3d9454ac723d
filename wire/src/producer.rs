//! What makes a producer's retry safe.

use crate::limits::MAX_PRODUCER_ID_BYTES;
use crate::name::NameError;

/// A producer's identity as the log keeps it: the first 16 bytes of the BLAKE3 of the text that it
/// calls itself by, so that a frame's header has a fixed size.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ProducerId(pub [u8; 16]);

impl ProducerId {
    /// The identity of the producer that calls itself `text`: 1 to 255 bytes.
    pub fn of(text: &str) -> Result<ProducerId, NameError> {
        let what = "the producer's id";
        if text.is_empty() {
            return Err(NameError::Empty { what });
        }
        if text.len() > MAX_PRODUCER_ID_BYTES {
            return Err(NameError::TooLong { what, bytes: text.len(), limit: MAX_PRODUCER_ID_BYTES });
        }
        Ok(ProducerId(crate::le::array_at(blake3::hash(text.as_bytes()).as_bytes(), 0)))
    }
}

/// Which producer sent a batch, and the how-manieth of its epoch it is.
///
/// Sequences start at 0 in each epoch and rise by one with each batch, per namespace. A producer
/// that starts anew takes a higher epoch, which fences whoever still sends in an older one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Producer {
    /// Who.
    pub id: ProducerId,
    /// Which life of the producer.
    pub epoch: u32,
    /// Which batch in that life, from 0.
    pub sequence: u64,
}
