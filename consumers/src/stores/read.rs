//! Reads of one store: the latest record of a key, a record by its id.

use rocksdb::Snapshot;
use wire::{NamespaceId, ObjectId, Record, Shard};

use crate::stores::error::StoresError;
use crate::stores::ring::Ring;
use crate::stores::rows;

/// A record as a store keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredRecord {
    id: ObjectId,
    row: Vec<u8>,
}

impl StoredRecord {
    /// Its id.
    pub fn id(&self) -> ObjectId {
        self.id
    }

    /// How much it takes, bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.row.len()
    }

    /// The record.
    ///
    /// # Errors
    /// [`StoresError::Damaged`] where the row is not a record.
    pub fn record(&self) -> Result<Record<'_>, StoresError> {
        rows::record(self.id, &self.row)
            .map_err(|error| StoresError::damaged(&rows::object(self.id), &error.to_string()))
    }
}

/// All stores as they are at one moment.
pub(crate) struct View<'a> {
    pub(crate) snapshot: Snapshot<'a>,
}

impl Ring {
    /// The stores as they are now.
    pub(crate) fn view(&self) -> View<'_> {
        View { snapshot: self.db.snapshot() }
    }
}

impl View<'_> {
    /// Sees to it that a store is whole. The row that says so is of the same moment as the others, so
    /// neither the beginning of a rebuild nor its end comes in between.
    pub(crate) fn check_whole(&self, shard: Shard) -> Result<(), StoresError> {
        match self.snapshot.get_pinned(rows::rebuilding(shard))? {
            Some(_) if !mutant!(ShowRebuilding) => Err(StoresError::Rebuilding(shard)),
            _ => Ok(()),
        }
    }

    pub(crate) fn latest(&self, namespace: NamespaceId, key: &str) -> Result<Option<StoredRecord>, StoresError> {
        let shard = Shard::of(Some(key), b"");
        self.check_whole(shard)?;
        let mut row = Vec::new();
        rows::latest(&mut row, shard, namespace, key.as_bytes());
        let Some(value) = self.snapshot.get_pinned(&row)? else { return Ok(None) };
        let counter = rows::counter(&value).ok_or_else(|| StoresError::damaged(&row, "it is not a counter"))?;
        self.known_object(ObjectId::new(shard, namespace, counter)).map(Some)
    }

    pub(crate) fn object(&self, id: ObjectId) -> Result<Option<StoredRecord>, StoresError> {
        self.check_whole(id.shard())?;
        self.get(id)
    }

    /// An object that another row names: it is there, or the store is damaged.
    pub(crate) fn known_object(&self, id: ObjectId) -> Result<StoredRecord, StoresError> {
        self.get(id)?.ok_or_else(|| StoresError::damaged(&rows::object(id), "it is missing"))
    }

    fn get(&self, id: ObjectId) -> Result<Option<StoredRecord>, StoresError> {
        Ok(self.snapshot.get(rows::object(id))?.map(|row| StoredRecord { id, row }))
    }
}
