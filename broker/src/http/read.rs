//! `GET /v1/namespaces/{ns}/records`: a page of records, as JSON, NDJSON or frames.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::header::{CONTENT_TYPE, VARY};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Uri};
use axum::response::{IntoResponse, Response};
use tlog::{Namespace, SharedFrame};
use tokio::time::{Instant, timeout_at};
use wire::json::{Lines, Lost, ResetLine, time_text, write_record};
use wire::limits::{DEFAULT_PAGE_RECORDS, MAX_PAGE_BYTES, MAX_PAGE_RECORDS};
use wire::{FRAMES_MEDIA_TYPE, Offset, Record};

use crate::http::error::Refusal;
use crate::http::query::{Begin, Known, Query};
use crate::http::{media, openapi, path};
use crate::state::{Broker, Shared};
use crate::telemetry::Open;

/// Where to go on, beside a page that has no place for it.
pub(crate) const NEXT_OFFSET: HeaderName = HeaderName::from_static("tlog-next-offset");

/// The namespace's next offset, beside such a page.
pub(crate) const HEAD: HeaderName = HeaderName::from_static("tlog-head");

/// How much is read at once at most, bytes of frames.
const READ_BYTES: usize = 1 << 20;

/// What a record is taken to need when a small page is read, bytes.
const RECORD_BYTES: usize = 512;

/// Read a page of records from an offset on.
///
/// At the head the page is empty; `wait` long-polls there. Where records were lost the page says so: in
/// JSON as `lost`, in NDJSON on a line where they stood, as frames by a frame that stands for them.
/// `next_offset` passes them, and `limit` counts records. A page ends early where it has many bytes.
/// As frames it comes in whole frames: the first may begin before `from`, and `limit` is what it
/// stops after. NDJSON and frames say where to go on in the headers `Tlog-Next-Offset` and `Tlog-Head`.
#[utoipa::path(
    get,
    path = "/v1/namespaces/{ns}/records",
    operation_id = "readRecords",
    tag = "records",
    params(
        openapi::Ns,
        ("from" = Option<String>, Query, description = "An offset, `start` (default) or `end`"),
        ("limit" = Option<u64>, Query, minimum = 1, maximum = 10_000, description = "Records at most; 1000 by default"),
        ("wait" = Option<u64>, Query, maximum = 60_000, description = "How long to wait at the head, milliseconds"),
    ),
    responses(
        (status = 200, description = "A page", content(
            (openapi::RecordPage = "application/json"),
            (openapi::Line = "application/x-ndjson"),
            (Vec<u8> = "application/vnd.tlog.frames"),
        )),
        openapi::Problems,
    )
)]
pub(crate) async fn read(State(broker): Shared, uri: Uri, headers: HeaderMap) -> Result<Response, Refusal> {
    let name = path::namespace(&uri)?;
    let query = Query::parse(&uri, &[Known::Once("from"), Known::Once("limit"), Known::Once("wait")])?;
    let begin = query.from(Begin::Start)?;
    let limit = query.limit(DEFAULT_PAGE_RECORDS, MAX_PAGE_RECORDS)?;
    let wait = Duration::from_millis(query.wait()?.unwrap_or(0));
    let media_type = media::negotiate(&headers, &[media::JSON, media::NDJSON, FRAMES_MEDIA_TYPE])?;
    let namespace = broker.namespace(&name)?;
    let from = match begin {
        Begin::Start => 0,
        Begin::End => broker.log.head(&namespace)?.next_offset,
        Begin::At(offset) => offset,
    };
    let mut page = Page::new(media_type, from, limit);
    fill(&broker, &namespace, &mut page, wait).await?;
    // Asked for after the page was read, so never below its end.
    let head = broker.log.head(&namespace)?.next_offset;
    page.finish(head)
}

