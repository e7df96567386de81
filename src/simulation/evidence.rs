//! What the world saw, and what the judge makes of it at the end.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    api_node::SHARED_MS,
    model::{Campaign, Meant, Said, Verdicts},
    store::number_of,
    world::{EPOCH_MS, World},
};
use crate::domain::{
    answer::Answer,
    decision::Refusal as Refused,
    ids::{Offset, Partition},
};

/// Clocks may be apart by this much, either way, where a refusal at the edge is judged.
const MARGIN_MS: i64 = 1_000;

/// Oldest state that an edge may refuse by.
const EDGE_AGE_MS: u64 = 1_000;

/// An invariant that does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Violation {
    /// Its id.
    pub invariant: &'static str,
    /// What was seen.
    pub detail: String,
}

impl Violation {
    pub(super) fn new(invariant: &'static str, detail: impl Into<String>) -> Self {
        Self { invariant, detail: detail.into() }
    }
}

/// A `409`.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) campaign: usize,
    pub(super) at: u64,
    pub(super) wall: i64,
    /// The end of the log then.
    pub(super) end: Offset,
    pub(super) reason: &'static str,
    pub(super) has_key: bool,
}

/// `GET /campaigns/{id}`.
#[derive(Debug)]
pub(super) struct View {
    pub(super) campaign: usize,
    pub(super) issued: u32,
    pub(super) remaining: u32,
    pub(super) quota: u32,
    pub(super) as_of: Offset,
    pub(super) end: Offset,
}

/// An answer that a client saw.
#[derive(Debug)]
struct Heard {
    partition: Partition,
    offset: Offset,
    campaign: usize,
    said: Said,
    code: Option<Box<str>>,
}

/// A coupon in a list: its sequence, when it was issued, its code.
pub(super) type Listed = (u32, i64, Box<str>);

/// Everything that was seen.
#[derive(Debug, Default)]
pub(super) struct Evidence {
    pub(super) violation: Option<Violation>,
    heard: Vec<Heard>,
    pub(super) refusals: Vec<Refusal>,
    pub(super) views: Vec<View>,
    pub(super) listed: Vec<(usize, u16, Listed)>,
    pub(super) letters: BTreeSet<(Partition, Offset)>,
    /// When an administrator was told that the change at this offset is in effect.
    pub(super) in_effect: Vec<(usize, Offset, u64)>,
    /// Decisions by what was said: issued, already issued, rejected.
    pub(super) tally: [u32; 3],
    /// Record times were further from true time than clocks may be.
    pub(super) clocks_lie: bool,
    pub(super) was_set_back: bool,
}

impl Evidence {
    /// Whether somebody was told that the campaign is defined.
    pub(super) fn is_defined(&self, campaign: usize) -> bool {
        self.in_effect.iter().any(|(it, ..)| *it == campaign)
    }

    /// Whether somebody had been told so before `at`.
    pub(super) fn was_defined(&self, campaign: usize, at: u64) -> bool {
        self.in_effect.iter().any(|(it, _, told_at)| *it == campaign && *told_at < at)
    }
}

/// The answer as the outside spells it, and the code that it shows.
pub(super) fn said(answer: &Answer) -> (Said, Option<Box<str>>) {
    match answer {
        Answer::Issued { coupon } => {
            let (sequence, at) = (coupon.sequence, coupon.issued_at.0);
            (Said::Issued { sequence, at }, Some(coupon.code.clone()))
        }
        Answer::AlreadyIssued { coupon } => {
            let (sequence, at) = (coupon.sequence, coupon.issued_at.0);
            (Said::AlreadyIssued { sequence, at }, Some(coupon.code.clone()))
        }
        Answer::Rejected { reason } => (Said::Rejected(reason.name()), None),
        Answer::Accepted => (Said::Accepted, None),
        Answer::Refused { refusal } => {
            let why = match refusal {
                Refused::StaleVersion => "stale",
                Refused::QuotaBelowIssued { .. } => "quota",
                Refused::Closed => "closed",
                Refused::Invalid => "invalid",
            };
            (Said::Refused(why), None)
        }
    }
}

