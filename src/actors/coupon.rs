//! The actor of one campaign: it owns the remaining count and the holders in memory.
//!
//! Decide the batch, store what follows from it, report. Storing overlaps with deciding; what is
//! between the two, and in which order it is reported, is the pipeline's.

use std::{collections::BTreeMap, sync::Arc};

use ractor::{Actor, ActorProcessingErr, ActorRef};

use super::{
    Environment,
    handle::{CouponHandle, Credit},
    io,
    load::{LoadFailure, load},
    partition_consumer::PartitionMessage,
    task::TaskGuard,
};
use crate::{
    domain::ids::{CampaignId, Offset},
    partition::{
        flow::Event,
        fold::{Batch, Folder},
        pipeline::{Pipeline, ToStore},
        recovery::{Contradiction, Recovered},
    },
    wire::write_order,
};

/// What a coupon actor is told.
#[derive(Debug)]
pub enum CouponMessage {
    /// The rows are loaded, or can't be.
    Loaded(Box<Result<Recovered, LoadFailure>>),
    /// Decide these records, in order.
    Decide(Batch),
    /// The rows of the batch of this number are durable.
    Stored(u64),
    /// Rows that were written are not there: what hid their like before does so still.
    Vanished(Contradiction),
    /// Panic, as a bug would.
    Crash,
}

impl CouponMessage {
    fn name(&self) -> &'static str {
        match self {
            Self::Loaded(_) => "loaded",
            Self::Decide(_) => "decide",
            Self::Stored(_) => "stored",
            Self::Vanished(_) => "vanished",
            Self::Crash => "crash",
        }
    }
}

/// What a coupon actor is started with.
pub struct CouponArguments {
    environment: Arc<Environment>,
    campaign: CampaignId,
    incarnation: u64,
    from: Offset,
    consumer: ActorRef<PartitionMessage>,
    credit: Credit,
}

impl CouponArguments {
    /// For `campaign`, with its log read again from `from`. `consumer` is told what it comes to,
    /// and given the way in.
    #[must_use]
    pub fn new(
        environment: Arc<Environment>,
        campaign: CampaignId,
        incarnation: u64,
        from: Offset,
        consumer: ActorRef<PartitionMessage>,
    ) -> Self {
        Self { environment, campaign, incarnation, from, consumer, credit: Credit::default() }
    }
}

/// What a coupon actor knows.
pub struct CouponState {
    arguments: CouponArguments,
    pipeline: Option<Pipeline>,
    /// The writes under way, by number of their batch.
    writes: BTreeMap<u64, TaskGuard>,
    load: Option<TaskGuard>,
}

/// Decides one campaign.
pub struct CouponActor;

impl Actor for CouponActor {
    type Msg = CouponMessage;
    type State = CouponState;
    type Arguments = CouponArguments;

    async fn pre_start(
        &self,
        myself: ActorRef<CouponMessage>,
        arguments: CouponArguments,
    ) -> Result<CouponState, ActorProcessingErr> {
        let (environment, campaign) = (arguments.environment.clone(), arguments.campaign.clone());
        environment.shared.handled("coupon", "start");
        // Before the load, so that the consumer has the way in before it hears of readiness.
        let CouponArguments { incarnation, consumer, credit, .. } = &arguments;
        let handle = CouponHandle::new(*incarnation, myself.clone(), credit.clone());
        let started = PartitionMessage::Started { campaign: campaign.clone(), handle };
        let _ended = consumer.cast(started);
        let from = arguments.from;
        // In a task: loading here would make the supervisor wait.
        let told = myself.clone();
        let load = TaskGuard::spawn(&myself, async move {
            let loaded = load(&environment, &campaign, from).await;
            let _ended = told.cast(CouponMessage::Loaded(Box::new(loaded)));
        });
        Ok(CouponState { arguments, pipeline: None, writes: BTreeMap::new(), load: Some(load) })
    }

