//! Rebuilds, subscriptions and pages over connections that break.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::time::Duration;

use futures::StreamExt;
use proptest::prelude::*;
use sdk::{Backoff, Client, Error, Event, Lost, Namespace, Retry, StartAt, Subscribe, Subscription};
use support::fake::Fake;
use support::{Log, batch};

const AT_ONCE: Backoff = Backoff { min: Duration::ZERO, max: Duration::ZERO, give_up_after: Duration::from_secs(60) };

fn namespace(fake: &Fake) -> Namespace {
    Client::builder(&fake.url).backoff(AT_ONCE).build().unwrap().namespace("n").unwrap()
}

fn subscribe(fake: &Fake) -> Subscribe {
    namespace(fake).subscribe().reconnect(AT_ONCE)
}

async fn offsets(subscription: &mut Subscription, count: usize) -> Vec<u64> {
    let events = subscription.take(count).collect::<Vec<_>>().await.into_iter();
    let offset = |event| match event {
        Ok(Event::Record(record)) => record.offset,
        other => panic!("{other:?}"),
    };
    events.map(offset).collect()
}

#[tokio::test]
async fn a_rebuild_goes_on_where_it_broke_off() {
    let fake = Fake::start(Log::with(5, 3)).await;
    let log = fake.inner().log.clone();
    // In the first frame, right behind it, and in the trailer of what is left.
    fake.inner().cuts = [20, log.frames[0].len(), log.stream(3).len() - 1].into();
    let mut rebuild = namespace(&fake).rebuild();
    let mut values = Vec::new();
    while let Some(frame) = rebuild.next().await.unwrap() {
        values.extend(sdk::records(&frame).map(|record| record.text().unwrap().to_owned()));
    }
    assert_eq!(values, (0..15).map(|number| format!("value {number}")).collect::<Vec<_>>());
    assert_eq!(fake.inner().rebuilt_from, [0, 0, 3, 15]);
    let proof = rebuild.proof().cloned().unwrap();
    assert_eq!((proof.records, proof.frames, proof.chain), (15, 5, fake.inner().log.chain()));
}

#[tokio::test]
async fn a_rebuild_that_does_not_prove_itself_is_not_tried_again() {
    let mut log = Log::with(3, 2);
    log.frames.remove(1);
    let fake = Fake::start(log).await;
    let error = namespace(&fake).rebuild().finish().await.unwrap_err();
    assert!(matches!(error, Error::Verify(sdk::VerifyError::Offset { expected: 2, found: 4 })), "{error:?}");
    assert_eq!(error.retry(), Retry::Never);
    assert_eq!(fake.inner().rebuilt_from, [0]);
}

#[tokio::test]
async fn a_subscription_begins_where_it_is_told() {
    let fake = Fake::start(Log::with(2, 3)).await;
    for (start, first) in [(StartAt::Start, 0), (StartAt::Offset(4), 4)] {
        let mut subscription = subscribe(&fake).from(start).open().await.unwrap();
        assert_eq!(offsets(&mut subscription, 2).await, [first, first + 1]);
    }
    let mut subscription = subscribe(&fake).open().await.unwrap();
    fake.append(batch(6, 2));
    assert_eq!(offsets(&mut subscription, 2).await, [6, 7]);
}

#[tokio::test]
async fn an_end_is_kept_where_the_connection_breaks_before_the_first_record() {
    let fake = Fake::start(Log::with(2, 3)).await;
    fake.inner().cuts = [0].into();
    let mut subscription = subscribe(&fake).open().await.unwrap();
    fake.append(batch(6, 1));
    assert_eq!(offsets(&mut subscription, 1).await, [6]);
}

#[tokio::test]
async fn a_gap_or_a_repeat_is_an_error() {
    for (removed, expected, found) in [(1, 2, 4), (0, 0, 2)] {
        let mut log = Log::with(3, 2);
        log.frames.remove(removed);
        let fake = Fake::start(log).await;
        let subscription = subscribe(&fake).from(StartAt::Start).open().await.unwrap();
        let events: Vec<_> = subscription.collect().await;
        let error = events.last().unwrap().as_ref().unwrap_err();
        assert!(
            matches!(error, Error::OffsetGap { expected: e, found: f } if (*e, *f) == (expected, found)),
            "{error}"
        );
        assert_eq!(events.len(), expected as usize + 1, "nothing follows an error");
    }
    let mut log = Log::with(2, 2);
    log.frames.push(log.frames[0].clone());
    let fake = Fake::start(log).await;
    // With a key gaps are to be expected, a repeat is not.
    for subscribe in [subscribe(&fake), subscribe(&fake).key("k0")] {
        let subscription = subscribe.from(StartAt::Start).open().await.unwrap();
        let events: Vec<_> = subscription.collect().await;
        assert!(matches!(events[4], Err(Error::OffsetGap { expected: 4, found: 0 })), "{events:?}");
    }
}

