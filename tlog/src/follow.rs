//! Wake-ups: who follows a namespace is told that there is more, and nothing else. Nothing is queued
//! for a follower, so one that stalls costs its registration and no more (invariant 9).
//!
//! To wake ten thousand takes milliseconds, for which the sequencer has no time. So it wakes a few itself, as that
//! is the shortest way; of a namespace with many it leaves word, if somebody has said that he sees to it.

use std::sync::Arc;

use parking_lot::Mutex;
use rustc_hash::{FxHashMap, FxHashSet};
use tokio::sync::Notify;
use wire::NamespaceId;

use crate::partition::Shared;

/// How many followers of a namespace the sequencer wakes itself.
const FEW: usize = 16;

/// How many are woken before others have a turn.
const AT_ONCE: usize = 256;

/// Who follows what in a partition.
#[derive(Debug, Default)]
pub(crate) struct Followers {
    /// A list is shared with whoever is waking those in it.
    by_namespace: Mutex<FxHashMap<NamespaceId, Arc<Vec<Arc<Notify>>>>>,
    /// Namespaces whose many followers are to be woken; nothing where nobody sees to it.
    left: Mutex<Option<FxHashSet<NamespaceId>>>,
    word: Notify,
}

impl Followers {
    fn add(&self, namespace: NamespaceId, wake: &Arc<Notify>) {
        Arc::make_mut(self.by_namespace.lock().entry(namespace).or_default()).push(Arc::clone(wake));
    }

    fn remove(&self, namespace: NamespaceId, wake: &Arc<Notify>) {
        let mut by_namespace = self.by_namespace.lock();
        let Some(followers) = by_namespace.get_mut(&namespace) else { return };
        if let Some(at) = followers.iter().position(|follower| Arc::ptr_eq(follower, wake)) {
            Arc::make_mut(followers).swap_remove(at);
        }
        if followers.is_empty() {
            by_namespace.remove(&namespace);
        }
    }

    /// Wakes those who follow these namespaces. One that is awake already will come back by itself.
    pub(crate) fn wake(&self, namespaces: impl Iterator<Item = NamespaceId>) {
        let by_namespace = self.by_namespace.lock();
        if by_namespace.is_empty() {
            return;
        }
        let mut has_left = false;
        for namespace in namespaces {
            let Some(followers) = by_namespace.get(&namespace) else { continue };
            if followers.len() > FEW
                && let Some(left) = &mut *self.left.lock()
            {
                has_left = true;
                left.insert(namespace);
                continue;
            }
            followers.iter().for_each(|follower| follower.notify_one());
        }
        if has_left {
            self.word.notify_one();
        }
    }

    /// Wakes everyone: the log is closing.
    pub(crate) fn wake_all(&self) {
        for follower in self.by_namespace.lock().values().flat_map(|followers| followers.iter()) {
            follower.notify_one();
        }
    }

    /// Sees to it, for as long as this is polled, that the many are woken too.
    pub(crate) async fn wake_many(&self) {
        let _seen_to = SeenTo::by(self);
        loop {
            self.word.notified().await;
            let left = self.left.lock().as_mut().map(std::mem::take).unwrap_or_default();
            for namespace in left {
                // Who comes to follow from here on reads first, and finds what this is about.
                let followers = self.by_namespace.lock().get(&namespace).map(Arc::clone).unwrap_or_default();
                for some in followers.chunks(AT_ONCE) {
                    some.iter().for_each(|follower| follower.notify_one());
                    tokio::task::yield_now().await;
                }
            }
        }
    }
}

/// That somebody wakes the many.
struct SeenTo<'a>(&'a Followers);

impl SeenTo<'_> {
    fn by(followers: &Followers) -> SeenTo<'_> {
        followers.left.lock().get_or_insert_default();
        SeenTo(followers)
    }
}

impl Drop for SeenTo<'_> {
    fn drop(&mut self) {
        // It may have been dropped between two of them, so nobody is left out.
        *self.0.left.lock() = None;
        self.0.wake_all();
    }
}

/// Follows one namespace or many. Dropping it ends that.
///
/// Register first, then read, then wait: an append that falls between is remembered, so none is
/// missed. A wake-up may be spurious.
#[derive(Debug)]
pub struct Follower {
    wake: Arc<Notify>,
    followed: Vec<(Arc<Shared>, NamespaceId)>,
}

impl Follower {
    pub(crate) fn new(followed: Vec<(Arc<Shared>, NamespaceId)>) -> Follower {
        let wake = Arc::new(Notify::new());
        for (partition, namespace) in &followed {
            partition.followers.add(*namespace, &wake);
        }
        Follower { wake, followed }
    }

    /// Returns once something has been appended to a followed namespace, or it was deleted, or the
    /// log is closing, since the last call returned.
    pub async fn changed(&self) {
        self.wake.notified().await;
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        for (partition, namespace) in &self.followed {
            partition.followers.remove(*namespace, &self.wake);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    const NAMESPACE: NamespaceId = NamespaceId::CONTROL;

    fn followed_by(count: usize) -> (Followers, Vec<Arc<Notify>>) {
        let followers = Followers::default();
        let wakes: Vec<_> = (0..count).map(|_| Arc::new(Notify::new())).collect();
        wakes.iter().for_each(|wake| followers.add(NAMESPACE, wake));
        (followers, wakes)
    }

    fn woken(wakes: &[Arc<Notify>]) -> usize {
        wakes.iter().filter(|wake| wake.notified().now_or_never().is_some()).count()
    }

    #[tokio::test]
    async fn the_many_are_left_to_whoever_sees_to_them() {
        let (followers, wakes) = followed_by(3 * AT_ONCE + 1);
        followers.wake([NAMESPACE].into_iter());
        assert_eq!(woken(&wakes), wakes.len(), "nobody sees to it");

        let mut many = Box::pin(followers.wake_many());
        assert!(many.as_mut().now_or_never().is_none());
        followers.wake([NAMESPACE].into_iter());
        assert_eq!(woken(&wakes), 0);
        // Some go between two turns; those that stay are told all the same.
        let mut told = 0;
        for turn in 0..8 {
            assert!(futures::poll!(many.as_mut()).is_pending());
            wakes[turn * 40..(turn + 1) * 40].iter().for_each(|wake| followers.remove(NAMESPACE, wake));
            told += woken(&wakes);
        }
        assert_eq!(told, wakes.len());

        // Word that was left when he goes is not lost.
        followers.wake([NAMESPACE].into_iter());
        drop(many);
        assert_eq!(woken(&wakes), wakes.len() - 320);
    }

    #[tokio::test]
    async fn a_few_are_woken_at_once() {
        let (followers, wakes) = followed_by(FEW);
        let mut many = Box::pin(followers.wake_many());
        assert!(many.as_mut().now_or_never().is_none());
        followers.wake([NAMESPACE].into_iter());
        assert_eq!(woken(&wakes), FEW);
    }
}
