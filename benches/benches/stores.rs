//! The 256 stores, built from the log: what they apply when they begin with nothing.
#![allow(missing_docs, clippy::unwrap_used, reason = "a bench")]

use std::time::{Duration, Instant};

use benches::{BATCH_RECORDS, BenchLog};
use consumers::Stores;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tempfile::TempDir;

const RECORDS: usize = 200_000;
const NAMESPACES: usize = 8;

/// Keys of each namespace, where records have keys.
const KEYS: usize = 10_000;

fn apply(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("stores");
    group.throughput(Throughput::Elements(RECORDS as u64));
    for (name, keys) in [("apply records without keys", 0), ("apply records with keys", KEYS)] {
        let bench = BenchLog::under(env!("CARGO_TARGET_TMPDIR"));
        let namespaces: Vec<_> = (0..NAMESPACES).map(|index| bench.namespace(&format!("stores {index}"))).collect();
        namespaces.iter().for_each(|namespace| bench.fill(namespace, RECORDS / NAMESPACES / BATCH_RECORDS, keys));
        let from_nothing = || {
            let folder = TempDir::new_in(bench.folder.path()).unwrap();
            let began = Instant::now();
            let stores = Stores::open(folder.path(), bench.log.clone()).unwrap();
            bench.runtime.block_on(async {
                for namespace in &namespaces {
                    let last = bench.log.head(namespace).unwrap().next_offset - 1;
                    stores.wait_applied(namespace, last).await.unwrap();
                }
            });
            let time = began.elapsed();
            stores.close();
            time
        };
        group.bench_function(name, |bencher| bencher.iter_custom(|count| (0..count).map(|_| from_nothing()).sum()));
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10).measurement_time(Duration::from_secs(5)).warm_up_time(Duration::from_secs(1));
    targets = apply
}
criterion_main!(benches);
