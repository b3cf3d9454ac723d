//! Bad input, each with its status, a clear message and no effect.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod inside;

use inside::{Answer, TestServer, head};
use tokio::io::AsyncWriteExt;

const JSON: &str = "content-type: application/json";
const POST: &str = "POST /v1/namespaces/n/records";
const ONE: &str = r#"{"value":1}"#;

/// A call that is refused: line, header, body; status, code, and a part of what is said.
type Case<'a> = (&'a str, &'a str, &'a str, u16, &'a str, &'a str);

async fn all_refused(server: &TestServer, cases: &[Case<'_>]) {
    for (line, header, body, status, code, says) in cases {
        println!("{line} {header} {body:.60}");
        server.call(line, &[header], body).await.refused(*status, code, says);
    }
}

async fn namespaces(server: &TestServer) -> usize {
    server.get("/v1/namespaces").await.ok()["namespaces"].as_array().unwrap().len()
}

#[tokio::test(flavor = "multi_thread")]
async fn names() {
    let server = TestServer::start().await;
    let long = format!("POST /v1/namespaces/{}/records", "a".repeat(256));
    all_refused(
        &server,
        &[
            ("POST /v1/namespaces//records", JSON, ONE, 400, "invalid-name", "is empty"),
            ("PUT /v1/namespaces/", JSON, "", 400, "invalid-name", "is empty"),
            (&long, JSON, ONE, 400, "invalid-name", "256 bytes, the limit is 255"),
            ("POST /v1/namespaces/a%FFb/records", JSON, ONE, 400, "invalid-name", "not UTF-8"),
            ("PUT /v1/namespaces/a%0Db", JSON, "", 400, "invalid-name", "U+000D"),
            ("PUT /v1/namespaces/a%0Ab", JSON, "", 400, "invalid-name", "U+000A"),
            ("PUT /v1/namespaces/a%00b", JSON, "", 400, "invalid-name", "U+0000"),
            ("PUT /v1/namespaces/a%zzb", JSON, "", 400, "invalid-name", "two hex digits"),
            ("GET /v1/namespaces/a%0Ab/records", JSON, "", 400, "invalid-name", "U+000A"),
            ("GET /v1/namespaces/a%0Ab/events", JSON, "", 400, "invalid-name", "U+000A"),
            ("GET /v1/events?namespace=a%0Ab", JSON, "", 400, "invalid-name", "U+000A"),
        ],
    )
    .await;
    assert_eq!(namespaces(&server).await, 0);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_and_headers() {
    let server = TestServer::start().await;
    let long = format!("{POST}?key={}", "k".repeat(1025));
    let text = "content-type: text/plain";
    let many: String = (0..65).map(|i| format!(",\"h{i}\":\"\"")).collect();
    let many = format!("{{\"value\":1,\"headers\":{{{}}}}}", &many[1..]);
    let large = format!(r#"{{"value":1,"headers":{{"h":"{}"}}}}"#, "x".repeat(4096));
    all_refused(
        &server,
        &[
            ("POST /v1/namespaces/n/records?key=", text, "x", 400, "invalid-key", "is empty"),
            (&long, text, "x", 400, "invalid-key", "1025 bytes, the limit is 1024"),
            ("POST /v1/namespaces/n/records?key=a%0Db", text, "x", 400, "invalid-key", "U+000D"),
            ("POST /v1/namespaces/n/records?key=%FF", text, "x", 400, "invalid-parameter", "not UTF-8"),
            ("PUT /v1/namespaces/n/keys/a%0Ab", text, "x", 400, "invalid-key", "U+000A"),
            ("PUT /v1/namespaces/n/keys/%00", text, "x", 400, "invalid-key", "U+0000"),
            ("PUT /v1/namespaces/n/keys/%FF", text, "x", 400, "invalid-key", "not UTF-8"),
            ("PUT /v1/namespaces/n/keys/", text, "x", 400, "invalid-key", "is empty"),
            (POST, JSON, r#"{"key":"a\u0000","value":1}"#, 400, "invalid-key", "U+0000"),
            (POST, JSON, r#"{"key":"a\r","value":1}"#, 400, "invalid-key", "U+000D"),
            (POST, JSON, r#"{"value":1,"headers":{"a\n":"x"}}"#, 400, "invalid-headers", "U+000A"),
            (POST, JSON, r#"{"value":1,"headers":{"a":"x\u0000"}}"#, 400, "invalid-headers", "U+0000"),
            (POST, JSON, r#"{"value":1,"headers":{"":"x"}}"#, 400, "invalid-headers", "is empty"),
            (POST, JSON, r#"{"value":1,"headers":{"a":"1","a":"2"}}"#, 400, "invalid-headers", "twice"),
            (POST, JSON, &many, 400, "invalid-headers", "65 headers, the limit is 64"),
            (POST, JSON, &large, 400, "invalid-headers", "4097 bytes, the limit is 4096"),
            (POST, JSON, r#"{"key":"k","value":1,"tombstone":true}"#, 400, "invalid-body", "no value"),
            (POST, JSON, r#"{"tombstone":true}"#, 400, "invalid-key", "needs a key"),
        ],
    )
    .await;
    assert_eq!(namespaces(&server).await, 0);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies() {
    let server = TestServer::start().await;
    let frames = "content-type: application/vnd.tlog.frames";
    all_refused(
        &server,
        &[
            (POST, JSON, "", 400, "empty-batch", "the body is empty"),
            (POST, JSON, "[]", 400, "empty-batch", "no record"),
            (POST, frames, "", 400, "empty-batch", "empty"),
            (POST, "content-type: application/x-ndjson", "", 400, "empty-batch", "no record"),
            (POST, "content-type: text/plain", "", 400, "empty-batch", "empty"),
            (POST, JSON, "{\"value\":", 400, "invalid-body", "broken: EOF while parsing a value at column 9"),
            (POST, JSON, "{\"key\":\"k\"}", 400, "invalid-body", "the value is missing"),
            (POST, JSON, "\"text\"", 400, "invalid-body", "a record or an array of records"),
            (POST, JSON, "{\"value\":1,\"vlaue\":2}", 400, "unknown-field", "vlaue"),
            (POST, JSON, "[{\"value\":1},{\"val\":2}]", 400, "unknown-field", "record 2"),
            (POST, frames, "no frame at all", 400, "invalid-body", "no frame begins here"),
            ("PUT /v1/namespaces/n", JSON, "{\"ttl\":1}", 400, "unknown-field", "ttl"),
            ("PUT /v1/namespaces/n", JSON, "{\"max_record_bytes\":0}", 400, "invalid-body", "max_record_bytes is 0"),
            ("PUT /v1/namespaces/n", JSON, "{", 400, "invalid-body", "broken"),
            ("PUT /v1/namespaces/n/keys/k", JSON, "{", 400, "invalid-body", "broken"),
            ("PUT /v1/namespaces/n/keys/k", frames, "x", 415, "unsupported-media", "one value"),
        ],
    )
    .await;
    assert_eq!(namespaces(&server).await, 0);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_over_the_limit() {
    let server = TestServer::start().await;
    let large = vec![b'x'; (1 << 20) + 1];
    let answer = server.call(POST, &[], &large).await;
    answer.refused(413, "record-too-large", "over the limit of 1048576 bytes");
    server.call("PUT /v1/namespaces/n/keys/k", &[], &large).await.refused(413, "record-too-large", "1048576");
    let batch = format!("[{}{ONE}]", format!("{ONE},").repeat(10_000));
    server.call(POST, &[JSON], &batch).await.refused(413, "batch-too-large", "10000 records");
    let value = format!("{{\"value\":\"{}\"}}", "x".repeat(1 << 20));
    server.call(POST, &[JSON], &value).await.refused(413, "record-too-large", "the limit is 1048576");

    // Refused by its length alone: nothing of the body is sent.
    let mut stream = server.connect().await;
    let expect = head(POST, &[JSON, "expect: 100-continue"], Some(33 << 20));
    stream.write_all(expect.as_bytes()).await.unwrap();
    Answer::read(&mut stream).await.refused(413, "batch-too-large", "over the limit of 33554432 bytes");

    // Without a length: refused once it is over.
    let mut stream = server.connect().await;
    stream.write_all(head(POST, &["transfer-encoding: chunked"], None).as_bytes()).await.unwrap();
    for _ in 0..17 {
        stream.write_all(format!("{:x}\r\n", 1 << 16).as_bytes()).await.unwrap();
        stream.write_all(&large[..1 << 16]).await.unwrap();
        stream.write_all(b"\r\n").await.unwrap();
    }
    stream.write_all(b"0\r\n\r\n").await.unwrap();
    Answer::read(&mut stream).await.refused(413, "record-too-large", "over the limit");
    assert_eq!(namespaces(&server).await, 0);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn conditions() {
    let server = TestServer::start().await;
    all_refused(
        &server,
        &[
            (POST, "if-match: \"x\"", ONE, 400, "invalid-parameter", "If-Match"),
            (POST, "if-match: *", ONE, 400, "invalid-parameter", "If-Match"),
            (POST, "if-match: \"7\"", ONE, 412, "offset-mismatch", "the next offset is 0"),
            (POST, "producer-id: p", ONE, 400, "invalid-producer", "go together"),
            (POST, "producer-epoch: 1", ONE, 400, "invalid-producer", "go together"),
            (POST, "producer-seq: 1\r\nproducer-id: p", ONE, 400, "invalid-producer", "go together"),
            (
                POST,
                "producer-seq: -1\r\nproducer-id: p\r\nproducer-epoch: 0",
                ONE,
                400,
                "invalid-producer",
                "producer-seq",
            ),
            (POST, "producer-seq: 3\r\nproducer-id: p\r\nproducer-epoch: 0", ONE, 409, "producer-gap", "is 0"),
            ("POST /v1/namespaces/n/records?kay=k", JSON, ONE, 400, "invalid-parameter", "\"kay\""),
            ("POST /v1/namespaces/n/records?key=k", JSON, ONE, 400, "invalid-parameter", "\"key\""),
            ("DELETE /v1/namespaces/n/keys/k", JSON, "", 404, "namespace-not-found", "\"n\""),
        ],
    )
    .await;
    assert_eq!(namespaces(&server).await, 0);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reads() {
    let server = TestServer::start().await;
    server.publish("n", ONE).await;
    let none = "x-none: 1";
    let last = "last-event-id: soon";
    all_refused(
        &server,
        &[
            ("GET /v1/namespaces/m/records", none, "", 404, "namespace-not-found", "\"m\""),
            ("GET /v1/namespaces/n/records?from=2", none, "", 416, "offset-past-head", "is 1"),
            ("GET /v1/namespaces/n/records?from=x", none, "", 400, "invalid-parameter", "from is \"x\""),
            ("GET /v1/namespaces/n/records?from=-1", none, "", 400, "invalid-parameter", "from is \"-1\""),
            ("GET /v1/namespaces/n/records?limit=0", none, "", 400, "invalid-parameter", "limit is 0"),
            ("GET /v1/namespaces/n/records?limit=10001", none, "", 400, "invalid-parameter", "10000"),
            ("GET /v1/namespaces/n/records?wait=60001", none, "", 400, "invalid-parameter", "60000"),
            ("GET /v1/namespaces/n/records?form=1", none, "", 400, "invalid-parameter", "\"form\""),
            ("GET /v1/namespaces/n/records?from=0&from=0", none, "", 400, "invalid-parameter", "twice"),
            ("GET /v1/namespaces/n/records", "accept: text/html", "", 406, "not-acceptable", "text/html"),
            ("GET /v1/namespaces/n/events", "accept: application/json", "", 406, "not-acceptable", "text/event-stream"),
            ("GET /v1/namespaces/n/events?from=2", none, "", 416, "offset-past-head", "is 1"),
            ("GET /v1/namespaces/n/events?from=0", last, "", 400, "invalid-parameter", "Last-Event-ID"),
            ("GET /v1/namespaces/n/events", "last-event-id: 7", "", 416, "offset-past-head", "is 1"),
            ("GET /v1/namespaces/n/events?key=", none, "", 400, "invalid-key", "empty"),
            ("GET /v1/namespaces/m/events", none, "", 404, "namespace-not-found", "\"m\""),
            ("GET /v1/events", none, "", 400, "invalid-parameter", "0 namespaces"),
            ("GET /v1/events?namespace=n&namespace=m", none, "", 404, "namespace-not-found", "\"m\""),
            ("GET /v1/events?namespace=n&from=0", none, "", 400, "invalid-parameter", "start or end"),
            ("GET /v1/events?namespace=n", last, "", 400, "invalid-parameter", "Last-Event-ID"),
            ("GET /v1/namespaces/n/rebuild?from=2", none, "", 416, "offset-past-head", "is 1"),
            ("GET /v1/namespaces/n/rebuild?from=end", none, "", 400, "invalid-parameter", "from"),
            ("GET /v1/namespaces/n/rebuild", "accept: application/json", "", 406, "not-acceptable", "frames"),
            ("GET /v1/namespaces/m", none, "", 404, "namespace-not-found", "\"m\""),
            ("DELETE /v1/namespaces/m", none, "", 404, "namespace-not-found", "\"m\""),
            ("GET /v1/namespaces?limit=1001", none, "", 400, "invalid-parameter", "1000"),
            ("GET /v1/objects/xyz", none, "", 400, "invalid-id", "16 hex digits"),
            ("GET /v1/objects/3f00000100000000", none, "", 400, "invalid-id", "16 hex digits"),
            ("GET /v1/objects/0000000000000001", none, "", 404, "object-not-found", "0000000000000001"),
            ("GET /v1/objects/0000000000000001/previous", none, "", 404, "object-not-found", "0000000000000001"),
            ("GET /v1/namespaces/n/keys/k", none, "", 404, "key-not-found", "\"k\""),
            ("GET /v1/namespaces/n/keys/k?min_offset=x", none, "", 400, "invalid-parameter", "min_offset"),
            ("GET /v1/namespaces/n/keys/k?min_offset=5&wait=1", none, "", 503, "not-caught-up", "offset 5"),
            ("POST /v1/stores/256/rebuild", none, "", 400, "invalid-shard", "\"256\""),
            ("POST /v1/stores/x/rebuild", none, "", 400, "invalid-shard", "\"x\""),
            ("GET /v1/nothing", none, "", 404, "not-found", "/v1/nothing"),
            ("PATCH /v1/namespaces/n", none, "", 405, "method-not-allowed", "PATCH"),
        ],
    )
    .await;
    let problem = server.get("/v1/namespaces/n/records?from=2").await.json();
    assert_eq!((&problem["next_offset"], &problem["retry"]), (&1.into(), &"never".into()));
    assert_eq!(server.next_offset("n").await, Some(1));
    assert_eq!(namespaces(&server).await, 1);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn truncated_bodies_store_nothing() {
    let server = TestServer::start().await;
    let ndjson = "content-type: application/x-ndjson";
    for content_type in [JSON, "content-type: text/plain", ndjson] {
        let mut stream = server.connect().await;
        let head = head(POST, &[content_type, "transfer-encoding: chunked"], None);
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(b"b\r\n{\"value\":1}\r\n5\r\n{\"va").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut rest = Vec::new();
        // Whether an answer comes is the server's to decide: the client has hung up.
        let _answer = tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut rest).await;
    }
    // A chunk size that is none.
    let mut stream = server.connect().await;
    stream.write_all(head(POST, &[JSON, "transfer-encoding: chunked"], None).as_bytes()).await.unwrap();
    stream.write_all(b"b\r\n{\"value\":1}\r\nxyz\r\n").await.unwrap();
    let mut rest = Vec::new();
    let _answer = tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut rest).await;
    assert!(!rest.starts_with(b"HTTP/1.1 2"), "{:?}", String::from_utf8_lossy(&rest));
    assert_eq!(namespaces(&server).await, 0);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_http_is_refused() {
    let server = TestServer::start().await;
    for request in ["GET /a b HTTP/1.1\r\nhost: x\r\n\r\n", "\u{1}\r\n\r\n", "GET / HTTP/1.1\r\nx: a\0b\r\n\r\n"] {
        let mut stream = server.connect().await;
        stream.write_all(request.as_bytes()).await.unwrap();
        println!("{request:?}");
        assert_eq!(Answer::read(&mut stream).await.status, 400, "{request:?}");
    }
    server.get("/healthz").await.ok();
    server.stop().await;
}
