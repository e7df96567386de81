//! Judges a world that has healed and settled. The audit reads its log, its rows and what clients
//! were told, and derives everything again with its own model. When rows and log agree, the rest is
//! judged by the rows: refusals, views and lists here, the order in which things became durable in
//! `order`.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Cursor,
    sync::Arc,
};

use super::{
    evidence::{Damaged, Denial, Evidence, Listed, Refusal, Taken, Told, View, Violation, Wait},
    landed::Landed,
    node::Engines,
    order, releases,
    skips::OPERATOR,
};
use crate::{
    audit::{AuditError, AuditReport, Audited, Finding, Meter, audit},
    domain::{
        answer::{Answer, CouponFace},
        coupon::Coupon,
        definition::{Definition, DefinitionVersion},
        halt::HoldReason,
        ids::{CampaignId, Offset, Timestamp},
        rows::{Hold, HoldKind, Row, SkipState},
    },
    log::memory::MemoryLog,
    store::memory::MemoryRows,
};

/// Oldest state by which a request is refused, in microseconds.
const REFUSAL_AGE_US: u64 = 1_000_000;

/// Oldest state that a view shows, with the time of its reads, in microseconds.
const VIEW_AGE_US: u64 = 4_500_000;

/// Longest time until a waiter of an undisturbed node is told of what is settled, in microseconds:
/// it asks the store once the owner has been silent for 3 s.
const TOLD_WITHIN_US: u64 = 7_000_000;

/// Time after which each undisturbed node knows of a hold, in microseconds: it looks at a campaign
/// once a second, or before it goes by what it read 2 s ago.
const HELD_KNOWN_WITHIN_US: u64 = 3_000_000;

/// Time in which a call looks at its campaign, in microseconds: a read that is slower than 100 ms does
/// not keep the request from the log.
const LOOKS_WITHIN_US: u64 = 200_000;

/// Returns what is wrong.
pub(super) fn judge(engines: &Engines, evidence: &Evidence) -> Vec<Violation> {
    let mut broken = audited(engines, evidence);
    let rows = engines.rows.store.rows.lock().clone();
    let judge = Judge { engines, evidence, rows: &rows };
    broken.extend(judge.holds());
    broken.extend(judge.letters());
    broken.extend(judge.skips());
    broken.extend(evidence.denials.iter().filter_map(|it| judge.denial(it)));
    broken.extend(evidence.told.iter().filter_map(|it| judge.owner(it)));
    broken.extend(evidence.told.iter().filter_map(|it| judge.skipped(it)));
    broken.extend(evidence.refusals.iter().filter_map(|it| judge.refusal(it)));
    broken.extend(evidence.views.iter().filter_map(|it| judge.view(it)));
    broken.extend(judge.lists());
    broken.extend(judge.clocks());
    let (of_rows, of_brokers) =
        (engines.rows.counters.exceeded(), engines.brokers.lock().counters.exceeded());
    broken.extend(of_rows.or(of_brokers).map(|detail| Violation::new("INV-9", detail)));
    let wrong_trim =
        engines.brokers.lock().wrong_trim.clone().filter(|_| evidence.damaged.is_none());
    broken.extend(wrong_trim.map(|detail| Violation::new("INV-7", detail)));
    let replaced = engines.rows.replaced().filter(|_| evidence.damaged.is_none());
    broken.extend(replaced.map(|detail| Violation::new("INV-3", detail)));
    if let Some(history) = engines.rows.history() {
        broken.extend(evidence.waits.iter().filter_map(|it| judge.wait(it, &history)));
        broken.extend(evidence.taken.iter().filter_map(|it| judge.taken(it, &history)));
        broken.extend(order::violations(engines, evidence, &rows, &history));
        broken.extend(releases::violations(engines, evidence, &history));
    }
    broken
}

