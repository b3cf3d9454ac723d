//! What the sequencer of a partition shares with its readers.

use std::sync::{Arc, OnceLock};

use parking_lot::RwLock;
use tokio::sync::watch;
use wire::{NamespaceId, Position};

use crate::control::ControlEvent;
use crate::follow::Followers;
use crate::head::Head;
use crate::recent::Recent;
use crate::shared_frame::SharedFrame;

/// The first position of a partition that is not yet durable, and the records before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Watermark {
    /// The position. Acks and readers stop there.
    pub position: Position,
    /// Records in all frames before it, control records too.
    pub records: u64,
}

/// A partition, as its readers see it.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) id: u16,
    pub(crate) recent: RwLock<Recent>,
    pub(crate) watermark: watch::Sender<Watermark>,
    pub(crate) followers: Followers,
    failure: OnceLock<String>,
}

impl Shared {
    pub(crate) fn new(id: u16, recent: Recent, watermark: Watermark) -> Shared {
        Shared {
            id,
            recent: RwLock::new(recent),
            watermark: watch::Sender::new(watermark),
            followers: Followers::default(),
            failure: OnceLock::new(),
        }
    }

    /// Shows frames that have become durable to the readers, with the heads that they moved, and
    /// wakes those who follow them.
    pub(crate) fn publish(
        &self,
        frames: &[Arc<SharedFrame>],
        heads: impl Iterator<Item = (NamespaceId, Head)>,
        watermark: Watermark,
    ) {
        let mut recent = self.recent.write();
        heads.for_each(|(namespace, head)| recent.set_head(namespace, head));
        for frame in frames {
            recent.push(Arc::clone(frame));
            if frame.namespace() == NamespaceId::CONTROL {
                deleted_in(frame).for_each(|namespace| recent.delete(namespace));
            }
        }
        drop(recent);
        self.watermark.send_replace(watermark);
        // Frames that stand together are often of one namespace.
        let mut last = None;
        let namespaces = frames.iter().map(|frame| frame.namespace());
        self.followers.wake(namespaces.filter(|namespace| last.replace(*namespace) != Some(*namespace)));
        let control = frames.iter().filter(|frame| frame.namespace() == NamespaceId::CONTROL);
        self.followers.wake(control.flat_map(|frame| deleted_in(frame)));
    }

    /// Takes no more writes from here on (invariant 6).
    pub(crate) fn fail(&self, reason: String) {
        // The first reason stands: what comes after it follows from it.
        let _ = self.failure.set(reason);
    }

    /// Why the partition takes no writes, if it does not.
    pub(crate) fn failure(&self) -> Option<&str> {
        self.failure.get().map(String::as_str)
    }
}

fn deleted_in(control: &SharedFrame) -> impl Iterator<Item = NamespaceId> {
    ControlEvent::all_in(control).filter_map(|event| match event {
        Ok(ControlEvent::Deleted { id, .. }) => Some(id),
        _ => None,
    })
}
