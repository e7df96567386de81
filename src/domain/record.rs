//! The records of the log: requests and control records.

use serde::{Deserialize, Serialize};

use super::{
    definition::{Amendment, Terms},
    ids::{CampaignId, IdempotencyKey, Offset, UserId},
    rows::HoldName,
};

/// A decoded record of one campaign.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// One user asks for one coupon.
    Request(Request),
    /// An operator changes the campaign. Boxed, because control records are rare and large, and
    /// requests are moved by the million.
    Control(Box<Control>),
}

impl From<Control> for Record {
    fn from(control: Control) -> Self {
        Self::Control(Box::new(control))
    }
}

impl Record {
    /// Returns the record's campaign.
    #[must_use]
    pub fn campaign(&self) -> &CampaignId {
        match self {
            Self::Request(request) => &request.campaign,
            Self::Control(control) => &control.campaign,
        }
    }
}

/// One user asks one campaign for one coupon. A request is identified by its position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The campaign.
    pub campaign: CampaignId,
    /// The user.
    pub user: UserId,
    /// A repetition with the same key gets the same coupon.
    pub idempotency_key: Option<IdempotencyKey>,
}

/// A change of a campaign, made from a known definition version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Control {
    /// The campaign.
    pub campaign: CampaignId,
    /// Offset of the definition version that the change is based on; `None` for the first.
    pub based_on: Option<Offset>,
    /// Who asks: the name of a key of the admin listener.
    pub by: String,
    /// The node makes the change again by itself if another version is in effect.
    pub retried: bool,
    /// The change.
    pub change: Change,
}

impl Control {
    /// Returns a change that is made once.
    #[must_use]
    pub fn once(by: &str, campaign: CampaignId, based_on: Option<Offset>, change: Change) -> Self {
        Self { campaign, based_on, by: by.to_owned(), retried: false, change }
    }
}

/// The change of a control record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Change {
    /// Defines the campaign.
    Defined {
        /// Its terms.
        terms: Terms,
    },
    /// Changes the campaign's terms.
    Amended {
        /// The changed terms.
        amendment: Amendment,
    },
    /// Stops issuing until the campaign is resumed.
    Paused,
    /// Ends a pause.
    Resumed,
    /// Stops issuing for good.
    Closed,
    /// Releases holds of the campaign. The partition's owner acts on it; the fold only accepts it.
    Released {
        /// The holds. A hold that is not named stays as it is, so a record that is appended again
        /// releases nothing.
        holds: Vec<HoldName>,
    },
}
