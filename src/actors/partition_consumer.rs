//! The actor of one assigned partition: carries out what the partition's flow says.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use tokio::sync::{Semaphore, mpsc};

use super::{
    Environment,
    handle::CouponHandle,
    io::{self, Opened},
    replay::{Live, Replay},
    supervisor::SupervisorMessage,
    task::{TaskGuard, until_done},
};
use crate::{
    domain::{
        answer::FeedMessage,
        decision::Decision,
        ids::{CampaignId, Offset, Partition},
        invariant::Invariant,
    },
    partition::{
        assignment,
        flow::{Effect, Event, Flow},
    },
    telemetry::metrics,
};

/// How often the flow is told that time goes by: half of the interval in which progress is due.
const TICK: Duration = Duration::from_millis(50);

/// Ticks between two looks at the store's holds and the end of the log: once a second.
const TICKS_PER_LOOK: u64 = 20;

/// Looks after which a halted partition is checked again: 10 s.
const LOOKS_PER_RECHECK: u64 = 10;

/// What a partition consumer is told.
pub enum PartitionMessage {
    /// Something happened that the flow decides about.
    Event(Event),
    /// The partition was opened, or must halt.
    Opened(Box<Result<OpenedPartition, String>>),
    /// A coupon actor was started.
    Started {
        /// Whose.
        campaign: CampaignId,
        /// The way into it.
        handle: CouponHandle,
    },
    /// The partition must halt.
    Halt {
        /// Why.
        reason: String,
    },
    /// Time goes by.
    Tick,
    /// Read no more, settle what was read, and answer.
    Drain(RpcReplyPort<()>),
    /// Crash a campaign's actor, as a bug would. For chaos by hand and tests.
    Crash(CampaignId),
}

/// A partition as it was found; see [`io::open`].
pub struct OpenedPartition(Opened);

/// What a partition consumer is started with.
pub struct PartitionArguments {
    pub(super) environment: Arc<Environment>,
    pub(super) partition: Partition,
    pub(super) supervisor: ActorRef<SupervisorMessage>,
}

/// What runs while the partition is not halted.
struct Running {
    flow: Flow,
    credit: Arc<Semaphore>,
    live: Option<TaskGuard>,
    replays: BTreeMap<CampaignId, (Arc<Semaphore>, TaskGuard)>,
    handles: BTreeMap<CampaignId, CouponHandle>,
    writes: Vec<TaskGuard>,
    look: Option<TaskGuard>,
}

/// What a partition consumer knows.
pub struct PartitionState {
    arguments: PartitionArguments,
    running: Option<Running>,
    halted: Option<String>,
    opening: Option<TaskGuard>,
    feed: mpsc::Sender<FeedMessage>,
    drain: Option<RpcReplyPort<()>>,
    ticks: u64,
    _publisher: TaskGuard,
    _ticker: TaskGuard,
}

/// Owns one assigned partition.
pub struct PartitionConsumer;

impl Actor for PartitionConsumer {
    type Msg = PartitionMessage;
    type State = PartitionState;
    type Arguments = PartitionArguments;

