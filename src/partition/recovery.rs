//! How a campaign's state comes out of its rows, and what the log must still confirm.
//!
//! Rows below the start are the state: dense and in order. Rows at or above it are expectations:
//! the log derives them again, and any difference is a contradiction. Below the mark there are as
//! many as it says, wherever the start is: it was written when they were durable.

use std::{collections::BTreeMap, sync::Arc};

use crate::domain::{
    campaign::Campaign,
    coupon::Coupon,
    definition::{DefinitionVersion, RULES_VERSION},
    ids::{CampaignId, Offset, Partition, Sequence},
    keys::Keys,
    rows::{CampaignRows, Hold, HoldKind, Mark},
};
use crate::planted;

/// Log and store contradict each other from a position on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct Contradiction {
    /// The lowest position that it touches.
    pub from: Offset,
    /// What was found, as a sentence for the operator.
    pub detail: String,
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
    /// The highest position at which something is expected.
    #[must_use]
    pub fn until(&self) -> Option<Offset> {
        self.rows.last_key_value().map(|(offset, _)| *offset)
    }

    /// Everything below `passed` has been derived: nothing may be expected there any more.
    pub fn passed(&self, passed: Offset) -> Result<(), Contradiction> {
        match self.rows.first_key_value() {
            Some((&from, expected)) if from < passed => {
                let what = match expected {
                    Expected::Coupon { sequence, .. } => format!("coupon {sequence}"),
                    Expected::Version { .. } => "a definition version".to_owned(),
                };
                let detail =
                    format!("the store has {what} at offset {from}, which the log does not derive");
                Err(Contradiction { from, detail })
            }
            _ => Ok(()),
        }
    }

    /// What the log derived at `offset`, as the digest of its row if it came to one.
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
        let what = if derived.is_some() { "another row" } else { "no row" };
        let detail = format!("the store has a row at offset {offset} where the log derives {what}");
        Err(Contradiction { from: offset, detail })
    }
}

/// A campaign as its rows give it.
#[derive(Debug)]
pub struct Recovered {
    /// Its state below the start.
    pub campaign: Campaign,
    /// What the log must derive again from the start on.
    pub expectations: Expectations,
    /// Rows had vanished or changed: whether those that are written stay has to be seen.
    pub is_repair: bool,
}

/// Takes a campaign's rows in and gives its state.
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
    /// One past the last dense row's offset: where a gap begins.
    dense_to: Offset,
    expectations: Expectations,
}

