//! A publisher stores everything once and in order, whatever the broker and the network do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use proptest::prelude::*;
use sdk::{Backoff, Client, Code, Error, NewRecord, Publisher, PublisherBuilder, Retry};
use support::Log;
use support::fake::{Fake, Fault};

fn patient() -> Backoff {
    Backoff { min: Duration::ZERO, max: Duration::ZERO, give_up_after: Duration::from_secs(60) }
}

fn publisher(fake: &Fake) -> PublisherBuilder {
    Client::new(&fake.url).unwrap().namespace("n").unwrap().publisher().backoff(patient())
}

async fn send_all(publisher: &Publisher, count: usize) -> Vec<sdk::Ack> {
    let mut acks = Vec::new();
    for number in 0..count {
        acks.push(publisher.send(&NewRecord::text(&number.to_string())).await.unwrap());
    }
    acks
}

fn stored(ack: &Result<sdk::Receipt, Error>) {
    assert!(ack.is_ok(), "{ack:?}");
}

fn values(fake: &Fake) -> Vec<String> {
    let frames = fake.inner().log.frames.clone();
    frames.iter().flat_map(sdk::records).map(|record| record.text().unwrap().to_owned()).collect()
}

fn numbers(count: usize) -> Vec<String> {
    (0..count).map(|number| number.to_string()).collect()
}

#[tokio::test]
async fn records_are_acked_with_their_place() {
    let fake = Fake::start(Log::default()).await;
    let publisher = publisher(&fake).batch_records(7).open().unwrap();
    let acks = send_all(&publisher, 100).await;
    for (ack, record) in join_all(acks).await.into_iter().zip(0..) {
        let receipt = ack.unwrap();
        let frames = fake.inner().log.frames.clone();
        let stored = frames.iter().flat_map(sdk::records).nth(record).unwrap();
        assert_eq!((receipt.offset, receipt.id), (record as u64, stored.id));
    }
    let progress = publisher.close().await.unwrap();
    assert_eq!((progress.records, progress.first_offset, progress.next_offset), (100, Some(0), Some(100)));
    assert_eq!(values(&fake), numbers(100));
}

#[tokio::test]
async fn what_waits_while_requests_are_on_their_way_becomes_one_batch() {
    let fake = Fake::start(Log::default()).await;
    // The first is answered only once the test lets it.
    fake.inner().faults = [Fault::Hold(1)].into();
    let publisher = publisher(&fake).open().unwrap();
    let acks = send_all(&publisher, 1).await;
    while fake.inner().sequences.is_empty() {
        tokio::task::yield_now().await;
    }
    let more = send_all(&publisher, 50).await;
    fake.append(support::batch(0, 1));
    join_all(acks.into_iter().chain(more)).await.iter().for_each(stored);
    assert_eq!(fake.inner().sequences, [0, 1]);
}

#[tokio::test]
async fn no_more_requests_than_allowed_are_on_their_way_and_as_many_as_that() {
    let fake = Fake::start(Log::default()).await;
    // The first goes alone; the next three are held until a fourth would have to come.
    fake.inner().faults = [Fault::None, Fault::Hold(2), Fault::Hold(2), Fault::Hold(2)].into();
    let publisher = publisher(&fake).batch_records(1).in_flight(3).open().unwrap();
    let acks = send_all(&publisher, 20).await;
    while fake.inner().sequences.len() < 4 {
        tokio::task::yield_now().await;
    }
    fake.append(support::batch(0, 1));
    join_all(acks).await.iter().for_each(stored);
    assert_eq!(fake.inner().most_at_once, 3);
}

#[tokio::test]
async fn a_lost_answer_is_a_duplicate_and_a_lost_request_goes_again() {
    let fake = Fake::start(Log::default()).await;
    fake.inner().faults = [
        Fault::LoseAnswer,
        Fault::LoseRequest,
        Fault::Refuse(Code::TooBusy),
        Fault::Refuse(Code::WriteFailed),
        Fault::None,
    ]
    .into();
    let publisher = publisher(&fake).batch_records(10).open().unwrap();
    let acks = send_all(&publisher, 10).await;
    let offsets: Vec<u64> = join_all(acks).await.into_iter().map(|ack| ack.unwrap().offset).collect();
    assert_eq!(offsets, (0..10).collect::<Vec<_>>());
    assert_eq!(values(&fake), numbers(10));
}

#[tokio::test]
async fn a_batch_that_overtakes_goes_again_behind_the_other() {
    let fake = Fake::start(Log::default()).await;
    // Batch 1 is held until batch 2 has been refused as a gap.
    fake.inner().faults = [Fault::None, Fault::Hold(2)].into();
    let publisher = publisher(&fake).batch_records(1).in_flight(2).open().unwrap();
    let acks = send_all(&publisher, 3).await;
    join_all(acks).await.iter().for_each(stored);
    assert_eq!(values(&fake), numbers(3));
    let mut sequences = fake.inner().sequences.clone();
    sequences.sort_unstable();
    assert_eq!(sequences, [0, 1, 2, 2]);
}

