//! The answer to one record. A value, never an error.

use serde::{Deserialize, Serialize};

use super::{
    coupon::Coupon,
    definition::DefinitionVersion,
    ids::{Sequence, Timestamp},
};

/// The answer to one record, fixed for ever by the log below it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// The request's user holds this coupon by it (or by an earlier one with the same key).
    Issued(Held),
    /// The user holds `per_user_limit` coupons already; this is the latest.
    AlreadyIssued(Held),
    /// No coupon, for this reason.
    Rejected(Reason),
    /// The control record is in effect.
    Accepted,
    /// The control record changed nothing.
    Refused(Refusal),
}

/// A coupon that a user holds, as the campaign remembers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// Its place in the campaign.
    pub sequence: Sequence,
    /// The record time of the request that it was issued to.
    pub issued_at: Timestamp,
}

/// Why a request is given no coupon. The first that holds, in this order, is the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// Closed by an operator, or past `closes_at`.
    Closed,
    /// Paused by an operator.
    Paused,
    /// Before `opens_at`.
    NotOpenYet,
    /// No seat remains.
    SoldOut,
}

impl Reason {
    /// Every reason, in the order in which they are looked at.
    pub const ALL: [Self; 4] = [Self::Closed, Self::Paused, Self::NotOpenYet, Self::SoldOut];

    /// The reason as the outside spells it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Paused => "paused",
            Self::NotOpenYet => "not_open_yet",
            Self::SoldOut => "sold_out",
        }
    }
}

/// Why a control record changed nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "refusal", rename_all = "snake_case")]
pub enum Refusal {
    /// It was made from another definition version than the one in effect.
    StaleVersion,
    /// The quota would be below what is issued.
    QuotaBelowIssued {
        /// Coupons issued at that position.
        issued: u32,
    },
    /// The campaign is closed for ever.
    Closed,
    /// The terms break a rule.
    Invalid,
}

/// What one record comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Decided, with the row that follows from it, if any.
    Decided {
        /// The answer.
        decision: Decision,
        /// What must be durable before the answer is said.
        row: Option<DerivedRow>,
    },
    /// No decision is possible: the campaign is not defined at this position.
    Undefined,
}

/// A row that follows from one record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DerivedRow {
    /// A coupon was issued.
    Coupon(Coupon),
    /// The definition changed.
    Version(Box<DefinitionVersion>),
}
