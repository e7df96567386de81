//! What the log holds: requests and control records.

use serde::{Deserialize, Serialize};

use super::{
    definition::{Amendment, Terms},
    ids::{CampaignId, IdempotencyKey, Offset, UserId},
};

/// A decoded record of one campaign.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// One user asks for one coupon.
    Request(Request),
    /// An operator changes the campaign. Apart, for it is rare and large, and requests are moved
    /// around by the million.
    Control(Box<Control>),
}

impl From<Control> for Record {
    fn from(control: Control) -> Self {
        Self::Control(Box::new(control))
    }
}

impl Record {
    /// The campaign that the record belongs to.
    #[must_use]
    pub fn campaign(&self) -> &CampaignId {
        match self {
            Self::Request(request) => &request.campaign,
            Self::Control(control) => &control.campaign,
        }
    }
}

/// One user asks one campaign for one coupon; its identity is its position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Which campaign is asked.
    pub campaign: CampaignId,
    /// Who asks.
    pub user: UserId,
    /// What makes a repetition the same request to its client.
    pub idempotency_key: Option<IdempotencyKey>,
}

/// A change of a campaign, made from a known definition version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Control {
    /// Which campaign changes.
    pub campaign: CampaignId,
    /// Offset of the definition version that the change was made from; none for the first.
    pub based_on: Option<Offset>,
    /// What changes.
    pub change: Change,
}

/// What a control record changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Change {
    /// The campaign comes to be.
    Defined {
        /// What it offers.
        terms: Terms,
    },
    /// Its terms change.
    Amended {
        /// What changes.
        amendment: Amendment,
    },
    /// Nothing is issued for now.
    Paused,
    /// Coupons are issued again.
    Resumed,
    /// Nothing is ever issued again.
    Closed,
    /// A hold is lifted; seen by the owner outside the fold, which only accepts it.
    Released,
}
