//! One run of the simulation: the real log on a simulated disk, the model beside it, and a seed that
//! decides what happens next.

use std::collections::VecDeque;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use tlog::storage::Simulated;
use tlog::storage::simulated::{Fault, FaultCounts, Faults, Rng};
use tlog::{Append, AppendError, Appended, Created, Driver, Log, OpenError, Options, ReadError, Reader};
use tokio::runtime::Runtime;
use wire::{Chain, Frame};

use crate::model::{Model, Request, Verdict};
use crate::rows::{Fate, RowsFolder};
use crate::workload::Shape;
use crate::{durable, workload};

/// Fails the run: a promise is broken.
macro_rules! broken {
    ($($what:tt)*) => { panic!("BROKEN: {}", format!($($what)*)) };
}
pub(crate) use broken;

/// What the log answered.
#[derive(Debug)]
pub enum Answer {
    Append(Result<Appended, AppendError>),
    Create(Result<Created, AppendError>),
    Delete(Result<(), AppendError>),
}

impl Answer {
    fn error(&self) -> Option<&AppendError> {
        match self {
            Answer::Append(result) => result.as_ref().err(),
            Answer::Create(result) => result.as_ref().err(),
            Answer::Delete(result) => result.as_ref().err(),
        }
    }

    /// The answer without what differs from machine to machine.
    fn brief(&self) -> String {
        match (self, self.error()) {
            (_, Some(error)) => format!("{error:?}").split(['(', ' ']).next().unwrap().to_owned(),
            (Answer::Append(Ok(appended)), _) => format!("{} {}", appended.frame.chain(), appended.duplicate),
            (Answer::Create(Ok(created)), _) => format!("{} {}", created.namespace.id(), created.new),
            _ => "done".to_owned(),
        }
    }
}

/// A request whose answer is still to come.
struct Asked {
    request: Request,
    answer: Pin<Box<dyn Future<Output = Answer>>>,
}

/// An answer, and whether the disk had a fault while it was made.
struct Answered {
    request: Request,
    answer: Answer,
    faulty: bool,
}

/// A reader that comes and goes.
struct SimReader {
    namespace: usize,
    reader: Reader,
}

/// What ends with the process.
struct Process {
    log: Log,
    driver: Driver,
    readers: Vec<SimReader>,
    asked: Vec<VecDeque<Asked>>,
}

/// How a process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Closed,
    Killed,
    PowerCut,
}

/// What a run amounts to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// A hash of all that happened.
    pub trace: Chain,
    pub counts: FaultCounts,
    pub records: u64,
    pub restarts: u64,
}

pub struct World {
    pub rng: Rng,
    pub storage: Simulated,
    pub dir: PathBuf,
    pub options: Options,
    pub model: Model,
    pub rows: RowsFolder,
    pub counts: FaultCounts,
    runtime: Runtime,
    process: Option<Process>,
    /// Answers whose frames have not been looked at, by partition.
    answered: Vec<VecDeque<Answered>>,
    /// Requests whose write failed: the next process finds the first few of them, or none.
    doubtful: Vec<Vec<Request>>,
    failed: Vec<bool>,
    shape: Shape,
    faults: Faults,
    trace: Chain,
    pub restarts: u64,
    _temp: tempfile::TempDir,
}

fn options(rng: &mut Rng) -> Options {
    Options {
        partitions: [1, 1, 2, 4][rng.index(4)],
        segment_bytes: [4096, 4096, 6000, 16 << 10][rng.index(4)],
        tail_bytes: [0, 700, 4096, 1 << 20][rng.index(4)],
        head_cache_bytes: [0, 2000, 1 << 20][rng.index(3)],
        // What is evicted is for a hash to decide that differs from process to process.
        open_segments: 1 << 14,
        ..Options::default()
    }
}

/// Which faults come by themselves: in some runs none, in others many of few kinds.
fn faults(rng: &mut Rng) -> Faults {
    let mut faults = Faults::default();
    if rng.chance(1, 3) {
        return faults;
    }
    for fault in
        [Fault::ReadError, Fault::WriteError, Fault::SyncError, Fault::FolderError, Fault::NoSpace, Fault::Slow]
    {
        if rng.chance(1, 2) {
            faults = faults.with(fault, 1 + rng.below(150) as u16);
        }
    }
    faults
}