/// A log of six frames of three records; the second and third are lost, and the fifth.
fn lossy() -> Log {
    let mut log = Log::with(6, 3);
    log.lose(1..3);
    log.lose(3..4);
    log
}

const LOST: [Lost; 2] = [Lost { from: 3, to: 9 }, Lost { from: 12, to: 15 }];

#[tokio::test]
async fn a_reset_is_told_and_offsets_go_on_from_there() {
    let fake = Fake::start(lossy()).await;
    for subscribe in [subscribe(&fake), subscribe(&fake).key("none")] {
        let subscription = subscribe.from(StartAt::Start).open().await.unwrap();
        let events: Vec<Event> = subscription.take(11).map(Result::unwrap).collect().await;
        assert_eq!((&events[3], &events[7]), (&Event::Reset(LOST[0].reset()), &Event::Reset(LOST[1].reset())));
        let records = events.iter().filter_map(|event| match event {
            Event::Record(record) => Some(record.offset),
            Event::Reset(_) => None,
        });
        assert_eq!(records.collect::<Vec<_>>(), [0, 1, 2, 9, 10, 11, 15, 16, 17]);
    }
    // Within a loss: what is ahead of it is told.
    let mut subscription = subscribe(&fake).from(StartAt::Offset(7)).open().await.unwrap();
    let reset = subscription.next().await.unwrap().unwrap();
    assert_eq!(reset, Event::Reset(Lost { from: 7, to: 9 }.reset()));
    assert_eq!(offsets(&mut subscription, 3).await, [9, 10, 11]);
}

#[tokio::test]
async fn a_reset_that_leaves_a_gap_or_goes_back_is_an_error() {
    for (reset, expected, found) in [("\"from\":1,\"to\":3", 0, 1), ("\"from\":0,\"to\":0", 0, 0)] {
        let fake = Fake::start(Log::with(3, 2)).await;
        fake.inner().before_events = format!("event: reset\ndata: {{{reset},\"reason\":\"lost\"}}\n\n");
        let mut subscription = subscribe(&fake).from(StartAt::Start).open().await.unwrap();
        let error = subscription.next().await.unwrap().unwrap_err();
        assert!(matches!(error, Error::OffsetGap { expected: e, found: f } if (e, f) == (expected, found)), "{error}");
    }
}