    async fn pre_start(
        &self,
        myself: ActorRef<PartitionMessage>,
        arguments: PartitionArguments,
    ) -> Result<PartitionState, ActorProcessingErr> {
        let environment = arguments.environment.clone();
        environment.directory.own(arguments.partition, None);
        let (feed, messages) = mpsc::channel(io::FEED_QUEUE_MAX);
        let publisher = TaskGuard::spawn(io::publish_all(environment, messages));
        let ticked = myself.clone();
        let ticker = TaskGuard::spawn(async move {
            let mut interval = tokio::time::interval(TICK);
            interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                interval.tick().await;
                let _ended = ticked.cast(PartitionMessage::Tick);
            }
        });
        let mut state = PartitionState {
            arguments,
            running: None,
            halted: None,
            opening: None,
            feed,
            drain: None,
            ticks: 0,
            _publisher: publisher,
            _ticker: ticker,
        };
        state.open(&myself);
        Ok(state)
    }

    async fn handle(
        &self,
        myself: ActorRef<PartitionMessage>,
        message: PartitionMessage,
        state: &mut PartitionState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            PartitionMessage::Event(event) => state.step(event, &myself),
            PartitionMessage::Opened(opened) => state.opened(*opened, &myself),
            PartitionMessage::Started { campaign, handle } => {
                if let Some(running) = &mut state.running {
                    running.handles.insert(campaign, handle);
                }
            }
            PartitionMessage::Halt { reason } => state.halt(reason),
            PartitionMessage::Tick => state.tick(&myself),
            PartitionMessage::Drain(reply) => {
                if let Some(running) = &mut state.running {
                    running.live = None;
                }
                state.drain = Some(reply);
                state.answer_drain();
            }
            PartitionMessage::Crash(campaign) => {
                let handle = state.running.as_ref().and_then(|it| it.handles.get(&campaign));
                if let Some(handle) = handle {
                    handle.crash();
                }
            }
        }
        Ok(())
    }
}

impl PartitionState {
    fn partition(&self) -> Partition {
        self.arguments.partition
    }

    fn open(&mut self, myself: &ActorRef<PartitionMessage>) {
        let (environment, partition) = (self.arguments.environment.clone(), self.partition());
        let myself = myself.clone();
        self.opening = Some(TaskGuard::spawn(async move {
            let opened = io::open(&environment, partition).await.map(OpenedPartition);
            let _ended = myself.cast(PartitionMessage::Opened(Box::new(opened)));
        }));
    }

    fn opened(
        &mut self,
        opened: Result<OpenedPartition, String>,
        myself: &ActorRef<PartitionMessage>,
    ) {
        let opened = match opened {
            Ok(OpenedPartition(opened)) => opened,
            Err(reason) => return self.halt(reason),
        };
        let (environment, partition) = (self.arguments.environment.clone(), self.partition());
        self.halted = None;
        environment.directory.own(partition, None);
        let place = (environment.log_epoch, partition);
        let Opened { rows, end, reader, position } = opened;
        tracing::info!(partition, position, end, "partition is owned");
        let (flow, effects) = Flow::new(place, rows, end, environment.now_ms());
        let credit = Arc::new(Semaphore::new(0));
        let live = Live {
            environment,
            partition,
            reader,
            position,
            credit: credit.clone(),
            consumer: myself.clone(),
        };
        let live = self.drain.is_none().then(|| TaskGuard::spawn(live.run()));
        self.running = Some(Running {
            flow,
            credit,
            live,
            replays: BTreeMap::new(),
            handles: BTreeMap::new(),
            writes: Vec::new(),
            look: None,
        });
        self.carry_out(effects, myself);
    }

    /// Stops everything of the partition; what was decided and stored stands.
    fn halt(&mut self, reason: String) {
        let partition = self.partition();
        self.running = None;
        let _ended = self.arguments.supervisor.cast(SupervisorMessage::StopAll { partition });
        if self.halted.as_ref() != Some(&reason) {
            tracing::error!(partition, reason, "partition is halted");
            metrics::violation(Invariant::StopRatherThanLie);
        }
        self.arguments.environment.directory.own(partition, Some(reason.clone()));
        self.halted = Some(reason);
        self.ticks = 0;
        self.publish_halted();
        self.answer_drain();
    }

    fn publish_halted(&self) {
        if let Some(reason) = &self.halted {
            let message = FeedMessage {
                log_epoch: self.arguments.environment.log_epoch,
                partition: self.partition(),
                from: 0,
                to: 0,
                end: 0,
                halted: Some(reason.clone()),
                decisions: Vec::new(),
            };
            self.publish(message);
        }
    }

    fn publish(&self, message: FeedMessage) {
        if self.feed.try_send(message).is_err() {
            tracing::debug!(partition = self.partition(), "feed message was dropped");
        }
    }

