//! Cuts a body that arrives in pieces into lines.

use bytes::{Bytes, BytesMut};
use wire::limits::MAX_LINE_BYTES;

/// A line is over its limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct LineTooLong;

/// Lines of a body. Holds the last piece, and at most one line that it does not end. A line that
/// lies within one piece is not copied.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    begun: BytesMut,
    piece: Bytes,
}

impl Lines {
    /// Adds the next piece, once [`Lines::next`] has answered nothing.
    pub(crate) fn push(&mut self, piece: Bytes) {
        self.begun.extend_from_slice(&self.piece);
        self.piece = piece;
    }

    /// The next line that is complete, without its LF.
    pub(crate) fn next(&mut self) -> Result<Option<Bytes>, LineTooLong> {
        let end = memchr::memchr(b'\n', &self.piece);
        if self.begun.len() + end.unwrap_or(self.piece.len()) > MAX_LINE_BYTES {
            return Err(LineTooLong);
        }
        let Some(end) = end else { return Ok(None) };
        let mut line = self.piece.split_to(end + 1);
        line.truncate(end);
        if self.begun.is_empty() {
            return Ok(Some(line));
        }
        self.begun.extend_from_slice(&line);
        Ok(Some(self.begun.split().freeze()))
    }

    /// What stands behind the last LF, once the body has ended.
    pub(crate) fn rest(&mut self) -> Bytes {
        let piece = std::mem::take(&mut self.piece);
        if self.begun.is_empty() {
            return piece;
        }
        self.begun.extend_from_slice(&piece);
        self.begun.split().freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cut(pieces: &[&[u8]]) -> Result<Vec<Bytes>, LineTooLong> {
        let (mut lines, mut found) = (Lines::default(), Vec::new());
        for piece in pieces {
            lines.push(Bytes::copy_from_slice(piece));
            while let Some(line) = lines.next()? {
                found.push(line);
            }
        }
        found.push(lines.rest());
        Ok(found)
    }

    #[test]
    fn a_line_over_the_limit_is_noticed_before_it_ends() {
        let half = vec![b'x'; MAX_LINE_BYTES / 2];
        assert_eq!(cut(&[&half, &half]).unwrap()[0].len(), MAX_LINE_BYTES);
        assert_eq!(cut(&[&half, &half, b"x"]), Err(LineTooLong));
        assert!(cut(&[&half, &half, b"\nx"]).is_ok());
    }

    proptest! {
        #[test]
        fn lines_do_not_depend_on_the_pieces(text in "[a\n]{0,40}", cuts in prop::collection::vec(0..40_usize, 0..5)) {
            let mut cuts: Vec<usize> = cuts.into_iter().map(|at| at.min(text.len())).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|pair| &text.as_bytes()[pair[0]..pair[1]]).collect();
            let expected: Vec<&[u8]> = text.as_bytes().split(|byte| *byte == b'\n').collect();
            prop_assert_eq!(cut(&pieces).unwrap(), expected);
        }
    }
}
