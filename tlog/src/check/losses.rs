//! Which records are lost in which hole, as far as that can be known, written down as losses that fill
//! the holes.
//!
//! What is missing of a namespace is learnt from its next frame, else from the rows, else from the index of
//! the segment or the damaged frames' own headers. Where only a bound is known the bound is taken: no
//! offset and no object id may ever be given twice. Where a namespace has several holes to choose from, an
//! index says which; without one the hole with the most room is taken, and readers see the same gap.

use std::collections::BTreeMap;

use bytes::Bytes;
use rustc_hash::FxHashMap;
use wire::limits::{MAX_FRAME_BYTES, SHARDS};
use wire::loss::{Known, MIN_LOSS_BYTES};
use wire::{Generation, Loss, NamespaceConfig, NamespaceId, NamespaceName, Offset, Position, Shard};

use super::ledger::{Gap, most_records};
use super::survey::{Hole, Stood, Survey};
use crate::control::ControlEvent;
use crate::error::ReadError;
use crate::head::Head;
use crate::rows::Rows;
use crate::state::FIRST_GENERATION;

/// Why what is lost can't be written down where it stood.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LossesError {
    #[error("what is lost at position {position} needs {need} bytes to say so, and had {have}")]
    NoRoom { position: Position, need: u64, have: u64 },
    #[error("no name could be made up for namespace {0}")]
    NoName(NamespaceId),
    #[error(transparent)]
    Rows(#[from] ReadError),
}

/// A partition's rows, which may know more than what is left of the log.
pub(crate) struct RowsOf<'a> {
    pub(crate) rows: &'a Rows,
    pub(crate) applied: Position,
    pub(crate) control: Head,
}

/// Records of one namespace that are lost in one hole.
#[derive(Debug)]
struct Share {
    namespace: NamespaceId,
    generation: Generation,
    from: Offset,
    to: Offset,
    known: Known,
    /// What would be known of its counters, where that has room.
    better: Option<Known>,
}

struct Plan<'a> {
    survey: &'a mut Survey,
    partition: u16,
    partitions: u16,
    rows: Option<RowsOf<'a>>,
    /// For each hole what is lost there; control first.
    shares: Vec<Vec<Share>>,
    /// For each hole the control records that are restored there.
    events: Vec<Vec<Bytes>>,
    /// For each hole whether control records may have stood in it.
    control: Vec<bool>,
}

/// The losses that fill each hole of a survey, in their order. It adds to the survey's gaps what the rows
/// know.
pub(crate) fn losses(
    survey: &mut Survey,
    (partition, partitions): (u16, u16),
    rows: Option<RowsOf<'_>>,
) -> Result<Vec<Vec<Loss>>, LossesError> {
    let count = survey.holes.len();
    let (shares, events) = survey.holes.iter().map(|_| (Vec::new(), Vec::new())).unzip();
    let mut plan = Plan { survey, partition, partitions, rows, shares, events, control: vec![false; count] };
    plan.ask_rows()?;
    plan.ask_holes();
    plan.control = (0..count).map(|hole| plan.says_control(hole)).collect();
    let gaps = std::mem::take(&mut plan.survey.ledger.gaps);
    // The last gap of a namespace is the one that what the rows have comes right behind.
    let last: FxHashMap<NamespaceId, usize> = gaps.iter().enumerate().map(|(at, gap)| (gap.namespace, at)).collect();
    for (at, gap) in gaps.iter().enumerate() {
        let first = plan.restore(gap)?;
        plan.share(gap, first, last.get(&gap.namespace) == Some(&at))?;
    }
    plan.refine();
    plan.fill()
}

fn gap(namespace: NamespaceId, before: Head, to: Option<Offset>, holes: std::ops::Range<usize>) -> Gap {
    let (generation, firsts) = (before.generation, BTreeMap::new());
    Gap { namespace, generation, before, to, holes, firsts, created: false, deleted: false }
}

