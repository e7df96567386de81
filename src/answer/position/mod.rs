//! The answer to a position, computed from the rows below it and the coupon at it. Rejections are
//! never stored; this function recomputes them.

use super::request_id::RequestContent;
use crate::domain::{
    coupon::Coupon,
    decision::{Decision, Refusal},
    definition::{Definition, DefinitionVersion, RULES_VERSION},
    ids::Position,
    reason::{Reason, Situation},
    record::{Change, Control},
};

/// Whether the rows below a position are all that there will be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// The decision may still come. Only a coupon at the position itself is an answer.
    Unsettled,
    /// The decision is stored, as far as it ever is: a missing row is an answer.
    Settled,
    /// A skip in force covers the position. Nobody decides it, so only a coupon at the position
    /// itself is an answer: an owner stored it before the skip was made.
    Skipped,
}

/// The answer to a request, with its coupon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answered<'a> {
    /// The user holds this coupon by the request, or by an earlier one with the same key.
    Issued(&'a Coupon),
    /// The user held `per_user_limit` coupons at that position; this is the latest of them.
    AlreadyIssued(&'a Coupon),
    /// No coupon, for this reason.
    Rejected(Reason),
    /// No other answer is left, so the campaign was sold out. The coupon with this sequence must be
    /// below the position: otherwise a row has vanished.
    SoldOut {
        /// The quota in effect.
        quota: u32,
    },
    /// The campaign is not defined at that position.
    Undefined,
    /// The version in effect has a rules version that this binary does not know.
    UnknownRules(u16),
}

/// Returns the coupon issued at the request's own position. It is an answer whether the position
/// is settled or not.
#[must_use]
pub(crate) fn issued_at<'a>(request: &RequestContent, coupons: &'a [Coupon]) -> Option<&'a Coupon> {
    coupons.iter().find(|coupon| {
        coupon.position == request.position
            && coupon.user == request.user
            && coupon.campaign == request.campaign
    })
}

/// Returns the answer to `request`, whose position must be settled. `versions` are the campaign's
/// versions in the order of offsets, `coupons` the user's coupons in any order. Both must be
/// complete below the position; rows above it change nothing.
///
/// "Sold out" is the residue: the reason that remains when every other one is ruled out. Rows that
/// have vanished leave it too, so the caller must prove it.
#[must_use]
pub(crate) fn answer_at<'a>(
    request: &RequestContent,
    versions: &[DefinitionVersion],
    coupons: &'a [Coupon],
) -> Answered<'a> {
    if let Some(coupon) = issued_at(request, coupons) {
        return Answered::Issued(coupon);
    }
    let Some(version) = in_effect_at(request.position, versions) else {
        return Answered::Undefined;
    };
    let definition = &version.definition;
    if definition.rules_version != RULES_VERSION {
        return Answered::UnknownRules(definition.rules_version);
    }
    let held = || {
        coupons.iter().filter(|coupon| {
            coupon.position < request.position
                && coupon.user == request.user
                && coupon.campaign == request.campaign
        })
    };
    let repeated = request
        .key_digest
        .and_then(|digest| held().find(|coupon| coupon.key_digest == Some(digest)));
    if let Some(coupon) = repeated {
        return Answered::Issued(coupon);
    }
    let latest = held().max_by_key(|coupon| coupon.sequence);
    if let Some(coupon) = latest
        && held().count() >= usize::from(definition.terms.per_user_limit)
    {
        return Answered::AlreadyIssued(coupon);
    }
    // Rows do not show how many coupons were issued below the position. But a request without a
    // coupon that no earlier reason rejects was rejected because the campaign was sold out.
    match Situation::at(definition, u32::MAX, request.time).reason() {
        Some(reason) if reason != Reason::SoldOut => Answered::Rejected(reason),
        _ => Answered::SoldOut { quota: definition.terms.quota },
    }
}

/// Returns the decision of `control` at `position`, which must be settled, from the versions of its
/// campaign; `None` if the campaign is not defined there. `issued` may be read later than the
/// position: it only goes into the refusal's figure.
#[must_use]
pub(crate) fn control_at(
    position: Position,
    control: &Control,
    versions: &[DefinitionVersion],
    issued: u32,
) -> Option<Decision> {
    if versions.iter().any(|version| version.position == position) {
        return Some(Decision::Accepted);
    }
    if matches!(control.change, Change::Released { .. }) {
        return Some(Decision::Accepted);
    }
    let version = in_effect_at(position, versions);
    let refusal = match (version, &control.change) {
        (None, Change::Defined { .. }) => Refusal::Invalid,
        (None, _) => return None,
        (Some(version), _) if control.based_on != Some(version.position.offset) => {
            Refusal::StaleVersion
        }
        (Some(version), change) => refused(&version.definition, change, issued),
    };
    Some(Decision::Refused(refusal))
}

/// Returns the definition version in effect at `position`: the last one below it.
#[must_use]
pub(crate) fn in_effect_at(
    position: Position,
    versions: &[DefinitionVersion],
) -> Option<&DefinitionVersion> {
    versions.iter().filter(|version| version.position < position).max_by_key(|at| at.position)
}

/// Returns why `change` of `definition` was refused. Call it only for a change that was refused.
fn refused(definition: &Definition, change: &Change, issued: u32) -> Refusal {
    match change {
        Change::Defined { .. } => Refusal::StaleVersion,
        _ if definition.closed => Refusal::Closed,
        Change::Amended { amendment } => {
            if definition.terms.amended(amendment).faults().is_empty() {
                Refusal::QuotaBelowIssued { issued }
            } else {
                Refusal::Invalid
            }
        }
        Change::Paused | Change::Resumed | Change::Closed | Change::Released { .. } => {
            Refusal::Invalid
        }
    }
}

#[cfg(test)]
mod tests;
