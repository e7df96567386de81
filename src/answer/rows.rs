//! Answers from the store, computed from progress, holds and rows that were read in this order.

use super::{
    position::{Answered, Standing, answer_at, control_at, issued_at},
    request_id::RequestContent,
};
use crate::domain::{
    answer::{Answer, CouponFace},
    coupon::Coupon,
    decision::Decision,
    definition::DefinitionVersion,
    ids::{CampaignId, Offset, Position, Sequence, UserId},
    keys::Keys,
    reason::Reason,
    record::Control,
    rows::{Hold, PartitionRows, Skip, SkipState},
};

/// Returns the durable progress of a partition; 0 if none was written in this log epoch.
#[must_use]
pub(crate) fn progress(rows: &PartitionRows, log_epoch: u32) -> Offset {
    let progress = rows.progress.as_ref();
    progress.filter(|progress| progress.log_epoch == log_epoch).map_or(0, |progress| progress.next)
}

/// Returns the offset below which every position of `campaign` is settled.
#[must_use]
pub(crate) fn settled_below(rows: &PartitionRows, log_epoch: u32, campaign: &CampaignId) -> Offset {
    let of_campaign = rows.holds.iter().filter(|hold| hold.campaign == *campaign);
    of_campaign.map(Hold::unsettled_from).fold(progress(rows, log_epoch), Offset::min)
}

/// Returns the standing of the position of `campaign` at `offset`. It is settled below progress and
/// under no hold. Before that, a skip in force decides: progress passes its range undecided.
#[must_use]
pub(crate) fn standing(
    rows: &PartitionRows,
    log_epoch: u32,
    campaign: &CampaignId,
    offset: Offset,
) -> Standing {
    let skipped = |state| move |skip: &Skip| skip.covers(offset, state);
    if rows.skips.iter().any(skipped(SkipState::InForce)) {
        return Standing::Skipped;
    }
    let covers = |hold: &Hold| hold.campaign == *campaign && hold.unsettled_from() <= offset;
    // A skip that is made ends in force or void, and nobody knows which.
    let is_settled = offset < progress(rows, log_epoch)
        && !rows.holds.iter().any(covers)
        && !rows.skips.iter().any(skipped(SkipState::Made));
    if is_settled { Standing::Settled } else { Standing::Unsettled }
}

/// The answer to a request as far as rows give one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum FromRows {
    /// The final answer.
    Answer(Answer),
    /// Rejected as sold out, if the coupon that used the quota up is below the position.
    SoldOut {
        /// Its sequence; never 0.
        quota: Sequence,
    },
    /// The decision may still come.
    NotYet,
    /// An operator skipped the position, and nobody decides it.
    Skipped,
    /// The position is settled and its campaign is not defined there. A request is appended only
    /// after its campaign was found in the store, so rows have vanished or the log has changed.
    Undefined,
    /// The version in effect has rules that this binary does not know.
    UnknownRules(u16),
}

/// Returns the answer to a request. A coupon at the position is an answer at once; a missing coupon
/// is one only when the position is settled. `coupons` are the user's, `versions` the campaign's.
#[must_use]
pub(crate) fn request_answer(
    content: &RequestContent,
    standing: Standing,
    versions: &[DefinitionVersion],
    coupons: &[Coupon],
) -> FromRows {
    if let Some(coupon) = issued_at(content, coupons) {
        return FromRows::Answer(Answer::Issued { coupon: face(coupon) });
    }
    match standing {
        Standing::Unsettled => return FromRows::NotYet,
        Standing::Skipped => return FromRows::Skipped,
        Standing::Settled => {}
    }
    match answer_at(content, versions, coupons) {
        Answered::Issued(coupon) => FromRows::Answer(Answer::Issued { coupon: face(coupon) }),
        Answered::AlreadyIssued(coupon) => {
            FromRows::Answer(Answer::AlreadyIssued { coupon: face(coupon) })
        }
        Answered::Rejected(reason) => FromRows::Answer(Answer::Rejected { reason }),
        Answered::SoldOut { quota: 0 } => {
            FromRows::Answer(Answer::Rejected { reason: Reason::SoldOut })
        }
        Answered::SoldOut { quota } => FromRows::SoldOut { quota },
        Answered::Undefined => FromRows::Undefined,
        Answered::UnknownRules(version) => FromRows::UnknownRules(version),
    }
}

