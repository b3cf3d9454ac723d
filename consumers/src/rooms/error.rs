//! What can go wrong with rooms and subscribers.

use tlog::{AppendError, ReadError};
use wire::{NamespaceName, Offset};

use super::event::RoomEventError;
use crate::ledger::LedgerError;

/// Why something asked of rooms or of a subscriber was not done, or why a connection has ended.
#[derive(Debug, thiserror::Error)]
pub enum RoomsError {
    /// There is no subscriber of this name, or no longer.
    #[error("the subscriber does not exist")]
    SubscriberNotFound,
    /// The namespace does not exist any more.
    #[error("the namespace {0:?} does not exist")]
    NamespaceNotFound(NamespaceName),
    /// There is no such offset yet.
    #[error("there is no such offset of the namespace {namespace:?} yet: the next is {next_offset}")]
    PastHead {
        /// The namespace.
        namespace: NamespaceName,
        /// Its head.
        next_offset: Offset,
    },
    /// The subscriber would be in more rooms than it may.
    #[error("{rooms} rooms and namespaces, the limit is {limit}")]
    TooManyRooms {
        /// How many.
        rooms: usize,
        /// The limit.
        limit: usize,
    },
    /// The subscriber's rooms would be of more namespaces than they may.
    #[error("rooms of {namespaces} namespaces, the limit is {limit}")]
    TooManyNamespaces {
        /// How many.
        namespaces: usize,
        /// The limit.
        limit: usize,
    },
    /// The partition has no slot left for another subscriber.
    #[error("there are as many subscribers as there can be")]
    TooManySubscribers,
    /// A newer connection of the same subscriber has begun.
    #[error("a newer connection of the subscriber has begun")]
    Replaced,
    /// The rooms are closed.
    #[error("the rooms are closed")]
    Closed,
    /// What had to be durable could not be made so. A part may be done: done again, it is completed.
    #[error(transparent)]
    Append(AppendError),
    /// The log could not be read.
    #[error(transparent)]
    Read(ReadError),
    /// What is kept of rooms could not be read.
    #[error(transparent)]
    Ledger(LedgerError),
    /// An event can't be written.
    #[error(transparent)]
    Event(#[from] RoomEventError),
}

impl From<LedgerError> for RoomsError {
    fn from(error: LedgerError) -> Self {
        match error {
            LedgerError::Closed => RoomsError::Closed,
            error => RoomsError::Ledger(error),
        }
    }
}

impl From<ReadError> for RoomsError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Closed => RoomsError::Closed,
            error => RoomsError::Read(error),
        }
    }
}

impl From<AppendError> for RoomsError {
    fn from(error: AppendError) -> Self {
        match error {
            AppendError::Closed => RoomsError::Closed,
            error => RoomsError::Append(error),
        }
    }
}

impl From<rocksdb::Error> for RoomsError {
    fn from(error: rocksdb::Error) -> Self {
        RoomsError::Ledger(error.into())
    }
}
