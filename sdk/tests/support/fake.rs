//! A broker of one namespace, in memory, that misbehaves as it is told.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use axum::body::{Body, Bytes};
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use futures::StreamExt;
use tokio::sync::watch;
use wire::json::{Lines, Lost, time_text, write_record};
use wire::{Code, Draft, FRAMES_MEDIA_TYPE, Frame, Problem, Producer, ProducerId};

use super::Log;

/// What is done to a publish.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// Nothing.
    None,
    /// It is refused, and nothing stored.
    Refuse(Code),
    /// The connection breaks, and nothing is stored.
    LoseRequest,
    /// It is stored, and the connection breaks.
    LoseAnswer,
    /// It waits until this many publishes have been answered.
    Hold(u64),
}

/// What the broker holds, and how it is going to misbehave.
#[derive(Default)]
pub struct Inner {
    pub log: Log,
    /// Next sequence and the first offsets of the batches of each producer and epoch.
    producers: HashMap<(ProducerId, u32), Vec<u64>>,
    /// One for each publish to come.
    pub faults: VecDeque<Fault>,
    /// After how many bytes each rebuild, page of events to come breaks off.
    pub cuts: VecDeque<usize>,
    /// Where each rebuild began.
    pub rebuilt_from: Vec<u64>,
    /// The sequence of each publish that came.
    pub sequences: Vec<u64>,
    /// Most publishes that were there at once.
    pub most_at_once: usize,
    at_once: usize,
    /// Goes before the events of the next connection.
    pub before_events: String,
}

pub struct Fake {
    inner: Mutex<Inner>,
    /// How many publishes have been answered.
    answered: watch::Sender<u64>,
    pub url: String,
}

type Shared = State<Arc<Fake>>;
type Parameters = Query<HashMap<String, String>>;

impl Fake {
    pub async fn start(log: Log) -> Arc<Fake> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let inner = Mutex::new(Inner { log, ..Inner::default() });
        let fake = Arc::new(Fake { inner, answered: watch::Sender::new(0), url });
        let app = Router::new()
            .route("/v1/namespaces/{ns}", get(info))
            .route("/v1/namespaces/{ns}/records", post(publish).get(page))
            .route("/v1/namespaces/{ns}/rebuild", get(rebuild))
            .route("/v1/namespaces/{ns}/events", get(events))
            .with_state(Arc::clone(&fake));
        tokio::spawn(async move { axum::serve(listener, app).await });
        fake
    }

    pub fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    pub fn append(&self, draft: Draft) {
        self.inner().log.append(draft, None);
        self.answered.send_modify(|answered| *answered += 1);
    }

    fn arrived(&self, sequence: u64) -> Fault {
        let mut inner = self.inner();
        inner.sequences.push(sequence);
        inner.at_once += 1;
        inner.most_at_once = inner.most_at_once.max(inner.at_once);
        inner.faults.pop_front().unwrap_or(Fault::None)
    }
}

async fn info(State(fake): Shared) -> Response {
    let inner = fake.inner();
    let (next, chain) = (inner.log.next_offset(), inner.log.chain().to_string());
    let config = wire::NamespaceConfig::default();
    Json(serde_json::json!({
        "name": "n", "id": 7, "generation": 0, "next_offset": next, "chain": chain, "bytes": 0, "config": config,
    }))
    .into_response()
}

async fn publish(State(fake): Shared, headers: HeaderMap, body: Bytes) -> Response {
    let header = |name: &str| headers.get(name).map(|value| std::str::from_utf8(value.as_bytes()).unwrap().to_owned());
    assert_eq!(header("content-length"), Some(body.len().to_string()), "a batch is not sent in chunks");
    let producer = header("producer-id").map(|id| Producer {
        id: ProducerId::of(&id).unwrap(),
        epoch: header("producer-epoch").unwrap().parse().unwrap(),
        sequence: header("producer-seq").unwrap().parse().unwrap(),
    });
    let draft = Draft::decode(body.to_vec()).unwrap();
    let fault = fake.arrived(producer.map_or(0, |producer| producer.sequence));
    if let Fault::Hold(answered) = fault {
        fake.answered.subscribe().wait_for(|now| *now >= answered).await.unwrap();
    }
    let answer = match fault {
        Fault::Refuse(code) => problem(code),
        Fault::LoseRequest => broken(),
        Fault::LoseAnswer => {
            store(&fake, draft, producer);
            broken()
        }
        Fault::None | Fault::Hold(_) => store(&fake, draft, producer),
    };
    fake.inner().at_once -= 1;
    fake.answered.send_modify(|answered| *answered += 1);
    answer
}

