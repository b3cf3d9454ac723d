//! Open files: clients must never use up those that the log and the stores need. A log that can't
//! open its next segment takes no more writes.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Files that are left to the log, the stores and the process, where the limit allows it.
const RESERVED_FILES: u64 = 2_048;

/// Raises the process's limit of open files as far as it may, and says how many of `connections` can
/// be served at once within it: at least 1.
pub(super) fn connections_within_limit(connections: usize) -> usize {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let files = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(error) => {
            tracing::warn!(%error, files = limit.current, "the limit of open files can't be raised");
            limit.current
        }
    };
    let within = connections_of(files, connections);
    if within < connections {
        tracing::warn!(files, connections = within, "fewer connections, as the limit of open files is low");
    }
    within
}

/// How many of `connections` can be served where this many files may be open; nothing: any number.
fn connections_of(files: Option<u64>, connections: usize) -> usize {
    let Some(files) = files else { return connections };
    let free = files.saturating_sub(RESERVED_FILES).max(files / 2);
    connections.min(usize::try_from(free).unwrap_or(usize::MAX)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_files_to_the_log() {
        assert_eq!(connections_of(None, 10_000), 10_000);
        assert_eq!(connections_of(Some(1 << 20), 10_000), 10_000);
        assert_eq!(connections_of(Some(8_192), 10_000), 6_144);
        assert_eq!(connections_of(Some(1_024), 10_000), 512);
        assert_eq!(connections_of(Some(0), 10_000), 1);
    }
}
