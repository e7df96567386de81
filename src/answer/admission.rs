//! Admission: the state of a campaign as a node last read it from the store, the requests that it
//! may refuse by this state, and the figures of views.

use std::time::Duration;

use super::Moment;
use crate::domain::{
    definition::{Definition, DefinitionVersion, RULES_VERSION},
    ids::{CampaignId, Offset, Sequence, Timestamp},
    keys::Keys,
    reason::{Reason, Situation},
    rows::{CampaignRows, Hold},
};

/// Maximum age of the state by which a request is refused or a view is shown.
pub(crate) const EDGE_AGE_MAX: Duration = Duration::from_secs(1);

/// A campaign's state in views: the first that holds, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CampaignState {
    /// A hold that is not closed.
    Quarantined,
    /// Every request is rejected for this reason.
    Shut(Reason),
    /// Coupons are issued.
    Open,
}

impl CampaignState {
    /// Lists every state, in the order of precedence.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        let shut = Reason::ALL.into_iter().map(Self::Shut);
        [Self::Quarantined].into_iter().chain(shut).chain([Self::Open])
    }

    /// Returns the state of a campaign at `wall`.
    #[must_use]
    pub(crate) fn of(
        definition: &Definition,
        quarantined: bool,
        issued: u32,
        wall: Timestamp,
    ) -> Self {
        if quarantined {
            return Self::Quarantined;
        }
        Situation::at(definition, issued, wall).reason().map_or(Self::Open, Self::Shut)
    }

    /// Returns the state as the API spells it.
    #[must_use]
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Quarantined => "quarantined",
            Self::Shut(reason) => reason.state(),
            Self::Open => "open",
        }
    }
}

/// One read of a campaign, in this order: progress of its partition, holds, mark, versions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AdmissionView {
    /// The time at which the read began.
    pub read_at: Moment,
    /// Before the read began, every position of the partition below this one was decided and
    /// stored, except under holds. From the feed's watermark or the durable progress.
    pub stored_below: Offset,
    /// The partition's durable progress before the read: marks are complete below it.
    pub progress: Offset,
    /// Whether a hold of the campaign is not closed.
    pub is_quarantined: bool,
    /// The lowest position that a hold leaves unsettled.
    pub unsettled_from: Option<Offset>,
    /// Offset and highest sequence of the mark; zeros if none was written.
    pub mark: (Offset, Sequence),
    /// Definition versions in the order of offsets: all, or the latest of a long history.
    pub versions: Vec<DefinitionVersion>,
}

/// The figures of a campaign's view.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Figures {
    /// State at the given wall-clock time.
    pub state: CampaignState,
    /// Coupons issued.
    pub issued: u32,
    /// quota − issued.
    pub remaining: u32,
    /// Every record of the campaign below this offset is in these figures; later ones may be.
    pub as_of: Offset,
}

/// The result of admission for one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Admission {
    /// Append the request: the log decides.
    Append,
    /// The campaign is on hold.
    Quarantined,
    /// The campaign is not defined: the record would be a dead letter.
    Undefined,
    /// The request would certainly be rejected.
    Refused(Reason),
}

/// Why a campaign's rows cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Unusable {
    /// The store knows no such campaign.
    Unknown,
    /// The version row at this offset was altered.
    Altered(Offset),
    /// Version rows, or the mark that counts them, have vanished.
    Vanished(String),
}

impl AdmissionView {
    /// Builds the state from `rows` of `campaign`, whose read began at `read_at`. `progress` was
    /// read before the rows. Everything below `stored_below` was known to be stored by then.
    ///
    /// # Errors
    /// [`Unusable`].
    pub(crate) fn of_rows(
        read_at: Moment,
        (stored_below, progress): (Offset, Offset),
        campaign: &CampaignId,
        rows: CampaignRows,
        keys: &Keys,
    ) -> Result<Self, Unusable> {
        let sound = |version: &DefinitionVersion| {
            version.campaign == *campaign && version.digest == keys.version_digest(version)
        };
        if let Some(version) = rows.versions.iter().find(|version| !sound(version)) {
            return Err(Unusable::Altered(version.position.offset));
        }
        let holds = &rows.holds;
        let is_quarantined = holds.iter().any(Hold::is_in_force);
        let unsettled_from = holds.iter().map(Hold::unsettled_from).min();
        // Everything below progress was stored before the mark was read, and the mark before the
        // versions. What a hold covers may be missing: its release derives it again.
        let unheld = unsettled_from.unwrap_or(Offset::MAX);
        let missing = rows.missing_versions(progress.min(unheld));
        if let Some((_, detail)) = missing.filter(|(from, _)| *from < unheld) {
            return Err(Unusable::Vanished(detail));
        }
        let CampaignRows { mark, mut versions, .. } = rows;
        versions.sort_by_key(|version| version.position);
        if versions.is_empty() && !is_quarantined {
            return Err(Unusable::Unknown);
        }
        Ok(Self {
            read_at,
            stored_below,
            progress,
            is_quarantined,
            unsettled_from,
            mark: mark.map_or((0, 0), |mark| (mark.offset, mark.counts.issued)),
            versions,
        })
    }

