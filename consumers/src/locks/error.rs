//! What can go wrong with locks.

use tlog::AppendError;
use wire::limits::MAX_LOCK_WAITERS;

use super::event::LockEventError;
use crate::ledger::LedgerError;

/// Why something asked of a lock was not done.
#[derive(Debug, thiserror::Error)]
pub enum LocksError {
    /// Another owner holds the lock.
    #[error("{owner:?} holds the lock")]
    Held {
        /// Who.
        owner: String,
        /// Until when, if nothing more is heard of it: microseconds since the Unix epoch.
        expires_micros: i64,
    },
    /// The token is not the holder's: its time is over, it was released, or it never was one.
    #[error("the token does not hold the lock: its time is over, or it was released")]
    Lost,
    /// As many wait as may.
    #[error("{MAX_LOCK_WAITERS} wait for the lock, the limit")]
    TooManyWaiters,
    /// The locks are closed.
    #[error("the locks are closed")]
    Closed,
    /// The rows could not be read.
    #[error(transparent)]
    Ledger(LedgerError),
    /// What had to be durable could not be made so.
    #[error(transparent)]
    Append(AppendError),
    /// An event of a lock is not one.
    #[error(transparent)]
    Event(#[from] LockEventError),
}

impl From<AppendError> for LocksError {
    fn from(error: AppendError) -> Self {
        match error {
            AppendError::Closed => LocksError::Closed,
            error => LocksError::Append(error),
        }
    }
}

impl From<LedgerError> for LocksError {
    fn from(error: LedgerError) -> Self {
        match error {
            LedgerError::Closed => LocksError::Closed,
            error => LocksError::Ledger(error),
        }
    }
}
