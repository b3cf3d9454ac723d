//! What the log's tests share: a clock that stands still until it is told, and a log on a storage.
#![allow(dead_code, missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use tlog::{Append, AppendError, Appended, Clock, Log, Namespace, OpenError, Options, Storage};
use wire::{Draft, DraftBuilder, Frame, NamespaceConfig, NamespaceName, NewRecord, Producer, ProducerId};

/// A clock that is set by hand.
#[derive(Debug, Default)]
pub struct TestClock {
    pub micros: AtomicI64,
    nanos: AtomicU64,
}

impl Clock for TestClock {
    fn now_micros(&self) -> i64 {
        self.micros.load(Ordering::Relaxed)
    }

    fn monotonic_nanos(&self) -> u64 {
        self.nanos.fetch_add(1, Ordering::Relaxed)
    }
}

/// Small, so that a few appends roll segments.
pub fn small() -> Options {
    Options { partitions: 2, segment_bytes: 4096, ..Options::default() }
}

pub fn open(dir: &Path, storage: &Arc<impl Storage>, options: Options) -> Result<Log, OpenError> {
    Log::open(dir, Arc::clone(storage) as Arc<dyn Storage>, Arc::new(TestClock::default()), options)
}

pub async fn create(log: &Log, name: &str) -> Namespace {
    log.create(&NamespaceName::new(name).unwrap(), NamespaceConfig::default()).await.unwrap().namespace
}

pub fn batch(values: &[&str]) -> Draft {
    let mut builder = DraftBuilder::default();
    values.iter().for_each(|value| builder.push(&NewRecord::text(value)).unwrap());
    builder.finish().unwrap()
}

pub async fn append(log: &Log, namespace: &Namespace, values: &[&str]) -> Result<Appended, AppendError> {
    log.append(namespace, Append::new(batch(values))).await
}

pub fn producer(epoch: u32, sequence: u64) -> Option<Producer> {
    Some(Producer { id: ProducerId::of("p").unwrap(), epoch, sequence })
}

/// All frames of a namespace, with every promise about them checked.
pub fn read_all(log: &Log, namespace: &Namespace) -> Vec<Frame> {
    let mut reader = log.reader(namespace, 0).unwrap();
    let mut frames = Vec::new();
    loop {
        let read = reader.read_blocking(1000).unwrap();
        if read.is_empty() {
            break;
        }
        frames.extend(read.iter().map(|frame| frame.frame().clone()));
    }
    let (mut next, mut chain, mut counters) = (0, wire::Chain::EMPTY, [0; 256]);
    for frame in &frames {
        assert_eq!(frame.base_offset(), next, "offsets are contiguous");
        chain = frame.chain_after(&chain);
        assert_eq!(frame.chain(), chain, "the chain holds");
        for record in frame.records() {
            assert_eq!(record.offset, next);
            assert!(record.shard_is_true());
            let counter = &mut counters[usize::from(record.id.shard().0)];
            *counter += 1;
            assert_eq!(record.id.counter(), *counter, "counters are contiguous");
            next += 1;
        }
    }
    let head = log.head(namespace).unwrap();
    assert_eq!((head.next_offset, head.chain), (next, chain), "the head is what the frames say");
    frames
}

pub fn values(frames: &[Frame]) -> Vec<String> {
    let records = frames.iter().flat_map(Frame::records);
    records.map(|record| String::from_utf8(record.value.to_vec()).unwrap()).collect()
}