impl Plan<'_> {
    /// Adds what the rows know of namespaces that have no frame behind the holes that the rows stand for.
    fn ask_rows(&mut self) -> Result<(), LossesError> {
        let Some(RowsOf { rows, applied, control }) = &self.rows else { return Ok(()) };
        let known = self.survey.holes.iter().take_while(|hole| hole.to <= *applied).count();
        let ledger = &mut self.survey.ledger;
        let mut gaps = Vec::new();
        let mut events = 0;
        let behind = ledger.left.iter().filter(|(_, left)| left.holes < known);
        for (id, left) in behind {
            let row = if *id == NamespaceId::CONTROL { Some(control.clone()) } else { rows.head(*id)? };
            let holes = left.holes..known;
            match row {
                None => {
                    events += 1;
                    gaps.push(Gap { deleted: true, ..gap(*id, left.head.clone(), None, holes) });
                }
                Some(row) if row.generation != left.head.generation || row.next_offset < left.head.next_offset => {
                    self.rows = None;
                    return Ok(());
                }
                Some(row) if row.next_offset == left.head.next_offset => {}
                Some(row) => gaps.push(gap(*id, left.head.clone(), Some(row.next_offset), holes)),
            }
        }
        rows.heads_of(self.partition, self.partitions, |id, head| {
            if known > 0 && !ledger.left.contains_key(&id) && !ledger.deleted.contains(&id) {
                events += 1;
                let before = Head::empty(head.generation);
                gaps.push(Gap { created: true, ..gap(id, before, Some(head.next_offset), 0..known) });
            }
        })?;
        let control = |gap: &&Gap| gap.namespace == NamespaceId::CONTROL;
        let missing = |gap: &Gap| gap.to.map_or(0, |to| to - gap.before.next_offset);
        if events > ledger.gaps.iter().chain(&gaps).filter(control).map(missing).sum::<u64>() {
            // So many events are not missing: these are the rows of another log.
            self.rows = None;
            return Ok(());
        }
        gaps.sort_by_key(|gap| gap.namespace);
        for gap in gaps {
            if gap.deleted {
                ledger.lose(gap.namespace);
                continue;
            }
            let (id, to) = (gap.namespace, gap.to);
            if gap.created {
                ledger.find(gap);
            } else {
                ledger.gaps.push(gap);
            }
            if let (Some(left), Some(to)) = (ledger.left.get_mut(&id), to) {
                (left.head.next_offset, left.holes) = (to, known);
            }
        }
        Ok(())
    }

    /// Adds what only the holes themselves tell: namespaces of which nothing comes behind.
    fn ask_holes(&mut self) {
        let count = self.survey.holes.len();
        let ledger = &mut self.survey.ledger;
        for (at, hole) in self.survey.holes.iter().enumerate() {
            for stood in hole.stood.as_deref().unwrap_or(&hole.hints) {
                let id = stood.namespace;
                match ledger.left.get_mut(&id) {
                    // What a damaged header says counts only where it continues what is left.
                    Some(left)
                        if left.holes <= at && (hole.stood.is_some() || stood.base_offset == left.head.next_offset) =>
                    {
                        left.holes = count;
                        ledger.gaps.push(gap(id, left.head.clone(), None, at..count));
                    }
                    None if hole.stood.is_some()
                        && id.partition(self.partitions) == self.partition
                        && !ledger.deleted.contains(&id) =>
                    {
                        let missing = Gap { created: true, ..gap(id, Head::empty(FIRST_GENERATION), None, 0..count) };
                        ledger.find(missing);
                        // This gap has all of it, also what stood in later frames.
                        if let Some(left) = ledger.left.get_mut(&id) {
                            left.holes = count;
                        }
                    }
                    _ => {}
                }
            }
        }
    }

    /// Room that is left in a hole.
    fn room(&self, hole: usize) -> u64 {
        let Hole { from, to, .. } = &self.survey.holes[hole];
        let events: usize = self.events[hole].iter().map(|event| 4 + event.len()).sum();
        let alone = if self.loses_control(hole) || self.events[hole].is_empty() { 0 } else { MIN_LOSS_BYTES };
        let taken: usize = self.shares[hole].iter().map(|share| share.known.loss_bytes()).sum();
        (to - from).saturating_sub((taken + events + alone) as u64)
    }

    fn loses_control(&self, hole: usize) -> bool {
        self.shares[hole].iter().any(|share| share.namespace == NamespaceId::CONTROL)
    }

    /// Bytes that one more event takes in a hole: the first one needs a loss around it.
    fn event_bytes(&self, hole: usize, event: &Bytes) -> u64 {
        let is_first = !self.loses_control(hole) && self.events[hole].is_empty();
        (4 + event.len() + if is_first { MIN_LOSS_BYTES } else { 0 }) as u64
    }

    fn roomiest(&self, holes: impl Iterator<Item = usize>) -> Option<usize> {
        // Of those with the same room the first.
        holes.max_by_key(|hole| (self.room(*hole), std::cmp::Reverse(*hole)))
    }

    /// Restores the event of a gap; says in which hole, so that no loss of the namespace comes before it.
    fn restore(&mut self, gap: &Gap) -> Result<usize, LossesError> {
        let event = if gap.created {
            self.creation(gap)?
        } else if gap.deleted {
            ControlEvent::Deleted { id: gap.namespace, generation: gap.generation }
        } else {
            return Ok(gap.holes.start);
        };
        let value = Bytes::from(event.encode_shortest());
        let said = |hole: &usize| self.control[*hole] && self.room(*hole) >= self.event_bytes(*hole, &value);
        let hole = gap.holes.clone().find(said).or_else(|| self.roomiest(gap.holes.clone()));
        let Some(hole) = hole else { return Ok(gap.holes.start) };
        // A name may be given again, so what was deleted comes before what was created.
        let at = if gap.deleted { 0 } else { self.events[hole].len() };
        self.events[hole].insert(at, value);
        Ok(hole)
    }

    /// Whether control records are known to have stood in a hole.
    fn says_control(&self, hole: usize) -> bool {
        let is_control = |stood: &Stood| stood.namespace == NamespaceId::CONTROL;
        match &self.survey.holes[hole].stood {
            Some(stood) => stood.iter().any(is_control),
            None => self
                .survey
                .ledger
                .gaps
                .iter()
                .any(|gap| gap.namespace == NamespaceId::CONTROL && gap.holes.contains(&hole)),
        }
    }

    /// The creation of a namespace, by the name that the rows have, or by one that says that it is lost.
    fn creation(&mut self, gap: &Gap) -> Result<ControlEvent, LossesError> {
        let (id, generation) = (gap.namespace, gap.generation);
        let row = match &self.rows {
            Some(of) => of.rows.namespace(id)?.filter(|row| row.generation() == generation),
            None => None,
        };
        let names = &self.survey.ledger.names;
        let is_free = |name: &NamespaceName| {
            name.partition(self.partitions) == self.partition && names.get(name).is_none_or(|other| *other == id)
        };
        let (name, config) = match row.filter(|row| is_free(row.name())) {
            Some(row) => (row.name().clone(), *row.config()),
            None => {
                let made_up = |n: u32| NamespaceName::new(&format!("lost-{}-{}", base36(id.get()), base36(n))).ok();
                let name = (0..).filter_map(made_up).find(is_free);
                (name.ok_or(LossesError::NoName(id))?, NamespaceConfig::default())
            }
        };
        self.survey.ledger.names.insert(name.clone(), id);
        if let Some(left) = self.survey.ledger.left.get_mut(&id) {
            left.name = Some(name.clone());
        }
        Ok(ControlEvent::Created { id, generation, name, config })
    }

    /// Divides what is missing of a namespace among the holes from `first` on.
    fn share(&mut self, gap: &Gap, first: usize, is_last: bool) -> Result<(), LossesError> {
        if gap.deleted {
            return Ok(());
        }
        let parts = self.parts(gap, first);
        let exact = match &self.rows {
            Some(of) if is_last && self.survey.holes[gap.holes.clone()].iter().all(|hole| hole.to <= of.applied) => {
                of.rows.head(gap.namespace)?.filter(|head| head.generation == gap.generation)
            }
            _ => None,
        };
        let mut head = gap.before.clone();
        let last = parts.len().saturating_sub(1);
        for (at, (hole, from, to)) in parts.into_iter().enumerate() {
            let unlisted = u32::try_from(to - from).unwrap_or(u32::MAX);
            let mut better = None;
            let known = if gap.namespace == NamespaceId::CONTROL {
                Known::nothing(gap.namespace)
            } else if at == last {
                better = Some(counters(&head, gap, exact.as_ref(), unlisted));
                Known::Counters { unlisted, listed: Vec::new() }
            } else {
                head.counters.add(unlisted);
                Known::Counters { unlisted, listed: Vec::new() }
            };
            let (namespace, generation) = (gap.namespace, gap.generation);
            self.shares[hole].push(Share { namespace, generation, from, to, known, better });
        }
        Ok(())
    }

    /// The parts of a gap: which offsets are lost in which hole, ascending.
    fn parts(&self, gap: &Gap, first: usize) -> Vec<(usize, Offset, Offset)> {
        let holes = first.max(gap.holes.start)..gap.holes.end;
        let mut cursor = gap.before.next_offset;
        let mut parts = Vec::new();
        let mut add = |hole: usize, from: Offset, to: Offset| {
            if from < to {
                parts.push((hole, from, to));
            }
        };
        // No more can be missing than the holes have room for: what a damaged header says beyond that is damage.
        let room = |hole: &Hole| most_records(hole.to - hole.from);
        let most = gap.before.next_offset.saturating_add(self.survey.holes[gap.holes.clone()].iter().map(room).sum());
        let of_this = |stood: &&Stood| {
            stood.namespace == gap.namespace && stood.next_offset > gap.before.next_offset && stood.next_offset <= most
        };
        // Holes where it is known to have stood: from which offset to which, at most.
        let marks: Vec<(usize, Offset, Offset)> = holes
            .clone()
            .filter_map(|at| {
                let hole = &self.survey.holes[at];
                let stood = match (&hole.stood, gap.to) {
                    (Some(stood), _) => stood,
                    (None, None) => &hole.hints,
                    (None, Some(_)) => return None,
                };
                let first = stood.iter().find(of_this)?.base_offset;
                let to = stood.iter().filter(of_this).map(|stood| stood.next_offset).max()?;
                Some((at, first, to))
            })
            .collect();
        let open = |at: &usize| self.survey.holes[*at].stood.is_none();
        let Some((first_mark, ..)) = marks.first().copied() else {
            let hole = self.roomiest(holes.clone().filter(open)).or_else(|| self.roomiest(holes));
            if let (Some(hole), Some(to)) = (hole, gap.to) {
                add(hole, cursor, to);
            }
            return parts;
        };
        // What is missing before the first mark.
        let start = marks[0].1.max(cursor);
        let hole = self.roomiest((holes.start..first_mark).filter(open)).unwrap_or(first_mark);
        add(hole, cursor, start);
        cursor = start;
        for (at, (hole, _, most)) in marks.iter().enumerate() {
            let next = marks.get(at + 1);
            let end = next.map_or(gap.to.unwrap_or(*most), |(_, start, _)| *start).max(cursor);
            let behind = hole + 1..next.map_or(holes.end, |(next, ..)| *next);
            match self.roomiest(behind.filter(open)) {
                Some(other) if *most < end => {
                    let middle = (*most).max(cursor);
                    add(*hole, cursor, middle);
                    add(other, middle, end);
                }
                _ => add(*hole, cursor, end),
            }
            cursor = end;
        }
        merged(parts)
    }

    /// Lists the counters that are known, the shortest lists first: those of what was lost in one place have
    /// room there.
    fn refine(&mut self) {
        for hole in 0..self.shares.len() {
            let mut order: Vec<usize> = (0..self.shares[hole].len()).collect();
            order.sort_by_key(|at| self.shares[hole][*at].better.as_ref().map(Known::loss_bytes));
            for at in order {
                let room = self.room(hole) as usize;
                let share = &mut self.shares[hole][at];
                let fits = |better: &mut Known| better.loss_bytes() <= share.known.loss_bytes() + room;
                if let Some(better) = share.better.take_if(fits) {
                    share.known = better;
                }
            }
        }
    }

    /// The losses of each hole: what is known of it, and all of its place filled.
    fn fill(mut self) -> Result<Vec<Vec<Loss>>, LossesError> {
        let mut control_next = 0;
        let mut filled = Vec::with_capacity(self.survey.holes.len());
        for (at, hole) in self.survey.holes.iter().enumerate() {
            control_next = hole.control_next.max(control_next);
            let events = std::mem::take(&mut self.events[at]);
            let mut shares = std::mem::take(&mut self.shares[at]);
            shares.sort_by_key(|share| (share.namespace, share.from));
            let control = shares.first_mut().filter(|share| share.namespace == NamespaceId::CONTROL);
            match control {
                Some(control) => {
                    control.known = Known::Events(events);
                    control_next = control.to;
                }
                None if !events.is_empty() => shares.insert(0, fill(control_next, events)),
                None => {}
            }
            filled.push(lay(hole, shares, control_next)?);
        }
        Ok(filled)
    }
}

