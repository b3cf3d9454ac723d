//! What workers ask of groups, and whether what they get is what they may get.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use consumers::groups::{
    Ask, Configured, Done, GroupConfig, GroupName, Groups, GroupsError, Leased, Order, Retry, Seek, Start, Token,
};
use tlog::AppendError;
use tlog::storage::simulated::Rng;
use wire::{NamespaceName, Offset, ProducerId};

use super::model::{GroupModel, Id};
use crate::ledger::{DEAD, SimLedger, record_at};
use crate::world::{World, broken, poll_once};

/// What came of a call.
pub enum Answer {
    Lease(Result<Vec<Leased>, GroupsError>),
    Ack(Result<Done, GroupsError>),
    Nack(Result<Done, GroupsError>),
    Extend(Result<Done, GroupsError>),
    Configure(Result<Configured, GroupsError>),
    Other(Result<(), GroupsError>),
    Seek(Result<Offset, GroupsError>),
    Redrive(Result<u64, GroupsError>),
}

/// A call that is under way.
pub struct Call {
    id: Id,
    /// How often the group had been begun, moved or ended.
    era: u64,
    tokens: Vec<Token>,
    redrive: Option<Redrive>,
    answer: Pin<Box<dyn Future<Output = Answer>>>,
}

/// What there was when letters were asked to be sent back.
struct Redrive {
    from: Option<usize>,
    due: Vec<ProducerId>,
    back: u64,
}

/// Acks that were answered, by group and how often it had been begun, moved or ended.
pub type Acked = BTreeMap<(Id, u64), BTreeSet<u64>>;

/// What ends with the process.
pub struct Calls {
    calls: Vec<Call>,
    /// By group and offset: the last delivery.
    held: BTreeMap<(Id, u64), Token>,
    /// All tokens that were given.
    given: BTreeSet<Token>,
    pub groups: Groups,
}

impl Calls {
    pub fn new(groups: Groups) -> Calls {
        Calls { calls: Vec::new(), held: BTreeMap::new(), given: BTreeSet::new(), groups }
    }
}

const WORKERS: [&str; 3] = ["a", "b", "c"];

/// No wait of a call is over before the process is.
const LONG: Duration = Duration::from_secs(100_000);

fn config(rng: &mut Rng, head: u64) -> GroupConfig {
    let start = match rng.below(6) {
        0 => Start::Latest,
        1 => Start::At(rng.below(head + 3)),
        _ => Start::Earliest,
    };
    let dead_letter = rng.chance(1, 2).then(|| NamespaceName::new(&format!("{DEAD}{}", rng.below(2))).unwrap());
    GroupConfig {
        order: if rng.chance(1, 2) { Order::Key } else { Order::None },
        start,
        lease_ms: [100, 1_000, 30_000][rng.index(3)],
        max_deliveries: 1 + rng.below(4) as u32,
        retry: Retry { min_ms: [0, 50][rng.index(2)], max_ms: 400 },
        dead_letter,
    }
}

impl World {
    /// Asks something of a group.
    pub fn call_groups(&mut self, ledger: &mut SimLedger) {
        let live: Vec<usize> = self.model.live().map(|(at, _)| at).filter(|at| !self.is_dead(*at)).collect();
        if live.is_empty() {
            return;
        }
        // Mostly one that is there.
        let there: Vec<Id> = ledger.groups.now.keys().filter(|id| !self.is_dead(id.0)).cloned().collect();
        let new = there.len() < 3 || ledger.rng.chance(1, 12);
        let id = match new {
            true => (live[ledger.rng.index(live.len())], format!("g{}", ledger.rng.below(2))),
            false => there[ledger.rng.index(there.len())].clone(),
        };
        let turn = if new { 0 } else { 1 + ledger.rng.below(32) };
        let begun = self.begin_call(ledger, &id, turn);
        let calls = &mut ledger.process().groups.calls;
        calls.push(begun);
        // Some go away as soon as they have asked.
        let gone = calls.len() > 12 || ledger.rng.chance(1, 10);
        if gone {
            self.poll_groups(ledger);
            let at = ledger.rng.below(13) as usize;
            let calls = &mut ledger.process().groups.calls;
            if at < calls.len() {
                drop(calls.remove(at));
            }
        }
    }

