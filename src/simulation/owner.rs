//! Owners of partitions: partition consumer and supervisor around the flow, split wherever the real
//! ones wait.

use std::collections::VecDeque;

use super::{
    act::Act,
    coupon::Actor,
    faults::Fault,
    world::{LOG_EPOCH, Ms, World},
};
use crate::{
    domain::{
        halt::{Halt, HaltReason},
        ids::{LogPartition, Offset, Partition, Timestamp},
        rows::{LastRecord, PartitionRows},
    },
    partition::{
        assignment::{self, Start},
        flow::{Effect, Event, Flow, credit_of},
        restart::CONSUMER_PAUSE_FIRST,
    },
    wire::{LogRecord, decode_step::DecodeStep, feed_message::FeedMessage},
};

/// Between two ticks, as the real consumer has them.
const TICK_MS: Ms = 50;
const TICKS_PER_LOOK: u64 = 20;
const TICKS_PER_RECHECK: u64 = 200;

/// Pause before a consumer that panicked is started again: never more than the first, for a world
/// in which consumers wait is one in which less can strike.
const RESTART_MS: Ms = CONSUMER_PAUSE_FIRST.as_millis() as Ms;

/// Pause before something that failed is tried again.
pub(super) const RETRY_MS: Ms = 60;

/// Where an owner stands.
#[derive(Debug)]
pub(super) enum Stage {
    Reading,
    Comparing(Box<PartitionRows>),
    Running(Box<Flow>),
    Halted(Halt),
}

/// An owner of one partition.
#[derive(Debug)]
pub(super) struct Owner {
    pub(super) node: usize,
    pub(super) partition: Partition,
    pub(super) stage: Stage,
    pub(super) actors: Vec<Option<Actor>>,
    /// Actors that were stopped in the middle of a step, by campaign: one last report may come.
    pub(super) stopped: Vec<(usize, Actor)>,
    credit: usize,
    position: Offset,
    cuts: u32,
    is_reading: bool,
    letters: VecDeque<LogRecord>,
    halts_for: Option<Halt>,
    ticks: u64,
    is_looking: bool,
    told_at: Ms,
    pub(super) published_at: Ms,
}

impl World {
    pub(super) fn owner(&mut self, owner: usize) -> Option<&mut Owner> {
        self.owners[owner].as_deref_mut()
    }

    /// A node takes a partition over.
    pub(super) fn begin_owner(&mut self, node: usize, partition: Partition, delay: Ms) -> usize {
        let actors = (0..self.shared.campaigns.len()).map(|_| None).collect();
        let owner = Owner {
            node,
            partition,
            stage: Stage::Reading,
            actors,
            stopped: Vec::new(),
            credit: 0,
            position: 0,
            cuts: 0,
            is_reading: false,
            letters: VecDeque::new(),
            halts_for: None,
            ticks: 0,
            is_looking: false,
            told_at: 0,
            published_at: 0,
        };
        self.owners.push(Some(Box::new(owner)));
        let number = self.owners.len() - 1;
        let delay = delay + self.store_ms();
        self.after(delay, Act::Open(number));
        let first = self.random.below(TICK_MS);
        self.after(first, Act::Tick(number));
        number
    }

    pub(super) fn decode_step(&self, partition: Partition) -> DecodeStep {
        DecodeStep {
            codec: self.shared.codec.clone(),
            keys: self.shared.keys.clone(),
            partition,
            future_max_ms: (!self.is_embedded).then_some(86_400_000),
        }
    }

    /// One step of opening: progress and holds; the ends of the log; the last settled record.
    pub(super) fn open(&mut self, number: usize) {
        let Some(owner) = self.owner(number) else { return };
        let (node, partition) = (owner.node, owner.partition);
        match std::mem::replace(&mut owner.stage, Stage::Reading) {
            Stage::Running(flow) => owner.stage = Stage::Running(flow),
            Stage::Reading | Stage::Halted(_) => {
                let delay = self.store_ms();
                if self.read_fails() {
                    return self.after(delay + RETRY_MS, Act::Open(number));
                }
                let campaigns = self.campaigns_of(partition);
                let rows = Box::new(self.store.partition(partition, campaigns));
                if let Some(owner) = self.owner(number) {
                    owner.stage = Stage::Comparing(rows);
                }
                self.after(delay, Act::Open(number));
            }
            Stage::Comparing(rows) => {
                if self.now < self.trouble.log_away_until {
                    self.owners[number].as_mut().expect("it is there").stage =
                        Stage::Comparing(rows);
                    return self.after(RETRY_MS, Act::Open(number));
                }
                match self.compared(partition, &rows) {
                    Ok(position) => self.opened(number, node, position, *rows),
                    Err(halt) => self.halt(number, halt),
                }
            }
        }
    }

