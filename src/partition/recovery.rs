//! How a campaign's state comes out of its rows, and what the log must still confirm.
//!
//! Rows below the start are the state: dense, in order, and as many as the mark says. Rows at or
//! above it are expectations: the log derives them again, and any difference is a contradiction.

use crate::planted;
use std::{collections::BTreeMap, sync::Arc};

use crate::domain::{
    campaign::Campaign,
    coupon::Coupon,
    definition::{DefinitionVersion, RULES_VERSION},
    ids::{CampaignId, Offset, Partition, Sequence},
    keys::Keys,
    rows::{CampaignRows, Mark},
};

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
        Ok(Self {
            from,
            campaign: Campaign::new(campaign, log_epoch, partition, Arc::clone(&keys)),
            keys,
            versions,
            next_version: 0,
            mark: rows.mark,
            below_mark: 0,
            dense_to: 0,
            expectations,
        })
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
        // A mark above the start stands on rows that the log is about to derive again.
        if let Some(mark) = &self.mark
            && mark.offset <= self.from
            && mark.issued != self.below_mark
            && !planted!(MarkNotCompared)
        {
            let (said, found) = (mark.issued, self.below_mark);
            let detail =
                format!("the mark says {said} coupons below {}, found {found}", mark.offset);
            return Err(Contradiction { from: self.dense_to.min(mark.offset), detail });
        }
        Ok(Recovered { campaign: self.campaign, expectations: self.expectations })
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
