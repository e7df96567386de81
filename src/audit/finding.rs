//! Kinds of findings, each with the invariant that it breaks, and a bounded list of findings.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::domain::{
    ids::{CampaignId, Offset, Partition, Sequence},
    invariant::Invariant,
};

/// Most findings kept with their details. All findings are counted.
pub(super) const FINDINGS_KEPT_MAX: usize = 1_000;

/// Most findings kept of one kind in one campaign, because one cause often affects all later rows.
const ALIKE_KEPT_MAX: u64 = 5;

macro_rules! finding_kinds {
    ($($(#[$doc:meta])* $kind:ident = $name:literal, $invariant:ident;)*) => {
        /// A kind of finding.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum FindingKind {
            $($(#[$doc])* $kind,)*
        }

        impl FindingKind {
            /// Every kind.
            pub const ALL: &[Self] = &[$(Self::$kind,)*];

            /// Returns the name of the kind in JSON and on the command line.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$kind => $name,)* }
            }

            /// Returns the invariant that it breaks.
            #[must_use]
            pub fn invariant(self) -> Invariant {
                match self { $(Self::$kind => Invariant::$invariant,)* }
            }
        }
    };
}

finding_kinds! {
    /// Durable progress is above the end of the log.
    LogEndsEarly = "log_ends_early", NothingLost;
    /// The log begins above durable progress: records were lost undecided.
    LogStartsLate = "log_starts_late", NothingLost;
    /// The log begins above the start of a hold: records were lost undecided.
    HeldRecordsLost = "held_records_lost", NothingLost;
    /// The log has no record where it must have one.
    LogGap = "log_gap", NothingLost;
    /// The last settled record has another digest than progress stored: it was replaced.
    RecordRewritten = "record_rewritten", FinalAnswer;
    /// Progress names another log epoch, or a last record that is not the last.
    ProgressWrong = "progress_wrong", Remaining;
    /// A hold is inconsistent: of another partition, beyond the log, or only partly closed.
    HoldImpossible = "hold_impossible", OneDecision;
    /// The row of a hold has vanished: the partition has had more holds.
    HoldMissing = "hold_missing", OneDecision;
    /// A closed hold is not counted, so its row would not be missed.
    HoldsUncounted = "holds_uncounted", OneDecision;
    /// A definition version that the log derives is not stored.
    VersionMissing = "version_missing", Eligibility;
    /// A definition version is stored that the log does not derive.
    VersionUnderivable = "version_underivable", Eligibility;
    /// A stored definition version differs from that of the log.
    VersionWrong = "version_wrong", Eligibility;
    /// The row of a definition version does not match its own digest.
    VersionAltered = "version_altered", FinalAnswer;
    /// A definition version has a wrong count of the coupons below it.
    VersionMiscounts = "version_miscounts", Remaining;
    /// What a settled control record came to is not stored.
    ChangeMissing = "change_missing", FinalAnswer;
    /// The stored row of a change differs from what the log derives.
    ChangeWrong = "change_wrong", FinalAnswer;
    /// The row of a change does not match its own digest.
    ChangeAltered = "change_altered", FinalAnswer;
    /// A change is stored at a position where the log has none.
    ChangeUnderivable = "change_underivable", FinalAnswer;
    /// A campaign is defined and not listed.
    NotListed = "not_listed", Remaining;
    /// A campaign is listed but was never defined.
    ListedUndefined = "listed_undefined", Remaining;
    /// A mark has a wrong count of the coupons below its offset.
    MarkWrong = "mark_wrong", Remaining;
    /// Progress passed coupons that no mark counts.
    MarkBehind = "mark_behind", Remaining;
    /// A mark is above the end of the log.
    MarkBeyondLog = "mark_beyond_log", Remaining;
    /// A settled coupon has no row.
    CouponMissing = "coupon_missing", FinalAnswer;
    /// The row of a coupon does not match its own digest.
    CouponAltered = "coupon_altered", FinalAnswer;
    /// A coupon is stored under another sequence or position than it was issued under.
    CouponMoved = "coupon_moved", FinalAnswer;
    /// A coupon has another code than it was issued with.
    CouponCode = "coupon_code", FinalAnswer;
    /// A coupon has another time, key or bucket than it was issued with.
    CouponWrong = "coupon_wrong", FinalAnswer;
    /// Two coupons were issued to one request.
    TwoForOneRequest = "two_for_one_request", OneDecision;
    /// A coupon is stored beyond the quota in effect at its position.
    CouponBeyondQuota = "coupon_beyond_quota", Quota;
    /// A coupon is stored although its user already held the limit in effect at its position.
    CouponBeyondLimit = "coupon_beyond_limit", PerUserLimit;
    /// A coupon is stored that no eligible request derives, or under another user.
    CouponUnderivable = "coupon_underivable", Eligibility;
    /// A coupon's position is above the end of the log.
    RowAboveLog = "row_above_log", NothingLost;
    /// A coupon is stored at a position that is skipped.
    CouponSkipped = "coupon_skipped", OneDecision;
    /// Two coupons have the same code.
    CodeTwice = "code_twice", UniqueCodes;
    /// A settled coupon is not in the by-user view.
    ByUserMissing = "by_user_missing", Remaining;
    /// The by-user view has a coupon that the user does not hold.
    ByUserExtra = "by_user_extra", Remaining;
    /// A row of the by-user view differs from the coupon.
    ByUserWrong = "by_user_wrong", Remaining;
    /// A client got a request id that this instance did not make.
    AnswerUnknownId = "answer_unknown_id", NothingLost;
    /// A client got the request id of another request.
    AnswerForeignId = "answer_foreign_id", OneDecision;
    /// The request of a 2xx answer is not in the log.
    AnswerLost = "answer_lost", NothingLost;
    /// The request of a 2xx answer has no decision: it is a dead letter.
    AnswerUndecided = "answer_undecided", OneDecision;
    /// A final answer differs from the decision that the log derives at its position.
    AnswerWrong = "answer_wrong", FinalAnswer;
    /// A final answer has another sequence, code or time than the coupon.
    AnswerCoupon = "answer_coupon", FinalAnswer;
    /// A client got "issued", but the coupon has no row, or another user holds it.
    AnswerHoldsNothing = "answer_holds_nothing", FinalAnswer;
    /// One request got two different final answers.
    AnswerChanged = "answer_changed", FinalAnswer;
    /// One idempotency key got two coupons.
    AnswerTwoForKey = "answer_two_for_key", FinalAnswer;
    /// A request with a key that its client was always told is not in the log is in it.
    AnswerDenied = "answer_denied", OneDecision;
}

/// One broken invariant at one place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The invariant that it breaks.
    pub invariant: &'static str,
    /// Name of its [`FindingKind`].
    pub kind: &'static str,
    /// The partition, if it concerns only one.
    pub partition: Option<Partition>,
    /// The campaign, if it concerns only one.
    pub campaign: Option<CampaignId>,
    /// The offset, if it concerns only one.
    pub offset: Option<Offset>,
    /// The coupon's sequence, if it concerns only one.
    pub sequence: Option<Sequence>,
    /// Describes the finding for people.
    pub detail: String,
}

/// The place of a finding.
#[derive(Debug, Clone, Default)]
pub(super) struct Location {
    pub(super) partition: Option<Partition>,
    pub(super) campaign: Option<CampaignId>,
    pub(super) offset: Option<Offset>,
    pub(super) sequence: Option<Sequence>,
}

/// A bounded list of findings, with exact counts.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub(super) kept: Vec<Finding>,
    pub(super) counts: BTreeMap<FindingKind, u64>,
    alike: BTreeMap<(Option<CampaignId>, FindingKind), u64>,
}

