//! Frames one after another, closed by a trailer: the body of a rebuild.
//!
//! The trailer says what the stream should have held, so that its reader can prove that it has all
//! of it, and tells a stream that ended from one that was cut off.
//!
//! ```text
//!  0   4  magic          "TLGE"
//!  4   4  CRC-32 (IEEE)  of bytes 8 to 80
//!  8   4  length         80
//! 12   1  version        1
//! 13   3  zero
//! 16   4  namespace id
//! 20   4  generation
//! 24   8  first offset   where this stream began: not behind next offset
//! 32   8  next offset    where it ended: the head as of the request
//! 40   8  frames         how many it held
//! 48  32  chain          of the namespace at next offset
//! ```

use bytes::{Buf, Bytes, BytesMut};

use crate::chain::Chain;
use crate::frame::{Frame, FrameError, PREFIX_BYTES, check_placed};
use crate::ids::{Generation, NamespaceId, Offset};
use crate::le::{array_at, put, u32_at, u64_at};

/// The first four bytes of a trailer.
pub const TRAILER_MAGIC: [u8; 4] = *b"TLGE";

/// Bytes of a trailer.
pub const TRAILER_BYTES: usize = 80;

const TRAILER_VERSION: u8 = 1;

/// The end of a rebuild: what the stream held, and the chain that proves it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Trailer {
    /// The namespace.
    pub namespace: NamespaceId,
    /// Which use of the namespace's id.
    pub generation: Generation,
    /// Where the stream began.
    pub first_offset: Offset,
    /// Where the stream ended: the namespace's head as of the request.
    pub next_offset: Offset,
    /// How many frames the stream held.
    pub frames: u64,
    /// The namespace's chain at `next_offset`.
    pub chain: Chain,
}

impl Trailer {
    /// The trailer's bytes.
    pub fn encode(&self) -> Bytes {
        let mut bytes = vec![0; TRAILER_BYTES];
        put(&mut bytes, 0, &TRAILER_MAGIC);
        put(&mut bytes, 8, &(TRAILER_BYTES as u32).to_le_bytes());
        put(&mut bytes, 12, &[TRAILER_VERSION]);
        put(&mut bytes, 16, &self.namespace.get().to_le_bytes());
        put(&mut bytes, 20, &self.generation.to_le_bytes());
        put(&mut bytes, 24, &self.first_offset.to_le_bytes());
        put(&mut bytes, 32, &self.next_offset.to_le_bytes());
        put(&mut bytes, 40, &self.frames.to_le_bytes());
        put(&mut bytes, 48, &self.chain.0);
        let crc = crc32fast::hash(&bytes[8..]);
        put(&mut bytes, 4, &crc.to_le_bytes());
        Bytes::from(bytes)
    }

    /// Reads a trailer from exactly [`TRAILER_BYTES`] bytes.
    pub fn decode(bytes: &[u8]) -> Result<Trailer, FrameError> {
        if bytes.len() < TRAILER_BYTES {
            return Err(FrameError::Truncated { need: TRAILER_BYTES, have: bytes.len() });
        }
        if bytes.len() > TRAILER_BYTES {
            return Err(FrameError::Malformed("bytes follow the trailer"));
        }
        if bytes[..4] != TRAILER_MAGIC {
            return Err(FrameError::BadMagic);
        }
        let (found, actual) = (u32_at(bytes, 4), crc32fast::hash(&bytes[8..]));
        if found != actual {
            return Err(FrameError::BadCrc { found, actual });
        }
        if bytes[12] != TRAILER_VERSION {
            return Err(FrameError::BadVersion(bytes[12]));
        }
        let Some(namespace) = NamespaceId::new(u32_at(bytes, 16)) else {
            return Err(FrameError::Malformed("a trailer's namespace id is 2^24 or more"));
        };
        if u32_at(bytes, 8) as usize != TRAILER_BYTES || bytes[13..16] != [0; 3] {
            return Err(FrameError::Malformed("a trailer's fixed fields are not as they must be"));
        }
        let (first_offset, next_offset) = (u64_at(bytes, 24), u64_at(bytes, 32));
        if first_offset > next_offset {
            return Err(FrameError::Malformed("a trailer's offsets run backwards"));
        }
        Ok(Trailer {
            namespace,
            generation: u32_at(bytes, 20),
            first_offset,
            next_offset,
            frames: u64_at(bytes, 40),
            chain: Chain(array_at(bytes, 48)),
        })
    }
}

/// What a stream of frames consists of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum StreamItem {
    /// A frame, its CRC and structure checked.
    Frame(Frame),
    /// The end of the stream.
    Trailer(Trailer),
}

/// Cuts a byte stream, as it arrives, into frames and a trailer. Holds at most one item and what
/// was pushed since.
#[derive(Debug, Default)]
pub struct FrameDecoder {
    buffer: BytesMut,
}

impl FrameDecoder {
    /// Adds bytes that have arrived.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next item, or nothing until more bytes have come.
    ///
    /// # Errors
    /// Where the bytes are neither frame nor trailer. The stream can't be read on after that: what
    /// is wrong is not skipped, so that every later call answers the same.
    #[expect(clippy::should_implement_trait, reason = "an iterator that ends would be taken for the stream's end")]
    pub fn next(&mut self) -> Result<Option<StreamItem>, FrameError> {
        if self.buffer.len() < PREFIX_BYTES {
            return Ok(None);
        }
        if self.buffer[..4] == TRAILER_MAGIC {
            if self.buffer.len() < TRAILER_BYTES {
                return Ok(None);
            }
            let trailer = Trailer::decode(&self.buffer[..TRAILER_BYTES])?;
            self.buffer.advance(TRAILER_BYTES);
            return Ok(Some(StreamItem::Trailer(trailer)));
        }
        let length = Frame::length(&self.buffer)?;
        if self.buffer.len() < length {
            return Ok(None);
        }
        check_placed(&self.buffer[..length])?;
        Ok(Some(StreamItem::Frame(Frame::placed(self.buffer.split_to(length).freeze()))))
    }

    /// Bytes that have arrived and are not yet an item.
    pub fn pending(&self) -> usize {
        self.buffer.len()
    }
}