/// Returns the answer to a control record; `None` if it may still come, was skipped, or the campaign
/// is not defined there.
#[must_use]
pub(crate) fn control_answer(
    position: Position,
    control: &Control,
    standing: Standing,
    versions: &[DefinitionVersion],
    issued: u32,
) -> Option<Answer> {
    let accepted = versions.iter().any(|version| version.position == position);
    if standing != Standing::Settled {
        return accepted.then_some(Answer::Accepted);
    }
    match control_at(position, control, versions, issued)? {
        Decision::Refused(refusal) => Some(Answer::Refused { refusal }),
        _ => Some(Answer::Accepted),
    }
}

/// Returns the part of `coupon` that clients see.
#[must_use]
pub(crate) fn face(coupon: &Coupon) -> CouponFace {
    CouponFace { sequence: coupon.sequence, code: coupon.code.clone(), issued_at: coupon.issued_at }
}

/// Returns the first of a user's `coupons` that was altered or belongs to another user or campaign.
#[must_use]
pub(crate) fn unsound<'a>(
    coupons: &'a [Coupon],
    campaign: &CampaignId,
    user: &UserId,
    keys: &Keys,
) -> Option<&'a Coupon> {
    coupons.iter().find(|coupon| coupon.user != *user || !is_sound(coupon, campaign, keys))
}

/// Returns whether `coupon` is as the campaign issued it.
#[must_use]
pub(crate) fn is_sound(coupon: &Coupon, campaign: &CampaignId, keys: &Keys) -> bool {
    coupon.campaign == *campaign && coupon.digest == keys.coupon_digest(coupon)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{
        ids::{Partition, Timestamp},
        rows::Progress,
    };

    const PARTITION: Partition = 3;

    fn spring() -> CampaignId {
        CampaignId::parse("spring").unwrap()
    }

    fn rows(next: Offset, skips: &[(Offset, Offset, SkipState)]) -> PartitionRows {
        let progress = Progress { partition: PARTITION, log_epoch: 1, next, last: None };
        let skip = |&(from, to, state): &(Offset, Offset, SkipState)| {
            let (reason, by) = (String::new(), String::new());
            Skip { partition: PARTITION, from, to, reason, by, state }
        };
        let skips = skips.iter().map(skip).collect();
        PartitionRows { progress: Some(progress), skips, ..PartitionRows::default() }
    }

    fn standings<const N: usize>(rows: &PartitionRows, offsets: [Offset; N]) -> [Standing; N] {
        offsets.map(|offset| standing(rows, 1, &spring(), offset))
    }

    #[test]
    fn a_skip_in_force_outweighs_progress_and_holds() {
        use Standing::{Settled, Skipped, Unsettled};
        let behind = rows(10, &[(10, 20, SkipState::InForce)]);
        assert_eq!(standings(&behind, [9, 10, 19, 20]), [Settled, Skipped, Skipped, Unsettled]);
        let passed = rows(30, &[(10, 20, SkipState::InForce)]);
        assert_eq!(standings(&passed, [9, 10, 19, 20]), [Settled, Skipped, Skipped, Settled]);
    }

    #[test]
    fn a_skip_that_is_made_leaves_its_range_pending() {
        use Standing::{Settled, Unsettled};
        let made = rows(30, &[(10, 20, SkipState::Made)]);
        assert_eq!(standings(&made, [9, 10, 19, 20]), [Settled, Unsettled, Unsettled, Settled]);
        let void = rows(30, &[(10, 20, SkipState::Void)]);
        assert_eq!(standings(&void, [9, 10, 19, 20]), [Settled; 4], "it counts for nothing");
    }

    #[test]
    fn only_a_coupon_at_it_answers_a_skipped_position() {
        let user = UserId::parse("ada").unwrap();
        let position = Position { log_epoch: 1, partition: PARTITION, offset: 12 };
        let (campaign, time, key_digest) = (spring(), Timestamp(5), None);
        let content = RequestContent { position, time, campaign, user: user.clone(), key_digest };
        let coupon = |offset| Coupon {
            campaign: spring(),
            sequence: 1,
            user: user.clone(),
            code: "C-1".into(),
            issued_at: Timestamp(5),
            position: Position { offset, ..position },
            key_digest: None,
            user_bucket: 0,
            rules_version: 1,
            digest: [0; 16],
        };
        let answer = |coupons: &[Coupon]| request_answer(&content, Standing::Skipped, &[], coupons);
        assert_eq!(answer(&[]), FromRows::Skipped);
        assert_eq!(answer(&[coupon(11)]), FromRows::Skipped, "an earlier coupon is none of it");
        let issued = answer(&[coupon(12)]);
        assert!(matches!(issued, FromRows::Answer(Answer::Issued { .. })), "{issued:?}");
    }
}