impl World {
    /// A client is told the answer to its request.
    pub(super) fn heard(&mut self, kept: usize, answer: &Answer) {
        let request = &self.kept[kept];
        let (partition, offset, campaign) = (request.partition, request.offset, request.campaign);
        if request.is_void || self.is_unsettled_by_damage(campaign) {
            return;
        }
        let (said, code) = said(answer);
        if let Said::Issued { sequence, .. } = said {
            let table = &self.store.tables[campaign];
            let user = self.kept[kept].user;
            let stored = table.coupons.contains_key(&sequence)
                || table.by_user.contains_key(&(user, sequence));
            if !stored && self.trouble.damaged.is_none() && !self.evidence.was_set_back {
                let detail =
                    format!("coupon {sequence} of c{campaign} was said before it is stored");
                return self.broken("INV-3", detail);
            }
        }
        self.note(|| format!("client hears of {partition}/{offset}: {said:?}"));
        self.evidence.heard.push(Heard { partition, offset, campaign, said, code });
    }

    /// What is said of a damaged campaign counts from the hold on that says so, once no node goes
    /// by what it had read before.
    fn is_unsettled_by_damage(&self, campaign: usize) -> bool {
        self.trouble.damaged.is_some_and(|(damaged, since)| {
            damaged == campaign && since.is_none_or(|since| self.now <= since + 2 * SHARED_MS)
        })
    }

    /// The last word: everything that was seen and stored, against the model.
    pub(super) fn judge(&mut self) -> Result<(), Violation> {
        let shelves = &self.log.shelves;
        let records: Vec<&[_]> = shelves.iter().map(|shelf| &shelf.meant[..]).collect();
        let verdicts = Verdicts::of(self.store.tables.len(), &records);
        self.judge_promises(&records)?;
        self.judge_answers(&verdicts)?;
        for (campaign, model) in verdicts.campaigns.iter().enumerate() {
            self.judge_rows(campaign, model)?;
        }
        self.judge_codes()?;
        self.judge_refusals(&verdicts)?;
        self.judge_views(&verdicts)?;
        self.judge_letters(&verdicts)?;
        self.count(&verdicts);
        Ok(())
    }

    /// INV-7: what was answered 2xx is in the log, as it was asked.
    fn judge_promises(&self, records: &[&[(u64, i64, Meant)]]) -> Result<(), Violation> {
        for kept in self.kept.iter().filter(|kept| kept.is_promised && !kept.is_void) {
            let (campaign, user, key) = (kept.campaign, kept.user, kept.key);
            let of = &records[kept.partition as usize];
            let at = of.binary_search_by_key(&kept.offset, |(offset, ..)| *offset).ok();
            let meant = at.map(|at| &of[at].2);
            if meant != Some(&Meant::Request { campaign, user, key }) {
                let place = format!("{}/{}", kept.partition, kept.offset);
                return Err(Violation::new("INV-7", format!("{place} holds {meant:?}")));
            }
        }
        Ok(())
    }

    /// INV-3, INV-5: every answer is the one that the model gives for its position.
    fn judge_answers(&self, verdicts: &Verdicts) -> Result<(), Violation> {
        let mut first: BTreeMap<(u32, u64), &Said> = BTreeMap::new();
        for heard in &self.evidence.heard {
            let place = (heard.partition, heard.offset);
            let before = first.entry(place).or_insert(&heard.said);
            let at = format!("{}/{} of c{}", heard.partition, heard.offset, heard.campaign);
            if **before != heard.said {
                let detail = format!("{at} was told {before:?}, then {:?}", heard.said);
                return Err(Violation::new("INV-3", detail));
            }
            let expected = verdicts.said.get(&place);
            if expected != Some(&heard.said) {
                let detail = format!("{at} was told {:?}, must be {expected:?}", heard.said);
                return Err(Violation::new("INV-5", detail));
            }
        }
        for (campaign, user, (sequence, at, _)) in &self.evidence.listed {
            let coupons = &verdicts.campaigns[*campaign].coupons;
            let coupon = coupons.get(*sequence as usize - 1);
            if coupon.is_none_or(|coupon| (coupon.user, coupon.at) != (*user, *at)) {
                let detail = format!("c{campaign} lists coupon {sequence} of u{user}");
                return Err(Violation::new("INV-5", detail));
            }
        }
        Ok(())
    }

