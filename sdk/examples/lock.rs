//! Three clients hold one lock in turn, and write down under which token.
//!
//! Run a broker, then: `cargo run --release -p tlog-sdk --example lock`

use std::time::{Duration, Instant};

use sdk::{Client, Error};

#[tokio::main]
async fn main() -> Result<(), Error> {
    let url = std::env::var("TLOG_URL").unwrap_or_else(|_| "http://127.0.0.1:7256".into());
    let begun = Instant::now();
    let mut clients = Vec::new();
    for name in ["anna", "ben", "cleo"] {
        let printer = Client::new(&url)?.lock("example/printer")?;
        clients.push(tokio::spawn(async move {
            let held =
                printer.acquire().owner(name).ttl(Duration::from_secs(2)).wait(Duration::from_secs(60)).ask().await?;
            // What is written to must refuse a token that is lower than one that it has seen.
            println!("{:5.1} s  {name} prints with token {}", begun.elapsed().as_secs_f32(), held.token());
            tokio::select! {
                () = tokio::time::sleep(Duration::from_secs(1)) => {}
                () = held.lost() => println!("{name} must stop: the lock is another's"),
            }
            held.release().await
        }));
    }
    for client in clients {
        client.await.map_err(|_| Error::Closed)??;
    }
    Ok(())
}
