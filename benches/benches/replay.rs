//! Reading a namespace of a million records from its segments, from the first record to the last.
#![allow(missing_docs, clippy::unwrap_used, reason = "a bench")]

use std::time::Duration;

use benches::{BATCH_RECORDS, BenchLog};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use wire::Chain;

const RECORDS: usize = 1_000_000;

/// Bytes to read at once.
const READ_BYTES: usize = 1 << 20;

fn replay(criterion: &mut Criterion) {
    let bench = BenchLog::under(env!("CARGO_TARGET_TMPDIR"));
    let namespace = bench.namespace("replay");
    bench.fill(&namespace, RECORDS / BATCH_RECORDS, 0);
    let frames = |mut each: Box<dyn FnMut(&wire::Frame)>| {
        let mut reader = bench.log.reader(&namespace, 0).unwrap();
        loop {
            let frames = reader.read_blocking(READ_BYTES).unwrap();
            if frames.is_empty() {
                return reader.offset();
            }
            frames.iter().for_each(|frame| each(frame.frame()));
        }
    };
    let mut group = criterion.benchmark_group("replay");
    group.throughput(Throughput::Elements(RECORDS as u64));
    group.bench_function("a million records", |bencher| {
        bencher.iter(|| assert_eq!(frames(Box::new(|_| {})), RECORDS as u64));
    });
    group.bench_function("a million records, with their chain", |bencher| {
        bencher.iter(|| {
            let mut chain = Chain::EMPTY;
            frames(Box::new(move |frame| {
                chain = frame.chain_after(&chain);
                assert_eq!(chain, frame.chain());
            }))
        });
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10).measurement_time(Duration::from_secs(5)).warm_up_time(Duration::from_secs(1));
    targets = replay
}
criterion_main!(benches);
