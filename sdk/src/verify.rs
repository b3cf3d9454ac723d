//! The proof that a namespace's frames are all there and are what the log holds (invariant 12).
//! No I/O: bytes go in, from a connection or a file, and frames come out.
//!
//! | checked | how |
//! |---|---|
//! | nothing is damaged | every frame's CRC and structure |
//! | nothing is missing, twice, or out of order | offsets are contiguous from 0 |
//! | ids are true | shard is the first byte of BLAKE3(key or value); counters are contiguous from 1 in each shard |
//! | losses are told | where frames were lost a loss has their offsets, and says where counters go on |
//! | it is one namespace | id and generation never change |
//! | it is what the server has | the chain, made from the bytes, is that of each frame, and of the trailer |
//! | it is whole | the trailer names the offset, frame count and chain that were reached |
//!
//! Behind a loss the chain is taken at its word, once: what it was made from is gone. A counter that the
//! loss lists goes on there; any other may have gone on as far as the loss says, and is known again with
//! its next record.

use wire::json::Lost;
use wire::limits::SHARDS;
use wire::loss::Known;
use wire::{
    Chain, Frame, FrameDecoder, FrameError, Generation, NamespaceId, ObjectId, Offset, Shard, StreamItem, Trailer,
};

use crate::losses::Losses;

/// Why frames do not prove themselves.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// Bytes are neither a frame nor a trailer.
    #[error("behind offset {at}: {source}")]
    Frame {
        /// The offset up to which all was well.
        at: Offset,
        /// What is wrong with the bytes.
        source: FrameError,
    },
    /// A frame, or the trailer, is of another namespace.
    #[error("behind offset {at}: a frame of namespace {found} among those of namespace {expected}")]
    Namespace {
        /// The offset up to which all was well.
        at: Offset,
        /// The namespace of what came before, and its generation.
        expected: String,
        /// The namespace of this one, and its generation.
        found: String,
    },
    /// Frames are missing, came twice, or are out of order.
    #[error("a frame begins at offset {found}, where {expected} is due")]
    Offset {
        /// The offset that is due.
        expected: Offset,
        /// Where the frame begins.
        found: Offset,
    },
    /// A record's shard is not the first byte of its BLAKE3.
    #[error("record {offset} has id {id}, whose shard is not that of its content")]
    Shard {
        /// The record.
        offset: Offset,
        /// Its id.
        id: ObjectId,
    },
    /// A record's counter is not the next of its shard.
    #[error("record {offset} has id {found}, where {expected} is due")]
    Id {
        /// The record.
        offset: Offset,
        /// The id that is due.
        expected: ObjectId,
        /// The id that it has.
        found: ObjectId,
    },
    /// A loss takes a counter back, so that ids would come again.
    #[error("behind offset {at}: a loss takes the counter of shard {shard} from {known} back to {found}")]
    Counter {
        /// The offset up to which all was well.
        at: Offset,
        /// The shard.
        shard: Shard,
        /// The last counter that was seen.
        known: u32,
        /// What the loss says.
        found: u32,
    },
    /// The chain that the bytes make is another than the frame or trailer says.
    #[error("at offset {at} the chain is {actual}, not {found}")]
    Chain {
        /// The offset behind the frame.
        at: Offset,
        /// What the frame or trailer says.
        found: Chain,
        /// What its bytes make.
        actual: Chain,
    },
    /// The stream ended elsewhere than its trailer says.
    #[error("the trailer tells of {told}, there were {were}")]
    Trailer {
        /// What the trailer says.
        told: String,
        /// What came.
        were: String,
    },
    /// Something follows the trailer.
    #[error("{0} bytes follow the trailer")]
    Trailing(usize),
    /// The end came before the trailer.
    #[error("the frames end at offset {at} without a trailer")]
    CutOff {
        /// The offset up to which all was well.
        at: Offset,
    },
}

/// What has been proved: whoever holds the same chain, and has lost nothing, holds the same records.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Proof {
    /// The namespace's id.
    pub namespace: NamespaceId,
    /// Which use of the id.
    pub generation: Generation,
    /// How many records there are.
    pub records: u64,
    /// What was lost before, and so is not among them.
    pub lost: Losses,
    /// In how many frames; a loss is one.
    pub frames: u64,
    /// Bytes of those frames.
    pub bytes: u64,
    /// The offset behind the last record: the head as of the request.
    pub next_offset: Offset,
    /// The chain at `next_offset`.
    pub chain: Chain,
}

