//! Encoding a batch, giving it its place, and reading it back.
#![allow(missing_docs, clippy::unwrap_used, reason = "a bench")]

use std::time::Duration;

use benches::{BATCH_RECORDS, batch};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use wire::{Chain, Draft, Frame, NamespaceId, Place};

fn place() -> Place {
    Place {
        position: 4096,
        commit_start: 4096,
        namespace: NamespaceId::new(1).unwrap(),
        generation: 0,
        base_offset: 17,
        time_micros: 1_700_000_000_000_000,
        producer: None,
        chain: Chain::EMPTY,
    }
}

fn frame(criterion: &mut Criterion) {
    for records in [1, BATCH_RECORDS] {
        let mut group = criterion.benchmark_group(format!("frame of {records}"));
        group.throughput(Throughput::Elements(records as u64));
        group.bench_function("encode", |bencher| bencher.iter(|| batch(1, records, 0)));
        let encoded = batch(1, records, 0).encode();
        let accept = |bytes: Vec<u8>| Draft::decode(bytes).unwrap();
        group.bench_function("accept a draft", |bencher| {
            bencher.iter_batched(|| encoded.clone(), accept, BatchSize::SmallInput);
        });
        let mut counter = 0;
        let mut put = |draft: Draft| {
            draft.place(&place(), |_| {
                counter += 1;
                counter
            })
        };
        let placed = put(batch(1, records, 0)).bytes().clone();
        group.bench_function("place", |bencher| {
            bencher.iter_batched(|| batch(1, records, 0), &mut put, BatchSize::SmallInput);
        });
        group.bench_function("decode", |bencher| bencher.iter(|| Frame::decode(placed.clone()).unwrap()));
        let frame = Frame::decode(placed).unwrap();
        group.bench_function("records", |bencher| {
            bencher.iter(|| frame.records().map(|r| r.value.len()).sum::<usize>());
        });
        group.bench_function("chain", |bencher| bencher.iter(|| frame.chain_after(&Chain::EMPTY)));
        group.finish();
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().measurement_time(Duration::from_secs(2)).warm_up_time(Duration::from_millis(500));
    targets = frame
}
criterion_main!(benches);
