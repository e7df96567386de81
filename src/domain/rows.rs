//! Rows of the store besides coupons and definition versions: progress, marks, holds, skips, nodes and
//! registers.

use serde::{Deserialize, Serialize};

use super::{
    change::ChangeRow,
    coupon::Coupon,
    definition::DefinitionVersion,
    halt::{Halt, HaltReason},
    ids::{CampaignId, Offset, Partition, ProcessName, Sequence, UserId},
};

/// A durable watermark: every position below `next` is decided and stored, except under holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// The partition.
    pub partition: Partition,
    /// Epoch of the log.
    pub log_epoch: u32,
    /// The lowest offset that progress does not cover.
    pub next: Offset,
    /// The last record below `next`, if there is one. A takeover compares it with the log, which
    /// shows a rewritten tail.
    pub last: Option<LastRecord>,
}

/// A record's offset and digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastRecord {
    /// The record's offset.
    pub offset: Offset,
    /// Keyed digest of its key and value.
    pub digest: [u8; 16],
}

/// How many rows of a defined campaign the log derives up to some record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// The highest sequence issued.
    pub issued: Sequence,
    /// Number of definition versions, at least 1.
    pub versions: u32,
    /// Offset of the latest of them.
    pub latest: Offset,
}

/// What a campaign has below an offset. Rows below that are fewer have vanished.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    /// The campaign.
    pub campaign: CampaignId,
    /// The offset in the campaign's partition.
    pub offset: Offset,
    /// The rows below the offset.
    pub counts: Counts,
}

/// Compares a campaign's mark with the offsets of its versions. A version below `settled` has a mark.
/// If versions or the mark are missing, returns the lowest offset at which they may be, and what was
/// found.
#[must_use]
pub fn missing_versions(
    mark: Option<&Mark>,
    mut offsets: impl Iterator<Item = Offset>,
    settled: Offset,
) -> Option<(Offset, String)> {
    let Some(mark) = mark else {
        let offset = offsets.find(|offset| *offset < settled)?;
        return Some((offset, format!("there is a version at {offset}, but no mark counts it")));
    };
    let Counts { versions, latest, .. } = mark.counts;
    let below = offsets.filter(|offset| *offset < mark.offset);
    let (count, last) =
        below.fold((0, None), |(count, last), offset| (count + 1, last.max(Some(offset))));
    let only_the_latest = count + 1 == versions && last < Some(latest);
    (count != versions || last != Some(latest)).then(|| {
        let detail = format!(
            "the mark counts {versions} versions below {}, the latest at {latest}; found {count}",
            mark.offset
        );
        (if only_the_latest { latest } else { 0 }, detail)
    })
}

/// The kind of a hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HoldKind {
    /// The campaign failed repeatedly at one position. Every new owner tries again by itself.
    Failure,
    /// Log and store contradict each other. Only an operator's release tries again.
    Contradiction,
}

/// The state of a hold. It only moves forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HoldState {
    /// The campaign decides nothing.
    Open,
    /// An operator asked to try again.
    Released,
    /// The replay from `from` has reached the live position; the campaign decides again.
    Closed,
}

/// What tells a hold from the others of its campaign.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct HoldName {
    /// The lowest position that the hold covers.
    pub from: Offset,
    /// Number of the hold in its campaign.
    pub number: u32,
}

/// A hold: the campaign decides nothing for now. Keyed by campaign, `from` and `number`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hold {
    /// The campaign.
    pub campaign: CampaignId,
    /// The campaign's partition.
    pub partition: Partition,
    /// The lowest position that the hold covers.
    pub from: Offset,
    /// Number of the hold in its campaign, counted from 1.
    pub number: u32,
    /// The kind of the hold.
    pub kind: HoldKind,
    /// The reason, as a sentence for the operator.
    pub reason: String,
    /// The state.
    pub state: HoldState,
    /// End of a closed hold: every record of the campaign below it is decided and stored by an
    /// owner that has read all of them. It only rises. 0 until the hold is closed.
    pub until: Offset,
}

