//! The root of a node's actors: spawns partition consumers and coupon actors, and notices their
//! ends.
//!
//! What follows from the end of a coupon actor is decided by the flow of its partition; what
//! follows from the end of a partition consumer is decided here.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    Environment,
    coupon::CouponActor,
    messages::{CouponMessage, CouponStart, PartitionMessage, SupervisorMessage},
    partition_consumer::{PartitionArguments, PartitionConsumer},
    prober,
    task::TaskGuard,
};
use crate::{
    clock::Ticks,
    domain::{
        ids::{CampaignId, Partition},
        invariant::Invariant,
    },
    log::Ownership,
    partition::{actor_view::Crashed, flow::Event, restart::ConsumerFailures},
    telemetry::metrics,
};
use ractor::{Actor, ActorId, ActorProcessingErr, ActorRef, RpcReplyPort, SupervisionEvent};

/// How often actors are counted for the metric.
const CENSUS_INTERVAL: Duration = Duration::from_secs(1);

/// Longest wait for the end of a consumer whose partition was revoked. Its decisions are those of the
/// next owner, so one that goes on for longer harms nobody.
const REVOKE_WITHIN: Duration = Duration::from_secs(2);

/// A coupon actor, or a start that waits for its delay.
struct Child {
    incarnation: u64,
    consumer: ActorRef<PartitionMessage>,
    actor: Option<ActorRef<CouponMessage>>,
    _delay: Option<TaskGuard>,
}

/// The failures of one partition's consumers, and the restart that waits for its pause.
struct Restart {
    failures: ConsumerFailures,
    started: Instant,
    _delay: Option<TaskGuard>,
}

impl Restart {
    fn new(started: Instant) -> Self {
        Self { failures: ConsumerFailures::default(), started, _delay: None }
    }
}

/// State of the supervisor.
pub struct SupervisorState {
    environment: Arc<Environment>,
    consumers: BTreeMap<Partition, Option<ActorRef<PartitionMessage>>>,
    coupons: BTreeMap<CampaignId, Child>,
    by_actor: HashMap<ActorId, CampaignId>,
    restarts: BTreeMap<Partition, Restart>,
    drains: Vec<TaskGuard>,
    _census: TaskGuard,
}

/// Supervises the actors of one node.
pub struct Supervisor;

impl Actor for Supervisor {
    type Msg = SupervisorMessage;
    type State = SupervisorState;
    type Arguments = Arc<Environment>;

