//! Rows as they land in the store of a world.

use std::collections::BTreeSet;

use crate::{
    domain::{
        change::ChangeRow,
        coupon::Coupon,
        definition::DefinitionVersion,
        ids::{CampaignId, Sequence},
        rows::{Hold, Mark, Progress, Row},
    },
    store::memory::MemoryRows,
};

/// One view of coupons.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum View {
    BySequence,
    ByUser,
}

/// Rows of coupons whose writes stay invisible.
pub(super) type Deleted = BTreeSet<((CampaignId, Sequence), View)>;

/// A row that landed.
#[derive(Debug, Clone)]
pub(super) struct Landed {
    pub(super) at_us: u64,
    pub(super) row: Row,
}

impl Landed {
    pub(super) fn text(&self) -> String {
        match &self.row {
            Row::Coupon(Coupon { campaign, sequence, user, position, .. }) => {
                let offset = position.offset;
                format!("coupon {sequence} of {campaign} for {user}, from {offset}")
            }
            Row::ByUser(Coupon { campaign, sequence, user, .. }) => {
                format!("the by-user row of coupon {sequence} of {campaign}, for {user}")
            }
            Row::Version(version) => {
                let DefinitionVersion { campaign, position, .. } = version;
                format!("the version of {campaign} at {}", position.offset)
            }
            Row::Change(change) => {
                let ChangeRow { campaign, position, by, .. } = &**change;
                format!("the change of {campaign} at {}, by {by}", position.offset)
            }
            Row::Hold(Hold { campaign, from, state, reason, .. }) => {
                format!("the hold of {campaign} from {from}: {state:?}, {reason}")
            }
            Row::Mark(Mark { campaign, offset, counts }) => {
                format!("the mark of {campaign} below {offset}: {counts:?}")
            }
            Row::Progress(Progress { partition, next, .. }) => {
                format!("progress of partition {partition}: {next}")
            }
            Row::Register(partition, register, number) => {
                format!("register {} of partition {partition}: {number}", register.name())
            }
        }
    }

    pub(super) fn apply(&self, rows: &mut MemoryRows, deleted: &Deleted) {
        let hidden = match &self.row {
            Row::Coupon(coupon) => Some((coupon, View::BySequence)),
            Row::ByUser(coupon) => Some((coupon, View::ByUser)),
            _ => None,
        };
        let key = hidden.map(|(it, view)| ((it.campaign.clone(), it.sequence), view));
        if key.is_none_or(|key| !deleted.contains(&key)) {
            rows.apply(self.row.clone());
        }
    }
}