    /// Returns whether the latest version of `before` is missing here, so a version row has
    /// vanished.
    #[must_use]
    pub(crate) fn lost_versions(&self, before: &Self) -> bool {
        let latest = |state: &Self| state.latest().map(|latest| latest.position);
        latest(before) > latest(self)
    }

    /// Returns the latest definition version.
    #[must_use]
    pub(crate) fn latest(&self) -> Option<&DefinitionVersion> {
        self.versions.last()
    }

    /// Returns the latest definition.
    #[must_use]
    pub(crate) fn definition(&self) -> Option<&Definition> {
        self.latest().map(|version| &version.definition)
    }

    /// Returns the time since the read began.
    #[must_use]
    pub(crate) fn age(&self, now: Moment) -> Duration {
        now.saturating_sub(self.read_at)
    }

    /// Returns whether requests may be refused by this state.
    #[must_use]
    pub(crate) fn is_fresh(&self, now: Moment) -> bool {
        self.age(now) <= EDGE_AGE_MAX
    }

    /// Returns a lower bound of the coupons issued.
    #[must_use]
    pub(crate) fn issued(&self) -> u32 {
        self.mark.1.max(self.latest().map_or(0, |version| version.issued))
    }

    /// Returns whether every later definition has the latest one's number of user buckets, because
    /// a coupon was issued. The mark was read before the versions, so a coupon that it counts was
    /// issued under one of these versions.
    #[must_use]
    pub(crate) fn has_fixed_user_buckets(&self) -> bool {
        self.issued() > 0 && self.definition().is_some()
    }

    /// Returns whether the version in effect at `offset` is certainly among [`Self::versions`]: a
    /// version is below the offset, and no later read can find one in between.
    #[must_use]
    pub(crate) fn knows_version_at(&self, offset: Offset) -> bool {
        let first = self.versions.first();
        offset <= self.decided_below(self.stored_below)
            && first.is_some_and(|version| version.position.offset < offset)
    }

    /// Decides whether a request at `wall` goes to the log; see [`Self::certain_refusal`].
    #[must_use]
    pub(crate) fn admission(
        &self,
        now: Moment,
        wall: Timestamp,
        margin: Duration,
        has_key: bool,
    ) -> Admission {
        let defined = self.definition().is_some();
        if self.is_quarantined && (self.is_fresh(now) || !defined) {
            return Admission::Quarantined;
        }
        if !defined {
            return Admission::Undefined;
        }
        let refusal = self.certain_refusal(now, wall, margin, has_key);
        refusal.map_or(Admission::Append, Admission::Refused)
    }

    /// Returns the reason for which a request at `wall` would certainly be rejected. Returns `None`
    /// when the log must decide: the state is too old, the time is within `margin` of an end of the
    /// window (clocks may differ by that much), or the rules are newer than this binary. A request
    /// with an idempotency key is never refused here, because its coupon may exist.
    #[must_use]
    pub(crate) fn certain_refusal(
        &self,
        now: Moment,
        wall: Timestamp,
        margin: Duration,
        has_key: bool,
    ) -> Option<Reason> {
        let definition = self.definition()?;
        let known_rules = definition.rules_version == RULES_VERSION;
        if has_key || !known_rules || !self.is_fresh(now) {
            return None;
        }
        let margin = i64::try_from(margin.as_millis()).unwrap_or(i64::MAX);
        let situation = Situation {
            definition,
            issued: self.issued(),
            earliest: Timestamp(wall.0.saturating_sub(margin)),
            latest: Timestamp(wall.0.saturating_add(margin)),
        };
        situation.reason()
    }

    /// Returns the figures of a view at `wall`; `None` if there is no definition.
    #[must_use]
    pub(crate) fn figures(&self, wall: Timestamp) -> Option<Figures> {
        let definition = self.definition()?;
        let issued = self.issued();
        let remaining = definition.terms.quota.saturating_sub(issued);
        let state = CampaignState::of(definition, self.is_quarantined, issued, wall);
        let as_of = self.decided_below(self.progress.max(self.mark.0));
        Some(Figures { state, issued, remaining, as_of })
    }

    /// Returns `offset`, lowered to the lowest position that a hold leaves unsettled.
    fn decided_below(&self, offset: Offset) -> Offset {
        self.unsettled_from.map_or(offset, |from| from.min(offset))
    }
}

#[cfg(test)]
mod tests {
    use crate::answer::admission::{
        CampaignState::{Open, Shut},
        *,
    };
    use crate::domain::{
        definition::Terms,
        ids::{CampaignId, Position},
    };

    const READ_AT: Moment = Duration::from_secs(50);
    const MARGIN: Duration = Duration::from_secs(1);
    const OPENS_AT: i64 = 100_000;
    const CLOSES_AT: i64 = 200_000;