    /// INV-1, INV-2, INV-5: the rows are what the model gives, no more and no less.
    fn judge_rows(&self, campaign: usize, model: &Campaign) -> Result<(), Violation> {
        let partition = self.partition_of(campaign);
        if self.is_damaged(campaign) || self.must_halt(partition) {
            return Ok(());
        }
        let table = &self.store.tables[campaign];
        let broken = |invariant, detail: String| Err(Violation::new(invariant, detail));
        let mut held: BTreeMap<u16, u32> = BTreeMap::new();
        for (sequence, row) in &table.coupons {
            let offset = row.position.offset;
            let Some(terms) = model.terms_at(offset) else {
                return broken("INV-5", format!("c{campaign} issued before it was defined"));
            };
            if *sequence > terms.quota {
                let detail = format!("coupon {sequence} of c{campaign} of {} seats", terms.quota);
                return broken("INV-1", detail);
            }
            let user = number_of(row.user.as_str());
            let count = held.entry(user).or_default();
            *count += 1;
            if *count > u32::from(terms.limit) {
                return broken("INV-2", format!("u{user} holds {count} coupons of c{campaign}"));
            }
        }
        for (view, rows) in [
            ("by sequence", table.coupons.values().collect::<Vec<_>>()),
            ("by user", table.by_user.values().collect()),
        ] {
            let mut rows = rows;
            rows.sort_by_key(|row| row.sequence);
            let (found, expected) = (rows.len(), model.coupons.len());
            if found != expected {
                let detail = format!("c{campaign} has {found} coupons {view}, must be {expected}");
                return broken("INV-5", detail);
            }
            for (index, (row, coupon)) in rows.iter().zip(&model.coupons).enumerate() {
                let is = (row.sequence as usize, row.position.offset, row.issued_at.0);
                let same_user = number_of(row.user.as_str()) == coupon.user;
                let same_key = row.key_digest.is_some() == coupon.key.is_some();
                if is != (index + 1, coupon.offset, coupon.at) || !same_user || !same_key {
                    return broken("INV-5", format!("c{campaign} {view}: {row:?}, not {coupon:?}"));
                }
            }
        }
        let versions: Vec<u64> = table.versions.keys().copied().collect();
        let expected: Vec<u64> = model.history.iter().map(|(offset, _)| *offset).collect();
        if versions != expected {
            let detail = format!("c{campaign} has versions {versions:?}, must be {expected:?}");
            return broken("INV-5", detail);
        }
        // What was asked last may be stored and not yet passed by progress.
        let (offset, issued) =
            table.mark.as_ref().map_or((0, 0), |mark| (mark.offset, mark.issued as usize));
        let passed = self.store.progress[partition as usize].as_ref().map_or(0, |it| it.next);
        let below = |end| model.coupons.iter().filter(|coupon| coupon.offset < end).count();
        if issued != below(offset) || issued < below(passed) {
            let detail = format!(
                "the mark of c{campaign} below {offset} says {issued}, progress is {passed}"
            );
            return broken("INV-6", detail);
        }
        Ok(())
    }

    /// INV-8, and INV-3 for codes: one coupon, one code, wherever it was shown.
    fn judge_codes(&self) -> Result<(), Violation> {
        let mut owners: BTreeMap<&str, (usize, u32)> = BTreeMap::new();
        let rows = self.store.tables.iter().enumerate().flat_map(|(campaign, table)| {
            table.coupons.values().map(move |it| (campaign, it.sequence, &*it.code))
        });
        let damaged = self.trouble.damaged.map(|(campaign, _)| campaign);
        for (campaign, sequence, code) in rows.filter(|row| Some(row.0) != damaged) {
            if let Some(before) = owners.insert(code, (campaign, sequence)) {
                let detail = format!("{before:?} and {:?} share a code", (campaign, sequence));
                return Err(Violation::new("INV-8", detail));
            }
        }
        let heard = self.evidence.heard.iter().filter_map(|heard| {
            let (Said::Issued { sequence, .. } | Said::AlreadyIssued { sequence, .. }) = heard.said
            else {
                return None;
            };
            Some((heard.campaign, sequence, heard.code.as_deref().unwrap_or_default()))
        });
        let listed = self
            .evidence
            .listed
            .iter()
            .map(|(campaign, _, (it, _, code))| (*campaign, *it, &**code));
        for (campaign, sequence, code) in heard.chain(listed) {
            let halted = self.must_halt(self.partition_of(campaign));
            let shown = owners.get(code);
            if shown != Some(&(campaign, sequence)) && Some(campaign) != damaged && !halted {
                let detail = format!("coupon {sequence} of c{campaign} was shown as {code:?}");
                return Err(Violation::new("INV-3", detail));
            }
        }
        Ok(())
    }

