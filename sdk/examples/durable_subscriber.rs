//! A subscriber of two rooms that goes away, and is given what it missed when it comes back.
//!
//! Run a broker, then: `cargo run --release -p tlog-sdk --example durable_subscriber`

use futures::StreamExt;
use sdk::{Client, Error, Event, NamespaceConfig, NewRecord, Rooms, Subscriber};

const CITIES: [&str; 4] = ["berlin", "paris", "rome", "vienna"];

#[tokio::main]
async fn main() -> Result<(), Error> {
    let url = std::env::var("TLOG_URL").unwrap_or_else(|_| "http://127.0.0.1:7256".into());
    let client = Client::new(&url)?;
    let weather = client.namespace("example/weather")?;
    weather.ensure(&NamespaceConfig::default()).await?;
    let anna = client.subscriber("example/anna")?;
    anna.put(&Rooms::default().room("example/weather", "paris").room("example/weather", "rome")).await?;

    for day in ["monday", "tuesday", "wednesday"] {
        for city in CITIES {
            weather.publish(&NewRecord::text(&format!("{day}: sun")).with_key(city)).await?;
        }
        // It comes by once a day, and nobody tells it anything twice.
        visit(&anna, 2).await?;
    }
    anna.leave(&Rooms::default().room("example/weather", "paris")).await?;
    for city in CITIES {
        weather.publish(&NewRecord::text("thursday: rain").with_key(city)).await?;
    }
    visit(&anna, 1).await?;
    anna.delete().await
}

/// Takes so many events, acks them, and goes.
async fn visit(subscriber: &Subscriber, count: usize) -> Result<(), Error> {
    let mut events = subscriber.events().await?.take(count);
    let mut last = None;
    while let Some(delivered) = events.next().await {
        let delivered = delivered?;
        match &delivered.event {
            Event::Record(record) => println!("{}: {:?}", record.key.as_deref().unwrap_or(""), record.text()),
            Event::Reset(reset) => println!("lost: {}", reset.lost),
        }
        last = Some(delivered.token);
    }
    match last {
        Some(token) => subscriber.ack(&token).await,
        None => Ok(()),
    }
}
