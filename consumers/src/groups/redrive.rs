//! Dead letters on their way back: to the namespace that they came from.
//!
//! What was sent back is acked in the group `redrive` of the dead-letter namespace. A letter is sent by a
//! producer of its own, so after a crash in between it is not stored again.

use futures::future::try_join_all;
use tlog::{Log, Namespace, SharedFrame};
use wire::record::HeaderPair;
use wire::{Draft, NewRecord, Offset, Record};

use super::error::GroupsError;
use super::event::{GroupEvent, Progressed, merged};
use super::letters::{GROUP, LEFT_OUT, NAMESPACE, OFFSET, OWN, append_once, producer, read_frame, record_in};
use super::progress::Progress;
use super::runtime::Groups;
use wire::GroupName;
use wire::group::GroupConfig;

/// The group that says which dead letters were sent back.
const REDRIVE: &str = "redrive";

/// How much is read, and so sent, in one go, bytes.
const READ_BYTES: usize = 256 << 10;

impl Groups {
    /// Sends the group's dead letters back to its namespace, as new records without the headers that say
    /// what became of them. Each is sent back once. Says how many were.
    ///
    /// # Errors
    /// Where the group has no namespace for dead letters; [`GroupsError::NamespaceNotFound`] where it has
    /// one that does not exist.
    pub async fn redrive(&self, namespace: &Namespace, group: &GroupName) -> Result<u64, GroupsError> {
        let config = self.act(namespace, group, |_, state| Ok(state.body()?.kept.config.clone())).await?;
        let from = config.dead_letter.ok_or(GroupsError::NoDeadLetters)?;
        let log = self.log();
        let from = log.namespace(&from)?.ok_or(GroupsError::NamespaceNotFound)?;
        let redrive = GroupName::new(REDRIVE).map_err(|error| GroupsError::Config(error.to_string()))?;
        let progress = self.act(&from, &redrive, |_, state| Ok(state.body()?.kept.progress.clone())).await;
        let progress = match progress {
            Err(GroupsError::GroupNotFound) => {
                self.configure(&from, &redrive, GroupConfig::default()).await?;
                Progress::new(0)
            }
            progress => progress?,
        };
        let mut sent = 0;
        let head = log.head(&from)?.next_offset;
        let mut reader = log.reader(&from, progress.floor().min(head))?;
        while reader.offset() < head {
            let frames = reader.read(READ_BYTES).await?;
            if frames.is_empty() {
                break;
            }
            let letters = |frame: &SharedFrame| letters_in(frame, namespace, group, &progress);
            let letters: Vec<(&SharedFrame, Offset)> =
                frames.iter().flat_map(|frame| letters(frame).into_iter().map(|offset| (&**frame, offset))).collect();
            if mutant!(RedriveNotedFirst) {
                self.note_back(&from, &redrive, &letters).await?;
            }
            let sends = letters.iter().map(|(frame, offset)| send_back(&log, &from, namespace, frame, *offset));
            sent += try_join_all(sends).await?.into_iter().filter(|sent| *sent).count() as u64;
            if !mutant!(RedriveNotedFirst) {
                self.note_back(&from, &redrive, &letters).await?;
            }
        }
        Ok(sent)
    }

    /// Notes that letters were sent back.
    async fn note_back(
        &self,
        from: &Namespace,
        redrive: &GroupName,
        letters: &[(&SharedFrame, Offset)],
    ) -> Result<(), GroupsError> {
        if letters.is_empty() {
            return Ok(());
        }
        let acked = merged(letters.iter().map(|(_, offset)| *offset..offset + 1).collect());
        let event = GroupEvent::Progressed(Progressed { acked, ..Progressed::default() });
        self.change(from, redrive, |_| Ok(Some(event.clone()))).await
    }
}

/// The letters of a group in a frame that were not sent back.
fn letters_in(frame: &SharedFrame, namespace: &Namespace, group: &GroupName, progress: &Progress) -> Vec<Offset> {
    let is_of_group = |record: &Record<'_>| {
        header(record, NAMESPACE) == Some(&**namespace.name()) && header(record, GROUP) == Some(&**group)
    };
    let letters = frame.records().filter(|record| is_of_group(record) && !progress.is_acked(record.offset));
    letters.map(|record| record.offset).collect()
}

/// Sends a letter back, unless it was. Whether it was not.
async fn send_back(
    log: &Log,
    from: &Namespace,
    to: &Namespace,
    frame: &SharedFrame,
    offset: Offset,
) -> Result<bool, GroupsError> {
    let Some(letter) = record_in(frame, offset) else { return Ok(false) };
    let try_of = if mutant!(RedriveTwice) { log.watermark(0).borrow().position } else { offset };
    let name = format!("letter {try_of} of {} {} sent back", from.id(), from.generation());
    let producer = producer(&[name.as_bytes()]);
    if header(&letter, LEFT_OUT).is_none() {
        return append_once(log, to, draft(&letter)?, producer).await;
    }
    let Some(offset) = header(&letter, OFFSET).and_then(|offset| offset.parse().ok()) else { return Ok(false) };
    let frame = read_frame(log, to, offset).await?;
    match record_in(&frame, offset) {
        Some(record) => append_once(log, to, draft(&record)?, producer).await,
        None => Ok(false),
    }
}

fn draft(record: &Record<'_>) -> Result<Draft, GroupsError> {
    let others = record.headers.filter(|(name, _)| !name.starts_with(OWN));
    let headers: Vec<HeaderPair<'_>> = others.map(|(name, value)| (name.into(), value.into())).collect();
    Ok(Draft::of(&NewRecord { key: record.key, headers: &headers, kind: record.kind, value: record.value })?)
}

fn header<'a>(record: &Record<'a>, name: &str) -> Option<&'a str> {
    record.headers.clone().find(|(found, _)| *found == name).map(|(_, value)| value)
}
