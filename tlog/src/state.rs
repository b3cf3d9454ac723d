//! What a partition's frames amount to: heads, producers and names, as of the last frame applied.
//!
//! State is a pure function of the frames before it, and [`State::apply`] is that function. The
//! sequencer applies the frames that it places, recovery those that it finds; nothing else changes
//! state. Changes gather in memory over several commits and go to the rows as one batch, with the
//! position that they stand for: a head that moves often is written once for many frames.

use std::sync::Arc;

use quick_cache::Weighter;
use quick_cache::unsync::Cache;
use rustc_hash::FxHashMap;
use wire::{Frame, NamespaceId, NamespaceName, Position, Producer, ProducerId};

use crate::control::{ControlError, ControlEvent};
use crate::error::ReadError;
use crate::head::Head;
use crate::namespace::Namespace;
use crate::options::Gather;
use crate::producer::ProducerState;
use crate::rows::{PartitionRow, RowBatch, Rows};

/// First generation of a namespace id. No slot is given out again yet: nothing trims records.
pub(crate) const FIRST_GENERATION: u32 = 1;

/// What gathers where the frames of a log are applied one after the other, and nobody waits for the rows.
pub(crate) const REPLAY_GATHER: Gather = Gather { rows: 4096, bytes: 64 << 20 };

/// Producers per partition that are kept in memory.
const CACHED_PRODUCERS: usize = 4096;

#[derive(Debug, Clone, Copy)]
struct HeadWeight;

impl Weighter<NamespaceId, Head> for HeadWeight {
    fn weight(&self, _: &NamespaceId, head: &Head) -> u64 {
        head.weight()
    }
}

/// The state of one partition.
#[derive(Debug)]
pub(crate) struct State {
    partition: u16,
    partitions: u16,
    rows: Arc<Rows>,
    row: PartitionRow,
    /// The rows stand for all frames before this position.
    written: Position,
    heads: Cache<NamespaceId, Head, HeadWeight>,
    producers: Cache<(NamespaceId, ProducerId), ProducerState>,
    changes: Changes,
    /// Namespaces whose heads have moved since they were last shown.
    moved: Vec<NamespaceId>,
}

/// What the rows do not yet have. `None` stands for what is deleted.
#[derive(Debug, Default)]
struct Changes {
    heads: FxHashMap<NamespaceId, Option<Head>>,
    producers: FxHashMap<(NamespaceId, ProducerId), ProducerState>,
    names: FxHashMap<NamespaceName, Option<Namespace>>,
    deleted: Vec<Namespace>,
}

/// Why a frame can't be applied.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApplyError {
    #[error("{0}")]
    Contradiction(String),
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error(transparent)]
    Read(#[from] ReadError),
}

impl State {
    /// The state that the rows stand for.
    pub(crate) fn load(
        partition: u16,
        partitions: u16,
        rows: Arc<Rows>,
        head_cache_bytes: usize,
    ) -> Result<State, ReadError> {
        let row = rows.partition(partition)?.unwrap_or_else(|| PartitionRow::new(partition));
        let estimated_heads = head_cache_bytes / 512;
        Ok(State {
            partition,
            partitions,
            rows,
            written: row.applied,
            row,
            heads: Cache::with_weighter(estimated_heads, head_cache_bytes as u64, HeadWeight),
            producers: Cache::new(CACHED_PRODUCERS),
            changes: Changes::default(),
            moved: Vec::new(),
        })
    }

    /// The position behind the last frame applied.
    pub(crate) fn end(&self) -> Position {
        self.row.applied
    }

    /// Records in all frames applied.
    pub(crate) fn records(&self) -> u64 {
        self.row.records
    }

    /// The time of the last frame applied: no later one has an earlier time.
    pub(crate) fn last_time(&self) -> i64 {
        self.row.last_time
    }

