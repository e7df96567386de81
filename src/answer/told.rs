//! From a decision of the feed to the answer. The feed carries only what the request id does not hold.

use crate::{
    domain::{
        answer::{Answer, CouponFace},
        code::CodeFormat,
        decision::{Decision, Held},
        ids::{CampaignId, UserId},
        keys::Keys,
    },
    wire::feed_message::FeedDecision,
};

/// The record whose decision was told, as its request id or its appender knows it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked<'a> {
    pub(crate) campaign: &'a CampaignId,
    /// None of a control record.
    pub(crate) user: Option<&'a UserId>,
    pub(crate) log_epoch: u32,
}

/// What a decision of the feed says of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Told {
    /// It is decided so.
    Decided(Decision),
    /// The user was rejected and holds a coupon, which only rows show.
    InRows,
    /// The decision is of another record.
    Foreign,
}

/// Returns what a decision of the feed says of a record at its position.
#[must_use]
pub(crate) fn told(told: &FeedDecision, asked: Asked<'_>, keys: &Keys) -> Told {
    let FeedDecision { decision, holds, check, .. } = *told;
    if check != keys.record_check(keys.campaign_hash(asked.campaign), asked.user) {
        return Told::Foreign;
    }
    let is_of_control = matches!(decision, Decision::Accepted | Decision::Refused(_));
    match asked.user.is_none() == is_of_control {
        true if holds => Told::InRows,
        true => Told::Decided(decision),
        false => Told::Foreign,
    }
}

/// Returns whether an answer has a code.
#[must_use]
pub(crate) fn has_code(decision: &Decision) -> bool {
    matches!(decision, Decision::Issued(_) | Decision::AlreadyIssued(_))
}

/// Returns the answer by a decision; `None` if that has a code and the campaign's `format` is not given.
/// Any version has it, because it is never amended.
#[must_use]
pub(crate) fn answer(
    decision: Decision,
    Asked { campaign, user, log_epoch }: Asked<'_>,
    format: Option<&CodeFormat>,
    keys: &Keys,
) -> Option<Answer> {
    let face = |Held { sequence, issued_at }| {
        let code = format?.spell(keys, campaign, log_epoch, sequence, user?);
        Some(CouponFace { sequence, code, issued_at })
    };
    Some(match decision {
        Decision::Issued(held) => Answer::Issued { coupon: face(held)? },
        Decision::AlreadyIssued(held) => Answer::AlreadyIssued { coupon: face(held)? },
        Decision::Rejected(reason) => Answer::Rejected { reason },
        Decision::Accepted => Answer::Accepted,
        Decision::Refused(refusal) => Answer::Refused { refusal },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{decision::Refusal, ids::Timestamp, reason::Reason};

    fn keys() -> Keys {
        Keys::derive(b"a secret of thirty-two bytes or more")
    }

    /// Returns what `decision` of ada's record in spring says of the record that is asked for.
    fn said(decision: Decision, holds: bool, campaign: &str, user: Option<&str>) -> Told {
        let of = |user: &str| UserId::parse(user).unwrap();
        let hash = keys().campaign_hash(&CampaignId::parse("spring").unwrap());
        let is_request = !matches!(decision, Decision::Accepted | Decision::Refused(_));
        let ada = is_request.then(|| of("ada"));
        let check = keys().record_check(hash, ada.as_ref());
        let decision = FeedDecision { offset: 9, decision, holds, check };
        let (campaign, user) = (CampaignId::parse(campaign).unwrap(), user.map(of));
        told(&decision, Asked { campaign: &campaign, user: user.as_ref(), log_epoch: 1 }, &keys())
    }

    #[test]
    fn only_the_record_that_was_decided_is_answered() {
        let sold_out = Decision::Rejected(Reason::SoldOut);
        let refused = Decision::Refused(Refusal::QuotaBelowIssued { issued: 3 });
        assert_eq!(said(sold_out, false, "spring", Some("ada")), Told::Decided(sold_out));
        assert_eq!(said(refused, false, "spring", None), Told::Decided(refused));
        for (decision, campaign, user) in [
            (sold_out, "spring", Some("ben")),
            (sold_out, "autumn", Some("ada")),
            (sold_out, "spring", None),
            (refused, "spring", Some("ada")),
            (refused, "autumn", None),
        ] {
            assert_eq!(said(decision, false, campaign, user), Told::Foreign, "{campaign} {user:?}");
        }
    }

    #[test]
    fn a_rejected_holder_is_answered_from_rows() {
        let paused = Decision::Rejected(Reason::Paused);
        assert_eq!(said(paused, true, "spring", Some("ada")), Told::InRows);
        assert_eq!(said(paused, true, "spring", Some("ben")), Told::Foreign);
    }

    #[test]
    fn a_told_coupon_has_the_code_of_its_row() {
        let (campaign, user) =
            (CampaignId::parse("spring").unwrap(), UserId::parse("ada").unwrap());
        let asked = Asked { campaign: &campaign, user: Some(&user), log_epoch: 1 };
        let held = Held { sequence: 17, issued_at: Timestamp(5) };
        let format = CodeFormat::default();
        let code = format.spell(&keys(), &campaign, 1, 17, &user);
        let coupon = CouponFace { sequence: 17, code, issued_at: Timestamp(5) };
        for (decision, expected) in [
            (Decision::Issued(held), Answer::Issued { coupon: coupon.clone() }),
            (Decision::AlreadyIssued(held), Answer::AlreadyIssued { coupon }),
        ] {
            assert!(has_code(&decision));
            assert_eq!(answer(decision, asked, Some(&format), &keys()), Some(expected));
            assert_eq!(answer(decision, asked, None, &keys()), None);
        }
    }
}
