//! Reads of one store: the latest record of a key, a record by its id.

use rocksdb::{DBPinnableSlice, Snapshot};
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

/// A read was not answered: it has to wait for the disk, or to look at its store more closely. Who may wait asks
/// again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("what was asked for is not all in memory")]
pub struct NotInMemory;

/// All stores as they are at one moment.
pub(crate) struct View<'a> {
    pub(crate) snapshot: Snapshot<'a>,
}

impl Ring {
    /// The stores as they are now.
    pub(crate) fn view(&self) -> View<'_> {
        View { snapshot: self.db.snapshot() }
    }

    /// The latest record of a key, of rows that are in memory: see [`crate::stores::whole`]. Whatever is not as it
    /// should be is left to the view, where all rows are of one moment. It may be nothing: between the key's row and the
    /// object its namespace may have come to its end.
    pub(crate) fn latest_in_memory(
        &self,
        namespace: NamespaceId,
        key: &str,
    ) -> Result<Option<StoredRecord>, NotInMemory> {
        let shard = Shard::of(Some(key), b"");
        let read = || latest(|row| self.db.get_in_memory(row), shard, namespace, key).ok();
        self.whole(shard).throughout(read).ok_or(NotInMemory)
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
        latest(|row| self.snapshot.get_pinned(row), shard, namespace, key)
    }

    pub(crate) fn object(&self, id: ObjectId) -> Result<Option<StoredRecord>, StoresError> {
        self.check_whole(id.shard())?;
        Ok(self.snapshot.get(rows::object(id))?.map(|row| StoredRecord { id, row }))
    }

    /// An object that another row names.
    pub(crate) fn known_object(&self, id: ObjectId) -> Result<StoredRecord, StoresError> {
        known_object(|row| self.snapshot.get_pinned(row), id)
    }
}

type Found<'a> = Result<Option<DBPinnableSlice<'a>>, rocksdb::Error>;

/// The latest record of a key: the object that the key's row names.
fn latest<'a>(
    get: impl Fn(&[u8]) -> Found<'a>,
    shard: Shard,
    namespace: NamespaceId,
    key: &str,
) -> Result<Option<StoredRecord>, StoresError> {
    let mut row = Vec::new();
    rows::latest(&mut row, shard, namespace, key.as_bytes());
    let Some(value) = get(&row)? else { return Ok(None) };
    let counter = rows::counter(&value).ok_or_else(|| StoresError::damaged(&row, "it is not a counter"))?;
    known_object(get, ObjectId::new(shard, namespace, counter)).map(Some)
}

/// An object that another row names: it is there, or the store is damaged.
fn known_object<'a>(get: impl Fn(&[u8]) -> Found<'a>, id: ObjectId) -> Result<StoredRecord, StoresError> {
    match get(&rows::object(id))? {
        Some(row) => Ok(StoredRecord { id, row: row.to_vec() }),
        None => Err(StoresError::damaged(&rows::object(id), "it is missing")),
    }
}