    async fn pre_start(
        &self,
        myself: ActorRef<SupervisorMessage>,
        environment: Arc<Environment>,
    ) -> Result<SupervisorState, ActorProcessingErr> {
        let supervisor = myself.clone();
        let mut ticks = Ticks::new(environment.clock.clone(), CENSUS_INTERVAL);
        let census = TaskGuard::spawn(&myself, async move {
            loop {
                ticks.tick().await;
                let _ended = supervisor.cast(SupervisorMessage::Census);
            }
        });
        Ok(SupervisorState {
            environment,
            consumers: BTreeMap::new(),
            coupons: BTreeMap::new(),
            by_actor: HashMap::new(),
            restarts: BTreeMap::new(),
            drains: Vec::new(),
            _census: census,
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<SupervisorMessage>,
        message: SupervisorMessage,
        state: &mut SupervisorState,
    ) -> Result<(), ActorProcessingErr> {
        state.environment.shared.handled("supervisor", message.name());
        match message {
            SupervisorMessage::Ownership(Ownership::Assigned(partition)) => {
                // After a reconnect the log repeats what this node owns already.
                if !state.consumers.contains_key(&partition) {
                    state.start_consumer(partition, &myself).await;
                }
            }
            SupervisorMessage::Ownership(Ownership::Revoked(partition)) => {
                state.revoke(partition).await;
            }
            SupervisorMessage::Start { start, delay } => {
                if state.is_current(&start) {
                    state.start(start, delay, &myself).await;
                }
            }
            SupervisorMessage::StartNow(start) => {
                let waits = |child: &Child| child.incarnation == start.incarnation;
                if state.is_current(&start) && state.coupons.get(&start.campaign).is_some_and(waits)
                {
                    state.start(*start, Duration::ZERO, &myself).await;
                }
            }
            SupervisorMessage::Stop { campaign, consumer } => {
                let its = |child: &Child| child.consumer.get_id() == consumer;
                if state.coupons.get(&campaign).is_some_and(its) {
                    state.stop(&campaign);
                }
            }
            SupervisorMessage::StopAll { consumer } => state.stop_all(consumer),
            SupervisorMessage::RestartConsumer(partition) => {
                if state.consumers.get(&partition).is_some_and(Option::is_none) {
                    state.start_consumer(partition, &myself).await;
                }
            }
            SupervisorMessage::Census => {
                state.environment.directory.census(state.environment.clock.now());
            }
            SupervisorMessage::Drain(reply) => state.drain(reply, &myself),
            SupervisorMessage::Ping(reply) => prober::answer(reply),
            SupervisorMessage::Crash(crashed, reply) => {
                let runs = state.crash(&crashed);
                let _gone = reply.map(|reply| reply.send(runs));
                assert!(crashed != Crashed::Supervisor, "crashed on request");
            }
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<SupervisorMessage>,
        event: SupervisionEvent,
        state: &mut SupervisorState,
    ) -> Result<(), ActorProcessingErr> {
        state.environment.shared.handled("supervisor", "ended");
        match event {
            SupervisionEvent::ActorFailed(actor, error) => {
                state.ended(actor.get_id(), &error.to_string(), &myself);
            }
            SupervisionEvent::ActorTerminated(actor, _, reason) => {
                let reason = reason.unwrap_or_else(|| "it was killed".to_owned());
                state.ended(actor.get_id(), &reason, &myself);
            }
            SupervisionEvent::ActorStarted(_) | SupervisionEvent::ProcessGroupChanged(_) => {}
        }
        Ok(())
    }
}

impl SupervisorState {
    async fn start_consumer(&mut self, partition: Partition, myself: &ActorRef<SupervisorMessage>) {
        let now = self.environment.clock.instant();
        self.restarts.entry(partition).or_insert_with(|| Restart::new(now)).started = now;
        let environment = self.environment.clone();
        let supervisor = myself.clone();
        let arguments = PartitionArguments { environment, partition, supervisor };
        let started =
            Actor::spawn_linked(None, PartitionConsumer, arguments, myself.get_cell()).await;
        match started {
            Ok((consumer, _)) => {
                self.consumers.insert(partition, Some(consumer));
            }
            Err(error) => self.consumer_failed(partition, &error.to_string(), myself),
        }
    }

    /// Stops what this node runs for a partition that it lost. Writes in flight may still land:
    /// the new owner derives the same rows.
    async fn revoke(&mut self, partition: Partition) {
        if let Some(Some(consumer)) = self.consumers.remove(&partition) {
            // Waits until its last message is handled, so that no consumer of this node overlaps
            // the next one. An error means that it has ended already. One that hangs must not keep
            // this node's other partitions.
            let killed = consumer.kill_and_wait(None);
            if self.environment.clock.timeout(REVOKE_WITHIN, killed).await.is_err() {
                tracing::error!(partition, "partition consumer hangs, it is left behind");
            }
            self.stop_all(consumer.get_id());
        }
        self.environment.shared.places.end(partition);
        self.restarts.remove(&partition);
        self.environment.directory.disown(partition);
        tracing::info!(partition, "partition was revoked");
    }

    /// Returns whether a start was requested by the partition's current consumer. A request of an
    /// earlier one may arrive after that consumer's end, and nothing would ever stop the actor.
    fn is_current(&self, start: &CouponStart) -> bool {
        let consumer = self.consumers.get(&start.partition).and_then(Option::as_ref);
        consumer.is_some_and(|consumer| consumer.get_id() == start.consumer.get_id())
    }

    async fn start(
        &mut self,
        start: CouponStart,
        delay: Duration,
        myself: &ActorRef<SupervisorMessage>,
    ) {
        self.stop(&start.campaign);
        let (campaign, incarnation) = (start.campaign.clone(), start.incarnation);
        let consumer = start.consumer.clone();
        let (mut actor, mut _delay) = (None, None);
        if delay.is_zero() {
            let arguments = (self.environment.clone(), start);
            let started =
                Actor::spawn_linked(None, CouponActor, arguments, myself.get_cell()).await;
            match started {
                Ok((started, _)) => {
                    self.by_actor.insert(started.get_id(), campaign.clone());
                    actor = Some(started);
                }
                Err(error) => return failed(&consumer, campaign, incarnation, &error.to_string()),
            }
        } else {
            let supervisor = myself.clone();
            let delayed = self.environment.clock.sleep(delay);
            _delay = Some(TaskGuard::spawn(myself, async move {
                delayed.await;
                let _ended = supervisor.cast(SupervisorMessage::StartNow(Box::new(start)));
            }));
        }
        self.coupons.insert(campaign, Child { incarnation, consumer, actor, _delay });
    }

    fn stop(&mut self, campaign: &CampaignId) {
        if let Some(child) = self.coupons.remove(campaign)
            && let Some(actor) = child.actor
        {
            self.by_actor.remove(&actor.get_id());
            actor.kill();
        }
    }

    fn stop_all(&mut self, consumer: ActorId) {
        let its = |(campaign, child): (&CampaignId, &Child)| {
            (child.consumer.get_id() == consumer).then(|| campaign.clone())
        };
        let campaigns: Vec<_> = self.coupons.iter().filter_map(its).collect();
        for campaign in campaigns {
            self.stop(&campaign);
        }
    }

    /// Handles the end of an actor. Actors that were stopped on purpose are not known here any more,
    /// so that their ends count as no failure.
    fn ended(&mut self, actor: ActorId, reason: &str, myself: &ActorRef<SupervisorMessage>) {
        if let Some(campaign) = self.by_actor.remove(&actor)
            && let Some(child) = self.coupons.remove(&campaign)
        {
            failed(&child.consumer, campaign, child.incarnation, reason);
            return;
        }
        let owned = |(partition, consumer): (&Partition, &Option<ActorRef<PartitionMessage>>)| {
            let same = consumer.as_ref().is_some_and(|consumer| consumer.get_id() == actor);
            same.then_some(*partition)
        };
        if let Some(partition) = self.consumers.iter().find_map(owned) {
            self.stop_all(actor);
            self.consumer_failed(partition, reason, myself);
        }
    }

    fn consumer_failed(
        &mut self,
        partition: Partition,
        reason: &str,
        myself: &ActorRef<SupervisorMessage>,
    ) {
        note_violation(reason);
        self.consumers.insert(partition, None);
        let clock = &self.environment.clock;
        let Some(restart) = self.restarts.get_mut(&partition) else { return };
        let pause =
            restart.failures.failed(clock.instant().saturating_duration_since(restart.started));
        let in_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
        tracing::error!(partition, reason, in_ms, "partition consumer failed, will be restarted");
        let supervisor = myself.clone();
        let paused = clock.sleep(pause);
        restart._delay = Some(TaskGuard::spawn(myself, async move {
            paused.await;
            let _ended = supervisor.cast(SupervisorMessage::RestartConsumer(partition));
        }));
    }

    /// Crashes an actor below the supervisor. Returns whether it runs here.
    fn crash(&self, crashed: &Crashed) -> bool {
        match crashed {
            Crashed::Coupon(campaign) => {
                let actor = self.coupons.get(campaign).and_then(|child| child.actor.as_ref());
                actor.is_some_and(|actor| actor.cast(CouponMessage::Crash).is_ok())
            }
            Crashed::Consumer(partition) => {
                let consumer = self.consumers.get(partition).and_then(Option::as_ref);
                consumer.inspect(|consumer| consumer.kill()).is_some()
            }
            Crashed::Supervisor => true,
        }
    }

    fn drain(&mut self, reply: RpcReplyPort<()>, myself: &ActorRef<SupervisorMessage>) {
        let consumers: Vec<_> = self.consumers.values().flatten().cloned().collect();
        self.drains.push(TaskGuard::spawn(myself, async move {
            // All at once: a consumer that cannot settle must not keep the others from it. An error
            // means that a consumer has ended; then it has nothing to settle.
            let drained = consumers
                .iter()
                .map(|consumer| async { ractor::call!(consumer, PartitionMessage::Drain).ok() });
            futures_util::future::join_all(drained).await;
            let _gone = reply.send(());
        }));
    }
}

/// Reports the failure of a campaign's actor to its partition consumer.
fn failed(
    consumer: &ActorRef<PartitionMessage>,
    campaign: CampaignId,
    incarnation: u64,
    reason: &str,
) {
    note_violation(reason);
    let event = Event::Failed { campaign, incarnation, reason: reason.to_owned() };
    // If the consumer has ended, its campaigns start again with the next one.
    let _ended = consumer.cast(PartitionMessage::Event(event));
}

/// Counts a violation if a panic names a broken invariant.
fn note_violation(reason: &str) {
    let named = |invariant: &&Invariant| reason.contains(&format!("{invariant} broken"));
    if let Some(invariant) = Invariant::ALL.iter().find(named) {
        metrics::violation(*invariant);
    }
}
