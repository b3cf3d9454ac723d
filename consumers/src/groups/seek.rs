//! Where a group can be moved to.

use tlog::{Log, Namespace};
use wire::Offset;

use super::error::GroupsError;

/// Where a group is to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seek {
    /// With the first record.
    Earliest,
    /// Behind the head as of now.
    Latest,
    /// With this offset.
    Offset(Offset),
    /// With the first record of this time or later: microseconds since the Unix epoch.
    Time(i64),
}

impl Seek {
    /// The offset that is meant.
    pub(super) async fn resolve(self, log: &Log, namespace: &Namespace) -> Result<Offset, GroupsError> {
        let next_offset = log.head(namespace)?.next_offset;
        match self {
            Seek::Earliest => Ok(0),
            Seek::Latest => Ok(next_offset),
            Seek::Offset(offset) if offset > next_offset => Err(GroupsError::PastHead { next_offset }),
            Seek::Offset(offset) => Ok(offset),
            Seek::Time(time_micros) => first_since(log, namespace, time_micros, next_offset).await,
        }
    }
}

/// Append times never go back, so the frame is found by halving.
async fn first_since(log: &Log, namespace: &Namespace, time_micros: i64, head: Offset) -> Result<Offset, GroupsError> {
    let (mut low, mut high) = (0, head);
    while low < high {
        let frames = log.reader(namespace, low + (high - low) / 2)?.read(1).await?;
        let Some(frame) = frames.first() else { break };
        if frame.time_micros() < time_micros {
            low = frame.next_offset();
        } else {
            high = frame.base_offset().max(low);
        }
    }
    Ok(low)
}
