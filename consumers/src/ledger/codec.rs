//! What the events and the rows of the ledger are made of: varints, ascending offsets, ascending ranges.
//!
//! ```text
//! varint    LEB128 of a u64: 7 bits a byte, the lowest first; the top bit says that more follow.
//!           The shortest spelling only
//! offsets   count varint · each: varint of how far it is above the least that it could be, which is
//!           0 for the first and the one before plus 1 for the others
//! ranges    count varint · each: begin varint, length - 1 varint. A begin is counted from the least
//!           that it could be too: 0, then the end before plus 1, as ranges that touch are one
//! ```
//!
//! So there is one spelling of everything, and what can't be in order can't be said.

use std::ops::Range;

use wire::Offset;

/// Why bytes are not what they should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Malformed(pub &'static str);

const CUT_OFF: Malformed = Malformed("it is cut off");
const PAST_END: Malformed = Malformed("an offset is 2^64 - 1 or more");

/// Appends a varint.
pub(crate) fn put_varint(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

/// Appends how far `offset` is above `least`, and moves `least` past it.
///
/// # Errors
/// Where it is below, or the last number that there is.
pub(crate) fn put_offset(bytes: &mut Vec<u8>, least: &mut Offset, offset: Offset) -> Result<(), Malformed> {
    put_varint(bytes, offset.checked_sub(*least).ok_or(Malformed("its offsets do not ascend"))?);
    *least = offset.checked_add(1).ok_or(PAST_END)?;
    Ok(())
}

/// Appends ranges, which must ascend and not touch.
///
/// # Errors
/// Where they don't, or one is empty.
pub(crate) fn put_ranges(bytes: &mut Vec<u8>, ranges: &[Range<Offset>]) -> Result<(), Malformed> {
    put_varint(bytes, ranges.len() as u64);
    let mut least = 0;
    for range in ranges {
        if range.is_empty() {
            return Err(Malformed("one of its ranges is empty"));
        }
        put_offset(bytes, &mut least, range.start).map_err(|_| Malformed("its ranges do not ascend"))?;
        put_varint(bytes, range.end - range.start - 1);
        least = range.end.saturating_add(1);
    }
    Ok(())
}

/// What has not been read yet.
#[derive(Debug)]
pub(crate) struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn take(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(CUT_OFF)?;
        self.0 = rest;
        Ok(taken)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(CUT_OFF)?;
        self.0 = rest;
        Ok(*taken)
    }

    pub(crate) fn byte(&mut self) -> Result<u8, Malformed> {
        self.array().map(|[byte]| byte)
    }

    /// What follows, up to the end.
    pub(crate) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    pub(crate) fn end(&self) -> Result<(), Malformed> {
        if self.0.is_empty() { Ok(()) } else { Err(Malformed("bytes follow it")) }
    }

    pub(crate) fn varint(&mut self) -> Result<u64, Malformed> {
        let mut value = 0;
        for shift in (0..u64::BITS).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if bits << shift >> shift != bits {
                return Err(Malformed("one of its numbers does not fit into 64 bits"));
            }
            value |= bits << shift;
            if byte < 0x80 {
                let longer = byte == 0 && shift > 0;
                return if longer { Err(Malformed("one of its numbers is spelt too long")) } else { Ok(value) };
            }
        }
        Err(Malformed("one of its numbers does not fit into 64 bits"))
    }

    /// A varint that must fit into 32 bits.
    pub(crate) fn varint_u32(&mut self) -> Result<u32, Malformed> {
        self.varint()?.try_into().map_err(|_| Malformed("one of its numbers does not fit into 32 bits"))
    }

    /// How many of something follow, each of which takes `least_bytes` or more: so what is allocated
    /// for them is bounded by the bytes that are there.
    pub(crate) fn count(&mut self, least_bytes: usize) -> Result<usize, Malformed> {
        let count = self.varint()?;
        if count > (self.0.len() / least_bytes) as u64 { Err(CUT_OFF) } else { Ok(count as usize) }
    }

    pub(crate) fn offset(&mut self, least: &mut Offset) -> Result<Offset, Malformed> {
        let offset = least.checked_add(self.varint()?).ok_or(PAST_END)?;
        *least = offset.checked_add(1).ok_or(PAST_END)?;
        Ok(offset)
    }

    pub(crate) fn ranges(&mut self) -> Result<Vec<Range<Offset>>, Malformed> {
        let mut ranges = Vec::with_capacity(self.count(2)?);
        let mut least = 0;
        for _ in 0..ranges.capacity() {
            let start = self.offset(&mut least)?;
            let end = least.checked_add(self.varint()?).ok_or(Malformed("a range ends past 2^64 - 1"))?;
            least = end.saturating_add(1);
            ranges.push(start..end);
        }
        Ok(ranges)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn varint(value: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        put_varint(&mut bytes, value);
        bytes
    }

    #[test]
    fn golden_varints() {
        assert_eq!(varint(0), [0]);
        assert_eq!(varint(127), [0x7f]);
        assert_eq!(varint(300), [0xac, 0x02]);
        assert_eq!(varint(u64::MAX), [255, 255, 255, 255, 255, 255, 255, 255, 255, 1]);
    }

    #[test]
    fn what_is_no_varint_is_refused() {
        let wrong = |bytes: &[u8]| Reader(bytes).varint().unwrap_err().0;
        assert_eq!(wrong(&[]), "it is cut off");
        assert_eq!(wrong(&[0x80]), "it is cut off");
        assert_eq!(wrong(&[0x80, 0]), "one of its numbers is spelt too long");
        let fits = "one of its numbers does not fit into 64 bits";
        assert_eq!(wrong(&[255, 255, 255, 255, 255, 255, 255, 255, 255, 2]), fits);
        assert_eq!(wrong(&[255; 11]), fits);
    }

    proptest! {
        #[test]
        fn varints_round_trip(value: u64) {
            let bytes = varint(value);
            let mut reader = Reader(&bytes);
            prop_assert_eq!(reader.varint(), Ok(value));
            prop_assert_eq!(reader.end(), Ok(()));
        }

        #[test]
        fn what_is_read_as_ranges_is_spelt_so(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let mut reader = Reader(&bytes);
            if let Ok(ranges) = reader.ranges() {
                let mut again = Vec::new();
                prop_assert_eq!(put_ranges(&mut again, &ranges), Ok(()));
                prop_assert_eq!(&again[..], &bytes[..bytes.len() - reader.0.len()]);
            }
        }
    }
}