/// A folder in memory, where there is one.
pub fn temp_dir() -> tempfile::TempDir {
    let shm = Path::new("/dev/shm");
    let mut builder = tempfile::Builder::new();
    let builder = builder.prefix("tlog-simulation-");
    builder.tempdir_in(shm).or_else(|_| builder.tempdir()).unwrap()
}

impl World {
    pub fn new(seed: u64) -> World {
        let mut rng = Rng::new(seed);
        let temp = temp_dir();
        let dir = temp.path().join("data");
        std::fs::create_dir(&dir).unwrap();
        let options = options(&mut rng);
        let faults = faults(&mut rng);
        let partitions = usize::from(options.partitions);
        World {
            storage: Simulated::new(rng.number()),
            rows: RowsFolder::new(&dir),
            dir,
            model: Model::new(options.partitions),
            options,
            counts: FaultCounts::default(),
            runtime: tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap(),
            process: None,
            answered: (0..partitions).map(|_| VecDeque::new()).collect(),
            doubtful: vec![Vec::new(); partitions],
            failed: vec![false; partitions],
            shape: if rng.chance(1, 4) { Shape::Equal } else { Shape::Any },
            faults,
            trace: Chain::EMPTY,
            restarts: 0,
            rng,
            _temp: temp,
        }
    }

    pub fn note(&mut self, what: &str) {
        if std::env::var_os("TLOG_SIM_VERBOSE").is_some() {
            eprintln!("{} {what}", self.storage.operations());
        }
        self.trace = self.trace.after(what.as_bytes());
    }

    pub fn outcome(&self) -> Outcome {
        let mut counts = self.counts;
        counts.add_all(&self.storage.counts());
        let records = self.model.partitions.iter().map(|partition| partition.records).sum();
        let trace = self.trace.after(&self.storage.trace().0);
        Outcome { trace, counts, records, restarts: self.restarts }
    }

    fn partitions(&self) -> std::ops::Range<u16> {
        0..self.options.partitions
    }

    /// Faults that an answer may be owed to.
    fn excuses(&self) -> u64 {
        let counts = self.storage.counts();
        let kinds = [
            Fault::ReadError,
            Fault::WriteError,
            Fault::SyncError,
            Fault::FolderError,
            Fault::NoSpace,
            Fault::FlippedRead,
            Fault::Stop,
        ];
        kinds.iter().map(|kind| counts.of(*kind)).sum()
    }

    /// One thing happens, and what can be checked of it is.
    pub fn step(&mut self) {
        match self.rng.below(100) {
            0..40 => self.ask_and_commit(),
            40..56 => self.keep(),
            56..74 => self.read(),
            74..80 => {
                let nth = self.rng.below(80);
                self.storage.stop_after(nth);
                self.note("a stop is due");
            }
            80..84 => {
                let fault = Fault::ALL[self.rng.index(5)];
                let nth = self.rng.below(6);
                self.storage.plan(fault, nth);
            }
            84..88 => {
                let Process { driver, .. } = self.process.as_ref().unwrap();
                self.rows.remember(driver);
                self.note("rows copied");
            }
            88..91 => self.storage.shift_clock(self.rng.below(7_200_000_000) as i64 - 3_600_000_000),
            91..93 => self.restart(End::Closed),
            93..95 => self.restart(End::Killed),
            95..97 => self.restart(End::PowerCut),
            _ => self.check_namespaces(),
        }
        if self.storage.stopped() || (self.failed.contains(&true) && self.rng.chance(1, 3)) {
            let end = if self.rng.chance(1, 2) { End::Killed } else { End::PowerCut };
            self.restart(end);
        }
    }

    fn ask_and_commit(&mut self) {
        for _ in 0..=self.rng.below(6) {
            self.ask();
        }
        for partition in self.partitions() {
            // What is not served now waits, and may wait for ever.
            if !self.rng.chance(1, 8) {
                self.commit(partition);
            }
        }
    }

