//! Recovers a campaign's state from its rows, and keeps what the log must still confirm.
//!
//! Rows below the start are the state: their sequences have no gap and their order is that of the
//! log. Rows at or above the start are expectations: the log derives them again, and a difference
//! is a contradiction. The number of rows below the mark's offset must be the mark's, wherever the
//! start is, because the mark was written after those rows.

use std::{collections::BTreeMap, sync::Arc};

use crate::domain::{
    campaign::Campaign,
    coupon::Coupon,
    definition::{DefinitionVersion, RULES_VERSION},
    halt::HoldReason,
    ids::{CampaignId, LogPartition, Offset, Sequence},
    keys::Keys,
    rows::{CampaignRows, Hold, HoldKind, Mark},
};

/// Log and store contradict each other from an offset on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct Contradiction {
    /// The lowest offset that it affects: a hold must reach that low.
    pub from: Offset,
    /// The reason of the hold.
    pub reason: HoldReason,
    /// What was found, as a sentence for the operator.
    pub detail: String,
}

impl Contradiction {
    /// Returns the contradiction of a row that cannot be decoded.
    #[must_use]
    pub fn undecodable(from: Offset, detail: String) -> Self {
        Self { from, reason: HoldReason::RowUndecodable, detail }
    }
}

/// A row that the log must derive again.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Expected {
    Coupon { sequence: Sequence, digest: [u8; 16] },
    Version { digest: [u8; 16] },
}

/// Rows found at or above the start, until the log has derived them.
#[derive(Debug, Default)]
pub struct Expectations {
    rows: BTreeMap<Offset, Expected>,
}

impl Expectations {
    /// Returns the highest offset at which a row is expected.
    #[must_use]
    pub fn until(&self) -> Option<Offset> {
        self.rows.last_key_value().map(|(offset, _)| *offset)
    }

    /// Checks that no row is expected below `passed`, where every record was derived.
    ///
    /// # Errors
    /// A row is expected there.
    pub fn passed(&self, passed: Offset) -> Result<(), Contradiction> {
        match self.rows.first_key_value() {
            Some((&from, expected)) if from < passed => {
                let row = match expected {
                    Expected::Coupon { sequence, .. } => format!("coupon {sequence}"),
                    Expected::Version { .. } => "a definition version".to_owned(),
                };
                let detail =
                    format!("the store has {row} at offset {from}, but the log derives no row");
                Err(Contradiction { from, reason: HoldReason::RowNotDerived, detail })
            }
            _ => Ok(()),
        }
    }

    /// Compares what the log derived at `offset` with the expected row. `derived` is the digest of
    /// the derived row, if there is one.
    ///
    /// # Errors
    /// Another row is expected at `offset`, or a row below it.
    pub fn derived(
        &mut self,
        offset: Offset,
        derived: Option<[u8; 16]>,
    ) -> Result<(), Contradiction> {
        self.passed(offset)?;
        let Some(expected) = self.rows.remove(&offset) else { return Ok(()) };
        let digest = match expected {
            Expected::Coupon { digest, .. } | Expected::Version { digest } => digest,
        };
        if derived == Some(digest) {
            return Ok(());
        }
        let row = if derived.is_some() { "another row" } else { "no row" };
        let detail = format!("the store has a row at offset {offset}, but the log derives {row}");
        Err(Contradiction { from: offset, reason: HoldReason::RowNotDerived, detail })
    }
}

/// Compares the version rows with the mark. `from` is where the log is read again.
///
/// # Errors
/// Versions are missing, or the mark is. In a repair, what lies above the start is derived again.
fn check_versions(rows: &CampaignRows, from: Offset, is_repair: bool) -> Result<(), Contradiction> {
    // The mark behind a version is durable before progress, or the end of a hold, passes it.
    let unheld = rows.holds.iter().map(Hold::unsettled_from).fold(from, Offset::min);
    let mark = rows.mark.as_ref();
    if is_repair && mark.is_none_or(|mark| mark.offset > from) {
        return Ok(());
    }
    let missing = rows.missing_versions(unheld);
    let reason = HoldReason::RowsMissing;
    missing.map_or(Ok(()), |(from, detail)| Err(Contradiction { from, reason, detail }))
}

/// A campaign recovered from its rows.
#[derive(Debug)]
pub struct Recovered {
    /// The campaign's state below the start.
    pub campaign: Campaign,
    /// The rows that the log must derive again from the start on.
    pub expectations: Expectations,
    /// A contradiction was found before: rows that are written now must be read back.
    pub is_repair: bool,
}

