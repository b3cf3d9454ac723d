//! Publishes a hundred records, each stored once however often it is sent, while a subscription
//! follows them.
//!
//! Run a broker, then: `cargo run --release -p tlog-sdk --example publish_and_follow`

use futures::StreamExt;
use sdk::{Client, Error, Event, NamespaceConfig, NewRecord};

const RECORDS: usize = 100;

#[tokio::main]
async fn main() -> Result<(), Error> {
    let url = std::env::var("TLOG_URL").unwrap_or_else(|_| "http://127.0.0.1:7256".into());
    let orders = Client::new(&url)?.namespace("example/orders")?;
    orders.ensure(&NamespaceConfig::default()).await?;

    // From here on no record is missed, wherever the connection breaks.
    let subscription = orders.subscribe().open().await?;
    let follower = tokio::spawn(subscription.take(RECORDS).collect::<Vec<Result<Event, Error>>>());

    let publisher = orders.publisher().open()?;
    let mut acks = Vec::new();
    for number in 0..RECORDS {
        let value = format!(r#"{{"order":{number},"total":{}.50}}"#, number % 20);
        acks.push(publisher.send(&NewRecord::json(&value).with_key(&format!("o-{number}"))).await?);
    }
    for ack in acks.drain(..3) {
        let receipt = ack.await?;
        println!("durable at offset {}, as object {}", receipt.offset, receipt.id);
    }
    let progress = publisher.close().await?;
    println!("{} records are durable", progress.records);

    let followed = follower.await.unwrap_or_default();
    for event in followed.into_iter().take(3) {
        match event? {
            Event::Record(record) => println!("followed {:?}: {}", record.key, record.text().unwrap_or_default()),
            Event::Reset(reset) => println!("records were lost: {}", reset.lost),
        }
    }
    Ok(())
}
