//! What owners ask of locks, and whether what they are told may be.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use consumers::locks::{Held, LockName, LockState, Locks, LocksError};

use super::model::{Belief, Kept};
use crate::ledger::SimLedger;
use crate::world::{World, broken, poll_once};

/// What came of a call.
enum Answer {
    Held(Result<Held, LocksError>),
    Released(Result<(), LocksError>),
    State(Result<Option<LockState>, LocksError>),
}

/// What was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum What {
    Ask {
        owner: String,
        ttl_ms: u32,
        waits: bool,
    },
    /// The owner of a token wants a time, or the one that it had.
    Extend {
        owner: String,
        token: u64,
        ttl_ms: Option<u32>,
    },
    Release {
        owner: String,
        token: u64,
    },
    State,
}

/// A call that is under way.
struct Call {
    number: u64,
    lock: LockName,
    what: What,
    /// When it began.
    begun: u64,
    /// The highest token that anyone had been told by then.
    highest: u64,
    /// Until when the owner counted on the lock by then.
    counted: u64,
    /// Others of the same owner that were under way meanwhile may leave it no longer than this.
    cap: u64,
    /// Whether the owner was giving the lock back already.
    gives_back: bool,
    /// Whether the log said by then that the token is not the holder's.
    is_foreign: bool,
    answer: Pin<Box<dyn Future<Output = Answer>>>,
}

/// What ends with the process.
pub struct Calls {
    begun: u64,
    calls: Vec<Call>,
    /// Those who went away while they waited: the lock may have been on its way to them.
    gone: Vec<(LockName, String, u64)>,
    /// Whoever asked in this process.
    askers: BTreeMap<(LockName, String), u64>,
    /// When a partition's locks first answered.
    answered: BTreeMap<u16, u64>,
    pub locks: Locks,
}

impl Calls {
    pub fn new(locks: Locks) -> Calls {
        let (calls, gone) = (Vec::new(), Vec::new());
        Calls { begun: 0, calls, gone, askers: BTreeMap::new(), answered: BTreeMap::new(), locks }
    }
}

const OWNERS: [&str; 4] = ["anna", "ben", "carl", "dora"];
const TTLS: [u32; 3] = [100, 1_000, 30_000];

/// No wait of a call is over before the process is.
const LONG: Duration = Duration::from_secs(100_000);

/// The shortest time that anyone asks for, nanoseconds.
const SHORTEST: u64 = 100_000_000;

fn nanos(ttl_ms: u32) -> u64 {
    u64::from(ttl_ms) * 1_000_000
}

fn millis(ttl_ms: u32) -> Duration {
    Duration::from_millis(u64::from(ttl_ms))
}

impl What {
    fn owner(&self) -> Option<&str> {
        match self {
            What::Ask { owner, .. } | What::Extend { owner, .. } | What::Release { owner, .. } => Some(owner),
            What::State => None,
        }
    }

    /// The least time that the owner has from now on, if this is done now.
    fn least(&self) -> Option<u64> {
        match self {
            What::Ask { ttl_ms, .. } => Some(nanos(*ttl_ms)),
            What::Extend { ttl_ms, .. } => Some(ttl_ms.map_or(SHORTEST, nanos)),
            What::Release { .. } | What::State => None,
        }
    }
}

impl World {
    /// Asks something of a lock.
    pub fn call_locks(&mut self, ledger: &mut SimLedger) {
        let lock = LockName::new(&format!("lock-{}", ledger.rng.below(4))).unwrap();
        let what = some_call(ledger, &lock);
        let call = begin(ledger, lock, what);
        let calls = &mut ledger.process().locks.calls;
        calls.push(call);
        let gone = calls.len() > 12 || ledger.rng.chance(1, 8);
        if gone {
            self.poll_locks(ledger);
            let at = ledger.rng.below(13) as usize;
            if at < ledger.process().locks.calls.len() {
                let call = ledger.process().locks.calls.remove(at);
                go_away(ledger, call);
            }
        }
    }

    pub fn poll_locks(&mut self, ledger: &mut SimLedger) {
        let calls = std::mem::take(&mut ledger.process().locks.calls);
        let mut calls = calls.into_iter();
        while let Some(mut call) = calls.next() {
            match poll_once(&ledger.process().runtime, &mut call.answer) {
                Poll::Pending => ledger.process().locks.calls.push(call),
                Poll::Ready(answer) => {
                    // The others stay in their order, where the judge sees them.
                    let polled = ledger.process().locks.calls.len();
                    ledger.process().locks.calls.extend(calls);
                    self.judge_locks_answer(ledger, &call, answer);
                    calls = ledger.process().locks.calls.split_off(polled).into_iter();
                }
            }
        }
    }

