//! The actor of one assigned partition: feeds events to the partition's flow and carries out its
//! effects.

mod background;
mod effects;
mod generation;
mod skipping;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use self::{generation::claim, skipping::Skipping};
use super::{
    Environment,
    dead_letters::{DeadLetters, Letter},
    handle::CouponHandle,
    io::{self, NotOpened, OpenedPartition},
    messages::{CouponMessage, PartitionMessage, SupervisorMessage},
    prober,
    replay::Live,
    task::{TaskGuard, until_done},
};
use crate::{
    clock::Ticks,
    domain::{
        halt::{Halt, HoldReason},
        ids::{CampaignId, Partition},
        invariant::Invariant,
    },
    partition::{
        assignment,
        flow::{Again, BatchReport, Event, Flow},
        recovery::Contradiction,
        skips::Passing,
        tallies::Tallies,
        watermark_age::WatermarkAge,
    },
    telemetry::metrics,
    wire::feed_message::FeedMessage,
};

/// Interval of ticks: half of the interval in which progress is due.
const TICK: Duration = Duration::from_millis(50);

/// Ticks between two reads of the partition's holds and the log's end: once a second.
const TICKS_PER_LOOK: u64 = 20;

/// Such reads between two checks of a halted partition: 10 s.
const LOOKS_PER_RECHECK: u64 = 10;

/// Such reads between two looks at the age of what is not decided: a minute.
const LOOKS_PER_AGE: u64 = 60;

/// Such reads after which a partition that cannot be read on halts, although its store has not taken
/// what was read before: operators must hear of it.
const SETTLED_WITHIN_LOOKS: u64 = 10;

/// Arguments of a partition consumer.
pub struct PartitionArguments {
    pub(super) environment: Arc<Environment>,
    pub(super) partition: Partition,
    pub(super) supervisor: ActorRef<SupervisorMessage>,
}

/// State of a partition that is not halted. Dropping it stops everything of the partition.
struct Running {
    flow: Flow,
    credit: Arc<Semaphore>,
    stop: CancellationToken,
    _live: TaskGuard,
    letters: mpsc::UnboundedSender<Letter>,
    _letters: TaskGuard,
    passing: Arc<Passing>,
    /// The readers of records that are read again.
    again: BTreeMap<Again, (Arc<Semaphore>, TaskGuard)>,
    handles: BTreeMap<CampaignId, CouponHandle>,
    writes: Vec<TaskGuard>,
    /// Writes of by-user rows by their campaign, each until it ends or the campaign stops.
    by_user: BTreeMap<CampaignId, TaskGuard>,
    look: Option<TaskGuard>,
    scrub: Option<TaskGuard>,
    /// Why the partition halts as soon as what was read is settled, and at which tick at the latest.
    ending: Option<(Halt, u64)>,
}

