//! Answers from the store: what progress, holds and rows say of a position, read in this order.

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
        ids::{CampaignId, Offset, Position, UserId},
        keys::Keys,
        record::Control,
        rows::PartitionRows,
    },
    planted,
    wire::feed_message::FeedDecision,
};

/// The first offset of a partition that is not settled, by durable progress.
#[must_use]
pub fn progress(rows: &PartitionRows, log_epoch: u32) -> Offset {
    let progress = rows.progress.as_ref();
    progress.filter(|progress| progress.log_epoch == log_epoch).map_or(0, |progress| progress.next)
}

/// Whether the position of `campaign` at `offset` is settled: below progress, and under no hold.
#[must_use]
pub fn is_settled(
    rows: &PartitionRows,
    log_epoch: u32,
    campaign: &CampaignId,
    offset: Offset,
) -> bool {
    let held = rows.holds.iter().any(|hold| {
        hold.campaign == *campaign && hold.unsettled_from() <= offset && !planted!(HoldNotRead)
    });
    (offset < progress(rows, log_epoch) || planted!(MissingRowAboveProgress)) && !held
}

/// What rows say of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FromRows {
    /// The answer, for ever.
    Answer(Answer),
    /// It may still come.
    NotYet,
    /// FeedDecision, and its campaign is not defined there. A request is appended only once its
    /// campaign was found in the store, so rows or log are not what they were.
    Undefined,
    /// Decided by rules that this binary does not know.
    UnknownRules(u16),
}

/// The answer to a request. A coupon at the position is one at once; a missing coupon only when
/// the position is `settled`. `coupons` are its user's, `versions` those of its campaign.
#[must_use]
pub fn request_answer(
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
        Answered::Undefined => FromRows::Undefined,
        Answered::UnknownRules(version) => FromRows::UnknownRules(version),
    }
}

/// The answer to a control record; none where it may still come, or its campaign is not defined.
#[must_use]
pub fn control_answer(
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

/// What a client is shown of `coupon`.
#[must_use]
pub fn face(coupon: &Coupon) -> CouponFace {
    CouponFace { sequence: coupon.sequence, code: coupon.code.clone(), issued_at: coupon.issued_at }
}

/// The coupon of `coupons`, read as those of one user, that is not what was written.
#[must_use]
pub fn unsound<'a>(
    coupons: &'a [Coupon],
    campaign: &CampaignId,
    user: &UserId,
    keys: &Keys,
) -> Option<&'a Coupon> {
    let sound = |coupon: &&Coupon| {
        coupon.campaign == *campaign
            && coupon.user == *user
            && coupon.digest == keys.coupon_digest(coupon)
    };
    coupons.iter().find(|coupon| !sound(coupon))
}

/// Whether what the feed told of a position is of the record that was appended there.
#[must_use]
pub fn is_of(settled: &FeedDecision, campaign: &CampaignId, user: Option<&UserId>) -> bool {
    settled.campaign_id == *campaign && settled.user_id.as_ref() == user
}