impl Hold {
    /// Returns the lowest position that the hold leaves unsettled. A closed hold covers positions
    /// from `until` on: another owner that had not seen the close may have passed records there.
    #[must_use]
    pub fn unsettled_from(&self) -> Offset {
        match self.state {
            HoldState::Open | HoldState::Released => self.from,
            HoldState::Closed => self.from.max(self.until),
        }
    }

    /// Returns the slug of the reason and what was found.
    #[must_use]
    pub fn reason_parts(&self) -> (&str, &str) {
        self.reason.split_once(": ").unwrap_or((&self.reason, ""))
    }

    /// Returns a number that rises with each change of a hold. Of two rows of a hold, stores keep
    /// the one with the higher number.
    #[must_use]
    pub fn rank(&self) -> u64 {
        let state = match self.state {
            HoldState::Open => 1,
            HoldState::Released => 2,
            HoldState::Closed => self.until.saturating_add(3),
        };
        // Two owners may open one hold for different reasons. In the same state the contradiction
        // wins, because only an operator may end it.
        let kind = match self.kind {
            HoldKind::Failure => 0,
            HoldKind::Contradiction => 1,
        };
        state.saturating_mul(2).saturating_add(kind)
    }

    /// Returns the name of the hold in its campaign.
    #[must_use]
    pub fn name(&self) -> HoldName {
        HoldName { from: self.from, number: self.number }
    }

    /// Returns whether both rows belong to the same hold of a campaign.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        self.name() == other.name()
    }

    /// Returns whether the hold quarantines its campaign.
    #[must_use]
    pub fn is_in_force(&self) -> bool {
        self.state != HoldState::Closed
    }
}

/// A number of a partition that only rises. Each is a row of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Register {
    /// How many holds the partition's campaigns ever had. Hold rows are never deleted, so fewer rows
    /// than that mean that one has vanished.
    Holds,
    /// The generation of the partition's latest owner.
    Generation,
}

impl Register {
    /// Returns the name in the store.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Holds => "holds",
            Self::Generation => "generation",
        }
    }
}

/// The state of a skip. It changes once, under a lightweight transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SkipState {
    /// An operator has made it. Owners decide nothing in its range.
    Made,
    /// Owners pass its range. Nothing in it is decided, ever.
    InForce,
    /// An owner had decided in its range, so the skip counts for nothing. Final.
    Void,
}

impl SkipState {
    /// Every state.
    pub const ALL: [Self; 3] = [Self::Made, Self::InForce, Self::Void];

    /// Returns the name of the state in rows, JSON and metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Made => "made",
            Self::InForce => "in_force",
            Self::Void => "void",
        }
    }
}

/// A decision of an operator to pass positions of a partition undecided. Keyed by partition and
/// `from`. Everything but its state is immutable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skip {
    /// The partition.
    pub partition: Partition,
    /// The first position of the range.
    pub from: Offset,
    /// One past the last position of the range.
    pub to: Offset,
    /// Why, as the operator said it.
    pub reason: String,
    /// Who made it.
    pub by: String,
    /// The state.
    pub state: SkipState,
}

impl Skip {
    /// Returns whether the skip has this state and its range contains `offset`.
    #[must_use]
    pub fn covers(&self, offset: Offset, state: SkipState) -> bool {
        self.state == state && (self.from..self.to).contains(&offset)
    }
}

/// Where a reader or a partition consumer hung: at a record of `from..=to`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hang {
    /// The partition.
    pub partition: Partition,
    /// The lowest position that was not decided.
    pub from: Offset,
    /// The next position to be read.
    pub to: Offset,
}

impl Hang {
    /// Returns whether both may be due to the same record.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.partition == other.partition && self.from <= other.to && other.from <= self.to
    }
}

/// What a process says of itself to the other nodes, in its row and over the feed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRow {
    /// The process.
    pub name: ProcessName,
    /// Rises each time that the process says anything of itself. From 1.
    pub number: u64,
    /// Whether it is a member of the consumer group.
    pub is_member: bool,
    /// Whether its last probe succeeded.
    pub can_decide: bool,
    /// Where its readers or partition consumers hung: at most [`Self::HANGS_MAX`].
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub hangs: Vec<Hang>,
}

