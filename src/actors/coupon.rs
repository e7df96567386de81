//! The actor of one campaign: it owns the remaining count and the holders in memory.
//!
//! Decide the batch, store what follows from it, report. Storing overlaps with deciding, since
//! everything can be derived again; only the report keeps the order.

use std::{collections::VecDeque, sync::Arc};

use ractor::{Actor, ActorProcessingErr, ActorRef};

use super::{
    Environment,
    handle::{CouponHandle, Credit},
    load::{LoadFailure, load},
    partition_consumer::PartitionMessage,
    task::{TaskGuard, until_done},
};
use crate::{
    domain::{
        coupon::Coupon,
        definition::DefinitionVersion,
        ids::{CampaignId, Offset, Timestamp},
    },
    partition::{
        flow::{Event, Report},
        fold::{Batch, Folded, Folder},
        recovery::{Contradiction, Recovered},
    },
    store::Row,
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
    /// Panic, as a bug would.
    Crash,
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

/// A batch whose rows are being stored.
struct Storing {
    number: u64,
    report: Report,
    contradiction: Option<Contradiction>,
    stored: bool,
    _task: Option<TaskGuard>,
}

/// What a coupon actor knows.
pub struct CouponState {
    arguments: CouponArguments,
    folder: Option<Folder>,
    storing: VecDeque<Storing>,
    batches: u64,
    _load: TaskGuard,
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
        // Before the load, so that the consumer has the way in before it hears of readiness.
        let CouponArguments { incarnation, consumer, credit, .. } = &arguments;
        let handle = CouponHandle::new(*incarnation, myself.clone(), credit.clone());
        let started = PartitionMessage::Started { campaign: campaign.clone(), handle };
        let _ended = consumer.cast(started);
        let from = arguments.from;
        // In a task: loading here would make the supervisor wait.
        let load = TaskGuard::spawn(async move {
            let loaded = load(&environment, &campaign, from).await;
            let _ended = myself.cast(CouponMessage::Loaded(Box::new(loaded)));
        });
        let storing = VecDeque::new();
        Ok(CouponState { arguments, folder: None, storing, batches: 0, _load: load })
    }

    async fn handle(
        &self,
        myself: ActorRef<CouponMessage>,
        message: CouponMessage,
        state: &mut CouponState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            CouponMessage::Loaded(loaded) => state.loaded(*loaded),
            CouponMessage::Decide(batch) => state.decide(batch, &myself),
            CouponMessage::Stored(number) => {
                if let Some(batch) = state.storing.iter_mut().find(|batch| batch.number == number) {
                    batch.stored = true;
                }
                state.report();
            }
            CouponMessage::Crash => panic!("crashed on request"),
        }
        Ok(())
    }
}

impl CouponState {
    fn loaded(&mut self, loaded: Result<Recovered, LoadFailure>) {
        let CouponArguments { environment, campaign, incarnation, .. } = &self.arguments;
        let (campaign, incarnation) = (campaign.clone(), *incarnation);
        match loaded {
            Ok(recovered) => {
                let keys = environment.keys.clone();
                let folder = Folder::new(recovered, keys, environment.log_epoch);
                let expects_until = folder.expects_until();
                self.folder = Some(folder);
                self.tell(Event::Ready { campaign, incarnation, expects_until });
            }
            Err(LoadFailure::Contradiction(contradiction)) => {
                self.tell(Event::Contradicted { campaign, incarnation, contradiction });
            }
            Err(LoadFailure::AboveEnd { offset, end }) => {
                let reason =
                    format!("{campaign} has a row at offset {offset}, but the log ends at {end}");
                let _ended = self.arguments.consumer.cast(PartitionMessage::Halt { reason });
            }
        }
    }

    fn decide(&mut self, batch: Batch, myself: &ActorRef<CouponMessage>) {
        let folder = self.folder.as_mut().expect("a campaign is sent nothing before it is ready");
        let folded = folder.fold(batch);
        let over_from = over_from(folder);
        let Folded { versions, coupons, told, settled, contradiction } = folded;
        self.batches += 1;
        let number = self.batches;
        let nothing_to_store = versions.is_empty() && coupons.is_empty();
        let task = (!nothing_to_store).then(|| {
            let (environment, myself) = (self.arguments.environment.clone(), myself.clone());
            TaskGuard::spawn(async move {
                store(&environment, versions, coupons).await;
                let _ended = myself.cast(CouponMessage::Stored(number));
            })
        });
        let report = Report {
            campaign: self.arguments.campaign.clone(),
            incarnation: self.arguments.incarnation,
            told,
            settled,
            over_from,
        };
        let stored = nothing_to_store;
        self.storing.push_back(Storing { number, report, contradiction, stored, _task: task });
        self.report();
    }

    fn report(&mut self) {
        while self.storing.front().is_some_and(|batch| batch.stored)
            && let Some(batch) = self.storing.pop_front()
        {
            self.arguments.credit.give_back();
            let (campaign, incarnation) = (batch.report.campaign.clone(), batch.report.incarnation);
            self.tell(Event::Report(batch.report));
            if let Some(contradiction) = batch.contradiction {
                self.tell(Event::Contradicted { campaign, incarnation, contradiction });
            }
        }
    }

    fn tell(&self, event: Event) {
        // A consumer that has ended takes nothing in, and its end is this actor's end.
        let _ended = self.arguments.consumer.cast(PartitionMessage::Event(event));
    }
}

/// Makes rows durable, however long it takes: a version before anything above it.
async fn store(environment: &Environment, versions: Vec<DefinitionVersion>, coupons: Vec<Coupon>) {
    for version in versions {
        let row = [Row::Version(version)];
        until_done("storing a definition version", || environment.store.write(&row)).await;
    }
    if !coupons.is_empty() {
        let rows: Vec<_> = coupons.into_iter().map(Row::Coupon).collect();
        until_done("storing coupons", || environment.store.write(&rows)).await;
    }
}

/// From when on nothing is issued any more, as far as the definition says.
fn over_from(folder: &Folder) -> Option<Timestamp> {
    match folder.campaign().definition() {
        None => Some(Timestamp(0)),
        Some(definition) if definition.closed => Some(Timestamp(0)),
        Some(definition) => definition.terms.closes_at,
    }
}
