//! Changes campaigns. The log decides: a change is appended with the definition version that it was
//! made from, and the call returns the record's decision. If another version is in effect by then,
//! the record is refused, and the change is made again from the new version.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use async_trait::async_trait;
use tokio::sync::SemaphorePermit;

use super::{
    NodeClock, NodeService, ReadError,
    campaigns::CampaignSnapshot,
    interface::{Basis, CampaignView, ChangeCampaigns, Changed, ControlVerb, ServiceError},
    issue::RETRY_AFTER,
    listing::Listing,
    wait::{Awaited, WaitEnd, contradiction},
};
use crate::answer::Moment;
use crate::domain::{
    answer::Answer,
    decision::Refusal,
    definition::{Amendment, Definition, Term, Terms},
    ids::{CampaignId, Offset, Position},
    record::{Change, Control},
    rows::{Hold, HoldName, HoldState},
};

/// Time in which an admin call is answered, as the API promises.
const BUDGET: Duration = Duration::from_secs(5);

/// Attempts of a change that other changes overtook. Even with 64 admin calls at once, losing 16
/// times in a row does not happen by chance.
const ATTEMPTS_MAX: usize = 16;

/// Most holds that one release names. A campaign has one or two; the rest waits for another release.
const HOLDS_RELEASED_MAX: usize = 64;

/// Pause between two reads of a hold that is being released.
const HOLD_CHECK_EVERY: Duration = Duration::from_millis(100);

#[async_trait]
impl ChangeCampaigns for NodeService {
    async fn define(
        &self,
        campaign: CampaignId,
        terms: Terms,
        basis: Basis,
        by: &str,
    ) -> Result<Changed, ServiceError> {
        let faults = terms.faults();
        if !faults.is_empty() {
            return Err(ServiceError::Invalid(faults));
        }
        let call = self.start_call(by, &basis)?;
        let attempts = async {
            if let Some(view) = self.try_make(&call, &campaign, &terms, &basis).await? {
                return Ok(self.changed(true, view, Vec::new()));
            }
            let mut removed = Vec::new();
            let redefine = |definition: &Definition| {
                removed = removed_by(&definition.terms, &terms);
                redefining(definition, &terms)
            };
            let view = self.change(&call, &campaign, &basis, redefine).await?;
            Ok(self.changed(false, view, removed))
        };
        call.run(attempts).await
    }

    async fn amend(
        &self,
        campaign: &CampaignId,
        amendment: Amendment,
        basis: Basis,
        by: &str,
    ) -> Result<Changed, ServiceError> {
        let call = self.start_call(by, &basis)?;
        let change = |definition: &Definition| amending(definition, &amendment);
        let view = call.run(self.change(&call, campaign, &basis, change)).await?;
        Ok(self.changed(false, view, Vec::new()))
    }

    async fn control(
        &self,
        campaign: &CampaignId,
        verb: ControlVerb,
        basis: Basis,
        by: &str,
    ) -> Result<CampaignView, ServiceError> {
        let call = self.start_call(by, &basis)?;
        let change: fn(&Definition) -> Result<Option<Change>, ServiceError> = match verb {
            ControlVerb::Pause => pausing,
            ControlVerb::Resume => resuming,
            ControlVerb::Close => closing,
            ControlVerb::Release => return call.run(self.release(&call, campaign, &basis)).await,
        };
        call.run(self.change(&call, campaign, &basis, change)).await
    }
}

/// An admin call: its permit, its deadline, and whether a record of it may be in the log.
pub(super) struct Call<'a> {
    clock: &'a NodeClock,
    listing: &'a Listing,
    until: Moment,
    /// Who calls: the name of a key.
    by: &'a str,
    /// A change that another one has overtaken is made again.
    retries: bool,
    appended: AtomicBool,
    _permit: SemaphorePermit<'a>,
}