    fn judge_locks_answer(&mut self, ledger: &mut SimLedger, call: &Call, answer: Answer) {
        note_loaded(ledger, &call.lock, self.options.partitions);
        let (lock, what) = (&call.lock, &call.what);
        let refused = match answer {
            Answer::Held(Ok(held)) => {
                self.note(&format!("{lock:?} {what:?} {}", held.token));
                return judge_held(ledger, call, &held);
            }
            Answer::Released(Ok(())) => {
                self.note(&format!("{lock:?} {what:?} done"));
                return judge_released(ledger, call);
            }
            Answer::State(Ok(state)) => return judge_state(ledger, call, state.as_ref()),
            Answer::Held(Err(error)) | Answer::Released(Err(error)) | Answer::State(Err(error)) => error,
        };
        self.note(&format!("{lock:?} {what:?} refused"));
        ledger.counts.locks.refusals += 1;
        let may_be = match &refused {
            LocksError::Held { owner, .. } => {
                let is_known = ledger.process().locks.askers.contains_key(&(lock.clone(), owner.clone()));
                let is_held = ledger.locks.now.get(lock).is_some_and(|kept| kept.owner == *owner);
                matches!(what, What::Ask { waits: false, .. }) && what.owner() != Some(owner) && (is_known || is_held)
            }
            LocksError::Lost => {
                let most = what.least().map_or(u64::MAX, |least| call.begun + least);
                let is_holder = call.counted.min(call.cap).min(most) > ledger.now() && !call.gives_back;
                *what != What::State && !is_holder
            }
            LocksError::Append(_) | LocksError::Ledger(_) => {
                may_be_done(ledger, call);
                self.is_faulty(ledger)
            }
            _ => false,
        };
        if !may_be {
            let belief = what.owner().and_then(|owner| ledger.locks.believed.get(&(lock.clone(), owner.to_owned())));
            broken!("{what:?} of {lock:?} at {}: {refused} ({belief:?}, counted on {})", call.begun, call.counted);
        }
    }

    /// Everyone who asks is served in the end.
    pub fn finish_locks(&mut self) {
        self.with_ledger(|ledger, _| {
            for number in 0..4 {
                for owner in OWNERS {
                    let lock = LockName::new(&format!("lock-{number}")).unwrap();
                    let call = begin(ledger, lock, What::Ask { owner: owner.to_owned(), ttl_ms: 1_000, waits: true });
                    ledger.process().locks.calls.push(call);
                }
            }
        });
        for _ in 0..100 {
            if self.ledger.as_mut().is_none_or(|ledger| ledger.process().locks.calls.is_empty()) {
                return;
            }
            self.go_round();
        }
        broken!("owners wait for locks for ever");
    }
}

/// Something that makes sense, or just does not.
fn some_call(ledger: &mut SimLedger, lock: &LockName) -> What {
    let rng = &mut ledger.rng;
    let ttl_ms = TTLS[rng.index(3)];
    let turn = rng.below(20);
    if turn < 10 {
        let owner = OWNERS[rng.index(4)].to_owned();
        return What::Ask { owner, ttl_ms, waits: rng.chance(2, 3) };
    }
    if turn == 10 {
        return What::State;
    }
    // Mostly the token of who was told last; some are late, and some never were one.
    let all: Vec<(String, u64)> = ledger
        .locks
        .granted
        .range((lock.clone(), 0)..=(lock.clone(), u64::MAX))
        .map(|((_, token), owner)| (owner.clone(), *token))
        .collect();
    let Some((owner, token)) = all.last().cloned() else { return What::State };
    let (owner, token) = match rng.below(8) {
        0 => all[rng.index(all.len())].clone(),
        1 => (owner, token + 1_000_000),
        _ => (owner, token),
    };
    match turn {
        11..16 => What::Extend { owner, token, ttl_ms: rng.chance(2, 3).then_some(ttl_ms) },
        _ => What::Release { owner, token },
    }
}

