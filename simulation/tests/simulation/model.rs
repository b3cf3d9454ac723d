//! What the log must be, as plain maps: written from the promises, without a look at how the log keeps
//! them. It predicts each answer, and takes in each frame only after holding it against all that it
//! knows.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use tlog::{AppendError, ControlEvent, Namespace};
use wire::{Frame, Kind, NamespaceConfig, NamespaceId, NamespaceName, Producer, ProducerId};

/// A record, as its publisher means it.
#[derive(Debug, Clone, PartialEq)]
pub struct Item {
    pub key: Option<String>,
    pub headers: Vec<(String, String)>,
    pub kind: Kind,
    pub value: Vec<u8>,
}

/// Something that is asked of the log. A namespace is named by its place in [`Model::namespaces`].
#[derive(Debug, Clone)]
pub enum Request {
    Append { namespace: usize, items: Arc<Vec<Item>>, producer: Option<Producer>, if_next_offset: Option<u64> },
    Create { name: NamespaceName, config: NamespaceConfig },
    Delete { namespace: usize },
}

/// What the log must do with a request.
#[derive(Debug)]
pub enum Verdict {
    Store,
    /// Stored before, from this offset on.
    Duplicate(u64),
    /// The namespace exists.
    Exists(usize),
    Refuse(AppendError),
}

/// Batches of a producer whose places the log must remember.
const REMEMBERED: u64 = 16;

#[derive(Debug, Clone, Default)]
pub struct ProducerModel {
    pub epoch: u32,
    /// Where each batch of the epoch is.
    pub base_offsets: Vec<u64>,
}

#[derive(Debug)]
pub struct NamespaceModel {
    pub handle: Namespace,
    pub live: bool,
    pub frames: Vec<Frame>,
    pub next_offset: u64,
    pub chain: [u8; 32],
    pub bytes: u64,
    pub producers: BTreeMap<ProducerId, ProducerModel>,
    counters: BTreeMap<u8, u32>,
}

#[derive(Debug, Default)]
pub struct PartitionModel {
    pub frames: Vec<Frame>,
    pub end: u64,
    pub records: u64,
    /// By the positions of their frames.
    pub deletes: BTreeMap<u64, NamespaceId>,
    last_time: i64,
    next_slot: u32,
    control_offset: u64,
    control_chain: [u8; 32],
}

#[derive(Debug)]
pub struct Model {
    pub partitions: Vec<PartitionModel>,
    pub namespaces: Vec<NamespaceModel>,
}

impl Model {
    pub fn new(partitions: u16) -> Model {
        let partition =
            |id| PartitionModel { next_slot: u32::from(id == 0), last_time: i64::MIN, ..PartitionModel::default() };
        Model { partitions: (0..partitions).map(partition).collect(), namespaces: Vec::new() }
    }

    fn count(&self) -> u16 {
        self.partitions.len() as u16
    }

    pub fn partition_of(&self, request: &Request) -> u16 {
        match request {
            Request::Append { namespace, .. } | Request::Delete { namespace } => {
                self.namespaces[*namespace].handle.id().partition(self.count())
            }
            Request::Create { name, .. } => name.partition(self.count()),
        }
    }

    pub fn live(&self) -> impl Iterator<Item = (usize, &NamespaceModel)> {
        self.namespaces.iter().enumerate().filter(|(_, namespace)| namespace.live)
    }

    /// What must come of a request that is served now.
    pub fn judge(&self, request: &Request) -> Verdict {
        match request {
            Request::Append { namespace, items, producer, if_next_offset } => {
                let namespace = &self.namespaces[*namespace];
                match refusal(namespace, items, producer.as_ref(), *if_next_offset) {
                    Ok(verdict) => verdict,
                    Err(error) => Verdict::Refuse(error),
                }
            }
            Request::Create { name, config } => {
                match self.live().find(|(_, namespace)| namespace.handle.name() == name) {
                    Some((at, namespace)) if namespace.handle.config() == config => Verdict::Exists(at),
                    Some(_) => Verdict::Refuse(AppendError::ConfigConflict),
                    None => Verdict::Store,
                }
            }
            Request::Delete { namespace } if self.namespaces[*namespace].live => Verdict::Store,
            Request::Delete { .. } => Verdict::Refuse(AppendError::NamespaceNotFound),
        }
    }