impl Call<'_> {
    /// Runs `work` until the deadline.
    pub(super) async fn run<T>(
        &self,
        work: impl Future<Output = Result<T, ServiceError>>,
    ) -> Result<T, ServiceError> {
        let result = match self.clock.timeout_at(self.until, work).await {
            Ok(result) => result.map_err(|error| self.outcome_of(error)),
            Err(_) => Err(self.out_of_time()),
        };
        // Who has made a change sees it in the next list.
        self.listing.forget();
        result
    }

    /// Turns errors that say "nothing happened" into [`ServiceError::OutcomeUnknown`] if a record
    /// of the call may be in the log.
    fn outcome_of(&self, error: ServiceError) -> ServiceError {
        match error {
            ServiceError::Unavailable { detail }
            | ServiceError::Overloaded { detail, .. }
            | ServiceError::Halted { reason: detail }
                if self.may_be_in_log() =>
            {
                ServiceError::OutcomeUnknown { detail }
            }
            other => other,
        }
    }

    fn out_of_time(&self) -> ServiceError {
        let detail = format!("the change was not in effect within {} s", BUDGET.as_secs());
        match self.may_be_in_log() {
            true => ServiceError::OutcomeUnknown { detail },
            false => ServiceError::Unavailable { detail },
        }
    }

    /// Returns who calls.
    pub(super) fn by(&self) -> &str {
        self.by
    }

    /// Returns the deadline.
    pub(super) fn until(&self) -> Moment {
        self.until
    }

    fn may_be_in_log(&self) -> bool {
        self.appended.load(Ordering::Relaxed)
    }

    pub(super) fn set_may_be_in_log(&self, may_be: bool) {
        self.appended.store(may_be, Ordering::Relaxed);
    }
}