impl NodeRow {
    /// Most places that a process says: a poisoned record is rare, and the latest ones matter.
    pub const HANGS_MAX: usize = 8;
}

/// The rows of a partition, each kind read at quorum: progress first, then holds, then skips.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PartitionRows {
    /// Progress, if it was ever written.
    pub progress: Option<Progress>,
    /// [`Register::Holds`]. Too low where two owners have opened holds at once, never too high.
    pub holds_ever: u64,
    /// All holds of the partition's campaigns, closed ones included.
    pub holds: Vec<Hold>,
    /// All skips, in the order of their ranges, void ones included.
    pub skips: Vec<Skip>,
}

impl PartitionRows {
    /// Returns the lowest offset that progress does not cover; 0 where it was never written.
    #[must_use]
    pub fn next(&self) -> Offset {
        self.progress.as_ref().map_or(0, |progress| progress.next)
    }

    /// Compares the holds with the register that counts them.
    ///
    /// # Errors
    /// The row of a hold has vanished. What the hold covers would look settled.
    pub fn check_holds(&self) -> Result<(), Halt> {
        let found = self.holds.len() as u64;
        if found >= self.holds_ever {
            return Ok(());
        }
        let detail = format!(
            "the partition has had {} holds, but the store has {found} rows of holds; insert the \
             missing row again, and the partition goes on within 10 s \
             (README.md#halted-hold_missing)",
            self.holds_ever
        );
        Err(Halt::new(HaltReason::HoldMissing, detail))
    }
}

/// The rows of a campaign without its coupons, read in this order, each at quorum.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CampaignRows {
    /// All holds, closed ones included.
    pub holds: Vec<Hold>,
    /// The mark, if it was ever written.
    pub mark: Option<Mark>,
    /// Every definition version in the order of offsets.
    pub versions: Vec<DefinitionVersion>,
    /// The campaign has a place in the listing, and no version: a version is durable before that place,
    /// so it has vanished.
    pub is_only_listed: bool,
}

impl CampaignRows {
    /// Compares mark and listing with the versions. A version below `settled` has a mark. If versions or
    /// the mark are missing, returns the lowest offset at which they may be, and what was found.
    #[must_use]
    pub fn missing_versions(&self, settled: Offset) -> Option<(Offset, String)> {
        if self.is_only_listed && self.mark.is_none() {
            let detail = "the campaign has a place in the listing, but no version".to_owned();
            return Some((0, detail));
        }
        let offsets = self.versions.iter().map(|version| version.position.offset);
        missing_versions(self.mark.as_ref(), offsets, settled)
    }
}

/// One row of the by-user view, as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ByUserRow {
    /// The user.
    pub user: UserId,
    /// The coupon's sequence.
    pub sequence: Sequence,
    /// The whole row. None if the view is only an index of the coupon rows.
    pub coupon: Option<Coupon>,
}

/// One row to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Row {
    /// A coupon, by sequence.
    Coupon(Coupon),
    /// A coupon by user. Written after its coupon row.
    ByUser(Coupon),
    /// A definition version. It also adds the campaign to the listing.
    Version(DefinitionVersion),
    /// What came of a control record. Boxed, because rows are moved by the million, and this one is
    /// large and rare.
    Change(Box<ChangeRow>),
    /// A hold, or its next state.
    Hold(Hold),
    /// A campaign's mark.
    Mark(Mark),
    /// A partition's progress. The marks below it are written in an earlier call.
    Progress(Progress),
    /// The next number of a register, at least 1.
    Register(Partition, Register, u64),
}

impl Row {
    /// Returns the rows of a coupon in both views, in the order in which they are written.
    #[must_use]
    pub fn of_both_views(coupon: &Coupon) -> [Self; 2] {
        [Self::Coupon(coupon.clone()), Self::ByUser(coupon.clone())]
    }
}
