//! What happens to a group and must survive: events, control records of the partition of the group's
//! namespace. Behind the control record's own header, which names the namespace:
//!
//! ```text
//! 0  1  event       1 configured · 2 deleted · 3 progressed · 4 moved · 5 published
//! 1  1  length      of the group's name
//! 2     name        of the group
//!       configured: incarnation u32 · floor u64 · configuration as JSON, up to the end
//!       deleted:    nothing
//!       progressed: acked: ranges
//!                   failed: count varint, each: offset, attempts varint
//!                   dead: count varint, each: offset, deliveries varint, error length varint, error
//!       moved:      floor u64
//!       published:  offsets
//! ```
//!
//! Fixed numbers are little-endian; `codec.rs` draws varints, offsets and ranges. Each event has
//! one spelling, and is at most [`MAX_GROUP_EVENT_BYTES`] long.

use std::ops::Range;

use wire::limits::{MAX_DEAD_ERROR_BYTES, MAX_GROUP_EVENT_BYTES};
use wire::name::check_group;
use wire::{NameError, Offset};

use crate::ledger::codec::{Malformed, Reader, put_offset, put_ranges, put_varint};
use wire::group::GroupConfig;

const CONFIGURED: u8 = 1;
const DELETED: u8 = 2;
const PROGRESSED: u8 = 3;
const MOVED: u8 = 4;
const PUBLISHED: u8 = 5;

/// Something that happened to a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GroupEvent {
    /// The group exists with this configuration from here on. One that existed keeps its progress.
    Configured {
        /// Which use of the name: one that was deleted and made anew has another.
        incarnation: u32,
        /// Where the group begins, if it is new.
        floor: Offset,
        /// Its configuration.
        config: GroupConfig,
    },
    /// The group does not exist from here on.
    Deleted,
    /// Records were acked, failed or given up.
    Progressed(Progressed),
    /// The group goes on from elsewhere: acks and attempts are forgotten.
    Moved {
        /// Where it goes on.
        floor: Offset,
    },
    /// Dead letters are in the dead-letter namespace by now.
    Published {
        /// Which records they are of, ascending.
        offsets: Vec<Offset>,
    },
}

/// Records that were acked, failed or given up.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Progressed {
    /// What was acked; what is not there to be worked on is too. See [`merged`].
    pub acked: Vec<Range<Offset>>,
    /// Records whose delivery failed, ascending, each with how many of its deliveries have.
    pub failed: Vec<(Offset, u32)>,
    /// Records that were given up, ascending. That is an ack too.
    pub dead: Vec<Dead>,
}

/// A record that was given up, and is to become a dead letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dead {
    /// Its offset.
    pub offset: Offset,
    /// How often it was delivered.
    pub deliveries: u32,
    /// Why its last delivery failed: at most [`MAX_DEAD_ERROR_BYTES`].
    pub error: String,
}

