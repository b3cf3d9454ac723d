//! Publishing NDJSON: a line a record, a stream of any length, stored in batches.
//!
//! While one batch is being made durable, the next gathers, as the sequencer does it below: so the
//! body is parsed and written at the same time, and batches grow with the time a write takes. There
//! is never more than one under way, so what is stored is always a beginning of the stream, without
//! a gap, and an answer can say where it ends.

use std::future::{Future, pending, ready};
use std::pin::Pin;
use std::time::Duration;

use axum::response::Response;
use serde::Serialize;
use tlog::{Append, AppendError, Appended, Namespace};
use tokio::time::sleep;
use utoipa::ToSchema;
use wire::limits::{MAX_LINE_BYTES, MAX_RECORD_BYTES};
use wire::{Code, DraftBuilder, NamespaceName, Offset};

use crate::http::answer::answer;
use crate::http::batch;
use crate::http::body::Arriving;
use crate::http::error::Refusal;
use crate::http::hex::Hex;
use crate::http::lines::{LineTooLong, Lines};
use crate::http::publish::{Conditions, ensure};
use crate::state::Broker;

/// A batch of this many records is stored as soon as none is under way.
const BATCH_RECORDS: usize = 1_000;

/// A batch of this many bytes is stored as soon as none is under way.
const BATCH_BYTES: usize = 1 << 20;

/// A batch does not grow past this many records, however long the one before it takes.
const FULL_RECORDS: usize = 4_000;

/// A batch does not grow past this many bytes and one record.
const FULL_BYTES: usize = 4 << 20;

/// How long a smaller batch waits for more, when the input pauses and none is under way.
const LINGER: Duration = Duration::from_millis(5);

/// What a stream of NDJSON has become.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Progress {
    /// Offset of the first record.
    first_offset: Offset,
    /// The offset behind the last; others may have published in between.
    next_offset: Offset,
    /// How many records were stored.
    records: u64,
    /// In how many batches.
    batches: u64,
    /// The namespace's chain after the last of them.
    #[schema(value_type = String)]
    chain: Hex<32>,
}

/// Stores the records of a body as they arrive.
pub(crate) async fn publish(
    broker: &Broker,
    name: &NamespaceName,
    conditions: Conditions,
    body: &mut Arriving,
) -> Result<Response, Refusal> {
    if conditions.producer.is_some() {
        let detail = "NDJSON takes no producer: a retry could be cut into other batches; send batches of JSON";
        return Err(Refusal::new(Code::InvalidProducer, detail));
    }
    let mut stream = Stream {
        broker,
        name,
        conditions,
        namespace: broker.log.namespace(name)?,
        gathering: DraftBuilder::default(),
        first_line: 1,
        lines: 0,
        under_way: None,
        progress: None,
    };
    stream.run(body).await?;
    match &stream.progress {
        Some(progress) => answer(progress),
        None => Err(Refusal::new(Code::EmptyBatch, "the body has no record")),
    }
}

/// A batch that is being made durable.
struct Storing {
    append: Pin<Box<dyn Future<Output = Result<Appended, AppendError>> + Send>>,
    first_line: u64,
}

struct Stream<'b> {
    broker: &'b Broker,
    name: &'b NamespaceName,
    /// Of the first batch; those after it follow.
    conditions: Conditions,
    namespace: Option<Namespace>,
    /// The batch that gathers.
    gathering: DraftBuilder,
    /// Its first line, counted from 1: nothing from there on has been stored.
    first_line: u64,
    /// Lines that have been read.
    lines: u64,
    under_way: Option<Storing>,
    progress: Option<Progress>,
}

