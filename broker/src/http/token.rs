//! The resume token of a stream over many namespaces: where it stands in each of them. It is the
//! `id:` of every event of such a stream, and comes back as `Last-Event-ID`.
//!
//! That of a durable subscriber lists only what is ahead of its cursors, which are durable: so it is short
//! where acks come. Its CRC covers the subscriber's name too, so that nobody moves past records by another's.
//!
//! ```text
//!  0   1  version       1
//!  1   4  CRC-32 (IEEE) of the subscriber's name, if it is one's, and of the rest, big-endian
//!  5      per namespace, in ascending order of ids:
//!           id            ⎫
//!           generation    ⎬ LEB128, each in as few bytes as it needs
//!           next offset   ⎭
//! ```
//!
//! In base64url without padding. To a client it is opaque: it may change with any version.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use consumers::rooms::Place;
use wire::NamespaceId;
use wire::limits::MAX_FOLLOWED_NAMESPACES;

const VERSION: u8 = 1;
const HEADER_BYTES: usize = 5;

/// The longest token, characters: more is not decoded.
const MAX_TOKEN_CHARS: usize = (HEADER_BYTES + MAX_FOLLOWED_NAMESPACES * (4 + 5 + 10)).div_ceil(3) * 4;

/// The token of these places, which are in ascending order of ids.
pub(crate) fn encode(places: impl Iterator<Item = Place>) -> String {
    encode_of("", places)
}

/// The same of a subscriber's places.
pub(crate) fn encode_of(subscriber: &str, places: impl Iterator<Item = Place>) -> String {
    let mut bytes = vec![VERSION, 0, 0, 0, 0];
    for place in places {
        push_number(&mut bytes, u64::from(place.namespace.get()));
        push_number(&mut bytes, u64::from(place.generation));
        push_number(&mut bytes, place.next_offset);
    }
    let crc = crc(subscriber, &bytes[HEADER_BYTES..]);
    bytes[1..HEADER_BYTES].copy_from_slice(&crc.to_be_bytes());
    URL_SAFE_NO_PAD.encode(bytes)
}

fn crc(subscriber: &str, places: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(subscriber.as_bytes());
    crc.update(places);
    crc.finalize()
}

/// The places that a token names, in ascending order of ids; nothing where it is not one.
pub(crate) fn decode(token: &str) -> Option<Vec<Place>> {
    decode_of("", token)
}

/// The same of a token that this subscriber was sent.
pub(crate) fn decode_of(subscriber: &str, token: &str) -> Option<Vec<Place>> {
    if token.len() > MAX_TOKEN_CHARS {
        return None;
    }
    let bytes = URL_SAFE_NO_PAD.decode(token).ok()?;
    let (header, mut rest) = bytes.split_at_checked(HEADER_BYTES)?;
    let crc = crc(subscriber, rest).to_be_bytes();
    if header[0] != VERSION || header[1..] != crc {
        return None;
    }
    let mut places: Vec<Place> = Vec::new();
    while !rest.is_empty() {
        let place = Place {
            namespace: NamespaceId::new(u32::try_from(take_number(&mut rest)?).ok()?)?,
            generation: u32::try_from(take_number(&mut rest)?).ok()?,
            next_offset: take_number(&mut rest)?,
        };
        if places.last().is_some_and(|last| last.namespace >= place.namespace) {
            return None;
        }
        places.push(place);
    }
    (places.len() <= MAX_FOLLOWED_NAMESPACES).then_some(places)
}

fn push_number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn take_number(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        let bits = u64::from(byte & 0x7f);
        if bits << shift >> shift != bits {
            return None;
        }
        number |= bits << shift;
        if byte & 0x80 == 0 {
            // A number is spelled in one way only.
            return (*byte != 0 || shift == 0).then_some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn place(namespace: u32, generation: u32, next_offset: u64) -> Place {
        Place { namespace: NamespaceId::new(namespace).unwrap(), generation, next_offset }
    }

    #[test]
    fn golden_token() {
        let places = [place(1, 0, 0), place(300, 1, 17), place((1 << 24) - 1, u32::MAX, u64::MAX)];
        let token = encode(places.into_iter());
        assert_eq!(token, "Aa2O5UgBAACsAgER____B_____8P____________AQ");
        assert_eq!(decode(&token), Some(places.to_vec()));
        assert_eq!(decode(&encode([].into_iter())), Some(Vec::new()));
    }

    #[test]
    fn a_subscribers_token_is_its_own() {
        let token = encode_of("ann", [place(1, 0, 7)].into_iter());
        assert_eq!(decode_of("ann", &token), Some(vec![place(1, 0, 7)]));
        assert_eq!((decode_of("ben", &token), decode(&token)), (None, None));
    }

    #[test]
    fn what_is_no_token_is_refused() {
        let twice = encode([place(1, 0, 0), place(1, 0, 0)].into_iter());
        let many = encode((1..=MAX_FOLLOWED_NAMESPACES as u32 + 1).map(|id| place(id, 0, 0)));
        for token in ["", "17", "AQ", "AQAAAAA=", "ä", &twice, &many, &"A".repeat(MAX_TOKEN_CHARS + 4)] {
            assert_eq!(decode(token), None, "{token}");
        }
    }

    proptest! {
        #[test]
        fn tokens_round_trip(places in prop::collection::btree_map(0..(1_u32 << 24), any::<(u32, u64)>(), 0..20)) {
            let places: BTreeMap<u32, (u32, u64)> = places;
            let places: Vec<Place> = places.into_iter().map(|(id, (g, o))| place(id, g, o)).collect();
            prop_assert_eq!(decode(&encode(places.iter().copied())), Some(places));
        }

        #[test]
        fn any_changed_bit_is_noticed(offset: u64, bit in 0..300_usize) {
            let mut bytes = URL_SAFE_NO_PAD.decode(encode([place(7, 1, offset)].into_iter())).unwrap();
            let bit = bit % (bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(decode(&URL_SAFE_NO_PAD.encode(bytes)), None);
        }

        #[test]
        fn no_text_makes_it_panic(text in ".{0,60}", bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let _either = (decode(&text), decode(&URL_SAFE_NO_PAD.encode(bytes)));
        }
    }
}
