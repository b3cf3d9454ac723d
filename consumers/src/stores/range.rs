//! A namespace's keys in order: the rows `'k'` of 256 stores, merged.
//!
//! A key lies in the store of its hash, so each store has some of any range. One iterator serves all
//! of them: it reads ahead a few keys of each store, and goes back to a store when those are used up.
//! So what a page holds in memory besides its records is bounded, whatever the keys.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use rocksdb::{DB, DBRawIteratorWithThreadMode};
use wire::limits::{DEFAULT_PAGE_RECORDS, MAX_PAGE_BYTES, MAX_PAGE_RECORDS, SHARDS};
use wire::{NamespaceId, ObjectId, Shard};

use crate::stores::error::StoresError;
use crate::stores::read::{StoredRecord, View};
use crate::stores::rows;

/// Where reading ahead in a store ends, bytes of keys.
const AHEAD_BYTES: usize = 4 << 10;

/// Which keys of a namespace. All conditions hold together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRange {
    /// Only keys that begin so; empty for all.
    pub prefix: String,
    /// No key before this one.
    pub from: Option<String>,
    /// No key at or behind this one.
    pub to: Option<String>,
    /// Only keys behind this one: the last page's [`KeyPage::next`].
    pub after: Option<String>,
    /// Most records; at least 1, at most [`MAX_PAGE_RECORDS`].
    pub limit: usize,
}

impl Default for KeyRange {
    /// All keys, in pages of the usual size.
    fn default() -> KeyRange {
        KeyRange { prefix: String::new(), from: None, to: None, after: None, limit: DEFAULT_PAGE_RECORDS }
    }
}

/// The latest records of some keys, by key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyPage {
    /// The records. Where they reach [`MAX_PAGE_BYTES`] the page ends, too.
    pub records: Vec<StoredRecord>,
    /// Where there are more: the key to go on after.
    pub next: Option<String>,
}

impl KeyRange {
    /// The least key, and the key before which the range ends.
    fn bounds(&self) -> (Vec<u8>, Option<Vec<u8>>) {
        let behind = |key: &String| [key.as_bytes(), b"\0"].concat();
        let from =
            [Some(self.prefix.clone().into_bytes()), self.from.clone().map(Vec::from), self.after.as_ref().map(behind)];
        let to = [rows::behind(self.prefix.as_bytes()), self.to.clone().map(Vec::from)];
        (from.into_iter().flatten().max().unwrap_or_default(), to.into_iter().flatten().min())
    }
}

impl View<'_> {
    /// A page of the latest records of a namespace's keys.
    ///
    /// # Errors
    /// [`StoresError::Rebuilding`] where any store is not whole: its keys would be missing in silence.
    pub(crate) fn range(&self, namespace: NamespaceId, range: &KeyRange) -> Result<KeyPage, StoresError> {
        let limit = range.limit.clamp(1, MAX_PAGE_RECORDS);
        let (from, to) = range.bounds();
        let mut rows = self.snapshot.raw_iterator();
        check_all_whole(&mut rows)?;
        let mut merge =
            Merge { rows, namespace, to, ahead: limit / SHARDS + 1, runs: Vec::new(), heads: BinaryHeap::new() };
        merge.begin(&from)?;
        let mut page = KeyPage { records: Vec::new(), next: None };
        let mut bytes = 0;
        let mut last = Vec::new();
        while let Some((key, id)) = merge.next()? {
            if page.records.len() == limit || bytes >= MAX_PAGE_BYTES {
                let next = String::from_utf8(last)
                    .map_err(|error| StoresError::damaged(error.as_bytes(), "it is not UTF-8"))?;
                page.next = Some(next);
                break;
            }
            let record = self.known_object(id)?;
            bytes += record.bytes();
            page.records.push(record);
            last = key;
        }
        Ok(page)
    }
}

fn check_all_whole(rows: &mut Rows<'_>) -> Result<(), StoresError> {
    rows.seek([rows::REBUILDING]);
    match rows.key() {
        Some([rows::REBUILDING, shard]) => Err(StoresError::Rebuilding(Shard(*shard))),
        _ => Ok(rows.status()?),
    }
}