    fn compared(&self, partition: Partition, rows: &PartitionRows) -> Result<Offset, Halt> {
        let shelf = &self.log.shelves[partition as usize];
        let Start { position, last } = assignment::start(rows, LOG_EPOCH, (shelf.low, shelf.high))?;
        if let Some(last) = last {
            let found = self.log.read(partition, last.offset, 1).and_then(|read| {
                let record = read.into_iter().next()?;
                let digest = self.decode_step(partition).digest(&record);
                Some(LastRecord { offset: record.offset, digest })
            });
            assignment::compare(last, found)?;
        }
        Ok(position)
    }

    fn opened(&mut self, number: usize, node: usize, position: Offset, rows: PartitionRows) {
        let Some(owner) = self.owner(number) else { return };
        let partition = owner.partition;
        let (high, cuts) = {
            let shelf = &self.log.shelves[partition as usize];
            (shelf.high, shelf.cuts)
        };
        let place = LogPartition { log_epoch: LOG_EPOCH, partition };
        let (flow, effects) = Flow::new(place, rows, high, self.now);
        let owner = self.owners[number].as_mut().expect("it is there");
        (owner.position, owner.cuts, owner.credit) = (position, cuts, 0);
        owner.letters.clear();
        owner.stopped.clear();
        owner.halts_for = None;
        owner.stage = Stage::Running(Box::new(flow));
        self.note(|| format!("node {node} owns partition {partition} from {position}"));
        self.carry_out(number, effects);
        self.read_soon(number);
    }

    /// The partition decides nothing any more.
    pub(super) fn halt(&mut self, number: usize, halt: Halt) {
        let Some(owner) = self.owner(number) else { return };
        let partition = owner.partition;
        owner.actors.iter_mut().for_each(|actor| *actor = None);
        owner.stage = Stage::Halted(halt.clone());
        owner.ticks = 0;
        self.note(|| format!("partition {partition} is halted: {halt}"));
        if !self.may_halt(partition) {
            return self.broken("INV-12", format!("partition {partition} halted: {halt}"));
        }
        self.say_halted(number);
    }

    fn say_halted(&mut self, number: usize) {
        let Some(owner) = self.owner(number) else { return };
        let Stage::Halted(halt) = &owner.stage else { return };
        let message = FeedMessage {
            log_epoch: LOG_EPOCH,
            partition: owner.partition,
            from: 0,
            to: 0,
            end: 0,
            halted: Some(halt.to_string()),
            decisions: Vec::new(),
        };
        self.publish(number, message);
    }

    pub(super) fn tick(&mut self, number: usize) {
        let Some(owner) = self.owner(number) else { return };
        owner.ticks += 1;
        let (ticks, node) = (owner.ticks, owner.node);
        let look = ticks.is_multiple_of(TICKS_PER_LOOK);
        match &owner.stage {
            Stage::Running(_) => {
                let wall = Timestamp(self.wall(node));
                self.step(number, Event::Tick { now_ms: self.now, wall });
                if look && self.owner(number).is_some_and(|owner| !owner.is_looking) {
                    self.owners[number].as_mut().expect("it is there").is_looking = true;
                    let delay = self.network_ms();
                    self.after(delay, Act::Look(number, false));
                }
            }
            Stage::Halted(_) if look => {
                self.say_halted(number);
                if ticks.is_multiple_of(TICKS_PER_RECHECK) {
                    self.after(0, Act::Open(number));
                }
            }
            Stage::Halted(_) | Stage::Reading | Stage::Comparing(_) => {}
        }
        if self.owner(number).is_some() {
            self.after(TICK_MS, Act::Tick(number));
        }
    }

