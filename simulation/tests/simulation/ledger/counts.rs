//! What is counted, to see that a simulation does what it is for.

use std::fmt;
use std::ops::AddAssign;

/// What the ledgers of some runs amount to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LedgerCounts {
    /// Runs that had a ledger.
    pub runs: u64,
    pub restarts: u64,
    /// Restarts that found an older folder, or none.
    pub older: u64,
    pub lost: u64,
    /// Processes that ended at a write of the ledger.
    pub ends: u64,
    /// Rows that were held against the models.
    pub rows: u64,
    pub groups: GroupsCounts,
    pub locks: LocksCounts,
    pub rooms: RoomsCounts,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GroupsCounts {
    pub events: u64,
    pub deliveries: u64,
    pub redeliveries: u64,
    pub acks: u64,
    pub letters: u64,
    /// Letters that were sent back.
    pub redriven: u64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LocksCounts {
    pub events: u64,
    pub grants: u64,
    pub extensions: u64,
    pub releases: u64,
    /// Calls that were refused, as another held the lock or the token was the holder's no more.
    pub refusals: u64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RoomsCounts {
    pub events: u64,
    pub connections: u64,
    pub deliveries: u64,
    pub acks: u64,
    /// Slots that were given out again.
    pub reused: u64,
}

impl AddAssign for LedgerCounts {
    fn add_assign(&mut self, other: LedgerCounts) {
        self.runs += other.runs;
        self.restarts += other.restarts;
        self.older += other.older;
        self.lost += other.lost;
        self.ends += other.ends;
        self.rows += other.rows;
        self.groups += other.groups;
        self.locks += other.locks;
        self.rooms += other.rooms;
    }
}

impl AddAssign for GroupsCounts {
    fn add_assign(&mut self, other: GroupsCounts) {
        self.events += other.events;
        self.deliveries += other.deliveries;
        self.redeliveries += other.redeliveries;
        self.acks += other.acks;
        self.letters += other.letters;
        self.redriven += other.redriven;
    }
}

impl AddAssign for LocksCounts {
    fn add_assign(&mut self, other: LocksCounts) {
        self.events += other.events;
        self.grants += other.grants;
        self.extensions += other.extensions;
        self.releases += other.releases;
        self.refusals += other.refusals;
    }
}

impl AddAssign for RoomsCounts {
    fn add_assign(&mut self, other: RoomsCounts) {
        self.events += other.events;
        self.connections += other.connections;
        self.deliveries += other.deliveries;
        self.acks += other.acks;
        self.reused += other.reused;
    }
}

impl fmt::Display for LedgerCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let LedgerCounts { runs, restarts, older, lost, ends, rows, groups, locks, rooms } = self;
        write!(f, "in {runs} seeds, {restarts} restarts ({older} with an older ledger, {lost} without one, ")?;
        writeln!(f, "{ends} after an end at a write), {rows} rows compared")?;
        let GroupsCounts { events, deliveries, redeliveries, acks, letters, redriven } = groups;
        write!(f, "groups: {events} events, {deliveries} deliveries ({redeliveries} of them again), {acks} acks, ")?;
        writeln!(f, "{letters} dead letters, {redriven} of them sent back")?;
        let LocksCounts { events, grants, extensions, releases, refusals } = locks;
        write!(f, "locks: {events} events, {grants} grants, {extensions} extensions, {releases} releases, ")?;
        writeln!(f, "{refusals} refusals")?;
        let RoomsCounts { events, connections, deliveries, acks, reused } = rooms;
        write!(f, "rooms: {events} events, {connections} connections, {deliveries} deliveries, {acks} acks, ")?;
        write!(f, "{reused} slots given out again")
    }
}