    fn begin_call(&self, ledger: &mut SimLedger, id: &Id, turn: u64) -> Call {
        let namespace = self.model.namespaces[id.0].handle.clone();
        let head = self.model.namespaces[id.0].next_offset;
        let name = GroupName::new(&id.1).unwrap();
        let running = ledger.process().groups.groups.clone();
        let worker = WORKERS[ledger.rng.index(3)].to_owned();
        let rng = &mut ledger.rng;
        let mut tokens = Vec::new();
        let answer: Pin<Box<dyn Future<Output = Answer>>> = match turn {
            0 => {
                let config = config(rng, head);
                Box::pin(async move { Answer::Configure(running.configure(&namespace, &name, config).await) })
            }
            1..12 => {
                let max = 1 + rng.index(8);
                let ask = Ask { worker, max, max_bytes: 20_000, max_held: usize::MAX, wait: LONG };
                Box::pin(async move { Answer::Lease(running.lease(&namespace, &name, ask).await) })
            }
            12..28 => {
                tokens = self.some_tokens(ledger, id);
                let (rng, tokens) = (&mut ledger.rng, tokens.clone());
                match turn {
                    12..22 => {
                        let asked = ledger.groups.asked.entry(id.clone()).or_default();
                        asked.extend(tokens.iter().map(|token| token.offset));
                        Box::pin(async move { Answer::Ack(running.ack(&namespace, &name, tokens).await) })
                    }
                    22..26 => {
                        let delay = rng.chance(1, 2).then(|| Duration::from_millis(rng.below(500)));
                        let nack = async move {
                            let error = Some("no".to_owned());
                            Answer::Nack(running.nack(&namespace, &name, tokens, delay, error).await)
                        };
                        Box::pin(nack)
                    }
                    _ => Box::pin(async move { Answer::Extend(running.extend(&namespace, &name, tokens, None).await) }),
                }
            }
            28 => Box::pin(async move { Answer::Other(running.leave(&namespace, &name, &worker).await) }),
            29 if rng.chance(1, 2) => {
                let to = match rng.below(3) {
                    0 => Seek::Earliest,
                    1 => Seek::Latest,
                    _ => Seek::Offset(rng.below(head + 2)),
                };
                Box::pin(async move { Answer::Seek(running.seek(&namespace, &name, to).await) })
            }
            31.. => return self.begin_redrive(ledger, id),
            _ if rng.chance(1, 4) => Box::pin(async move { Answer::Other(running.delete(&namespace, &name).await) }),
            _ => {
                let mut config = config(rng, head);
                if let Some(group) = ledger.groups.now.get(id) {
                    config.start = group.config.start;
                }
                Box::pin(async move { Answer::Configure(running.configure(&namespace, &name, config).await) })
            }
        };
        let era = ledger.groups.eras.get(id).copied().unwrap_or(0);
        Call { id: id.clone(), era, tokens, redrive: None, answer }
    }

    /// Has the dead letters of a group sent back.
    fn begin_redrive(&self, ledger: &mut SimLedger, id: &Id) -> Call {
        let (namespace, name) = (self.model.namespaces[id.0].handle.clone(), GroupName::new(&id.1).unwrap());
        let from = ledger.groups.now.get(id).and_then(|group| self.dead_letters_of(group));
        let due =
            from.map(|from| ledger.groups.letters_in(from, namespace.name(), id, &self.model)).unwrap_or_default();
        let redrive = Some(Redrive { from, due, back: ledger.groups.back.len() as u64 });
        let running = ledger.process().groups.groups.clone();
        let answer = Box::pin(async move { Answer::Redrive(running.redrive(&namespace, &name).await) });
        let era = ledger.groups.eras.get(id).copied().unwrap_or(0);
        Call { id: id.clone(), era, tokens: Vec::new(), redrive, answer }
    }

