//! Pages of records from an offset on, as frames.

use std::time::Duration;

use reqwest::header::{ACCEPT, HeaderMap, HeaderName, HeaderValue};
use wire::json::Lost;
use wire::limits::MAX_PAGE_RECORDS;
use wire::{FRAMES_MEDIA_TYPE, Frame, FrameDecoder, Offset, StreamItem};

use crate::error::Error;
use crate::http::{Repeat, add_query, media_type};
use crate::namespace::Namespace;
use crate::record::{Record, records};

/// Records from an offset on.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Page {
    /// The records, in order, and without a gap but for what was lost.
    pub records: Vec<Record>,
    /// What was lost from where the page begins to where it ends; nothing, as a rule.
    pub lost: Vec<Lost>,
    /// Where to go on. Where there is nothing, this is what was asked for: the head.
    pub next_offset: Offset,
    /// The namespace's next offset as of the answer.
    pub head: Offset,
}

const HEAD: HeaderName = HeaderName::from_static("tlog-head");

impl Namespace {
    /// Up to `limit` records (1 to 10,000) from an offset on; none at the head. Where there is
    /// nothing, the broker waits up to `wait` (60 s at most) for the next one.
    ///
    /// # Errors
    /// [`wire::Code::OffsetPastHead`] where the offset is behind the head.
    pub async fn read(&self, from: Offset, limit: usize, wait: Duration) -> Result<Page, Error> {
        let limit = limit.clamp(1, MAX_PAGE_RECORDS);
        let mut request = self.get(&["records"])?;
        let wait_ms = (!wait.is_zero()).then(|| ("wait", wait.as_millis().to_string()));
        add_query(
            request.url_mut(),
            [("from", from.to_string()), ("limit", limit.to_string())].into_iter().chain(wait_ms),
        );
        request.headers_mut().insert(ACCEPT, HeaderValue::from_static(FRAMES_MEDIA_TYPE));
        let answer = self.client().call(&request, Repeat::Always, wait).await?;
        match media_type(&answer.headers) {
            Some(FRAMES_MEDIA_TYPE) => page(&answer.body, from, limit, head(&answer.headers)?),
            other => Err(Error::Reply(format!("a page of media type {other:?}"))),
        }
    }
}

fn head(headers: &HeaderMap) -> Result<Offset, Error> {
    let head = headers.get(HEAD).and_then(|head| head.to_str().ok()?.parse().ok());
    head.ok_or_else(|| Error::Reply(format!("a page without {HEAD}")))
}

/// The records of a body of whole frames. The first frame may begin before `from`, and the last one
/// end behind `limit`: a frame is never cut.
fn page(body: &[u8], from: Offset, limit: usize, head: Offset) -> Result<Page, Error> {
    let mut decoder = FrameDecoder::default();
    decoder.push(body);
    let mut page = Page { records: Vec::new(), lost: Vec::new(), next_offset: from, head };
    while let Some(item) = decoder.next()? {
        let StreamItem::Frame(frame) = item else { continue };
        if frame.is_loss() {
            page.pass_loss(&frame, limit)?;
            continue;
        }
        for record in records(&frame).filter(|record| record.offset >= from).take(limit - page.records.len()) {
            if record.offset != page.next_offset {
                return Err(Error::OffsetGap { expected: page.next_offset, found: record.offset });
            }
            page.next_offset += 1;
            page.records.push(record);
        }
    }
    match decoder.pending() {
        0 => Ok(page),
        cut => Err(Error::Reply(format!("a page ends within a frame, {cut} bytes are left"))),
    }
}

impl Page {
    /// Goes past a loss, if the page is not full: then it is the next one's.
    fn pass_loss(&mut self, frame: &Frame, limit: usize) -> Result<(), Error> {
        if self.records.len() == limit || frame.next_offset() <= self.next_offset {
            return Ok(());
        }
        if frame.base_offset() > self.next_offset {
            return Err(Error::OffsetGap { expected: self.next_offset, found: frame.base_offset() });
        }
        Lost { from: self.next_offset, to: frame.next_offset() }.push_to(&mut self.lost);
        self.next_offset = frame.next_offset();
        Ok(())
    }
}
