//! Control frames: what is not a user's record but must survive. Each partition has a stream of
//! them, namespace 0, so that rows are never more than a view of the log.
//!
//! The value of a control record:
//!
//! ```text
//! 0  1  event          1 namespace created · 2 namespace deleted · 3 an event of its consumers
//! 1  4  namespace id
//! 5  4  generation
//! 9     created only:  name length u16, name, configuration as JSON
//!       consumers':    next offset u64, bytes that the log keeps and does not read
//! ```

use bytes::Bytes;
use wire::loss::Known;
use wire::{
    Draft, DraftError, Frame, Generation, NamespaceConfig, NamespaceId, NamespaceName, NewRecord, Offset, Record,
};

const CREATED: u8 = 1;
const DELETED: u8 = 2;
const CONSUMERS: u8 = 3;
const FIXED_BYTES: usize = 9;

/// Something that happened to a namespace, other than a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ControlEvent {
    /// The namespace exists from here on.
    Created {
        /// Its id.
        id: NamespaceId,
        /// Which use of the id.
        generation: Generation,
        /// Its name.
        name: NamespaceName,
        /// Its configuration.
        config: NamespaceConfig,
    },
    /// The namespace does not exist from here on.
    Deleted {
        /// Its id.
        id: NamespaceId,
        /// Which use of the id.
        generation: Generation,
    },
    /// Something happened to the namespace's consumers, such as an ack. One of namespace 0 is of the partition as
    /// a whole.
    Consumers {
        /// The namespace's id.
        id: NamespaceId,
        /// Which use of the id.
        generation: Generation,
        /// The next offset of that namespace at this place in the log: what stands before this event has lower
        /// ones. For an event of namespace 0 it is the event's own.
        next_offset: Offset,
        /// What: the consumers know.
        event: Bytes,
    },
}

/// Why a control record could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a control record is not one: {0}")]
pub struct ControlError(String);

impl ControlEvent {
    /// The event as a batch of one record for namespace 0.
    pub(crate) fn draft(&self) -> Result<Draft, DraftError> {
        Draft::of(&NewRecord::bytes(&self.encode()))
    }

    fn encode(&self) -> Vec<u8> {
        self.encode_with(config_json)
    }

    /// The value of a control record that says this, as short as it can be.
    pub(crate) fn encode_shortest(&self) -> Vec<u8> {
        let is_default = |config: &NamespaceConfig| *config == NamespaceConfig::default();
        self.encode_with(|config| if is_default(config) { "{}".to_owned() } else { config_json(config) })
    }

    fn encode_with(&self, config_text: impl FnOnce(&NamespaceConfig) -> String) -> Vec<u8> {
        let (event, id, generation) = match self {
            ControlEvent::Created { id, generation, .. } => (CREATED, id, generation),
            ControlEvent::Deleted { id, generation } => (DELETED, id, generation),
            ControlEvent::Consumers { id, generation, .. } => (CONSUMERS, id, generation),
        };
        let mut value = vec![event];
        value.extend_from_slice(&id.get().to_le_bytes());
        value.extend_from_slice(&generation.to_le_bytes());
        match self {
            ControlEvent::Created { name, config, .. } => {
                value.extend_from_slice(&(name.len() as u16).to_le_bytes());
                value.extend_from_slice(name.as_bytes());
                value.extend_from_slice(config_text(config).as_bytes());
            }
            ControlEvent::Deleted { .. } => {}
            ControlEvent::Consumers { next_offset, event, .. } => {
                value.extend_from_slice(&next_offset.to_le_bytes());
                value.extend_from_slice(event);
            }
        }
        value
    }

    /// Reads the event from a record of namespace 0.
    pub fn decode(record: &Record<'_>) -> Result<ControlEvent, ControlError> {
        ControlEvent::of_value(record.value)
    }

    /// The events of a frame of namespace 0, in their order. A loss has those that are known to have been
    /// lost where it stands; they are so again.
    pub fn all_in(frame: &Frame) -> impl Iterator<Item = Result<ControlEvent, ControlError>> {
        let restored = match frame.loss().map(|loss| loss.known) {
            Some(Known::Events(events)) => events,
            _ => Vec::new(),
        };
        let restored = restored.into_iter().map(|event: Bytes| ControlEvent::of_value(&event));
        frame.records().map(|record| ControlEvent::decode(&record)).chain(restored)
    }