    /// Looks at the end of the log, then at the holds that others wrote.
    pub(super) fn look(&mut self, number: usize, at_holds: bool) {
        let Some(owner) = self.owner(number) else { return };
        let partition = owner.partition;
        let Stage::Running(flow) = &owner.stage else {
            owner.is_looking = false;
            return;
        };
        let position = flow.position();
        if !at_holds {
            if self.now < self.trouble.log_away_until {
                return self.after(RETRY_MS, Act::Look(number, false));
            }
            let high = self.log.shelf(partition).high;
            if let Err(halt) = assignment::still_there(position, high) {
                return self.halt(number, halt);
            }
            self.tell(number, Event::End(high));
            let delay = self.store_ms();
            return self.after(delay, Act::Look(number, true));
        }
        if self.read_fails() {
            return self.after(RETRY_MS, Act::Look(number, true));
        }
        let rows = self.store.partition(partition, self.campaigns_of(partition));
        self.owners[number].as_mut().expect("it is there").is_looking = false;
        self.tell(number, Event::Holds(rows.holds));
    }

    /// Puts an event into the consumer's mailbox, which keeps the order.
    pub(super) fn tell(&mut self, number: usize, event: Event) {
        let delay = self.random.below(2);
        let Some(owner) = self.owners[number].as_mut() else { return };
        owner.told_at = owner.told_at.max(self.now + delay);
        let at = owner.told_at;
        self.at(at, Act::Tell(number, Box::new(event)));
    }

    pub(super) fn step(&mut self, number: usize, event: Event) {
        if self.hit(Fault::PanicConsumer) {
            return self.consumer_panics(number);
        }
        if let Event::Contradicted { campaign, contradiction, .. } = &event {
            self.found_contradiction(campaign.as_str(), &contradiction.detail.clone());
        }
        let Some(owner) = self.owner(number) else { return };
        let Stage::Running(flow) = &mut owner.stage else { return };
        let mut effects = Vec::new();
        flow.step(event, &mut effects);
        flow.flush(&mut effects);
        self.carry_out(number, effects);
    }

    fn consumer_panics(&mut self, number: usize) {
        let Some(owner) = self.owners[number].take() else { return };
        let (node, partition) = (owner.node, owner.partition);
        if self.owned[partition as usize] == Some(number) {
            let next = self.begin_owner(node, partition, RESTART_MS);
            self.owned[partition as usize] = Some(next);
        }
    }

    fn carry_out(&mut self, number: usize, effects: Vec<Effect>) {
        for effect in effects {
            let Some(owner) = self.owners[number].as_mut() else { return };
            match effect {
                Effect::Start { campaign, incarnation, from, delay_ms } => {
                    let campaign = campaign_number(campaign.as_str());
                    owner.stop(campaign);
                    owner.actors[campaign] = Some(Actor::new(incarnation, from));
                    let delay = delay_ms + self.store_ms();
                    self.after(delay, Act::Load(number, campaign, incarnation));
                }
                Effect::Stop { campaign } => {
                    owner.stop(campaign_number(campaign.as_str()));
                }
                Effect::Send { campaign, incarnation, batch } => {
                    self.send(number, campaign_number(campaign.as_str()), incarnation, batch);
                }
                Effect::Replay { campaign, incarnation, from } => {
                    let campaign = campaign_number(campaign.as_str());
                    if let Some(actor) = &mut owner.actors[campaign] {
                        actor.replay = Some((from, true));
                    }
                    self.after(1, Act::Replay(number, campaign, incarnation));
                }
                Effect::ReplayOn { campaign, met } => {
                    let campaign = campaign_number(campaign.as_str());
                    let Some(actor) = &mut owner.actors[campaign] else { continue };
                    actor.replay = actor.replay.filter(|_| !met).map(|(from, _)| (from, true));
                    let incarnation = actor.incarnation;
                    self.after(1, Act::Replay(number, campaign, incarnation));
                }
                Effect::WriteHold { hold, mark } => self.write_hold(number, hold, mark),
                Effect::DeadLetter { campaign, record } => {
                    let campaign = campaign_number(campaign.as_str());
                    self.after(1, Act::Undefined(number, campaign, record.offset));
                }
                Effect::Persist { holds, marks, progress } => {
                    self.write_progress(number, holds, marks, progress);
                }
                Effect::Publish(message) => self.publish(number, message),
                Effect::ReportProgress { next, .. } => self.after(1, Act::Commit(number, next)),
                Effect::Credit(records) => {
                    owner.credit += records;
                    self.read_soon(number);
                }
                Effect::Count(_) => {}
            }
        }
    }
}