/// Recovers one campaign: takes its rows in and checks them against each other.
#[derive(Debug)]
pub struct Recovery {
    from: Offset,
    campaign: Campaign,
    keys: Arc<Keys>,
    versions: Vec<DefinitionVersion>,
    next_version: usize,
    mark: Option<Mark>,
    below_mark: u32,
    /// Rows are known to be missing, and the log is about to derive them.
    is_repair: bool,
    /// One past the offset of the last row without a gap before it: where a gap would begin.
    dense_to: Offset,
    expectations: Expectations,
}

impl Recovery {
    /// Starts with the rows other than coupons. `from` is where the log is read again.
    ///
    /// # Errors
    /// A version row was altered, or has rules that this binary does not know.
    pub fn new(
        campaign: CampaignId,
        place: LogPartition,
        from: Offset,
        rows: CampaignRows,
        keys: Arc<Keys>,
    ) -> Result<Self, Contradiction> {
        let mut expectations = Expectations::default();
        for version in &rows.versions {
            let offset = version.position.offset;
            if keys.version_digest(version) != version.digest {
                let detail = format!("the version row at offset {offset} was altered");
                let reason = HoldReason::RowAltered;
                return Err(Contradiction { from: offset, reason, detail });
            }
            if version.definition.rules_version != RULES_VERSION {
                let rules = version.definition.rules_version;
                let detail = format!("this binary does not know rules version {rules}");
                let reason = HoldReason::RulesUnknown;
                return Err(Contradiction { from: offset, reason, detail });
            }
            if offset >= from {
                let expected = Expected::Version { digest: version.digest };
                expectations.rows.insert(offset, expected);
            }
        }
        let repairs = |hold: &Hold| hold.is_in_force() && hold.kind == HoldKind::Contradiction;
        let is_repair = rows.holds.iter().any(repairs);
        check_versions(&rows, from, is_repair)?;
        let versions =
            rows.versions.into_iter().filter(|version| version.position.offset < from).collect();
        let LogPartition { log_epoch, partition } = place;
        Ok(Self {
            from,
            campaign: Campaign::new(campaign, log_epoch, partition, Arc::clone(&keys)),
            keys,
            versions,
            next_version: 0,
            mark: rows.mark,
            below_mark: 0,
            is_repair,
            dense_to: 0,
            expectations,
        })
    }

    /// Returns the contradiction for a coupon row that cannot be decoded.
    #[must_use]
    pub fn undecodable(&self, detail: String) -> Contradiction {
        // Nothing is known of the rows behind it, so the hold begins where the known rows end.
        Contradiction::undecodable(self.dense_to, detail)
    }

    /// Takes the next coupons in the order of sequences.
    ///
    /// # Errors
    /// A gap, an altered row, or a row at an offset where the log can derive no coupon.
    pub fn coupons(&mut self, coupons: Vec<Coupon>) -> Result<(), Contradiction> {
        for coupon in &coupons {
            self.coupon(coupon)?;
        }
        Ok(())
    }

    /// Returns the campaign, once every coupon was taken.
    ///
    /// # Errors
    /// The number of coupons below the mark is not the mark's.
    pub fn finish(mut self) -> Result<Recovered, Contradiction> {
        self.apply_versions_below(self.from)?;
        // If rows below the start were missing, the first derived coupon would get the sequence of
        // a missing one. In a repair, rows between start and mark are about to be derived.
        if let Some(mark) = &self.mark
            && (mark.offset <= self.from || !self.is_repair)
            && mark.counts.issued != self.below_mark
        {
            let (said, found) = (mark.counts.issued, self.below_mark);
            let detail =
                format!("the mark counts {said} coupons below {}, found {found}", mark.offset);
            let from = self.dense_to.min(mark.offset);
            return Err(Contradiction { from, reason: HoldReason::RowsMissing, detail });
        }
        let Self { campaign, expectations, is_repair, .. } = self;
        Ok(Recovered { campaign, expectations, is_repair })
    }