impl Proof {
    /// The trailer that closes a stream of all these frames, such as a file of them.
    pub fn trailer(&self) -> Trailer {
        Trailer {
            namespace: self.namespace,
            generation: self.generation,
            first_offset: 0,
            next_offset: self.next_offset,
            frames: self.frames,
            chain: self.chain,
        }
    }
}

/// What a [`Verifier`] makes of the bytes that came.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verified {
    /// The next frame; all up to its end is proved.
    Frame(Frame),
    /// A loss: the frame that stands where others were lost. It has their offsets, and no records.
    Lost(Frame),
    /// The end, and with it the proof of the whole.
    Proof(Proof),
}

/// Verifies a namespace's frames, from the first on, as they come.
///
/// A stream that breaks off can be gone on with: see [`Verifier::resume`].
#[derive(Debug)]
pub struct Verifier {
    decoder: FrameDecoder,
    identity: Option<(NamespaceId, Generation)>,
    next_offset: Offset,
    chain: Chain,
    frames: u64,
    bytes: u64,
    counters: Box<[Counter; SHARDS]>,
    /// Room for those of a frame's records.
    shards: Vec<Shard>,
    losses: Losses,
    /// Where this stream began, and how many frames had come before.
    stream: (Offset, u64),
    proof: Option<Proof>,
}

/// What is known of the counter of a shard.
#[derive(Clone, Copy, Default, Debug)]
struct Counter {
    /// That of its last record, as far as it is known.
    last: u32,
    /// By how many it may have gone on since, in what was lost.
    lost: u32,
}

impl Counter {
    /// Whether this may be the next, and takes it.
    fn take(&mut self, next: u32) -> bool {
        let Some(first) = self.last.checked_add(1) else { return false };
        let may_be = (first..=first.saturating_add(self.lost)).contains(&next);
        if may_be {
            *self = Counter { last: next, lost: 0 };
        }
        may_be
    }
}

impl Default for Verifier {
    fn default() -> Self {
        Verifier::new()
    }
}

impl Verifier {
    /// A verifier that has seen nothing.
    pub fn new() -> Verifier {
        Verifier {
            decoder: FrameDecoder::default(),
            identity: None,
            next_offset: 0,
            chain: Chain::EMPTY,
            frames: 0,
            bytes: 0,
            counters: Box::new([Counter::default(); SHARDS]),
            shards: Vec::new(),
            losses: Losses::default(),
            stream: (0, 0),
            proof: None,
        }
    }

    /// The offset up to which all is proved, and from which a broken stream is to be gone on with.
    pub fn next_offset(&self) -> Offset {
        self.next_offset
    }

    /// The proof, once the trailer has come.
    pub fn proof(&self) -> Option<&Proof> {
        self.proof.as_ref()
    }

    /// Adds bytes that have come. Call [`Verifier::next`] until it gives nothing, then add more.
    pub fn push(&mut self, bytes: &[u8]) {
        self.decoder.push(bytes);
    }

    /// The next verified frame, or the proof; nothing until more bytes have come.
    ///
    /// # Errors
    /// Where the bytes are not the next frame. All up to [`Verifier::next_offset`] stays proved.
    #[expect(clippy::should_implement_trait, reason = "an iterator that ends would be taken for the stream's end")]
    pub fn next(&mut self) -> Result<Option<Verified>, VerifyError> {
        if self.proof.is_some() {
            let trailing = self.decoder.pending();
            return if trailing == 0 { Ok(None) } else { Err(VerifyError::Trailing(trailing)) };
        }
        let at = self.next_offset;
        match self.decoder.next().map_err(|source| VerifyError::Frame { at, source })? {
            None => Ok(None),
            Some(StreamItem::Frame(frame)) => {
                self.frame(&frame)?;
                Ok(Some(if frame.is_loss() { Verified::Lost(frame) } else { Verified::Frame(frame) }))
            }
            Some(StreamItem::Trailer(trailer)) => {
                let proof = self.trailer(&trailer)?;
                self.proof = Some(proof.clone());
                Ok(Some(Verified::Proof(proof)))
            }
        }
    }