    /// INV-5 at the edge: a refusal is true of a state at most a second old.
    fn judge_refusals(&self, verdicts: &Verdicts) -> Result<(), Violation> {
        for refusal in &self.evidence.refusals {
            let model = &verdicts.campaigns[refusal.campaign];
            let broken = |why: &str| Err(Violation::new("INV-5", format!("{why}: {refusal:?}")));
            if refusal.has_key {
                return broken("a request with a key was refused at the edge");
            }
            let known = self.evidence.in_effect.iter().filter(|(campaign, _, at)| {
                *campaign == refusal.campaign && at + EDGE_AGE_MS < refusal.at
            });
            let from = known.map(|(_, offset, _)| offset + 1).max().unwrap_or(0);
            // Where clocks are further apart than they may be, refusals may be early or late.
            let by_time = matches!(refusal.reason, "closed" | "not_open_yet");
            let excused = by_time && self.evidence.clocks_lie
                || self.evidence.was_set_back
                || self.is_lost(refusal.campaign);
            if !excused && !may_refuse(model, from, refusal) {
                return broken("a refusal that is not true");
            }
        }
        Ok(())
    }

    fn is_lost(&self, campaign: usize) -> bool {
        self.must_halt(self.partition_of(campaign))
            || self.trouble.damaged.is_some_and(|(damaged, _)| damaged == campaign)
    }

    /// Whether the campaign's rows are damaged still: a release may have let them be derived again.
    pub(super) fn is_damaged(&self, campaign: usize) -> bool {
        self.trouble.damaged.is_some_and(|(damaged, since)| {
            damaged == campaign && (since.is_none() || self.store.is_held(campaign))
        })
    }

    /// INV-6: a view adds up, and everything below its position is in it.
    fn judge_views(&self, verdicts: &Verdicts) -> Result<(), Violation> {
        for view in &self.evidence.views {
            let model = &verdicts.campaigns[view.campaign];
            if self.is_lost(view.campaign) {
                continue;
            }
            let adds_up = view.quota.checked_sub(view.issued) == Some(view.remaining);
            let (least, most) = (model.issued_below(view.as_of), model.issued_below(view.end));
            let in_range = (least..=most).contains(&view.issued);
            let known = model.history.iter().any(|(_, terms)| terms.quota == view.quota);
            if !adds_up || !in_range || !known {
                let detail = format!("{view:?}, issued {least} to {most}");
                return Err(Violation::new("INV-6", detail));
            }
        }
        Ok(())
    }

    /// INV-4: what nobody decides is kept as a dead letter, and nothing else is.
    fn judge_letters(&self, verdicts: &Verdicts) -> Result<(), Violation> {
        for ((partition, offset), said) in &verdicts.said {
            if self.must_halt(*partition) {
                continue;
            }
            let is_letter = self.evidence.letters.contains(&(*partition, *offset));
            if is_letter != (*said == Said::Nothing) && !self.has_damage_in(*partition) {
                let detail = format!("{partition}/{offset} came to {said:?}, letter: {is_letter}");
                return Err(Violation::new("INV-4", detail));
            }
        }
        Ok(())
    }

    fn count(&mut self, verdicts: &Verdicts) {
        for said in verdicts.said.values() {
            match said {
                Said::Issued { .. } => self.evidence.tally[0] += 1,
                Said::AlreadyIssued { .. } => self.evidence.tally[1] += 1,
                Said::Rejected(_) => self.evidence.tally[2] += 1,
                Said::Accepted | Said::Refused(_) | Said::Nothing => {}
            }
        }
    }
}

/// Whether the refusal is true at some position between `from` and the end of the log then.
fn may_refuse(model: &Campaign, from: u64, refusal: &Refusal) -> bool {
    let changes = model.history.iter().map(|(offset, _)| offset + 1);
    let coupons = model.coupons.iter().map(|coupon| coupon.offset + 1);
    let now = EPOCH_MS + refusal.at as i64;
    let at = |prefix: u64| {
        let Some(terms) = model.terms_at(prefix) else { return false };
        if refusal.reason == "sold_out" {
            return model.issued_below(prefix) >= terms.quota;
        }
        // The log's clock would refuse it too, and for this reason at a time that clocks may show.
        let times = [refusal.wall - MARGIN_MS, refusal.wall, refusal.wall + MARGIN_MS];
        let of_clock = times.iter().any(|time| terms.refusal(*time) == Some(refusal.reason));
        terms.refusal(now).is_some() && of_clock
    };
    at(from)
        || changes
            .chain(coupons)
            .chain([refusal.end])
            .any(|prefix| (from..=refusal.end).contains(&prefix) && at(prefix))
}