    fn tick(&mut self, myself: &ActorRef<PartitionMessage>) {
        self.ticks += 1;
        let environment = self.arguments.environment.clone();
        let look_due = self.ticks.is_multiple_of(TICKS_PER_LOOK);
        if self.running.is_some() {
            let (now_ms, wall) = (environment.now_ms(), environment.clock.now());
            self.step(Event::Tick { now_ms, wall }, myself);
            if look_due {
                self.look(myself);
            }
        } else if self.halted.is_some() && look_due {
            self.publish_halted();
            if self.ticks.is_multiple_of(TICKS_PER_LOOK * LOOKS_PER_RECHECK) {
                self.open(myself);
            }
        }
    }

    /// Looks at the holds that others wrote and at the end of the log.
    fn look(&mut self, myself: &ActorRef<PartitionMessage>) {
        let (environment, partition) = (self.arguments.environment.clone(), self.partition());
        let Some(running) = &mut self.running else { return };
        metrics::partition_lag(partition, running.flow.lag());
        running.writes.retain(|task| !task.is_finished());
        if running.look.as_ref().is_some_and(|look| !look.is_finished()) {
            return;
        }
        let (myself, position) = (myself.clone(), running.flow.position());
        running.look = Some(TaskGuard::spawn(async move {
            let read = || environment.log.bounds(partition);
            let high = until_done("reading the end of the log", read).await.high;
            if let Err(reason) = assignment::still_there(position, high) {
                let _ended = myself.cast(PartitionMessage::Halt { reason });
                return;
            }
            let _ended = myself.cast(PartitionMessage::Event(Event::End(high)));
            let read = || environment.store.partition(partition);
            let rows = until_done("reading a partition's holds", read).await;
            let _ended = myself.cast(PartitionMessage::Event(Event::Holds(rows.holds)));
        }));
    }

    fn step(&mut self, event: Event, myself: &ActorRef<PartitionMessage>) {
        let Some(running) = &mut self.running else { return };
        let changed = match &event {
            Event::Ready { campaign, .. } => Some(campaign.clone()),
            Event::HoldWritten(hold) => Some(hold.campaign.clone()),
            Event::Contradicted { campaign, contradiction, .. } => {
                let from = contradiction.from;
                tracing::error!(%campaign, from, %contradiction, "log and store contradict");
                metrics::violation(Invariant::StopRatherThanLie);
                Some(campaign.clone())
            }
            Event::Failed { campaign, reason, .. } => {
                tracing::error!(%campaign, reason, "coupon actor failed");
                metrics::actor_restart();
                Some(campaign.clone())
            }
            _ => None,
        };
        let mut effects = Vec::new();
        running.flow.step(event, &mut effects);
        running.flow.flush(&mut effects);
        self.carry_out(effects, myself);
        if let Some(campaign) = changed {
            self.tell_directory(&campaign);
        }
        self.answer_drain();
    }

    fn tell_directory(&self, campaign: &CampaignId) {
        if let Some(running) = &self.running {
            let view = running.flow.view(campaign);
            self.arguments.environment.directory.tell(self.partition(), campaign, view);
        }
    }

    fn answer_drain(&mut self) {
        let settled = self.running.as_ref().is_none_or(|running| running.flow.is_settled());
        if settled && let Some(reply) = self.drain.take() {
            let _gone = reply.send(());
        }
    }

    fn carry_out(&mut self, effects: Vec<Effect>, myself: &ActorRef<PartitionMessage>) {
        let mut counts: Vec<(Decision, u64)> = Vec::new();
        for effect in effects {
            match effect {
                Effect::Count(decision) => count(&mut counts, decision),
                Effect::Publish(message) => self.publish(message),
                Effect::Start { campaign, incarnation, from, delay_ms } => {
                    self.start(campaign, incarnation, from, delay_ms, myself);
                }
                Effect::Stop { campaign } => self.stop(&campaign),
                other => self.carry_out_running(other, myself),
            }
        }
        for (decision, many) in counts {
            metrics::decisions(&decision, many);
        }
    }

