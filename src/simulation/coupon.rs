//! Coupon actors of an owner: loading, deciding, reporting, replaying, and every way to panic.

use std::collections::VecDeque;

use super::{
    act::Act,
    faults::Fault,
    owner::RETRY_MS,
    world::{LOG_EPOCH, World},
};
use crate::{
    domain::{
        campaign::At,
        halt::{Halt, HaltReason},
        ids::{LogPartition, Offset, Sequence},
        record::Record,
    },
    partition::{
        flow::{BATCHES_MAX, Event},
        fold::{Batch, Folder},
        pipeline::Pipeline,
        recovery::Recovery,
    },
};

/// Coupons in one page of a load: few, so that a load has several steps.
const PAGE: usize = 24;

/// Records in one chunk of a replay, for the same reason.
const CHUNK: usize = 40;

/// One coupon actor.
#[derive(Debug)]
pub(super) struct Actor {
    pub(super) incarnation: u64,
    pub(super) from: Offset,
    pub(super) mailbox: VecDeque<Batch>,
    pub(super) pipeline: Option<Pipeline>,
    pub(super) recovery: Option<Recovery>,
    pub(super) paged_to: Sequence,
    pub(super) under_way: usize,
    /// Where the replay reads on, and whether the next chunk may be handed over.
    pub(super) replay: Option<(Offset, bool)>,
}

impl Actor {
    /// One that has loaded nothing yet.
    pub(super) fn new(incarnation: u64, from: Offset) -> Self {
        Self {
            incarnation,
            from,
            mailbox: VecDeque::new(),
            pipeline: None,
            recovery: None,
            paged_to: 0,
            under_way: 0,
            replay: None,
        }
    }
}

impl World {
    pub(super) fn send(&mut self, number: usize, campaign: usize, incarnation: u64, batch: Batch) {
        let Some(owner) = self.owner(number) else { return };
        let Some(actor) = &mut owner.actors[campaign] else { return };
        if actor.incarnation != incarnation {
            return;
        }
        actor.mailbox.push_back(batch);
        actor.under_way += 1;
        if actor.under_way > BATCHES_MAX {
            self.broken("INV-9", format!("more than {BATCHES_MAX} batches of c{campaign}"));
        }
        let delay = self.random.below(2);
        self.after(delay, Act::Decide(number, campaign, incarnation));
    }

    /// The actor, if it is still this incarnation.
    pub(super) fn actor(
        &mut self,
        (number, campaign, incarnation): (usize, usize, u64),
    ) -> Option<&mut Actor> {
        let actor = self.owners[number].as_mut()?.actors[campaign].as_mut()?;
        (actor.incarnation == incarnation).then_some(actor)
    }

    /// A coupon actor panics; its supervisor tells the consumer, perhaps before what it said itself
    /// last has arrived.
    pub(super) fn actor_panics(&mut self, number: usize, campaign: usize) {
        let Some(owner) = self.owner(number) else { return };
        let Some(actor) = &owner.actors[campaign] else { return };
        let incarnation = actor.incarnation;
        owner.stop(campaign);
        let campaign = self.shared.campaigns[campaign].clone();
        let reason = "it panicked".to_owned();
        let failed = Event::Failed { campaign, incarnation, reason };
        self.after(0, Act::Tell(number, Box::new(failed)));
    }

    /// One step of a load: rows, then page by page of coupons.
    pub(super) fn load(&mut self, who: (usize, usize, u64)) {
        let (number, campaign, incarnation) = who;
        let Some(actor) = self.actor(who) else { return };
        let (recovery, from, paged_to) = (actor.recovery.take(), actor.from, actor.paged_to);
        if self.is_cursed(number, campaign) || self.hit(Fault::PanicLoading) {
            return self.actor_panics(number, campaign);
        }
        let delay = self.store_ms();
        if self.read_fails() {
            let Some(actor) = self.actor(who) else { return };
            actor.paged_to = 0;
            return self.after(delay + RETRY_MS, Act::Load(number, campaign, incarnation));
        }
        let step = match recovery {
            None => {
                let partition = self.partition_of(campaign);
                let place = LogPartition { log_epoch: LOG_EPOCH, partition };
                let rows = self.store.campaign(campaign);
                let (id, keys) =
                    (self.shared.campaigns[campaign].clone(), self.shared.keys.clone());
                Recovery::new(id, place, from, rows, keys).map(|it| (it, 0, false))
            }
            Some(mut recovery) => {
                let page = self.store.page(campaign, paged_to, PAGE);
                let (last, to) = (page.len() < PAGE, page.last().map_or(0, |it| it.sequence));
                recovery.coupons(page).map(|()| (recovery, to, last))
            }
        };
        let recovered = match step {
            Ok((recovery, to, false)) => {
                let Some(actor) = self.actor(who) else { return };
                (actor.recovery, actor.paged_to) = (Some(recovery), to);
                return self.after(delay, Act::Load(number, campaign, incarnation));
            }
            Ok((recovery, _, true)) => recovery.finish(),
            Err(contradiction) => Err(contradiction),
        };
        let id = self.shared.campaigns[campaign].clone();
        match recovered {
            Ok(recovered) => {
                self.loaded(who, Folder::new(recovered, self.shared.keys.clone(), LOG_EPOCH))
            }
            Err(contradiction) => {
                self.tell(number, Event::Contradicted { campaign: id, incarnation, contradiction });
            }
        }
    }

