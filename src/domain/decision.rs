//! Decisions: the answer to one record. A refusal is a value, never an error.

use serde::{Deserialize, Serialize};

use super::{
    coupon::Coupon,
    definition::DefinitionVersion,
    ids::{Sequence, Timestamp},
    reason::Reason,
};

/// The answer to one record. The log below the record determines it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// The user holds this coupon by this request, or by an earlier one with the same key.
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

/// A coupon that a user holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// The coupon's place in the campaign.
    pub sequence: Sequence,
    /// Record time of the request that got the coupon.
    pub issued_at: Timestamp,
}

/// Why a control record changed nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "refusal", rename_all = "snake_case")]
pub enum Refusal {
    /// It was made from another definition version than the one in effect.
    StaleVersion,
    /// The quota would be below the number of issued coupons.
    QuotaBelowIssued {
        /// Coupons issued at that position.
        issued: u32,
    },
    /// The campaign is closed for good.
    Closed,
    /// The terms break a rule.
    Invalid,
}

/// The outcome of one record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The record is decided.
    Decided {
        /// The decision.
        decision: Decision,
        /// The row that must be durable before the decision is published.
        row: Option<DerivedRow>,
    },
    /// The campaign is not defined at this position. The record is a dead letter.
    Undefined,
}

/// A row that is derived from one record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DerivedRow {
    /// A coupon was issued.
    Coupon(Coupon),
    /// The definition changed.
    Version(Box<DefinitionVersion>),
}