impl Findings {
    pub(super) fn add(&mut self, kind: FindingKind, place: Location, detail: impl Into<String>) {
        *self.counts.entry(kind).or_default() += 1;
        let alike = self.alike.entry((place.campaign.clone(), kind)).or_default();
        *alike += 1;
        if *alike > ALIKE_KEPT_MAX || self.kept.len() == FINDINGS_KEPT_MAX {
            return;
        }
        let Location { partition, campaign, offset, sequence } = place;
        self.kept.push(Finding {
            invariant: kind.invariant().id(),
            kind: kind.name(),
            partition,
            campaign,
            offset,
            sequence,
            detail: detail.into(),
        });
    }

    pub(super) fn of_campaign(&self, campaign: &CampaignId) -> u64 {
        let from = (Some(campaign.clone()), FindingKind::LogEndsEarly);
        let its = self.alike.range(from..).take_while(|((of, _), _)| of.as_ref() == Some(campaign));
        its.map(|(_, count)| count).sum()
    }

    pub(super) fn merge(&mut self, other: Self) {
        for (kind, count) in other.counts {
            *self.counts.entry(kind).or_default() += count;
        }
        for (place, count) in other.alike {
            *self.alike.entry(place).or_default() += count;
        }
        let room = FINDINGS_KEPT_MAX - self.kept.len();
        self.kept.extend(other.kept.into_iter().take(room));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kept_findings_of_one_kind_are_bounded() {
        let mut findings = Findings::default();
        let spring = CampaignId::parse("spring").unwrap();
        let place = || Location { campaign: Some(spring.clone()), ..Location::default() };
        for _ in 0..10_000 {
            findings.add(FindingKind::CouponMissing, place(), "gone");
        }
        findings.add(FindingKind::MarkWrong, place(), "wrong");
        assert_eq!(findings.kept.len() as u64, ALIKE_KEPT_MAX + 1);
        assert_eq!(findings.counts[&FindingKind::CouponMissing], 10_000);
        assert_eq!(findings.of_campaign(&spring), 10_001);
    }
}
