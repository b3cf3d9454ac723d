//! The sequencer: the one owner of a partition's order. It alone decides an offset.
//!
//! It takes whatever waits, gives each batch its place, makes all of it durable with one write and
//! one `fdatasync`, shows it to readers, and only then answers (invariant 1). While it syncs, the
//! next requests gather. What it answers may rest on frames of the same commit, so no answer leaves
//! before the commit is durable, not even a refusal.

use std::sync::Arc;

use bytes::Bytes;
use tracing::error;
use wire::{Draft, Frame, Generation, NamespaceConfig, NamespaceId, NamespaceName, Offset, Place, Position, Producer};

use crate::control::ControlEvent;
use crate::error::AppendError;
use crate::journal::Journal;
use crate::namespace::Namespace;
use crate::options::{Clock, Gather};
use crate::partition::{Shared, Watermark};
use crate::producer::{ProducerState, Verdict};
use crate::queue::{Append, Created, Noted, Queue, Reply, Request, Stored};
use crate::shared_frame::SharedFrame;
use crate::state::{ApplyError, State};

/// What one commit holds at most, bytes; a frame that is larger is committed alone.
const MAX_COMMIT_BYTES: u64 = 8 << 20;

/// The sequencer of a partition.
#[derive(Debug)]
pub(crate) struct Sequencer {
    pub(crate) state: State,
    pub(crate) journal: Box<dyn Journal>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) commit: Commit,
    /// What gathers before it goes to the rows.
    pub(crate) gather: Gather,
    /// The rows could not be written when that was due.
    pub(crate) rows_behind: bool,
}

/// Frames that have a place and are not yet durable, and the answers that wait for them.
#[derive(Debug, Default)]
pub(crate) struct Commit {
    frames: Vec<Arc<SharedFrame>>,
    bytes: u64,
    answers: Vec<Answer>,
}

/// An answer that waits for the commit.
#[derive(Debug)]
enum Answer {
    Append(Reply<Stored>, Result<Stored, AppendError>),
    Create(Reply<Created>, Result<Created, AppendError>),
    Delete(Reply<()>, Result<(), AppendError>),
    Event(Reply<Noted>, Result<Noted, AppendError>),
}

impl Answer {
    fn send(self) {
        // Whoever asked may have gone; what they asked for is done all the same.
        match self {
            Answer::Append(reply, result) => drop(reply.send(result)),
            Answer::Create(reply, result) => drop(reply.send(result)),
            Answer::Delete(reply, result) => drop(reply.send(result)),
            Answer::Event(reply, result) => drop(reply.send(result)),
        }
    }

    /// The same answer when the commit that it rested on has failed.
    fn failed(self, reason: &str) -> Answer {
        fn error<T>(result: &Result<T, AppendError>, reason: &str) -> AppendError {
            match result {
                Ok(_) => AppendError::WriteFailed(reason.to_owned()),
                Err(_) => AppendError::PartitionFailed(reason.to_owned()),
            }
        }
        match self {
            Answer::Append(reply, result) => Answer::Append(reply, Err(error(&result, reason))),
            Answer::Create(reply, result) => Answer::Create(reply, Err(error(&result, reason))),
            Answer::Delete(reply, result) => Answer::Delete(reply, Err(error(&result, reason))),
            Answer::Event(reply, result) => Answer::Event(reply, Err(error(&result, reason))),
        }
    }
}

impl Sequencer {
    /// Serves the queue until it is closed and empty.
    pub(crate) fn run(mut self, queue: &Queue) {
        let mut requests = Vec::new();
        while queue.take(&mut requests) {
            self.process(requests.drain(..));
        }
        self.write_gathered(Gather { rows: 0, bytes: 0 });
    }

    /// Serves what waits in the queue right now, if anything does.
    pub(crate) fn step(&mut self, queue: &Queue) -> bool {
        let mut requests = Vec::new();
        let any = queue.take_now(&mut requests);
        if any {
            self.process(requests.into_iter());
        }
        any
    }

