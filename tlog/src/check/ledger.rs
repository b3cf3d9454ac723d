//! What the frames of a damaged partition amount to: every namespace as far as it is left, and the gaps in
//! it. A frame is believed where it follows from those before it, or where a hole explains why it does not.

use std::collections::BTreeMap;
use std::ops::Range;

use rustc_hash::{FxHashMap, FxHashSet};
use wire::frame::HEADER_BYTES;
use wire::record::RECORD_HEADER_BYTES;
use wire::{Frame, Generation, NamespaceId, NamespaceName, Offset, Position, Shard};

use crate::control::ControlEvent;
use crate::head::Head;

/// Records of a namespace that are not there, or an event of it that is not.
#[derive(Debug, Clone)]
pub(crate) struct Gap {
    pub(crate) namespace: NamespaceId,
    pub(crate) generation: Generation,
    /// The namespace before it.
    pub(crate) before: Head,
    /// The first offset behind it; nothing where that can't be known from frames or rows.
    pub(crate) to: Option<Offset>,
    /// The holes in which it may lie.
    pub(crate) holes: Range<usize>,
    /// The first counter of each shard that has records behind it.
    pub(crate) firsts: BTreeMap<Shard, u32>,
    /// That the namespace was created is lost as well.
    pub(crate) created: bool,
    /// That the namespace was deleted is lost.
    pub(crate) deleted: bool,
}

/// A namespace, as far as it is left.
#[derive(Debug)]
pub(crate) struct Left {
    pub(crate) head: Head,
    pub(crate) name: Option<NamespaceName>,
    /// How many holes there were before its last frame.
    pub(crate) holes: usize,
    /// The last gap in it: counters of shards that it has not had since are not known.
    gap: Option<usize>,
}

/// The namespaces of a partition. In memory, all of them.
#[derive(Debug)]
pub(crate) struct Ledger {
    partition: u16,
    partitions: u16,
    pub(crate) left: FxHashMap<NamespaceId, Left>,
    pub(crate) names: FxHashMap<NamespaceName, NamespaceId>,
    /// Those that were deleted behind a hole.
    pub(crate) deleted: FxHashSet<NamespaceId>,
    pub(crate) gaps: Vec<Gap>,
    pub(crate) last_time: Option<i64>,
    /// Where each hole begins and ends. The last one may still be open: it ends where it begins.
    holes: Vec<Range<Position>>,
}

/// How many records a hole of so many bytes can have held, at most.
pub(crate) fn most_records(bytes: u64) -> u64 {
    bytes.saturating_sub(HEADER_BYTES as u64) / RECORD_HEADER_BYTES as u64
}

impl Ledger {
    pub(crate) fn new(partition: u16, partitions: u16) -> Ledger {
        let control = Left { head: Head::empty(0), name: None, holes: 0, gap: None };
        Ledger {
            partition,
            partitions,
            left: [(NamespaceId::CONTROL, control)].into_iter().collect(),
            names: FxHashMap::default(),
            deleted: FxHashSet::default(),
            gaps: Vec::new(),
            last_time: None,
            holes: Vec::new(),
        }
    }

    /// A hole begins at a position.
    pub(crate) fn open_hole(&mut self, from: Position) {
        self.holes.push(from..from);
    }

    /// The hole that was opened last ends at a position.
    pub(crate) fn close_hole(&mut self, to: Position) {
        if let Some(hole) = self.holes.last_mut() {
            hole.end = to;
        }
    }

    /// The offset of the next control record, as far as is known.
    pub(crate) fn control_next(&self) -> Offset {
        self.left.get(&NamespaceId::CONTROL).map_or(0, |control| control.head.next_offset)
    }

    /// Why a frame is not to be believed, if it is not.
    pub(crate) fn judge(&self, frame: &Frame) -> Option<String> {
        let id = frame.namespace();
        if id != NamespaceId::CONTROL && id.partition(self.partitions) != self.partition {
            return Some(format!("namespace {id} is of another partition"));
        }
        match self.left.get(&id) {
            None if self.holes.is_empty() => Some(format!("namespace {id} does not exist")),
            None => self.judge_jump(frame, &Head::empty(frame.generation()), 0),
            Some(left) if frame.base_offset() > left.head.next_offset && left.holes < self.holes.len() => {
                self.judge_jump(frame, &left.head, left.holes)
            }
            Some(left) => {
                let unsure = |shard| left.gap.is_some_and(|gap| !self.gaps[gap].firsts.contains_key(&shard));
                left.head.contradiction_where(frame, unsure)
            }
        }
        .or_else(|| self.judge_events(frame))
    }

