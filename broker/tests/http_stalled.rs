//! Invariant 9: a follower that reads nothing. Alone in its process, as it looks at the process's metrics.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod inside;

use std::time::Duration;

use inside::{PATIENCE, TestServer, head};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

const POST: &str = "POST /v1/namespaces/n/records";

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_that_reads_nothing_delays_no_publisher() {
    let server = TestServer::start_with(|config| config.timeouts.stall = Duration::from_millis(500)).await;
    server.call("PUT /v1/namespaces/n", &[], "").await.ok();
    let mut stalled = Vec::new();
    for path in ["/v1/namespaces/n/events?from=start", "/v1/events?namespace=n&from=start"] {
        let mut stream = server.connect().await;
        stream.write_all(head(&format!("GET {path}"), &[], None).as_bytes()).await.unwrap();
        stalled.push(stream);
    }
    server.eventually_counts("tlog_subscribers 2").await;
    // Far more than the sockets hold between them.
    let value = vec![b'x'; 1 << 20];
    for offset in 0..48 {
        let reply = server.call(POST, &["content-type: text/plain"], &value).await.ok();
        assert_eq!(reply["first_offset"], offset);
    }
    // They are given up on: what they can still read ends before the last record.
    server.eventually_counts("tlog_subscribers 0").await;
    for mut stream in stalled {
        let mut read = Vec::new();
        let _cut_off = timeout(PATIENCE, stream.read_to_end(&mut read)).await.expect("it is closed");
        assert!(read.len() < 48 << 20, "{} bytes", read.len());
    }
    server.stop().await;
}
