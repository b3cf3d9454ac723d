//! What locks must have done, and who may believe to hold one: an owner does from the answer on until the time that
//! the answer says, over all restarts, unless it asks for less or gives the lock back. Nobody else may be given it
//! meanwhile.

use std::collections::{BTreeMap, BTreeSet};

use consumers::locks::{LockEvent, LockName};

use crate::ledger::Place;

/// What the log says of a lock that is held.
#[derive(Debug, Clone)]
pub struct Kept {
    pub token: u64,
    pub ttl_ms: u32,
    pub owner: String,
}

/// What an owner was told, or what it may still count on.
#[derive(Debug, Clone, Copy)]
pub struct Belief {
    pub token: u64,
    /// Nanoseconds.
    pub until: u64,
}

/// All locks, as the log's events have made them and as their owners see them.
#[derive(Debug, Default)]
pub struct LocksModel {
    /// By partition: the end of the frame, and what it says.
    events: BTreeMap<u16, Vec<(Place, LockName, LockEvent)>>,
    pub now: BTreeMap<LockName, Kept>,
    /// All grants there were.
    pub granted: BTreeMap<(LockName, u64), String>,
    /// All that were given back, or lapsed.
    pub released: BTreeSet<(LockName, u64)>,
    /// What was asked for: by whom, and for how long.
    pub asked: BTreeSet<(LockName, String, u32)>,
    /// Tokens whose owners have asked to give them back, and how often.
    pub giving_back: BTreeMap<(LockName, u64), u32>,
    pub given_back: BTreeSet<(LockName, u64)>,
    pub believed: BTreeMap<(LockName, String), Belief>,
    /// The highest token that anyone was told.
    pub highest: BTreeMap<LockName, u64>,
    /// Grants of this process that nobody was told of.
    pub fresh: BTreeSet<(LockName, u64)>,
    /// By when a holder's time is over at the latest, as far as that can be known: the process began it.
    pub latest: BTreeMap<(LockName, u64), u64>,
}

impl LocksModel {
    /// A process begins, and the holders' times at a moment of its own.
    pub fn begin(&mut self) {
        self.latest.clear();
        self.fresh.clear();
    }

    /// Who but `owner` may believe to hold a lock.
    pub fn other_holder(&self, lock: &LockName, owner: &str, now: u64) -> Option<(&str, Belief)> {
        let of_lock = self.believed.iter().filter(|((of, other), _)| of == lock && other != owner);
        of_lock.map(|((_, other), belief)| (&**other, *belief)).find(|(_, belief)| belief.until > now)
    }

    /// Takes in an event, once it is sure that it may be.
    pub fn take(&mut self, at: Place, lock: LockName, event: LockEvent, now: u64) -> Result<(), String> {
        self.judge(at, &lock, &event, now).map_err(|reason| format!("{reason}: {event:?} of {lock:?}"))?;
        match &event {
            LockEvent::Granted { owner, .. } => {
                let grant = (lock.clone(), at.next_offset + 1);
                self.fresh.insert(grant.clone());
                self.granted.insert(grant, owner.to_string());
            }
            LockEvent::Released { token } => drop(self.released.insert((lock.clone(), *token))),
            LockEvent::Extended { .. } => {}
        }
        apply(&mut self.now, at, &lock, &event);
        self.events.entry(at.partition).or_default().push((at, lock, event));
        Ok(())
    }

    fn judge(&self, at: Place, lock: &LockName, event: &LockEvent, now: u64) -> Result<(), String> {
        let holder = self.now.get(lock);
        match event {
            LockEvent::Granted { owner, ttl_ms } => {
                if let Some((other, belief)) = self.other_holder(lock, owner, now) {
                    return Err(format!("granted while {other} holds it: {belief:?}, it is {now}"));
                }
                if !self.asked.contains(&(lock.clone(), owner.to_string(), *ttl_ms)) {
                    return Err("granted to one who did not ask".to_owned());
                }
                let before = self.granted.range((lock.clone(), 0)..=(lock.clone(), u64::MAX)).next_back();
                match before {
                    Some(((_, before), _)) if at.next_offset < *before => Err("tokens do not grow".to_owned()),
                    _ => Ok(()),
                }
            }
            LockEvent::Extended { token, ttl_ms } => match holder.filter(|holder| holder.token == *token) {
                None => Err("extended by one who does not hold it".to_owned()),
                Some(Kept { owner, .. }) if !self.asked.contains(&(lock.clone(), owner.clone(), *ttl_ms)) => {
                    Err("extended, and nobody asked for it".to_owned())
                }
                Some(_) => Ok(()),
            },
            LockEvent::Released { token } => {
                let Some(holder) = holder.filter(|holder| holder.token == *token) else {
                    return Err("released by one who does not hold it".to_owned());
                };
                let belief = self.believed.get(&(lock.clone(), holder.owner.clone()));
                match belief.filter(|belief| belief.token == *token && belief.until > now) {
                    Some(belief) => Err(format!("taken from its holder: {belief:?}, it is {now}")),
                    None => Ok(()),
                }
            }
        }
    }

    /// All rows of locks, where the ledger's offset rows are at these positions.
    pub fn rows(&self, seen: &BTreeMap<u16, u64>, rows: &mut BTreeMap<Vec<u8>, Vec<u8>>) {
        for (partition, events) in &self.events {
            let end = seen.get(partition).copied().unwrap_or(0);
            let mut locks = BTreeMap::new();
            for (at, lock, event) in events.iter().take_while(|(at, ..)| at.end <= end) {
                apply(&mut locks, *at, lock, event);
            }
            for (lock, Kept { token, ttl_ms, owner }) in locks {
                let key = [b"k", &partition.to_be_bytes()[..], lock.as_bytes()].concat();
                rows.insert(key, [&token.to_le_bytes()[..], &ttl_ms.to_le_bytes(), owner.as_bytes()].concat());
            }
        }
    }
}

/// What becomes of a lock. A token is one more than the offset of its grant among the partition's control records.
fn apply(locks: &mut BTreeMap<LockName, Kept>, at: Place, lock: &LockName, event: &LockEvent) {
    match event {
        LockEvent::Granted { owner, ttl_ms } => {
            let kept = Kept { token: at.next_offset + 1, ttl_ms: *ttl_ms, owner: owner.to_string() };
            locks.insert(lock.clone(), kept);
        }
        LockEvent::Extended { ttl_ms, .. } => {
            if let Some(kept) = locks.get_mut(lock) {
                kept.ttl_ms = kept.ttl_ms.max(*ttl_ms);
            }
        }
        LockEvent::Released { .. } => drop(locks.remove(lock)),
    }
}
