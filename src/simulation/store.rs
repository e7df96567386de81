//! The coupon store of a world: rows that land when the world says so, whole or in part.
//!
//! Embedded it keeps a journal of what was not synced, so that a power cut can take it back
//! together with the log.

use std::collections::BTreeMap;

use crate::domain::{
    coupon::Coupon,
    definition::DefinitionVersion,
    ids::{Offset, Partition, Sequence},
    rows::{CampaignRows, Hold, Mark, PartitionRows, Progress, Row},
};

/// Which of the two rows of a coupon land.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Views {
    pub(super) by_sequence: bool,
    pub(super) by_user: bool,
}

pub(super) const BOTH: Views = Views { by_sequence: true, by_user: true };

/// The rows of one campaign.
#[derive(Debug, Clone, Default)]
pub(super) struct Table {
    pub(super) coupons: BTreeMap<Sequence, Coupon>,
    /// By user number and sequence.
    pub(super) by_user: BTreeMap<(u16, Sequence), Coupon>,
    pub(super) versions: BTreeMap<Offset, DefinitionVersion>,
    pub(super) holds: BTreeMap<(Offset, u32), Hold>,
    pub(super) mark: Option<Mark>,
    /// Somebody changed rows behind everybody's back.
    pub(super) is_damaged: bool,
}

/// What takes one unsynced change back.
#[derive(Debug)]
pub(super) enum Undo {
    Append(Partition),
    Coupon(usize, Sequence, Option<Coupon>),
    ByUser(usize, (u16, Sequence), Option<Coupon>),
    Version(usize, Offset, Option<DefinitionVersion>),
    Hold(usize, (Offset, u32), Option<Hold>),
    Mark(usize, Option<Mark>),
    Progress(Partition, Option<Progress>),
}

/// Everything that is stored.
#[derive(Debug, Clone)]
pub(super) struct Store {
    pub(super) tables: Vec<Table>,
    pub(super) progress: Vec<Option<Progress>>,
    /// Writes sent before this changed never land: the store was set back meanwhile.
    pub(super) generation: u32,
    /// The first row that was replaced by another one.
    pub(super) replaced: Option<String>,
}

impl Store {
    pub(super) fn new(campaigns: usize, partitions: u32) -> Self {
        Self {
            tables: vec![Table::default(); campaigns],
            progress: vec![None; partitions as usize],
            generation: 0,
            replaced: None,
        }
    }

    /// A row lands. What it changes is told to `journal`, if there is one.
    pub(super) fn put(
        &mut self,
        campaign: usize,
        row: &Row,
        views: Views,
        journal: &mut Option<Vec<Undo>>,
    ) {
        let table = &mut self.tables[campaign];
        let undo = match row {
            Row::Coupon(coupon) => return self.put_coupon(campaign, coupon, views, journal),
            Row::Version(version) => {
                let offset = version.position.offset;
                let before = table.versions.insert(offset, version.clone());
                if before.as_ref().is_some_and(|it| it != version) && !table.is_damaged {
                    self.replaced = Some(format!("version at {offset}"));
                }
                Undo::Version(campaign, offset, before)
            }
            Row::Hold(hold) => {
                let key = (hold.from, hold.number);
                let before = table.holds.get(&key);
                if before.is_some_and(|known| known.rank() >= hold.rank()) {
                    return;
                }
                Undo::Hold(campaign, key, table.holds.insert(key, hold.clone()))
            }
            Row::Mark(mark) => {
                if table.mark.as_ref().is_some_and(|known| known.offset >= mark.offset) {
                    return;
                }
                Undo::Mark(campaign, table.mark.replace(mark.clone()))
            }
            Row::Progress(progress) => {
                let slot = &mut self.progress[progress.partition as usize];
                if slot.as_ref().is_some_and(|known| known.next >= progress.next) {
                    return;
                }
                Undo::Progress(progress.partition, slot.replace(progress.clone()))
            }
        };
        note(journal, undo);
    }

    fn put_coupon(
        &mut self,
        campaign: usize,
        coupon: &Coupon,
        views: Views,
        journal: &mut Option<Vec<Undo>>,
    ) {
        let table = &mut self.tables[campaign];
        let sequence = coupon.sequence;
        if views.by_sequence {
            let before = table.coupons.insert(sequence, coupon.clone());
            if before.as_ref().is_some_and(|it| it != coupon) && !table.is_damaged {
                self.replaced = Some(format!("coupon {sequence}"));
            }
            note(journal, Undo::Coupon(campaign, sequence, before));
        }
        if views.by_user {
            let key = (number_of(coupon.user.as_str()), sequence);
            let before = table.by_user.insert(key, coupon.clone());
            note(journal, Undo::ByUser(campaign, key, before));
        }
    }

    /// Takes a change back.
    pub(super) fn take_back(&mut self, undo: Undo) {
        match undo {
            Undo::Append(_) => {}
            Undo::Coupon(campaign, key, before) => {
                restore(&mut self.tables[campaign].coupons, key, before);
            }
            Undo::ByUser(campaign, key, before) => {
                restore(&mut self.tables[campaign].by_user, key, before);
            }
            Undo::Version(campaign, key, before) => {
                restore(&mut self.tables[campaign].versions, key, before);
            }
            Undo::Hold(campaign, key, before) => {
                restore(&mut self.tables[campaign].holds, key, before);
            }
            Undo::Mark(campaign, before) => self.tables[campaign].mark = before,
            Undo::Progress(partition, before) => self.progress[partition as usize] = before,
        }
    }

    /// Progress and holds of a partition; `campaigns` are those of the partition.
    pub(super) fn partition(
        &self,
        partition: Partition,
        campaigns: impl Iterator<Item = usize>,
    ) -> PartitionRows {
        let holds = campaigns.flat_map(|campaign| self.tables[campaign].holds.values().cloned());
        PartitionRows {
            progress: self.progress[partition as usize].clone(),
            holds: holds.collect(),
        }
    }

    /// Holds, mark and versions of a campaign.
    pub(super) fn campaign(&self, campaign: usize) -> CampaignRows {
        let table = &self.tables[campaign];
        CampaignRows {
            holds: table.holds.values().cloned().collect(),
            mark: table.mark.clone(),
            versions: table.versions.values().cloned().collect(),
        }
    }

    /// At most `most` coupons above sequence `after`.
    pub(super) fn page(&self, campaign: usize, after: Sequence, most: usize) -> Vec<Coupon> {
        let above = self.tables[campaign].coupons.range(after + 1..);
        above.take(most).map(|(_, coupon)| coupon.clone()).collect()
    }

    pub(super) fn of_user(&self, campaign: usize, user: u16) -> Vec<Coupon> {
        let rows = self.tables[campaign].by_user.range((user, 0)..=(user, Sequence::MAX));
        rows.map(|(_, coupon)| coupon.clone()).collect()
    }

    /// Whether a hold quarantines the campaign.
    pub(super) fn is_held(&self, campaign: usize) -> bool {
        self.tables[campaign].holds.values().any(Hold::is_in_force)
    }
}

fn note(journal: &mut Option<Vec<Undo>>, undo: Undo) {
    if let Some(journal) = journal {
        journal.push(undo);
    }
}

fn restore<K: Ord, V>(rows: &mut BTreeMap<K, V>, key: K, before: Option<V>) {
    match before {
        Some(value) => rows.insert(key, value),
        None => rows.remove(&key),
    };
}

/// The number in a name like `u17`.
pub(super) fn number_of(name: &str) -> u16 {
    name.get(1..).and_then(|digits| digits.parse().ok()).unwrap_or(u16::MAX)
}
