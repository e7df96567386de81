//! The log, the rows and the published answers of a world. Checks every change of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use coupond::{
    domain::{
        answer::Answer,
        coupon::Coupon,
        definition::DefinitionVersion,
        ids::{CampaignId, Offset, Partition, UserId},
        keys::Keys,
        rows::{Hold, Mark, Progress},
    },
    partition::flow::{BATCH_RECORDS_MAX, WINDOW_RECORDS_MAX},
    wire::{LogRecord, feed_message::FeedMessage},
};
use parking_lot::{Mutex, MutexGuard};

use super::model::{Model, Verdict};

/// The expected outcome of one record.
#[derive(Debug, Clone)]
pub(crate) struct Expected {
    pub(crate) campaign: Option<CampaignId>,
    pub(crate) user: Option<UserId>,
    pub(crate) verdict: Verdict,
}

/// One partition of the log with its dead letters and published answers.
#[derive(Default)]
pub(crate) struct Part {
    pub(crate) records: Vec<LogRecord>,
    pub(crate) expected: BTreeMap<Offset, Expected>,
    pub(crate) dead_letters: BTreeSet<Offset>,
    pub(crate) published: BTreeMap<Offset, Answer>,
    settled_to: Offset,
    /// Reported as the end of the log instead of the real one, if set.
    pub(crate) cut_at: Option<Offset>,
}

impl Part {
    pub(crate) fn end(&self) -> Offset {
        self.records.last().map_or(0, |last| last.offset + 1)
    }
}

/// The state of a world, with the violations found so far.
pub(crate) struct Facts {
    pub(crate) model: Model,
    pub(crate) parts: Vec<Part>,
    pub(crate) coupons: BTreeMap<(CampaignId, u32), Coupon>,
    pub(crate) versions: BTreeMap<(CampaignId, Offset), DefinitionVersion>,
    pub(crate) marks: BTreeMap<CampaignId, Mark>,
    pub(crate) holds: BTreeMap<(CampaignId, Offset, u32), Hold>,
    pub(crate) progress: BTreeMap<Partition, Progress>,
    keys: Arc<Keys>,
    violations: Vec<String>,
}

/// The locked [`Facts`].
pub(crate) struct Truth(Mutex<Facts>);

impl Truth {
    pub(crate) fn new(partitions: u32, keys: Arc<Keys>) -> Self {
        Self(Mutex::new(Facts {
            model: Model::default(),
            parts: (0..partitions).map(|_| Part::default()).collect(),
            coupons: BTreeMap::new(),
            versions: BTreeMap::new(),
            marks: BTreeMap::new(),
            holds: BTreeMap::new(),
            progress: BTreeMap::new(),
            keys,
            violations: Vec::new(),
        }))
    }

    pub(crate) fn facts(&self) -> MutexGuard<'_, Facts> {
        self.0.lock()
    }
}

impl Facts {
    /// Records a violation.
    pub(crate) fn violation(&mut self, what: String) {
        self.violations.push(what);
    }

    pub(crate) fn violations(&self) -> &[String] {
        &self.violations
    }

    pub(crate) fn holds_in_force(&self) -> BTreeSet<CampaignId> {
        let in_force = self.holds.values().filter(|hold| hold.is_in_force());
        in_force.map(|hold| hold.campaign.clone()).collect()
    }

    pub(crate) fn next(&self, partition: usize) -> Offset {
        self.progress.get(&(partition as Partition)).map_or(0, |progress| progress.next)
    }

    fn is_covered(&self, campaign: &CampaignId, offset: Offset) -> bool {
        let first = (campaign.clone(), 0, 0);
        let holds = self.holds.range(first..).take_while(|(key, _)| key.0 == *campaign);
        holds.into_iter().any(|(_, hold)| hold.unsettled_from() <= offset)
    }

    /// Checks, when a reader has returned records up to `position`, that the window is bounded.
    pub(crate) fn read_up_to(&mut self, partition: Partition, position: Offset) {
        let next = self.next(partition as usize);
        let records = &self.parts[partition as usize].records;
        let index = |offset| records.partition_point(|record| record.offset < offset);
        let kept = index(position).saturating_sub(index(next));
        if kept > WINDOW_RECORDS_MAX + BATCH_RECORDS_MAX {
            self.violation(format!("INV-9: {kept} records of partition {partition} in memory"));
        }
    }

    /// Checks and applies a written coupon.
    pub(crate) fn coupon(&mut self, coupon: &Coupon) {
        let offset = coupon.position.offset;
        let part = &self.parts[coupon.position.partition as usize];
        let right = part.expected.get(&offset).is_some_and(|expected| {
            expected.verdict == Verdict::Issued(coupon.sequence)
                && expected.user.as_ref() == Some(&coupon.user)
                && expected.campaign.as_ref() == Some(&coupon.campaign)
        });
        if !right || self.keys.coupon_digest(coupon) != coupon.digest {
            self.violation(format!("INV-5: the log does not give {coupon:?}"));
        }
        let key = (coupon.campaign.clone(), coupon.sequence);
        if let Some(other) = self.coupons.insert(key, coupon.clone())
            && other != *coupon
        {
            self.violation(format!("INV-3: {other:?} became {coupon:?}"));
        }
    }

