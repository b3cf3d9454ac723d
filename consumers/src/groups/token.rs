//! What a worker shows to settle a record: `offset-lease-boot`, each in hex, as in `1f-2a0003-9`.

use std::fmt;
use std::str::FromStr;

use wire::Offset;

/// One delivery of a record. It holds until the delivery is settled, or has lapsed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token {
    /// The record.
    pub offset: Offset,
    /// Which lease: no two of a boot are the same.
    pub(super) lease: u64,
    /// Which life of the group's leases.
    pub(super) boot: u64,
}

/// Why a text is not a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a token is three hex numbers with dashes between them, as a lease has given it")]
pub struct TokenError;

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}-{:x}-{:x}", self.offset, self.lease, self.boot)
    }
}

impl FromStr for Token {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Token, TokenError> {
        let number = |hex: &str| {
            let digits = hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
            let canonical = digits && (hex == "0" || !hex.starts_with('0'));
            if canonical { u64::from_str_radix(hex, 16).map_err(|_| TokenError) } else { Err(TokenError) }
        };
        let (offset, rest) = text.split_once('-').ok_or(TokenError)?;
        let (lease, boot) = rest.split_once('-').ok_or(TokenError)?;
        Ok(Token { offset: number(offset)?, lease: number(lease)?, boot: number(boot)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn golden_text() {
        let token = Token { offset: 0x1f, lease: 0x2a_0003, boot: 9 };
        assert_eq!(token.to_string(), "1f-2a0003-9");
        assert_eq!("0-0-0".parse(), Ok(Token { offset: 0, lease: 0, boot: 0 }));
    }

    #[test]
    fn what_is_no_token_is_refused() {
        for text in ["", "1", "1-2", "1-2-", "-1-2", "1-2-3-4", "+1-2-3", "1F-2-3", "01-2-3", "1-2-10000000000000000"] {
            assert_eq!(text.parse::<Token>(), Err(TokenError), "{text}");
        }
    }

    proptest! {
        #[test]
        fn tokens_round_trip(offset: u64, lease: u64, boot: u64) {
            let token = Token { offset, lease, boot };
            prop_assert_eq!(token.to_string().parse(), Ok(token));
        }

        #[test]
        fn what_is_read_is_spelt_so(text in "[0-9a-fA-F+-]{0,12}") {
            if let Ok(token) = text.parse::<Token>() {
                prop_assert_eq!(token.to_string(), text);
            }
        }
    }
}
