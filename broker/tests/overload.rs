//! Overload: thousands of followers that wait, a thousand that never read, clients that send a byte now
//! and then, and publishers that offer twice what the log takes, all at once. Memory stays bounded, who
//! is too much is told so with 429, and nobody else notices. The figures are printed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use reqwest::{Client, StatusCode};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::{Value, json};
use support::sse::Events;
use support::{Broker, PATIENCE, client, http};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{interval, timeout};

/// Followers of quiet namespaces, and how many those are.
const IDLE: usize = 10_000;
const QUIET: usize = 100;

/// Followers of the busy namespace that never read.
const STUCK: usize = 1_000;

/// Clients that begin a request and don't go on.
const SLOW: usize = 400;

/// Bytes of a publish of the flood: large, so that the log is what limits it.
const FLOOD_BYTES: usize = 1 << 20;

/// How long capacity is measured, and how long twice of it is offered.
const MEASURE: Duration = Duration::from_secs(2);
const FLOOD: Duration = Duration::from_secs(6);

/// Requests of the flood at once: more than may wait for the log.
const FLOOD_AT_ONCE: u64 = 256;

/// Memory that an idle follower may cost.
const IDLE_BOUND: u64 = 24 << 10;

/// Memory that all of it together may cost: 256 MiB each of bodies, of what waits for the log and of
/// what is being sent, 240 MiB of idle followers, and as much again for what an allocator keeps, and the
/// stores.
const BOUND: u64 = 2 << 30;

#[tokio::test(flavor = "multi_thread")]
async fn overload_is_refused_and_disturbs_nobody() {
    raise_open_files();
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start_with(folder.path(), &["--max-connections", "12500"]);
    let client = client();
    let capacity = capacity(&client, &broker).await;
    let calm_alone = Calm::start(&client, &broker).await.run(MEASURE).await;

    let begin = broker.resident_bytes();
    let idle = idle_followers(&client, &broker).await;
    let each = broker.resident_bytes().saturating_sub(begin) / IDLE as u64;
    println!("{IDLE} idle followers: {each} bytes of resident memory each");
    assert!(each < IDLE_BOUND, "{each} bytes an idle follower");

    let stuck = stuck_followers(&broker).await;
    let slow = slow_clients(&broker).await;
    let calm = Calm::start(&client, &broker).await;
    let peak = Peak::watch(&broker);
    let (flood, calm) = tokio::join!(flood(&client, &broker, 2 * capacity), calm.run(FLOOD));
    let peak = peak.stop().await;
    flood.report(capacity);
    println!("a quiet namespace meanwhile: {calm}; before: {calm_alone}");
    println!("resident: {} MiB before, {} MiB at most", begin >> 20, peak >> 20);
    assert!(peak < begin + BOUND, "{} MiB", peak >> 20);
    assert!(flood.accepted > 0, "it goes on taking what it can");
    assert!(flood.refused > 0, "what is too much is refused");

    hear_of_it(&client, &broker, idle).await;
    wait_until_cut_off(slow).await;
    drop(stuck);
    let publish = http::publish(&client, &broker, "calm", &json!({"value": "still here"})).await;
    assert_eq!(publish.ids.len(), 1);
    assert!(broker.terminate().success());
}

/// Each follower takes a file here and one in the broker, which raises its own limit.
fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }).unwrap();
    assert!(limit.maximum.is_none_or(|files| files >= 16_000), "this needs 16,000 open files: {limit:?}");
}

fn flood_body() -> Bytes {
    Bytes::from(vec![b'x'; FLOOD_BYTES])
}

async fn post(client: &Client, url: &str, body: Bytes) -> reqwest::Response {
    client.post(url).header("content-type", "application/octet-stream").body(body).send().await.unwrap()
}

