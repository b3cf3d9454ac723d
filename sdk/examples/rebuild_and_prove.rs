//! Rebuilds a namespace from the log, verifies all of it, and counts what is in it: a program that
//! needs no state of its own, as the log has it.
//!
//! Run a broker, then: `cargo run --release -p tlog-sdk --example rebuild_and_prove`

use std::collections::BTreeMap;

use sdk::{Client, DraftBuilder, Error, NewRecord};

#[tokio::main]
async fn main() -> Result<(), Error> {
    let url = std::env::var("TLOG_URL").unwrap_or_else(|_| "http://127.0.0.1:7256".into());
    let visits = Client::new(&url)?.namespace("example/visits")?;

    // One batch is one frame: readers see all of it or none.
    let mut batch = DraftBuilder::default();
    for page in ["/", "/about", "/", "/orders", "/"] {
        batch.push(&NewRecord::text("visit").with_key(page))?;
    }
    visits.publish_batch(batch.finish()?).await?;

    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    let mut rebuild = visits.rebuild();
    while let Some(frame) = rebuild.next().await? {
        for record in frame.records() {
            *counts.entry(record.key.unwrap_or_default().to_owned()).or_default() += 1;
        }
    }
    for (page, count) in &counts {
        println!("{count:6}  {page}");
    }
    if let Some(proof) = rebuild.proof() {
        println!("{} records in {} frames, every one verified", proof.records, proof.frames);
        println!("chain {}", proof.chain);
        println!("the broker says the same: {}", visits.info().await?.chain == proof.chain);
    }
    Ok(())
}
