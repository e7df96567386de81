//! The actor of one campaign: holds the remaining count and the holders in memory.
//!
//! It decides a batch, stores its rows, and reports. Storing overlaps with deciding: the pipeline
//! determines when rows may be stored, and the order in which batches are reported.

use std::{collections::BTreeMap, sync::Arc};

use ractor::{Actor, ActorProcessingErr, ActorRef};

use super::{
    Environment, io,
    load::{LoadFailure, load},
    messages::{CouponMessage, CouponStart, PartitionMessage},
    task::TaskGuard,
};
use crate::{
    domain::coupon::Coupon,
    partition::{
        flow::Event,
        fold::{Batch, Folder},
        pipeline::{Pipeline, ToStore},
        recovery::{Contradiction, Recovered},
    },
    wire::write_order,
};

/// State of a coupon actor.
pub struct CouponState {
    environment: Arc<Environment>,
    start: CouponStart,
    /// None until the campaign's rows are loaded.
    pipeline: Option<Pipeline>,
    /// The writes under way, by the number of their batch.
    writes: BTreeMap<u64, TaskGuard>,
    load: Option<TaskGuard>,
}

/// Decides one campaign.
pub struct CouponActor;

impl Actor for CouponActor {
    type Msg = CouponMessage;
    type State = CouponState;
    type Arguments = (Arc<Environment>, CouponStart);

    async fn pre_start(
        &self,
        myself: ActorRef<CouponMessage>,
        (environment, start): Self::Arguments,
    ) -> Result<CouponState, ActorProcessingErr> {
        environment.shared.handled("coupon", "start");
        let (loader, campaign, from) = (environment.clone(), start.campaign.clone(), start.from);
        let (actor, consumer, incarnation) =
            (myself.clone(), start.consumer.clone(), start.incarnation);
        // In a task, because the supervisor waits for pre_start to return.
        let load = TaskGuard::spawn(&myself, async move {
            let loaded = load(&loader, &campaign, from, |step| {
                let event = Event::Loads { campaign: campaign.clone(), incarnation, step };
                let _ended = consumer.cast(PartitionMessage::Event(event));
            });
            let loaded = loaded.await;
            let _ended = actor.cast(CouponMessage::Loaded(Box::new(loaded)));
        });
        let writes = BTreeMap::new();
        Ok(CouponState { environment, start, pipeline: None, writes, load: Some(load) })
    }

    async fn handle(
        &self,
        myself: ActorRef<CouponMessage>,
        message: CouponMessage,
        state: &mut CouponState,
    ) -> Result<(), ActorProcessingErr> {
        state.environment.shared.handled("coupon", message.name());
        match message {
            CouponMessage::Loaded(loaded) => state.loaded(*loaded, &myself),
            CouponMessage::Decide(batch) => state.decide(batch, &myself),
            CouponMessage::Stored { number, by_user } => state.stored(number, by_user, &myself),
            CouponMessage::Vanished(contradiction) => state.contradicted(contradiction),
            CouponMessage::Crash => panic!("crashed on request"),
        }
        Ok(())
    }
}

impl CouponState {
    fn loaded(&mut self, loaded: Result<Recovered, LoadFailure>, myself: &ActorRef<CouponMessage>) {
        // The guard of a finished task still holds the task's memory.
        self.load = None;
        let (campaign, incarnation) = (self.start.campaign.clone(), self.start.incarnation);
        match loaded {
            Ok(recovered) => {
                let keys = &self.environment.keys;
                let folder = Folder::new(recovered, keys.clone());
                let expects_until = folder.expects_until();
                self.pipeline = Some(Pipeline::new(campaign.clone(), incarnation, folder));
                self.show();
                let actor = myself.clone();
                self.send(PartitionMessage::Started {
                    campaign,
                    incarnation,
                    expects_until,
                    actor,
                });
            }
            Err(LoadFailure::Contradiction(contradiction)) => self.contradicted(contradiction),
            Err(LoadFailure::Halt(halt)) => self.send(PartitionMessage::Halt(halt)),
        }
    }

    fn decide(&mut self, batch: Batch, myself: &ActorRef<CouponMessage>) {
        let pipeline = self.pipeline.as_mut().expect("only a started actor is sent batches");
        if let Some(rows) = pipeline.decide(batch) {
            self.store(rows, myself);
        }
        self.show();
        // A batch without rows is reported at once.
        self.report();
    }

    fn stored(&mut self, number: u64, by_user: Vec<Coupon>, myself: &ActorRef<CouponMessage>) {
        self.writes.remove(&number);
        // Rows of later batches may have waited for version rows of this one.
        let waited = self.pipeline.as_mut().map(|pipeline| pipeline.stored(number, by_user));
        waited.into_iter().flatten().for_each(|rows| self.store(rows, myself));
        self.report();
    }

    fn store(&mut self, rows: ToStore, myself: &ActorRef<CouponMessage>) {
        let ToStore { number, versions, changes, coupons, in_both_views, read_back } = rows;
        let (environment, actor) = (self.environment.clone(), myself.clone());
        let partition = self.start.partition;
        let write = TaskGuard::spawn(myself, async move {
            let written = read_back.then(|| (versions.clone(), coupons.clone()));
            let views_are_one = environment.store.views_are_one();
            let in_both = in_both_views && !views_are_one;
            let groups = write_order::of_batch(versions, changes, coupons, in_both);
            io::write(&environment, partition, &groups).await;
            let vanished = match written {
                Some((versions, coupons)) => io::vanished(&environment, versions, coupons).await,
                None => None,
            };
            let are_written = views_are_one || in_both_views;
            let by_user = if are_written { Vec::new() } else { write_order::coupons_of(groups) };
            let _ended = actor.cast(match vanished {
                Some(contradiction) => CouponMessage::Vanished(contradiction),
                None => CouponMessage::Stored { number, by_user },
            });
        });
        self.writes.insert(number, write);
    }

    /// Shows the campaign's state to operators.
    fn show(&self) {
        if let Some(pipeline) = &self.pipeline {
            self.environment.directory.stands(self.start.partition, pipeline.campaign());
        }
    }

    fn report(&mut self) {
        while let Some((report, contradicted)) = self.pipeline.as_mut().and_then(Pipeline::report) {
            self.send(PartitionMessage::Event(report));
            // After the report, because decisions before the contradiction are valid.
            if let Some(contradicted) = contradicted {
                self.send(PartitionMessage::Event(contradicted));
            }
        }
    }

    fn contradicted(&self, contradiction: Contradiction) {
        let (campaign, incarnation) = (self.start.campaign.clone(), self.start.incarnation);
        let event = Event::Contradicted { campaign, incarnation, contradiction };
        self.send(PartitionMessage::Event(event));
    }

    fn send(&self, message: PartitionMessage) {
        // If the consumer has ended, the supervisor is about to stop this actor.
        let _ended = self.start.consumer.cast(message);
    }
}
