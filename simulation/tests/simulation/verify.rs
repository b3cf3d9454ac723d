//! What a run's log says and holds, against the model.

use std::sync::Arc;

use tlog::{AppendError, ReadError};
use wire::Frame;

use crate::durable;
use crate::model::{Request, Verdict};
use crate::world::{Answer, Answered, World, broken};

impl World {
    /// Holds the frames that are new in a partition against the answers, in their order. After a
    /// restart the doubtful are resolved too.
    pub fn verify(&mut self, partition: u16, restarted: bool) {
        let at = usize::from(partition);
        let begin = self.model.partitions[at].frames.len();
        let found = self.calm(|world| world.scan(partition, world.model.partitions[at].end));
        let mut found = found.into_iter().peekable();
        while let Some(answered) = self.answered[at].pop_front() {
            self.take_ledger_frames(partition, &mut found);
            self.judge_answer(partition, &answered, &mut found);
        }
        self.take_ledger_frames(partition, &mut found);
        if restarted {
            self.failed[at] = false;
            for request in std::mem::take(&mut self.doubtful[at]) {
                if found.peek().is_none() {
                    break;
                }
                if let (Verdict::Store, Some(frame)) = (self.model.judge(&request), found.peek()) {
                    self.accept(partition, &request, &frame.clone());
                    found.next();
                    self.take_ledger_frames(partition, &mut found);
                }
            }
            if let Some(frame) = found.next() {
                broken!("partition {partition} has a frame at {} that nobody asked for", frame.position());
            }
        }
        if let Some(frame) = found.next() {
            broken!("partition {partition} has a frame at {} that was not acked", frame.position());
        }
        let state = &self.model.partitions[at];
        let watermark = *self.process.as_ref().unwrap().log.watermark(partition).borrow();
        if (watermark.position, watermark.records) != (state.end, state.records) {
            broken!("the watermark of partition {partition} is {watermark:?}, it must be at {}", state.end);
        }
        durable::check(&self.storage, &self.dir, partition, &state.frames[begin..]);
    }

    fn scan(&self, partition: u16, from: u64) -> Vec<Frame> {
        let mut scan = self.process.as_ref().unwrap().log.scan(partition, from);
        let mut frames = Vec::new();
        loop {
            match scan.read_blocking(3000) {
                Ok(more) if more.is_empty() => return frames,
                Ok(more) => frames.extend(more),
                Err(error) => broken!("partition {partition} can't be read: {error}"),
            }
        }
    }

    pub fn accept(&mut self, partition: u16, request: &Request, frame: &Frame) {
        if let Err(reason) = self.model.accept(partition, request, frame) {
            broken!("{reason}, in partition {partition} at {}: {request:?}", frame.position());
        }
        if let Request::Create { name, .. } = request {
            let handle = match self.process.as_ref().unwrap().log.namespace(name) {
                Ok(Some(handle)) => handle,
                other => broken!("namespace {name} was created and is not there: {other:?}"),
            };
            self.model.created(handle);
        }
        if let (Request::Delete { namespace }, Some(ledger)) = (request, &mut self.ledger) {
            ledger.namespace_deleted(partition, frame.end(), *namespace);
        }
    }

    fn judge_answer(&mut self, partition: u16, answered: &Answered, found: &mut impl Iterator<Item = Frame>) {
        let Answered { request, answer, .. } = answered;
        let verdict = self.model.judge(request);
        let stored = match (answer, &verdict) {
            (Answer::Append(Ok(appended)), Verdict::Store) if !appended.duplicate => true,
            (Answer::Append(Ok(appended)), Verdict::Duplicate(base)) if appended.duplicate => {
                let Request::Append { namespace, .. } = request else { unreachable!() };
                let due = self.model.namespaces[*namespace].frames_from(*base).first();
                if due != Some(&appended.frame) {
                    broken!("a retry is answered by {:?}, not by its frame at offset {base}", appended.frame);
                }
                false
            }
            (Answer::Create(Ok(created)), Verdict::Store) if created.new => true,
            (Answer::Create(Ok(created)), Verdict::Exists(at)) if !created.new => {
                if created.namespace != self.model.namespaces[*at].handle {
                    broken!("another namespace is said to exist: {created:?}");
                }
                false
            }
            (Answer::Delete(Ok(())), Verdict::Store) => true,
            (answer, _) if answer.error().is_some() => {
                self.judge_refusal(usize::from(partition), answered);
                false
            }
            (answer, verdict) => broken!("{answer:?} where {verdict:?} is due: {request:?}"),
        };
        if stored {
            let Some(frame) = found.next() else { broken!("acked and not there: {answer:?} to {request:?}") };
            if let Answer::Append(Ok(appended)) = answer
                && appended.frame != frame
            {
                broken!("acked as {:?}, there is {frame:?}", appended.frame);
            }
            self.accept(partition, request, &frame);
        }
    }