impl Stream<'_> {
    /// Stores the whole body; after an error, all that is before it.
    async fn run(&mut self, body: &mut Arriving) -> Result<(), Refusal> {
        let mut lines = Lines::default();
        loop {
            let mut drained = false;
            while !drained && !self.is_full() {
                match lines.next() {
                    Ok(Some(line)) => self.line(&line).await?,
                    Ok(None) => drained = true,
                    Err(LineTooLong) => {
                        let detail = format!("the line is over the limit of {MAX_LINE_BYTES} bytes");
                        self.lines += 1;
                        return Err(self.broken(Refusal::new(Code::RecordTooLarge, detail)).await);
                    }
                }
            }
            if self.under_way.is_none() && self.is_worth_storing() {
                self.store().await?;
            }
            tokio::select! {
                biased;
                () = self.broker.closing.cancelled() => {
                    self.settle().await?;
                    let detail = "the broker is shutting down";
                    return Err(Refusal::new(Code::ShuttingDown, detail).at_line(self.first_line, self.stored()));
                }
                stored = under_way(&mut self.under_way) => self.took(stored)?,
                () = ready(()), if !drained && !self.is_full() => {}
                piece = body.next(), if drained && !self.is_full() => match piece {
                    Ok(Some(piece)) => lines.push(piece),
                    Ok(None) => break,
                    Err(refusal) => {
                        self.settle().await?;
                        return Err(refusal.at_line(self.first_line, self.stored()));
                    }
                },
                () = sleep(LINGER), if self.under_way.is_none() && self.gathering.count() > 0 => self.store().await?,
            }
        }
        self.line(&lines.rest()).await?;
        self.flush().await
    }

    /// Adds a line's record to the batch that gathers. A blank line has none.
    async fn line(&mut self, line: &[u8]) -> Result<(), Refusal> {
        self.lines += 1;
        if line.trim_ascii().is_empty() {
            return Ok(());
        }
        match self.push(line) {
            Ok(()) => Ok(()),
            Err(refusal) => Err(self.broken(refusal).await),
        }
    }

    fn push(&mut self, line: &[u8]) -> Result<(), Refusal> {
        let limit =
            self.namespace.as_ref().map_or(MAX_RECORD_BYTES, |namespace| namespace.config().max_record_bytes as usize);
        batch::push_record(line, limit, &mut self.gathering)
    }

    /// Stores what stands before the line that was read last; the refusal of that line.
    async fn broken(&mut self, refusal: Refusal) -> Refusal {
        let line = self.lines;
        match self.flush().await {
            Ok(()) => refusal.within(format_args!("line {line}")).at_line(line, self.stored()),
            Err(earlier) => earlier,
        }
    }

    fn is_worth_storing(&self) -> bool {
        self.gathering.count() >= BATCH_RECORDS || self.gathering.encoded_bytes() >= BATCH_BYTES
    }

    fn is_full(&self) -> bool {
        self.gathering.count() >= FULL_RECORDS || self.gathering.encoded_bytes() >= FULL_BYTES
    }

    fn stored(&self) -> u64 {
        self.progress.as_ref().map_or(0, |progress| progress.records)
    }

    /// Begins to store the batch that gathers. None is under way.
    async fn store(&mut self) -> Result<(), Refusal> {
        let next = DraftBuilder::with_capacity(self.gathering.encoded_bytes());
        let draft = std::mem::replace(&mut self.gathering, next).finish()?;
        let first_line = std::mem::replace(&mut self.first_line, self.lines + 1);
        let namespace = match &self.namespace {
            Some(namespace) => namespace.clone(),
            None => {
                let created = ensure(self.broker, self.name, self.conditions).await;
                self.namespace.insert(created.map_err(|refusal| refusal.at_line(first_line, 0))?).clone()
            }
        };
        let if_next_offset = self.conditions.if_next_offset.take();
        let log = self.broker.log.clone();
        let append = Append { draft, producer: None, if_next_offset };
        let append = Box::pin(async move { log.append(&namespace, append).await });
        self.under_way = Some(Storing { append, first_line });
        Ok(())
    }

    /// Takes note of what became of the batch that was under way.
    fn took(&mut self, stored: Result<Appended, AppendError>) -> Result<(), Refusal> {
        let first_line = self.under_way.take().map_or(self.first_line, |storing| storing.first_line);
        let frame = match stored {
            Ok(appended) => appended.frame,
            Err(error) => return Err(Refusal::from(error).at_line(first_line, self.stored())),
        };
        let progress = self.progress.get_or_insert_with(|| Progress {
            first_offset: frame.base_offset(),
            next_offset: 0,
            records: 0,
            batches: 0,
            chain: Hex([0; 32]),
        });
        progress.next_offset = frame.next_offset();
        progress.records += u64::from(frame.record_count());
        progress.batches += 1;
        progress.chain = Hex(frame.chain().0);
        Ok(())
    }

    /// Waits for the batch that is under way.
    async fn settle(&mut self) -> Result<(), Refusal> {
        if self.under_way.is_some() {
            let stored = under_way(&mut self.under_way).await;
            self.took(stored)?;
        }
        Ok(())
    }

    /// Stores all that has been read.
    async fn flush(&mut self) -> Result<(), Refusal> {
        self.settle().await?;
        if self.gathering.count() > 0 {
            self.store().await?;
            self.settle().await?;
        }
        Ok(())
    }
}

/// What becomes of the batch that is under way; waits forever where there is none.
async fn under_way(storing: &mut Option<Storing>) -> Result<Appended, AppendError> {
    match storing {
        Some(storing) => storing.append.as_mut().await,
        None => pending().await,
    }
}