    fn loaded(&mut self, who: (usize, usize, u64), folder: Folder) {
        let (number, campaign, incarnation) = who;
        let expects_until = folder.expects_until();
        let end = self.log.shelves[self.partition_of(campaign) as usize].high;
        if expects_until.is_some_and(|offset| offset >= end) {
            let detail = format!("a row of c{campaign} stands above the end {end}");
            return self.halt(number, Halt::new(HaltReason::RowAboveEnd, detail));
        }
        let id = self.shared.campaigns[campaign].clone();
        let Some(actor) = self.actor(who) else { return };
        actor.pipeline = Some(Pipeline::new(id.clone(), incarnation, folder));
        self.tell(number, Event::Started { campaign: id, incarnation, expects_until });
    }

    /// The actor takes a batch out of its mailbox.
    pub(super) fn decide(&mut self, who: (usize, usize, u64)) {
        let (number, campaign, _) = who;
        let Some(actor) = self.actor(who) else { return };
        let Some(batch) = actor.mailbox.pop_front() else { return };
        if self.is_cursed(number, campaign) || self.is_poisoned(campaign, &batch.records) {
            return self.actor_panics(number, campaign);
        }
        if self.hit(Fault::PanicDeciding) {
            return self.actor_panics(number, campaign);
        }
        let Some(actor) = self.actor(who) else { return };
        let Some(pipeline) = &mut actor.pipeline else {
            return self
                .broken("INV-9", format!("c{campaign} was sent a batch before it is ready"));
        };
        if let Some(to_store) = pipeline.decide(batch) {
            self.write_rows(who, to_store);
            if self.hit(Fault::PanicStoring) {
                return self.actor_panics(number, campaign);
            }
        }
        self.report(who);
    }

    /// Reports whatever may be reported.
    pub(super) fn report(&mut self, who: (usize, usize, u64)) {
        let (number, campaign, _) = who;
        while let Some(actor) = self.actor(who)
            && let Some((report, contradicted)) = actor.pipeline.as_mut().and_then(Pipeline::report)
        {
            actor.under_way = actor.under_way.saturating_sub(1);
            if self.hit(Fault::PanicReporting) {
                return self.actor_panics(number, campaign);
            }
            self.tell(number, report);
            if let Some(contradicted) = contradicted {
                self.tell(number, contradicted);
            }
        }
    }

    /// The last report of an actor that was stopped while its rows were being stored.
    pub(super) fn report_late(&mut self, who: (usize, usize, u64), stored: u64) {
        let (number, campaign, incarnation) = who;
        let Some(owner) = self.owner(number) else { return };
        let is_it =
            |(of, actor): &(usize, Actor)| *of == campaign && actor.incarnation == incarnation;
        let Some(at) = owner.stopped.iter().position(is_it) else { return };
        let (_, actor) = owner.stopped.swap_remove(at);
        let Some(mut pipeline) = actor.pipeline else { return };
        // Nobody stores what waited for it: the actor is gone.
        let _waited = pipeline.stored(stored);
        if let Some((report, _)) = pipeline.report() {
            self.note(|| format!("c{campaign}, incarnation {incarnation} was stopped and reports"));
            self.tell(number, report);
        }
    }

    fn is_poisoned(&mut self, campaign: usize, records: &[(At, Record)]) -> bool {
        let partition = self.partition_of(campaign);
        let Some((of, offset, times)) = &mut self.trouble.poison else { return false };
        let met = *of == partition && records.iter().any(|(at, _)| at.offset == *offset);
        if !met || *times == 0 {
            return false;
        }
        *times -= 1;
        true
    }

    fn is_cursed(&self, number: usize, campaign: usize) -> bool {
        self.trouble.cursed == Some((number, campaign))
    }

    /// One chunk of a replay.
    pub(super) fn replay(&mut self, who: (usize, usize, u64)) {
        let (number, campaign, incarnation) = who;
        let Some(actor) = self.actor(who) else { return };
        let Some((from, true)) = actor.replay else { return };
        if self.hit(Fault::PanicReplaying) {
            return self.actor_panics(number, campaign);
        }
        if self.now < self.trouble.log_away_until || self.hit(Fault::LogReadFailed) {
            return self.after(RETRY_MS, Act::Replay(number, campaign, incarnation));
        }
        let partition = self.partition_of(campaign);
        let Some(records) = self.log.read(partition, from, CHUNK) else {
            let detail = format!("a hold needs the record at {from}");
            return self.halt(number, Halt::new(HaltReason::ReplayOutOfRange, detail));
        };
        let Some(last) = records.last() else {
            return self.after(5, Act::Replay(number, campaign, incarnation));
        };
        let read_to = last.offset + 1;
        let id = self.shared.campaigns[campaign].clone();
        let records = self.decode_step(partition).decode_campaign(records, &id);
        let Some(actor) = self.actor(who) else { return };
        actor.replay = Some((read_to, false));
        self.tell(number, Event::Replayed { campaign: id, incarnation, records, read_to });
    }
}
