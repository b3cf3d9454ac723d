//! Wake-ups: who follows a namespace is told that there is more, and nothing else. Nothing is queued
//! for a follower, so one that stalls costs its registration and no more (invariant 9).

use std::sync::Arc;

use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use tokio::sync::Notify;
use wire::NamespaceId;

use crate::partition::Shared;

/// Who follows what in a partition.
#[derive(Debug, Default)]
pub(crate) struct Followers {
    by_namespace: Mutex<FxHashMap<NamespaceId, Vec<Arc<Notify>>>>,
}

impl Followers {
    fn add(&self, namespace: NamespaceId, wake: &Arc<Notify>) {
        self.by_namespace.lock().entry(namespace).or_default().push(Arc::clone(wake));
    }

    fn remove(&self, namespace: NamespaceId, wake: &Arc<Notify>) {
        let mut by_namespace = self.by_namespace.lock();
        let Some(followers) = by_namespace.get_mut(&namespace) else { return };
        if let Some(at) = followers.iter().position(|follower| Arc::ptr_eq(follower, wake)) {
            followers.swap_remove(at);
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
        for namespace in namespaces {
            for follower in by_namespace.get(&namespace).into_iter().flatten() {
                follower.notify_one();
            }
        }
    }

    /// Wakes everyone: the log is closing.
    pub(crate) fn wake_all(&self) {
        for follower in self.by_namespace.lock().values().flatten() {
            follower.notify_one();
        }
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
