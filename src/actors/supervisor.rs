//! The root of a node's actors: starts partition consumers and coupon actors, notices their ends,
//! and tells whoever decides what follows.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use ractor::{Actor, ActorId, ActorProcessingErr, ActorRef, RpcReplyPort, SupervisionEvent};

use super::{
    Environment,
    coupon::{CouponActor, CouponArguments, CouponMessage},
    partition_consumer::{PartitionArguments, PartitionConsumer, PartitionMessage},
    task::TaskGuard,
};
use crate::{
    domain::{
        ids::{CampaignId, Offset, Partition},
        invariant::Invariant,
    },
    log::Ownership,
    partition::flow::Event,
    telemetry::metrics,
};

/// Pause before a failed partition consumer is started again.
const CONSUMER_RESTART_PAUSE: Duration = Duration::from_millis(200);

/// How often actors are counted for the metric.
const CENSUS_INTERVAL: Duration = Duration::from_secs(1);

/// What the supervisor is told.
pub enum SupervisorMessage {
    /// The log says what this node owns.
    Ownership(Ownership),
    /// Start a coupon actor, in place of any earlier one of the campaign.
    Start {
        /// Whose.
        campaign: CampaignId,
        /// Which incarnation.
        incarnation: u64,
        /// Where the log is read again.
        from: Offset,
        /// How long to wait before.
        delay: Duration,
        /// The campaign's partition.
        partition: Partition,
        /// Who sends it batches.
        consumer: ActorRef<PartitionMessage>,
    },
    /// The delay of a start is over.
    StartNow(Box<CouponStart>),
    /// End a campaign's actor.
    Stop {
        /// Whose.
        campaign: CampaignId,
    },
    /// End every coupon actor of a partition.
    StopAll {
        /// Which partition.
        partition: Partition,
    },
    /// Start a partition consumer that failed again.
    RestartConsumer(Partition),
    /// Count the actors.
    Census,
    /// Settle what was read in every partition; answers when that is done.
    Drain(RpcReplyPort<()>),
    /// Crash a campaign's actor, as a bug would. For chaos by hand and tests.
    Crash(CampaignId),
    /// Crash a partition's consumer.
    CrashConsumer(Partition),
}

/// A coupon actor to be started.
pub struct CouponStart {
    campaign: CampaignId,
    incarnation: u64,
    from: Offset,
    partition: Partition,
    consumer: ActorRef<PartitionMessage>,
}

/// A coupon actor, or its start that is delayed.
struct Child {
    incarnation: u64,
    partition: Partition,
    consumer: ActorRef<PartitionMessage>,
    actor: Option<ActorRef<CouponMessage>>,
    _delay: Option<TaskGuard>,
}

