//! Many records, each stored once: batches, several requests on their way, repetition.
//!
//! | file | what it knows |
//! |---|---|
//! | [`gather`] | how records become batches |
//! | [`window`] | which batch is sent when, and again |
//! | [`driver`] | the task that sends |
//!
//! What is stored is always a beginning of what was sent: where a batch can't be stored, nothing
//! behind it is, and the publisher ends with that error.

mod driver;
mod gather;
mod window;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore, watch};
use wire::limits::{MAX_BATCH_BYTES, MAX_BATCH_RECORDS};
use wire::record::RECORD_HEADER_BYTES;
use wire::{NewRecord, ObjectId, Offset};

use crate::backoff::Backoff;
use crate::error::Error;
use crate::namespace::Namespace;
use crate::publish::producer_id;
use driver::Driver;
use gather::{BatchBounds, Gather, Told};
use window::Window;

/// The broker remembers where a producer's last 16 batches are: with more on their way, a repeated
/// one could be known as stored, but not where.
const MAX_IN_FLIGHT: usize = 16;

/// Settings of a [`Publisher`].
#[derive(Clone, Debug)]
pub struct PublisherBuilder {
    namespace: Namespace,
    producer: Option<(String, u32)>,
    bounds: BatchBounds,
    in_flight: usize,
    waiting_bytes: usize,
    backoff: Backoff,
}

impl PublisherBuilder {
    pub(crate) fn new(namespace: Namespace) -> PublisherBuilder {
        PublisherBuilder {
            backoff: namespace.client().inner.backoff,
            namespace,
            producer: None,
            bounds: BatchBounds { records: MAX_BATCH_RECORDS, bytes: 1 << 20 },
            in_flight: 4,
            waiting_bytes: 16 << 20,
        }
    }

    /// What the producer calls itself (1 to 255 bytes) and which life of it this is; if not set, a
    /// random name and epoch 0. A name that was used before needs a higher epoch than then, which
    /// shuts out whoever still publishes in an older one.
    pub fn producer(self, id: impl Into<String>, epoch: u32) -> PublisherBuilder {
        PublisherBuilder { producer: Some((id.into(), epoch)), ..self }
    }

    /// Most records in a batch, 1 to 10,000; as many if not set.
    pub fn batch_records(mut self, records: usize) -> PublisherBuilder {
        self.bounds.records = records.clamp(1, MAX_BATCH_RECORDS);
        self
    }

    /// Most bytes of encoded records in a batch, up to 16 MiB; 1 MiB if not set. A record that is
    /// larger goes alone.
    pub fn batch_bytes(mut self, bytes: usize) -> PublisherBuilder {
        self.bounds.bytes = bytes.min(MAX_BATCH_BYTES);
        self
    }

    /// Most requests on their way at once, 1 to 16; 4 if not set. There are fewer where the network
    /// lets later ones overtake earlier ones.
    pub fn in_flight(self, requests: usize) -> PublisherBuilder {
        PublisherBuilder { in_flight: requests.clamp(1, MAX_IN_FLIGHT), ..self }
    }

    /// Most bytes of encoded records that may be unacknowledged; 16 MiB if not set. Past it
    /// [`Publisher::send`] waits.
    pub fn waiting_bytes(self, bytes: usize) -> PublisherBuilder {
        PublisherBuilder { waiting_bytes: bytes.clamp(1, Semaphore::MAX_PERMITS.min(u32::MAX as usize)), ..self }
    }

    /// How batches are repeated; as the client's requests if not set.
    pub fn backoff(self, backoff: Backoff) -> PublisherBuilder {
        PublisherBuilder { backoff, ..self }
    }

    /// The publisher. Call it within a tokio runtime: its sending is a task there.
    ///
    /// # Errors
    /// Where the producer's id is not one.
    pub fn open(self) -> Result<Publisher, Error> {
        let (id, epoch) = match self.producer {
            Some(producer) => producer,
            None => (random_id()?, 0),
        };
        producer_id(&id)?;
        let (progress, watched) = watch::channel(Progress::default());
        let shared = Arc::new(Shared {
            gather: Mutex::new(Gather::new(self.bounds)),
            wake: Notify::new(),
            room: Semaphore::new(self.waiting_bytes),
        });
        let window = Window::new(self.in_flight);
        tokio::spawn(
            Driver::new(self.namespace, (id, epoch), Arc::clone(&shared), window, self.backoff, progress).run(),
        );
        Ok(Publisher { shared, waiting_bytes: self.waiting_bytes, progress: watched })
    }
}