    /// The stream has ended.
    ///
    /// # Errors
    /// [`VerifyError::CutOff`] where no trailer has come, [`VerifyError::Trailing`] where more than
    /// that has.
    pub fn end(&self) -> Result<Proof, VerifyError> {
        match (&self.proof, self.decoder.pending()) {
            (Some(proof), 0) => Ok(proof.clone()),
            (Some(_), trailing) => Err(VerifyError::Trailing(trailing)),
            (None, _) => Err(VerifyError::CutOff { at: self.next_offset }),
        }
    }

    /// The stream broke off, and another one begins that goes on from [`Verifier::next_offset`]:
    /// forgets the part of a frame that has come, and keeps the proof so far.
    pub fn resume(&mut self) {
        self.decoder = FrameDecoder::default();
        self.stream = (self.next_offset, self.frames);
    }

    fn frame(&mut self, frame: &Frame) -> Result<(), VerifyError> {
        self.identify(frame.namespace(), frame.generation())?;
        if frame.base_offset() != self.next_offset {
            return Err(VerifyError::Offset { expected: self.next_offset, found: frame.base_offset() });
        }
        if !frame.continues(&self.chain) {
            let (found, actual) = (frame.chain(), frame.chain_after(&self.chain));
            return Err(VerifyError::Chain { at: frame.next_offset(), found, actual });
        }
        // Ids come last: what they change is not taken back when something else is wrong.
        self.ids(frame)?;
        self.loss(frame)?;
        self.identity = Some((frame.namespace(), frame.generation()));
        self.next_offset = frame.next_offset();
        self.chain = frame.chain();
        self.frames += 1;
        self.bytes += frame.len() as u64;
        Ok(())
    }

    fn ids(&mut self, frame: &Frame) -> Result<(), VerifyError> {
        frame.shards(&mut self.shards);
        for (record, shard) in frame.records().zip(&self.shards) {
            let (offset, found) = (record.offset, record.id);
            if found.shard() != *shard {
                return Err(VerifyError::Shard { offset, id: found });
            }
            let counter = &mut self.counters[usize::from(found.shard().0)];
            if !counter.take(found.counter()) {
                let expected = ObjectId::new(found.shard(), frame.namespace(), counter.last.wrapping_add(1));
                return Err(VerifyError::Id { offset, expected, found });
            }
        }
        Ok(())
    }

    fn loss(&mut self, frame: &Frame) -> Result<(), VerifyError> {
        let Some(loss) = frame.loss() else { return Ok(()) };
        if let Known::Counters { unlisted, listed } = loss.known {
            for (shard, found) in &listed {
                let Counter { last: known, .. } = self.counters[usize::from(shard.0)];
                if *found < known {
                    return Err(VerifyError::Counter { at: self.next_offset, shard: *shard, known, found: *found });
                }
            }
            for counter in self.counters.iter_mut() {
                counter.lost = counter.lost.saturating_add(unlisted);
            }
            for (shard, last) in listed {
                self.counters[usize::from(shard.0)] = Counter { last, lost: 0 };
            }
        }
        self.losses.add(Lost { from: frame.base_offset(), to: frame.next_offset() });
        Ok(())
    }

    fn trailer(&self, trailer: &Trailer) -> Result<Proof, VerifyError> {
        self.identify(trailer.namespace, trailer.generation)?;
        let (first, frames_before) = self.stream;
        let told = (trailer.first_offset, trailer.next_offset, trailer.frames);
        let were = (first, self.next_offset, self.frames - frames_before);
        if told != were {
            let text = |(from, to, frames)| format!("{frames} frames with offsets {from} to {to}");
            return Err(VerifyError::Trailer { told: text(told), were: text(were) });
        }
        if trailer.chain != self.chain {
            return Err(VerifyError::Chain { at: self.next_offset, found: trailer.chain, actual: self.chain });
        }
        Ok(Proof {
            namespace: trailer.namespace,
            generation: trailer.generation,
            records: self.next_offset - self.losses.records(),
            lost: self.losses.clone(),
            frames: self.frames,
            bytes: self.bytes,
            next_offset: self.next_offset,
            chain: self.chain,
        })
    }

    fn identify(&self, namespace: NamespaceId, generation: Generation) -> Result<(), VerifyError> {
        let found = (namespace, generation);
        match self.identity {
            Some(expected) if expected != found => {
                let text = |(id, generation)| format!("{id} (generation {generation})");
                Err(VerifyError::Namespace { at: self.next_offset, expected: text(expected), found: text(found) })
            }
            _ => Ok(()),
        }
    }
}