    async fn handle(
        &self,
        myself: ActorRef<CouponMessage>,
        message: CouponMessage,
        state: &mut CouponState,
    ) -> Result<(), ActorProcessingErr> {
        state.arguments.environment.shared.handled("coupon", message.name());
        match message {
            CouponMessage::Loaded(loaded) => state.loaded(*loaded),
            CouponMessage::Decide(batch) => state.decide(batch, &myself),
            CouponMessage::Stored(number) => {
                state.writes.remove(&number);
                let waited = state.pipeline.as_mut().map(|pipeline| pipeline.stored(number));
                waited.into_iter().flatten().for_each(|rows| state.store(rows, &myself));
                state.report();
            }
            CouponMessage::Vanished(contradiction) => state.contradicted(contradiction),
            CouponMessage::Crash => panic!("crashed on request"),
        }
        Ok(())
    }
}

impl CouponState {
    fn loaded(&mut self, loaded: Result<Recovered, LoadFailure>) {
        // A finished task's memory is its guard's.
        self.load = None;
        let CouponArguments { environment, campaign, incarnation, .. } = &self.arguments;
        let (campaign, incarnation) = (campaign.clone(), *incarnation);
        match loaded {
            Ok(recovered) => {
                let keys = environment.keys.clone();
                let folder = Folder::new(recovered, keys, environment.log_epoch);
                let expects_until = folder.expects_until();
                self.pipeline = Some(Pipeline::new(campaign.clone(), incarnation, folder));
                self.show();
                self.tell(Event::Ready { campaign, incarnation, expects_until });
            }
            Err(LoadFailure::Contradiction(contradiction)) => {
                self.contradicted(contradiction);
            }
            Err(LoadFailure::AboveEnd { offset, end }) => {
                let reason =
                    format!("{campaign} has a row at offset {offset}, but the log ends at {end}");
                let _ended = self.arguments.consumer.cast(PartitionMessage::Halt { reason });
            }
        }
    }

    fn decide(&mut self, batch: Batch, myself: &ActorRef<CouponMessage>) {
        let pipeline =
            self.pipeline.as_mut().expect("a campaign is sent nothing before it is ready");
        if let Some(rows) = pipeline.decide(batch) {
            self.store(rows, myself);
        }
        self.show();
        self.report();
    }

    fn store(&mut self, rows: ToStore, myself: &ActorRef<CouponMessage>) {
        let ToStore { number, versions, coupons, read_back } = rows;
        let (environment, told) = (self.arguments.environment.clone(), myself.clone());
        let write = TaskGuard::spawn(myself, async move {
            let written = read_back.then(|| (versions.clone(), coupons.clone()));
            io::write(&environment, write_order::of_batch(versions, coupons)).await;
            let vanished = match written {
                Some((versions, coupons)) => io::vanished(&environment, versions, coupons).await,
                None => None,
            };
            let _ended = told.cast(match vanished {
                Some(contradiction) => CouponMessage::Vanished(contradiction),
                None => CouponMessage::Stored(number),
            });
        });
        self.writes.insert(number, write);
    }

    /// Shows operators how the campaign stands.
    fn show(&self) {
        let CouponArguments { environment, campaign, .. } = &self.arguments;
        if let Some(pipeline) = &self.pipeline {
            let partition = environment.codec.partition_of(campaign);
            environment.directory.stands(partition, pipeline.campaign());
        }
    }

    fn report(&mut self) {
        while let Some((report, contradicted)) = self.pipeline.as_mut().and_then(Pipeline::report) {
            self.arguments.credit.give_back();
            self.tell(report);
            if let Some(contradicted) = contradicted {
                self.tell(contradicted);
            }
        }
    }

    fn contradicted(&self, contradiction: Contradiction) {
        let CouponArguments { campaign, incarnation, .. } = &self.arguments;
        let (campaign, incarnation) = (campaign.clone(), *incarnation);
        self.tell(Event::Contradicted { campaign, incarnation, contradiction });
    }

    fn tell(&self, event: Event) {
        // A consumer that has ended takes nothing in, and its end is this actor's end.
        let _ended = self.arguments.consumer.cast(PartitionMessage::Event(event));
    }
}
