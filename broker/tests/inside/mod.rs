//! What the tests of the HTTP interface share: a server inside the test's process, on a folder and a
//! port of its own, and calls that are written to the socket byte by byte, so that no client library
//! mends what a test means to break.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of this")]

use std::net::SocketAddr;
use std::time::Duration;

use broker::{ServeError, Server, ServerConfig};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// How long anything may take before a test gives up on it.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A server that runs in this process.
pub struct TestServer {
    pub address: SocketAddr,
    pub shutdown: CancellationToken,
    pub running: JoinHandle<Result<(), ServeError>>,
    pub folder: TempDir,
}

impl TestServer {
    /// A server with the defaults.
    pub async fn start() -> TestServer {
        TestServer::start_with(|_| {}).await
    }

    /// A server that is configured otherwise.
    pub async fn start_with(configure: impl FnOnce(&mut ServerConfig)) -> TestServer {
        TestServer::start_in(tempfile::tempdir().unwrap(), configure).await
    }

    /// A server on a folder that one has left.
    pub async fn start_in(folder: TempDir, configure: impl FnOnce(&mut ServerConfig)) -> TestServer {
        let mut config = ServerConfig::new("127.0.0.1:0".parse().unwrap(), folder.path());
        config.log.segment_bytes = 4 << 20;
        configure(&mut config);
        let server = Server::bind(config).await.unwrap();
        let (address, shutdown) = (server.local_addr(), CancellationToken::new());
        let running = tokio::spawn(server.run(shutdown.clone()));
        TestServer { address, shutdown, running, folder }
    }

    /// The address of a path.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// A connection.
    pub async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// A call: method and path, header lines, body.
    pub async fn call(&self, line: &str, headers: &[&str], body: impl AsRef<[u8]>) -> Answer {
        let mut stream = self.connect().await;
        let body = body.as_ref();
        stream.write_all(head(line, headers, Some(body.len())).as_bytes()).await.unwrap();
        // A server that refuses the body may stop reading it.
        let _sent = stream.write_all(body).await;
        Answer::read(&mut stream).await
    }

    /// `GET`.
    pub async fn get(&self, path: &str) -> Answer {
        self.call(&format!("GET {path}"), &[], "").await
    }

    /// Publishes one batch in JSON.
    pub async fn publish(&self, namespace: &str, json: &str) -> Value {
        let line = format!("POST /v1/namespaces/{namespace}/records");
        self.call(&line, &["content-type: application/json"], json).await.ok()
    }

    /// The namespace's next offset; nothing where it does not exist.
    pub async fn next_offset(&self, namespace: &str) -> Option<u64> {
        let answer = self.get(&format!("/v1/namespaces/{namespace}")).await;
        match answer.status {
            200 => Some(answer.json()["next_offset"].as_u64().unwrap()),
            404 => None,
            status => panic!("{status}: {}", answer.text()),
        }
    }

    /// Waits until the metrics of this process have a line.
    pub async fn eventually_counts(&self, line: &str) {
        eventually(line, async || self.get("/metrics").await.text().lines().any(|found| found == line)).await;
    }

    /// Stops the server in order; leaves its folder.
    pub async fn stop(self) -> TempDir {
        self.shutdown.cancel();
        timeout(PATIENCE, self.running).await.expect("the server stops").unwrap().unwrap();
        self.folder
    }
}

/// The head of a request, on a connection that ends with the answer.
pub fn head(line: &str, headers: &[&str], length: Option<usize>) -> String {
    let mut head = format!("{line} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n");
    for header in headers {
        head.push_str(header);
        head.push_str("\r\n");
    }
    if let Some(length) = length {
        head.push_str(&format!("content-length: {length}\r\n"));
    }
    head + "\r\n"
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Answer {
    /// Reads an answer to the connection's end.
    pub async fn read(stream: &mut TcpStream) -> Answer {
        let mut bytes = Vec::new();
        let read = timeout(PATIENCE, stream.read_to_end(&mut bytes)).await.expect("an answer comes");
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n");
        let end = end.unwrap_or_else(|| panic!("no answer: {read:?}, {:?}", String::from_utf8_lossy(&bytes)));
        let head = String::from_utf8(bytes[..end].to_vec()).unwrap().to_lowercase();
        let mut body = bytes.split_off(end + 4);
        if head.contains("transfer-encoding: chunked") {
            body = unchunk(&body);
        }
        Answer { status: head[9..12].parse().unwrap(), head, body }
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).filter_map(|line| line.split_once(": ")).find(|(n, _)| *n == name).map(|(_, v)| v)
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    /// The JSON of an answer that is one of 2xx.
    pub fn ok(&self) -> Value {
        assert!((200..300).contains(&self.status), "{}: {}", self.status, self.text());
        self.json()
    }

    /// Checks that the call was refused with this status and code, saying this; the problem.
    #[track_caller]
    pub fn refused(&self, status: u16, code: &str, says: &str) -> Value {
        assert_eq!(self.status, status, "{}", self.text());
        assert_eq!(self.header("content-type"), Some("application/problem+json"));
        let problem = self.json();
        assert_eq!(problem["type"], format!("urn:tlog:error:{code}"), "{problem}");
        assert_eq!(problem["status"], status);
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains(says), "{detail:?} does not say {says:?}");
        problem
    }
}

/// Joins chunks; what is cut off is left out.
fn unchunk(mut bytes: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    while let Some(end) = bytes.windows(2).position(|window| window == b"\r\n") {
        let size = usize::from_str_radix(std::str::from_utf8(&bytes[..end]).unwrap(), 16).unwrap();
        let Some(chunk) = bytes.get(end + 2..end + 2 + size) else { break };
        body.extend_from_slice(chunk);
        bytes = bytes.get(end + 4 + size..).unwrap_or_default();
    }
    body
}

/// Waits until a condition holds.
pub async fn eventually<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    let waited = timeout(PATIENCE, async {
        while !condition().await {
            tokio::task::yield_now().await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("{what} did not come about"));
}
