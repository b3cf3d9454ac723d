//! The bytes of the records. Every contender gets the same: hex digits that differ from record to record.

use std::fmt::Write;

/// A record to be published.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    /// Only TLog has keys.
    pub(crate) key: Option<String>,
    /// Hex digits.
    pub(crate) value: String,
}

/// Makes records of one size.
#[derive(Debug)]
pub(crate) struct Records {
    bytes: usize,
    keys: u32,
    made: u64,
}

impl Records {
    /// Records of `bytes` bytes, with one of `keys` keys each; 0 for none.
    pub(crate) fn new(bytes: usize, keys: u32) -> Records {
        Records { bytes, keys, made: 0 }
    }
}

impl Iterator for Records {
    type Item = Record;

    fn next(&mut self) -> Option<Record> {
        self.made += 1;
        let random = scramble(self.made);
        let key = (self.keys > 0).then(|| format!("k-{:010}", random % u64::from(self.keys)));
        let mut value = String::with_capacity(self.bytes + 16);
        let mut word = random;
        while value.len() < self.bytes {
            // Writing to a string does not fail.
            _ = write!(value, "{word:016x}");
            word = scramble(word);
        }
        value.truncate(self.bytes);
        Some(Record { key, value })
    }
}

/// The next number of SplitMix64: what a load needs of chance, and the same in each run.
pub(crate) fn scramble(state: u64) -> u64 {
    let z = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_have_their_size_and_differ() {
        let records: Vec<Record> = Records::new(256, 10).take(100).collect();
        assert!(records.iter().all(|record| record.value.len() == 256 && record.key.is_some()));
        let mut values: Vec<&str> = records.iter().map(|record| record.value.as_str()).collect();
        values.sort_unstable();
        values.dedup();
        assert_eq!(values.len(), 100);
    }
}