    /// The namespace to which a group's dead letters go, if there is one.
    fn dead_letters_of(&self, group: &GroupModel) -> Option<usize> {
        let name = group.config.dead_letter.as_ref()?;
        self.model.live().find(|(_, namespace)| namespace.handle.name() == name).map(|(at, _)| at)
    }

    /// All that was there when it began is back, and it is not said that more went back than did.
    fn judge_redrive(&self, ledger: &SimLedger, call: &Call, sent: u64) {
        let Some(Redrive { from, due, back }) = &call.redrive else { return };
        let went = ledger.groups.back.len() as u64 - back;
        if sent > went {
            broken!("{sent} letters of {:?} are said to be back, there are {went}", call.id);
        }
        let now = ledger.groups.now.get(&call.id).and_then(|group| self.dead_letters_of(group));
        if let Some(producer) = due.iter().find(|producer| now == *from && !ledger.groups.is_back(producer)) {
            broken!("a letter of {:?} is not back: {:?}", call.id, ledger.groups.ways_back[producer]);
        }
    }

    /// Tokens of a group: mostly the last of their records, some of them late.
    fn some_tokens(&self, ledger: &mut SimLedger, id: &Id) -> Vec<Token> {
        let SimLedger { process: Some(process), rng, .. } = ledger else { return Vec::new() };
        let Calls { held, given, .. } = &process.groups;
        let of_it = held.range((id.clone(), 0)..=(id.clone(), u64::MAX)).map(|(_, token)| *token);
        let mut tokens: Vec<Token> = of_it.filter(|_| rng.chance(1, 2)).collect();
        if rng.chance(1, 6) {
            tokens.extend(given.iter().filter(|_| rng.chance(1, 4)).copied());
        }
        tokens
    }

    pub fn poll_groups(&mut self, ledger: &mut SimLedger) {
        let calls = std::mem::take(&mut ledger.process().groups.calls);
        for mut call in calls {
            match poll_once(&ledger.process().runtime, &mut call.answer) {
                Poll::Pending => ledger.process().groups.calls.push(call),
                Poll::Ready(answer) => self.judge_groups_answer(ledger, &call, answer),
            }
        }
    }

    fn judge_groups_answer(&mut self, ledger: &mut SimLedger, call: &Call, answer: Answer) {
        let Call { id, era, tokens, .. } = call;
        let (what, error) = match answer {
            Answer::Lease(Ok(leased)) => {
                self.note(&format!("{id:?} leased {:?}", leased.iter().map(|l| l.token.offset).collect::<Vec<_>>()));
                return self.judge_lease(ledger, id, &leased);
            }
            Answer::Ack(Ok(done)) => {
                self.note(&format!("{id:?} acked {}", done.done));
                return self.judge_ack(ledger, call, tokens, &done);
            }
            Answer::Nack(Ok(done)) | Answer::Extend(Ok(done)) => {
                if done.done + done.lapsed.len() != tokens.iter().collect::<BTreeSet<_>>().len() {
                    broken!("{} done and {:?} lapsed of {tokens:?}", done.done, done.lapsed);
                }
                return self.note(&format!("{id:?} settled {}", done.done));
            }
            Answer::Configure(Ok(configured)) => return self.note(&format!("{id:?} {configured:?}")),
            Answer::Other(Ok(())) => return self.note(&format!("{id:?} done")),
            Answer::Seek(Ok(offset)) => return self.note(&format!("{id:?} at {offset}")),
            Answer::Redrive(Ok(sent)) => {
                self.note(&format!("{id:?} sent back {sent}"));
                return self.judge_redrive(ledger, call, sent);
            }
            Answer::Redrive(Err(error)) => ("redrive", error),
            Answer::Lease(Err(error)) => ("lease", error),
            Answer::Ack(Err(error)) => ("ack", error),
            Answer::Nack(Err(error)) => ("nack", error),
            Answer::Extend(Err(error)) => ("extend", error),
            Answer::Configure(Err(error)) => ("configure", error),
            Answer::Other(Err(error)) => ("leave or delete", error),
            Answer::Seek(Err(error)) => ("seek", error),
        };
        let changed = ledger.groups.eras.get(id).copied().unwrap_or(0) != *era;
        if !changed && !self.may_fail(ledger, call, &error) {
            broken!("{what} of {id:?}: {error}");
        }
        self.note(&format!("{what} of {id:?} refused"));
    }