impl NodeService {
    pub(super) fn start_call<'a>(
        &'a self,
        by: &'a str,
        basis: &Basis,
    ) -> Result<Call<'a>, ServiceError> {
        let Ok(permit) = self.admin_calls.try_acquire() else {
            let detail = "too many admin calls are in flight".to_owned();
            return Err(ServiceError::Overloaded { detail, retry_after: RETRY_AFTER });
        };
        let (clock, until) = (&self.clock, self.clock.now() + BUDGET);
        let (listing, appended) = (&self.listing, AtomicBool::new(false));
        let retries = matches!(basis, Basis::InEffect | Basis::Existing);
        Ok(Call { clock, listing, until, by, retries, appended, _permit: permit })
    }

    /// Makes a campaign that does not exist. `None`: it exists, or another definition was appended first.
    async fn try_make(
        &self,
        call: &Call<'_>,
        campaign: &CampaignId,
        terms: &Terms,
        basis: &Basis,
    ) -> Result<Option<CampaignView>, ServiceError> {
        self.lag_unless_halted(self.codec.partition_of(campaign))?;
        if self.campaigns.current(campaign).await?.is_some() {
            return Ok(None);
        }
        self.check_basis(basis, None)?;
        let change = Change::Defined { terms: terms.clone() };
        match self.decide(call, campaign, None, change).await? {
            Answer::Accepted => Ok(Some(self.view_in_effect(call, campaign).await?)),
            // The other definition is read, and amended where it differs.
            Answer::Refused { refusal: Refusal::StaleVersion } => Ok(None),
            other => Err(impossible(campaign, &other)),
        }
    }

    fn changed(&self, created: bool, view: CampaignView, mut warnings: Vec<String>) -> Changed {
        warnings.extend(view.definition.terms.implausible(self.clock.wall()));
        Changed { created, view, warnings }
    }

    /// Fails if a change may not be based on this version.
    fn check_basis(&self, basis: &Basis, version: Option<Offset>) -> Result<(), ServiceError> {
        if basis.allows(version.map(|offset| (self.log_epoch, offset))) {
            return Ok(());
        }
        let detail = match version {
            None => "no campaign has this id, and If-Match asks for one".to_owned(),
            Some(_) if *basis == Basis::Absent => "a campaign has this id already".to_owned(),
            Some(version) => format!(
                "the version in effect is \"{}-{version}\", which If-Match does not name",
                self.log_epoch
            ),
        };
        Err(ServiceError::PreconditionFailed { detail })
    }

    fn check_basis_of(
        &self,
        basis: &Basis,
        snapshot: &CampaignSnapshot,
    ) -> Result<(), ServiceError> {
        self.check_basis(basis, snapshot.edge.latest().map(|latest| latest.position.offset))
    }

    /// Makes a change, from the definition in effect. `change` returns `None` if the definition is
    /// already as asked.
    async fn change(
        &self,
        call: &Call<'_>,
        campaign: &CampaignId,
        basis: &Basis,
        mut change: impl FnMut(&Definition) -> Result<Option<Change>, ServiceError> + Send,
    ) -> Result<CampaignView, ServiceError> {
        for _ in 0..ATTEMPTS_MAX {
            let snapshot = self.campaigns.current(campaign).await?;
            let snapshot = snapshot.ok_or(ServiceError::UnknownCampaign)?;
            // Checked before anything is appended: the record would only be decided after the
            // halt or the hold has ended, long after this call.
            self.lag_unless_halted(self.codec.partition_of(campaign))?;
            snapshot.refuse_quarantined()?;
            let latest = snapshot.edge.latest().ok_or(ServiceError::UnknownCampaign)?;
            let change = change(&latest.definition);
            // What is so already is no change, and needs no basis. A campaign that must not be there is.
            if !matches!(change, Ok(None)) || *basis == Basis::Absent {
                self.check_basis_of(basis, &snapshot)?;
            }
            let Some(change) = change? else {
                return self.view(campaign, &snapshot);
            };
            let based_on = Some(latest.position.offset);
            match self.decide(call, campaign, based_on, change).await? {
                Answer::Accepted => return self.view_in_effect(call, campaign).await,
                Answer::Refused { refusal } => match refusal {
                    Refusal::StaleVersion => {}
                    Refusal::QuotaBelowIssued { issued } => {
                        return Err(ServiceError::QuotaBelowIssued { issued });
                    }
                    Refusal::Closed => return Err(ServiceError::CampaignClosed),
                    // The terms were valid here, so the owner runs other rules or read other rows.
                    Refusal::Invalid => {
                        return Err(impossible(campaign, &Answer::Refused { refusal }));
                    }
                },
                other => return Err(impossible(campaign, &other)),
            }
        }
        Err(overtaken())
    }

    /// Releases the holds of a campaign, and waits until they are marked released.
    async fn release(
        &self,
        call: &Call<'_>,
        campaign: &CampaignId,
        basis: &Basis,
    ) -> Result<CampaignView, ServiceError> {
        let snapshot = match self.campaigns.current(campaign).await {
            Ok(snapshot) => snapshot.ok_or(ServiceError::UnknownCampaign)?,
            Err(ReadError::Contradiction(reason)) => {
                // Rows contradict each other, and the campaign is not on hold for it: nobody has
                // loaded it since. Any record of it makes its owner do so.
                let change = Change::Released { holds: Vec::new() };
                self.append_control(call, campaign, None, change).await?;
                // It changes nothing.
                call.set_may_be_in_log(false);
                let reason =
                    format!("{reason}; its owner looks at it now, release it once it is held");
                return Err(ServiceError::Halted { reason });
            }
            Err(error) => return Err(error.into()),
        };
        if snapshot.quarantine().is_none() {
            return self.view(campaign, &snapshot);
        }
        self.check_basis_of(basis, &snapshot)?;
        if let Some(reason) = self.not_releasable(campaign, &snapshot).await? {
            return Err(ServiceError::NotReleasable { reason });
        }
        let based_on = snapshot.edge.latest().map(|latest| latest.position.offset);
        let named = snapshot.holds.iter().map(Hold::name).take(HOLDS_RELEASED_MAX);
        let named: Vec<HoldName> = named.collect();
        let change = Change::Released { holds: named.clone() };
        self.append_control(call, campaign, based_on, change).await?;
        // A campaign on hold decides nothing, so no decision of this record arrives over the feed.
        // The hold rows show when the owner has handled the record.
        loop {
            let now = self.campaigns.current(campaign).await?;
            let now = now.ok_or(ServiceError::UnknownCampaign)?;
            if named.iter().all(|name| !is_open(*name, &now.holds)) {
                match self.view(campaign, &now) {
                    // Its version is gone. The replay derives it again.
                    Err(ServiceError::Halted { .. }) => {}
                    view => return view,
                }
            }
            self.clock.sleep(HOLD_CHECK_EVERY).await;
        }
    }

    /// Appends a change and waits for its decision.
    async fn decide(
        &self,
        call: &Call<'_>,
        campaign: &CampaignId,
        based_on: Option<Offset>,
        change: Change,
    ) -> Result<Answer, ServiceError> {
        let (position, control) = self.append_control(call, campaign, based_on, change).await?;
        let awaited = Awaited::Control { position, control: &control };
        match self.wait_for_decision(awaited, call.until).await? {
            WaitEnd::Decided(answer) => {
                if answer != Answer::Accepted {
                    // A refused record changes nothing, so the outcome is known again.
                    call.set_may_be_in_log(false);
                }
                Ok(answer)
            }
            WaitEnd::TimedOut | WaitEnd::NoWaiterFree => Err(call.out_of_time()),
        }
    }

    async fn append_control(
        &self,
        call: &Call<'_>,
        campaign: &CampaignId,
        based_on: Option<Offset>,
        change: Change,
    ) -> Result<(Position, Control), ServiceError> {
        let (by, retried) = (call.by().to_owned(), call.retries);
        let control = Control { campaign: campaign.clone(), based_on, by, retried, change };
        let (partition, record) = self.codec.encode_control(&control);
        // Before the append: the deadline may cancel it while the record is on its way.
        call.set_may_be_in_log(true);
        let appended = self.append(partition, record).await.inspect_err(|error| {
            call.set_may_be_in_log(matches!(error, ServiceError::OutcomeUnknown { .. }));
        })?;
        Ok((self.position(partition, appended), control))
    }

    /// Reads a campaign whose change was accepted. This also refreshes the cache, so that later
    /// calls on this node see the change.
    async fn view_in_effect(
        &self,
        call: &Call<'_>,
        campaign: &CampaignId,
    ) -> Result<CampaignView, ServiceError> {
        call.set_may_be_in_log(true);
        match self.campaigns.current(campaign).await? {
            Some(snapshot) => self.view(campaign, &snapshot),
            None => Err(contradiction(format!("{campaign} was defined and is not in the store"))),
        }
    }
}

