//! What waits to be sent: an open batch that records are added to, and full ones behind each
//! other. Needs no timer: the open batch goes as soon as the window has room for it.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::Shared;
use tokio::sync::oneshot;
use wire::{DraftBuilder, DraftError, NewRecord};

use crate::error::Error;
use crate::publish::Published;

/// What became of a batch.
pub(crate) type Outcome = Result<Arc<Published>, Error>;

/// How a record's publisher learns what became of its batch.
pub(crate) type Told = Shared<oneshot::Receiver<Outcome>>;

/// How much goes into one batch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BatchBounds {
    pub(crate) records: usize,
    pub(crate) bytes: usize,
}

/// A batch on its way: encoded once, sent as often as it takes.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) bytes: Bytes,
    pub(crate) records: u32,
    /// What its records take of the publisher's room.
    pub(crate) room: usize,
    pub(crate) tell: oneshot::Sender<Outcome>,
}

#[derive(Debug)]
struct Open {
    builder: DraftBuilder,
    room: usize,
    tell: oneshot::Sender<Outcome>,
    told: Told,
}

/// What waits to be sent.
#[derive(Debug)]
pub(crate) struct Gather {
    bounds: BatchBounds,
    open: Option<Open>,
    full: VecDeque<Batch>,
    /// How many batches there have been, without the open one.
    sealed: u64,
    /// No more records are taken: the publisher was closed, or failed for this reason.
    end: Option<Error>,
}

impl Gather {
    pub(crate) fn new(bounds: BatchBounds) -> Gather {
        Gather { bounds, open: None, full: VecDeque::new(), sealed: 0, end: None }
    }

    /// Adds a record of `size` encoded bytes that takes `room`; answers how its outcome is told, and the record's place in
    /// its batch. After an error all is as it was.
    pub(crate) fn push(&mut self, record: &NewRecord<'_>, size: usize, room: usize) -> Result<(Told, u32), Error> {
        if let Some(end) = &self.end {
            return Err(end.clone());
        }
        if self.open.as_ref().is_some_and(|open| self.is_full(open, size)) {
            self.seal();
        }
        let open = match &mut self.open {
            Some(open) => {
                open.builder.push(record)?;
                open
            }
            none => none.insert(Open::with(record)?),
        };
        open.room += room;
        Ok((open.told.clone(), (open.builder.count() - 1) as u32))
    }

    fn is_full(&self, open: &Open, size: usize) -> bool {
        open.builder.count() >= self.bounds.records || open.builder.encoded_bytes() + size > self.bounds.bytes
    }

    /// Whether nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.open.is_none() && self.full.is_empty()
    }

    /// How many batches there have been, the open one included.
    pub(crate) fn batches(&self) -> u64 {
        self.sealed + u64::from(self.open.is_some())
    }

    /// The next batch to be sent, full or not.
    pub(crate) fn take(&mut self) -> Option<Batch> {
        if self.full.is_empty() {
            self.seal();
        }
        self.full.pop_front()
    }

    /// Takes no more records, for this reason; what waits is still to be sent.
    pub(crate) fn close(&mut self, reason: Error) {
        self.end.get_or_insert(reason);
    }

    /// Whether no more records are taken.
    pub(crate) fn is_closed(&self) -> bool {
        self.end.is_some()
    }

    fn seal(&mut self) {
        let Some(Open { builder, room, tell, .. }) = self.open.take() else { return };
        match builder.finish() {
            Ok(draft) => {
                let records = draft.record_count();
                self.sealed += 1;
                self.full.push_back(Batch { bytes: draft.encode().into(), records, room, tell });
            }
            // An open batch holds a record, so this is never told.
            Err(error) => drop(tell.send(Err(error.into()))),
        }
    }
}

impl Open {
    fn with(record: &NewRecord<'_>) -> Result<Open, DraftError> {
        let mut builder = DraftBuilder::default();
        builder.push(record)?;
        let (tell, told) = oneshot::channel();
        Ok(Open { builder, room: 0, tell, told: told.shared() })
    }
}