    /// A record may come only if it is not done, and where order is by key only behind all others of its key,
    /// but for those that come with it.
    fn judge_lease(&mut self, ledger: &mut SimLedger, id: &Id, leased: &[Leased]) {
        let era = ledger.groups.eras.get(id).copied().unwrap_or(0);
        let namespace = &self.model.namespaces[id.0];
        let Some(group) = ledger.groups.now.get(id) else { return };
        let with: BTreeSet<u64> = leased.iter().map(|leased| leased.token.offset).collect();
        if with.len() != leased.len() {
            broken!("a record came twice at once: {with:?}");
        }
        for Leased { frame, index, token, delivery, .. } in leased {
            let offset = token.offset;
            let record = frame.records().nth(*index as usize).unwrap();
            let frames = namespace.frames_from(offset);
            if record.offset != offset || frames.first() != Some(frame.frame()) {
                broken!("offset {offset} of {id:?} comes with another record: {record:?}");
            }
            let answered = ledger.acked.get(&(id.clone(), era)).is_some_and(|done| done.contains(&offset));
            if answered || group.done.contains(&offset) || offset < group.floor {
                broken!("offset {offset} of {id:?} comes again, it is done (and answered: {answered})");
            }
            let failed = group.attempts.get(&offset).copied().unwrap_or(0);
            if *delivery <= failed {
                broken!("offset {offset} of {id:?} comes for the {delivery}. time, it has failed {failed} times");
            }
            if let (Order::Key, Some(key)) = (group.config.order, record.key) {
                let all = namespace.frames.iter().flat_map(|frame| frame.records());
                let before =
                    all.filter(|other| other.key == Some(key) && (group.floor..offset).contains(&other.offset));
                let missing = before.map(|other| other.offset);
                if let Some(other) = missing.into_iter().find(|at| !with.contains(at) && !group.done.contains(at)) {
                    broken!("offset {offset} of {id:?} comes before {other}, which has its key");
                }
            }
            debug_assert_eq!(record_at(frames, offset).offset, offset);
            ledger.counts.groups.deliveries += 1;
            ledger.counts.groups.redeliveries += u64::from(*delivery > 1);
            let Calls { held, given, .. } = &mut ledger.process.as_mut().unwrap().groups;
            held.insert((id.clone(), offset), *token);
            if !given.insert(*token) {
                broken!("a token is given twice: {token}");
            }
        }
    }

    /// What is answered as done is durable, is done once, and was asked for by who had it last.
    fn judge_ack(&mut self, ledger: &mut SimLedger, call: &Call, tokens: &[Token], done: &Done) {
        let Call { id, era, .. } = call;
        let asked: BTreeSet<Token> = tokens.iter().copied().collect();
        let lapsed: BTreeSet<Token> = done.lapsed.iter().copied().collect();
        if done.done + lapsed.len() != asked.len() || !lapsed.is_subset(&asked) {
            broken!("{} done and {lapsed:?} lapsed of {asked:?}", done.done);
        }
        if ledger.groups.eras.get(id).copied().unwrap_or(0) != *era {
            // It was moved or ended since.
            return;
        }
        for token in asked.difference(&lapsed) {
            let offset = token.offset;
            let last = ledger.process().groups.held.get(&(id.clone(), offset)).copied();
            if last != Some(*token) {
                broken!("{token} has acked offset {offset} of {id:?}, its last delivery was {last:?}");
            }
            if !ledger.groups.now.get(id).is_some_and(|group| group.done.contains(&offset)) {
                broken!("the ack of offset {offset} of {id:?} is answered, and not in the log");
            }
            if !ledger.acked.entry((id.clone(), *era)).or_default().insert(offset) {
                broken!("two acks of offset {offset} of {id:?} have taken effect");
            }
            ledger.counts.groups.acks += 1;
        }
    }