    pub fn judge_refusal(&mut self, at: usize, answered: &Answered) {
        let Answered { request, answer, faulty } = answered;
        let Some(error) = answer.error() else { broken!("{answer:?} without having been served: {request:?}") };
        match error {
            AppendError::WriteFailed(_) if *faulty => self.doubtful[at].push(request.clone()),
            AppendError::PartitionFailed(_) if self.failed[at] => {}
            AppendError::StorageFull(_) if *faulty => {}
            AppendError::Read(ReadError::Io { .. }) if *faulty => {}
            // The frame of a retry is read when the retry has been served: a delete came between.
            AppendError::Read(ReadError::NamespaceNotFound) if self.is_deleted_later(at, request) => {}
            error => match self.model.judge(request) {
                Verdict::Refuse(due) if format!("{due:?}") == format!("{error:?}") => {}
                verdict => broken!("{error:?} where {verdict:?} is due: {request:?}"),
            },
        }
    }

    fn is_deleted_later(&self, at: usize, request: &Request) -> bool {
        let Request::Append { namespace: appended, .. } = request else { return false };
        let deletes =
            |later: &Answered| matches!(&later.request, Request::Delete { namespace } if namespace == appended);
        self.answered[at].iter().any(deletes)
    }

    /// Heads, names and listings.
    pub fn check_namespaces(&self) {
        let log = &self.process.as_ref().unwrap().log;
        for state in &self.model.namespaces {
            let by_id = log.namespace_by_id(state.handle.id()).unwrap();
            if by_id.as_ref() != state.live.then_some(&state.handle) {
                broken!("namespace {} is {by_id:?}", state.handle.id());
            }
            match log.head(&state.handle) {
                Ok(head) if state.live => {
                    let found = (head.next_offset, head.chain.0, head.bytes);
                    if found != (state.next_offset, state.chain, state.bytes) {
                        broken!("the head of {} is {head:?}, offset {} is due", state.handle.name(), state.next_offset);
                    }
                }
                Err(ReadError::NamespaceNotFound) if !state.live => {}
                other => broken!("the head of {} is {other:?}", state.handle.name()),
            }
        }
        let mut due: Vec<_> = self.model.live().map(|(_, state)| state.handle.clone()).collect();
        due.sort_by(|a, b| a.name().cmp(b.name()));
        if log.list("", None, 1000).unwrap() != due {
            broken!("the namespaces are listed otherwise than {due:?}");
        }
        for namespace in &due {
            if log.namespace(namespace.name()).unwrap().as_ref() != Some(namespace) {
                broken!("{namespace:?} is not found by its name");
            }
        }
    }

    pub fn verify_all(&mut self) {
        for partition in self.partitions() {
            self.verify(partition, true);
            let state = &self.model.partitions[usize::from(partition)];
            durable::check(&self.storage, &self.dir, partition, &state.frames);
            if self.rng.chance(1, 3) && self.scan(partition, 0) != self.model.partitions[usize::from(partition)].frames
            {
                broken!("partition {partition} holds other frames than it did");
            }
        }
        self.check_namespaces();
        let max_bytes = 1 + self.rng.index(20_000);
        let log = self.process.as_ref().unwrap().log.clone();
        for (_, state) in self.model.live() {
            let mut reader = log.reader(&state.handle, 0).unwrap();
            let mut frames = Vec::new();
            loop {
                match reader.read_blocking(max_bytes) {
                    Ok(more) if more.is_empty() => break,
                    Ok(more) => frames.extend(more.iter().map(|frame| frame.frame().clone())),
                    Err(error) => broken!("{} can't be read: {error}", state.handle.name()),
                }
            }
            if frames != state.frames {
                broken!("{} has {} frames of {}", state.handle.name(), frames.len(), state.frames.len());
            }
        }
        let probe = durable::Probe::new(&self.storage, &self.dir, &log, &self.model);
        self.storage.on_sync(Some(Arc::new(move || probe.check())));
    }
}