/// What the supervisor knows.
pub struct SupervisorState {
    environment: Arc<Environment>,
    consumers: BTreeMap<Partition, Option<ActorRef<PartitionMessage>>>,
    coupons: BTreeMap<CampaignId, Child>,
    by_actor: HashMap<ActorId, CampaignId>,
    restarts: BTreeMap<Partition, TaskGuard>,
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
        let census = TaskGuard::spawn(async move {
            let mut interval = tokio::time::interval(CENSUS_INTERVAL);
            loop {
                interval.tick().await;
                let _ended = myself.cast(SupervisorMessage::Census);
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
        match message {
            SupervisorMessage::Ownership(Ownership::Assigned(partition)) => {
                state.consumers.insert(partition, None);
                state.start_consumer(partition, &myself).await?;
            }
            SupervisorMessage::Ownership(Ownership::Revoked(partition)) => state.revoke(partition),
            SupervisorMessage::Start {
                campaign,
                incarnation,
                from,
                delay,
                partition,
                consumer,
            } => {
                let start = CouponStart { campaign, incarnation, from, partition, consumer };
                state.start(start, delay, &myself).await?;
            }
            SupervisorMessage::StartNow(start) => {
                let waits = |child: &Child| child.incarnation == start.incarnation;
                if state.coupons.get(&start.campaign).is_some_and(waits) {
                    state.start(*start, Duration::ZERO, &myself).await?;
                }
            }
            SupervisorMessage::Stop { campaign } => state.stop(&campaign),
            SupervisorMessage::StopAll { partition } => state.stop_all(partition),
            SupervisorMessage::RestartConsumer(partition) => {
                if state.consumers.get(&partition).is_some_and(Option::is_none) {
                    state.start_consumer(partition, &myself).await?;
                }
            }
            SupervisorMessage::Census => state.environment.directory.census(),
            SupervisorMessage::Drain(reply) => state.drain(reply),
            SupervisorMessage::Crash(campaign) => state.crash(&campaign),
            SupervisorMessage::CrashConsumer(partition) => {
                if let Some(Some(consumer)) = state.consumers.get(&partition) {
                    consumer.kill();
                }
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
    async fn start_consumer(
        &mut self,
        partition: Partition,
        myself: &ActorRef<SupervisorMessage>,
    ) -> Result<(), ActorProcessingErr> {
        let environment = self.environment.clone();
        let supervisor = myself.clone();
        let arguments = PartitionArguments { environment, partition, supervisor };
        let (consumer, _) =
            Actor::spawn_linked(None, PartitionConsumer, arguments, myself.get_cell()).await?;
        self.consumers.insert(partition, Some(consumer));
        Ok(())
    }

    /// Another node decides from now on. Rows under way may still be stored: they are the same.
    fn revoke(&mut self, partition: Partition) {
        if let Some(Some(consumer)) = self.consumers.remove(&partition) {
            consumer.kill();
        }
        self.restarts.remove(&partition);
        self.stop_all(partition);
        self.environment.directory.disown(partition);
        tracing::info!(partition, "partition was revoked");
    }

    async fn start(
        &mut self,
        start: CouponStart,
        delay: Duration,
        myself: &ActorRef<SupervisorMessage>,
    ) -> Result<(), ActorProcessingErr> {
        self.stop(&start.campaign);
        let CouponStart { campaign, incarnation, from, partition, consumer } = start;
        let mut child =
            Child { incarnation, partition, consumer: consumer.clone(), actor: None, _delay: None };
        if delay.is_zero() {
            let environment = self.environment.clone();
            let arguments =
                CouponArguments::new(environment, campaign.clone(), incarnation, from, consumer);
            let (actor, _) =
                Actor::spawn_linked(None, CouponActor, arguments, myself.get_cell()).await?;
            self.by_actor.insert(actor.get_id(), campaign.clone());
            child.actor = Some(actor);
        } else {
            let myself = myself.clone();
            let campaign = campaign.clone();
            let start = CouponStart { campaign, incarnation, from, partition, consumer };
            child._delay = Some(TaskGuard::spawn(async move {
                tokio::time::sleep(delay).await;
                let _ended = myself.cast(SupervisorMessage::StartNow(Box::new(start)));
            }));
        }
        self.coupons.insert(campaign, child);
        Ok(())
    }

    fn stop(&mut self, campaign: &CampaignId) {
        if let Some(child) = self.coupons.remove(campaign)
            && let Some(actor) = child.actor
        {
            self.by_actor.remove(&actor.get_id());
            actor.kill();
        }
    }

    fn stop_all(&mut self, partition: Partition) {
        let of_partition = |(campaign, child): (&CampaignId, &Child)| {
            (child.partition == partition).then(|| campaign.clone())
        };
        let campaigns: Vec<_> = self.coupons.iter().filter_map(of_partition).collect();
        for campaign in campaigns {
            self.stop(&campaign);
        }
    }

    /// An actor has ended. Those that were stopped on purpose are no longer known here.
    fn ended(&mut self, actor: ActorId, reason: &str, myself: &ActorRef<SupervisorMessage>) {
        note_violation(reason);
        if let Some(campaign) = self.by_actor.remove(&actor)
            && let Some(child) = self.coupons.remove(&campaign)
        {
            let incarnation = child.incarnation;
            let event = Event::Failed { campaign, incarnation, reason: reason.to_owned() };
            let _ended = child.consumer.cast(PartitionMessage::Event(event));
            return;
        }
        let owned = |(partition, consumer): (&Partition, &Option<ActorRef<PartitionMessage>>)| {
            let same = consumer.as_ref().is_some_and(|consumer| consumer.get_id() == actor);
            same.then_some(*partition)
        };
        if let Some(partition) = self.consumers.iter().find_map(owned) {
            tracing::error!(partition, reason, "partition consumer failed, will be restarted");
            self.consumers.insert(partition, None);
            self.stop_all(partition);
            let myself = myself.clone();
            let restart = TaskGuard::spawn(async move {
                tokio::time::sleep(CONSUMER_RESTART_PAUSE).await;
                let _ended = myself.cast(SupervisorMessage::RestartConsumer(partition));
            });
            self.restarts.insert(partition, restart);
        }
    }

    fn crash(&self, campaign: &CampaignId) {
        let consumer = self.coupons.get(campaign).map(|child| &child.consumer);
        if let Some(consumer) = consumer {
            let _ended = consumer.cast(PartitionMessage::Crash(campaign.clone()));
        }
    }

    fn drain(&mut self, reply: RpcReplyPort<()>) {
        let consumers: Vec<_> = self.consumers.values().flatten().cloned().collect();
        self.drains.push(TaskGuard::spawn(async move {
            for consumer in &consumers {
                // A consumer that has ended has nothing to settle.
                let _ended = ractor::call!(consumer, PartitionMessage::Drain);
            }
            let _gone = reply.send(());
        }));
    }
}

/// A broken invariant names itself in the panic that stopped it.
fn note_violation(reason: &str) {
    let named = |invariant: &&Invariant| reason.contains(&format!("{invariant} broken"));
    if let Some(invariant) = Invariant::ALL.iter().find(named) {
        metrics::violation(*invariant);
    }
}