impl Recovery {
    /// Begins with what `rows` say besides coupons. `from` is where the log is read again.
    ///
    /// # Errors
    /// A version row whose digest does not fit, or of rules that this binary does not know.
    pub fn new(
        campaign: CampaignId,
        place: (u32, Partition),
        from: Offset,
        rows: CampaignRows,
        keys: Arc<Keys>,
    ) -> Result<Self, Contradiction> {
        let mut expectations = Expectations::default();
        for version in &rows.versions {
            let offset = version.position.offset;
            if keys.version_digest(version) != version.digest && !planted!(AlteredVersionTaken) {
                let detail = format!("the version row at offset {offset} was altered");
                return Err(Contradiction { from: offset, detail });
            }
            if version.definition.rules_version != RULES_VERSION {
                let rules = version.definition.rules_version;
                let detail = format!("rules version {rules} is not known to this binary");
                return Err(Contradiction { from: offset, detail });
            }
            if offset >= from {
                let expected = Expected::Version { digest: version.digest };
                expectations.rows.insert(offset, expected);
            }
        }
        let versions =
            rows.versions.into_iter().filter(|version| version.position.offset < from).collect();
        let (log_epoch, partition) = place;
        let repairs = |hold: &Hold| hold.is_in_force() && hold.kind == HoldKind::Contradiction;
        let is_repair = rows.holds.iter().any(repairs);
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

    /// The rows end here, for a reason that is not theirs: what the campaign touches from the last
    /// dense row on is not known.
    #[must_use]
    pub fn ends(&self, detail: String) -> Contradiction {
        Contradiction { from: self.dense_to, detail }
    }

    /// Takes the next coupons in sequence order.
    ///
    /// # Errors
    /// A gap, an altered row, or one that stands where no coupon can.
    pub fn coupons(&mut self, coupons: Vec<Coupon>) -> Result<(), Contradiction> {
        for coupon in &coupons {
            self.coupon(coupon)?;
        }
        Ok(())
    }

    /// Gives the state, once every coupon was taken.
    ///
    /// # Errors
    /// Fewer or more coupons below the mark than it says.
    pub fn finish(mut self) -> Result<Recovered, Contradiction> {
        if !planted!(VersionLostOnRestart) {
            self.apply_versions_below(self.from)?;
        }
        // Missing rows below the start would shift whatever is derived from there on.
        if let Some(mark) = &self.mark
            && (mark.offset <= self.from || !self.is_repair)
            && mark.issued != self.below_mark
            && !planted!(MarkNotCompared)
        {
            let (said, found) = (mark.issued, self.below_mark);
            let detail =
                format!("the mark says {said} coupons below {}, found {found}", mark.offset);
            return Err(Contradiction { from: self.dense_to.min(mark.offset), detail });
        }
        let Self { campaign, expectations, is_repair, .. } = self;
        Ok(Recovered { campaign, expectations, is_repair })
    }

    fn coupon(&mut self, coupon: &Coupon) -> Result<(), Contradiction> {
        let sequence = coupon.sequence;
        let contradiction = |from, detail| Err(Contradiction { from, detail });
        if self.keys.coupon_digest(coupon) != coupon.digest && !planted!(AlteredRowTaken) {
            let detail = format!("the row of coupon {sequence} was altered");
            return contradiction(self.dense_to, detail);
        }
        let offset = coupon.position.offset;
        if self.mark.as_ref().is_some_and(|mark| offset < mark.offset) {
            self.below_mark += 1;
        }
        if offset >= self.from + u64::from(planted!(StartTakesTooMuch)) {
            let expected = Expected::Coupon { sequence, digest: coupon.digest };
            if self.expectations.rows.insert(offset, expected).is_some() {
                let detail = format!("two rows are derived from offset {offset}");
                return contradiction(offset, detail);
            }
            return Ok(());
        }
        let issued = self.campaign.issued();
        if sequence != issued + 1 {
            let detail = format!("coupon {sequence} follows coupon {issued}");
            return contradiction(self.dense_to, detail);
        }
        if offset < self.dense_to {
            let detail = format!("coupon {sequence} stands before its predecessor");
            return contradiction(offset, detail);
        }
        self.apply_versions_below(offset)?;
        let quota = self.campaign.definition().map_or(0, |definition| definition.terms.quota);
        if sequence > quota {
            let detail = format!("coupon {sequence} exceeds the quota of {quota} at its position");
            return contradiction(offset, detail);
        }
        if planted!(KeyForgotten) {
            let coupon = Coupon { key_digest: None, ..coupon.clone() };
            self.campaign.apply_coupon(&coupon);
        } else {
            self.campaign.apply_coupon(coupon);
        }
        self.dense_to = offset + 1;
        Ok(())
    }

    /// Applies the versions below `offset`, each against the coupons issued below it.
    fn apply_versions_below(&mut self, offset: Offset) -> Result<(), Contradiction> {
        while let Some(version) = self.versions.get(self.next_version)
            && version.position.offset < offset
        {
            let issued = self.campaign.issued();
            if version.issued != issued {
                let at = version.position.offset;
                let said = version.issued;
                let detail =
                    format!("the version at {at} says {said} coupons below it, found {issued}");
                return Err(Contradiction { from: self.dense_to.min(at), detail });
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
            rows::HoldState,
        },
        partition::fold::{
            Batch, Folder,
            tests::{defined, keys, request},
        },
    };

    fn spring() -> CampaignId {
        CampaignId::parse("spring").unwrap()
    }

    /// A definition at 0, then a request of another user at each offset.
    fn log() -> Vec<(At, Record)> {
        let asks = (1..=7).map(|offset| request(offset, &format!("u{offset}")));
        std::iter::once(defined()).chain(asks).collect()
    }

    /// The rows that the log gives.
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
        let mark = Some(Mark { campaign: spring(), offset: 8, issued: 7 });
        let rows = CampaignRows { holds, mark, versions };
        let mut recovery = Recovery::new(spring(), (1, 0), from, rows, keys())?;
        recovery.coupons(coupons)?;
        recovery.finish()
    }

    #[test]
    fn rows_missing_below_the_start_are_noticed_by_a_mark_above_it() {
        assert!(start(7, &[1, 2, 3, 4, 5, 6, 7], Vec::new()).is_ok());
        // Its owner died between mark and progress, and somebody took 3 to 6: coupon 7 alone
        // would only be found to differ when another had been derived in its place.
        let found = start(7, &[1, 2, 7], Vec::new()).unwrap_err();
        assert_eq!(found.from, 3, "just above the last dense row: {found}");
        let found = start(7, &[1, 2], Vec::new()).unwrap_err();
        assert_eq!(found.from, 3, "{found}");
    }

    #[test]
    fn a_hold_that_was_released_derives_what_is_missing() {
        let hold = Hold {
            campaign: spring(),
            partition: 0,
            from: 3,
            number: 1,
            kind: HoldKind::Contradiction,
            reason: "the mark says 7 coupons below 8, found 3".to_owned(),
            state: HoldState::Released,
            until: 0,
        };
        let recovered = start(3, &[1, 2, 7], vec![hold]).unwrap();
        let mut folder = Folder::new(recovered, keys(), 1);
        let records = log().split_off(3);
        let folded = folder.fold(Batch { records, passed: 8 });
        assert_eq!((folded.contradiction, folded.coupons), (None, rows().1.split_off(2)));
    }
}