fn begin(ledger: &mut SimLedger, lock: LockName, what: What) -> Call {
    let now = ledger.now();
    let (locks, name) = (ledger.process().locks.locks.clone(), lock.clone());
    let answer: Pin<Box<dyn Future<Output = Answer>>> = match what.clone() {
        What::Ask { owner, ttl_ms, waits } => {
            ledger.locks.asked.insert((lock.clone(), owner.clone(), ttl_ms));
            let calls = &mut ledger.process().locks;
            let number = calls.begun;
            calls.askers.entry((lock.clone(), owner.clone())).or_insert(number);
            let wait = if waits { LONG } else { Duration::ZERO };
            Box::pin(async move { Answer::Held(locks.ask(&name, &owner, millis(ttl_ms), wait).await) })
        }
        What::Extend { owner, token, ttl_ms } => {
            ledger.locks.asked.extend(ttl_ms.map(|ttl_ms| (lock.clone(), owner, ttl_ms)));
            Box::pin(async move { Answer::Held(locks.extend(&name, token, ttl_ms.map(millis)).await) })
        }
        What::Release { token, .. } => Box::pin(async move { Answer::Released(locks.release(&name, token).await) }),
        What::State => Box::pin(async move { Answer::State(locks.state(&name).await) }),
    };
    let owner = what.owner().unwrap_or_default().to_owned();
    let model = &mut ledger.locks;
    let token = match what {
        What::Extend { token, .. } | What::Release { token, .. } => Some(token),
        What::Ask { .. } | What::State => None,
    };
    let is_foreign = token.is_some_and(|token| model.now.get(&lock).is_none_or(|kept| kept.token != token));
    let mut belief = model.believed.get_mut(&(lock.clone(), owner.clone()));
    belief = belief.filter(|belief| token.is_none_or(|token| token == belief.token));
    let counted = belief.as_ref().map_or(0, |belief| belief.until);
    let highest = model.highest.get(&lock).copied().unwrap_or(0);
    // From here on the owner can't count on more than it asks for.
    let least = what.least().map(|least| now + least);
    if let Some(belief) = belief {
        let until = if matches!(what, What::Release { .. }) { Some(0) } else { least };
        belief.until = belief.until.min(until.unwrap_or(u64::MAX));
    }
    let mut gives_back = false;
    if let (What::Release { .. }, Some(token)) = (&what, token) {
        let times = model.giving_back.entry((lock.clone(), token)).or_insert(0);
        gives_back = *times > 0;
        *times += 1;
    } else if let Some(token) = token {
        gives_back = model.giving_back.contains_key(&(lock.clone(), token));
    }
    let Calls { begun, calls, .. } = &mut ledger.process().locks;
    let mut cap = u64::MAX;
    for other in calls.iter_mut().filter(|other| other.lock == lock && other.what.owner() == Some(&owner)) {
        other.cap = least.map_or(other.cap, |least| other.cap.min(least));
        if matches!(what, What::Release { .. }) {
            other.cap = 0;
        }
        // When the other was done is not known.
        cap = other.what.least().map_or(0, |least| other.begun + least).min(cap);
    }
    *begun += 1;
    Call { number: *begun, lock, what, begun: now, highest, counted, cap, gives_back, is_foreign, answer }
}

/// The owner does not hear the answer.
fn go_away(ledger: &mut SimLedger, call: Call) {
    may_be_done(ledger, &call);
    let Call { lock, what, number, answer, .. } = call;
    if let What::Ask { owner, .. } = what {
        ledger.process().locks.gone.push((lock, owner, number));
    }
    let _within = ledger.process().runtime.enter();
    drop(answer);
}

/// What was asked for may have been done.
fn may_be_done(ledger: &mut SimLedger, call: &Call) {
    if call.what.least().is_some() {
        let most = ledger.now() + nanos(TTLS[2]);
        let of_lock = ledger.locks.latest.iter_mut().filter(|((of, _), _)| *of == call.lock);
        of_lock.for_each(|(_, latest)| *latest = most.max(*latest));
    }
}

/// Locks that a partition's log says were held when it was loaded are so from then on, or a little earlier.
fn note_loaded(ledger: &mut SimLedger, lock: &LockName, partitions: u16) {
    let (now, partition) = (ledger.now(), lock.partition(partitions));
    let answered = &mut ledger.process().locks.answered;
    if answered.contains_key(&partition) {
        return;
    }
    answered.insert(partition, now);
    let held = ledger.locks.now.iter().filter(|(name, _)| name.partition(partitions) == partition);
    let latest = held.map(|(name, Kept { token, ttl_ms, .. })| ((name.clone(), *token), now + nanos(*ttl_ms)));
    ledger.locks.latest = std::mem::take(&mut ledger.locks.latest).into_iter().chain(latest).collect();
}

/// Whether a holder's time was over for sure when a call began.
fn was_over(ledger: &mut SimLedger, call: &Call, token: u64) -> bool {
    let waits = |other: &Call| {
        other.lock == call.lock && other.what.owner() == call.what.owner() && other.what.least().is_some()
    };
    let is_alone = call.cap == u64::MAX && !ledger.process().locks.calls.iter().any(waits);
    let latest = ledger.locks.latest.get(&(call.lock.clone(), token));
    is_alone && latest.is_some_and(|latest| *latest <= call.begun)
}

