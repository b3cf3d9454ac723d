//! Durable appends of single records on the disk: alone, and 64 at once, which share their syncs.
#![allow(missing_docs, clippy::unwrap_used, reason = "a bench")]

use std::time::{Duration, Instant};

use benches::{BATCH_RECORDS, BenchLog, append, batch};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tlog::Namespace;
use tokio::task::JoinSet;

/// The time that `count` appends of `records` each take, `at_once` of them under way.
fn appends(bench: &BenchLog, namespaces: &[Namespace], count: u64, at_once: u64, records: usize) -> Duration {
    bench.runtime.block_on(async {
        let began = Instant::now();
        let mut appenders = JoinSet::new();
        for appender in 0..at_once {
            let log = bench.log.clone();
            let namespace = namespaces[appender as usize % namespaces.len()].clone();
            let share = (appender..count).step_by(at_once as usize);
            appenders.spawn(async move {
                for index in share {
                    append(&log, &namespace, batch(index as usize, records, 0)).await;
                }
            });
        }
        appenders.join_all().await;
        began.elapsed()
    })
}

fn append_durably(criterion: &mut Criterion) {
    let bench = BenchLog::under(env!("CARGO_TARGET_TMPDIR"));
    let one = [bench.namespace("one")];
    let many: Vec<Namespace> = (0..64).map(|index| bench.namespace(&format!("many {index}"))).collect();
    let mut group = criterion.benchmark_group("append");
    for (name, namespaces, at_once, records) in [
        ("1 record, 1 at once", &one[..], 1, 1),
        ("1 record, 64 at once, to 1 namespace", &one[..], 64, 1),
        ("1 record, 64 at once, to 64 namespaces", &many[..], 64, 1),
        ("1000 records, 8 at once", &many[..], 8, BATCH_RECORDS),
    ] {
        group.throughput(Throughput::Elements(records as u64));
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|count| appends(&bench, namespaces, count, at_once, records));
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10).measurement_time(Duration::from_secs(3)).warm_up_time(Duration::from_secs(1));
    targets = append_durably
}
criterion_main!(benches);
