//! What a connection of rooms sends: the log, read where the rooms say. A durable subscriber and a follower of
//! keys get theirs this way, and are woken by nothing else.
//!
//! The rooms name parts of namespaces to be read, and no more. So who stops reading holds one read, and of what
//! comes meanwhile nothing but places (invariant 9).

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use consumers::rooms::{Connection, Part, Place, RoomsError};
use futures::FutureExt;
use metrics::Counter;
use tlog::{Log, Namespace, ReadError, SharedFrame};
use wire::Offset;
use wire::limits::MAX_SUBSCRIBER_NAMESPACES;

use crate::http::event_stream::{End, Next, PIECE_BYTES, READ_BYTES};
use crate::http::outgoing::Share;
use crate::http::sse;
use crate::telemetry;

/// What is read at once for each offset that the rooms name, bytes: they may lie one by one between others.
const BYTES_AN_OFFSET: u64 = 256;

/// What is sent next, read from the log.
pub(crate) struct Delivery {
    log: Log,
    connection: Connection,
    share: Share,
    /// A part that the rooms have named, and that is not read yet.
    named: Option<Part>,
    read: Option<Read>,
    wakes: Counter,
}

/// What was read of a part.
struct Read {
    part: Part,
    /// All below has been sent, or is not for this stream.
    next_offset: Offset,
    /// Whether anything has been sent.
    sent: bool,
    frames: VecDeque<Arc<SharedFrame>>,
    /// The frame whose events are being sent, and the offsets of those that are still to come.
    open: Option<(Arc<SharedFrame>, std::vec::IntoIter<Offset>)>,
}

/// Where a stream stands.
pub(crate) struct Stand<'a> {
    connection: &'a Connection,
    read: Option<&'a Read>,
}

impl Stand<'_> {
    /// The namespace of the event in hand.
    pub(crate) fn namespace(&self) -> Option<&Namespace> {
        self.read.map(|read| &read.part.namespace)
    }

    /// Where it stands in a namespace that it follows.
    pub(crate) fn offset(&self, namespace: &Namespace) -> Offset {
        let in_hand = self.read.filter(|read| read.part.namespace == *namespace).map(|read| read.next_offset);
        in_hand.or_else(|| self.connection.place(namespace)).unwrap_or_default()
    }

    /// Where it stands, as far as that is ahead of what is acked: in ascending order of namespaces.
    pub(crate) fn places(&self) -> Vec<Place> {
        let mut places: Vec<Place> = self.connection.places().collect();
        if let Some(read) = self.read {
            let (namespace, next_offset) = (&read.part.namespace, read.next_offset);
            let place = Place { namespace: namespace.id(), generation: namespace.generation(), next_offset };
            match places.binary_search_by_key(&place.namespace, |place| place.namespace) {
                Ok(at) => places[at] = place,
                Err(at) => places.insert(at, place),
            }
            // A token has room for so many; the place in hand must be among them.
            while places.len() > MAX_SUBSCRIBER_NAMESPACES {
                let last = places.pop();
                if let Some(last) = last.filter(|last| *last == place) {
                    places.pop();
                    places.push(last);
                }
            }
        }
        places
    }
}

impl Delivery {
    pub(crate) fn new(log: Log, connection: Connection, share: Share) -> Delivery {
        Delivery { log, connection, share, named: None, read: None, wakes: telemetry::room_wakes() }
    }

