//! Random ranges of random logs are destroyed.

use proptest::prelude::*;

use crate::site::{Destroyed, Site};

#[derive(Debug, Clone, Copy)]
enum How {
    Zeros,
    Ones,
    Flip,
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, max_shrink_iters: 30, ..ProptestConfig::default() })]
    #[test]
    fn what_is_left_is_what_it_was(
        seed in 0u64..1000,
        ranges in prop::collection::vec((0u16..2, 0.0f64..1.0, 1u64..3000, prop_oneof![Just(How::Zeros), Just(How::Ones), Just(How::Flip)]), 1..5),
        rows: bool,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let site = Site::new(seed).await;
            let mut destroyed = Destroyed::new();
            for (partition, at, length, how) in ranges {
                let end = site.ends[usize::from(partition)];
                let last = site.frames[usize::from(partition)].last().map_or(0, |frame| frame.position());
                // Without rows the last commit can't be told from a torn tail.
                let most = if rows { end } else { last };
                let from = (at * most as f64) as u64;
                let range = from..(from + length).min(most);
                site.overwrite(partition, range.clone(), |byte| match how {
                    How::Zeros => 0,
                    How::Ones => 0xff,
                    How::Flip => byte ^ 0x10,
                });
                destroyed.extend(site.touched(partition, &range));
            }
            if !rows {
                site.delete_rows();
            }
            site.judge(&destroyed, rows).await;
        });
    }
}
