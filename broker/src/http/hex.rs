//! Bytes that are spelled in hex digits in an answer.

use serde::{Serialize, Serializer};

/// Bytes that serialize as lower-case hex digits: ids, chains. Up to 32 of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Hex<const N: usize>(pub(crate) [u8; N]);

const DIGITS: &[u8; 16] = b"0123456789abcdef";

impl<const N: usize> Serialize for Hex<N> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        const { assert!(N <= 32) };
        let mut text = [0; 64];
        for (pair, byte) in text.chunks_exact_mut(2).zip(self.0) {
            pair[0] = DIGITS[usize::from(byte >> 4)];
            pair[1] = DIGITS[usize::from(byte & 15)];
        }
        serializer.serialize_str(std::str::from_utf8(&text[..2 * N]).map_err(serde::ser::Error::custom)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_spelled_in_order() {
        assert_eq!(serde_json::to_string(&Hex([0x3f, 0, 0xa1])).unwrap(), "\"3f00a1\"");
        assert_eq!(serde_json::to_string(&Hex([0xff; 32])).unwrap().len(), 66);
    }
}