#[tokio::test]
async fn after_a_refusal_nothing_behind_it_is_stored() {
    let fake = Fake::start(Log::default()).await;
    fake.inner().faults = [Fault::None, Fault::Refuse(Code::RecordTooLarge)].into();
    let publisher = publisher(&fake).batch_records(1).open().unwrap();
    let mut acks = Vec::new();
    let ended = loop {
        match publisher.send(&NewRecord::text(&acks.len().to_string())).await {
            Ok(ack) => acks.push(ack),
            Err(error) => break error,
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(ended.code(), Some(Code::RecordTooLarge));
    assert_eq!(publisher.flush().await.unwrap_err().code(), Some(Code::RecordTooLarge));
    let acks = join_all(acks).await;
    assert!(acks[0].is_ok());
    assert!(acks[1..].iter().all(|ack| ack.as_ref().unwrap_err().retry() == Retry::Never));
    assert_eq!(values(&fake), numbers(1));
}

#[tokio::test]
async fn a_broker_that_forgot_what_it_stored_is_an_error() {
    let fake = Fake::start(Log::default()).await;
    fake.inner().faults = [Fault::None, Fault::Refuse(Code::ProducerGap)].into();
    let publisher = publisher(&fake).batch_records(1).in_flight(1).open().unwrap();
    let acks = join_all(send_all(&publisher, 2).await).await;
    assert!(acks[0].is_ok());
    assert_eq!(acks[1].as_ref().unwrap_err().code(), Some(Code::ProducerGap));
}

#[tokio::test]
async fn a_batch_that_was_stored_too_long_ago_counts_as_stored() {
    let fake = Fake::start(Log::default()).await;
    fake.inner().faults = [Fault::Refuse(Code::ProducerForgotten)].into();
    let publisher = publisher(&fake).open().unwrap();
    let ack = publisher.send(&NewRecord::text("x")).await.unwrap();
    assert_eq!(ack.await.unwrap_err().code(), Some(Code::ProducerForgotten));
    assert_eq!(publisher.flush().await.unwrap().records, 1);
}

#[tokio::test]
async fn it_gives_up_when_its_patience_is_over() {
    let address = "http://127.0.0.1:1";
    let namespace = Client::new(address).unwrap().namespace("n").unwrap();
    let publisher = namespace.publisher().backoff(Backoff::NONE).open().unwrap();
    let ack = publisher.send(&NewRecord::text("x")).await.unwrap();
    assert!(matches!(ack.await, Err(Error::Connect { .. })));
    let error = publisher.close().await.unwrap_err();
    assert_eq!(error.retry(), Retry::Safe);
    assert!(error.to_string().starts_with("no connection to http://127.0.0.1:1"), "{error}");
}

#[tokio::test]
async fn a_bad_record_changes_nothing() {
    let fake = Fake::start(Log::default()).await;
    let publisher = publisher(&fake).open().unwrap();
    let large = vec![0; (1 << 20) + 1];
    assert!(matches!(publisher.send(&NewRecord::bytes(&large)).await, Err(Error::Draft(_))));
    assert!(matches!(publisher.send(&NewRecord::text("x").with_key("a\nb")).await, Err(Error::Draft(_))));
    assert!(publisher.send(&NewRecord::text("0")).await.unwrap().await.is_ok());
    assert_eq!(values(&fake), numbers(1));
}

#[tokio::test]
async fn sending_waits_while_too_much_is_unacknowledged() {
    let fake = Fake::start(Log::default()).await;
    fake.inner().faults = [Fault::Hold(1)].into();
    let publisher = Arc::new(publisher(&fake).waiting_bytes(100).open().unwrap());
    // 17 bytes each.
    let acks = send_all(&publisher, 5).await;
    let sixth = tokio::spawn({
        let publisher = Arc::clone(&publisher);
        async move { publisher.send(&NewRecord::text("5")).await.unwrap().await }
    });
    while fake.inner().sequences.is_empty() {
        tokio::task::yield_now().await;
    }
    assert!(!sixth.is_finished());
    fake.append(support::batch(0, 1));
    assert!(sixth.await.unwrap().is_ok());
    join_all(acks).await.iter().for_each(stored);
    // One that is larger than all there is goes alone.
    let large = "x".repeat(1000);
    assert!(publisher.send(&NewRecord::text(&large)).await.unwrap().await.is_ok());
}

#[tokio::test]
async fn a_dropped_publisher_sends_what_it_was_given() {
    let fake = Fake::start(Log::default()).await;
    let publisher = publisher(&fake).open().unwrap();
    let acks = send_all(&publisher, 20).await;
    drop(publisher);
    join_all(acks).await.iter().for_each(stored);
    assert_eq!(values(&fake), numbers(20));
}

#[tokio::test]
async fn a_producers_id_is_checked() {
    let fake = Fake::start(Log::default()).await;
    for id in ["", "a\nb", &"x".repeat(256)] {
        assert!(matches!(publisher(&fake).producer(id, 1).open(), Err(Error::Name(_))), "{id:?}");
    }
    let publisher = publisher(&fake).producer("länge", 1).open().unwrap();
    assert!(publisher.send(&NewRecord::text("0")).await.unwrap().await.is_ok());
}

fn fault() -> impl Strategy<Value = Fault> {
    prop_oneof![
        3 => Just(Fault::None),
        1 => Just(Fault::LoseRequest),
        1 => Just(Fault::LoseAnswer),
        1 => Just(Fault::Refuse(Code::TooBusy)),
        1 => Just(Fault::Refuse(Code::WriteFailed)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_happens_everything_is_stored_once_and_in_order(
        faults in prop::collection::vec(fault(), 0..40),
        records in 1usize..120,
        batch in 1usize..8,
        in_flight in 1usize..6,
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let fake = Fake::start(Log::default()).await;
            fake.inner().faults = faults.into();
            let publisher = publisher(&fake).batch_records(batch).in_flight(in_flight).open().unwrap();
            let acks = send_all(&publisher, records).await;
            let offsets: Vec<u64> = join_all(acks).await.into_iter().map(|ack| ack.unwrap().offset).collect();
            assert_eq!(offsets, (0..records as u64).collect::<Vec<_>>());
            assert_eq!(publisher.close().await.unwrap().records, records as u64);
            assert_eq!(values(&fake), numbers(records));
        });
    }
}
