//! A frame and the text that all who follow it share.

use std::ops::Deref;
use std::sync::OnceLock;

use bytes::Bytes;
use wire::Frame;

/// A frame's records as text, one behind the other, as the broker sends them to followers.
#[derive(Debug)]
pub struct FrameText {
    /// The text of all records.
    pub bytes: Bytes,
    /// Where the text of each record ends.
    pub ends: Box<[u32]>,
}

/// A frame that many readers hold. What they make of it as text is made at most once.
#[derive(Debug)]
pub struct SharedFrame {
    frame: Frame,
    text: OnceLock<FrameText>,
}

impl SharedFrame {
    /// A frame that has no text yet.
    pub fn new(frame: Frame) -> SharedFrame {
        SharedFrame { frame, text: OnceLock::new() }
    }

    /// The frame.
    pub fn frame(&self) -> &Frame {
        &self.frame
    }

    /// The frame's text: what an earlier caller made, or else what `make` does.
    pub fn text(&self, make: impl FnOnce(&Frame) -> FrameText) -> &FrameText {
        self.text.get_or_init(|| make(&self.frame))
    }
}

impl Deref for SharedFrame {
    type Target = Frame;

    fn deref(&self) -> &Frame {
        &self.frame
    }
}