    fn start(
        &mut self,
        campaign: CampaignId,
        incarnation: u64,
        from: Offset,
        delay_ms: u64,
        myself: &ActorRef<PartitionMessage>,
    ) {
        self.forget(&campaign);
        self.tell_directory(&campaign);
        let _ended = self.arguments.supervisor.cast(SupervisorMessage::Start {
            campaign,
            incarnation,
            from,
            delay: Duration::from_millis(delay_ms),
            partition: self.arguments.partition,
            consumer: myself.clone(),
        });
    }

    fn stop(&mut self, campaign: &CampaignId) {
        self.forget(campaign);
        self.tell_directory(campaign);
        let campaign = campaign.clone();
        let _ended = self.arguments.supervisor.cast(SupervisorMessage::Stop { campaign });
    }

    fn forget(&mut self, campaign: &CampaignId) {
        if let Some(running) = &mut self.running {
            running.handles.remove(campaign);
            running.replays.remove(campaign);
        }
    }

    fn carry_out_running(&mut self, effect: Effect, myself: &ActorRef<PartitionMessage>) {
        let (environment, partition) = (self.arguments.environment.clone(), self.partition());
        let Some(running) = &mut self.running else { return };
        let myself = myself.clone();
        match effect {
            Effect::Send { campaign, incarnation, batch } => {
                if let Some(handle) = running.handles.get(&campaign)
                    && handle.incarnation == incarnation
                {
                    handle.send(batch);
                }
            }
            Effect::Replay { campaign, incarnation, from } => {
                let chunks = Arc::new(Semaphore::new(1));
                let replay = Replay {
                    environment,
                    partition,
                    campaign: campaign.clone(),
                    incarnation,
                    from,
                    chunks: chunks.clone(),
                    consumer: myself,
                };
                let task = TaskGuard::spawn(replay.run());
                running.replays.insert(campaign, (chunks, task));
            }
            Effect::ReplayOn { campaign, met } => {
                if met {
                    running.replays.remove(&campaign);
                } else if let Some((chunks, _)) = running.replays.get(&campaign) {
                    chunks.add_permits(1);
                }
            }
            Effect::Credit(records) => running.credit.add_permits(records),
            Effect::WriteHold { hold, mark } => {
                let what = (hold.kind, hold.state);
                tracing::warn!(campaign = %hold.campaign, from = hold.from, ?what, "hold changes");
                running.writes.push(TaskGuard::spawn(async move {
                    io::write_hold(&environment, hold.clone(), mark).await;
                    let event = Event::HoldWritten(hold);
                    let _ended = myself.cast(PartitionMessage::Event(event));
                }));
            }
            Effect::DeadLetter(offset) => running.writes.push(TaskGuard::spawn(async move {
                io::keep_undefined(&environment, partition, offset).await;
                let event = Event::DeadLettered(offset);
                let _ended = myself.cast(PartitionMessage::Event(event));
            })),
            Effect::Persist { holds, marks, progress } => {
                running.writes.push(TaskGuard::spawn(async move {
                    let next = progress.next;
                    io::persist(&environment, holds, marks, progress).await;
                    let event = Event::Persisted(next);
                    let _ended = myself.cast(PartitionMessage::Event(event));
                }));
            }
            Effect::Settled { next, keep_from } => {
                running.writes.push(TaskGuard::spawn(async move {
                    // Only lag tools and trimming wait for it; the next second says it again.
                    if let Err(error) = environment.log.settled(partition, next, keep_from).await {
                        tracing::debug!(partition, %error, "settled offset was not taken");
                    }
                }));
            }
            Effect::Count(_) | Effect::Publish(_) | Effect::Start { .. } | Effect::Stop { .. } => {}
        }
    }
}

/// Adds a decision to those of its status and reason.
fn count(counts: &mut Vec<(Decision, u64)>, decision: Decision) {
    let same = |known: &Decision| match (known, &decision) {
        (Decision::Rejected(one), Decision::Rejected(other)) => one == other,
        (one, other) => std::mem::discriminant(one) == std::mem::discriminant(other),
    };
    match counts.iter_mut().find(|(known, _)| same(known)) {
        Some((_, many)) => *many += 1,
        None => counts.push((decision, 1)),
    }
}