fn store(fake: &Fake, draft: Draft, producer: Option<Producer>) -> Response {
    let mut inner = fake.inner();
    if let Some(Producer { id, epoch, sequence }) = producer {
        let next_offset = inner.log.next_offset();
        let batches = inner.producers.entry((id, epoch)).or_default();
        match usize::try_from(sequence).unwrap() {
            sequence if sequence > batches.len() => return problem(Code::ProducerGap),
            sequence if sequence < batches.len() => {
                let first = batches[sequence];
                let frame = inner.log.frames.iter().find(|frame| frame.base_offset() == first).unwrap();
                return stored(frame, true);
            }
            _ => batches.push(next_offset),
        }
    }
    stored(&inner.log.append(draft, producer), false)
}

fn stored(frame: &Frame, duplicate: bool) -> Response {
    let ids: Vec<String> = frame.records().map(|record| record.id.to_string()).collect();
    Json(serde_json::json!({
        "first_offset": frame.base_offset(), "next_offset": frame.next_offset(), "ids": ids,
        "chain": frame.chain().to_string(), "duplicate": duplicate,
    }))
    .into_response()
}

async fn page(State(fake): Shared, Query(parameters): Parameters) -> Response {
    let from = parameters["from"].parse().unwrap();
    let inner = fake.inner();
    let frames = inner.log.from(from).flat_map(|frame| frame.bytes().to_vec()).collect::<Vec<u8>>();
    let head = inner.log.next_offset().to_string();
    ([("content-type", FRAMES_MEDIA_TYPE), ("tlog-head", &head)], frames).into_response()
}

async fn rebuild(State(fake): Shared, Query(parameters): Parameters) -> Response {
    let from = parameters.get("from").map_or(0, |from| from.parse().unwrap());
    let mut inner = fake.inner();
    inner.rebuilt_from.push(from);
    let stream = inner.log.stream(from);
    match inner.cuts.pop_front() {
        Some(cut) if cut < stream.len() => cut_off(stream[..cut].to_vec(), FRAMES_MEDIA_TYPE),
        _ => ([("content-type", FRAMES_MEDIA_TYPE)], stream).into_response(),
    }
}

async fn events(State(fake): Shared, headers: HeaderMap, Query(parameters): Parameters) -> Response {
    let last = headers.get("last-event-id").map(|id| id.to_str().unwrap().parse::<u64>().unwrap());
    let from = match (last, parameters.get("from").map(String::as_str)) {
        (Some(last), _) => last + 1,
        (None, Some("start")) => 0,
        (None, from) => from.unwrap().parse().unwrap(),
    };
    let mut text = std::mem::take(&mut fake.inner().before_events).into_bytes();
    text.extend(events_text(&fake.inner().log, from));
    if let Some(cut) = fake.inner().cuts.pop_front() {
        text.truncate(cut);
        return cut_off(text, "text/event-stream");
    }
    let next = fake.inner().log.next_offset();
    let follow = futures::stream::unfold((fake, next), |(fake, next)| async move {
        let mut answered = fake.answered.subscribe();
        answered.wait_for(|_| fake.inner().log.next_offset() > next).await.ok()?;
        let log = fake.inner().log.clone();
        Some((events_text(&log, next), (fake, log.next_offset())))
    });
    let body = futures::stream::iter([text]).chain(follow).map(Ok::<_, io::Error>);
    ([("content-type", "text/event-stream")], Body::from_stream(body)).into_response()
}

fn events_text(log: &Log, from: u64) -> Vec<u8> {
    let mut text = Vec::new();
    for frame in log.from(from) {
        if frame.is_loss() {
            let lost = Lost { from: frame.base_offset().max(from), to: frame.next_offset() };
            let reset = serde_json::to_string(&lost.reset()).unwrap();
            text.extend_from_slice(format!("event: reset\nid: {}\ndata: {reset}\n\n", lost.to - 1).as_bytes());
        }
        for record in frame.records().filter(|record| record.offset >= from) {
            text.extend_from_slice(format!("id: {}\ndata: ", record.offset).as_bytes());
            write_record(&mut text, &record, &time_text(record.time_micros), None, Lines::Fold).unwrap();
            text.extend_from_slice(b"\n\n");
        }
    }
    text
}

fn problem(code: Code) -> Response {
    let status = StatusCode::from_u16(code.status()).unwrap();
    let body = serde_json::to_vec(&Problem::new(code, code.title())).unwrap();
    (status, [("content-type", "application/problem+json")], body).into_response()
}

fn broken() -> Response {
    cut_off(Vec::new(), "application/json")
}

/// An answer that begins well and breaks off.
fn cut_off(begin: Vec<u8>, media_type: &'static str) -> Response {
    // The connection sends what it has before it waits, and so before it breaks.
    let breaks = futures::stream::once(async {
        tokio::task::yield_now().await;
        Err(io::Error::other("told to break"))
    });
    let body = futures::stream::iter([Ok(begin)]).chain(breaks);
    ([("content-type", media_type)], Body::from_stream(body)).into_response()
}