/// What fills a place in the control namespace, and may restore events.
fn fill(control_next: Offset, events: Vec<Bytes>) -> Share {
    let (namespace, known) = (NamespaceId::CONTROL, Known::Events(events));
    Share { namespace, generation: 0, from: control_next, to: control_next, known, better: None }
}

/// Puts the losses of a hole one behind the other, so that they take all of it.
fn lay(hole: &Hole, mut shares: Vec<Share>, control_next: Offset) -> Result<Vec<Loss>, LossesError> {
    let have = hole.to - hole.from;
    let need = |shares: &[Share]| shares.iter().map(|share| share.known.loss_bytes() as u64).sum::<u64>();
    while shares.is_empty() || ((shares.len() * MAX_FRAME_BYTES) as u64) < have {
        shares.push(fill(control_next, Vec::new()));
    }
    let need = need(&shares);
    let mut rest = have.checked_sub(need).ok_or(LossesError::NoRoom { position: hole.from, need, have })?;
    let mut lengths: Vec<usize> = shares.iter().map(|share| share.known.loss_bytes()).collect();
    for length in lengths.iter_mut().rev() {
        let more = rest.min(MAX_FRAME_BYTES.saturating_sub(*length) as u64);
        *length += more as usize;
        rest -= more;
    }
    let mut position = hole.from;
    let mut losses = Vec::with_capacity(shares.len());
    for (share, length) in shares.into_iter().zip(lengths) {
        losses.push(Loss {
            position,
            length,
            namespace: share.namespace,
            generation: share.generation,
            base_offset: share.from,
            count: u32::try_from(share.to - share.from).unwrap_or(u32::MAX),
            time_micros: hole.time_micros.unwrap_or(0),
            known: share.known,
        });
        position += length as u64;
    }
    Ok(losses)
}

