//! The task that sends a publisher's batches.

use std::convert::Infallible;
use std::future::pending;
use std::sync::Arc;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep_until};
use wire::Code;

use super::gather::{Batch, Outcome};
use super::window::{Gap, Window};
use super::{Progress, Shared};
use crate::backoff::{Attempts, Backoff};
use crate::error::Error;
use crate::http::Repeat;
use crate::namespace::Namespace;
use crate::publish::{Published, Sequenced};

/// Sends batches as the window allows, and tells what became of them. When it is dropped, whatever
/// is not stored is told that it won't be.
#[derive(Debug)]
pub(super) struct Driver {
    namespace: Namespace,
    /// Id and epoch.
    producer: Arc<(String, u32)>,
    shared: Arc<Shared>,
    window: Window<Batch>,
    attempts: Attempts,
    progress: watch::Sender<Progress>,
    sending: FuturesUnordered<BoxFuture<'static, (u64, Result<Published, Error>)>>,
    /// Resolves when the last request has been taken by its connection. The next one starts only
    /// then: so requests over several connections arrive in order, unless the machine is unlucky.
    uploading: Option<oneshot::Receiver<Infallible>>,
    /// After a failure: nothing is sent before.
    pause: Option<Instant>,
    /// Why no more is sent. What is on its way is waited for.
    failure: Option<Error>,
}

impl Driver {
    pub(super) fn new(
        namespace: Namespace,
        producer: (String, u32),
        shared: Arc<Shared>,
        window: Window<Batch>,
        backoff: Backoff,
        progress: watch::Sender<Progress>,
    ) -> Driver {
        Driver {
            namespace,
            producer: Arc::new(producer),
            shared,
            window,
            attempts: Attempts::new(backoff),
            progress,
            sending: FuturesUnordered::new(),
            uploading: None,
            pause: None,
            failure: None,
        }
    }

    pub(super) async fn run(mut self) {
        while !self.is_done() {
            self.start();
            tokio::select! {
                Some((sequence, answer)) = self.sending.next() => self.answered(sequence, answer),
                () = resolved(self.uploading.as_mut()) => self.uploading = None,
                () = until(self.pause) => self.pause = None,
                () = self.shared.wake.notified() => {}
            }
        }
    }

    fn is_done(&self) -> bool {
        if self.failure.is_some() {
            return self.sending.is_empty();
        }
        let gather = self.shared.gather.lock();
        gather.is_closed() && gather.is_empty() && self.window.is_empty()
    }

    /// Starts the next request, if one may start.
    fn start(&mut self) {
        if self.failure.is_some() || self.uploading.is_some() || self.pause.is_some() {
            return;
        }
        if self.window.has_room() {
            let batch = self.shared.gather.lock().take();
            batch.into_iter().for_each(|batch| self.window.push(batch));
        }
        let Some((sequence, batch)) = self.window.due() else { return };
        let (bytes, records) = (batch.bytes.clone(), batch.records);
        let (namespace, producer) = (self.namespace.clone(), Arc::clone(&self.producer));
        let (uploaded, uploading) = oneshot::channel();
        self.uploading = Some(uploading);
        self.sending.push(Box::pin(async move {
            let sequenced = Sequenced { id: &producer.0, epoch: producer.1, sequence };
            (sequence, namespace.append_once(bytes, records, sequenced, uploaded).await)
        }));
    }

    fn answered(&mut self, sequence: u64, answer: Result<Published, Error>) {
        let error = match answer {
            Ok(published) => return self.stored(sequence, Ok(Arc::new(published))),
            // It is stored, only nobody knows any more where.
            Err(error) if error.code() == Some(Code::ProducerForgotten) => return self.stored(sequence, Err(error)),
            Err(error) => error,
        };
        if error.code() == Some(Code::ProducerGap) && self.window.gap(sequence) == Gap::Overtook {
            return;
        }
        if !Repeat::Always.allows(&error) {
            return self.fail(error);
        }
        self.window.failed(sequence);
        // Requests that fail together count as one failure.
        if self.pause.is_none() && self.failure.is_none() {
            match self.attempts.failed(&error) {
                Some(wait) => {
                    tracing::warn!(namespace = %self.namespace.name(), sequence, %error, ?wait, "a batch goes again");
                    self.pause = Some(Instant::now() + wait);
                }
                None => self.fail(error),
            }
        }
    }

    fn stored(&mut self, sequence: u64, outcome: Outcome) {
        self.attempts.succeeded();
        let Some(batch) = self.window.stored_now(sequence) else { return };
        self.shared.room.add_permits(batch.room);
        let batches = self.window.stored();
        self.progress.send_modify(|progress| {
            progress.batches = batches;
            progress.records += u64::from(batch.records);
            if let Ok(published) = &outcome {
                let first = progress.first_offset.map_or(published.first_offset, |o| o.min(published.first_offset));
                progress.first_offset = Some(first);
                progress.next_offset = progress.next_offset.max(Some(published.next_offset));
            }
        });
        tell(batch, outcome);
    }

    fn fail(&mut self, error: Error) {
        self.shared.gather.lock().close(error.clone());
        self.failure.get_or_insert(error);
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        let error = self.failure.take().unwrap_or(Error::Closed);
        let mut gather = self.shared.gather.lock();
        gather.close(error.clone());
        let waiting = std::iter::from_fn(|| gather.take());
        let unstored: Vec<Batch> = self.window.drain().chain(waiting).collect();
        drop(gather);
        self.progress.send_modify(|progress| progress.failure = Some(error.clone()));
        unstored.into_iter().for_each(|batch| tell(batch, Err(error.clone())));
        self.shared.room.close();
    }
}

fn tell(batch: Batch, outcome: Outcome) {
    // Nobody waits for it where no ack was kept.
    drop(batch.tell.send(outcome));
}

/// Waits for a receiver's end; for ever where there is none.
async fn resolved(receiver: Option<&mut oneshot::Receiver<Infallible>>) {
    match receiver {
        Some(receiver) => drop(receiver.await),
        None => pending().await,
    }
}

/// Waits for a moment; for ever where there is none.
async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => pending().await,
    }
}
