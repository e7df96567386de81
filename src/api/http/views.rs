//! What is shown, in the shapes and spellings that the outside relies on.

use std::borrow::Cow;

use serde::Serialize;

use super::{definition::TermsBody, times::Rfc3339};
use crate::{
    api::service::{AdminView, CampaignView, Changed, NotReady, UserCoupons},
    domain::{
        answer::{Answer, CouponFace},
        definition::Audience,
        ids::{CampaignId, Offset, Partition, Position, Sequence, UserId},
        rows::{Hold, HoldKind, Skip},
    },
};

/// An issue request with its status.
#[derive(Serialize)]
pub(super) struct RequestBody<'a> {
    request_id: &'a str,
    campaign_id: &'a CampaignId,
    user_id: &'a UserId,
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    coupon: Option<CouponBody<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    queue_ahead: Option<u64>,
}

impl RequestBody<'_> {
    /// Every status that a request can have.
    pub(super) const STATUSES: [&'static str; 4] =
        ["pending", "issued", "already_issued", "rejected"];
}

impl<'a> RequestBody<'a> {
    /// Returns the body of a request that is not decided yet.
    pub(super) fn pending(
        request_id: &'a str,
        campaign_id: &'a CampaignId,
        user_id: &'a UserId,
    ) -> Self {
        let (coupon, reason, queue_ahead) = (None, None, None);
        Self { request_id, campaign_id, user_id, status: "pending", coupon, reason, queue_ahead }
    }

    /// Adds the number of records before the request.
    pub(super) fn behind(self, queue_ahead: u64) -> Self {
        Self { queue_ahead: Some(queue_ahead), ..self }
    }

    /// Adds the decision. Returns `None` if `answer` belongs to a control record.
    pub(super) fn decided(self, answer: &'a Answer) -> Option<Self> {
        let (status, coupon, reason) = match answer {
            Answer::Issued { coupon } => ("issued", Some(coupon), None),
            Answer::AlreadyIssued { coupon } => ("already_issued", Some(coupon), None),
            Answer::Rejected { reason } => ("rejected", None, Some(reason.name())),
            Answer::Accepted | Answer::Refused { .. } => return None,
        };
        Some(Self { status, coupon: coupon.map(CouponBody::from), reason, ..self })
    }

    /// Returns `pending`, `issued`, `already_issued` or `rejected`.
    pub(super) fn status(&self) -> &'static str {
        self.status
    }
}

/// A skip.
#[derive(Serialize)]
pub(super) struct SkipBody<'a> {
    partition: Partition,
    from: Offset,
    to: Offset,
    state: &'static str,
    reason: &'a str,
    by: &'a str,
}

impl<'a> From<&'a Skip> for SkipBody<'a> {
    fn from(skip: &'a Skip) -> Self {
        let Skip { partition, from, to, state, .. } = *skip;
        Self { partition, from, to, state: state.name(), reason: &skip.reason, by: &skip.by }
    }
}

/// The secret of the instance.
#[derive(Serialize)]
pub(super) struct SecretBody<'a> {
    pub(super) secret: &'a str,
}

/// A coupon as its holder sees it.
#[derive(Serialize)]
pub(super) struct CouponBody<'a> {
    sequence: Sequence,
    code: &'a str,
    issued_at: Rfc3339,
}

impl<'a> From<&'a CouponFace> for CouponBody<'a> {
    fn from(coupon: &'a CouponFace) -> Self {
        let issued_at = Rfc3339(coupon.issued_at);
        Self { sequence: coupon.sequence, code: &coupon.code, issued_at }
    }
}

/// The coupons of a user in a campaign.
#[derive(Serialize)]
pub(super) struct CouponsBody<'a> {
    /// In sequence order.
    coupons: Vec<CouponBody<'a>>,
    /// Every coupon below is among them.
    as_of: Position,
}

impl<'a> From<&'a UserCoupons> for CouponsBody<'a> {
    fn from(list: &'a UserCoupons) -> Self {
        Self { coupons: list.coupons.iter().map(CouponBody::from).collect(), as_of: list.as_of }
    }
}

/// A campaign.
#[derive(Serialize)]
pub(super) struct CampaignBody<'a> {
    campaign_id: &'a CampaignId,
    state: &'static str,
    #[serde(flatten)]
    terms: TermsBody<'a>,
    issued: u32,
    remaining: u32,
    as_of: Position,
}

impl<'a> From<&'a CampaignView> for CampaignBody<'a> {
    fn from(view: &'a CampaignView) -> Self {
        Self {
            campaign_id: &view.campaign,
            state: view.state.name(),
            terms: TermsBody { terms: &view.definition.terms, audience: Audience::Public },
            issued: view.issued,
            remaining: view.remaining,
            as_of: view.as_of,
        }
    }
}

/// A campaign as operators see it.
#[derive(Serialize)]
pub(super) struct AdminBody<'a> {
    #[serde(flatten)]
    campaign: CampaignBody<'a>,
    #[serde(flatten)]
    terms: TermsBody<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    actor: Option<ActorBody<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hold: Option<HoldBody<'a>>,
    /// What a change may not have meant.
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    warnings: &'a [String],
}

#[derive(Serialize)]
struct ActorBody<'a> {
    state: &'static str,
    reason: Option<&'a str>,
}

#[derive(Serialize)]
struct HoldBody<'a> {
    kind: HoldKind,
    from: Offset,
    reason: Cow<'a, str>,
}

impl<'a> From<&'a Hold> for HoldBody<'a> {
    fn from(hold: &'a Hold) -> Self {
        Self { kind: hold.kind, from: hold.from, reason: Cow::Borrowed(&hold.reason) }
    }
}

impl<'a> From<&'a CampaignView> for AdminBody<'a> {
    fn from(view: &'a CampaignView) -> Self {
        let hold = view.hold.as_ref().map(HoldBody::from);
        let terms = TermsBody { terms: &view.definition.terms, audience: Audience::Admin };
        Self { campaign: CampaignBody::from(view), terms, actor: None, hold, warnings: &[] }
    }
}

impl<'a> From<&'a Changed> for AdminBody<'a> {
    fn from(changed: &'a Changed) -> Self {
        Self { warnings: &changed.warnings, ..Self::from(&changed.view) }
    }
}

impl<'a> From<&'a AdminView> for AdminBody<'a> {
    fn from(AdminView { view, actor, not_releasable }: &'a AdminView) -> Self {
        let actor = ActorBody { state: actor.state, reason: actor.reason.as_deref() };
        let mut body = Self { actor: Some(actor), ..Self::from(view) };
        if let (Some(hold), Some(why)) = (&mut body.hold, not_releasable) {
            hold.reason = format!("{}; it cannot be released: {why}", hold.reason).into();
        }
        body
    }
}

/// A node that is well.
#[derive(Serialize)]
pub(super) struct HealthBody<'a> {
    /// `live` or `ready`.
    pub(super) status: &'static str,
    /// What does not work all the same.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) degraded: Vec<PartBody<'a>>,
}

/// A part of the node that does not work, and why.
#[derive(Serialize)]
pub(super) struct PartBody<'a> {
    part: &'a str,
    reason: &'a str,
}

impl<'a> PartBody<'a> {
    pub(super) fn of(NotReady { part, reason }: &'a NotReady) -> Self {
        Self { part, reason }
    }
}