    /// Takes in the frame that a request became, once it is sure that it is the right one in the
    /// right place.
    pub fn accept(&mut self, partition: u16, request: &Request, frame: &Frame) -> Result<(), String> {
        let count = self.count();
        let state = &mut self.partitions[usize::from(partition)];
        state.follow(frame)?;
        match request {
            Request::Append { namespace, items, producer, .. } => {
                self.namespaces[*namespace].follow(frame, items, producer.as_ref())?;
            }
            Request::Create { name, config } => {
                let id = NamespaceId::new(state.next_slot * u32::from(count) + u32::from(partition)).unwrap();
                let event = ControlEvent::Created { id, generation: 1, name: name.clone(), config: *config };
                state.follow_control(frame, &event)?;
                state.next_slot += 1;
            }
            Request::Delete { namespace } => {
                let namespace = &mut self.namespaces[*namespace];
                let event =
                    ControlEvent::Deleted { id: namespace.handle.id(), generation: namespace.handle.generation() };
                state.follow_control(frame, &event)?;
                state.deletes.insert(frame.position(), namespace.handle.id());
                namespace.live = false;
            }
        }
        Ok(())
    }

    /// Takes in the frame of an event of a namespace's consumers, or of what lives in the partition.
    pub fn accept_event(
        &mut self,
        partition: u16,
        namespace: Option<usize>,
        event: Bytes,
        frame: &Frame,
    ) -> Result<(), String> {
        let state = &mut self.partitions[usize::from(partition)];
        let (id, generation, next_offset) = match namespace.map(|at| &self.namespaces[at]) {
            Some(NamespaceModel { handle, next_offset, .. }) => (handle.id(), handle.generation(), *next_offset),
            None => (NamespaceId::CONTROL, 0, state.control_offset),
        };
        state.follow(frame)?;
        state.follow_control(frame, &ControlEvent::Consumers { id, generation, next_offset, event })
    }

    /// Takes in the handle of a namespace whose creation was accepted.
    pub fn created(&mut self, handle: Namespace) {
        self.namespaces.push(NamespaceModel {
            handle,
            live: true,
            frames: Vec::new(),
            next_offset: 0,
            chain: [0; 32],
            bytes: 0,
            producers: BTreeMap::new(),
            counters: BTreeMap::new(),
        });
    }
}

fn refusal(
    namespace: &NamespaceModel,
    items: &[Item],
    producer: Option<&Producer>,
    if_next_offset: Option<u64>,
) -> Result<Verdict, AppendError> {
    let limit = namespace.handle.config().max_record_bytes;
    let size = |item: &Item| {
        let headers: usize = item.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
        item.key.as_ref().map_or(0, String::len) + headers + item.value.len()
    };
    let bytes = items.iter().map(size).max().unwrap_or(0);
    if (limit as usize) < wire::limits::MAX_RECORD_BYTES && bytes > limit as usize {
        return Err(AppendError::RecordTooLarge { bytes, limit });
    }
    if !namespace.live {
        return Err(AppendError::NamespaceNotFound);
    }
    if let Some(batch) = producer {
        let known = namespace.producers.get(&batch.id);
        let (epoch, next) = known.map_or((0, 0), |known| (known.epoch, known.base_offsets.len() as u64));
        if known.is_some() && batch.epoch < epoch {
            return Err(AppendError::ProducerFenced { epoch });
        }
        let due = if known.is_some() && batch.epoch == epoch { next } else { 0 };
        if batch.sequence > due {
            return Err(AppendError::ProducerGap { expected: due });
        }
        if batch.sequence < due {
            if due - batch.sequence > REMEMBERED {
                return Err(AppendError::ProducerForgotten { sequence: batch.sequence });
            }
            return Ok(Verdict::Duplicate(known.unwrap().base_offsets[batch.sequence as usize]));
        }
    }
    match if_next_offset {
        Some(expected) if expected != namespace.next_offset => {
            Err(AppendError::OffsetMismatch { next_offset: namespace.next_offset })
        }
        _ => Ok(Verdict::Store),
    }
}