/// Why an event can't be written or read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GroupEventError {
    /// The group's name is not one.
    #[error(transparent)]
    Name(#[from] NameError),
    /// Something is larger than its limit.
    #[error("{what} is {bytes} bytes, the limit is {limit}")]
    TooLarge {
        /// What is.
        what: &'static str,
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// The configuration can't be read, or is out of bounds.
    #[error("a group's configuration is not one: {0}")]
    Config(String),
    /// The bytes are not an event.
    #[error("a group's event is not one: {0}")]
    Malformed(&'static str),
}

impl From<Malformed> for GroupEventError {
    fn from(Malformed(what): Malformed) -> Self {
        GroupEventError::Malformed(what)
    }
}

fn check_size(what: &'static str, bytes: usize, limit: usize) -> Result<(), GroupEventError> {
    if bytes > limit { Err(GroupEventError::TooLarge { what, bytes, limit }) } else { Ok(()) }
}

/// The same offsets as ranges that ascend and do not touch.
pub fn merged(mut ranges: Vec<Range<Offset>>) -> Vec<Range<Offset>> {
    ranges.retain(|range| !range.is_empty());
    ranges.sort_unstable_by_key(|range| range.start);
    ranges.dedup_by(|next, range| {
        let touch = next.start <= range.end;
        if touch {
            range.end = range.end.max(next.end);
        }
        touch
    });
    ranges
}

impl Dead {
    /// A record that was given up. The error is cut to its limit, and control characters become
    /// spaces, as it is to be a header.
    pub fn new(offset: Offset, deliveries: u32, error: &str) -> Dead {
        let mut error = error.replace(char::is_control, " ");
        error.truncate(error.floor_char_boundary(MAX_DEAD_ERROR_BYTES));
        Dead { offset, deliveries, error }
    }
}

impl GroupEvent {
    /// The event of a group as bytes.
    ///
    /// # Errors
    /// Where it would not be read back.
    pub fn encode(&self, group: &str) -> Result<Vec<u8>, GroupEventError> {
        check_group(group)?;
        let mut bytes = vec![self.tag(), group.len() as u8];
        bytes.extend_from_slice(group.as_bytes());
        match self {
            GroupEvent::Configured { incarnation, floor, config } => {
                config.check().map_err(GroupEventError::Config)?;
                bytes.extend_from_slice(&incarnation.to_le_bytes());
                bytes.extend_from_slice(&floor.to_le_bytes());
                let config = serde_json::to_vec(config).map_err(|error| GroupEventError::Config(error.to_string()))?;
                bytes.extend_from_slice(&config);
            }
            GroupEvent::Deleted => {}
            GroupEvent::Progressed(progressed) => progressed.encode(&mut bytes)?,
            GroupEvent::Moved { floor } => bytes.extend_from_slice(&floor.to_le_bytes()),
            GroupEvent::Published { offsets } => {
                put_varint(&mut bytes, offsets.len() as u64);
                let mut least = 0;
                for offset in offsets {
                    put_offset(&mut bytes, &mut least, *offset)?;
                }
            }
        }
        check_size("a group's event", bytes.len(), MAX_GROUP_EVENT_BYTES)?;
        Ok(bytes)
    }

    /// Reads an event, and which group it is of.
    ///
    /// # Errors
    /// Where the bytes are not an event.
    pub fn decode(bytes: &[u8]) -> Result<(&str, GroupEvent), GroupEventError> {
        check_size("a group's event", bytes.len(), MAX_GROUP_EVENT_BYTES)?;
        let mut reader = Reader(bytes);
        let tag = reader.byte()?;
        let length = reader.byte()?;
        let group = std::str::from_utf8(reader.take(usize::from(length))?)
            .map_err(|_| NameError::NotUtf8 { what: "the group's name" })?;
        check_group(group)?;
        let event = match tag {
            CONFIGURED => GroupEvent::decode_configured(&mut reader)?,
            DELETED => GroupEvent::Deleted,
            PROGRESSED => GroupEvent::Progressed(Progressed::decode(&mut reader)?),
            MOVED => GroupEvent::Moved { floor: u64::from_le_bytes(reader.array()?) },
            PUBLISHED => {
                let mut offsets = Vec::with_capacity(reader.count(1)?);
                let mut least = 0;
                for _ in 0..offsets.capacity() {
                    offsets.push(reader.offset(&mut least)?);
                }
                GroupEvent::Published { offsets }
            }
            _ => return Err(GroupEventError::Malformed("it is of an unknown kind")),
        };
        reader.end()?;
        Ok((group, event))
    }

    fn tag(&self) -> u8 {
        match self {
            GroupEvent::Configured { .. } => CONFIGURED,
            GroupEvent::Deleted => DELETED,
            GroupEvent::Progressed(_) => PROGRESSED,
            GroupEvent::Moved { .. } => MOVED,
            GroupEvent::Published { .. } => PUBLISHED,
        }
    }

    fn decode_configured(reader: &mut Reader<'_>) -> Result<GroupEvent, GroupEventError> {
        let incarnation = u32::from_le_bytes(reader.array()?);
        let floor = u64::from_le_bytes(reader.array()?);
        let config: GroupConfig =
            serde_json::from_slice(reader.rest()).map_err(|error| GroupEventError::Config(error.to_string()))?;
        config.check().map_err(GroupEventError::Config)?;
        Ok(GroupEvent::Configured { incarnation, floor, config })
    }
}

impl Progressed {
    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.acked.is_empty() && self.failed.is_empty() && self.dead.is_empty()
    }

    fn encode(&self, bytes: &mut Vec<u8>) -> Result<(), GroupEventError> {
        put_ranges(bytes, &self.acked)?;
        put_failed(bytes, self.failed.iter().copied(), self.failed.len())?;
        put_varint(bytes, self.dead.len() as u64);
        let mut least = 0;
        for Dead { offset, deliveries, error } in &self.dead {
            check_size("a dead letter's error", error.len(), MAX_DEAD_ERROR_BYTES)?;
            put_offset(bytes, &mut least, *offset)?;
            put_varint(bytes, u64::from(*deliveries));
            put_varint(bytes, error.len() as u64);
            bytes.extend_from_slice(error.as_bytes());
        }
        Ok(())
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Progressed, GroupEventError> {
        let acked = reader.ranges()?;
        let failed = failed(reader)?;
        let mut dead = Vec::with_capacity(reader.count(3)?);
        let mut least = 0;
        for _ in 0..dead.capacity() {
            let offset = reader.offset(&mut least)?;
            let deliveries = reader.varint_u32()?;
            let length = reader.varint_u32()? as usize;
            check_size("a dead letter's error", length, MAX_DEAD_ERROR_BYTES)?;
            let error = std::str::from_utf8(reader.take(length)?)
                .map_err(|_| GroupEventError::Malformed("a dead letter's error is not UTF-8"))?;
            dead.push(Dead { offset, deliveries, error: error.to_owned() });
        }
        Ok(Progressed { acked, failed, dead })
    }
}

/// Appends offsets with their attempts.
pub(super) fn put_failed(
    bytes: &mut Vec<u8>,
    failed: impl Iterator<Item = (Offset, u32)>,
    count: usize,
) -> Result<(), Malformed> {
    put_varint(bytes, count as u64);
    let mut least = 0;
    for (offset, attempts) in failed {
        put_offset(bytes, &mut least, offset)?;
        put_varint(bytes, u64::from(attempts));
    }
    Ok(())
}

/// Reads offsets with their attempts.
pub(super) fn failed(reader: &mut Reader<'_>) -> Result<Vec<(Offset, u32)>, Malformed> {
    let mut failed = Vec::with_capacity(reader.count(2)?);
    let mut least = 0;
    for _ in 0..failed.capacity() {
        failed.push((reader.offset(&mut least)?, reader.varint_u32()?));
    }
    Ok(failed)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use wire::NamespaceName;

    use super::*;

    fn encoded(event: &GroupEvent) -> Vec<u8> {
        let bytes = event.encode("g").unwrap();
        assert_eq!(GroupEvent::decode(&bytes), Ok(("g", event.clone())));
        bytes
    }

    #[test]
    fn golden_bytes_and_round_trip() {
        let configured = GroupEvent::Configured { incarnation: 2, floor: 0x0102, config: GroupConfig::default() };
        let mut golden = b"\x01\x01g\x02\0\0\0\x02\x01\0\0\0\0\0\0".to_vec();
        golden.extend_from_slice(
            br#"{"order":"none","start":"earliest","lease_ms":30000,"max_deliveries":16,"retry":{"min_ms":1000,"max_ms":60000},"dead_letter":null}"#,
        );
        assert_eq!(encoded(&configured), golden);
        assert_eq!(encoded(&GroupEvent::Deleted), b"\x02\x01g");
        let progressed = GroupEvent::Progressed(Progressed {
            acked: vec![5..8, 10..310],
            failed: vec![(8, 1), (400, 3)],
            dead: vec![Dead::new(9, 16, "no\n")],
        });
        assert_eq!(
            encoded(&progressed),
            b"\x03\x01g\x02\x05\x02\x01\xab\x02\x02\x08\x01\x87\x03\x03\x01\x09\x10\x03no "
        );
        assert_eq!(encoded(&GroupEvent::Moved { floor: 7 }), b"\x04\x01g\x07\0\0\0\0\0\0\0");
        assert_eq!(encoded(&GroupEvent::Published { offsets: vec![3, 4, 300] }), b"\x05\x01g\x03\x03\0\xa7\x02");
    }

    #[test]
    fn what_is_no_event_is_refused() {
        for (bytes, named) in [
            (&b""[..], "it is cut off"),
            (b"\x02\x05ab", "it is cut off"),
            (b"\x06\x01g", "unknown kind"),
            (b"\x02\0", "the group's name is empty"),
            (b"\x02\x02..", "which no URL can name"),
            (b"\x02\x01\xff", "is not UTF-8"),
            (b"\x02\x01gx", "bytes follow it"),
            (b"\x05\x01g\xff\xff\xff\xff\x0f\0", "it is cut off"),
            (b"\x03\x01g\0\0\x01\0\x01\x81\x08", "error is 1025 bytes, the limit is 1024"),
            (b"\x01\x01g\0\0\0\0\0\0\0\0\0\0\0\0{\"lease_ms\":0}", "lease_ms is 0"),
        ] {
            let error = GroupEvent::decode(bytes).unwrap_err().to_string();
            assert!(error.contains(named), "{bytes:?}: {error}");
        }
    }

    #[test]
    fn what_would_not_be_read_back_is_not_written() {
        let progressed = |acked| GroupEvent::Progressed(Progressed { acked, ..Progressed::default() });
        let wrong = |event: &GroupEvent, group: &str| event.encode(group).unwrap_err().to_string();
        assert!(wrong(&GroupEvent::Deleted, &"g".repeat(256)).contains("256 bytes, the limit is 255"));
        assert!(wrong(&progressed(vec![1..2, 2..3]), "g").contains("do not ascend"));
        let empty = Range { start: 4, end: 4 };
        assert!(wrong(&progressed(vec![empty]), "g").contains("is empty"));
        assert!(wrong(&GroupEvent::Published { offsets: vec![4, 4] }, "g").contains("do not ascend"));
        assert!(wrong(&GroupEvent::Published { offsets: vec![u64::MAX] }, "g").contains("2^64 - 1"));
        let many = (0..MAX_GROUP_EVENT_BYTES as u64).map(|n| 2 * n..2 * n + 1).collect();
        assert!(wrong(&progressed(many), "g").contains("the limit is 524288"));
    }

    #[test]
    fn an_error_is_cut_where_a_character_ends() {
        let dead = Dead::new(1, 1, &"é".repeat(1024));
        assert_eq!(dead.error, "é".repeat(512));
        assert_eq!(Dead::new(1, 1, &format!("x{}", "é".repeat(1024))).error.len(), 1023);
    }

    fn ascending() -> impl Strategy<Value = Vec<Offset>> {
        prop::collection::btree_set(0..u64::MAX - 1, 0..20).prop_map(|set| set.into_iter().collect())
    }

    fn ranges() -> impl Strategy<Value = Vec<Range<Offset>>> {
        let range = (0..1u64 << 40, 0..1000u64).prop_map(|(start, length)| start..start + length);
        prop::collection::vec(range, 0..20).prop_map(merged)
    }

    fn progressed() -> impl Strategy<Value = Progressed> {
        let failed = prop::collection::btree_map(0..u64::MAX - 1, any::<u32>(), 0..9);
        let dead = prop::collection::btree_map(0..u64::MAX - 1, (any::<u32>(), "[ -~]{0,40}"), 0..9);
        (ranges(), failed, dead).prop_map(|(acked, failed, dead)| Progressed {
            acked,
            failed: failed.into_iter().collect(),
            dead: dead.into_iter().map(|(offset, (deliveries, error))| Dead { offset, deliveries, error }).collect(),
        })
    }

    fn event() -> impl Strategy<Value = GroupEvent> {
        let config = (1..=1000u32, prop::option::of("[a-z]{1,9}")).prop_map(|(max_deliveries, dead_letter)| {
            let dead_letter = dead_letter.map(|name| NamespaceName::new(&name).unwrap());
            GroupConfig { max_deliveries, dead_letter, ..GroupConfig::default() }
        });
        prop_oneof![
            (any::<u32>(), any::<u64>(), config).prop_map(|(incarnation, floor, config)| GroupEvent::Configured {
                incarnation,
                floor,
                config
            }),
            Just(GroupEvent::Deleted),
            progressed().prop_map(GroupEvent::Progressed),
            any::<u64>().prop_map(|floor| GroupEvent::Moved { floor }),
            ascending().prop_map(|offsets| GroupEvent::Published { offsets }),
        ]
    }

    proptest! {
        #[test]
        fn events_round_trip(event in event(), group in "[a-zé/]{1,99}") {
            let bytes = event.encode(&group).unwrap();
            prop_assert_eq!(GroupEvent::decode(&bytes), Ok((group.as_str(), event)));
        }

        /// Cut, flipped and made-up bytes are refused, or are the one spelling of another event.
        #[test]
        fn hostile_bytes_are_refused_or_canonical(
            event in event(),
            at: prop::sample::Index,
            flip: u8,
            cut: prop::sample::Index,
            made_up in prop::collection::vec(any::<u8>(), 0..60),
        ) {
            let mut bytes = event.encode("g").unwrap();
            let index = at.index(bytes.len());
            bytes[index] ^= flip;
            bytes.truncate(cut.index(bytes.len() + 1));
            for bytes in [bytes, made_up] {
                match GroupEvent::decode(&bytes) {
                    // JSON has more than one spelling.
                    Ok((_, GroupEvent::Configured { .. })) | Err(_) => {}
                    Ok((group, event)) => prop_assert_eq!(event.encode(group).unwrap(), bytes),
                }
            }
        }

        #[test]
        fn merging_keeps_the_offsets(parts in prop::collection::vec((0..60u64, 0..9u64), 0..12)) {
            let parts: Vec<_> = parts.into_iter().map(|(start, length)| start..start + length).collect();
            let naive: std::collections::BTreeSet<u64> = parts.iter().cloned().flatten().collect();
            let ranges = merged(parts);
            prop_assert!(ranges.iter().all(|range| !range.is_empty()));
            prop_assert!(ranges.is_sorted_by(|a, b| a.end < b.start));
            prop_assert_eq!(ranges.into_iter().flatten().collect::<Vec<_>>(), naive.into_iter().collect::<Vec<_>>());
        }
    }
}