    /// The head of a namespace, to be read or advanced; nothing where it does not exist.
    pub(crate) fn head(&mut self, namespace: NamespaceId) -> Result<Option<&mut Head>, ReadError> {
        if namespace == NamespaceId::CONTROL {
            return Ok(Some(&mut self.row.control));
        }
        let head = match self.changes.heads.entry(namespace) {
            std::collections::hash_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::hash_map::Entry::Vacant(entry) => {
                // It moves out of the cache, and back in once the rows have it.
                let head = match self.heads.remove(&namespace) {
                    Some((_, head)) => Some(head),
                    None => self.rows.head(namespace)?,
                };
                match head {
                    Some(head) => entry.insert(Some(head)),
                    None => return Ok(None),
                }
            }
        };
        Ok(head.as_mut())
    }

    /// A producer's state in a namespace.
    pub(crate) fn producer(
        &mut self,
        namespace: NamespaceId,
        id: ProducerId,
    ) -> Result<Option<&ProducerState>, ReadError> {
        let key = (namespace, id);
        if self.changes.producers.contains_key(&key) {
            return Ok(self.changes.producers.get(&key));
        }
        if self.producers.peek(&key).is_none() {
            let Some(state) = self.rows.producer(namespace, id)? else { return Ok(None) };
            self.producers.insert(key, state);
        }
        Ok(self.producers.get(&key))
    }

    /// A namespace by its name.
    pub(crate) fn namespace_named(&self, name: &str) -> Result<Option<Namespace>, ReadError> {
        match self.changes.names.get(name) {
            Some(namespace) => Ok(namespace.clone()),
            None => self.rows.namespace_named(name),
        }
    }

    /// The id and generation that the next namespace gets; nothing where none is left.
    pub(crate) fn next_id(&self) -> Option<(NamespaceId, u32)> {
        let id = self.row.next_slot.checked_mul(u32::from(self.partitions))?.checked_add(u32::from(self.partition))?;
        Some((NamespaceId::new(id)?, FIRST_GENERATION))
    }

    /// What a frame says that does not follow from the state, if anything does not.
    ///
    /// What the sequencer placed follows by construction; recovery asks before it applies.
    pub(crate) fn contradiction(&mut self, frame: &Frame) -> Result<Option<String>, ReadError> {
        if frame.position() != self.row.applied {
            return Ok(Some(format!("position {} where {} is due", frame.position(), self.row.applied)));
        }
        match self.head(frame.namespace())? {
            Some(head) => Ok(head.contradiction(frame)),
            None => Ok(Some(format!("namespace {} does not exist", frame.namespace()))),
        }
    }

    /// Takes in the next frame of the partition.
    pub(crate) fn apply(&mut self, frame: &Frame) -> Result<(), ApplyError> {
        let namespace = frame.namespace();
        let missing = || ApplyError::Contradiction(format!("namespace {namespace} does not exist"));
        self.head(namespace)?.ok_or_else(missing)?.advance(frame);
        if namespace == NamespaceId::CONTROL {
            for event in ControlEvent::all_in(frame) {
                self.apply_event(event?)?;
            }
        }
        if let Some(producer) = frame.producer() {
            self.apply_producer(namespace, &producer, frame)?;
        }
        self.move_head(namespace);
        self.row.applied = frame.end();
        self.row.records += u64::from(frame.record_count());
        self.row.last_time = frame.time_micros();
        Ok(())
    }

    fn apply_event(&mut self, event: ControlEvent) -> Result<(), ApplyError> {
        match event {
            ControlEvent::Created { id, generation, name, config } => {
                if self.head(id)?.is_some() {
                    let reason = format!("namespace {id} is created and exists");
                    return Err(ApplyError::Contradiction(reason));
                }
                self.row.next_slot = self.row.next_slot.max(id.get() / u32::from(self.partitions) + 1);
                self.changes.heads.insert(id, Some(Head::empty(generation)));
                self.move_head(id);
                let namespace = Namespace::new(id, generation, name.clone(), config);
                self.changes.names.insert(name, Some(namespace));
            }
            // What they amount to is theirs to know.
            ControlEvent::Consumers { .. } => {}
            ControlEvent::Deleted { id, generation } => {
                let missing = || ApplyError::Contradiction(format!("namespace {id} is deleted and does not exist"));
                if self.head(id)?.is_none() || id == NamespaceId::CONTROL {
                    return Err(missing());
                }
                let created_now = self.changes.names.values().flatten().find(|namespace| namespace.id() == id);
                let namespace = match created_now {
                    Some(namespace) => namespace.clone(),
                    None => self.rows.namespace(id)?.ok_or_else(missing)?,
                };
                if namespace.generation() != generation {
                    let reason = format!("generation {generation} of namespace {id} is deleted and does not exist");
                    return Err(ApplyError::Contradiction(reason));
                }
                self.heads.remove(&id);
                self.changes.heads.insert(id, None);
                self.changes.producers.retain(|(namespace, _), _| *namespace != id);
                self.changes.names.insert(namespace.name().clone(), None);
                self.changes.deleted.push(namespace);
            }
        }
        Ok(())
    }

