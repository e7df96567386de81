//! Answers from the store, computed from progress, holds and rows that were read in this order.

use super::{
    position::{Answered, answer_at, control_at, issued_at},
    request_id::RequestContent,
};
use crate::{
    domain::{
        answer::{Answer, CouponFace},
        coupon::Coupon,
        decision::Decision,
        definition::DefinitionVersion,
        ids::{CampaignId, Offset, Position, Sequence, UserId},
        keys::Keys,
        reason::Reason,
        record::Control,
        rows::{Hold, PartitionRows},
    },
    wire::feed_message::FeedDecision,
};

/// Returns the durable progress of a partition; 0 if none was written in this log epoch.
#[must_use]
pub(crate) fn progress(rows: &PartitionRows, log_epoch: u32) -> Offset {
    let progress = rows.progress.as_ref();
    progress.filter(|progress| progress.log_epoch == log_epoch).map_or(0, |progress| progress.next)
}

/// Returns whether the position of `campaign` at `offset` is settled: below progress and under no
/// hold.
#[must_use]
pub(crate) fn is_settled(
    rows: &PartitionRows,
    log_epoch: u32,
    campaign: &CampaignId,
    offset: Offset,
) -> bool {
    let covers = |hold: &Hold| hold.campaign == *campaign && hold.unsettled_from() <= offset;
    offset < progress(rows, log_epoch) && !rows.holds.iter().any(covers)
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
    /// The position is settled and its campaign is not defined there. A request is appended only
    /// after its campaign was found in the store, so rows have vanished or the log has changed.
    Undefined,
    /// The version in effect has rules that this binary does not know.
    UnknownRules(u16),
}

/// Returns the answer to a request. A coupon at the position is an answer at once; a missing coupon
/// is one only when the position is `settled`. `coupons` are the user's, `versions` the campaign's.
#[must_use]
pub(crate) fn request_answer(
    content: &RequestContent,
    settled: bool,
    versions: &[DefinitionVersion],
    coupons: &[Coupon],
) -> FromRows {
    if !settled {
        return match issued_at(content, coupons) {
            Some(coupon) => FromRows::Answer(Answer::Issued { coupon: face(coupon) }),
            None => FromRows::NotYet,
        };
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

/// Returns the answer to a control record; `None` if it may still come or the campaign is not
/// defined there.
#[must_use]
pub(crate) fn control_answer(
    position: Position,
    control: &Control,
    settled: bool,
    versions: &[DefinitionVersion],
    issued: u32,
) -> Option<Answer> {
    let accepted = versions.iter().any(|version| version.position == position);
    if !settled {
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

/// Returns whether a decision of the feed belongs to the record that was appended at its position.
#[must_use]
pub(crate) fn is_of(decision: &FeedDecision, campaign: &CampaignId, user: Option<&UserId>) -> bool {
    decision.campaign_id == *campaign && decision.user_id.as_ref() == user
}