impl Owner {
    /// Ends a campaign's actor wherever it is.
    pub(super) fn stop(&mut self, campaign: usize) {
        if let Some(actor) = self.actors[campaign].take()
            && actor.under_way > 0
        {
            self.stopped.push((campaign, actor));
        }
    }
}

impl World {
    /// The reader looks for more, unless it is about to.
    pub(super) fn read_soon(&mut self, number: usize) {
        let delay = self.network_ms();
        let Some(owner) = self.owners[number].as_mut() else { return };
        let runs = matches!(owner.stage, Stage::Running(_));
        if runs && !owner.is_reading && owner.letters.is_empty() && owner.halts_for.is_none() {
            owner.is_reading = true;
            self.after(delay, Act::Read(number));
        }
    }

    /// The live reader takes what it has credit for.
    pub(super) fn read(&mut self, number: usize) {
        let most = self.random.between(1, 40) as usize;
        let Some(owner) = self.owners[number].as_mut() else { return };
        owner.is_reading = false;
        let (node, partition, position) = (owner.node, owner.partition, owner.position);
        if owner.credit == 0 || !matches!(owner.stage, Stage::Running(_)) {
            return;
        }
        let (most, cuts) = (most.min(owner.credit), owner.cuts);
        if self.now < self.trouble.log_away_until || self.hit(Fault::LogReadFailed) {
            if let Some(owner) = self.owner(number) {
                owner.is_reading = true;
            }
            return self.after(100, Act::Read(number));
        }
        let is_cut = self.log.shelf(partition).cuts != cuts;
        let records = self.log.read(partition, position, most).filter(|_| !is_cut);
        let Some(records) = records else {
            let detail = format!("the log has no record at {position}");
            return self.halt(number, Halt::new(HaltReason::LogOutOfRange, detail));
        };
        if records.is_empty() {
            return;
        }
        let now = Timestamp(self.wall(node));
        let taken = self.decode_step(partition).decode(records, now);
        let owner = self.owners[number].as_mut().expect("it is there");
        owner.credit -= taken.incoming.iter().map(credit_of).sum::<usize>();
        if let Some(last) = taken.incoming.last() {
            owner.position = last.record.offset + 1;
        }
        owner.letters.extend(taken.letters.into_iter().map(|(record, _)| record));
        owner.halts_for = taken.halt;
        let letters = !owner.letters.is_empty() || owner.halts_for.is_some();
        self.tell(number, Event::Read(taken.incoming));
        if letters {
            self.after(1, Act::Letter(number));
        } else {
            self.read_soon(number);
        }
    }

    /// Keeps one dead letter; then reads on, or halts.
    pub(super) fn keep_letter(&mut self, number: usize) {
        let Some(owner) = self.owner(number) else { return };
        if let Some(record) = owner.letters.pop_front() {
            let partition = owner.partition;
            self.evidence.letters.insert((partition, record.offset));
            let undefined = None;
            self.tell(number, Event::DeadLettered { offset: record.offset, undefined });
            return self.after(1, Act::Letter(number));
        }
        match owner.halts_for.take() {
            Some(halt) => self.halt(number, halt),
            None => self.read_soon(number),
        }
    }

    /// Keeps a record whose campaign is not defined at its position.
    pub(super) fn keep_undefined(&mut self, number: usize, campaign: usize, offset: Offset) {
        let Some(owner) = self.owner(number) else { return };
        let partition = owner.partition;
        if self.now < self.trouble.log_away_until {
            return self.after(RETRY_MS, Act::Undefined(number, campaign, offset));
        }
        self.evidence.letters.insert((partition, offset));
        let undefined = Some(self.shared.campaigns[campaign].clone());
        self.tell(number, Event::DeadLettered { offset, undefined });
    }
}

/// The number in a campaign's name.
pub(super) fn campaign_number(name: &str) -> usize {
    usize::from(super::store::number_of(name))
}
