//! What waits for the sequencer: bounded by bytes. While a write is under way the next batch gathers
//! here, and the sequencer takes all of it at once: group commit, with no timer. Before it takes, it lets other
//! threads go first: where processors are scarce they bring more for the same commit, where they are not it costs nothing.

use std::thread;

use bytes::Bytes;
use parking_lot::{Condvar, Mutex, MutexGuard};
use tokio::sync::oneshot;
use wire::{Draft, Frame, Generation, NamespaceConfig, NamespaceId, NamespaceName, Offset, Position, Producer};

use crate::error::AppendError;
use crate::namespace::Namespace;

/// A batch to append, and on what conditions.
#[derive(Debug)]
pub struct Append {
    /// The records.
    pub draft: Draft,
    /// Who sends it, if it is to be stored once however often it comes.
    pub producer: Option<Producer>,
    /// The offset that its first record must get, if that matters.
    pub if_next_offset: Option<Offset>,
}

impl Append {
    /// An append on no condition.
    pub fn new(draft: Draft) -> Append {
        Append { draft, producer: None, if_next_offset: None }
    }
}

/// A namespace that exists after a creation.
#[derive(Debug, Clone)]
pub struct Created {
    /// It.
    pub namespace: Namespace,
    /// Whether it did not exist before.
    pub new: bool,
}

/// An event of consumers that is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Noted {
    /// The next offset of its namespace at its place in the log; of an event of a partition its own offset.
    pub next_offset: Offset,
    /// The position behind it.
    pub end: Position,
}

/// What became of an append.
#[derive(Debug)]
pub(crate) enum Stored {
    Now(Frame),
    Before(Offset),
}

pub(crate) type Reply<T> = oneshot::Sender<Result<T, AppendError>>;

/// What is asked of a sequencer.
#[derive(Debug)]
pub(crate) enum Request {
    Append { namespace: Namespace, append: Append, reply: Reply<Stored> },
    Create { name: NamespaceName, config: NamespaceConfig, reply: Reply<Created> },
    Delete { namespace: Namespace, reply: Reply<()> },
    Event { id: NamespaceId, generation: Generation, event: Bytes, reply: Reply<Noted> },
}

/// How often the sequencer lets others go first. Eight and sixteen times gain no more.
const YIELDS: u32 = 4;

/// What a request without records counts as, bytes.
const REQUEST_BYTES: usize = 512;

impl Request {
    fn weight(&self) -> usize {
        match self {
            Request::Append { append, .. } => REQUEST_BYTES + append.draft.len(),
            Request::Event { event, .. } => REQUEST_BYTES + event.len(),
            Request::Create { .. } | Request::Delete { .. } => REQUEST_BYTES,
        }
    }
}

#[derive(Debug, Default)]
struct Waiting {
    requests: Vec<Request>,
    bytes: usize,
    closed: bool,
}

impl Waiting {
    fn take(&mut self, into: &mut Vec<Request>) -> bool {
        std::mem::swap(&mut self.requests, into);
        self.bytes = 0;
        !into.is_empty()
    }
}

/// The requests that wait for one sequencer.
#[derive(Debug)]
pub(crate) struct Queue {
    waiting: Mutex<Waiting>,
    arrived: Condvar,
    max_bytes: usize,
}

impl Queue {
    /// An empty queue that takes requests until they have `max_bytes`.
    pub(crate) fn new(max_bytes: usize) -> Queue {
        Queue { waiting: Mutex::default(), arrived: Condvar::new(), max_bytes }
    }

    /// Adds a request.
    ///
    /// # Errors
    /// [`AppendError::TooBusy`] where too much waits already, [`AppendError::Closed`] after a close.
    pub(crate) fn push(&self, request: Request) -> Result<(), AppendError> {
        let weight = request.weight();
        let mut waiting = self.waiting.lock();
        if waiting.closed {
            return Err(AppendError::Closed);
        }
        if waiting.bytes + weight > self.max_bytes && !waiting.requests.is_empty() {
            return Err(AppendError::TooBusy);
        }
        waiting.bytes += weight;
        waiting.requests.push(request);
        let first = waiting.requests.len() == 1;
        drop(waiting);
        if first {
            self.arrived.notify_one();
        }
        Ok(())
    }

    /// Waits for requests and takes all of them; nothing once the queue is closed and empty. `into`
    /// is empty, and its memory is used again.
    pub(crate) fn take(&self, into: &mut Vec<Request>) -> bool {
        let mut waiting = self.waiting.lock();
        while waiting.requests.is_empty() && !waiting.closed {
            self.arrived.wait(&mut waiting);
        }
        if !waiting.closed {
            MutexGuard::unlocked(&mut waiting, || (0..YIELDS).for_each(|_| thread::yield_now()));
        }
        waiting.take(into)
    }

    /// Like [`Queue::take`], but does not wait.
    pub(crate) fn take_now(&self, into: &mut Vec<Request>) -> bool {
        self.waiting.lock().take(into)
    }

    /// Takes no more requests. What waits is still served.
    pub(crate) fn close(&self) {
        self.waiting.lock().closed = true;
        self.arrived.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::NewRecord;

    fn request() -> Request {
        let name = NamespaceName::new("n").unwrap();
        let id = wire::NamespaceId::new(1).unwrap();
        let namespace = Namespace::new(id, 1, name, NamespaceConfig::default());
        let draft = Draft::of(&NewRecord::bytes(&[0; 1000])).unwrap();
        Request::Append { namespace, append: Append::new(draft), reply: oneshot::channel().0 }
    }

    #[test]
    fn the_bound_is_on_bytes_and_what_waits_is_served_after_a_close() {
        let queue = Queue::new(4000);
        queue.push(request()).unwrap();
        queue.push(request()).unwrap();
        assert!(matches!(queue.push(request()), Err(AppendError::TooBusy)));
        queue.close();
        assert!(matches!(queue.push(request()), Err(AppendError::Closed)));
        let mut taken = Vec::new();
        assert!(queue.take(&mut taken));
        assert_eq!(taken.len(), 2);
        taken.clear();
        assert!(!queue.take(&mut taken));
    }

    #[test]
    fn a_request_larger_than_the_bound_waits_alone() {
        let queue = Queue::new(10);
        queue.push(request()).unwrap();
        assert!(matches!(queue.push(request()), Err(AppendError::TooBusy)));
    }
}