    fn of_value(value: &[u8]) -> Result<ControlEvent, ControlError> {
        let wrong = |what: &str| ControlError(what.to_owned());
        let (fixed, rest) = value.split_at_checked(FIXED_BYTES).ok_or(wrong("it is cut off"))?;
        let [event, a, b, c, d, e, f, g, h] = *fixed else { return Err(wrong("it is cut off")) };
        let id = NamespaceId::new(u32::from_le_bytes([a, b, c, d])).ok_or(wrong("its namespace id is 2^24 or more"))?;
        let generation = u32::from_le_bytes([e, f, g, h]);
        match event {
            CREATED => {
                let (name, config) = rest
                    .split_first_chunk::<2>()
                    .and_then(|(length, rest)| rest.split_at_checked(usize::from(u16::from_le_bytes(*length))))
                    .ok_or(wrong("its name is cut off"))?;
                let name = NamespaceName::from_bytes(name).map_err(|error| ControlError(error.to_string()))?;
                let config = serde_json::from_slice(config).map_err(|error| ControlError(error.to_string()))?;
                Ok(ControlEvent::Created { id, generation, name, config })
            }
            DELETED if rest.is_empty() => Ok(ControlEvent::Deleted { id, generation }),
            DELETED => Err(wrong("bytes follow it")),
            CONSUMERS => {
                let (next_offset, event) = rest.split_first_chunk().ok_or(wrong("its offset is cut off"))?;
                let (next_offset, event) = (u64::from_le_bytes(*next_offset), Bytes::copy_from_slice(event));
                Ok(ControlEvent::Consumers { id, generation, next_offset, event })
            }
            _ => Err(ControlError(format!("event {event} is unknown"))),
        }
    }
}

/// A configuration as its JSON text.
pub(crate) fn config_json(config: &NamespaceConfig) -> String {
    serde_json::json!(config).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(event: &ControlEvent) -> Result<ControlEvent, ControlError> {
        let value = event.encode();
        let draft = Draft::of(&NewRecord::bytes(&value)).unwrap();
        let record = draft.records().next().unwrap();
        ControlEvent::decode(&record)
    }

    #[test]
    fn golden_bytes_and_round_trip() {
        let id = NamespaceId::new(0x01_0203).unwrap();
        let deleted = ControlEvent::Deleted { id, generation: 7 };
        assert_eq!(deleted.encode(), [2, 3, 2, 1, 0, 7, 0, 0, 0]);
        assert_eq!(round_trip(&deleted), Ok(deleted));
        let name = NamespaceName::new("orders").unwrap();
        let created = ControlEvent::Created { id, generation: 1, name, config: NamespaceConfig::default() };
        assert_eq!(created.encode(), b"\x01\x03\x02\x01\0\x01\0\0\0\x06\0orders{\"max_record_bytes\":1048576}");
        assert_eq!(round_trip(&created), Ok(created.clone()));
        assert_eq!(created.encode_shortest(), b"\x01\x03\x02\x01\0\x01\0\0\0\x06\0orders{}");
        assert_eq!(ControlEvent::of_value(&created.encode_shortest()), Ok(created));
        let event = Bytes::from_static(b"ack");
        let consumers = ControlEvent::Consumers { id, generation: 7, next_offset: 9, event };
        assert_eq!(consumers.encode(), b"\x03\x03\x02\x01\0\x07\0\0\0\x09\0\0\0\0\0\0\0ack");
        assert_eq!(round_trip(&consumers), Ok(consumers));
    }

    #[test]
    fn what_is_no_event_is_refused() {
        for value in
            [&b""[..], b"\x02\0\0\0", b"\x04\0\0\0\0\0\0\0\0", b"\x02\0\0\0\0\0\0\0\0x", b"\x01\0\0\0\0\0\0\0\0\xff\0a"]
        {
            let draft = Draft::of(&NewRecord::bytes(value)).unwrap();
            assert!(ControlEvent::decode(&draft.records().next().unwrap()).is_err(), "{value:?}");
        }
    }
}
