//! What workers ask of groups, and whether what they get is what they may get.

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use consumers::groups::{
    Ask, Configured, Done, GroupConfig, GroupName, GroupsError, Leased, Order, Retry, Seek, Start, Token,
};
use tlog::storage::simulated::Rng;
use wire::{NamespaceName, Offset};

use super::frames::{DEAD, record_at};
use super::model::Id;
use super::{Process, SimGroups};
use crate::world::{World, broken};

/// What came of a call.
pub enum Answer {
    Lease(Result<Vec<Leased>, GroupsError>),
    Ack(Result<Done, GroupsError>),
    Nack(Result<Done, GroupsError>),
    Extend(Result<Done, GroupsError>),
    Configure(Result<Configured, GroupsError>),
    Other(Result<(), GroupsError>),
    Seek(Result<Offset, GroupsError>),
}

/// A call that is under way.
pub struct Call {
    id: Id,
    /// How often the group had been begun, moved or ended.
    era: u64,
    tokens: Vec<Token>,
    answer: Pin<Box<dyn Future<Output = Answer>>>,
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
    pub(super) fn call_groups(&mut self, groups: &mut SimGroups) {
        let live: Vec<usize> = self.model.live().map(|(at, _)| at).filter(|at| !self.is_dead(*at)).collect();
        if live.is_empty() {
            return;
        }
        // Mostly one that is there.
        let there: Vec<Id> = groups.model.now.keys().cloned().collect();
        let new = there.len() < 3 || groups.rng.chance(1, 12);
        let id = match new {
            true => (live[groups.rng.index(live.len())], format!("g{}", groups.rng.below(2))),
            false => there[groups.rng.index(there.len())].clone(),
        };
        let turn = if new { 0 } else { 1 + groups.rng.below(30) };
        let begun = self.begin_call(groups, &id, turn);
        let process = groups.process();
        process.calls.push(begun);
        // Some go away as soon as they have asked.
        let gone = process.calls.len() > 12 || groups.rng.chance(1, 10);
        if gone {
            self.poll_calls(groups);
            let at = groups.rng.below(13) as usize;
            let calls = &mut groups.process().calls;
            if at < calls.len() {
                drop(calls.remove(at));
            }
        }
    }