type Rows<'a> = DBRawIteratorWithThreadMode<'a, DB>;

/// The merge of the stores' keys.
struct Merge<'a> {
    rows: Rows<'a>,
    namespace: NamespaceId,
    to: Option<Vec<u8>>,
    /// How many keys of a store are read at a time.
    ahead: usize,
    /// By shard: the keys that have been read ahead.
    runs: Vec<Run>,
    /// The next key of each store that has one.
    heads: BinaryHeap<Reverse<(Vec<u8>, u8)>>,
}

/// Keys of one store that have been read ahead, behind the one in the heap.
#[derive(Default)]
struct Run {
    /// The counter of the key in the heap.
    head: u32,
    behind: VecDeque<(Vec<u8>, u32)>,
}

impl Merge<'_> {
    fn begin(&mut self, from: &[u8]) -> Result<(), StoresError> {
        for shard in 0..=u8::MAX {
            self.runs.push(Run::default());
            self.read_ahead(shard, from)?;
            self.push_head(shard);
        }
        Ok(())
    }

    /// The next key of all, and the object that it names.
    fn next(&mut self) -> Result<Option<(Vec<u8>, ObjectId)>, StoresError> {
        let Some(Reverse((key, shard))) = self.heads.pop() else { return Ok(None) };
        let run = &self.runs[usize::from(shard)];
        let id = ObjectId::new(Shard(shard), self.namespace, run.head);
        if run.behind.is_empty() {
            self.read_ahead(shard, &[&key[..], b"\0"].concat())?;
        }
        self.push_head(shard);
        Ok(Some((key, id)))
    }

    fn push_head(&mut self, shard: u8) {
        let run = &mut self.runs[usize::from(shard)];
        if let Some((key, counter)) = run.behind.pop_front() {
            run.head = counter;
            self.heads.push(Reverse((key, shard)));
        }
    }

    /// Reads the next keys of a store, from `from` on.
    fn read_ahead(&mut self, shard: u8, from: &[u8]) -> Result<(), StoresError> {
        let prefix = rows::latest_of(Shard(shard), self.namespace);
        let run = &mut self.runs[usize::from(shard)].behind;
        let mut bytes = 0;
        self.rows.seek([&prefix, from].concat());
        while run.len() < self.ahead && bytes < AHEAD_BYTES {
            let Some((row, value)) = self.rows.item() else { break };
            let Some(key) = row.strip_prefix(&prefix) else { break };
            if self.to.as_ref().is_some_and(|to| key > &to[..] || (key == to && !mutant!(RangeTakesEnd))) {
                break;
            }
            let counter = rows::counter(value).ok_or_else(|| StoresError::damaged(row, "it is not a counter"))?;
            bytes += key.len();
            run.push_back((key.to_vec(), counter));
            self.rows.next();
        }
        Ok(self.rows.status()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_hold_together() {
        let range = |prefix: &str, from: Option<&str>, to: Option<&str>, after: Option<&str>| {
            let owned = |key: Option<&str>| key.map(str::to_owned);
            let range =
                KeyRange { prefix: prefix.to_owned(), from: owned(from), to: owned(to), after: owned(after), limit: 1 };
            range.bounds()
        };
        assert_eq!(range("", None, None, None), (vec![], None));
        assert_eq!(range("a", None, None, None), (b"a".to_vec(), Some(b"b".to_vec())));
        assert_eq!(range("a", Some("ab"), Some("ac"), None), (b"ab".to_vec(), Some(b"ac".to_vec())));
        assert_eq!(range("a", Some("0"), Some("z"), None), (b"a".to_vec(), Some(b"b".to_vec())));
        assert_eq!(range("", Some("b"), None, Some("b")), (b"b\0".to_vec(), None));
        assert_eq!(range("", Some("c"), None, Some("b")), (b"c".to_vec(), None));
    }
}