fn must<T: PartialEq + std::fmt::Debug>(what: &str, found: &T, due: &T) -> Result<(), String> {
    if found == due { Ok(()) } else { Err(format!("{what} is {found:?} where {due:?} is due")) }
}

/// The chain as the format's document says: not by the code under test.
fn chain_after(before: &[u8; 32], frame: &Frame) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(before);
    hasher.update(&frame.bytes()[64..]);
    *hasher.finalize().as_bytes()
}

impl PartitionModel {
    fn follow(&mut self, frame: &Frame) -> Result<(), String> {
        must("a frame's position", &frame.position(), &self.end)?;
        if frame.time_micros() < self.last_time {
            return Err(format!("time goes back at position {}", self.end));
        }
        self.last_time = frame.time_micros();
        self.end = frame.end();
        self.records += u64::from(frame.record_count());
        self.frames.push(frame.clone());
        Ok(())
    }

    fn follow_control(&mut self, frame: &Frame, event: &ControlEvent) -> Result<(), String> {
        must("a control frame's namespace", &frame.namespace(), &NamespaceId::CONTROL)?;
        must("a control frame's offset", &frame.base_offset(), &self.control_offset)?;
        self.control_chain = chain_after(&self.control_chain, frame);
        must("the control chain", &frame.chain().0, &self.control_chain)?;
        self.control_offset = frame.next_offset();
        let events: Vec<_> = frame.records().map(|record| ControlEvent::decode(&record).unwrap()).collect();
        must("a control frame", &events, &vec![event.clone()])
    }
}

impl NamespaceModel {
    fn follow(&mut self, frame: &Frame, items: &[Item], producer: Option<&Producer>) -> Result<(), String> {
        must("a frame's namespace", &frame.namespace(), &self.handle.id())?;
        must("a frame's generation", &frame.generation(), &self.handle.generation())?;
        must("a frame's offset", &frame.base_offset(), &self.next_offset)?;
        must("a frame's producer", &frame.producer().as_ref(), &producer)?;
        must("a frame's count of records", &(frame.record_count() as usize), &items.len())?;
        for (record, item) in frame.records().zip(items) {
            must("a record's offset", &record.offset, &self.next_offset)?;
            self.next_offset += 1;
            let content = item.key.as_ref().map_or(&item.value[..], |key| key.as_bytes());
            let shard = blake3::hash(content).as_bytes()[0];
            let counter = self.counters.entry(shard).or_insert(0);
            *counter += 1;
            must("a record's shard", &record.id.shard().0, &shard)?;
            must("a record's counter", &record.id.counter(), counter)?;
            let headers = record.headers.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
            let key = record.key.map(str::to_owned);
            let found = Item { key, headers, kind: record.kind, value: record.value.to_vec() };
            must("a record", &found, item)?;
        }
        self.chain = chain_after(&self.chain, frame);
        must("a frame's chain", &frame.chain().0, &self.chain)?;
        self.bytes += frame.len() as u64;
        self.frames.push(frame.clone());
        if let Some(batch) = producer {
            let known = self.producers.entry(batch.id).or_default();
            if known.epoch != batch.epoch {
                *known = ProducerModel { epoch: batch.epoch, base_offsets: Vec::new() };
            }
            must("a producer's sequence", &batch.sequence, &(known.base_offsets.len() as u64))?;
            known.base_offsets.push(frame.base_offset());
        }
        Ok(())
    }

    /// The frames that a reader at `offset` must get, in order.
    pub fn frames_from(&self, offset: u64) -> &[Frame] {
        let first = self.frames.partition_point(|frame| frame.next_offset() <= offset);
        &self.frames[first..]
    }
}
