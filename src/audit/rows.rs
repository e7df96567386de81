//! Compares a campaign's rows with its model: versions, mark, coupons and by-user view.

use std::{collections::HashSet, sync::atomic::Ordering};

use futures_util::StreamExt;

use super::{
    Context,
    answers::{Claim, face_hash},
    codes::Code,
    finding::{FindingKind, Findings, Location},
    model::{Derived, Model, fingerprint},
    report::CampaignReport,
    seen::Seen,
};
use crate::{
    domain::{
        coupon::Coupon,
        definition::DefinitionVersion,
        ids::{CampaignId, Offset, Partition, Sequence},
        rows::{ByUserRow, Mark},
    },
    store::{Selection, StoreError},
};

/// The bounds within which a campaign is audited.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scope {
    /// All records below are settled and must be stored.
    pub(super) limit: Offset,
    /// The log was replayed up to here. Rows below must follow from it.
    pub(super) end: Offset,
    /// The lowest offset of the log.
    pub(super) from: Offset,
    /// Whether the campaign is listed.
    pub(super) listed: bool,
    /// Whether a hold is in force.
    pub(super) held: bool,
}

/// The result of one campaign's comparison.
pub(super) struct Compared {
    pub(super) report: CampaignReport,
    pub(super) findings: Findings,
    pub(super) codes: Vec<Code>,
}

/// Compares a campaign with its rows.
pub(super) async fn compare(
    context: &Context,
    model: Model,
    scope: Scope,
    claims: Vec<Claim>,
) -> Result<Compared, StoreError> {
    let mut comparison = Comparison {
        context,
        seen: Seen::of(&model),
        correct: Seen::of(&model),
        by_user: Seen::of(&model),
        misplaced: Vec::new(),
        scope,
        claims,
        claims_met: 0,
        above: HashSet::new(),
        highest_above: None,
        mark_above: None,
        findings: Findings::default(),
        codes: Vec::new(),
        model,
    };
    let partition = comparison.model.place.partition;
    let rows = context.ports.store.campaign(&comparison.model.id, partition).await?;
    comparison.check_listing();
    comparison.versions(rows.versions);
    comparison.coupons().await?;
    comparison.view_by_user().await?;
    comparison.mark(rows.mark);
    comparison.above_the_log().await;
    Ok(comparison.finish())
}

struct Comparison<'a> {
    context: &'a Context,
    model: Model,
    scope: Scope,
    claims: Vec<Claim>,
    /// How many of `claims` have a sequence below that of the current row.
    claims_met: usize,
    seen: Seen,
    /// Sequences whose row equals that of the model.
    correct: Seen,
    by_user: Seen,
    /// Rows with the position of another sequence's request, each with that other sequence.
    misplaced: Vec<(Sequence, Sequence)>,
    /// Sequences of rows that the model does not have.
    above: HashSet<Sequence>,
    /// The highest offset of a row above the replayed log, and the offset of a mark above it.
    highest_above: Option<Offset>,
    mark_above: Option<Offset>,
    findings: Findings,
    codes: Vec<Code>,
}

