//! What the metrics say. Alone in its process, as the recorder is the process's.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod inside;

use inside::{TestServer, eventually, head};
use tokio::io::AsyncWriteExt;

#[tokio::test(flavor = "multi_thread")]
async fn metrics_count_what_happens() {
    let server = TestServer::start().await;
    server.publish("n", r#"[{"value":1},{"value":2}]"#).await;
    server.get("/v1/nothing").await.refused(404, "not-found", "/v1/nothing");
    let mut stream = server.connect().await;
    stream.write_all(head("GET /v1/namespaces/n/events", &[], None).as_bytes()).await.unwrap();
    server.eventually_counts("tlog_subscribers 1").await;
    drop(stream);
    server.eventually_counts("tlog_subscribers 0").await;
    server.eventually_counts("tlog_http_connections 1").await;
    server.eventually_counts("tlog_http_responses_total{class=\"4xx\"} 1").await;
    let applied = async || {
        let text = server.get("/metrics").await.text();
        text.lines().any(|line| line.starts_with("tlog_store_applied_records_total ") && !line.ends_with(" 0"))
    };
    eventually("the stores apply", applied).await;
    let metrics = server.get("/metrics").await;
    assert!(metrics.header("content-type").unwrap().starts_with("text/plain; version=0.0.4"));
    let text = metrics.text();
    for line in [
        "tlog_append_seconds_count 1",
        "# TYPE tlog_append_seconds histogram",
        "# HELP tlog_fsync_seconds Time of the fdatasync of a commit.",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}: {text}");
    }
    for name in ["tlog_commit_frames_sum", "tlog_commit_bytes_sum", "tlog_fsync_seconds_sum", "tlog_watermark_position"]
    {
        assert!(text.lines().any(|line| line.starts_with(name) && !line.ends_with(" 0")), "{name}: {text}");
    }
    server.stop().await;
}