fn judge_held(ledger: &mut SimLedger, call: &Call, held: &Held) {
    let (now, lock) = (ledger.now(), &call.lock);
    let Held { owner, token, expires_micros } = held;
    let (token, until) = (*token, expires_micros.cast_unsigned() * 1000);
    if token < call.highest && matches!(call.what, What::Ask { .. }) {
        broken!("{lock:?} is given under token {token}, and was under {} before", call.highest);
    }
    if ledger.locks.granted.get(&(lock.clone(), token)).is_none_or(|granted| **granted != **owner) {
        broken!("{lock:?} is said to be {owner}'s under token {token}, which the log does not say");
    }
    if call.what.owner() != Some(&**owner) && matches!(call.what, What::Ask { .. }) {
        broken!("{:?} of {lock:?} is answered with {held:?}", call.what);
    }
    let asked = match call.what {
        What::Ask { ttl_ms, .. } => Some(nanos(ttl_ms)),
        What::Extend { ttl_ms, .. } => ttl_ms.map(nanos),
        What::Release { .. } | What::State => None,
    };
    if call.cap == u64::MAX && asked.is_some_and(|ttl| !(call.begun + ttl..=now + ttl).contains(&until)) {
        broken!("{:?} of {lock:?} at {} is answered with {held:?} at {now}", call.what, call.begun);
    }
    if let What::Extend { token: shown, .. } = call.what {
        if shown != token || call.is_foreign || was_over(ledger, call, token) {
            broken!("{:?} of {lock:?} at {} is done, it did not hold the lock", call.what, call.begun);
        }
        ledger.counts.locks.extensions += 1;
    }
    if let Some((other, belief)) = ledger.locks.other_holder(lock, owner, now)
        && until > now
    {
        broken!("{lock:?} is {owner}'s under {token}, and {other} holds it: {belief:?}, it is {now}");
    }
    if ledger.locks.fresh.remove(&(lock.clone(), token)) {
        judge_line(ledger, call, owner);
        ledger.counts.locks.grants += 1;
    }
    let highest = ledger.locks.highest.entry(lock.clone()).or_insert(token);
    *highest = token.max(*highest);
    let latest = ledger.locks.latest.entry((lock.clone(), token)).or_insert(until);
    *latest = if call.cap == u64::MAX { until } else { until.max(*latest) };
    if !ledger.locks.giving_back.contains_key(&(lock.clone(), token)) {
        let belief = Belief { token, until: until.min(call.cap) };
        ledger.locks.believed.insert((lock.clone(), owner.to_string()), belief);
    }
}

/// Nobody of another name has waited for longer.
fn judge_line(ledger: &mut SimLedger, call: &Call, owner: &str) {
    let Calls { calls, gone, .. } = &mut ledger.process().locks;
    let is_its = |(lock, other, _): &&(LockName, String, u64)| *lock == call.lock && other == owner;
    let earliest = gone.iter().filter(is_its).map(|(.., number)| *number).chain([call.number]);
    let its = calls.iter().filter(|other| other.lock == call.lock && other.what.owner() == Some(owner));
    let earliest = earliest.chain(its.map(|other| other.number)).min().unwrap_or(0);
    let waits = |other: &&Call| {
        other.lock == call.lock && other.what.owner() != Some(owner) && matches!(other.what, What::Ask { .. })
    };
    if let Some(other) = calls.iter().filter(waits).find(|other| other.number < earliest) {
        broken!("{:?} is {owner}'s, and {:?} has waited for longer", call.lock, other.what);
    }
    gone.retain(|(lock, other, _)| *lock != call.lock || other != owner);
}

fn judge_released(ledger: &mut SimLedger, call: &Call) {
    let What::Release { token, .. } = call.what else { broken!("{:?} was answered as a release", call.what) };
    let id = (call.lock.clone(), token);
    if call.is_foreign || was_over(ledger, call, token) {
        broken!("{:?} of {:?} at {} is done, it did not hold the lock", call.what, call.lock, call.begun);
    }
    if !ledger.locks.released.contains(&id) {
        broken!("{:?} of {:?} is answered, and not in the log", call.what, call.lock);
    }
    if !ledger.locks.given_back.insert(id) {
        broken!("{:?} of {:?} is done twice", call.what, call.lock);
    }
    ledger.counts.locks.releases += 1;
}

fn judge_state(ledger: &mut SimLedger, call: &Call, state: Option<&LockState>) {
    let now = ledger.now();
    match state {
        Some(LockState { held: Held { owner, token, .. }, .. }) => {
            if let Some((other, belief)) = ledger.locks.other_holder(&call.lock, owner, now) {
                broken!("{:?} is said to be {owner}'s, {other} holds it: {belief:?}", call.lock);
            }
            if ledger.locks.granted.get(&(call.lock.clone(), *token)).is_none_or(|granted| **granted != **owner) {
                broken!("{:?} is said to be {owner}'s under {token}, which the log does not say", call.lock);
            }
        }
        None => {
            if let Some((holder, belief)) = ledger.locks.other_holder(&call.lock, "", now) {
                broken!("{:?} is said to be free, {holder} holds it: {belief:?}", call.lock);
            }
        }
    }
}