impl Comparison<'_> {
    fn find(
        &mut self,
        kind: FindingKind,
        offset: Offset,
        sequence: Option<Sequence>,
        detail: impl Into<String>,
    ) {
        let place = self.model.at(offset, sequence);
        self.findings.add(kind, place, detail);
    }

    fn check_listing(&mut self) {
        let defined = self.model.versions.first().map(|version| version.position.offset);
        match defined {
            Some(offset) if offset < self.scope.limit && !self.scope.listed => {
                self.find(
                    FindingKind::NotListed,
                    offset,
                    None,
                    "defined in the log, but not listed",
                );
            }
            None if self.scope.listed && self.scope.end > 0 && self.scope.from == 0 => {
                let detail = "listed, but the log has no definition";
                self.find(FindingKind::ListedUndefined, self.scope.end, None, detail);
            }
            _ => {}
        }
    }

    fn versions(&mut self, rows: Vec<DefinitionVersion>) {
        let mut derived = std::mem::take(&mut self.model.versions).into_iter().peekable();
        let mut kept = Vec::new();
        for row in rows {
            let offset = row.position.offset;
            while let Some(version) = derived.next_if(|it| it.position.offset < offset) {
                self.version_missing(&version);
                kept.push(version);
            }
            if self.model.place.keys.version_digest(&row) != row.digest {
                let detail = "the row does not match its own digest";
                self.find(FindingKind::VersionAltered, offset, None, detail);
            }
            match derived.next_if(|it| it.position.offset == offset) {
                Some(version) => {
                    if row.issued != version.issued {
                        let (said, found) = (row.issued, version.issued);
                        let detail =
                            format!("counts {said} coupons below it, the log derives {found}");
                        self.find(FindingKind::VersionMiscounts, offset, None, detail);
                    } else if row != version && row.digest != version.digest {
                        let detail = "the row differs from the log's definition version";
                        self.find(FindingKind::VersionWrong, offset, None, detail);
                    }
                    kept.push(version);
                }
                None if offset < self.scope.end => {
                    let detail = "stored, but the log does not derive it";
                    self.find(FindingKind::VersionUnderivable, offset, None, detail);
                }
                None => self.note_above(offset),
            }
        }
        for version in derived {
            self.version_missing(&version);
            kept.push(version);
        }
        self.model.versions = kept;
    }

    fn version_missing(&mut self, version: &DefinitionVersion) {
        let offset = version.position.offset;
        if offset < self.scope.limit {
            self.find(
                FindingKind::VersionMissing,
                offset,
                None,
                "settled in the log, but not stored",
            );
        }
    }

    fn note_above(&mut self, offset: Offset) {
        self.highest_above = self.highest_above.max(Some(offset));
    }

    async fn coupons(&mut self) -> Result<(), StoreError> {
        let mut pages = self.context.ports.store.coupons(&self.model.id, Selection::All);
        while let Some(page) = pages.next().await {
            let page = page?;
            self.context.meter.rows.fetch_add(page.len() as u64, Ordering::Relaxed);
            self.codes.reserve(page.len());
            for coupon in &page {
                self.coupon(coupon);
            }
        }
        for index in 0..self.model.coupons.len() {
            let offset = self.model.coupons[index].offset;
            if !self.seen.has(index) && offset < self.scope.limit {
                let sequence = Sequence::try_from(index + 1).unwrap_or(Sequence::MAX);
                let detail = format!("coupon {sequence} was issued, but has no row");
                self.find(FindingKind::CouponMissing, offset, Some(sequence), detail);
            }
        }
        self.report_misplaced();
        while let Some(claim) = self.claims.get(self.claims_met).copied() {
            self.claims_met += 1;
            self.unfounded(claim);
        }
        Ok(())
    }

    fn coupon(&mut self, coupon: &Coupon) {
        let (offset, sequence) = (coupon.position.offset, coupon.sequence);
        self.codes.push(Code::of(&coupon.code, sequence));
        self.claims_below(sequence);
        self.claims_of(coupon);
        if self.model.place.is_skipped(offset) {
            let detail = format!("coupon {sequence} is stored at a position that is skipped");
            self.find(FindingKind::CouponSkipped, offset, Some(sequence), detail);
        }
        let fits = self.model.place.keys.coupon_digest(coupon) == coupon.digest;
        let derived = self.model.coupon(sequence).copied();
        if derived.is_some() {
            self.seen.note(sequence);
        } else {
            self.above.insert(sequence);
        }
        match derived {
            Some(derived) if derived.digest == coupon.digest && fits => {
                self.correct.note(sequence);
            }
            // The row is newer than the replayed part of the log, so the model lacks it. A row
            // whose sequence the model has is compared at any offset.
            None if offset >= self.scope.end => self.note_above(offset),
            _ if !fits => {
                let detail = format!("the row of coupon {sequence} does not match its own digest");
                self.find(FindingKind::CouponAltered, offset, Some(sequence), detail);
            }
            Some(derived) => self.coupon_differs(coupon, derived),
            None => self.coupon_underivable(coupon),
        }
    }

    /// Reports a row that matches its own digest but differs from the model.
    fn coupon_differs(&mut self, coupon: &Coupon, derived: Derived) {
        let (offset, sequence) = (coupon.position.offset, coupon.sequence);
        let user = fingerprint(self.model.place.keys.user_digest(&coupon.user));
        let moved = coupon.position != self.model.position(derived.offset);
        let other = self.model.issued_at(offset).filter(|other| *other != sequence);
        if moved && let Some(other) = other {
            // The kind depends on whether the other sequence has a correct row, which is known
            // later.
            self.misplaced.push((sequence, other));
            return;
        }
        let (kind, detail) = if user != derived.user {
            let detail = format!("coupon {sequence} is another user's than the log gives");
            (FindingKind::CouponUnderivable, detail)
        } else if moved {
            let detail = format!("coupon {sequence} was issued at offset {}", derived.offset);
            (FindingKind::CouponMoved, detail)
        } else if *coupon.code != *self.model.code(sequence, &coupon.user) {
            let detail = format!("coupon {sequence} was issued with another code");
            (FindingKind::CouponCode, detail)
        } else {
            let detail = format!("coupon {sequence} has another time, key, bucket or rules");
            (FindingKind::CouponWrong, detail)
        };
        self.find(kind, offset, Some(sequence), detail);
    }

    /// Reports rows with the request of another sequence. If that sequence has its own correct
    /// row, the request got two coupons; otherwise its coupon was moved.
    fn report_misplaced(&mut self) {
        for (sequence, other) in std::mem::take(&mut self.misplaced) {
            let offset = self.model.coupon(other).map_or(0, |derived| derived.offset);
            let kind = match self.correct.has(other as usize - 1) {
                true => FindingKind::TwoForOneRequest,
                false => FindingKind::CouponMoved,
            };
            let detail = format!("coupon {sequence} has the request of coupon {other}");
            self.find(kind, offset, Some(sequence), detail);
        }
    }

    /// Reports a row whose sequence the log does not derive.
    fn coupon_underivable(&mut self, coupon: &Coupon) {
        let (offset, sequence) = (coupon.position.offset, coupon.sequence);
        let terms = self.model.definition_at(offset).map(|definition| &definition.terms);
        let (quota, limit) =
            terms.map_or((0, 0), |terms| (terms.quota, u32::from(terms.per_user_limit)));
        let held = self.model.held(&coupon.user);
        let (kind, detail) = if self.model.issued_at(offset).is_some() {
            let detail = format!("coupon {sequence} has a request that got another coupon");
            (FindingKind::TwoForOneRequest, detail)
        } else if sequence > quota {
            let detail = format!("coupon {sequence} is beyond the quota of {quota}");
            (FindingKind::CouponBeyondQuota, detail)
        } else if held >= limit {
            let detail =
                format!("coupon {sequence}: user {} already holds {held} of {limit}", coupon.user);
            (FindingKind::CouponBeyondLimit, detail)
        } else {
            let detail = format!("coupon {sequence} is stored, but the log does not derive it");
            (FindingKind::CouponUnderivable, detail)
        };
        self.find(kind, offset, Some(sequence), detail);
    }

    /// Reports claims of sequences below `sequence`, which have no row.
    fn claims_below(&mut self, sequence: Sequence) {
        while let Some(claim) = self.claims.get(self.claims_met).copied()
            && claim.sequence < sequence
        {
            self.claims_met += 1;
            self.unfounded(claim);
        }
    }

    fn claims_of(&mut self, coupon: &Coupon) {
        let Some(claim) = self.claims.get(self.claims_met) else { return };
        if claim.sequence != coupon.sequence {
            return;
        }
        let user = fingerprint(self.model.place.keys.user_digest(&coupon.user));
        let face = face_hash(&coupon.code, coupon.issued_at);
        while let Some(claim) = self.claims.get(self.claims_met).copied()
            && claim.sequence == coupon.sequence
        {
            self.claims_met += 1;
            let (line, sequence) = (claim.line, claim.sequence);
            if claim.user != user {
                let detail = format!("line {line}: coupon {sequence} belongs to another user");
                self.find(FindingKind::AnswerHoldsNothing, claim.offset, Some(sequence), detail);
            } else if claim.face != face {
                let detail = format!("line {line}: coupon {sequence} has another code or time");
                self.find(FindingKind::AnswerCoupon, claim.offset, Some(sequence), detail);
            }
        }
    }

    fn unfounded(&mut self, claim: Claim) {
        // In embedded mode a decision is durable once its record is fsynced. After a crash, rows
        // above progress are written again when the node starts, so a row may be absent now.
        let derived = self.model.coupon(claim.sequence);
        if derived.is_some_and(|it| it.offset >= self.scope.limit && it.user == claim.user) {
            return;
        }
        let partition = self.model.place.partition;
        let campaign = self.model.id.clone();
        holds_nothing(&campaign, partition, claim, &mut self.findings);
    }

    async fn view_by_user(&mut self) -> Result<(), StoreError> {
        let buckets = self.model.definition().map_or(0, |definition| definition.user_buckets);
        for bucket in 0..buckets {
            let mut pages = self.context.ports.store.by_user(&self.model.id, bucket);
            while let Some(page) = pages.next().await {
                let page = page?;
                self.context.meter.rows.fetch_add(page.len() as u64, Ordering::Relaxed);
                for row in page {
                    self.by_user(&row, bucket, buckets);
                }
            }
        }
        for index in 0..self.model.coupons.len() {
            let offset = self.model.coupons[index].offset;
            if !self.by_user.has(index) && offset < self.scope.limit {
                let sequence = Sequence::try_from(index + 1).unwrap_or(Sequence::MAX);
                let detail = format!("coupon {sequence} is not in the by-user view");
                self.find(FindingKind::ByUserMissing, offset, Some(sequence), detail);
            }
        }
        Ok(())
    }

    fn by_user(&mut self, row: &ByUserRow, bucket: u8, buckets: u8) {
        let sequence = row.sequence;
        let digest = self.model.place.keys.user_digest(&row.user);
        let Some(derived) = self.model.coupon(sequence).copied() else {
            let offset = row.coupon.as_ref().map(|coupon| coupon.position.offset);
            let unread = offset.is_some_and(|offset| offset >= self.scope.end);
            if !unread && !self.above.contains(&sequence) {
                let detail =
                    format!("user {} has coupon {sequence} in the by-user view only", row.user);
                let offset = offset.unwrap_or(self.scope.end);
                self.find(FindingKind::ByUserExtra, offset, Some(sequence), detail);
            }
            return;
        };
        let its_bucket = (digest % u128::from(buckets.max(1))) as u8;
        if fingerprint(digest) != derived.user || its_bucket != bucket {
            let detail =
                format!("coupon {sequence} is stored under user {}, bucket {bucket}", row.user);
            self.find(FindingKind::ByUserExtra, derived.offset, Some(sequence), detail);
            return;
        }
        let wrong = row.coupon.as_ref().is_some_and(|coupon| {
            coupon.digest != derived.digest
                || self.model.place.keys.coupon_digest(coupon) != coupon.digest
        });
        if wrong {
            let detail = format!("coupon {sequence} in the by-user view differs from the log");
            self.find(FindingKind::ByUserWrong, derived.offset, Some(sequence), detail);
        }
        self.by_user.note(sequence);
    }

    fn mark(&mut self, mark: Option<Mark>) {
        let settled = self.model.issued_below(self.scope.limit);
        let marked = mark.as_ref().map_or(0, |mark| mark.counts.issued);
        if let Some(Mark { offset, counts, .. }) = mark {
            let found = self.model.counts_below(offset);
            if offset > self.scope.end {
                self.mark_above = Some(offset);
            } else if found != Some(counts) {
                let detail = format!("says {counts:?} below {offset}, the log derives {found:?}");
                return self.find(FindingKind::MarkWrong, offset, None, detail);
            }
        }
        if marked < settled {
            let detail = format!("counts {marked} coupons, but {settled} are settled");
            self.find(FindingKind::MarkBehind, self.scope.limit, None, detail);
        }
    }

    /// Reports rows beyond the current end of the log. Rows between the replayed part and that end
    /// are newer than the audit: a live instance wrote them meanwhile.
    async fn above_the_log(&mut self) {
        if self.highest_above.is_none() && self.mark_above.is_none() {
            return;
        }
        let Ok(bounds) = self.context.ports.log.bounds(self.model.place.partition).await else {
            return;
        };
        let high = bounds.high;
        if let Some(offset) = self.highest_above.filter(|offset| *offset >= high) {
            let detail = format!("a row has offset {offset}, but the log ends at {high}");
            self.find(FindingKind::RowAboveLog, offset, None, detail);
        }
        if let Some(offset) = self.mark_above.filter(|offset| *offset > high) {
            let detail = format!("the mark counts up to {offset}, but the log ends at {high}");
            self.find(FindingKind::MarkBeyondLog, offset, None, detail);
        }
    }

    fn finish(self) -> Compared {
        let Self { model, scope, findings, codes, .. } = self;
        let definition = model.definition();
        let issued = model.issued_below(scope.limit);
        let quota = definition.map_or(0, |definition| definition.terms.quota);
        let counts = model.counts;
        let report = CampaignReport {
            campaign: model.id.clone(),
            partition: model.place.partition,
            quota,
            issued: model.issued(),
            settled: issued,
            remaining: quota.saturating_sub(model.issued()),
            rows: codes.len() as u64,
            from_rows: model.coupons_from_rows as u64,
            versions: model.versions.len() as u64,
            requests: counts.requests,
            already_issued: counts.already_issued,
            repeated: counts.repeated,
            rejected: counts.rejected,
            held_from: scope.held.then_some(scope.limit),
            findings: 0,
        };
        Compared { report, findings, codes }
    }
}

/// Reports an answer with a coupon that has no row.
pub(super) fn holds_nothing(
    campaign: &CampaignId,
    partition: Partition,
    claim: Claim,
    findings: &mut Findings,
) {
    let Claim { sequence, line, offset, .. } = claim;
    let place = Location {
        partition: Some(partition),
        campaign: Some(campaign.clone()),
        offset: Some(offset),
        sequence: Some(sequence),
    };
    let detail = format!("line {line}: the client got coupon {sequence}, but it has no row");
    findings.add(FindingKind::AnswerHoldsNothing, place, detail);
}
