//! Dead letters on their way: from a group's rows into the namespace that its configuration names.
//!
//! That a record is given up is an ack and a letter in one event. The letter is then appended by a
//! producer of its own, which is called by namespace, group, incarnation and the letter's number, so it
//! is stored once however often it is sent (invariant 10); once it is there, an event takes it off the
//! group's list. A producer a letter, and not one a group: letters thus never wait for one another, and
//! the namespace they go to may be another, or made anew, at any time.

use std::borrow::Cow;
use std::sync::Arc;

use futures::FutureExt;
use futures::future::join_all;
use tlog::{Append, AppendError, Log, Namespace, SharedFrame};
use tracing::warn;
use wire::record::HeaderPair;
use wire::{Draft, DraftError, Kind, NamespaceConfig, NamespaceName, NewRecord, Offset, Producer, ProducerId, Record};

use super::error::GroupsError;
use super::event::{Dead, GroupEvent};
use super::live::Live;

/// What all headers begin with that are TLog's own.
pub(super) const OWN: &str = "tlog-";

/// The header that names the namespace of the record.
pub(super) const NAMESPACE: &str = "tlog-namespace";

/// The header that names the record's offset.
pub(super) const OFFSET: &str = "tlog-offset";

/// The header that names the group that gave it up.
pub(super) const GROUP: &str = "tlog-group";

/// The header that says that the value had no room, and stands where the other headers say.
pub(super) const LEFT_OUT: &str = "tlog-value";

/// Letters that are sent at once.
const AT_ONCE: usize = 64;

/// How long to wait after a failure, nanoseconds.
const PAUSE_NANOS: u64 = 1_000_000_000;

/// Sends the first letters of a group that are due.
pub(super) async fn publish(live: Arc<Live>) {
    let sent = send(&live).await;
    let state = &mut *live.state.lock();
    state.publishing = false;
    match sent {
        Ok(true) => live.serve(state),
        Ok(false) => state.publish_at = live.now().saturating_add(PAUSE_NANOS),
        Err(error) => {
            state.publish_at = live.now().saturating_add(PAUSE_NANOS);
            warn!(namespace = %live.namespace.name(), group = %live.name, %error, "dead letters could not be sent, and are sent again");
        }
    }
}

/// Whether all of the letters that were tried are there.
async fn send(live: &Arc<Live>) -> Result<bool, GroupsError> {
    let (to, incarnation, letters) = {
        let state = &mut *live.state.lock();
        let kept = &state.body()?.kept;
        let mut letters: Vec<(u64, Dead)> = Vec::new();
        for (number, dead) in kept.letters.iter().take(AT_ONCE) {
            // An event takes each offset off once.
            if letters.iter().any(|(_, other)| other.offset == dead.offset) {
                break;
            }
            letters.push((*number, dead.clone()));
        }
        (kept.config.dead_letter.clone(), kept.incarnation, letters)
    };
    let mut stored: Vec<Offset> = Vec::new();
    match to {
        Some(to) => {
            let to = namespace(&live.around.log, &to).await?;
            let sends = letters.iter().map(|(number, dead)| send_one(live, &to, incarnation, *number, dead));
            let sent = if mutant!(LetterNotedFirst) {
                sends.map(|send| send.now_or_never().unwrap_or(Ok(()))).collect()
            } else {
                join_all(sends).await
            };
            for ((_, dead), sent) in letters.iter().zip(sent) {
                match sent {
                    Ok(()) => stored.push(dead.offset),
                    Err(error) => {
                        warn!(group = %live.name, offset = dead.offset, %error, "a dead letter could not be sent");
                    }
                }
            }
        }
        // There is nowhere to go any more.
        None => stored = letters.iter().map(|(_, dead)| dead.offset).collect(),
    }
    stored.sort_unstable();
    let all = stored.len() == letters.len();
    if stored.is_empty() {
        return Ok(all);
    }
    let event = GroupEvent::Published { offsets: stored.clone() };
    let commit = {
        let state = live.state.lock();
        if state.leaving {
            // Who loads the group again sends them again, and notes it once.
            return Ok(true);
        }
        live.queue(&event)?
    };
    commit.await?;
    live.around.metrics.letters.increment(stored.len() as u64);
    live.state.lock().body()?.kept.published(&stored);
    Ok(all)
}