/// Publishes of a mebibyte a second that the log takes from clients which wait for their answers.
async fn capacity(client: &Client, broker: &Broker) -> u64 {
    let url = broker.url("/v1/namespaces/busy/records");
    let taken = Arc::new(AtomicU64::new(0));
    let until = Instant::now() + MEASURE;
    let mut publishers = JoinSet::new();
    for _ in 0..8 {
        let (client, url, taken) = (client.clone(), url.clone(), Arc::clone(&taken));
        publishers.spawn(async move {
            while Instant::now() < until {
                http::json::<Value>(post(&client, &url, flood_body()).await).await;
                taken.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    publishers.join_all().await;
    taken.load(Ordering::Relaxed) / MEASURE.as_secs()
}

async fn connect(broker: &Broker, request: &str) -> TcpStream {
    let mut stream = TcpStream::connect(broker.address()).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: tlog\r\n\r\n")
}

/// Reads until the answer has this in it.
async fn read_until(stream: &mut TcpStream, found: &str) {
    let mut seen = Vec::new();
    while !seen.windows(found.len()).any(|window| window == found.as_bytes()) {
        let read = timeout(PATIENCE, stream.read_buf(&mut seen)).await.expect("an answer comes").unwrap();
        assert!(read > 0, "the stream goes on");
    }
}

async fn idle_followers(client: &Client, broker: &Broker) -> Vec<TcpStream> {
    for quiet in 0..QUIET {
        http::publish(client, broker, &format!("quiet-{quiet}"), &json!({"value": 0})).await;
    }
    let mut idle = Vec::with_capacity(IDLE);
    for follower in 0..IDLE {
        let path = format!("/v1/namespaces/quiet-{}/events", follower % QUIET);
        idle.push(connect(broker, &get(&path)).await);
    }
    for stream in &mut idle {
        read_until(stream, "id: 0\n").await;
    }
    idle
}

/// They begin at many places, so that they don't hold the same records.
async fn stuck_followers(broker: &Broker) -> Vec<TcpStream> {
    let mut stuck = Vec::with_capacity(STUCK);
    for follower in 0..STUCK {
        let from = if follower % 4 == 0 { "end".to_owned() } else { (follower / 4).to_string() };
        stuck.push(connect(broker, &get(&format!("/v1/namespaces/busy/events?from={from}"))).await);
    }
    stuck
}

/// Half of them stop in the header, half in the body.
async fn slow_clients(broker: &Broker) -> Vec<TcpStream> {
    let mut slow = Vec::with_capacity(SLOW);
    for index in 0..SLOW {
        let begun = "POST /v1/namespaces/calm/records HTTP/1.1\r\nhost: tlog\r\n";
        let stopped_in_body = format!("{begun}content-type: text/plain\r\ncontent-length: 1000000\r\n\r\nnot yet");
        slow.push(connect(broker, if index % 2 == 0 { begun } else { &stopped_in_body }).await);
    }
    slow
}

/// Those who stopped in the header are cut off first; `http_server.rs` waits for the others.
async fn wait_until_cut_off(slow: Vec<TcpStream>) {
    for mut stream in slow.into_iter().step_by(2) {
        let mut answer = Vec::new();
        // A reset is an end as well.
        let _closed = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("it is cut off");
        assert!(answer.is_empty(), "{}", String::from_utf8_lossy(&answer));
    }
}

/// Every idle follower is told of the one record that comes.
async fn hear_of_it(client: &Client, broker: &Broker, idle: Vec<TcpStream>) {
    let begun = Instant::now();
    for quiet in 0..QUIET {
        http::publish(client, broker, &format!("quiet-{quiet}"), &json!({"value": "news"})).await;
    }
    for mut stream in idle {
        read_until(&mut stream, "\"news\"").await;
    }
    println!("{IDLE} followers of {QUIET} namespaces heard of it within {:.0?}", begun.elapsed());
}

/// What became of more than the log takes.
#[derive(Debug, Default)]
struct Flood {
    offered: u64,
    accepted: u64,
    refused: u64,
    latencies: Vec<Duration>,
}

impl Flood {
    fn report(&self, capacity: u64) {
        let Flood { offered, accepted, refused, latencies } = self;
        let seconds = FLOOD.as_secs();
        println!(
            "offered {} MiB/s to a log that takes {capacity} from those who wait: {} MiB/s taken, {refused} of {offered} refused with 429, p99 of those taken {:.0?}",
            offered / seconds,
            accepted / seconds,
            percentile(latencies, 99)
        );
    }
}

/// Offers `rate` publishes of a mebibyte a second, whatever the answers.
async fn flood(client: &Client, broker: &Broker, rate: u64) -> Flood {
    let url = broker.url("/v1/namespaces/busy/records");
    let mut due = interval(Duration::from_secs(1) / rate.max(1) as u32);
    let (begun, mut flood, mut under_way) = (Instant::now(), Flood::default(), JoinSet::new());
    while begun.elapsed() < FLOOD {
        due.tick().await;
        while under_way.len() as u64 >= FLOOD_AT_ONCE {
            flood.take(under_way.join_next().await.unwrap().unwrap());
        }
        let (client, url) = (client.clone(), url.clone());
        flood.offered += 1;
        under_way.spawn(async move {
            let sent = Instant::now();
            let answer = post(&client, &url, flood_body()).await;
            let retry_after = answer.headers().contains_key("retry-after");
            let status = answer.status();
            answer.bytes().await.unwrap();
            (status, retry_after, sent.elapsed())
        });
    }
    while let Some(answer) = under_way.join_next().await {
        flood.take(answer.unwrap());
    }
    flood
}

impl Flood {
    fn take(&mut self, (status, retry_after, latency): (StatusCode, bool, Duration)) {
        match status {
            StatusCode::OK => {
                self.accepted += 1;
                self.latencies.push(latency);
            }
            StatusCode::TOO_MANY_REQUESTS => {
                assert!(retry_after, "a refusal says when to come again");
                self.refused += 1;
            }
            other => panic!("{other} is no answer to too much"),
        }
    }
}

fn percentile(latencies: &[Duration], percent: usize) -> Duration {
    let mut sorted = latencies.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len() * percent / 100).copied().unwrap_or_default()
}

/// A namespace with one publisher and one follower, who want to notice nothing.
struct Calm {
    client: Client,
    url: String,
    first: u64,
    events: Events,
}

/// What they noticed.
#[derive(Debug)]
struct CalmFigures {
    published: Vec<Duration>,
    delivered: Vec<Duration>,
}

impl std::fmt::Display for CalmFigures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let of = |latencies| (percentile(latencies, 50), percentile(latencies, 99));
        let ((p50, p99), (d50, d99)) = (of(&self.published), of(&self.delivered));
        write!(f, "publish p50 {p50:.1?} p99 {p99:.1?}, delivery p50 {d50:.1?} p99 {d99:.1?}")
    }
}

impl Calm {
    async fn start(client: &Client, broker: &Broker) -> Calm {
        let first = http::publish(client, broker, "calm", &json!({"value": "first"})).await.next_offset;
        let events = Events::connect(client, &broker.url("/v1/namespaces/calm/events"), None).await;
        Calm { client: client.clone(), url: broker.url("/v1/namespaces/calm/records"), first, events }
    }

    /// Publishes now and then for a time; each record is delivered once and in order.
    async fn run(mut self, time: Duration) -> CalmFigures {
        let begun = Instant::now();
        let mut due = interval(Duration::from_millis(20));
        let mut figures = CalmFigures { published: Vec::new(), delivered: Vec::new() };
        let mut offset = self.first;
        while begun.elapsed() < time {
            due.tick().await;
            let sent = Instant::now();
            let publish = async {
                let body = json!({"value": offset});
                let answer = self.client.post(&self.url).json(&body).send().await.unwrap();
                http::json::<Value>(answer).await;
                sent.elapsed()
            };
            let delivery = async {
                let event = timeout(PATIENCE, self.events.next()).await.expect("it is delivered").unwrap();
                assert_eq!(event.id, offset.to_string(), "each once, in order");
                sent.elapsed()
            };
            let (published, delivered) = tokio::join!(publish, delivery);
            figures.published.push(published);
            figures.delivered.push(delivered);
            offset += 1;
        }
        figures
    }
}

/// The most memory that the broker has resident.
struct Peak {
    stop: Arc<AtomicBool>,
    watching: tokio::task::JoinHandle<u64>,
}

impl Peak {
    fn watch(broker: &Broker) -> Peak {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, status) = (Arc::clone(&stop), format!("/proc/{}/status", broker.pid()));
        let watching = tokio::spawn(async move {
            let (mut due, mut peak) = (interval(Duration::from_millis(20)), 0);
            while !stopped.load(Ordering::Relaxed) {
                due.tick().await;
                peak = peak.max(support::resident_bytes_of(&status));
            }
            peak
        });
        Peak { stop, watching }
    }

    async fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.watching.await.unwrap()
    }
}
