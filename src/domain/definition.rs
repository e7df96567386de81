//! What a campaign offers: its definition, how it changes, and what no definition may be.

use serde::{Deserialize, Serialize};

use super::{
    code::CodeFormat,
    fault::Fault,
    ids::{CampaignId, Position, Timestamp},
};
use crate::planted;

/// Largest quota of a campaign; the schema's buckets and the holder tables are sized for it.
pub const QUOTA_MAX: u32 = 100_000_000;

/// Largest number of coupons that one user may hold in a campaign.
pub const PER_USER_LIMIT_MAX: u16 = 1_000;

/// Coupons per user of a campaign whose definition does not state a limit.
pub const PER_USER_LIMIT_DEFAULT: u16 = 1;

/// The rules that this binary decides by. A definition of another version is not decided by it.
pub const RULES_VERSION: u16 = 1;

/// Users per bucket of the by-user view, and how many buckets there are at most: few large ones,
/// so that the rows of one batch share a bucket and go out as one write.
const USERS_PER_BUCKET: u32 = 100_000;
const USER_BUCKETS_MAX: u32 = 16;

/// What an operator decides about a campaign.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Terms {
    /// Coupons that exist in all: 1 to [`QUOTA_MAX`].
    pub quota: u32,
    /// Coupons that one user may hold: 1 to [`PER_USER_LIMIT_MAX`].
    pub per_user_limit: u16,
    /// First record time at which coupons are issued; none: from the start.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub opens_at: Option<Timestamp>,
    /// First record time at which none is issued any more; none: never.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub closes_at: Option<Timestamp>,
    /// How codes look; never amended.
    pub code: CodeFormat,
}

/// A change of terms; what is `None` stays.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Amendment {
    /// New quota.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub quota: Option<u32>,
    /// New limit per user.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub per_user_limit: Option<u16>,
    /// New start of the window; `Some(None)` removes it.
    #[serde(skip_serializing_if = "Option::is_none", default, deserialize_with = "present")]
    pub opens_at: Option<Option<Timestamp>>,
    /// New end of the window; `Some(None)` removes it.
    #[serde(skip_serializing_if = "Option::is_none", default, deserialize_with = "present")]
    pub closes_at: Option<Option<Timestamp>>,
}

/// Tells a `null` (remove) from an absent field (keep).
fn present<'de, D, T>(deserializer: D) -> Result<Option<Option<T>>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de>,
{
    Option::<T>::deserialize(deserializer).map(Some)
}

impl Terms {
    /// Returns terms with this quota and the default of every other term.
    #[must_use]
    pub fn of(quota: u32) -> Self {
        Self {
            quota,
            per_user_limit: PER_USER_LIMIT_DEFAULT,
            opens_at: None,
            closes_at: None,
            code: CodeFormat::default(),
        }
    }

    /// Every rule that these terms break; empty when they are sound.
    #[must_use]
    pub fn faults(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        if !(1..=QUOTA_MAX).contains(&self.quota) {
            faults.push(Fault::new(
                "quota",
                format!("1 to {QUOTA_MAX}"),
                "give a number in this range",
            ));
        }
        if !(1..=PER_USER_LIMIT_MAX).contains(&self.per_user_limit) {
            let rule = format!("1 to {PER_USER_LIMIT_MAX}");
            faults.push(Fault::new("per_user_limit", rule, "give a number in this range"));
        }
        for (field, end) in [("opens_at", self.opens_at), ("closes_at", self.closes_at)] {
            if end.is_some_and(|time| !time.is_representable()) {
                faults.push(Fault::new(
                    field,
                    "a time from 1970 to 9999",
                    "give a time in this range",
                ));
            }
        }
        if let (Some(opens_at), Some(closes_at)) = (self.opens_at, self.closes_at)
            && closes_at <= opens_at
        {
            faults.push(Fault::new("closes_at", "later than opens_at", "give a later closes_at"));
        }
        faults.extend(self.code.faults());
        faults
    }

    /// These terms after `amendment`.
    #[must_use]
    pub fn amended(&self, amendment: &Amendment) -> Self {
        Self {
            quota: amendment.quota.unwrap_or(self.quota),
            per_user_limit: amendment.per_user_limit.unwrap_or(self.per_user_limit),
            opens_at: amendment.opens_at.unwrap_or(self.opens_at),
            closes_at: amendment.closes_at.unwrap_or(self.closes_at),
            code: self.code.clone(),
        }
    }
}

/// The whole of what a campaign decides by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Definition {
    /// What the operator decided.
    pub terms: Terms,
    /// Paused: nothing is issued until it is resumed.
    pub paused: bool,
    /// Closed for ever.
    pub closed: bool,
    /// Which rules decide it.
    pub rules_version: u16,
    /// Buckets of the by-user view, fixed by the first definition: 1 to 16.
    pub user_buckets: u8,
}

impl Definition {
    /// A new campaign's definition: neither paused nor closed.
    #[must_use]
    pub fn first(terms: Terms) -> Self {
        let buckets = terms.quota.div_ceil(USERS_PER_BUCKET).clamp(1, USER_BUCKETS_MAX);
        let user_buckets = u8::try_from(buckets).unwrap_or(u8::MAX);
        Self { terms, paused: false, closed: false, rules_version: RULES_VERSION, user_buckets }
    }

    /// Whether nothing is issued at `time` any more, whatever the quota.
    #[must_use]
    pub fn is_closed_at(&self, time: Timestamp) -> bool {
        let late = i64::from(planted!(ClosesLate));
        self.closed || self.terms.closes_at.is_some_and(|closes_at| time.0 >= closes_at.0 + late)
    }

    /// Whether `time` lies before the window.
    #[must_use]
    pub fn is_before_window(&self, time: Timestamp) -> bool {
        let late = i64::from(planted!(OpensLate));
        self.terms.opens_at.is_some_and(|opens_at| time.0 < opens_at.0 + late)
    }
}

/// The whole definition after an accepted control record: an immutable row keyed by its position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DefinitionVersion {
    /// Whose definition.
    pub campaign: CampaignId,
    /// The control record that it follows from.
    pub position: Position,
    /// That record's time.
    pub time: Timestamp,
    /// What holds from the next position on.
    pub definition: Definition,
    /// Coupons issued below this position.
    pub issued: u32,
    /// Keyed digest over all of the above.
    pub digest: [u8; 16],
}
