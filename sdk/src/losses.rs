//! What was lost of a namespace, added up.

use std::fmt;

use wire::Offset;
use wire::json::Lost;

/// Most ranges that are kept one by one.
pub const MAX_LOST_RANGES: usize = 1_000;

/// What was lost of a namespace: how much is exact, however much it is; of the ranges of offsets the
/// first [`MAX_LOST_RANGES`] are named.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Losses {
    records: u64,
    ranges: u64,
    named: Vec<Lost>,
    /// The offset behind the last range.
    end: Offset,
}

impl Losses {
    /// Whether nothing was lost.
    pub fn is_empty(&self) -> bool {
        self.records == 0
    }

    /// How many records were lost.
    pub fn records(&self) -> u64 {
        self.records
    }

    /// In how many ranges of offsets; of two that touch there is one.
    pub fn ranges(&self) -> u64 {
        self.ranges
    }

    /// The first of those ranges, ascending.
    pub fn named(&self) -> &[Lost] {
        &self.named
    }

    /// Adds a range, which lies behind all before it.
    pub(crate) fn add(&mut self, lost: Lost) {
        if lost.records() == 0 {
            return;
        }
        let goes_on = self.ranges > 0 && lost.from == self.end;
        (self.records, self.end) = (self.records + lost.records(), lost.to);
        match self.named.last_mut() {
            Some(last) if last.to == lost.from => last.to = lost.to,
            _ if goes_on => {}
            _ => {
                self.ranges += 1;
                if self.named.len() < MAX_LOST_RANGES {
                    self.named.push(lost);
                }
            }
        }
    }
}

/// Says of a few ranges which they are, and of more how many more there are.
impl fmt::Display for Losses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 10;
        for (index, lost) in self.named.iter().take(SHOWN).enumerate() {
            write!(f, "{}{lost}", if index > 0 { ", " } else { "" })?;
        }
        match self.ranges.saturating_sub(SHOWN as u64) {
            0 => Ok(()),
            1 => write!(f, " and one range more"),
            more => write!(f, " and {more} ranges more"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn added(ranges: impl IntoIterator<Item = (Offset, Offset)>) -> Losses {
        let mut losses = Losses::default();
        ranges.into_iter().for_each(|(from, to)| losses.add(Lost { from, to }));
        losses
    }

    #[test]
    fn they_are_told_in_a_line() {
        assert_eq!(added([]).to_string(), "");
        assert_eq!(added([(40, 45), (45, 52), (60, 61), (61, 61)]).to_string(), "offsets 40 to 51, offset 60");
        let many = added((0..12).map(|n| (n * 10, n * 10 + 2)));
        assert!(many.to_string().ends_with(", offsets 90 to 91 and 2 ranges more"), "{many}");
    }

    #[test]
    fn however_many_there_are_few_are_kept_and_all_are_counted() {
        // Each range comes in two parts.
        let count = MAX_LOST_RANGES as u64 + 500;
        let losses = added((0..count).flat_map(|n| [(n * 10, n * 10 + 2), (n * 10 + 2, n * 10 + 3)]));
        assert_eq!((losses.records(), losses.ranges()), (count * 3, count));
        assert_eq!(losses.named().len(), MAX_LOST_RANGES);
        assert_eq!(losses.named()[MAX_LOST_RANGES - 1], Lost { from: 9990, to: 9993 });
    }

    proptest! {
        #[test]
        fn they_add_up_like_a_list(lengths in prop::collection::vec((0_u64..3, 0_u64..9), 0..50)) {
            let mut at = 0;
            let ranges: Vec<(Offset, Offset)> = lengths.iter().map(|(gap, length)| {
                let from = at + gap;
                at = from + length;
                (from, at)
            }).collect();
            let mut list = Vec::new();
            ranges.iter().filter(|(from, to)| from < to).for_each(|(from, to)| Lost { from: *from, to: *to }.push_to(&mut list));
            let losses = added(ranges);
            prop_assert_eq!(losses.named(), &list);
            prop_assert_eq!((losses.ranges(), losses.records()), (list.len() as u64, list.iter().map(Lost::records).sum()));
        }
    }
}