    fn coupon(&mut self, coupon: &Coupon) -> Result<(), Contradiction> {
        let sequence = coupon.sequence;
        let error = |from, reason, detail| Err(Contradiction { from, reason, detail });
        if self.keys.coupon_digest(coupon) != coupon.digest {
            // Its offset may be altered too, so the start of the damage is unknown.
            let detail = format!("the row of coupon {sequence} was altered");
            return error(self.dense_to, HoldReason::RowAltered, detail);
        }
        let offset = coupon.position.offset;
        if self.mark.as_ref().is_some_and(|mark| offset < mark.offset) {
            self.below_mark += 1;
        }
        if offset >= self.from {
            let expected = Expected::Coupon { sequence, digest: coupon.digest };
            if self.expectations.rows.insert(offset, expected).is_some() {
                let detail = format!("two rows are derived from offset {offset}");
                return error(offset, HoldReason::RowsConflict, detail);
            }
            return Ok(());
        }
        let issued = self.campaign.issued();
        if sequence != issued + 1 {
            let detail = format!("coupon {sequence} follows coupon {issued}");
            return error(self.dense_to, HoldReason::RowsMissing, detail);
        }
        if offset < self.dense_to {
            let detail = format!("coupon {sequence} has a lower offset than its predecessor");
            return error(offset, HoldReason::RowsConflict, detail);
        }
        // The quota that counts is the one in effect at the coupon's own offset.
        self.apply_versions_below(offset)?;
        let quota = self.campaign.definition().map_or(0, |definition| definition.terms.quota);
        if sequence > quota {
            let detail = format!("coupon {sequence} exceeds the quota of {quota} at its offset");
            return error(offset, HoldReason::RowsConflict, detail);
        }
        self.campaign.apply_coupon(coupon);
        self.dense_to = offset + 1;
        Ok(())
    }