    /// Whether the holes explain that offsets are missing.
    fn judge_jump(&self, frame: &Frame, before: &Head, holes: usize) -> Option<String> {
        if frame.generation() != before.generation {
            return Some(format!("generation {} in a namespace of {}", frame.generation(), before.generation));
        }
        let room: u64 = self.holes[holes..]
            .iter()
            .map(|hole| if hole.is_empty() { frame.position() - hole.start } else { hole.end - hole.start })
            .map(most_records)
            .sum();
        let missing = frame.base_offset() - before.next_offset;
        (missing > room).then(|| format!("{missing} records are missing before it, at most {room} are lost"))
    }

    fn judge_events(&self, frame: &Frame) -> Option<String> {
        if frame.namespace() != NamespaceId::CONTROL {
            return None;
        }
        let damaged = !self.holes.is_empty();
        ControlEvent::all_in(frame).find_map(|event| match event {
            Ok(ControlEvent::Created { id, name, .. }) => {
                if id == NamespaceId::CONTROL || id.partition(self.partitions) != self.partition {
                    Some(format!("namespace {id} is created, which is of another partition"))
                } else if self.left.contains_key(&id) {
                    Some(format!("namespace {id} is created and exists"))
                } else if self.names.contains_key(&name) && !damaged {
                    Some(format!("namespace {name} is created and exists"))
                } else {
                    None
                }
            }
            Ok(ControlEvent::Deleted { id, generation }) => match self.left.get(&id) {
                Some(left) if left.head.generation == generation => None,
                None if damaged => None,
                _ => Some(format!("namespace {id} is deleted and does not exist")),
            },
            Ok(ControlEvent::Consumers { .. }) => None,
            Err(error) => Some(error.to_string()),
        })
    }

    /// Takes in a frame that is believed.
    pub(crate) fn take(&mut self, frame: &Frame) {
        let (id, holes) = (frame.namespace(), self.holes.len());
        let created = !self.left.contains_key(&id);
        if created {
            self.find(self.creation(id, frame.generation()));
        }
        let Some(left) = self.left.get_mut(&id) else { return };
        if frame.base_offset() > left.head.next_offset {
            let gap = Gap {
                namespace: id,
                generation: frame.generation(),
                before: left.head.clone(),
                to: Some(frame.base_offset()),
                holes: left.holes..holes,
                firsts: BTreeMap::new(),
                created,
                deleted: false,
            };
            if created {
                // One gap says both.
                self.gaps.pop();
            }
            left.gap = Some(self.gaps.len());
            self.gaps.push(gap);
        }
        if let Some(gap) = left.gap {
            for record in frame.records() {
                self.gaps[gap].firsts.entry(record.id.shard()).or_insert(record.id.counter());
            }
        }
        left.head.advance(frame);
        left.holes = holes;
        self.last_time = Some(frame.time_micros());
        if id == NamespaceId::CONTROL {
            ControlEvent::all_in(frame).flatten().for_each(|event| self.take_event(event));
        }
    }

    /// Takes in that a namespace exists whose creation is lost.
    pub(crate) fn find(&mut self, gap: Gap) {
        let head = Head::empty(gap.generation);
        let left = Left { head, name: None, holes: gap.holes.start, gap: Some(self.gaps.len()) };
        self.left.insert(gap.namespace, left);
        self.gaps.push(gap);
    }

    /// That a namespace was created in one of the holes so far.
    fn creation(&self, namespace: NamespaceId, generation: Generation) -> Gap {
        Gap {
            namespace,
            generation,
            before: Head::empty(generation),
            to: Some(0),
            holes: 0..self.holes.len(),
            firsts: BTreeMap::new(),
            created: true,
            deleted: false,
        }
    }

    fn take_event(&mut self, event: ControlEvent) {
        let holes = self.holes.len();
        match event {
            ControlEvent::Created { id, generation, name, .. } => {
                if let Some(other) = self.names.insert(name.clone(), id) {
                    // It has been deleted since, where nothing is left of it.
                    self.lose(other);
                }
                let left = Left { head: Head::empty(generation), name: Some(name), holes, gap: None };
                self.left.insert(id, left);
            }
            ControlEvent::Consumers { .. } => {}
            ControlEvent::Deleted { id, generation } => {
                if !self.left.contains_key(&id) {
                    self.find(self.creation(id, generation));
                }
                if let Some(name) = self.left.remove(&id).and_then(|left| left.name) {
                    self.names.remove(&name);
                }
                if holes > 0 {
                    self.deleted.insert(id);
                }
            }
        }
    }

    /// Takes in that a namespace was deleted in one of the holes since its last frame.
    pub(crate) fn lose(&mut self, id: NamespaceId) {
        let Some(left) = self.left.remove(&id) else { return };
        let gap = Gap {
            namespace: id,
            generation: left.head.generation,
            to: Some(left.head.next_offset),
            before: left.head,
            holes: left.holes..self.holes.len(),
            firsts: BTreeMap::new(),
            created: false,
            deleted: true,
        };
        self.gaps.push(gap);
        self.deleted.insert(id);
    }
}