    fn state(issued: u32, change: impl FnOnce(&mut Definition)) -> AdmissionView {
        let terms = Terms {
            opens_at: Some(Timestamp(OPENS_AT)),
            closes_at: Some(Timestamp(CLOSES_AT)),
            ..Terms::of(10)
        };
        let mut definition = Definition::first(terms);
        change(&mut definition);
        let version = DefinitionVersion {
            campaign: CampaignId::parse("spring").unwrap(),
            position: Position { log_epoch: 1, partition: 0, offset: 40 },
            time: Timestamp(5),
            definition,
            issued: 0,
            digest: [0; 16],
        };
        AdmissionView {
            read_at: READ_AT,
            stored_below: 130,
            progress: 120,
            is_quarantined: false,
            unsettled_from: None,
            mark: (100, issued),
            versions: vec![version],
        }
    }

    #[track_caller]
    fn check(state: &AdmissionView, wall: i64, refusal: Option<Reason>, shown: CampaignState) {
        let certain = state.certain_refusal(READ_AT, Timestamp(wall), MARGIN, false);
        assert_eq!(certain, refusal);
        assert_eq!(state.figures(Timestamp(wall)).unwrap().state, shown);
        assert_eq!(state.certain_refusal(READ_AT, Timestamp(wall), MARGIN, true), None);
    }

    #[test]
    fn around_the_ends_of_the_window_the_log_decides() {
        let open = state(0, |_| {});
        check(&open, 0, Some(Reason::NotOpenYet), Shut(Reason::NotOpenYet));
        check(&open, OPENS_AT - 1_001, Some(Reason::NotOpenYet), Shut(Reason::NotOpenYet));
        check(&open, OPENS_AT - 1_000, None, Shut(Reason::NotOpenYet));
        check(&open, OPENS_AT - 1, None, Shut(Reason::NotOpenYet));
        check(&open, OPENS_AT, None, Open);
        check(&open, CLOSES_AT - 1, None, Open);
        check(&open, CLOSES_AT, None, Shut(Reason::Closed));
        check(&open, CLOSES_AT + 999, None, Shut(Reason::Closed));
        check(&open, CLOSES_AT + 1_000, Some(Reason::Closed), Shut(Reason::Closed));
    }

    #[test]
    fn the_first_reason_that_holds_is_told() {
        let within = OPENS_AT + 5_000;
        let paused = |definition: &mut Definition| definition.paused = true;
        check(&state(10, |_| {}), within, Some(Reason::SoldOut), Shut(Reason::SoldOut));
        check(&state(9, |_| {}), within, None, Open);
        check(&state(10, paused), within, Some(Reason::Paused), Shut(Reason::Paused));
        check(&state(10, paused), 0, Some(Reason::Paused), Shut(Reason::Paused));
        let closed = |definition: &mut Definition| {
            definition.paused = true;
            definition.closed = true;
        };
        check(&state(10, closed), within, Some(Reason::Closed), Shut(Reason::Closed));
        check(&state(10, |_| {}), 0, Some(Reason::NotOpenYet), Shut(Reason::NotOpenYet));
    }

    #[test]
    fn a_state_older_than_a_second_refuses_none() {
        let sold_out = state(10, |_| {});
        let within = Timestamp(OPENS_AT + 5_000);
        let at = |age| sold_out.certain_refusal(READ_AT + age, within, MARGIN, false);
        assert_eq!(at(EDGE_AGE_MAX), Some(Reason::SoldOut));
        assert_eq!(at(EDGE_AGE_MAX + Duration::from_millis(1)), None);
    }

    #[test]
    fn a_quota_cut_to_issued_shows_no_seat() {
        let mut reduced = state(0, |definition| definition.terms.quota = 7);
        reduced.versions[0].issued = 7;
        let figures = reduced.figures(Timestamp(OPENS_AT)).unwrap();
        assert_eq!((figures.issued, figures.remaining), (7, 0));
        assert_eq!(figures.state, Shut(Reason::SoldOut));
    }

    #[test]
    fn figures_never_pass_a_hold() {
        let mut state = state(3, |_| {});
        assert_eq!(state.figures(Timestamp(0)).unwrap().as_of, 120);
        state.mark.0 = 125;
        assert_eq!(state.figures(Timestamp(0)).unwrap().as_of, 125);
        (state.is_quarantined, state.unsettled_from) = (true, Some(110));
        let figures = state.figures(Timestamp(0)).unwrap();
        assert_eq!((figures.as_of, figures.state), (110, CampaignState::Quarantined));
    }

    #[test]
    fn user_buckets_are_fixed_once_a_coupon_is_known() {
        assert!(!state(0, |_| {}).has_fixed_user_buckets());
        assert!(state(1, |_| {}).has_fixed_user_buckets());
        let mut counted = state(0, |_| {});
        counted.versions[0].issued = 1;
        assert!(counted.has_fixed_user_buckets());
        assert!(
            !AdmissionView { versions: Vec::new(), ..state(1, |_| {}) }.has_fixed_user_buckets()
        );
    }

    #[test]
    fn a_version_is_known_below_stored_rows() {
        let mut state = state(3, |_| {});
        let knows = |state: &AdmissionView, offset| state.knows_version_at(offset);
        assert_eq!([130, 131, 41, 40].map(|at| knows(&state, at)), [true, false, true, false]);
        (state.is_quarantined, state.unsettled_from) = (true, Some(110));
        assert_eq!([110, 111].map(|at| knows(&state, at)), [true, false]);
    }
}