    /// Applies the versions below `offset`, and compares each with the coupons issued below it.
    fn apply_versions_below(&mut self, offset: Offset) -> Result<(), Contradiction> {
        while let Some(version) = self.versions.get(self.next_version)
            && version.position.offset < offset
        {
            let issued = self.campaign.issued();
            if version.issued != issued {
                let at = version.position.offset;
                let said = version.issued;
                let detail =
                    format!("the version at {at} counts {said} coupons below it, found {issued}");
                let from = self.dense_to.min(at);
                return Err(Contradiction { from, reason: HoldReason::RowsMissing, detail });
            }
            self.campaign.apply_version(version);
            self.next_version += 1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        domain::{
            campaign::At,
            decision::{DerivedRow, Outcome},
            record::Record,
            rows::{Counts, HoldState},
        },
        partition::fold::{
            Batch, Folder,
            tests::{PLACE, counts, defined, keys, request},
        },
    };

    fn spring() -> CampaignId {
        CampaignId::parse("spring").unwrap()
    }

    /// Returns a definition at 0, then a request of a different user at each offset.
    fn log() -> Vec<(At, Record)> {
        let asks = (1..=7).map(|offset| request(offset, &format!("u{offset}")));
        std::iter::once(defined()).chain(asks).collect()
    }

    /// Returns the rows that the log derives.
    fn rows() -> (Vec<DefinitionVersion>, Vec<Coupon>) {
        let mut campaign = Campaign::new(spring(), 1, 0, keys());
        let (mut versions, mut coupons) = (Vec::new(), Vec::new());
        for (at, record) in log() {
            match campaign.fold(at, &record) {
                Outcome::Decided { row: Some(DerivedRow::Coupon(it)), .. } => coupons.push(it),
                Outcome::Decided { row: Some(DerivedRow::Version(it)), .. } => versions.push(*it),
                outcome => panic!("no row comes of {outcome:?}"),
            }
        }
        (versions, coupons)
    }

    /// Starts at `from` with the mark "7 below 8" and the coupons of these sequences.
    fn start(
        from: Offset,
        sequences: &[Sequence],
        holds: Vec<Hold>,
    ) -> Result<Recovered, Contradiction> {
        let (versions, mut coupons) = rows();
        coupons.retain(|coupon| sequences.contains(&coupon.sequence));
        let mark = Some(Mark { campaign: spring(), offset: 8, counts: counts(7) });
        let rows = CampaignRows { holds, mark, versions, ..CampaignRows::default() };
        let mut recovery = Recovery::new(spring(), PLACE, from, rows, keys())?;
        recovery.coupons(coupons)?;
        recovery.finish()
    }

    #[test]
    fn a_mark_shows_rows_missing_below_the_start() {
        assert!(start(7, &[1, 2, 3, 4, 5, 6, 7], Vec::new()).is_ok());
        // The owner died between mark and progress, and rows 3 to 6 were deleted. Without the mark,
        // another coupon would be derived in place of coupon 7 before the difference is found.
        let found = start(7, &[1, 2, 7], Vec::new()).unwrap_err();
        assert_eq!(found.from, 3, "just above the last dense row: {found}");
        let found = start(7, &[1, 2], Vec::new()).unwrap_err();
        assert_eq!(found.from, 3, "{found}");
    }

    #[test]
    fn a_mark_shows_that_versions_are_missing() {
        let (versions, _) = rows();
        let found = |from, mark: Option<Mark>, kept: usize| {
            let versions = versions.iter().take(kept).cloned().collect();
            let rows = CampaignRows { versions, mark, ..CampaignRows::default() };
            let recovery = Recovery::new(spring(), PLACE, from, rows, keys());
            recovery.err().map(|found| (found.from, found.reason))
        };
        let mark = |versions, latest| {
            let counts = Counts { versions, latest, ..counts(0) };
            Some(Mark { campaign: spring(), offset: 8, counts })
        };
        let missing = HoldReason::RowsMissing;
        assert_eq!(found(9, mark(1, 0), 1), None);
        assert_eq!(found(9, mark(1, 0), 0), Some((0, missing)), "the only one");
        assert_eq!(found(9, mark(2, 5), 1), Some((5, missing)), "the latest one");
        assert_eq!(found(2, mark(2, 5), 1), Some((5, missing)), "above the start, too");
        assert_eq!(found(9, mark(3, 5), 1), Some((0, missing)), "nobody knows where");
        assert_eq!(found(9, None, 1), Some((0, missing)), "the mark itself");
        assert_eq!(found(0, None, 1), None, "progress has not passed it");
    }

    #[test]
    fn a_place_in_the_listing_without_a_version_is_a_contradiction() {
        let started = |is_only_listed, holds: Vec<Hold>| {
            let rows = CampaignRows { holds, is_only_listed, ..CampaignRows::default() };
            let recovery = Recovery::new(spring(), PLACE, 5, rows, keys());
            recovery.err().map(|found| (found.from, found.reason))
        };
        assert_eq!(started(false, Vec::new()), None, "it is undefined");
        assert_eq!(started(true, Vec::new()), Some((0, HoldReason::RowsMissing)));
        let released = released_hold(0);
        assert_eq!(started(true, vec![released]), None, "its release derives the version");
    }

    #[test]
    fn each_damage_of_rows_has_its_reason() {
        let reason = |sequences: &[Sequence], damage: fn(&mut Coupon)| {
            let (versions, mut coupons) = rows();
            coupons.retain(|coupon| sequences.contains(&coupon.sequence));
            coupons.iter_mut().for_each(damage);
            let mark = Some(Mark { campaign: spring(), offset: 9, counts: counts(2) });
            let rows = CampaignRows { versions, mark, ..CampaignRows::default() };
            let mut recovery = Recovery::new(spring(), PLACE, 9, rows, keys()).unwrap();
            recovery.coupons(coupons).err().map(|found| found.reason)
        };
        let sealed = |coupon: &mut Coupon| coupon.digest = keys().coupon_digest(coupon);
        assert_eq!(reason(&[1, 2], sealed), None);
        assert_eq!(reason(&[1, 3], sealed), Some(HoldReason::RowsMissing));
        let altered = |coupon: &mut Coupon| coupon.code = "FREE".into();
        assert_eq!(reason(&[1], altered), Some(HoldReason::RowAltered));
        let below_its_version = |coupon: &mut Coupon| {
            coupon.position.offset = 0;
            coupon.digest = keys().coupon_digest(coupon);
        };
        assert_eq!(reason(&[1], below_its_version), Some(HoldReason::RowsConflict));
    }

    fn released_hold(from: Offset) -> Hold {
        Hold {
            campaign: spring(),
            partition: 0,
            from,
            number: 1,
            kind: HoldKind::Contradiction,
            reason: "rows are missing".to_owned(),
            state: HoldState::Released,
            until: 0,
        }
    }

    #[test]
    fn a_released_hold_derives_missing_rows() {
        let recovered = start(3, &[1, 2, 7], vec![released_hold(3)]).unwrap();
        let mut folder = Folder::new(recovered, keys());
        let records = log().split_off(3);
        let folded = folder.fold(Batch { records, passed: 8, is_replay: false });
        assert_eq!((folded.contradiction, folded.coupons), (None, rows().1.split_off(2)));
    }
}