/// What the audit finds.
fn audited(engines: &Engines, evidence: &Evidence) -> Vec<Violation> {
    let told = evidence.told.iter();
    // Of a campaign whose rows are damaged, only what is said once it is on hold.
    let counts =
        |told: &Told| told.is_final && matches!(evidence.damaged, Some(Damaged::Campaign(_)));
    let lines: Vec<String> = told
        .filter(|told| counts(told) || !evidence.is_lost(engines, &told.request.campaign))
        .map(|told| told.line().to_string())
        .collect();
    match report(engines, lines) {
        Ok(report) => {
            let is_excused = |finding: &Finding| match &evidence.damaged {
                None => false,
                Some(Damaged::Campaign(damaged)) => {
                    let is_of_answers = finding.kind.starts_with("answer_")
                        && finding.kind != "answer_holds_nothing"
                        && !lacks_by_user_rows(engines, damaged);
                    is_of_campaign(finding, damaged) && !is_of_answers
                }
                Some(Damaged::Partition(damaged)) => {
                    let of = finding.campaign.as_ref().map(|it| engines.codec.partition_of(it));
                    of.or(finding.partition) == Some(*damaged)
                }
            };
            let findings = report.findings.iter().filter(|finding| !is_excused(finding));
            let found = findings.map(|finding| {
                Violation::new(finding.invariant, format!("{}: {}", finding.kind, finding.detail))
            });
            let unread = report.unread.iter().filter(|_| evidence.damaged.is_none());
            found.chain(unread.map(|unread| Violation::new("INV-10", unread))).collect()
        }
        Err(_) if evidence.damaged.is_some() => Vec::new(),
        Err(error) => vec![Violation::new("INV-7", format!("the audit failed: {error}"))],
    }
}

/// Whether a campaign is on hold because its by-user rows cannot be restored. The hold begins at
/// progress: what is settled is answered from the rows that are left.
fn lacks_by_user_rows(engines: &Engines, campaign: &CampaignId) -> bool {
    let slug = HoldReason::ByUserRowMissing.slug();
    let holds = &engines.rows.store.rows.lock().holds;
    let mut its = holds.iter().filter(|hold| hold.campaign == *campaign && hold.is_in_force());
    its.any(|hold| hold.reason_parts().0 == slug)
}

/// Whether the audit finds nothing wrong with a campaign, except a mark that is true and old: it was
/// written before the mark vanished, and landed afterwards. The campaign's next mark replaces it.
pub(super) fn is_sound(engines: &Engines, campaign: &CampaignId) -> bool {
    // The audit has a runtime of its own, and the world's is in use on this thread.
    let report = std::thread::scope(|scope| scope.spawn(|| report(engines, Vec::new())).join());
    let has_mark = engines.rows.store.rows.lock().marks.contains_key(campaign);
    let is_old = |finding: &Finding| finding.kind == "mark_behind" && has_mark;
    let is_of = |finding: &Finding| is_of_campaign(finding, campaign) && !is_old(finding);
    matches!(report, Ok(Ok(report)) if !report.findings.iter().any(is_of))
}

fn is_of_campaign(finding: &Finding, campaign: &CampaignId) -> bool {
    match &finding.campaign {
        Some(of) => of == campaign,
        // Of two coupons with one code, only the detail names the campaign.
        None => finding.kind == "code_twice" && finding.detail.contains(campaign.as_str()),
    }
}

/// Runs the audit on the world's log and rows, and on what clients were told.
fn report(engines: &Engines, told: Vec<String>) -> Result<AuditReport, AuditError> {
    let partitions = engines.brokers.lock().whole();
    let audited = Audited {
        log: Arc::new(MemoryLog::finished(partitions)),
        store: engines.rows.store.clone(),
        layout: engines.layout.clone(),
        keys: engines.keys.clone(),
    };
    let answers = Box::new(Cursor::new(told.join("\n").into_bytes()));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let runtime = runtime.expect("a runtime without I/O starts");
    runtime.block_on(audit(audited, Some(answers), Arc::new(Meter::default())))
}

