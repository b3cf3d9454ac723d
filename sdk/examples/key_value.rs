//! Uses a namespace as a table: put, read what was just written, read a range, delete.
//!
//! Run a broker, then: `cargo run --release -p tlog-sdk --example key_value`

use std::pin::pin;

use futures::TryStreamExt;
use sdk::{Client, Error, NewRecord, Range};

#[tokio::main]
async fn main() -> Result<(), Error> {
    let url = std::env::var("TLOG_URL").unwrap_or_else(|_| "http://127.0.0.1:7256".into());
    let client = Client::new(&url)?;
    let users = client.namespace("example/users")?;

    users.put("user/ada", &NewRecord::json(r#"{"name":"Ada","born":1815}"#)).await?;
    users.put("user/alan", &NewRecord::json(r#"{"name":"Alan","born":1912}"#)).await?;
    let put = users.put("user/grace", &NewRecord::json(r#"{"name":"Grace","born":1906}"#)).await?;

    // The stores follow the log. A read that names an offset waits until it is in them.
    let grace = users.latest("user/grace", Some(put.first_offset)).await?;
    println!("user/grace is {}", grace.as_ref().and_then(|record| record.text()).unwrap_or("nobody"));

    let mut range = pin!(users.range(Range::prefix("user/a")));
    while let Some(record) = range.try_next().await? {
        println!("{} at offset {}", record.key.unwrap_or_default(), record.offset);
    }

    if let Some(record) = grace {
        match client.previous(record.id).await? {
            Some(before) => println!("before {} in its store: {:?}", record.id, before.key),
            None => println!("{} is the first in its store", record.id),
        }
    }

    let deleted = users.delete_key("user/grace").await?;
    let grace = users.latest("user/grace", Some(deleted.first_offset)).await?;
    println!("user/grace is {}", if grace.is_some() { "still there" } else { "deleted" });
    Ok(())
}