/// The namespace of that name, made if there is none.
async fn namespace(log: &Log, name: &NamespaceName) -> Result<Namespace, GroupsError> {
    if let Some(namespace) = log.namespace(name)? {
        return Ok(namespace);
    }
    match log.create(name, NamespaceConfig::default()).await {
        Ok(created) => Ok(created.namespace),
        Err(AppendError::ConfigConflict) => log.namespace(name)?.ok_or(GroupsError::NamespaceNotFound),
        Err(error) => Err(error.into()),
    }
}

async fn send_one(live: &Live, to: &Namespace, incarnation: u32, number: u64, dead: &Dead) -> Result<(), GroupsError> {
    let (id, generation) = (live.namespace.id(), live.namespace.generation());
    let try_of = if mutant!(LetterSentTwice) { live.now() } else { number };
    let from = format!("dead letter {try_of} of {id} {generation} {incarnation} ");
    let producer = producer(&[from.as_bytes(), live.name.as_bytes()]);
    let frame = read_frame(&live.around.log, &live.namespace, dead.offset).await?;
    let record = record_in(&frame, dead.offset);
    let mut whole = true;
    loop {
        let draft = letter(live, dead, record.as_ref(), whole);
        let stored = match draft {
            Ok(draft) => append_once(&live.around.log, to, draft, producer).await.map(drop),
            Err(DraftError::RecordTooLarge { bytes }) => {
                Err(AppendError::RecordTooLarge { bytes, limit: to.config().max_record_bytes }.into())
            }
            Err(error) => return Err(error.into()),
        };
        match stored {
            Err(GroupsError::Append(AppendError::RecordTooLarge { .. })) if whole => whole = false,
            stored => return stored,
        }
    }
}

/// A producer that sends one batch.
pub(super) fn producer(parts: &[&[u8]]) -> Producer {
    let mut hash = blake3::Hasher::new();
    for part in parts {
        hash.update(part);
    }
    let mut id = [0; 16];
    hash.finalize_xof().fill(&mut id);
    Producer { id: ProducerId(id), epoch: 0, sequence: 0 }
}

/// Appends a batch, unless its producer has before. Whether it had not.
pub(super) async fn append_once(
    log: &Log,
    to: &Namespace,
    draft: Draft,
    producer: Producer,
) -> Result<bool, GroupsError> {
    match log.append(to, Append { producer: Some(producer), ..Append::new(draft) }).await {
        Ok(appended) => Ok(!appended.duplicate),
        Err(AppendError::ProducerForgotten { .. }) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// The frame that holds a record.
pub(super) async fn read_frame(
    log: &Log,
    namespace: &Namespace,
    offset: Offset,
) -> Result<Arc<SharedFrame>, GroupsError> {
    let frames = log.reader(namespace, offset)?.read(1).await?;
    frames.into_iter().next().ok_or(GroupsError::PastHead { next_offset: offset })
}

/// The record of an offset; nothing where it is lost.
pub(super) fn record_in(frame: &SharedFrame, offset: Offset) -> Option<Record<'_>> {
    frame.records().find(|record| record.offset == offset)
}

/// The letter for a record. One that is not `whole` has the key, and leaves value and headers where
/// they are.
fn letter(live: &Live, dead: &Dead, record: Option<&Record<'_>>, whole: bool) -> Result<Draft, DraftError> {
    let mut own: Vec<HeaderPair<'_>> = vec![
        (NAMESPACE.into(), Cow::Borrowed(&**live.namespace.name())),
        (OFFSET.into(), dead.offset.to_string().into()),
        (GROUP.into(), Cow::Borrowed(&*live.name)),
        ("tlog-deliveries".into(), dead.deliveries.to_string().into()),
        ("tlog-error".into(), Cow::Borrowed(&*dead.error)),
    ];
    let key = record.and_then(|record| record.key);
    let Some(record) = record.filter(|_| whole) else {
        own.push((LEFT_OUT.into(), "left out".into()));
        return Draft::of(&NewRecord { key, headers: &own, kind: Kind::Bytes, value: b"" });
    };
    let others = record.headers.filter(|(name, _)| !name.starts_with(OWN));
    let all: Vec<HeaderPair<'_>> =
        others.map(|(name, value)| (name.into(), value.into())).chain(own.iter().cloned()).collect();
    let draft = |headers| Draft::of(&NewRecord { key, headers, kind: record.kind, value: record.value });
    match draft(&all) {
        // There is no room for both; TLog's own say where the others are.
        Err(DraftError::Name(_)) => draft(&own),
        drafted => drafted,
    }
}