/// Publishes records to a namespace, in the order of [`Publisher::send`], each stored once.
///
/// A batch goes as soon as there is room for a request on its way; while there is none, the next
/// one gathers. So there is no delay for the sake of batching, and batches grow with the load.
/// Dropped without [`Publisher::close`], it still sends what it was given, as long as the runtime
/// lives, but nobody learns whether that worked.
#[derive(Debug)]
pub struct Publisher {
    shared: Arc<Shared>,
    waiting_bytes: usize,
    progress: watch::Receiver<Progress>,
}

/// How far a publisher has come.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    /// Records that are known to be durable.
    pub records: u64,
    /// The lowest offset among them.
    pub first_offset: Option<Offset>,
    /// The offset behind the highest.
    pub next_offset: Option<Offset>,
    /// Batches that are durable, with all before them.
    batches: u64,
    /// Why the publisher ended before it was closed.
    failure: Option<Error>,
}

#[derive(Debug)]
struct Shared {
    gather: Mutex<Gather>,
    /// Something waits where nothing did, or the publisher was closed.
    wake: Notify,
    /// Bytes of records that may still be taken.
    room: Semaphore,
}

impl Publisher {
    /// Takes a record, to be sent; waits while too much is unacknowledged. The answer tells, when
    /// it is awaited, where the record is. It need not be awaited: [`Publisher::flush`] tells of
    /// failures too.
    ///
    /// # Errors
    /// Where the record is not one, which changes nothing; or why the publisher has ended.
    pub async fn send(&self, record: &NewRecord<'_>) -> Result<Ack, Error> {
        let size = encoded_bytes(record);
        // More than all there is could never be waited for.
        let room = size.min(self.waiting_bytes);
        let Ok(permit) = self.shared.room.acquire_many(room as u32).await else { return Err(self.ended()) };
        let (is_first, (told, index)) = {
            let mut gather = self.shared.gather.lock();
            (gather.is_empty(), gather.push(record, size, room)?)
        };
        permit.forget();
        if is_first {
            self.shared.wake.notify_one();
        }
        Ok(Ack { told, index })
    }

    /// Waits until all that was sent before is durable.
    ///
    /// # Errors
    /// Why the publisher has ended.
    pub async fn flush(&self) -> Result<Progress, Error> {
        let batches = self.shared.gather.lock().batches();
        let mut progress = self.progress.clone();
        let reached = progress.wait_for(|progress| progress.batches >= batches || progress.failure.is_some()).await;
        let progress = reached.map_err(|_| Error::Closed)?.clone();
        match progress.failure {
            Some(error) if progress.batches < batches => Err(error),
            _ => Ok(progress),
        }
    }

    /// Waits until all that was sent is durable, and ends the publisher.
    ///
    /// # Errors
    /// Why the publisher has ended before.
    pub async fn close(self) -> Result<Progress, Error> {
        self.flush().await
    }

    /// How far the publisher has come, to be watched.
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.clone()
    }

    fn ended(&self) -> Error {
        self.progress.borrow().failure.clone().unwrap_or(Error::Closed)
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        self.shared.gather.lock().close(Error::Closed);
        self.shared.wake.notify_one();
    }
}

/// Where a record is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Receipt {
    /// Its offset.
    pub offset: Offset,
    /// Its id.
    pub id: ObjectId,
}

/// Tells, when awaited, where a record is, once it is durable.
#[derive(Debug)]
pub struct Ack {
    told: Told,
    index: u32,
}

impl Future for Ack {
    type Output = Result<Receipt, Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let outcome = ready!(Pin::new(&mut self.told).poll(context)).unwrap_or(Err(Error::Closed));
        let receipt = outcome.map(|published| Receipt {
            offset: published.first_offset + u64::from(self.index),
            // The answer was checked to have an id for each record.
            id: published.ids[self.index as usize],
        });
        Poll::Ready(receipt)
    }
}

/// What a record takes in a batch.
fn encoded_bytes(record: &NewRecord<'_>) -> usize {
    let headers: usize = record.headers.iter().map(|(name, value)| 4 + name.len() + value.len()).sum();
    RECORD_HEADER_BYTES + record.key.map_or(0, str::len) + headers + record.value.len()
}

/// A name for a producer or a worker that no other one has.
pub(crate) fn random_id() -> Result<String, Error> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| Error::NoRandomness(error.to_string()))?;
    Ok(format!("{:032x}", u128::from_be_bytes(bytes)))
}
