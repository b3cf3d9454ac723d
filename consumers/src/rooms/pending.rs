//! Rows as they become: what is not written yet, over what is.

use std::collections::BTreeMap;

use rocksdb::{DB, WriteBatch};

use super::rows::next_with;
use crate::ledger::LedgerError;

/// Rows that are not written yet, by key; nothing where one goes.
#[derive(Debug, Default)]
pub(super) struct Pending(BTreeMap<Vec<u8>, Option<Vec<u8>>>);

impl Pending {
    /// A row as it is by now.
    pub(super) fn get(&self, db: &DB, key: &[u8]) -> Result<Option<Vec<u8>>, LedgerError> {
        match self.0.get(key) {
            Some(row) => Ok(row.clone()),
            None => Ok(db.get(key)?),
        }
    }

    pub(super) fn put(&mut self, key: Vec<u8>, row: Vec<u8>) {
        self.0.insert(key, Some(row));
    }

    pub(super) fn delete(&mut self, key: Vec<u8>) {
        self.0.insert(key, None);
    }

    /// The first key that begins so.
    pub(super) fn first(&self, db: &DB, prefix: &[u8]) -> Result<Option<Vec<u8>>, LedgerError> {
        let mut rows = db.raw_iterator();
        rows.seek(prefix);
        let mut written = None;
        while let Some((key, _)) = next_with(&rows, prefix)? {
            if !matches!(self.0.get(key), Some(None)) {
                written = Some(key.to_vec());
                break;
            }
            rows.next();
        }
        let new = self.with(prefix).find(|(_, row)| row.is_some()).map(|(key, _)| key.clone());
        Ok(written.into_iter().chain(new).min())
    }

    /// All rows whose keys begin so go.
    pub(super) fn delete_all(&mut self, db: &DB, prefix: &[u8]) -> Result<(), LedgerError> {
        let mut keys: Vec<Vec<u8>> = self.with(prefix).map(|(key, _)| key.clone()).collect();
        let mut rows = db.raw_iterator();
        rows.seek(prefix);
        while let Some((key, _)) = next_with(&rows, prefix)? {
            keys.push(key.to_vec());
            rows.next();
        }
        keys.into_iter().for_each(|key| self.delete(key));
        Ok(())
    }

    /// Those that are to be written whose keys pass go instead.
    pub(super) fn delete_where(&mut self, goes: impl Fn(&[u8]) -> bool) {
        let going = self.0.iter_mut().filter(|(key, _)| goes(key));
        going.for_each(|(_, row)| *row = None);
    }

    /// Adds all of it to a batch.
    pub(super) fn write(&self, batch: &mut WriteBatch) {
        for (key, row) in &self.0 {
            match row {
                Some(row) => batch.put(key, row),
                None => batch.delete(key),
            }
        }
    }

    fn with<'a>(&'a self, prefix: &'a [u8]) -> impl Iterator<Item = (&'a Vec<u8>, &'a Option<Vec<u8>>)> {
        self.0.range(prefix.to_vec()..).take_while(move |(key, _)| key.starts_with(prefix))
    }
}