    /// Serves requests in their order, in as few commits as their size allows.
    fn process(&mut self, requests: impl Iterator<Item = Request>) {
        if self.rows_behind {
            self.write_rows();
        }
        for request in requests {
            let answer = match request {
                Request::Append { namespace, append, reply } => Answer::Append(reply, self.append(&namespace, append)),
                Request::Create { name, config, reply } => Answer::Create(reply, self.create(name, config)),
                Request::Delete { namespace, reply } => Answer::Delete(reply, self.delete(&namespace)),
                Request::Event { id, generation, event, reply } => {
                    Answer::Event(reply, self.event(id, generation, event))
                }
            };
            self.commit.answers.push(answer);
        }
        self.commit();
    }

    fn append(&mut self, namespace: &Namespace, append: Append) -> Result<Stored, AppendError> {
        self.writable()?;
        let Append { draft, producer, if_next_offset } = append;
        let (generation, next_offset, has_ids) = match self.state.head(namespace.id())? {
            Some(head) => (head.generation, head.next_offset, head.has_ids_for(draft.record_count())),
            None => return Err(AppendError::NamespaceNotFound),
        };
        if generation != namespace.generation() {
            return Err(AppendError::NamespaceNotFound);
        }
        // A retry is recognised first: the condition on the offset held when the batch was stored.
        if let Some(producer) = &producer {
            let known = self.state.producer(namespace.id(), producer.id)?;
            if let Verdict::Duplicate(base_offset) = ProducerState::judge(known, producer)? {
                return Ok(Stored::Before(base_offset));
            }
        }
        if if_next_offset.is_some_and(|expected| expected != next_offset) && !mutant!(IgnoreCondition) {
            return Err(AppendError::OffsetMismatch { next_offset });
        }
        if !has_ids {
            return Err(AppendError::IdsExhausted);
        }
        self.place(namespace.id(), draft, producer).map(Stored::Now)
    }

    fn create(&mut self, name: NamespaceName, config: NamespaceConfig) -> Result<Created, AppendError> {
        self.writable()?;
        match self.state.namespace_named(&name)? {
            Some(namespace) if *namespace.config() == config => Ok(Created { namespace, new: false }),
            Some(_) => Err(AppendError::ConfigConflict),
            None => {
                let (id, generation) = self.state.next_id().ok_or(AppendError::IdsExhausted)?;
                self.place_event(&ControlEvent::Created { id, generation, name: name.clone(), config })?;
                Ok(Created { namespace: Namespace::new(id, generation, name, config), new: true })
            }
        }
    }

    fn delete(&mut self, namespace: &Namespace) -> Result<(), AppendError> {
        let (id, generation) = (namespace.id(), namespace.generation());
        self.existing(id, generation)?;
        self.place_event(&ControlEvent::Deleted { id, generation }).map(drop)
    }

    fn event(&mut self, id: NamespaceId, generation: Generation, event: Bytes) -> Result<Noted, AppendError> {
        let next_offset = self.existing(id, generation)?;
        let end = self.place_event(&ControlEvent::Consumers { id, generation, next_offset, event })?;
        Ok(Noted { next_offset, end })
    }

    /// The next offset of a namespace, if it exists and the partition takes writes.
    fn existing(&mut self, id: NamespaceId, generation: Generation) -> Result<Offset, AppendError> {
        self.writable()?;
        match self.state.head(id)? {
            Some(head) if head.generation == generation => Ok(head.next_offset),
            _ => Err(AppendError::NamespaceNotFound),
        }
    }

    fn writable(&self) -> Result<(), AppendError> {
        if let Some(reason) = self.shared.failure() {
            return Err(AppendError::PartitionFailed(reason.to_owned()));
        }
        if self.rows_behind {
            return Err(AppendError::StorageFull("the rows can't be written".to_owned()));
        }
        Ok(())
    }

    /// Places an event, and answers the position behind it.
    fn place_event(&mut self, event: &ControlEvent) -> Result<Position, AppendError> {
        let draft = event.draft().map_err(|error| AppendError::WriteFailed(error.to_string()))?;
        self.place(NamespaceId::CONTROL, draft, None).map(|frame| frame.end())
    }

