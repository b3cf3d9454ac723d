//! Three workers share a hundred jobs; one job can't be done, and becomes a dead letter.
//!
//! Run a broker, then: `cargo run --release -p tlog-sdk --example work_queue`

use std::time::Duration;

use sdk::{Client, Error, GroupConfig, Leased, NamespaceConfig, NamespaceName, NewRecord, Order, RetryWait};

const JOBS: usize = 100;

#[tokio::main]
async fn main() -> Result<(), Error> {
    let url = std::env::var("TLOG_URL").unwrap_or_else(|_| "http://127.0.0.1:7256".into());
    let client = Client::new(&url)?;
    let jobs = client.namespace("example/jobs")?;
    jobs.ensure(&NamespaceConfig::default()).await?;
    let group = jobs.group("workers")?;
    let config = GroupConfig {
        order: Order::Key,
        max_deliveries: 3,
        retry: RetryWait { min_ms: 10, max_ms: 100 },
        dead_letter: Some(NamespaceName::new("example/jobs-dead")?),
        ..GroupConfig::default()
    };
    group.ensure(&config).await?;

    let publisher = jobs.publisher().open()?;
    for number in 0..JOBS {
        let job = format!(r#"{{"job":{number}}}"#);
        publisher.send(&NewRecord::json(&job).with_key(&format!("customer-{}", number % 10))).await?;
    }
    publisher.close().await?;

    let mut workers = Vec::new();
    for name in ["anna", "ben", "cleo"] {
        workers.push(group.worker().name(name).concurrency(4).start(work).await?);
    }
    while group.state().await?.lag.records > 0 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for worker in workers {
        let name = worker.name().to_owned();
        let worked = worker.drain().await?;
        println!("{name}: {} done, {} failed", worked.acked, worked.failed);
    }
    println!("{} given up", group.state().await?.dead_lettered);
    Ok(())
}

/// What answers an error is tried again, behind it no other job of its customer.
async fn work(leased: Leased) -> Result<(), String> {
    if leased.record.text() == Some(r#"{"job":66}"#) {
        return Err(format!("attempt {}: there is no doing it", leased.delivery));
    }
    Ok(())
}