    /// The next events, each as `push` writes it: with where the stream stands behind it.
    pub(crate) async fn gather(
        &mut self,
        mut push: impl FnMut(&mut Vec<u8>, Stand<'_>, &[u8]) + Send,
    ) -> Result<Next, End> {
        let (mut text, mut moved) = (Vec::new(), false);
        while text.len() < PIECE_BYTES && self.fill().await? {
            moved = true;
            let Some(read) = &mut self.read else { break };
            while text.len() < PIECE_BYTES {
                let Some(event) = read.next_event()? else {
                    self.connection.advance(read.next_offset, read.sent);
                    self.read = None;
                    break;
                };
                if !event.is_empty() {
                    push(&mut text, Stand { connection: &self.connection, read: Some(read) }, &event);
                }
            }
            // What is not wanted may go on for long: what has been found goes out first.
            if text.is_empty() {
                break;
            }
        }
        Ok(match (text.is_empty(), moved) {
            (false, _) => Next::Events(text.into()),
            (true, true) => Next::Others,
            (true, false) => Next::AtHead,
        })
    }

    /// Returns once [`Delivery::gather`] may find more.
    pub(crate) async fn changed(&mut self) -> Result<(), End> {
        if self.named.is_none() {
            self.named = Some(self.connection.next().await?);
            self.wakes.increment(1);
        }
        Ok(())
    }

    /// Where the stream stands: while nothing is in hand, behind all that is not for it.
    pub(crate) async fn settled(&mut self) -> Result<Stand<'_>, End> {
        if self.read.is_none() && self.named.is_none() {
            self.connection.settle().await?;
        }
        Ok(Stand { connection: &self.connection, read: self.read.as_ref() })
    }

    /// Reads on where nothing is in hand; answers whether something is then: if not, the stream is at the head
    /// of all that it follows.
    async fn fill(&mut self) -> Result<bool, End> {
        while self.read.is_none() {
            let part = match self.named.take() {
                Some(part) => part,
                None => match self.connection.next().now_or_never() {
                    Some(part) => part?,
                    None => return Ok(false),
                },
            };
            self.read = self.read_part(part).await?;
        }
        Ok(true)
    }

    /// Nothing where the part's namespace is no more; then the connection goes on with the others.
    async fn read_part(&mut self, part: Part) -> Result<Option<Read>, End> {
        let length = part.offsets.end - part.offsets.start;
        let bytes = length.saturating_mul(BYTES_AN_OFFSET).min(READ_BYTES as u64) as usize;
        let frames = match self.log.reader(&part.namespace, part.offsets.start) {
            Ok(mut reader) => self.share.read(&mut reader, bytes).await,
            Err(error) => Err(error),
        };
        match frames {
            Ok(frames) if !frames.is_empty() => {
                let next_offset = part.offsets.start;
                Ok(Some(Read { part, next_offset, sent: false, frames: frames.into(), open: None }))
            }
            Ok(_) | Err(ReadError::NamespaceNotFound) => {
                self.connection.advance(part.offsets.end, false);
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }
}

impl Read {
    /// The next event; an empty one where a frame's last has been given. Nothing at the end.
    fn next_event(&mut self) -> Result<Option<Bytes>, RoomsError> {
        if self.open.is_none() {
            let Some(frame) = self.frames.pop_front() else { return Ok(None) };
            if frame.base_offset() >= self.part.offsets.end {
                return Ok(None);
            }
            let offsets = self.wanted(&frame)?;
            self.open = Some((frame, offsets.into_iter()));
        }
        let Some((frame, offsets)) = &mut self.open else { return Ok(None) };
        let (event, next_offset) = match offsets.next() {
            Some(offset) => sse::event_at(frame, offset),
            None => (Bytes::new(), frame.next_offset().min(self.part.offsets.end)),
        };
        self.sent |= !event.is_empty();
        if event.is_empty() {
            self.open = None;
        }
        self.next_offset = self.next_offset.max(next_offset);
        Ok(Some(event))
    }

    /// Which offsets of a frame are sent. Whose records were lost nobody knows, so of a loss the first is.
    fn wanted(&self, frame: &SharedFrame) -> Result<Vec<Offset>, RoomsError> {
        let range = &self.part.offsets;
        if frame.is_loss() {
            return Ok(vec![frame.base_offset().max(range.start)]);
        }
        let mut wanted = Vec::new();
        for record in frame.records().filter(|record| range.contains(&record.offset)) {
            if self.part.wants(record.offset, record.key)? {
                wanted.push(record.offset);
            }
        }
        Ok(wanted)
    }
}