    fn begin_call(&self, groups: &mut SimGroups, id: &Id, turn: u64) -> Call {
        let namespace = self.model.namespaces[id.0].handle.clone();
        let head = self.model.namespaces[id.0].next_offset;
        let name = GroupName::new(&id.1).unwrap();
        let running = groups.process().groups.clone();
        let worker = WORKERS[groups.rng.index(3)].to_owned();
        let rng = &mut groups.rng;
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
                tokens = self.some_tokens(groups, id);
                let (rng, tokens) = (&mut groups.rng, tokens.clone());
                match turn {
                    12..22 => {
                        let asked = groups.model.asked.entry(id.clone()).or_default();
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
            _ if rng.chance(1, 4) => Box::pin(async move { Answer::Other(running.delete(&namespace, &name).await) }),
            _ => {
                let mut config = config(rng, head);
                if let Some(group) = groups.model.now.get(id) {
                    config.start = group.config.start;
                }
                Box::pin(async move { Answer::Configure(running.configure(&namespace, &name, config).await) })
            }
        };
        let era = groups.model.eras.get(id).copied().unwrap_or(0);
        Call { id: id.clone(), era, tokens, answer }
    }

    /// Tokens of a group: mostly the last of their records, some of them late.
    fn some_tokens(&self, groups: &mut SimGroups, id: &Id) -> Vec<Token> {
        let SimGroups { process: Some(Process { held, given, .. }), rng, .. } = groups else { return Vec::new() };
        let of_it = held.range((id.clone(), 0)..=(id.clone(), u64::MAX)).map(|(_, token)| *token);
        let mut tokens: Vec<Token> = of_it.filter(|_| rng.chance(1, 2)).collect();
        if rng.chance(1, 6) {
            tokens.extend(given.iter().filter(|_| rng.chance(1, 4)).copied());
        }
        tokens
    }

    /// Everything that groups have under way goes on as far as it gets, and answers are judged.
    pub fn pump_groups(&mut self) {
        self.with_groups(|groups, world| {
            if groups.process.is_none() || world.storage.stopped() {
                return;
            }
            for _ in 0..3 {
                let go_on = async {
                    for _ in 0..16 {
                        tokio::task::yield_now().await;
                    }
                };
                groups.process().runtime.block_on(go_on);
                world.poll_calls(groups);
            }
        });
    }

    fn poll_calls(&mut self, groups: &mut SimGroups) {
        let calls = std::mem::take(&mut groups.process().calls);
        for mut call in calls {
            let polled = std::future::poll_fn(|context| Poll::Ready(call.answer.as_mut().poll(context)));
            match groups.process().runtime.block_on(polled) {
                Poll::Pending => groups.process().calls.push(call),
                Poll::Ready(answer) => self.judge_groups_answer(groups, &call, answer),
            }
        }
    }

    fn judge_groups_answer(&mut self, groups: &mut SimGroups, call: &Call, answer: Answer) {
        let Call { id, era, tokens, .. } = call;
        let (what, error) = match answer {
            Answer::Lease(Ok(leased)) => {
                self.note(&format!("{id:?} leased {:?}", leased.iter().map(|l| l.token.offset).collect::<Vec<_>>()));
                return self.judge_lease(groups, id, &leased);
            }
            Answer::Ack(Ok(done)) => {
                self.note(&format!("{id:?} acked {}", done.done));
                return self.judge_ack(groups, call, tokens, &done);
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
            Answer::Lease(Err(error)) => ("lease", error),
            Answer::Ack(Err(error)) => ("ack", error),
            Answer::Nack(Err(error)) => ("nack", error),
            Answer::Extend(Err(error)) => ("extend", error),
            Answer::Configure(Err(error)) => ("configure", error),
            Answer::Other(Err(error)) => ("leave or delete", error),
            Answer::Seek(Err(error)) => ("seek", error),
        };
        let changed = groups.model.eras.get(id).copied().unwrap_or(0) != *era;
        if !changed && !self.may_fail(groups, id, &error) {
            broken!("{what} of {id:?}: {error}");
        }
        self.note(&format!("{what} of {id:?} refused"));
    }

    /// A record may come only if it is not done, and where order is by key only behind all others of its key,
    /// but for those that come with it.
    fn judge_lease(&mut self, groups: &mut SimGroups, id: &Id, leased: &[Leased]) {
        let era = groups.model.eras.get(id).copied().unwrap_or(0);
        let namespace = &self.model.namespaces[id.0];
        let Some(group) = groups.model.now.get(id) else { return };
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
            let answered = groups.answered.get(&(id.clone(), era)).is_some_and(|done| done.contains(&offset));
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
            groups.counts.deliveries += 1;
            groups.counts.redeliveries += u64::from(*delivery > 1);
            let Process { held, given, .. } = groups.process.as_mut().unwrap();
            held.insert((id.clone(), offset), *token);
            if !given.insert(*token) {
                broken!("a token is given twice: {token}");
            }
        }
    }

    /// What is answered as done is durable, is done once, and was asked for by who had it last.
    fn judge_ack(&mut self, groups: &mut SimGroups, call: &Call, tokens: &[Token], done: &Done) {
        let Call { id, era, .. } = call;
        let asked: BTreeSet<Token> = tokens.iter().copied().collect();
        let lapsed: BTreeSet<Token> = done.lapsed.iter().copied().collect();
        if done.done + lapsed.len() != asked.len() || !lapsed.is_subset(&asked) {
            broken!("{} done and {lapsed:?} lapsed of {asked:?}", done.done);
        }
        if groups.model.eras.get(id).copied().unwrap_or(0) != *era {
            // It was moved or ended since.
            return;
        }
        for token in asked.difference(&lapsed) {
            let offset = token.offset;
            let last = groups.process().held.get(&(id.clone(), offset)).copied();
            if last != Some(*token) {
                broken!("{token} has acked offset {offset} of {id:?}, its last delivery was {last:?}");
            }
            if !groups.model.now.get(id).is_some_and(|group| group.done.contains(&offset)) {
                broken!("the ack of offset {offset} of {id:?} is answered, and not in the log");
            }
            if !groups.answered.entry((id.clone(), *era)).or_default().insert(offset) {
                broken!("two acks of offset {offset} of {id:?} have taken effect");
            }
            groups.counts.acks += 1;
        }
    }

    /// One worker takes and acks whatever there is, until all is done and all letters are where they should be.
    pub(super) fn work_it_all_off(&mut self) {
        for _ in 0..4_000 {
            let ids: Vec<Id> = self.with_groups(|groups, _| groups.model.now.keys().cloned().collect()).unwrap();
            let head = |id: &Id| self.model.namespaces[id.0].next_offset;
            let left = |groups: &SimGroups, id: &Id| {
                let group = &groups.model.now[id];
                group.first_undone() < head(id) || !group.letters.is_empty()
            };
            let groups = self.groups.as_ref().unwrap();
            let left: Vec<Id> = ids.into_iter().filter(|id| left(groups, id)).collect();
            if left.is_empty() {
                return;
            }
            self.with_groups(|groups, world| {
                groups.process().calls.clear();
                for id in &left {
                    let mut call = world.begin_call(groups, id, 1);
                    let all = held_of(groups, id);
                    if !all.is_empty() {
                        let asked = groups.model.asked.entry(id.clone()).or_default();
                        asked.extend(all.iter().map(|token| token.offset));
                        let (running, tokens) = (groups.process().groups.clone(), all.clone());
                        let namespace = world.model.namespaces[id.0].handle.clone();
                        let name = GroupName::new(&id.1).unwrap();
                        let ack = async move { Answer::Ack(running.ack(&namespace, &name, tokens).await) };
                        let (id, era) = (id.clone(), call.era);
                        groups.process().calls.push(Call { id, era, tokens: all, answer: Box::pin(ack) });
                    }
                    call.tokens.clear();
                    groups.process().calls.push(call);
                }
                groups.catch_up_quietly(world.model.partitions.len() as u16);
                world.advance_groups(groups, 5_000);
            });
            self.pump_groups();
            for partition in self.partitions() {
                self.commit(partition);
            }
        }
        let groups = self.groups.as_ref().unwrap();
        broken!("groups do not come to an end: {:?}", groups.model.now);
    }
}

/// The last tokens of a group's records that are not done.
fn held_of(groups: &mut SimGroups, id: &Id) -> Vec<Token> {
    let done = groups.model.now.get(id).map(|group| group.done.clone()).unwrap_or_default();
    let held = &groups.process().held;
    let of_it = held.range((id.clone(), 0)..=(id.clone(), u64::MAX)).map(|(_, token)| *token);
    of_it.filter(|token| !done.contains(&token.offset)).collect()
}

impl SimGroups {
    fn catch_up_quietly(&mut self, partitions: u16) {
        for partition in 0..partitions {
            while self.ledger().step(partition, 1 << 20).unwrap() {}
        }
    }
}
