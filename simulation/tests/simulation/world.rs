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
use tlog::{Append, AppendError, Appended, Created, Driver, Gather, Log, OpenError, Options, ReadError, Reader};
use tokio::runtime::Runtime;
use wire::Chain;

use crate::folder::{Fate, Folder};
use crate::ledger::{LedgerCounts, SimLedger};
use crate::model::{Model, Request};
use crate::stores::{SimStores, StoresCounts};
use crate::workload;
use crate::workload::Shape;

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
    pub fn error(&self) -> Option<&AppendError> {
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
pub struct Answered {
    pub request: Request,
    pub answer: Answer,
    pub faulty: bool,
}

/// A reader that comes and goes.
struct SimReader {
    namespace: usize,
    reader: Reader,
}

/// What ends with the process.
pub struct Process {
    pub log: Log,
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
    pub stores: StoresCounts,
    pub ledger: LedgerCounts,
}

pub struct World {
    pub rng: Rng,
    pub storage: Simulated,
    pub dir: PathBuf,
    pub options: Options,
    pub model: Model,
    pub rows: Folder,
    /// In a run that has them.
    pub stores: Option<SimStores>,
    pub ledger: Option<SimLedger>,
    pub counts: FaultCounts,
    runtime: Runtime,
    pub process: Option<Process>,
    /// Answers whose frames have not been looked at, by partition.
    pub answered: Vec<VecDeque<Answered>>,
    /// Requests whose write failed: the next process finds the first few of them, or none.
    pub doubtful: Vec<Vec<Request>>,
    pub failed: Vec<bool>,
    shape: Shape,
    faults: Faults,
    trace: Chain,
    pub restarts: u64,
    _temp: tempfile::TempDir,
}

fn options(rng: &mut Rng) -> Options {
    let often = Gather { rows: 0, bytes: 0 };
    let by_rows = |rows| Gather { rows, bytes: 1 << 20 };
    let by_bytes = |bytes| Gather { rows: 1024, bytes };
    let heads = [
        (0, often),
        (0, by_bytes(6000)),
        (2000, often),
        (2000, by_rows(3)),
        (1 << 20, by_bytes(600)),
        (1 << 20, by_bytes(6000)),
    ];
    let [partitions, segment, tail, heads_at] = [4, 4, 4, heads.len()].map(|choices| rng.index(choices));
    let (head_cache_bytes, gather) = heads[heads_at];
    Options {
        partitions: [1, 1, 2, 4][partitions],
        segment_bytes: [4096, 4096, 6000, 16 << 10][segment],
        tail_bytes: [0, 700, 4096, 1 << 20][tail],
        head_cache_bytes,
        gather,
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

/// Polls an answer once. What polls a lot is put off by tokio to the runtime's next round, so it goes through that one
/// too: it would never be woken, since such a wake ends with the round's context.
pub fn poll_once<T>(runtime: &Runtime, answer: &mut Pin<Box<dyn Future<Output = T>>>) -> Poll<T> {
    runtime.block_on(async {
        let polled = std::future::poll_fn(|context| Poll::Ready(answer.as_mut().poll(context))).await;
        tokio::task::yield_now().await;
        polled
    })
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
            rows: Folder::new(dir.join("rows")),
            stores: rng.chance(1, 2).then(|| SimStores::new(&dir)),
            ledger: seed.is_multiple_of(3).then(|| SimLedger::new(&dir, seed)),
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
        let stores = self.stores.as_ref().map(|stores| stores.counts).unwrap_or_default();
        let ledger = self.ledger.as_ref().map(|ledger| ledger.counts).unwrap_or_default();
        Outcome { trace, counts, records, restarts: self.restarts, stores, ledger }
    }

    pub fn partitions(&self) -> std::ops::Range<u16> {
        0..self.options.partitions
    }

    /// Faults that an answer may be owed to.
    pub fn excuses(&self) -> u64 {
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
        if self.stores.is_some() && self.rng.chance(1, 3) {
            self.step_stores();
        } else {
            self.step_log();
        }
        self.step_ledger();
        let has_ended = self.storage.stopped()
            || self.stores.as_ref().is_some_and(SimStores::has_ended)
            || self.ledger.as_ref().is_some_and(SimLedger::has_ended);
        if has_ended || (self.failed.contains(&true) && self.rng.chance(1, 3)) {
            let end = if self.rng.chance(1, 2) { End::Killed } else { End::PowerCut };
            self.restart(end);
        }
    }

    fn step_log(&mut self) {
        match self.rng.below(100) {
            0..40 => self.ask_and_commit(),
            40..56 => self.keep(),
            56..72 => self.read(),
            // At a sync all is written and nothing durable.
            72..76 => {
                let nth = self.rng.below(3);
                self.storage.plan(Fault::Stop, nth);
            }
            76..80 => {
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
                driver.copy_rows(self.rows.next_copy()).unwrap();
                self.note("rows copied");
            }
            88..91 => self.storage.shift_clock(self.rng.below(7_200_000_000) as i64 - 3_600_000_000),
            91..93 => self.restart(End::Closed),
            93..95 => self.restart(End::Killed),
            95..97 => self.restart(End::PowerCut),
            _ => self.check_namespaces(),
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
        match poll_once(&self.runtime, &mut answer) {
            Poll::Pending => process.asked[partition].push_back(Asked { request, answer }),
            Poll::Ready(answer) => {
                let answered = Answered { request, answer, faulty: self.failed[partition] };
                self.judge_refusal(partition, &answered);
            }
        }
    }

    /// What comes of something that nothing holds up.
    pub fn within_seconds<T>(&self, future: impl Future<Output = T>) -> T {
        let within = std::time::Duration::from_secs(20);
        let Ok(result) = self.runtime.block_on(async { tokio::time::timeout(within, future).await }) else {
            broken!("something was served and not answered")
        };
        result
    }

    /// Lets a partition's sequencer serve what waits.
    pub fn commit(&mut self, partition: u16) {
        let at = usize::from(partition);
        let before = self.excuses();
        let process = self.process.as_mut().unwrap();
        process.driver.commit(partition);
        if self.ledger.is_some() && process.log.failure(partition).is_some() {
            // It may have been what users of the ledger wrote.
            self.failed[at] = true;
        }
        let asked = std::mem::take(&mut process.asked[at]);
        for Asked { request, answer } in asked {
            let answer = self.within_seconds(answer);
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
            self.pump_ledger();
        }
    }

    fn keep(&mut self) {
        let partition = self.rng.below(u64::from(self.options.partitions)) as u16;
        let kept = self.process.as_mut().unwrap().driver.keep(partition);
        self.note(&format!("keeper {kept}"));
    }

    /// Does something with the disk while no faults come.
    pub fn calm<T>(&mut self, act: impl FnOnce(&mut World) -> T) -> T {
        let before = self.storage.set_calm(true);
        let result = act(self);
        self.storage.set_calm(before);
        result
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
                Err(ReadError::PastHead { next_offset })
                    if next_offset == state.next_offset && offset > next_offset => {}
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
        let bytes = 1 + self.rng.index(8000);
        let read = self.runtime.block_on(reader.reader.read(bytes));
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
        if let Some(stores) = &mut self.stores {
            stores.end(end, &mut self.rng);
        }
        if let Some(ledger) = &mut self.ledger {
            ledger.end(end);
        }
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
        self.open_stores() && self.open_ledger()
    }

    pub fn open_on(&self, storage: &Simulated, dir: &Path) -> Result<(Log, Driver), OpenError> {
        Log::open_driven(dir, Arc::new(storage.clone()), Arc::new(storage.clone()), self.options)
    }
}