    pub(crate) fn version(&mut self, version: &DefinitionVersion) {
        let position = version.position;
        let expected = self.parts[position.partition as usize].expected.get(&position.offset);
        if expected.is_none_or(|expected| expected.verdict != Verdict::Accepted) {
            self.violation(format!("INV-5: the log does not give {version:?}"));
        }
        let first = (version.campaign.clone(), 0);
        let rows = self.coupons.range(first..).take_while(|(key, _)| key.0 == version.campaign);
        let above = rows.map(|(_, row)| row.position.offset).find(|at| *at > position.offset);
        let key = (version.campaign.clone(), position.offset);
        match (self.versions.insert(key, version.clone()), above) {
            (Some(other), _) if other != *version => {
                self.violation(format!("INV-3: {other:?} became {version:?}"));
            }
            (None, Some(above)) => {
                self.violation(format!("INV-6: a coupon at {above} was stored before {version:?}"));
            }
            _ => {}
        }
    }

    pub(crate) fn hold(&mut self, hold: &Hold) {
        let key = (hold.campaign.clone(), hold.from, hold.number);
        if self.holds.get(&key).is_some_and(|known| known.rank() >= hold.rank()) {
            return;
        }
        self.holds.insert(key, hold.clone());
        if hold.is_in_force() {
            return;
        }
        let part = &self.parts[hold.partition as usize];
        let below = part.expected.range(..hold.until);
        let issued = below.filter(|(_, expected)| {
            expected.campaign.as_ref() == Some(&hold.campaign)
                && matches!(expected.verdict, Verdict::Issued(_))
        });
        let (issued, marked) =
            (issued.count(), self.marks.get(&hold.campaign).map_or(0, |mark| mark.issued as usize));
        if marked < issued {
            self.violations
                .push(format!("INV-6: {hold:?} is closed, {issued} issued, mark {marked}"));
        }
        let its = part.expected.range(hold.from..hold.until.max(hold.from));
        let its = its.filter(|(_, expected)| expected.campaign.as_ref() == Some(&hold.campaign));
        let missing: Vec<_> = its
            .filter(|(offset, expected)| {
                !self.is_there(hold.partition as usize, **offset, expected)
                    && !self.is_covered(&hold.campaign, **offset)
            })
            .map(|(offset, _)| format!("INV-3: {hold:?} is closed, nothing is at {offset}"))
            .collect();
        missing.into_iter().for_each(|what| self.violation(what));
    }

    /// Returns whether the row or dead letter of a record is durable.
    fn is_there(&self, partition: usize, offset: Offset, expected: &Expected) -> bool {
        let Some(campaign) = &expected.campaign else { return true };
        match expected.verdict {
            Verdict::Issued(sequence) => self.coupons.contains_key(&(campaign.clone(), sequence)),
            Verdict::DeadLetter => self.parts[partition].dead_letters.contains(&offset),
            _ => true,
        }
    }

    pub(crate) fn mark(&mut self, mark: &Mark) {
        let known = self.marks.get(&mark.campaign);
        if known.is_some_and(|known| known.offset >= mark.offset) {
            return;
        }
        let first = (mark.campaign.clone(), 0);
        let rows = self.coupons.range(first..).take_while(|(key, _)| key.0 == mark.campaign);
        let below = rows.filter(|(_, coupon)| coupon.position.offset < mark.offset).count();
        if below != mark.issued as usize {
            self.violation(format!("INV-6: {mark:?}, but the rows below are {below}"));
        }
        self.marks.insert(mark.campaign.clone(), mark.clone());
    }

    pub(crate) fn progress(&mut self, progress: &Progress) {
        let partition = progress.partition;
        let before = self.next(partition as usize);
        if before >= progress.next {
            return;
        }
        self.settled(partition as usize, progress.next, "progress");
        let part = &self.parts[partition as usize];
        let mut short = Vec::new();
        for (offset, expected) in part.expected.range(before..progress.next) {
            let Expected { campaign: Some(campaign), verdict: Verdict::Issued(sequence), .. } =
                expected
            else {
                continue;
            };
            let marked = self.marks.get(campaign).map_or(0, |mark| mark.issued);
            if marked < *sequence && !self.is_covered(campaign, *offset) {
                short.push(format!("INV-6: {progress:?} passes coupon {sequence} of {campaign}"));
            }
        }
        short.into_iter().for_each(|what| self.violation(what));
        self.progress.insert(partition, progress.clone());
    }

