//! Leasing and acking by the hundred, without a log: what the state machine itself costs.
#![allow(missing_docs, clippy::unwrap_used, reason = "a bench")]

use std::time::Duration;

use consumers::groups::{Dispatch, GroupConfig, Order, Pending, Progress, Progressed, merged};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use wire::Shard;
use wire::limits::MAX_GROUP_WINDOW;

const HUNDRED: usize = 100;
const KEYS: u64 = 10_000;

/// A group in mid-work: the window is full, and eight workers take turns.
struct Work {
    dispatch: Dispatch,
    now: u64,
    names: Vec<String>,
}

impl Work {
    fn new(order: Order) -> Work {
        let config = GroupConfig { order, ..GroupConfig::default() };
        let dispatch = Dispatch::new(&config, &Progress::new(0), 1, MAX_GROUP_WINDOW);
        let names: Vec<String> = (0..8).map(|n| format!("worker {n}")).collect();
        let mut work = Work { dispatch, now: 0, names };
        for name in &work.names {
            work.dispatch.lease(0, name, 0, 0).unwrap();
        }
        work.fill();
        work
    }

    fn fill(&mut self) {
        while let Some(offset) = self.dispatch.wants() {
            let key = offset.wrapping_mul(0x9e37_79b9_7f4a_7c15) % KEYS;
            self.dispatch.offer(Pending { offset, shard: Shard(key as u8), key: Some(key), bytes: 256 });
        }
    }

    /// A hundred, from the offer on until they are acked.
    fn hundred(&mut self) {
        self.now += 100_000;
        let name = &self.names[(self.now / 100_000) as usize % 8];
        let grants = self.dispatch.lease(self.now, name, HUNDRED, usize::MAX).unwrap();
        assert_eq!(grants.len(), HUNDRED);
        let tokens: Vec<_> = grants.iter().map(|grant| grant.token).collect();
        let settled = self.dispatch.settle(self.now, &tokens);
        self.dispatch.acked(&settled.held);
        self.fill();
    }
}

fn dispatch(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("dispatch: lease and ack 100");
    group.throughput(Throughput::Elements(HUNDRED as u64));
    for (name, order) in [("order none", Order::None), ("order key", Order::Key)] {
        let mut work = Work::new(order);
        group.bench_function(name, |bencher| bencher.iter(|| work.hundred()));
    }
    let mut progress = Progress::new(0);
    let mut offset = 0;
    group.bench_function("progress", |bencher| {
        bencher.iter(|| {
            // Two workers: the second is done first.
            for start in [offset + HUNDRED as u64, offset] {
                let acked = merged((start..start + HUNDRED as u64).map(|offset| offset..offset + 1).collect());
                progress.apply(&Progressed { acked, ..Progressed::default() });
            }
            offset += 2 * HUNDRED as u64;
        });
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().measurement_time(Duration::from_secs(2)).warm_up_time(Duration::from_millis(500));
    targets = dispatch
}
criterion_main!(benches);