#[tokio::test]
async fn a_rebuild_ends_at_a_loss_unless_it_may_go_on() {
    let fake = Fake::start(lossy()).await;
    let error = namespace(&fake).rebuild().finish().await.unwrap_err();
    assert!(matches!(error, Error::Lost(lost) if lost == LOST[0]), "{error:?}");
    assert_eq!((error.retry(), error.to_string()), (Retry::Never, "records were lost: offsets 3 to 8".to_owned()));

    // Told, it goes on to the next one.
    let mut rebuild = namespace(&fake).rebuild();
    let (mut begins, mut lost) = (Vec::new(), Vec::new());
    loop {
        match rebuild.next().await {
            Ok(Some(frame)) => begins.push(frame.base_offset()),
            Ok(None) => break,
            Err(Error::Lost(range)) => lost.push(range),
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!((begins, lost), (vec![0, 9, 15], LOST.to_vec()));
    let proof = rebuild.proof().cloned().unwrap();
    assert_eq!((proof.records, proof.frames, proof.lost.named()), (9, 5, &LOST[..]));

    // In the middle of a loss, and right behind it.
    let log = fake.inner().log.clone();
    let end = log.frames[0].len() + log.frames[1].len();
    fake.inner().cuts = [end - 1, log.frames[1].len()].into();
    assert_eq!(namespace(&fake).rebuild().with_losses().finish().await.unwrap(), proof);
    assert_eq!(fake.inner().rebuilt_from[2..], [0, 3, 9]);
}

#[tokio::test]
async fn a_page_tells_what_is_lost_in_it() {
    let fake = Fake::start(lossy()).await;
    let read = async |from, limit| {
        let page = namespace(&fake).read(from, limit, Duration::ZERO).await.unwrap();
        let offsets: Vec<u64> = page.records.iter().map(|record| record.offset).collect();
        (offsets, page.lost, page.next_offset)
    };
    let some = |from, to| vec![Lost { from, to }];
    assert_eq!(read(1, 100).await, (vec![1, 2, 9, 10, 11, 15, 16, 17], LOST.to_vec(), 18));
    assert_eq!(read(0, 3).await, (vec![0, 1, 2], vec![], 3));
    assert_eq!(read(3, 2).await, (vec![9, 10], some(3, 9), 11));
    assert_eq!(read(5, 3).await, (vec![9, 10, 11], some(5, 9), 12));
    fake.inner().log.frames.truncate(4);
    assert_eq!(read(14, 3).await, (vec![], some(14, 15), 15));
    // Two that touch are one; a hole beside them is an error.
    let mut log = Log::with(3, 2);
    log.lose(0..1);
    log.lose(1..2);
    let fake = Fake::start(log).await;
    let page = namespace(&fake).read(1, 9, Duration::ZERO).await.unwrap();
    assert_eq!((page.lost, page.records.len()), (some(1, 4), 2));
    fake.inner().log.frames.remove(0);
    let error = namespace(&fake).read(1, 9, Duration::ZERO).await.unwrap_err();
    assert!(matches!(error, Error::OffsetGap { expected: 1, found: 2 }), "{error}");
}

#[tokio::test]
async fn an_event_that_makes_no_sense_is_an_error() {
    for event in ["data: {}\n\n", "data: x\n\n", "event: other\ndata: {}\n\n", "event: reset\ndata: {}\n\n"] {
        let fake = Fake::start(Log::default()).await;
        fake.inner().before_events = event.into();
        let mut subscription = subscribe(&fake).from(StartAt::Start).open().await.unwrap();
        assert!(matches!(subscription.next().await, Some(Err(Error::Reply(_)))), "{event}");
        assert!(subscription.next().await.is_none());
    }
}

#[tokio::test]
async fn a_subscription_without_a_broker_is_an_error() {
    let client = Client::builder("http://127.0.0.1:1").backoff(Backoff::NONE).build().unwrap();
    let subscribe = client.namespace("n").unwrap().subscribe().from(StartAt::Start);
    assert!(matches!(subscribe.open().await, Err(Error::Connect { .. })));
}

#[tokio::test]
async fn a_silent_stream_is_opened_again() {
    let fake = Fake::start(Log::with(1, 1)).await;
    let client = Client::builder(&fake.url).idle_timeout(Duration::from_millis(20)).backoff(AT_ONCE).build().unwrap();
    let subscribe = client.namespace("n").unwrap().subscribe().from(StartAt::Start).reconnect(AT_ONCE);
    let mut subscription = subscribe.open().await.unwrap();
    assert_eq!(offsets(&mut subscription, 1).await, [0]);
    // The next connection finds this one; no one wakes the first.
    fake.inner().log.append(batch(1, 1), None);
    assert_eq!(offsets(&mut subscription, 1).await, [1]);
}

#[tokio::test]
async fn pages_are_cut_to_what_was_asked_for() {
    let fake = Fake::start(Log::with(3, 4)).await;
    let page = namespace(&fake).read(2, 5, Duration::ZERO).await.unwrap();
    let offsets: Vec<u64> = page.records.iter().map(|record| record.offset).collect();
    assert_eq!((offsets, page.next_offset, page.head), (vec![2, 3, 4, 5, 6], 7, 12));
    assert_eq!(page.records[0].text(), Some("value 2"));
    assert_eq!(page.records[1].key.as_deref(), Some("k3"));
    let page = namespace(&fake).read(12, 5, Duration::ZERO).await.unwrap();
    assert!(page.records.is_empty());
    assert_eq!(page.next_offset, 12);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn wherever_connections_break_each_record_comes_once_and_in_order_or_is_told_to_be_lost(
        cuts in prop::collection::vec(0usize..4000, 0..12),
        lost in prop::collection::vec(any::<bool>(), 1..8),
        records in 1usize..6,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut log = Log::with(lost.len(), records);
            (0..lost.len()).filter(|index| lost[*index]).for_each(|index| log.lose(index..index + 1));
            let fake = Fake::start(log).await;
            fake.inner().cuts = cuts.clone().into();
            let mut subscription = subscribe(&fake).from(StartAt::Start).open().await.unwrap();
            let (mut due, total) = (0, (lost.len() * records) as u64);
            while due < total {
                let is_lost = lost[due as usize / records];
                due = match subscription.next().await.unwrap().unwrap() {
                    Event::Record(record) if !is_lost && record.offset == due => due + 1,
                    Event::Reset(reset) if is_lost && reset.lost.from == due => reset.lost.to,
                    event => panic!("{event:?} at {due}"),
                };
            }
            drop(subscription);
            fake.inner().cuts = cuts.into();
            let proof = namespace(&fake).rebuild().with_losses().finish().await.unwrap();
            let told = (proof.lost.records() as usize, proof.records as usize);
            let losses = lost.iter().filter(|lost| **lost).count() * records;
            assert_eq!((told, proof.chain), ((losses, total as usize - losses), fake.inner().log.chain()));
        });
    }
}