    fn apply_producer(&mut self, namespace: NamespaceId, batch: &Producer, frame: &Frame) -> Result<(), ReadError> {
        let key = (namespace, batch.id);
        if !self.changes.producers.contains_key(&key) {
            let state = match self.producers.remove(&key) {
                Some((_, state)) => state,
                None => self.rows.producer(namespace, batch.id)?.unwrap_or_default(),
            };
            self.changes.producers.insert(key, state);
        }
        if let Some(state) = self.changes.producers.get_mut(&key) {
            state.advance(batch, frame.base_offset());
        }
        Ok(())
    }

    fn move_head(&mut self, namespace: NamespaceId) {
        // Frames that stand together are often of one namespace.
        if self.moved.last() != Some(&namespace) {
            self.moved.push(namespace);
        }
    }

    /// The heads that have moved since the last call, as readers see them.
    pub(crate) fn moved_heads(&mut self) -> impl Iterator<Item = (NamespaceId, Head)> {
        let heads = &self.changes.heads;
        self.moved.drain(..).filter_map(|namespace| Some((namespace, heads.get(&namespace)?.as_ref()?.seen())))
    }

    /// Whether a namespace was created or deleted that the rows do not say so of. Readers learn it from
    /// nowhere else.
    pub(crate) fn has_new_names(&self) -> bool {
        !self.changes.names.is_empty()
    }

    /// Whether as much has gathered as is to; nothing at all never has.
    pub(crate) fn has_gathered(&self, gather: Gather) -> bool {
        // A head that was only looked at, for an append that was refused, is kept there too and counts: it takes memory.
        let rows = self.changes.heads.len() + self.changes.producers.len();
        let bytes = self.row.applied - self.written;
        (rows > 0 && rows >= gather.rows) || (bytes > 0 && bytes >= gather.bytes)
    }

    /// Writes what has changed to the rows, as one batch with the position that it stands for.
    /// After an error everything is kept, and the next call tries again.
    pub(crate) fn write(&mut self) -> Result<(), ReadError> {
        let mut batch = RowBatch::default();
        // What was deleted goes first: its name may have been created again since.
        for namespace in &self.changes.deleted {
            batch.delete_namespace(namespace);
        }
        for namespace in self.changes.names.values().flatten() {
            batch.put_namespace(namespace);
        }
        // In the order of their keys, each finds its place near that of the one before.
        let heads = self.changes.heads.iter().filter_map(|(namespace, head)| Some((*namespace, head.as_ref()?)));
        let mut heads: Vec<(NamespaceId, &Head)> = heads.collect();
        heads.sort_unstable_by_key(|(namespace, _)| *namespace);
        heads.into_iter().for_each(|(namespace, head)| batch.put_head(namespace, head));
        for ((namespace, id), state) in &self.changes.producers {
            if !mutant!(ForgetProducers) {
                batch.put_producer(*namespace, *id, state);
            }
        }
        batch.put_partition(self.partition, &self.row);
        if self.changes.deleted.is_empty() {
            self.rows.write(batch)?;
        } else {
            self.rows.write_deleting(batch)?;
        }
        for (namespace, head) in self.changes.heads.drain() {
            if let Some(head) = head {
                self.heads.insert(namespace, head);
            }
        }
        for (key, state) in self.changes.producers.drain() {
            self.producers.insert(key, state);
        }
        self.changes.names.clear();
        self.changes.deleted.clear();
        self.written = self.row.applied;
        // Nobody is shown what recovery applies.
        self.moved.clear();
        Ok(())
    }
}
