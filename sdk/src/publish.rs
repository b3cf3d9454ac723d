//! One batch, one request.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use reqwest::header::{CONTENT_TYPE, HeaderName, HeaderValue, IF_MATCH};
use reqwest::{Method, Request};
use serde::Deserialize;
use tokio::sync::oneshot;
use wire::json::Lost;
use wire::{Chain, Draft, FRAMES_MEDIA_TYPE, NewRecord, ObjectId, Offset};

use crate::error::Error;
use crate::http::Repeat;
use crate::namespace::Namespace;
use crate::text::{Text, from_text};

const PRODUCER_ID: HeaderName = HeaderName::from_static("producer-id");
const PRODUCER_EPOCH: HeaderName = HeaderName::from_static("producer-epoch");
const PRODUCER_SEQ: HeaderName = HeaderName::from_static("producer-seq");

/// Bytes of a body that are handed to the connection at a time.
const PIECE_BYTES: usize = 64 << 10;

/// Where a batch is, once it is durable.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
pub struct Published {
    /// The offset of its first record.
    pub first_offset: Offset,
    /// The offset behind its last record.
    pub next_offset: Offset,
    /// Its records' ids, in order.
    #[serde(deserialize_with = "ids")]
    pub ids: Vec<ObjectId>,
    /// The namespace's chain after it.
    #[serde(deserialize_with = "from_text")]
    pub chain: Chain,
    /// Whether it had been stored before, by an earlier attempt.
    #[serde(default)]
    pub duplicate: bool,
}

fn ids<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<ObjectId>, D::Error> {
    Ok(Vec::<Text<ObjectId>>::deserialize(deserializer)?.into_iter().map(|text| text.0).collect())
}

/// What a batch's publish depends on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Append<'a> {
    /// Append only if this is the namespace's next offset.
    pub if_next_offset: Option<Offset>,
    /// The batch's producer and number, so that it is stored once however often it is sent.
    pub producer: Option<Sequenced<'a>>,
}

/// A producer's batch: who sends it, and the how-manieth it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sequenced<'a> {
    /// What the producer calls itself: 1 to 255 bytes.
    pub id: &'a str,
    /// Which life of the producer: a higher one fences those before.
    pub epoch: u32,
    /// Which batch of that life, in this namespace: from 0, by one.
    pub sequence: u64,
}

impl Namespace {
    /// Publishes one record. See [`Namespace::append`] for what a failure means.
    pub async fn publish(&self, record: &NewRecord<'_>) -> Result<Published, Error> {
        self.append(Draft::of(record)?, Append::default()).await
    }

    /// Publishes a batch: readers see all of it or none. See [`Namespace::append`] for what a
    /// failure means.
    pub async fn publish_batch(&self, batch: Draft) -> Result<Published, Error> {
        self.append(batch, Append::default()).await
    }

    /// Publishes a batch on conditions. It is repeated where that is safe: with a producer always,
    /// else only where nothing was stored.
    ///
    /// # Errors
    /// What the broker answers, such as [`wire::Code::OffsetMismatch`]. After an error whose
    /// [`Error::retry`] is [`wire::Retry::Unknown`] the batch may have been stored.
    pub async fn append(&self, batch: Draft, append: Append<'_>) -> Result<Published, Error> {
        let records = batch.record_count();
        let mut request = self.append_request(append)?;
        *request.body_mut() = Some(batch.encode().into());
        let repeat = if append.producer.is_some() { Repeat::Always } else { Repeat::WhenSafe };
        let answer = self.client().call(&request, repeat, Duration::ZERO).await?;
        answer.json::<Published>()?.check(records)
    }

    /// One attempt at a batch of a publisher. `uploaded` is dropped once the connection has
    /// taken the whole of it.
    pub(crate) async fn append_once(
        &self,
        batch: Bytes,
        records: u32,
        producer: Sequenced<'_>,
        uploaded: oneshot::Sender<Infallible>,
    ) -> Result<Published, Error> {
        let mut request = self.append_request(Append { if_next_offset: None, producer: Some(producer) })?;
        *request.body_mut() = Some(reqwest::Body::wrap(Upload { rest: batch, uploaded: Some(uploaded) }));
        let answer = self.client().answer(request, self.client().inner.timeout).await?;
        answer.json::<Published>()?.check(records)
    }

    fn append_request(&self, append: Append<'_>) -> Result<Request, Error> {
        let mut request = self.request(Method::POST, &["records"])?;
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(FRAMES_MEDIA_TYPE));
        if let Some(offset) = append.if_next_offset {
            let tag = HeaderValue::try_from(format!("\"{offset}\""));
            headers.insert(IF_MATCH, tag.map_err(|error| Error::Reply(error.to_string()))?);
        }
        if let Some(Sequenced { id, epoch, sequence }) = append.producer {
            headers.insert(PRODUCER_ID, producer_id(id)?);
            headers.insert(PRODUCER_EPOCH, HeaderValue::from(epoch));
            headers.insert(PRODUCER_SEQ, HeaderValue::from(sequence));
        }
        Ok(request)
    }
}

/// A producer's id as a header.
pub(crate) fn producer_id(id: &str) -> Result<HeaderValue, Error> {
    wire::ProducerId::of(id)?;
    let what = "the producer's id";
    let control = |character: char| wire::NameError::Control { what, character: u32::from(character) };
    match id.chars().find(|c| c.is_control()) {
        Some(character) => Err(control(character).into()),
        None => HeaderValue::from_str(id).map_err(|_| wire::NameError::NotUtf8 { what }.into()),
    }
}

impl Published {
    fn check(self, records: u32) -> Result<Published, Error> {
        let told = (self.next_offset.checked_sub(self.first_offset), self.ids.len());
        if told == (Some(u64::from(records)), records as usize) {
            return Ok(self);
        }
        if self.duplicate && self.ids.is_empty() {
            // It was stored, and where it stood there is a loss now.
            return Err(Error::Lost(Lost { from: self.first_offset, to: self.next_offset }));
        }
        Err(Error::Reply(format!(
            "{} ids and offsets {} to {} for {records} records",
            self.ids.len(),
            self.first_offset,
            self.next_offset
        )))
    }
}

/// A body that says when the connection has taken the last of it.
struct Upload {
    rest: Bytes,
    uploaded: Option<oneshot::Sender<Infallible>>,
}

impl Body for Upload {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.rest.is_empty() {
            return Poll::Ready(None);
        }
        let piece = self.rest.len().min(PIECE_BYTES);
        let piece = self.rest.split_to(piece);
        if self.rest.is_empty() {
            self.uploaded = None;
        }
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest.len() as u64)
    }
}