/// Fills a page; at the head, waits for a first record.
async fn fill(broker: &Arc<Broker>, namespace: &Namespace, page: &mut Page, wait: Duration) -> Result<(), Refusal> {
    // Registered before the first read, so no append falls between.
    let follower = (!wait.is_zero()).then(|| broker.log.follower(std::slice::from_ref(namespace)));
    let mut reader = broker.log.reader(namespace, page.next_offset)?;
    let deadline = Instant::now() + wait;
    while !page.is_full() {
        let frames = reader.read(page.read_bytes()).await?;
        if !frames.is_empty() {
            for frame in &frames {
                page.push(frame)?;
            }
            tokio::task::yield_now().await;
            continue;
        }
        let Some(follower) = follower.as_ref().filter(|_| page.next_offset == page.from) else { break };
        let _open = Open::subscriber();
        let waited = tokio::select! {
            waited = timeout_at(deadline, follower.changed()) => waited,
            () = broker.closing.cancelled() => break,
        };
        if waited.is_err() {
            break;
        }
    }
    Ok(())
}

/// A page as it is written.
struct Page {
    media_type: &'static str,
    body: Vec<u8>,
    records: usize,
    /// What is lost, for a page that has a place for it.
    lost: Vec<Lost>,
    limit: usize,
    from: Offset,
    /// The offset behind the last record or loss that is in it.
    next_offset: Offset,
}

impl Page {
    fn new(media_type: &'static str, from: Offset, limit: usize) -> Page {
        let body = if media_type == media::JSON { b"{\"records\":[".to_vec() } else { Vec::new() };
        Page { media_type, body, records: 0, lost: Vec::new(), limit, from, next_offset: from }
    }

    fn is_full(&self) -> bool {
        self.records >= self.limit || self.body.len() >= MAX_PAGE_BYTES
    }

    /// How much to read for what is left of the page.
    fn read_bytes(&self) -> usize {
        (self.limit - self.records).saturating_mul(RECORD_BYTES).min(READ_BYTES)
    }

    /// Adds what there is room for.
    fn push(&mut self, frame: &SharedFrame) -> Result<(), Refusal> {
        if self.is_full() {
            return Ok(());
        }
        if self.media_type == FRAMES_MEDIA_TYPE {
            self.body.extend_from_slice(frame.bytes());
            if !frame.is_loss() {
                self.records += frame.next_offset().saturating_sub(self.next_offset) as usize;
            }
            self.next_offset = frame.next_offset();
            return Ok(());
        }
        if frame.is_loss() {
            return self.push_lost(Lost { from: self.next_offset, to: frame.next_offset() });
        }
        let time = time_text(frame.time_micros());
        let first = self.next_offset;
        for record in frame.records().skip_while(|record| record.offset < first) {
            if self.is_full() {
                break;
            }
            self.push_record(&record, &time)?;
        }
        Ok(())
    }

    fn push_lost(&mut self, lost: Lost) -> Result<(), Refusal> {
        if lost.records() == 0 {
            return Ok(());
        }
        if self.media_type == media::NDJSON {
            serde_json::to_writer(&mut self.body, &ResetLine { reset: lost.reset() })?;
            self.body.push(b'\n');
        } else {
            lost.push_to(&mut self.lost);
        }
        self.next_offset = lost.to;
        Ok(())
    }

    fn push_record(&mut self, record: &Record<'_>, time: &str) -> Result<(), Refusal> {
        if self.media_type == media::NDJSON {
            write_record(&mut self.body, record, time, None, Lines::Fold)?;
            self.body.push(b'\n');
        } else {
            if self.records > 0 {
                self.body.push(b',');
            }
            write_record(&mut self.body, record, time, None, Lines::Keep)?;
        }
        self.records += 1;
        self.next_offset = record.offset + 1;
        Ok(())
    }

    fn finish(mut self, head: Offset) -> Result<Response, Refusal> {
        let json = self.media_type == media::JSON;
        if json {
            self.body.push(b']');
            if !self.lost.is_empty() {
                self.body.extend_from_slice(b",\"lost\":");
                serde_json::to_writer(&mut self.body, &self.lost)?;
            }
            self.body.extend_from_slice(format!(",\"next_offset\":{},\"head\":{head}}}", self.next_offset).as_bytes());
        }
        let mut response = self.body.into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(self.media_type));
        headers.insert(VARY, HeaderValue::from_static("accept"));
        if !json {
            headers.insert(NEXT_OFFSET, HeaderValue::from(self.next_offset));
            headers.insert(HEAD, HeaderValue::from(head));
        }
        Ok(response)
    }
}
