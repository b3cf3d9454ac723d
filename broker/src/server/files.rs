//! Open files: clients must never use up those that the log and the stores need, and these must get by
//! with what there is. A log that can't open its next segment takes no more writes.
//!
//! ```text
//! files that may be open
//!   − what the process has open whatever it serves, and each partition
//!   = half of it, in bounds   to segments, rows and stores: what they keep open to read
//!   + the rest                to connections
//! ```

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::config::{ServeError, ServerConfig};

/// What the process has open whatever it serves: its own files, and RocksDB's three times.
const PROCESS_FILES: u64 = 40;

/// What each partition has open to write: its segment, the next one, one that is being sealed, its index.
const PARTITION_FILES: u64 = 4;

/// What segments, rows and stores keep open to read: at least, and at most.
const MIN_KEPT_FILES: u64 = 40;
const MAX_KEPT_FILES: u64 = 2_048;

/// Connections that there must be files for.
const MIN_CONNECTIONS: u64 = 16;

/// How many of what may be open at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shares {
    pub(super) connections: usize,
    /// Sealed segments; each has an index beside it.
    pub(super) segments: usize,
    /// Tables of the log's rows, and as many of the stores' and of the ledger's.
    pub(super) tables: usize,
}

/// Raises the process's limit of open files as far as it may, and shares out what there is.
///
/// # Errors
/// [`ServeError::TooFewFiles`] where it is not enough for a log of so many partitions.
pub(super) fn share_out(config: &ServerConfig, partitions: u16) -> Result<Shares, ServeError> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let files = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(error) => {
            tracing::warn!(%error, files = limit.current, "the limit of open files can't be raised");
            limit.current
        }
    };
    let shares = shares_of(files, partitions)?;
    if shares.connections < config.max_connections {
        tracing::warn!(files, connections = shares.connections, "fewer connections, as the limit of open files is low");
    }
    Ok(shares)
}

fn shares_of(files: Option<u64>, partitions: u16) -> Result<Shares, ServeError> {
    // No limit is one that is never reached.
    let files = files.unwrap_or(u64::from(u32::MAX));
    let always = PROCESS_FILES + PARTITION_FILES * u64::from(partitions);
    let needed = always + MIN_KEPT_FILES + MIN_CONNECTIONS;
    if files < needed {
        return Err(ServeError::TooFewFiles { files, needed, partitions });
    }
    let rest = files - always;
    let kept = (rest / 2).clamp(MIN_KEPT_FILES, MAX_KEPT_FILES);
    Ok(Shares {
        connections: usize::try_from(rest - kept).unwrap_or(usize::MAX),
        segments: (kept / 5) as usize,
        tables: (kept / 5) as usize,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(files: u64, partitions: u16) -> Shares {
        shares_of(Some(files), partitions).unwrap()
    }

    #[test]
    fn connections_leave_files_to_the_log() {
        assert!(shares_of(None, 4).unwrap().connections > 10_000);
        assert_eq!(shares(1 << 20, 4), Shares { connections: 1_046_472, segments: 409, tables: 409 });
        assert_eq!(shares(1_024, 4), Shares { connections: 484, segments: 96, tables: 96 });
        assert_eq!(shares(128, 4), Shares { connections: 32, segments: 8, tables: 8 });
    }

    #[test]
    fn too_few_files_are_refused() {
        assert_eq!(shares(112, 4), Shares { connections: 16, segments: 8, tables: 8 });
        let refused = shares_of(Some(111), 4).unwrap_err();
        assert!(matches!(refused, ServeError::TooFewFiles { files: 111, needed: 112, partitions: 4 }));
        assert!(shares_of(Some(1_024), 256).is_err());
    }

    #[test]
    fn no_more_is_shared_out_than_there_is() {
        for files in 112..3_000 {
            let Shares { connections, segments, tables } = shares(files, 4);
            assert!(40 + 4 * 4 + connections + 2 * segments + 3 * tables <= files as usize, "{files}");
        }
    }
}