    /// Gives a draft the next place of its namespace and of the partition.
    fn place(
        &mut self,
        namespace: NamespaceId,
        draft: Draft,
        producer: Option<Producer>,
    ) -> Result<Frame, AppendError> {
        self.make_room(draft.len() as u64)?;
        let position = self.state.end();
        let earliest = if mutant!(TimeGoesBack) { i64::MIN } else { self.state.last_time() };
        let time_micros = self.clock.now_micros().max(earliest);
        let head = self.state.head(namespace)?.ok_or(AppendError::NamespaceNotFound)?;
        if mutant!(RepeatIds) && self.commit.frames.is_empty() {
            head.counters = crate::head::Counters::default();
        }
        let place = Place {
            position,
            commit_start: position - self.commit.bytes,
            namespace,
            generation: head.generation,
            base_offset: head.next_offset,
            time_micros,
            producer,
            chain: head.chain,
        };
        let frame = draft.place(&place, |shard| head.counters.take(shard));
        if let Err(error) = self.state.apply(&frame) {
            return Err(self.fail(&error));
        }
        self.commit.bytes += frame.len() as u64;
        self.commit.frames.push(Arc::new(SharedFrame::new(frame.clone())));
        Ok(frame)
    }

    /// A frame that can't be applied has left the state half changed: nothing may rest on it.
    fn fail(&mut self, reason: &ApplyError) -> AppendError {
        let reason = reason.to_string();
        self.shared.fail(reason.clone());
        AppendError::WriteFailed(reason)
    }

    /// Sees to it that the commit can take a frame of this length: it must fit the segment, and no
    /// commit spans two.
    fn make_room(&mut self, bytes: u64) -> Result<(), AppendError> {
        let with = self.commit.bytes + bytes;
        if with <= self.journal.room() && (with <= MAX_COMMIT_BYTES || self.commit.frames.is_empty()) {
            return Ok(());
        }
        self.commit();
        self.writable()?;
        self.journal.make_room(bytes).map_err(|error| AppendError::StorageFull(error.to_string()))
    }

    /// Makes what has been placed durable, shows it, and answers.
    fn commit(&mut self) {
        let Commit { frames, bytes, answers } = std::mem::take(&mut self.commit);
        if let (Some(first), None) = (frames.first(), self.shared.failure()) {
            let watermark = Watermark { position: first.position() + bytes, records: self.state.records() };
            if mutant!(ShowBeforeSync) {
                self.shared.publish(&frames, self.state.moved_heads(), watermark);
            }
            if mutant!(RowsBeforeSync) {
                self.write_rows();
            }
            match self.journal.append(first.position(), &frames) {
                Ok(()) => {
                    if !mutant!(ShowBeforeSync) {
                        self.shared.publish(&frames, self.state.moved_heads(), watermark);
                    }
                    if self.state.has_new_names() {
                        self.write_rows();
                    }
                }
                Err(reason) => {
                    error!(partition = self.shared.id, %reason, "a write failed, the partition takes no more");
                    self.shared.fail(reason.to_string());
                }
            }
        }
        match self.shared.failure() {
            None => answers.into_iter().for_each(Answer::send),
            Some(reason) => answers.into_iter().for_each(|answer| answer.failed(reason).send()),
        }
        self.write_gathered(self.gather);
    }

    /// Writes the rows where so much has gathered. Of a partition that failed the state holds what is not durable.
    fn write_gathered(&mut self, gather: Gather) {
        if self.state.has_gathered(gather) && self.shared.failure().is_none() {
            self.write_rows();
        }
    }

    /// Writes the rows. Where that fails nothing is lost, they are but a view; but until it works
    /// again no append is taken, so that what waits in memory stays small.
    fn write_rows(&mut self) {
        let written = self.state.write();
        if let (Err(error), false) = (&written, self.rows_behind) {
            error!(partition = self.shared.id, %error, "the rows can't be written, appends wait until they can");
        }
        if written.is_ok() {
            self.shared.recent.write().rows_written();
        }
        self.rows_behind = written.is_err();
    }
}