/// Why nobody is given a coupon, in the order of precedence.
fn refused(definition: &Definition, issued: u64, wall: Timestamp) -> Option<&'static str> {
    let terms = &definition.terms;
    if definition.closed || terms.closes_at.is_some_and(|closes| closes <= wall) {
        Some("closed")
    } else if definition.paused {
        Some("paused")
    } else if terms.opens_at.is_some_and(|opens| wall < opens) {
        Some("not_open_yet")
    } else {
        (issued >= u64::from(terms.quota)).then_some("sold_out")
    }
}

struct Judge<'a> {
    engines: &'a Engines,
    evidence: &'a Evidence,
    rows: &'a MemoryRows,
}

impl Judge<'_> {
    fn coupons(&self, campaign: &CampaignId) -> Vec<&Coupon> {
        self.rows.coupons_of(campaign).collect()
    }

    fn versions(&self, campaign: &CampaignId) -> Vec<&DefinitionVersion> {
        let all = (campaign.clone(), 0)..=(campaign.clone(), Offset::MAX);
        self.rows.versions.range(all).map(|(_, version)| version).collect()
    }

    /// Offset of the latest definition that an operator knew to be in effect at a time.
    fn known(&self, campaign: &CampaignId, us: u64, versions: &[&DefinitionVersion]) -> Offset {
        if self.engines.rows.was_set_back() {
            return 0;
        }
        let known = self.evidence.in_effect.iter().filter(|(of, at, _)| of == campaign && *at < us);
        let offset = |definition: &Definition| {
            let of = versions.iter().find(|version| version.definition == *definition);
            of.map_or(0, |version| version.position.offset)
        };
        known.map(|(.., definition)| offset(definition)).max().unwrap_or(0)
    }

    /// INV-12: nothing is held that is sound.
    fn holds(&self) -> Vec<Violation> {
        let wrong = self.rows.holds.iter().filter(|hold| hold.kind == HoldKind::Contradiction);
        let brokers = self.engines.brokers.lock();
        // What is settled and cannot be read counts as trimmed.
        let trimmed = HoldReason::RecordsTrimmed.slug();
        let is_excused = |hold: &&Hold| {
            hold.reason.starts_with(trimmed) && brokers.unreadable.was_of(hold.partition)
        };
        wrong
            .filter(|hold| !is_excused(hold))
            .filter(|hold| !self.evidence.is_lost(self.engines, &hold.campaign))
            .map(|hold| Violation::new("INV-12", format!("held without a reason: {hold:?}")))
            .collect()
    }

    /// INV-7: a skip in force covers nothing that could be read.
    fn skips(&self) -> Option<Violation> {
        let log = self.engines.brokers.lock();
        let its = self.rows.skips.values().filter(|skip| skip.by == OPERATOR);
        let in_force = its.filter(|skip| skip.state == SkipState::InForce);
        let mut its = in_force.filter(|skip| !self.evidence.is_damaged(skip.partition));
        let wrong = its.find(|skip| {
            let records = &log.whole()[skip.partition as usize].records;
            let mut covered = records.range(skip.from..skip.to).map(|(at, _)| *at);
            covered.any(|at| !log.unreadable.was_at(skip.partition, at))
        });
        wrong.map(|skip| Violation::new("INV-7", format!("it could be read: {skip:?}")))
    }

    /// INV-4: what nobody decides is kept as a dead letter, and nothing else is.
    fn letters(&self) -> Option<Violation> {
        let brokers = self.engines.brokers.lock();
        let damaged = match &self.evidence.damaged {
            Some(Damaged::Partition(partition)) => Some(*partition),
            Some(Damaged::Campaign(campaign)) => Some(self.engines.codec.partition_of(campaign)),
            None => None,
        };
        let undefined = brokers.foreign.iter().filter(|((_, offset), campaign)| {
            self.versions(campaign).first().is_none_or(|first| first.position.offset > *offset)
        });
        let due = undefined.map(|(place, _)| *place).chain(brokers.undecidable.iter().copied());
        let is_skipped = |&(partition, offset): &(u32, Offset)| {
            let mut its = self.rows.skips.values().filter(|skip| skip.partition == partition);
            its.any(|skip| skip.covers(offset, SkipState::InForce))
        };
        let counted = |place: &(u32, Offset)| Some(place.0) != damaged && !is_skipped(place);
        let due: BTreeSet<_> = due.filter(counted).collect();
        let kept: BTreeSet<_> = brokers.dead_letters.keys().copied().filter(counted).collect();
        let wrong: Vec<_> = due.symmetric_difference(&kept).collect();
        if self.evidence.damaged.is_none()
            && let Some(wrong) = &brokers.wrong_letter
        {
            return Some(Violation::new("INV-4", wrong));
        }
        let first = wrong.first()?;
        let is_kept = kept.contains(first);
        Some(Violation::new("INV-4", format!("{first:?} is a dead letter: {is_kept}")))
    }

    /// INV-12: a node says that a campaign is on hold, and takes no request of it.
    fn taken(&self, taken: &Taken, history: &[Landed]) -> Option<Violation> {
        let Taken { campaign, node, begun_us } = taken;
        let from_us = begun_us.saturating_sub(HELD_KNOWN_WITHIN_US);
        let looked_us = begun_us + LOOKS_WITHIN_US;
        if self.engines.rows.disturbed_until(*node, looked_us) >= from_us {
            return None;
        }
        let (mut since, mut closed) = (BTreeMap::new(), BTreeSet::new());
        // The node may have looked after the call began, and have seen a hold end meanwhile.
        for landed in history.iter().take_while(|landed| landed.at_us < looked_us) {
            if let Row::Hold(hold) = &landed.row
                && hold.campaign == *campaign
            {
                let key = (hold.from, hold.number);
                since.entry(key).or_insert(landed.at_us);
                if !hold.is_in_force() {
                    closed.insert(key);
                }
            }
        }
        let is_held = since.iter().any(|(key, at_us)| *at_us < from_us && !closed.contains(key));
        is_held.then(|| Violation::new("INV-12", format!("taken while on hold: {taken:?}")))
    }

    /// INV-10: who waits is told soon of what is settled.
    fn wait(&self, wait: &Wait, history: &[Landed]) -> Option<Violation> {
        let Wait { campaign, position, node, until_us } = wait;
        let offset = position.offset;
        let is_held = history.iter().any(|it| match &it.row {
            Row::Hold(hold) => hold.campaign == *campaign && hold.unsettled_from() <= offset,
            _ => false,
        });
        let settled = history.iter().find(|it| match &it.row {
            Row::Progress(progress) => {
                progress.partition == position.partition && progress.next > offset
            }
            _ => false,
        })?;
        let from = settled.at_us.max(self.engines.rows.disturbed_until(*node, *until_us));
        let is_long = *until_us > from + TOLD_WITHIN_US;
        (is_long && !is_held && !self.evidence.is_lost(self.engines, campaign))
            .then(|| Violation::new("INV-10", format!("settled at {}: {wait:?}", settled.at_us)))
    }

    /// INV-4: nothing of a call is in the log if its error says so.
    fn denial(&self, denial: &Denial) -> Option<Violation> {
        let landed = self.landed(denial.call);
        let accepted = self.accepted(&denial.campaign, &landed);
        let is_in_log = if denial.is_request { !landed.is_empty() } else { accepted.is_some() };
        let Denial { campaign, error, .. } = denial;
        let detail = || format!("what a call of {campaign} appended is in the log, but: {error}");
        is_in_log.then(|| Violation::new("INV-4", detail()))
    }

    /// Where records of a call landed.
    fn landed(&self, call: u64) -> Vec<Offset> {
        let brokers = self.engines.brokers.lock();
        let landed = brokers.appends.of(call).map(|sent| sent.landed.iter());
        landed.into_iter().flatten().map(|(_, offset)| *offset).collect()
    }

    /// The last of these positions at which the campaign has a version.
    fn accepted(&self, campaign: &CampaignId, landed: &[Offset]) -> Option<Offset> {
        let versions = self.versions(campaign).into_iter().map(|version| version.position.offset);
        versions.filter(|offset| landed.contains(offset)).max()
    }

    /// INV-5: a refusal is true of a state that is at most a second old.
    fn refusal(&self, refusal: &Refusal) -> Option<Violation> {
        let Refusal { asked, campaign, reason, has_key, end } = refusal;
        if self.evidence.is_lost(self.engines, campaign) {
            return None;
        }
        let broken = |why: &str| Some(Violation::new("INV-5", format!("{why}: {refusal:?}")));
        if *has_key {
            return broken("a request with a key was refused without a record");
        }
        let (coupons, versions) = (self.coupons(campaign), self.versions(campaign));
        let us = asked.begun_us.saturating_sub(REFUSAL_AGE_US);
        let from = self.known(campaign, us, &versions);
        let by_time = matches!(*reason, "closed" | "not_open_yet");
        if by_time && self.evidence.clocks_lie {
            return None;
        }
        let within =
            |(from, until): &(u64, u64)| *from < asked.begun_us && asked.answered_us < *until;
        if by_time && self.evidence.disbelieved.iter().any(within) {
            return broken("a refusal by a clock that was set");
        }
        let is_true = |below: Offset| {
            let Some(version) = versions.iter().rev().find(|it| it.position.offset < below) else {
                return false;
            };
            let issued = coupons.partition_point(|coupon| coupon.position.offset < below) as u64;
            let terms = &version.definition.terms;
            let why = |time| refused(&version.definition, issued, time);
            // Within the margin of another reason's time, its node cannot know which of them holds.
            asked.record_times(terms).into_iter().any(|time| why(time).is_some())
                && asked.around(terms).into_iter().any(|time| why(time) == Some(reason))
        };
        let versions = versions.iter().map(|version| version.position.offset + 1);
        let coupons = coupons.iter().map(|coupon| coupon.position.offset + 1);
        let mut below =
            versions.chain(coupons).chain([*end]).filter(|it| (from + 1..=*end).contains(it));
        if below.any(is_true) { None } else { broken("a refusal that is not true") }
    }

    /// INV-6: a view adds up, has everything below its position, and shows the state that it has.
    fn view(&self, view: &View) -> Option<Violation> {
        let View { asked, change, seen, end } = view;
        if self.evidence.is_lost(self.engines, &seen.campaign) {
            return None;
        }
        let broken = |why: &str| Some(Violation::new("INV-6", format!("{why}: {view:?}")));
        let quota = seen.definition.terms.quota;
        if quota.checked_sub(seen.issued) != Some(seen.remaining) {
            return broken("a view that does not add up");
        }
        let coupons = self.coupons(&seen.campaign);
        let issued = |below| coupons.partition_point(|it| it.position.offset < below) as u32;
        let as_of = seen.as_of.offset;
        if !(issued(as_of)..=issued(*end)).contains(&seen.issued) {
            return broken("a view with another count");
        }
        let versions = self.versions(&seen.campaign);
        // After a change, the campaign is read again.
        let age_us = if change.is_some() { 0 } else { VIEW_AGE_US };
        let known = self.known(&seen.campaign, asked.begun_us.saturating_sub(age_us), &versions);
        let own = change.and_then(|call| self.accepted(&seen.campaign, &self.landed(call)));
        let below = versions.iter().rev().find(|version| version.position.offset < as_of);
        let least = below.map_or(0, |version| version.position.offset).max(known);
        let least = least.max(own.unwrap_or(0));
        let shown = versions.iter().find(|it| it.definition == seen.definition);
        if shown.is_none_or(|shown| shown.position.offset < least) && !self.recurs(view, least) {
            return broken("a view with another definition");
        }
        let state = seen.state.name();
        let is_state = asked.around(&seen.definition.terms).into_iter().any(|wall| {
            let why = refused(&seen.definition, u64::from(seen.issued), wall);
            state == why.map_or("open", |why| if why == "not_open_yet" { "scheduled" } else { why })
        });
        if (state == "quarantined") != seen.hold.is_some() || !is_state && seen.hold.is_none() {
            return broken("a view with another state");
        }
        None
    }

    /// Whether a later version has the definition too: pause and resume give an equal one.
    fn recurs(&self, view: &View, least: Offset) -> bool {
        let versions = self.versions(&view.seen.campaign);
        let equal = versions.iter().rfind(|it| it.definition == view.seen.definition);
        equal.is_some_and(|version| version.position.offset >= least)
    }

    /// INV-3: nobody is told the coupon of another user, whatever is damaged.
    fn owner(&self, told: &Told) -> Option<Violation> {
        let Some(Answer::Issued { coupon } | Answer::AlreadyIssued { coupon }) = &told.answer
        else {
            return None;
        };
        let row = self.rows.coupons.get(&(told.request.campaign.clone(), coupon.sequence))?;
        let is_of_another = row.code == coupon.code && row.user != told.request.user;
        is_of_another.then(|| Violation::new("INV-3", format!("not the coupon of {told:?}")))
    }

    /// INV-5: no record is timed by a clock that was set a moment ago.
    fn clocks(&self) -> Option<Violation> {
        let brokers = self.engines.brokers.lock();
        let is_within = |us: &&u64| {
            let mut disbelieved = self.evidence.disbelieved.iter();
            disbelieved.any(|(from, until)| *from < **us && **us < *until)
        };
        let wrong = brokers.timed_us.iter().find(is_within)?;
        let detail = format!("a record was timed at {wrong} us by a clock that was set");
        Some(Violation::new("INV-5", detail))
    }

    /// INV-3: nobody is told both that a request is skipped and what was decided.
    fn skipped(&self, told: &Told) -> Option<Violation> {
        let is_both = told.answer.is_some() && self.evidence.skipped.contains(&told.request_id);
        let is_lost = self.evidence.is_lost(self.engines, &told.request.campaign);
        (is_both && !is_lost)
            .then(|| Violation::new("INV-3", format!("skipped, and answered: {told:?}")))
    }

    /// INV-3: a list shows coupons as they are stored, and INV-6: all of those that it says it counts.
    fn lists(&self) -> Option<Violation> {
        let judged = |listed: &&Listed| !self.evidence.is_lost(self.engines, &listed.campaign);
        self.evidence.lists.iter().filter(judged).find_map(|listed| {
            let Listed { campaign, user, list } = listed;
            let shown = |row: &&Coupon| list.coupons.iter().any(|it| it.sequence == row.sequence);
            let is_so = |face: &CouponFace| {
                let row = self.rows.coupons.get(&(campaign.clone(), face.sequence));
                row.is_some_and(|row| {
                    (&row.user, &row.code, row.issued_at) == (user, &face.code, face.issued_at)
                })
            };
            if !list.coupons.iter().all(is_so) {
                let detail = format!("a list shows another coupon: {listed:?}");
                return Some(Violation::new("INV-3", detail));
            }
            let mut counted = self
                .rows
                .coupons_of(campaign)
                .filter(|row| row.user == *user && row.position.offset < list.as_of.offset);
            let lacks = counted.find(|row| !shown(row))?;
            let detail = format!("a list lacks coupon {}: {listed:?}", lacks.sequence);
            Some(Violation::new("INV-6", detail))
        })
    }
}
