//! Events of groups become changes of their rows.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use rocksdb::{DB, WriteBatch};
use wire::{Generation, NamespaceId};

use super::event::GroupEvent;
use super::kept::Kept;
use super::rows;
use crate::ledger::LedgerError;

/// The groups that some frames touch: as their rows are, and as they become.
#[derive(Debug, Default)]
pub(crate) struct Changes(BTreeMap<(NamespaceId, String), (Option<Kept>, Option<Kept>)>);

impl Changes {
    /// Takes in an event of a group of this namespace.
    pub(crate) fn take(
        &mut self,
        db: &DB,
        id: NamespaceId,
        generation: Generation,
        event: &[u8],
    ) -> Result<(), LedgerError> {
        let (name, event) = GroupEvent::decode(event)?;
        Kept::apply(self.group(db, id, name)?, generation, event);
        Ok(())
    }

    /// A namespace is deleted, and its groups with it.
    pub(crate) fn forget(&mut self, db: &DB, namespace: NamespaceId) -> Result<(), LedgerError> {
        if mutant!(KeepDeletedGroups) {
            return Ok(());
        }
        let prefix = rows::groups_of(namespace);
        let mut rows = db.raw_iterator();
        rows.seek(prefix);
        while let Some(key) = rows.key().filter(|key| key.starts_with(&prefix)) {
            self.group(db, namespace, &rows::name_in(key)?)?;
            rows.next();
        }
        rows.status()?;
        let of_it = self.0.iter_mut().filter(|((id, _), _)| *id == namespace);
        of_it.for_each(|(_, (_, now))| *now = None);
        Ok(())
    }

    /// Adds all of it to a batch.
    pub(crate) fn write(&mut self, batch: &mut WriteBatch) -> Result<(), LedgerError> {
        for ((namespace, name), (before, now)) in &mut self.0 {
            rows::write(batch, *namespace, name, before.as_ref(), now.as_mut())?;
        }
        Ok(())
    }

    /// A group as it is so far.
    fn group(&mut self, db: &DB, namespace: NamespaceId, name: &str) -> Result<&mut Option<Kept>, LedgerError> {
        match self.0.entry((namespace, name.to_owned())) {
            Entry::Occupied(known) => Ok(&mut known.into_mut().1),
            Entry::Vacant(new) => {
                let kept = rows::read(db, namespace, name)?;
                Ok(&mut new.insert((kept.clone(), kept)).1)
            }
        }
    }
}
