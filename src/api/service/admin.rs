//! Changing campaigns. The log decides: a change is appended, named after the definition version
//! that it was made from, and answered by its decision. From another version it is refused, read
//! again and repeated, within the time that the admin listener promises.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::SemaphorePermit,
    time::{Instant, sleep, timeout_at},
};

use super::{
    NodeService,
    campaigns::Known,
    decided::{Decided, Wanted, contradiction},
    issue::{RETRY_AFTER, refuse_halted},
    model::{CampaignView, Command, Refused},
};
use crate::domain::{
    answer::Answer,
    decision::Refusal,
    definition::{Definition, Terms},
    ids::{CampaignId, Offset, Position},
    record::{Change, Control, Record},
    rows::{Hold, HoldState},
};

/// Time in which an admin call is answered, as the outside was promised.
const BUDGET: Duration = Duration::from_secs(5);

/// Repetitions of a change that others overtook: more than 64 admins at once can cause by chance.
const REPEATS_MAX: usize = 16;

/// Pause between two looks at a hold that is to be released.
const HOLD_CHECK_EVERY: Duration = Duration::from_millis(100);

/// One admin call: its place, its time, and whether something of it may be in the log.
struct Call<'a> {
    until: Instant,
    appended: AtomicBool,
    _place: SemaphorePermit<'a>,
}

impl Call<'_> {
    /// What an error means once something was appended: that nobody can say.
    fn judged(&self, refused: Refused) -> Refused {
        match refused {
            Refused::Unavailable { detail }
            | Refused::Overloaded { detail, .. }
            | Refused::Halted { reason: detail }
                if self.appended.load(Ordering::Relaxed) =>
            {
                Refused::Unknown { detail }
            }
            other => other,
        }
    }

    fn out_of_time(&self) -> Refused {
        let detail = format!("not known to be in effect within {} s", BUDGET.as_secs());
        match self.appended.load(Ordering::Relaxed) {
            true => Refused::Unknown { detail },
            false => Refused::Unavailable { detail },
        }
    }

    /// Runs `work` within the time of the call.
    async fn run<T>(&self, work: impl Future<Output = Result<T, Refused>>) -> Result<T, Refused> {
        match timeout_at(self.until, work).await {
            Ok(result) => result.map_err(|refused| self.judged(refused)),
            Err(_) => Err(self.out_of_time()),
        }
    }
}

/// The fields in which two definitions differ, as the outside names them.
fn differing(one: &Terms, other: &Terms) -> Vec<&'static str> {
    let fields = [
        ("quota", one.quota != other.quota),
        ("per_user_limit", one.per_user_limit != other.per_user_limit),
        ("opens_at", one.opens_at != other.opens_at),
        ("closes_at", one.closes_at != other.closes_at),
        ("code", one.code != other.code),
    ];
    fields.into_iter().filter(|(_, differs)| *differs).map(|(field, _)| field).collect()
}

/// What the present definition makes of a command.
enum Plan {
    /// It says so already.
    Done,
    /// This must be appended.
    Append(Change),
}

impl NodeService {
    /// Defines a campaign; `true` when it did not exist before.
    pub(super) async fn define_within(
        &self,
        campaign: CampaignId,
        terms: Terms,
    ) -> Result<(bool, CampaignView), Refused> {
        let faults = terms.faults();
        if !faults.is_empty() {
            return Err(Refused::Invalid(faults));
        }
        let call = self.call()?;
        call.run(self.define_by(&call, campaign, terms)).await
    }

    /// Changes a campaign.
    pub(super) async fn command_within(
        &self,
        campaign: &CampaignId,
        command: Command,
    ) -> Result<CampaignView, Refused> {
        let call = self.call()?;
        call.run(self.command_by(&call, campaign, command)).await
    }

    /// Asks that a quarantined campaign tries again.
    pub(super) async fn release_within(
        &self,
        campaign: &CampaignId,
    ) -> Result<CampaignView, Refused> {
        let call = self.call()?;
        call.run(self.release_by(&call, campaign)).await
    }