    fn ask(&mut self) {
        let request = workload::request(&mut self.rng, &self.model, self.shape);
        let partition = usize::from(self.model.partition_of(&request));
        let process = self.process.as_mut().unwrap();
        let log = process.log.clone();
        let mut answer: Pin<Box<dyn Future<Output = Answer>>> = match request.clone() {
            Request::Append { namespace, items, producer, if_next_offset } => {
                let namespace = self.model.namespaces[namespace].handle.clone();
                let append = Append { draft: workload::draft(&items), producer, if_next_offset };
                Box::pin(async move { Answer::Append(log.append(&namespace, append).await) })
            }
            Request::Create { name, config } => {
                Box::pin(async move { Answer::Create(log.create(&name, config).await) })
            }
            Request::Delete { namespace } => {
                let namespace = self.model.namespaces[namespace].handle.clone();
                Box::pin(async move { Answer::Delete(log.delete(&namespace).await) })
            }
        };
        // The first poll puts it into the queue, or refuses it at the door.
        let polled = self.runtime.block_on(async {
            std::future::poll_fn(|context| Poll::Ready(answer.as_mut().poll(context))).await
        });
        match polled {
            Poll::Pending => process.asked[partition].push_back(Asked { request, answer }),
            Poll::Ready(answer) => {
                let answered = Answered { request, answer, faulty: self.failed[partition] };
                self.judge_refusal(partition, &answered);
            }
        }
    }

    /// Lets a partition's sequencer serve what waits.
    fn commit(&mut self, partition: u16) {
        let at = usize::from(partition);
        let before = self.excuses();
        let process = self.process.as_mut().unwrap();
        process.driver.commit(partition);
        let asked = std::mem::take(&mut process.asked[at]);
        for Asked { request, answer } in asked {
            let within = std::time::Duration::from_secs(20);
            let answer = self.runtime.block_on(async { tokio::time::timeout(within, answer).await });
            let Ok(answer) = answer else { broken!("a request was served and not answered") };
            self.note(&answer.brief());
            let faulty = self.excuses() > before || self.storage.stopped();
            if matches!(answer.error(), Some(AppendError::WriteFailed(_))) {
                if !faulty {
                    broken!("a write failed without a fault: {answer:?}");
                }
                self.failed[at] = true;
            }
            self.answered[at].push_back(Answered { request, answer, faulty });
        }
        if !self.storage.stopped() {
            self.verify(partition, false);
        }
    }

    fn keep(&mut self) {
        let partition = self.rng.below(u64::from(self.options.partitions)) as u16;
        let kept = self.process.as_mut().unwrap().driver.keep(partition);
        self.note(&format!("keeper {kept}"));
    }

    /// Does something with the disk while no faults come.
    fn calm<T>(&mut self, act: impl FnOnce(&mut World) -> T) -> T {
        let faults = self.storage.set_faults(Faults::default());
        self.storage.forget_plans();
        let result = act(self);
        self.storage.set_faults(faults);
        result
    }