    /// Checks a claim of `who` that everything below `to` is decided and stored, except under
    /// holds.
    fn settled(&mut self, partition: usize, to: Offset, who: &str) {
        let part = &self.parts[partition];
        let mut missing = Vec::new();
        if to > part.end() {
            missing.push(format!("INV-6: {who} of {partition} is above the log's end: {to}"));
        }
        if part.settled_to >= to {
            return;
        }
        for (offset, expected) in part.expected.range(part.settled_to..to) {
            let Some(campaign) = &expected.campaign else { continue };
            let there = self.is_there(partition, *offset, expected);
            if !there && !self.is_covered(campaign, *offset) {
                missing.push(format!("INV-7: {who} of {partition} passes {offset}: {expected:?}"));
            }
        }
        self.parts[partition].settled_to = to;
        missing.into_iter().for_each(|what| self.violation(what));
    }

    /// Checks and applies a message of the feed.
    pub(crate) fn published(&mut self, message: &FeedMessage) {
        let partition = message.partition as usize;
        self.settled(partition, message.to, "the watermark");
        for settled in &message.decisions {
            let offset = settled.offset;
            let expected = self.parts[partition].expected.get(&offset).cloned();
            let right = expected.as_ref().is_some_and(|expected| {
                expected.user == settled.user_id && self.fits(expected, &settled.answer)
            });
            if !right {
                self.violation(format!("INV-3: published {settled:?}, expected {expected:?}"));
            }
            let published = self.parts[partition].published.insert(offset, settled.answer.clone());
            if published.is_some_and(|published| published != settled.answer) {
                self.violation(format!("INV-3: the answer at {offset} of {partition} has changed"));
            }
        }
    }

    /// Returns whether an answer is the expected one, with the code of a durable coupon.
    fn fits(&self, Expected { campaign, verdict, .. }: &Expected, answer: &Answer) -> bool {
        let Some(campaign) = campaign else { return false };
        let durable = |sequence: u32, code: &str| {
            let row = self.coupons.get(&(campaign.clone(), sequence));
            row.is_some_and(|row| *row.code == *code)
        };
        match (verdict, answer) {
            (Verdict::Issued(at) | Verdict::Again(at), Answer::Issued { coupon })
            | (Verdict::AlreadyIssued(at), Answer::AlreadyIssued { coupon }) => {
                coupon.sequence == *at && durable(*at, &coupon.code)
            }
            (Verdict::Rejected(reason), Answer::Rejected { reason: said }) => reason == said,
            (Verdict::Accepted, Answer::Accepted) | (Verdict::Refused, Answer::Refused { .. }) => {
                true
            }
            _ => false,
        }
    }

    /// Returns whether everything in the log is settled and no campaign is on hold.
    pub(crate) fn is_settled(&self) -> bool {
        let ended = |(partition, part): (usize, &Part)| self.next(partition) == part.end();
        self.parts.iter().enumerate().all(ended) && self.holds_in_force().is_empty()
    }

    /// Compares rows and dead letters with the model, once everything is settled.
    pub(crate) fn check_end(&mut self) {
        let mut issued = BTreeMap::<CampaignId, u32>::new();
        let mut wrong = Vec::new();
        let mut coupons = 0;
        for (partition, part) in self.parts.iter().enumerate() {
            let dead_letters = part.expected.iter();
            let dead_letters =
                dead_letters.filter(|(_, expected)| expected.verdict == Verdict::DeadLetter);
            let dead_letters: BTreeSet<_> = dead_letters.map(|(offset, _)| *offset).collect();
            if dead_letters != part.dead_letters {
                wrong.push(format!(
                    "dead letters of {partition}: {:?}, not {dead_letters:?}",
                    part.dead_letters
                ));
            }
            for (offset, expected) in &part.expected {
                let (Some(campaign), Verdict::Issued(sequence)) =
                    (&expected.campaign, &expected.verdict)
                else {
                    continue;
                };
                coupons += 1;
                issued.insert(campaign.clone(), *sequence);
                let row = self.coupons.get(&(campaign.clone(), *sequence));
                if row.is_none_or(|row| row.position.offset != *offset) {
                    wrong.push(format!("INV-7: no row for {offset} of {partition}: {expected:?}"));
                }
            }
        }
        if self.coupons.len() != coupons {
            wrong.push(format!("INV-1: {} rows, {coupons} issued", self.coupons.len()));
        }
        let codes: BTreeSet<_> = self.coupons.values().map(|coupon| &coupon.code).collect();
        if codes.len() != self.coupons.len() {
            wrong.push("INV-8: two coupons have one code".to_owned());
        }
        for (campaign, issued) in issued {
            let marked = self.marks.get(&campaign).map_or(0, |mark| mark.issued);
            if marked != issued {
                wrong.push(format!("INV-6: {campaign} has {issued} coupons, its mark {marked}"));
            }
        }
        wrong.into_iter().for_each(|what| self.violation(what));
    }

    /// Counts the decisions that were not published.
    pub(crate) fn unpublished(&self) -> usize {
        let decided = |expected: &&Expected| expected.verdict != Verdict::DeadLetter;
        let part =
            |part: &Part| part.expected.values().filter(decided).count() - part.published.len();
        self.parts.iter().map(part).sum()
    }
}
