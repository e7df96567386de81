//! Rows that vanish or change in the store of a world.

use serde::{Deserialize, Serialize};

use super::{landed::View, store::Rows};
use crate::{
    domain::{
        coupon::Coupon,
        ids::{CampaignId, Offset, Partition, Sequence},
        rows::Register,
    },
    store::memory::MemoryRows,
};

/// Rows that change behind everybody's back. The campaign must be held, or derived again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum RowDamage {
    /// A coupon vanishes.
    Missing,
    /// A coupon vanishes, and so does what is written in its place with the same time, as after a
    /// `DELETE` in CQL.
    Deleted,
    /// The by-user row of a coupon vanishes.
    ByUserMissing,
    /// The by-user row of a coupon vanishes, and so does what is written in its place.
    ByUserDeleted,
    Altered,
    Extra,
    VersionAltered,
    /// A campaign's latest coupons vanish.
    SetBack,
    /// A coupon between others vanishes, and so does the mark that counts it.
    Unmarked,
    /// Coupons that the latest version counts vanish, and so does the mark.
    Uncounted,
    /// A definition version vanishes.
    VersionMissing,
    /// The mark alone vanishes.
    MarkMissing,
    /// A hold of the campaign's partition vanishes: that partition must halt.
    HoldMissing,
    /// The number of the holds of the campaign's partition vanishes. Nothing may follow from that.
    HoldCountMissing,
}

impl RowDamage {
    /// Whether only the by-user view is damaged.
    pub(super) fn is_of_by_user_rows(self) -> bool {
        matches!(self, Self::ByUserMissing | Self::ByUserDeleted)
    }

    pub(super) const ALL: [Self; 14] = [
        Self::ByUserMissing,
        Self::ByUserDeleted,
        Self::VersionMissing,
        Self::MarkMissing,
        Self::HoldMissing,
        Self::HoldCountMissing,
        Self::Missing,
        Self::Deleted,
        Self::Altered,
        Self::Extra,
        Self::VersionAltered,
        Self::SetBack,
        Self::Unmarked,
        Self::Uncounted,
    ];
}

impl Rows {
    /// Damages rows of a campaign below its mark and progress. Returns whether there were any.
    pub(super) fn damage(
        &self,
        damage: RowDamage,
        campaign: &CampaignId,
        partition: Partition,
        which: u64,
    ) -> bool {
        let mut ledger = self.ledger.lock();
        let mut rows = self.store.rows.lock();
        match damage {
            RowDamage::HoldMissing => return remove_hold(&mut rows, partition, which),
            RowDamage::HoldCountMissing => return remove_hold_count(&mut rows, partition),
            _ => {}
        }
        let settled = rows.progress.get(&partition).map_or(0, |progress| progress.next);
        let marked = rows.marks.get(campaign).map_or(0, |mark| mark.offset.min(settled));
        let its = rows.coupons_of(campaign).filter(|coupon| coupon.position.offset < marked);
        let below: Vec<Sequence> = its.map(|coupon| coupon.sequence).collect();
        let Some(last) = below.last().copied() else { return false };
        let chosen = below[(which % below.len() as u64) as usize];
        let remove_by_user = |rows: &mut MemoryRows, sequence| {
            rows.by_user.retain(|(of, .., it), _| (of, *it) != (campaign, sequence));
        };
        let remove = |rows: &mut MemoryRows, sequence| {
            rows.coupons.remove(&(campaign.clone(), sequence));
            remove_by_user(rows, sequence);
        };
        let mut hide = |views: &[View]| {
            ledger.deleted.extend(views.iter().map(|view| ((campaign.clone(), chosen), *view)));
        };
        match damage {
            RowDamage::Missing => remove(&mut rows, chosen),
            RowDamage::Deleted => {
                remove(&mut rows, chosen);
                hide(&[View::BySequence, View::ByUser]);
            }
            RowDamage::ByUserMissing => remove_by_user(&mut rows, chosen),
            RowDamage::ByUserDeleted => {
                remove_by_user(&mut rows, chosen);
                hide(&[View::ByUser]);
            }
            RowDamage::SetBack => (chosen..=last).for_each(|it| remove(&mut rows, it)),
            RowDamage::Unmarked => {
                if chosen == last {
                    return false;
                }
                remove(&mut rows, chosen);
                rows.marks.remove(campaign);
            }
            RowDamage::Uncounted => {
                let mut versions = rows.versions.values().filter(|it| it.campaign == *campaign);
                let counted = versions.next_back().map_or(0, |version| version.issued);
                if chosen > counted {
                    return false;
                }
                (chosen..=last).for_each(|it| remove(&mut rows, it));
                rows.marks.remove(campaign);
            }
            RowDamage::Altered => {
                let altered = |coupon: &mut Coupon| coupon.issued_at.0 += 1;
                rows.coupons.get_mut(&(campaign.clone(), chosen)).map(altered);
                let by_user = rows.by_user.iter_mut();
                let its = by_user.filter(|((of, .., it), _)| (of, *it) == (campaign, chosen));
                its.for_each(|(_, coupon)| altered(coupon));
            }
            RowDamage::Extra => {
                let last = rows.coupons_of(campaign).last().cloned();
                let Some(mut extra) = last else { return false };
                extra.sequence += 1;
                rows.coupons.insert((campaign.clone(), extra.sequence), extra);
            }
            RowDamage::VersionMissing | RowDamage::VersionAltered | RowDamage::MarkMissing => {
                damage_counted(damage, campaign, (&mut rows, marked), which);
            }
            // Removed above, whether the campaign has coupons or not.
            RowDamage::HoldMissing | RowDamage::HoldCountMissing => {}
        }
        true
    }
}

/// Damages a version, or the mark that counts what is below `marked`.
fn damage_counted(
    damage: RowDamage,
    campaign: &CampaignId,
    (rows, marked): (&mut MemoryRows, Offset),
    which: u64,
) {
    match damage {
        RowDamage::VersionMissing => {
            let counted = (campaign.clone(), 0)..(campaign.clone(), marked);
            let versions: Vec<_> =
                rows.versions.range(counted).map(|(key, _)| key.clone()).collect();
            rows.versions.remove(&versions[(which % versions.len() as u64) as usize]);
        }
        RowDamage::MarkMissing => drop(rows.marks.remove(campaign)),
        RowDamage::VersionAltered => {
            let mut versions = rows.versions.values_mut().filter(|it| it.campaign == *campaign);
            versions.next().into_iter().for_each(|it| it.definition.terms.quota += 1);
        }
        _ => {}
    }
}

/// Removes the row of a hold, if all holds of its partition are counted: a number that is too low,
/// because two owners have opened holds at once, does not tell that one has vanished.
fn remove_hold(rows: &mut MemoryRows, partition: Partition, which: u64) -> bool {
    let places = rows.holds.iter().enumerate().filter(|(_, hold)| hold.partition == partition);
    let places: Vec<usize> = places.map(|(place, _)| place).collect();
    let counted = rows.registers.get(&(partition, Register::Holds)).copied().unwrap_or(0);
    if places.is_empty() || counted < places.len() as u64 {
        return false;
    }
    rows.holds.remove(places[(which % places.len() as u64) as usize]);
    true
}

fn remove_hold_count(rows: &mut MemoryRows, partition: Partition) -> bool {
    rows.registers.remove(&(partition, Register::Holds)).is_some()
}
