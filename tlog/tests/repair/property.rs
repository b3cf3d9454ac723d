//! Random ranges of random logs are destroyed.

use proptest::prelude::*;

use crate::site::Site;

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
        destroy_and_judge(seed, &ranges, rows);
    }
}

/// `ranges`: partition, where in its log (a share of it), length in bytes.
fn destroy_and_judge(seed: u64, ranges: &[(u16, f64, u64, How)], rows: bool) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let site = Site::new(seed).await;
        for &(partition, at, length, how) in ranges {
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
        }
        if !rows {
            site.delete_rows();
        }
        // Zeros over zeros, and a bit that is turned twice, destroy nothing.
        site.judge(&site.changed(), rows).await;
    });
}

// Found by the property above.

/// Its segment's index knows of several of its frames.
#[test]
fn a_namespace_that_only_an_index_knows_is_lost_once() {
    let ranges = [(0, 0.5872444563426412, 172, How::Zeros), (0, 0.4104245968224463, 2543, How::Zeros)];
    destroy_and_judge(697, &ranges, false);
}

#[test]
fn a_namespace_that_only_rows_and_an_index_know_is_lost_once() {
    destroy_and_judge(418, &[(0, 0.819733889174568, 2707, How::Zeros)], true);
}

/// The hole that its creation stood in has no room for a second loss, and needs none.
#[test]
fn an_event_goes_into_the_loss_of_other_control_records() {
    destroy_and_judge(331, &[(0, 0.9246208224798708, 166, How::Zeros)], false);
}

/// Without rows, and of the last segment no index: the damaged headers are all that says what stood there.
#[test]
fn a_header_that_says_more_than_there_was_room_for_is_not_believed() {
    let ranges = [(1, 0.9006160913450888, 735, How::Ones), (1, 0.7104662848222977, 991, How::Flip)];
    destroy_and_judge(620, &ranges, false);
}