    fn call(&self) -> Result<Call<'_>, Refused> {
        let Ok(place) = self.admin_calls.try_acquire() else {
            let detail = "too many admin calls are under way".to_owned();
            return Err(Refused::Overloaded { detail, retry_after: RETRY_AFTER });
        };
        let until = Instant::now() + BUDGET;
        Ok(Call { until, appended: AtomicBool::new(false), _place: place })
    }

    async fn define_by(
        &self,
        call: &Call<'_>,
        campaign: CampaignId,
        terms: Terms,
    ) -> Result<(bool, CampaignView), Refused> {
        let change = Change::Defined { terms: terms.clone() };
        for _ in 0..REPEATS_MAX {
            self.refuse_halted_partition(&campaign)?;
            if let Some(known) = self.campaigns.now(&campaign).await? {
                known.refuse_quarantined()?;
                return match &known.first {
                    Some(first) if *first == terms => Ok((false, self.shown(&campaign, &known)?)),
                    first => Err(Refused::AlreadyDefined {
                        differing: first
                            .as_ref()
                            .map_or(Vec::new(), |first| differing(first, &terms)),
                    }),
                };
            }
            match self.change(call, &campaign, None, change.clone()).await? {
                Answer::Accepted => {
                    return Ok((true, self.view_in_effect(call, &campaign).await?));
                }
                // Somebody else was first: the next read tells with what.
                Answer::Refused { refusal: Refusal::StaleVersion } => {}
                other => return Err(odd(&campaign, &other)),
            }
        }
        Err(overtaken())
    }

    async fn command_by(
        &self,
        call: &Call<'_>,
        campaign: &CampaignId,
        command: Command,
    ) -> Result<CampaignView, Refused> {
        for _ in 0..REPEATS_MAX {
            let known = self.campaigns.now(campaign).await?.ok_or(Refused::UnknownCampaign)?;
            self.refuse_halted_partition(campaign)?;
            known.refuse_quarantined()?;
            let latest = known.edge.latest().ok_or(Refused::UnknownCampaign)?;
            let change = match plan(&latest.definition, &command)? {
                Plan::Done => return self.shown(campaign, &known),
                Plan::Append(change) => change,
            };
            let based_on = Some(latest.position.offset);
            match self.change(call, campaign, based_on, change).await? {
                Answer::Accepted => return self.view_in_effect(call, campaign).await,
                Answer::Refused { refusal } => match refusal {
                    Refusal::StaleVersion => {}
                    Refusal::QuotaBelowIssued { issued } => {
                        return Err(Refused::QuotaBelowIssued { issued });
                    }
                    Refusal::Closed => return Err(Refused::ClosedForEver),
                    // Its terms were sound here: rows, log or binaries are not what they were.
                    Refusal::Invalid => return Err(odd(campaign, &Answer::Refused { refusal })),
                },
                other => return Err(odd(campaign, &other)),
            }
        }
        Err(overtaken())
    }

    async fn release_by(
        &self,
        call: &Call<'_>,
        campaign: &CampaignId,
    ) -> Result<CampaignView, Refused> {
        let known = self.campaigns.now(campaign).await?.ok_or(Refused::UnknownCampaign)?;
        if known.quarantine().is_none() {
            return self.shown(campaign, &known);
        }
        let based_on = known.edge.latest().map(|latest| latest.position.offset);
        self.append_control(call, campaign, based_on, Change::Released).await?;
        loop {
            let now = self.campaigns.now(campaign).await?.ok_or(Refused::UnknownCampaign)?;
            if known.holds.iter().all(|hold| is_released(hold, &now.holds)) {
                return self.shown(campaign, &now);
            }
            sleep(HOLD_CHECK_EVERY).await;
        }
    }

    /// Appends a change and waits for its decision.
    async fn change(
        &self,
        call: &Call<'_>,
        campaign: &CampaignId,
        based_on: Option<Offset>,
        change: Change,
    ) -> Result<Answer, Refused> {
        let (position, control) = self.append_control(call, campaign, based_on, change).await?;
        let wanted = Wanted::Control { position, control: &control };
        match self.decided(wanted, call.until).await? {
            Decided::Answer(answer) => {
                if answer != Answer::Accepted {
                    // It is in the log and changed nothing: as if it had not been said.
                    call.appended.store(false, Ordering::Relaxed);
                }
                Ok(answer)
            }
            Decided::NotYet | Decided::NoPlace => Err(call.out_of_time()),
        }
    }

    async fn append_control(
        &self,
        call: &Call<'_>,
        campaign: &CampaignId,
        based_on: Option<Offset>,
        change: Change,
    ) -> Result<(Position, Control), Refused> {
        let control = Control { campaign: campaign.clone(), based_on, change };
        let (partition, record) = self.codec.encode(&Record::from(control.clone()));
        // From here on the time may run out while the record is on its way.
        call.appended.store(true, Ordering::Relaxed);
        let appended = self.append(partition, record).await.inspect_err(|refused| {
            let in_log = matches!(refused, Refused::Unknown { .. });
            call.appended.store(in_log, Ordering::Relaxed);
        })?;
        Ok((self.position(partition, appended), control))
    }

    /// The campaign with a change that is known to be in effect; also refreshes what this node
    /// keeps, so that whatever follows here sees it.
    async fn view_in_effect(
        &self,
        call: &Call<'_>,
        campaign: &CampaignId,
    ) -> Result<CampaignView, Refused> {
        call.appended.store(true, Ordering::Relaxed);
        let known: Option<Arc<Known>> = self.campaigns.now(campaign).await?;
        match known {
            Some(known) => self.shown(campaign, &known),
            None => Err(contradiction(format!("{campaign} was defined and is not in the store"))),
        }
    }

    fn refuse_halted_partition(&self, campaign: &CampaignId) -> Result<(), Refused> {
        refuse_halted(self.waiters.admission(self.codec.partition_of(campaign)).0)
    }
}

/// What `command` takes, given the definition in effect.
fn plan(definition: &Definition, command: &Command) -> Result<Plan, Refused> {
    let unless = |done: bool, change: Change| match done {
        true => Ok(Plan::Done),
        false => Ok(Plan::Append(change)),
    };
    match command {
        Command::Close => unless(definition.closed, Change::Closed),
        _ if definition.closed => Err(Refused::ClosedForEver),
        Command::Pause => unless(definition.paused, Change::Paused),
        Command::Resume => unless(!definition.paused, Change::Resumed),
        Command::Amend(amendment) => {
            let amended = definition.terms.amended(amendment);
            let faults = amended.faults();
            if !faults.is_empty() {
                return Err(Refused::Invalid(faults));
            }
            let amendment = amendment.clone();
            unless(amended == definition.terms, Change::Amended { amendment })
        }
    }
}

/// Whether `hold` is no longer open, given the campaign's holds that are not closed.
fn is_released(hold: &Hold, not_closed: &[Hold]) -> bool {
    let same = |other: &&Hold| other.from == hold.from && other.number == hold.number;
    not_closed.iter().find(same).is_none_or(|hold| hold.state != HoldState::Open)
}

fn overtaken() -> Refused {
    let detail = format!("others changed the campaign {REPEATS_MAX} times meanwhile");
    Refused::Overloaded { detail, retry_after: RETRY_AFTER }
}

/// An answer that no control record can have.
fn odd(campaign: &CampaignId, answer: &Answer) -> Refused {
    contradiction(format!("a control record of {campaign} was answered as {answer:?}"))
}