    /// Holds the frames that are new in a partition against the answers, in their order. After a
    /// restart the doubtful are resolved too.
    fn verify(&mut self, partition: u16, restarted: bool) {
        let at = usize::from(partition);
        let begin = self.model.partitions[at].frames.len();
        let found = self.calm(|world| world.scan(partition, world.model.partitions[at].end));
        let mut found = found.into_iter();
        while let Some(answered) = self.answered[at].pop_front() {
            self.judge_answer(partition, &answered, &mut found);
        }
        if restarted {
            self.failed[at] = false;
            let mut found = found.by_ref().peekable();
            for request in std::mem::take(&mut self.doubtful[at]) {
                if found.peek().is_none() {
                    break;
                }
                if let (Verdict::Store, Some(frame)) = (self.model.judge(&request), found.peek()) {
                    self.accept(partition, &request, &frame.clone());
                    found.next();
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

    fn accept(&mut self, partition: u16, request: &Request, frame: &Frame) {
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

    fn judge_refusal(&mut self, at: usize, answered: &Answered) {
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
        let deletes = |later: &Answered| matches!(&later.request, Request::Delete { namespace } if namespace == appended);
        self.answered[at].iter().any(deletes)
    }

    fn read(&mut self) {
        let live: Vec<usize> = self.model.live().map(|(at, _)| at).collect();
        let process = self.process.as_mut().unwrap();
        if !live.is_empty() && (process.readers.len() < 4 || self.rng.chance(1, 4)) {
            let namespace = live[self.rng.index(live.len())];
            let state = &self.model.namespaces[namespace];
            let offset = self.rng.below(state.next_offset + 2);
            match process.log.reader(&state.handle, offset) {
                Ok(reader) if offset <= state.next_offset => process.readers.push(SimReader { namespace, reader }),
                Err(ReadError::PastHead { next_offset }) if next_offset == state.next_offset && offset > next_offset => {}
                other => broken!("a reader at {offset} of {}: {other:?}", state.next_offset),
            }
        }
        if process.readers.is_empty() {
            return;
        }
        let at = self.rng.index(process.readers.len());
        let mut reader = process.readers.swap_remove(at);
        let flips = self.rng.chance(1, 4);
        if flips {
            self.storage.set_faults(self.faults.with(Fault::FlippedRead, 3000));
        }
        let before = self.excuses();
        let offset = reader.reader.offset();
        let read = reader.reader.read_blocking(1 + self.rng.index(8000));
        self.storage.set_faults(self.faults);
        let faulty = self.excuses() > before;
        let state = &self.model.namespaces[reader.namespace];
        match read {
            Err(ReadError::NamespaceNotFound) if !state.live => return,
            Err(ReadError::Io { .. } | ReadError::Damaged { .. }) if faulty => {}
            Err(error) => broken!("a reader at {offset}: {error}"),
            Ok(_) if !state.live => broken!("a deleted namespace is read from"),
            Ok(frames) => {
                let due = state.frames_from(offset);
                if frames.is_empty() != due.is_empty() || frames.len() > due.len() {
                    broken!("a reader at {offset} gets {} frames of {}", frames.len(), due.len());
                }
                if let Some(wrong) = frames.iter().zip(due).find(|(found, due)| found.frame() != *due) {
                    broken!("a reader at {offset} gets {wrong:?}");
                }
            }
        }
        let offset = reader.reader.offset();
        self.note(&format!("read up to {offset}"));
        if !self.rng.chance(1, 5) {
            self.process.as_mut().unwrap().readers.push(reader);
        }
    }

    /// Heads, names and listings.
    fn check_namespaces(&self) {
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

    /// Ends the process, and begins the next.
    pub fn restart(&mut self, end: End) {
        self.note(&format!("{end:?}"));
        self.end(end);
        for _ in 0..4 {
            if self.rng.chance(1, 2) {
                let nth = self.rng.below(60);
                self.storage.stop_after(nth);
            }
            self.storage.set_faults(self.faults);
            if self.open() {
                return;
            }
            let end = if self.rng.chance(1, 2) { End::Killed } else { End::PowerCut };
            self.end(end);
        }
        self.storage.set_faults(Faults::default());
        if !self.open() {
            broken!("the log can't be opened");
        }
        self.storage.set_faults(self.faults);
    }

    /// Ends the process. Returns what became of the rows.
    pub fn end(&mut self, end: End) -> Fate {
        if end == End::Closed && !self.storage.stopped() {
            for partition in self.partitions() {
                self.commit(partition);
                let driver = &mut self.process.as_mut().unwrap().driver;
                while self.rng.chance(3, 4) && driver.keep(partition) {}
            }
        }
        self.storage.on_sync(None);
        self.process = None;
        let fate = if end == End::Closed { Fate::Kept } else { self.rows.crash(&mut self.rng) };
        match end {
            End::PowerCut => self.storage.power_cut(),
            End::Closed | End::Killed => self.storage.resume(),
        }
        self.note(&format!("{fate:?}"));
        self.restarts += 1;
        fate
    }

    /// Opens the log, and holds all of it against the model. False where a fault was in the way.
    fn open(&mut self) -> bool {
        let before = self.excuses();
        match self.open_on(&self.storage.clone(), &self.dir.clone()) {
            Ok((log, driver)) => {
                let asked = self.partitions().map(|_| VecDeque::new()).collect();
                self.process = Some(Process { log, driver, readers: Vec::new(), asked });
            }
            Err(OpenError::Io { .. }) if self.excuses() > before => return false,
            Err(error) => broken!("the log can't be opened: {error}"),
        }
        self.note("open");
        self.calm(World::verify_all);
        true
    }

    pub fn open_on(&self, storage: &Simulated, dir: &Path) -> Result<(Log, Driver), OpenError> {
        Log::open_driven(dir, Arc::new(storage.clone()), Arc::new(storage.clone()), self.options)
    }

    fn verify_all(&mut self) {
        for partition in self.partitions() {
            self.verify(partition, true);
            let state = &self.model.partitions[usize::from(partition)];
            durable::check(&self.storage, &self.dir, partition, &state.frames);
            if self.rng.chance(1, 3) && self.scan(partition, 0) != self.model.partitions[usize::from(partition)].frames {
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
