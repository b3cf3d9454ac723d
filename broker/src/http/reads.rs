//! Short reads that may have to wait for the disk, off the threads that serve connections.
//!
//! To hand each to a thread of its own costs ten times what the read does, in threads that are woken, wait for
//! each other and go to sleep. So a thread that has done one read does the next that waits; another joins it
//! only where so many wait that it seems to be held up by the disk.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;
use wire::Code;

use crate::http::error::Refusal;

/// Reads that wait for each thread before another one joins.
const WAIT_FOR_EACH: usize = 8;

/// Threads at most.
const MOST_THREADS: usize = 32;

type Read = Box<dyn FnOnce() + Send>;

/// Reads that wait, and threads that do them. They are bounded by the connections that wait for them.
#[derive(Clone, Default)]
pub(crate) struct Reads(Arc<Mutex<Waiting>>);

#[derive(Default)]
struct Waiting {
    reads: VecDeque<Read>,
    threads: usize,
}

impl std::fmt::Debug for Reads {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reads").finish_non_exhaustive()
    }
}

impl Reads {
    /// Does a read, and answers what it came to.
    ///
    /// # Errors
    /// What the read says; or that it did not come to an end.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        read: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, Refusal> {
        let (done, answer) = oneshot::channel();
        let read = move || {
            // Nobody waits for it any more: the client has gone.
            let _ = done.send(read());
        };
        if self.wait(Box::new(read)) {
            let reads = self.clone();
            tokio::task::spawn_blocking(move || reads.work());
        }
        answer.await.map_err(|_| Refusal::new(Code::Internal, "a read did not come to an end"))?
    }

    /// Takes a read in, and says whether one more thread is to join.
    fn wait(&self, read: Read) -> bool {
        let mut waiting = self.0.lock();
        waiting.reads.push_back(read);
        let joins = waiting.threads < MOST_THREADS && waiting.reads.len() > waiting.threads * WAIT_FOR_EACH;
        waiting.threads += usize::from(joins);
        joins
    }

    /// Blocking: does what waits, until there is nothing.
    fn work(&self) {
        while let Some(read) = self.next() {
            // Whoever waits for it learns that it was given up; the others must not suffer.
            let _ = catch_unwind(AssertUnwindSafe(read));
        }
    }

    fn next(&self) -> Option<Read> {
        let mut waiting = self.0.lock();
        let next = waiting.reads.pop_front();
        waiting.threads -= usize::from(next.is_none());
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::future::join_all;
    use std::sync::mpsc;

    #[tokio::test]
    async fn every_read_is_answered_and_no_thread_stays() {
        let reads = Reads::default();
        let answers = join_all((0..1_000).map(|number| reads.run(move || Ok(number)))).await;
        assert!(answers.into_iter().map(Result::unwrap).eq(0..1_000));
        while reads.0.lock().threads > 0 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn others_join_where_reads_are_held_up() {
        let reads = Reads::default();
        let (release, held) = mpsc::channel::<()>();
        let held = Arc::new(Mutex::new(held));
        let slow = (0..2).map(|_| {
            let held = Arc::clone(&held);
            tokio::spawn({
                let reads = reads.clone();
                async move { reads.run(move || Ok(held.lock().recv().is_ok())).await }
            })
        });
        let slow: Vec<_> = slow.collect();
        while reads.0.lock().threads == 0 {
            tokio::task::yield_now().await;
        }
        // The first thread is held up; those behind it are done all the same.
        let quick = join_all((0..4 * WAIT_FOR_EACH).map(|number| reads.run(move || Ok(number))));
        let (answers, ()) = tokio::join!(quick, async {
            while reads.0.lock().threads < 2 {
                tokio::task::yield_now().await;
            }
            release.send(()).unwrap();
            release.send(()).unwrap();
        });
        assert!(answers.iter().all(Result::is_ok));
        for read in slow {
            assert!(read.await.unwrap().unwrap());
        }
    }

    #[tokio::test]
    async fn a_panic_is_the_business_of_one() {
        let reads = Reads::default();
        let broken = reads.run(|| if true { panic!("a test") } else { Ok(()) });
        let (broken, whole) = tokio::join!(broken, reads.run(|| Ok(1)));
        assert!(broken.is_err());
        assert_eq!(whole.unwrap(), 1);
    }
}