/// State of a partition consumer.
pub struct PartitionState {
    arguments: PartitionArguments,
    running: Option<Running>,
    halted: Option<Halt>,
    watermark_age: WatermarkAge,
    opening: Option<TaskGuard>,
    age: Option<TaskGuard>,
    skipping: Skipping,
    feed: mpsc::Sender<FeedMessage>,
    /// The generation that this owner has claimed; 0 until then.
    generation: u64,
    tallies: Tallies,
    /// The node stops: nothing new is read any more.
    draining: bool,
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
        environment.shared.handled("consumer", "start");
        environment.directory.own(arguments.partition, None);
        environment.shared.places.begin(arguments.partition, myself.clone());
        let mut ticks = Ticks::new(environment.clock.clone(), TICK);
        let (feed, messages) = mpsc::channel(io::FEED_QUEUE_MAX);
        let publisher = TaskGuard::spawn(&myself, io::publish_all(environment, messages));
        let ticked = myself.clone();
        let ticker = TaskGuard::spawn(&myself, async move {
            loop {
                ticks.tick().await;
                let _ended = ticked.cast(PartitionMessage::Tick);
            }
        });
        let mut state = PartitionState {
            arguments,
            running: None,
            halted: None,
            watermark_age: WatermarkAge::default(),
            opening: None,
            age: None,
            skipping: Skipping::default(),
            feed,
            generation: 0,
            tallies: Tallies::default(),
            draining: false,
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
        state.arguments.environment.shared.handled("consumer", message.name());
        match message {
            PartitionMessage::Event(event) => state.step(event, &myself),
            PartitionMessage::Claimed(generation) => state.claimed(generation),
            PartitionMessage::Opened(opened) => state.opened(*opened, &myself),
            PartitionMessage::Started { campaign, incarnation, expects_until, actor } => {
                state.started(&campaign, incarnation, actor);
                state.step(Event::Started { campaign, incarnation, expects_until }, &myself);
            }
            PartitionMessage::Skips { next, skips } => state.skips(next, &skips, &myself),
            PartitionMessage::Halt(halt) => state.halt(halt, &myself),
            PartitionMessage::HaltOnceSettled(halt) => {
                let latest = state.ticks + TICKS_PER_LOOK * SETTLED_WITHIN_LOOKS;
                state.running.iter_mut().for_each(|it| it.ending = Some((halt.clone(), latest)));
                state.halt_if_settled(&myself);
            }
            PartitionMessage::Expiring(warning) => {
                state.arguments.environment.directory.expires(state.partition(), warning);
            }
            PartitionMessage::Ping(reply) => prober::answer(reply),
            PartitionMessage::Tick => state.tick(&myself),
            PartitionMessage::Drain(reply) => {
                if let Some(running) = &state.running {
                    running.stop.cancel();
                }
                state.draining = true;
                state.drain = Some(reply);
                state.answer_drain();
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
        let (told, was_halted) = (myself.clone(), self.halted.is_some());
        let (own, search) = (self.generation, self.skipping.search.take());
        self.opening = Some(TaskGuard::spawn(myself, async move {
            let opened = match claim(&environment, partition, own, &told).await {
                Ok(()) => io::open(&environment, partition, was_halted, search).await,
                Err(halt) => Err(NotOpened { halt, search }),
            };
            let _ended = told.cast(PartitionMessage::Opened(Box::new(opened)));
        }));
    }

    fn opened(
        &mut self,
        opened: Result<OpenedPartition, NotOpened>,
        myself: &ActorRef<PartitionMessage>,
    ) {
        if self.running.is_some() {
            // A recheck was overtaken by an earlier one.
            return;
        }
        let opened = match opened {
            Ok(opened) => opened,
            Err(NotOpened { halt, search }) => {
                self.skipping.search = search;
                return self.halt(halt, myself);
            }
        };
        if self.is_overtaken(&opened.rows) {
            return self.open(myself);
        }
        if let Some(halt) = self.look_at_skips(&opened.rows) {
            return self.halt(halt, myself);
        }
        let (environment, partition) = (self.arguments.environment.clone(), self.partition());
        self.halted = None;
        environment.directory.own(partition, None);
        let place = environment.place(partition);
        let OpenedPartition { rows, end, reader, first, position } = opened;
        tracing::info!(partition, position, end, "partition opened");
        let settled = rows.progress.as_ref().and_then(|it| it.last).map(|last| last.offset);
        environment.shared.places.opened(partition, position, settled);
        let passing = Arc::new(Passing::new(&rows.skips));
        let (flow, effects) = Flow::new(place, rows, end, environment.now_ms(), environment.limits);
        let (credit, stop) = (Arc::new(Semaphore::new(0)), CancellationToken::new());
        if self.draining {
            stop.cancel();
        }
        #[expect(clippy::disallowed_methods, reason = "the chunks of two runs bound it")]
        let (letters, kept) = mpsc::unbounded_channel();
        let consumer = myself.clone();
        let keeper = DeadLetters { environment: environment.clone(), partition, consumer };
        let live = Live {
            environment,
            partition,
            first,
            position,
            passing: passing.clone(),
            credit: credit.clone(),
            stop: stop.clone(),
            consumer: myself.clone(),
        };
        self.running = Some(Running {
            flow,
            credit,
            stop,
            _live: TaskGuard::spawn(myself, live.run(reader)),
            letters,
            _letters: TaskGuard::spawn(myself, keeper.keep(kept)),
            passing,
            again: BTreeMap::new(),
            handles: BTreeMap::new(),
            writes: Vec::new(),
            by_user: BTreeMap::new(),
            look: None,
            scrub: None,
            ending: None,
        });
        self.carry_out(effects, myself);
    }

    fn started(&mut self, campaign: &CampaignId, incarnation: u64, actor: ActorRef<CouponMessage>) {
        if let Some(running) = &mut self.running
            && running.flow.is_current(campaign, incarnation)
        {
            let handle = CouponHandle::new(incarnation, actor);
            running.handles.insert(campaign.clone(), handle);
        }
    }

    /// Halts the partition: stops its reader, replays, writes and coupon actors. Stored rows stay.
    fn halt(&mut self, halt: Halt, myself: &ActorRef<PartitionMessage>) {
        let (partition, consumer) = (self.partition(), myself.get_id());
        self.note_read();
        self.running = None;
        let _ended = self.arguments.supervisor.cast(SupervisorMessage::StopAll { consumer });
        // It is checked again every 10 s; the same finding is logged and counted once.
        if !self.halted.as_ref().is_some_and(|known| known.is_same(&halt)) {
            let (reason, detail) = (halt.reason.slug(), &halt.detail);
            tracing::error!(partition, reason, detail, "partition halted");
            metrics::violation(Invariant::StopRatherThanLie);
        }
        self.arguments.environment.directory.own(partition, Some(halt.clone()));
        self.arguments.environment.shared.places.halted(partition);
        self.halted = Some(halt);
        self.ticks = 0;
        self.publish_halted();
        self.answer_drain();
    }

    /// Halts a partition that cannot be read on, once everything below is settled.
    fn halt_if_settled(&mut self, myself: &ActorRef<PartitionMessage>) {
        let Some(running) = &mut self.running else { return };
        let is_settled = running.flow.is_settled();
        let ticks = self.ticks;
        if let Some((halt, _)) = running.ending.take_if(|it| is_settled || it.1 <= ticks) {
            self.halt(halt, myself);
        }
    }

    fn tick(&mut self, myself: &ActorRef<PartitionMessage>) {
        self.ticks += 1;
        let environment = self.arguments.environment.clone();
        let look_due = self.ticks.is_multiple_of(TICKS_PER_LOOK);
        if look_due {
            let age_ms = self.watermark_age.ms(environment.now_ms());
            metrics::watermark_age(self.partition(), Duration::from_millis(age_ms));
        }
        if self.ticks.is_multiple_of(TICKS_PER_LOOK * LOOKS_PER_AGE) {
            self.look_at_age(myself);
        }
        if self.running.is_some() {
            let (now_ms, wall) = (environment.now_ms(), environment.clock.now());
            self.step(Event::Tick { now_ms, wall }, myself);
            self.note_watermark(now_ms);
            self.halt_if_settled(myself);
            if look_due {
                self.look(myself);
                self.scrub(myself);
            }
        } else if self.halted.is_some() && look_due {
            self.publish_halted();
            self.look_while_halted(myself);
            // While the log or the store is slow, an opening may take longer than that.
            let is_due = self.ticks.is_multiple_of(TICKS_PER_LOOK * LOOKS_PER_RECHECK);
            if (is_due || self.is_unsearched()) && !self.opens() {
                self.open(myself);
            }
        }
    }

    fn note_watermark(&mut self, now_ms: u64) {
        if let Some(Running { flow, .. }) = &self.running {
            self.watermark_age.observe(now_ms, flow.watermark(), flow.lag() > 0);
        }
    }

    fn opens(&self) -> bool {
        self.opening.as_ref().is_some_and(|opening| !opening.is_finished())
    }

    /// Reads the log's end, and the holds and skips that another owner may have written. Claims a
    /// higher generation if another owner has done so.
    fn look(&mut self, myself: &ActorRef<PartitionMessage>) {
        let (environment, partition) = (self.arguments.environment.clone(), self.partition());
        let own = self.generation;
        let Some(running) = &mut self.running else { return };
        metrics::partition_lag(partition, running.flow.lag());
        environment.shared.places.looked(partition, running.flow.watermark(), running.flow.end());
        running.writes.retain(|task| !task.is_finished());
        running.by_user.retain(|_, task| !task.is_finished());
        let is_looking = running.look.as_ref().is_some_and(|look| !look.is_finished());
        environment.shared.places.looks(partition, is_looking);
        if is_looking {
            return;
        }
        let (told, position) = (myself.clone(), running.flow.position());
        // A read that begins now finds at least this number.
        let expected = running.flow.holds_counted();
        running.look = Some(TaskGuard::spawn(myself, async move {
            if let Err(halt) = claim(&environment, partition, own, &told).await {
                let _ended = told.cast(PartitionMessage::Halt(halt));
                return;
            }
            let read = || environment.log.bounds(partition);
            let high = until_done(&environment, "reading the end of the log", read).await.high;
            if let Err(halt) = assignment::still_there(position, high) {
                let _ended = told.cast(PartitionMessage::Halt(halt));
                return;
            }
            let _ended = told.cast(PartitionMessage::Event(Event::End(high)));
            match io::partition_rows(&environment, partition).await {
                Ok(rows) => {
                    let next = rows.next();
                    let _ended = told.cast(PartitionMessage::Skips { next, skips: rows.skips });
                    let counted = Event::HoldsCounted { found: rows.holds_ever, expected };
                    let _ended = told.cast(PartitionMessage::Event(counted));
                    let _ended = told.cast(PartitionMessage::Event(Event::Holds(rows.holds)));
                }
                Err(halt) => drop(told.cast(PartitionMessage::Halt(halt))),
            }
        }));
    }

    fn step(&mut self, event: Event, myself: &ActorRef<PartitionMessage>) {
        let Some(running) = &mut self.running else { return };
        // The campaigns whose state operators see anew after this event.
        let changed = match &event {
            Event::Started { campaign, .. } => Some(campaign.clone()),
            Event::HoldWritten(hold) => Some(hold.campaign.clone()),
            Event::Contradicted { campaign, contradiction, .. } => {
                let Contradiction { from, reason, detail } = contradiction;
                let reason = reason.slug();
                tracing::error!(%campaign, from, reason, detail, "log and store contradict");
                metrics::violation(Invariant::StopRatherThanLie);
                Some(campaign.clone())
            }
            Event::NotReplayed { below, detail, .. } => {
                let reason = HoldReason::RecordsTrimmed.slug();
                tracing::error!(below, reason, detail, "records of a replay are missing");
                metrics::violation(Invariant::StopRatherThanLie);
                None
            }
            Event::Failed { campaign, reason, .. } => {
                tracing::error!(%campaign, reason, "coupon actor failed");
                metrics::actor_restart();
                Some(campaign.clone())
            }
            _ => None,
        };
        if let Event::Report(BatchReport { campaign, incarnation, .. }) = &event
            && let Some(handle) = running.handles.get_mut(campaign)
            && handle.incarnation == *incarnation
        {
            handle.reported();
        }
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
}
