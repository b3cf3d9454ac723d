//! When a record was due, inside of the record: what makes a delivery's latency known, whatever carries it.
//!
//! ```text
//! value: … hex digits … @@@@ nanoseconds since the generator began, 16 hex digits
//! ```
//!
//! The stamp is at the value's end: when it has come, all of the value has. A delivery is counted when its stamp is
//! read, so the counting is the same for events, messages and pages.

use std::sync::LazyLock;

use memchr::memmem::Finder;

/// Bytes of a stamp.
pub(crate) const STAMP_BYTES: usize = MARK.len() + 16;

/// What a stamp begins with. No hex digit, so no value has it by chance.
const MARK: &[u8] = b"@@@@";

static MARKS: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(MARK));

/// Where in a request the stamp of its record is, to be written when it is sent.
pub(crate) fn place(request: &[u8]) -> Option<usize> {
    MARKS.find(request)
}

/// A value's end, before it is known when it is sent.
pub(crate) fn blank() -> String {
    format!("@@@@{:016x}", 0)
}

/// Writes the nanoseconds into the stamp at `at`.
pub(crate) fn write(request: &mut [u8], at: usize, nanos: u64) {
    let digits = &mut request[at + MARK.len()..at + STAMP_BYTES];
    for (index, digit) in digits.iter_mut().enumerate() {
        *digit = b"0123456789abcdef"[(nanos >> (60 - 4 * index)) as usize & 15];
    }
}

/// The nanoseconds of each stamp that is whole, and how many bytes at the end belong to one that may not be.
pub(crate) fn read(bytes: &[u8], mut stamp: impl FnMut(u64)) -> usize {
    let mut at = 0;
    while let Some(found) = MARKS.find(&bytes[at..]) {
        let digits = at + found + MARK.len();
        let Some(digits) = bytes.get(digits..digits + 16) else {
            return bytes.len() - at - found;
        };
        stamp(digits.iter().fold(0, |nanos, digit| nanos << 4 | u64::from(value(*digit))));
        at += found + STAMP_BYTES;
    }
    // The beginning of a mark.
    bytes[at..].iter().rev().take_while(|byte| **byte == b'@').count()
}

fn value(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        _ => digit.wrapping_sub(b'a').wrapping_add(10) & 15,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_are_found_wherever_reads_are_cut() {
        let mut text = Vec::new();
        for nanos in [0, 7, 0x0123_4567_89ab_cdef] {
            let mut event = format!("id: 3\ndata: {{\"value\":\"0f{}\"}}\n\n", blank()).into_bytes();
            let at = place(&event).unwrap();
            write(&mut event, at, nanos);
            text.extend(event);
        }
        for cut in 0..text.len() {
            let mut found = Vec::new();
            let rest = read(&text[..cut], |nanos| found.push(nanos));
            read(&text[cut - rest..], |nanos| found.push(nanos));
            assert_eq!(found, [0, 7, 0x0123_4567_89ab_cdef], "cut at {cut}");
        }
    }
}
