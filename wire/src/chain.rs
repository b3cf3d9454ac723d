//! The chain: a running BLAKE3 over a namespace's frames.

use std::fmt;
use std::str::FromStr;

/// The chain of a namespace after some frame. Two parties that hold the same chain hold the same
/// records, at the same offsets, with the same ids and times.
///
/// `chain(0) = 32 zero bytes`, `chain(n) = BLAKE3(chain(n-1) ‖ the chained part of frame n)`; which
/// part of a frame is chained stands in [`crate::frame`].
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Chain(pub [u8; 32]);

impl Chain {
    /// The chain of a namespace without frames.
    pub const EMPTY: Chain = Chain([0; 32]);

    /// The chain after one more frame, whose chained part is given.
    pub fn after(&self, chained: &[u8]) -> Chain {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.0);
        hasher.update(chained);
        Chain(*hasher.finalize().as_bytes())
    }
}

impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a text is not a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a chain is 64 hex digits")]
pub struct ChainError;

impl FromStr for Chain {
    type Err = ChainError;

    fn from_str(text: &str) -> Result<Chain, ChainError> {
        if text.len() != 64 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(ChainError);
        }
        let mut chain = [0; 32];
        for (byte, at) in chain.iter_mut().zip((0..).step_by(2)) {
            *byte = u8::from_str_radix(&text[at..at + 2], 16).map_err(|_| ChainError)?;
        }
        Ok(Chain(chain))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_is_blake3_of_the_last_and_the_new() {
        let mut input = vec![0; 32];
        input.extend_from_slice(b"frame");
        let chain = Chain::EMPTY.after(b"frame");
        assert_eq!(chain.0, *blake3::hash(&input).as_bytes());
        assert_eq!(chain.to_string().parse(), Ok(chain));
        assert_eq!("zz".parse::<Chain>(), Err(ChainError));
    }
}