fn pausing(definition: &Definition) -> Result<Option<Change>, ServiceError> {
    check_open(definition)?;
    Ok((!definition.paused).then_some(Change::Paused))
}

fn resuming(definition: &Definition) -> Result<Option<Change>, ServiceError> {
    check_open(definition)?;
    Ok(definition.paused.then_some(Change::Resumed))
}

fn closing(definition: &Definition) -> Result<Option<Change>, ServiceError> {
    Ok((!definition.closed).then_some(Change::Closed))
}

fn amending(
    definition: &Definition,
    amendment: &Amendment,
) -> Result<Option<Change>, ServiceError> {
    check_open(definition)?;
    let amended = definition.terms.amended(amendment);
    let faults = amended.faults();
    if !faults.is_empty() {
        return Err(ServiceError::Invalid(faults));
    }
    let amendment = amendment.clone();
    Ok((amended != definition.terms).then_some(Change::Amended { amendment }))
}

/// Returns the amendment that gives a campaign these terms.
fn redefining(definition: &Definition, terms: &Terms) -> Result<Option<Change>, ServiceError> {
    if definition.terms == *terms {
        return Ok(None);
    }
    check_open(definition)?;
    if definition.terms.code != terms.code {
        return Err(ServiceError::OtherCode);
    }
    let mut amendment = Amendment::default();
    for term in Term::AMENDABLE {
        let (now, then) = (definition.terms.get(*term), terms.get(*term));
        if now != then && amendment.set(*term, then).is_err() {
            // Both values are of the term itself.
            return Err(contradiction(format!("{} does not take its own value", term.name())));
        }
    }
    Ok(Some(Change::Amended { amendment }))
}

/// Says which terms a definition removes by leaving them out.
fn removed_by(before: &Terms, after: &Terms) -> Vec<String> {
    let is_removed = |term: &&Term| before.get(**term).is_some() && after.get(**term).is_none();
    let removed = Term::AMENDABLE.iter().filter(is_removed);
    removed.map(|term| format!("{} was removed: the definition has none", term.name())).collect()
}

fn check_open(definition: &Definition) -> Result<(), ServiceError> {
    if definition.closed { Err(ServiceError::CampaignClosed) } else { Ok(()) }
}

/// Returns whether a hold is still open, given the campaign's holds that are not closed.
fn is_open(name: HoldName, not_closed: &[Hold]) -> bool {
    not_closed.iter().any(|hold| hold.name() == name && hold.state == HoldState::Open)
}

fn overtaken() -> ServiceError {
    let detail = format!("other changes of the campaign came first {ATTEMPTS_MAX} times");
    ServiceError::Overloaded { detail, retry_after: RETRY_AFTER }
}

/// Reports an answer that no control record can have.
fn impossible(campaign: &CampaignId, answer: &Answer) -> ServiceError {
    contradiction(format!("a control record of {campaign} was answered with {answer:?}"))
}
