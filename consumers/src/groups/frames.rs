//! Frames that a group has read and will need: bounded by bytes. What has gone is read again.

use std::collections::BTreeMap;
use std::sync::Arc;

use tlog::SharedFrame;
use wire::Offset;

/// Frames of a group that are kept, bytes. While a group keeps up they are the log's own, in its tail.
const MAX_BYTES: usize = 1 << 20;

/// Frames of one namespace, by their first offset.
#[derive(Debug, Default)]
pub(super) struct Frames {
    frames: BTreeMap<Offset, Arc<SharedFrame>>,
    bytes: usize,
}

impl Frames {
    /// Keeps a frame; lets go of the oldest where that is too much.
    pub(super) fn add(&mut self, frame: &Arc<SharedFrame>) {
        self.bytes += frame.len();
        if let Some(same) = self.frames.insert(frame.base_offset(), Arc::clone(frame)) {
            self.bytes -= same.len();
        }
        while self.bytes > MAX_BYTES && self.frames.len() > 1 {
            self.pop();
        }
    }

    /// Whether as much is kept as may be.
    pub(super) fn is_full(&self) -> bool {
        self.bytes >= MAX_BYTES
    }

    /// Lets go of what ends at or before `floor`.
    pub(super) fn forget_below(&mut self, floor: Offset) {
        while self.frames.first_key_value().is_some_and(|(_, frame)| frame.next_offset() <= floor) {
            self.pop();
        }
    }

    /// The frame that holds a record, and the record's place in it.
    pub(super) fn find(&self, offset: Offset) -> Option<(Arc<SharedFrame>, u32)> {
        let (base, frame) = self.frames.range(..=offset).next_back()?;
        (offset < frame.next_offset()).then(|| (Arc::clone(frame), (offset - base) as u32))
    }

    fn pop(&mut self) {
        if let Some((_, frame)) = self.frames.pop_first() {
            self.bytes -= frame.len();
        }
    }
}
