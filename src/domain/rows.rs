//! What is stored besides coupons and definition versions: progress, marks and holds.

use serde::{Deserialize, Serialize};

use super::{
    coupon::Coupon,
    definition::DefinitionVersion,
    ids::{CampaignId, Offset, Partition, Sequence},
};

/// A watermark made durable: every position below `next` is decided and stored, holds aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// Whose progress.
    pub partition: Partition,
    /// Which life of the log.
    pub log_epoch: u32,
    /// The first offset that is not settled.
    pub next: Offset,
    /// The last record below `next` and its digest, by which a rewritten tail is noticed; none
    /// when there is none.
    pub last: Option<LastRecord>,
}

/// The last settled record of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastRecord {
    /// Its offset.
    pub offset: Offset,
    /// Keyed digest of its key and value.
    pub digest: [u8; 16],
}

/// How many coupons a campaign has below an offset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    /// Which campaign.
    pub campaign: CampaignId,
    /// Below which offset of its partition.
    pub offset: Offset,
    /// The highest sequence below it.
    pub issued: Sequence,
}

/// Why a hold was put on a campaign.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HoldKind {
    /// The campaign failed repeatedly at one position; every new owner tries again by itself.
    Failure,
    /// Log and store contradict each other; only an operator's release tries again.
    Contradiction,
}

/// How far a hold has come. It never goes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HoldState {
    /// The campaign decides nothing.
    Open,
    /// An operator asked to try again.
    Released,
    /// The replay from `from` met the live position; the campaign decides again.
    Closed,
}

/// A campaign that decides nothing for now. Keyed by campaign, `from` and `number`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hold {
    /// Which campaign.
    pub campaign: CampaignId,
    /// Its partition.
    pub partition: Partition,
    /// The lowest position that it touches.
    pub from: Offset,
    /// Tells this hold from earlier ones of the campaign: 1 more than there were before it.
    pub number: u32,
    /// Why, as a kind.
    pub kind: HoldKind,
    /// Why, as a sentence for the operator.
    pub reason: String,
    /// How far it has come.
    pub state: HoldState,
    /// Once closed: the campaign's records below are all decided and stored, by an owner that had
    /// read every one of them. Only ever raised. 0 until then.
    pub until: Offset,
}

impl Hold {
    /// The lowest position that this hold leaves unsettled. A closed hold still covers what
    /// another owner, which had not heard of the closing, may have let pass under it.
    #[must_use]
    pub fn unsettled_from(&self) -> Offset {
        match self.state {
            HoldState::Open | HoldState::Released => self.from,
            HoldState::Closed => self.from.max(self.until),
        }
    }

    /// Orders the states of one hold: whatever has the higher rank is the later word on it.
    #[must_use]
    pub fn rank(&self) -> u64 {
        match self.state {
            HoldState::Open => 0,
            HoldState::Released => 1,
            HoldState::Closed => self.until.saturating_add(2),
        }
    }

    /// Whether both are words on one hold of a campaign.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        (self.from, self.number) == (other.from, other.number)
    }

    /// Whether it quarantines its campaign.
    #[must_use]
    pub fn is_in_force(&self) -> bool {
        self.state != HoldState::Closed
    }
}

/// What the store knows of a partition, read in this order, each at quorum.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PartitionRows {
    /// Its progress, if it was ever written.
    pub progress: Option<Progress>,
    /// Every hold of its campaigns, closed ones too.
    pub holds: Vec<Hold>,
}

/// What the store knows of a campaign, coupons aside, read in this order, each at quorum.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CampaignRows {
    /// Every hold, closed ones too.
    pub holds: Vec<Hold>,
    /// Its mark, if it was ever written.
    pub mark: Option<Mark>,
    /// Every definition version in the order of offsets.
    pub versions: Vec<DefinitionVersion>,
}

/// One row to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Row {
    /// A coupon, in both views: by sequence and by user.
    Coupon(Coupon),
    /// A definition version; makes the campaign appear in the listing.
    Version(DefinitionVersion),
    /// A hold, or its next state.
    Hold(Hold),
    /// A campaign's mark.
    Mark(Mark),
    /// A partition's progress. Its marks are written before, in an earlier call.
    Progress(Progress),
}