/// Where counters are behind a loss of `count` records, as far as that is known.
fn counters(head: &Head, gap: &Gap, exact: Option<&Head>, count: u32) -> Known {
    let behind = |shard: Shard| {
        let first = gap.firsts.get(&shard).map(|first| first - 1);
        first.or_else(|| exact.map(|exact| exact.counters.get(shard)))
    };
    let shards = (0..SHARDS as u32).map(|shard| Shard(shard as u8));
    let listed: Vec<(Shard, u32)> = shards
        .filter_map(|shard| behind(shard).map(|counter| (shard, counter)))
        .filter(|(shard, counter)| *counter != head.counters.get(*shard))
        .collect();
    let told = listed.iter().map(|(shard, counter)| counter.saturating_sub(head.counters.get(*shard)));
    let told = told.fold(0, u32::saturating_add);
    let unlisted = if exact.is_some() { 0 } else { count.saturating_sub(told) };
    Known::Counters { unlisted, listed }
}

fn merged(parts: Vec<(usize, Offset, Offset)>) -> Vec<(usize, Offset, Offset)> {
    let mut merged: Vec<(usize, Offset, Offset)> = Vec::new();
    for (hole, from, to) in parts {
        match merged.last_mut() {
            Some(last) if last.0 == hole && last.2 == from => last.2 = to,
            _ => merged.push((hole, from, to)),
        }
    }
    merged
}

fn base36(mut number: u32) -> String {
    let mut digits = Vec::new();
    loop {
        digits.push(b"0123456789abcdefghijklmnopqrstuvwxyz"[(number % 36) as usize]);
        number /= 36;
        if number == 0 {
            break;
        }
    }
    digits.iter().rev().map(|digit| char::from(*digit)).collect()
}