    /// Whether an error may be: the disk had a fault, or what was asked for has gone.
    fn may_fail(&self, ledger: &SimLedger, call: &Call, error: &GroupsError) -> bool {
        let id = &call.id;
        let redrives = call.redrive.is_some();
        match error {
            // Or what letters go to is not there yet.
            GroupsError::NamespaceNotFound => {
                !self.model.namespaces[id.0].live || call.redrive.as_ref().is_some_and(|redrive| redrive.from.is_none())
            }
            GroupsError::NoDeadLetters => redrives,
            // It was made anew since, with another limit.
            GroupsError::Append(AppendError::RecordTooLarge { .. }) if redrives => true,
            GroupsError::GroupNotFound => !ledger.groups.now.contains_key(id),
            GroupsError::StartDiffers | GroupsError::PastHead { .. } => true,
            GroupsError::Unreadable(_) | GroupsError::Read(_) | GroupsError::Append(_) => self.is_faulty(ledger),
            _ => false,
        }
    }

    /// All is done, all letters are where they should be, and back, and that is done as well.
    pub fn finish_groups(&mut self) {
        self.work_it_all_off();
        self.with_ledger(|ledger, world| {
            ledger.process().groups.calls.clear();
            let ids: Vec<Id> = ledger.groups.now.keys().filter(|id| !world.is_dead(id.0)).cloned().collect();
            for id in ids {
                let call = world.begin_redrive(ledger, &id);
                ledger.process().groups.calls.push(call);
            }
        });
        for _ in 0..1_000 {
            if self.ledger.as_mut().is_none_or(|ledger| ledger.process().groups.calls.is_empty()) {
                return self.work_it_all_off();
            }
            self.go_round();
            self.pump_ledger();
        }
        broken!("letters are not sent back");
    }

    /// One worker takes and acks whatever there is, until all is done and all letters are where they should be.
    fn work_it_all_off(&mut self) {
        for _ in 0..4_000 {
            let left: Vec<Id> = self
                .with_ledger(|ledger, world| {
                    let is_left = |(id, group): &(&Id, &GroupModel)| {
                        let head = world.model.namespaces[id.0].next_offset;
                        !world.is_dead(id.0) && (group.first_undone() < head || !group.letters.is_empty())
                    };
                    ledger.groups.now.iter().filter(is_left).map(|(id, _)| id.clone()).collect()
                })
                .unwrap();
            if left.is_empty() {
                return;
            }
            self.with_ledger(|ledger, world| {
                ledger.process().groups.calls.clear();
                for id in &left {
                    let call = world.begin_call(ledger, id, 1);
                    let tokens = held_of(ledger, id);
                    if !tokens.is_empty() {
                        let asked = ledger.groups.asked.entry(id.clone()).or_default();
                        asked.extend(tokens.iter().map(|token| token.offset));
                        let (running, all) = (ledger.process().groups.groups.clone(), tokens.clone());
                        let namespace = world.model.namespaces[id.0].handle.clone();
                        let name = GroupName::new(&id.1).unwrap();
                        let answer = Box::pin(async move { Answer::Ack(running.ack(&namespace, &name, all).await) });
                        let (id, era) = (id.clone(), call.era);
                        ledger.process().groups.calls.push(Call { id, era, tokens, redrive: None, answer });
                    }
                    ledger.process().groups.calls.push(call);
                }
            });
            self.go_round();
        }
        broken!("groups do not come to an end: {:?}", self.ledger.as_ref().unwrap().groups.now);
    }
}

/// The last tokens of a group's records that are not done.
fn held_of(ledger: &mut SimLedger, id: &Id) -> Vec<Token> {
    let done = ledger.groups.now.get(id).map(|group| group.done.clone()).unwrap_or_default();
    let held = &ledger.process().groups.held;
    let of_it = held.range((id.clone(), 0)..=(id.clone(), u64::MAX)).map(|(_, token)| *token);
    of_it.filter(|token| !done.contains(&token.offset)).collect()
}
