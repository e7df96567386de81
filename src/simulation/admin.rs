//! Administrators: they define campaigns and change them, each change made from the version that
//! a node read, said again where somebody else was first.

use std::rc::Rc;

use super::{
    act::Act,
    appends::{Confirmed, For},
    asking::{Asker, Concluded, Wanted},
    faults::Fault,
    log::Fresh,
    model::{self, Meant},
    world::{EPOCH_MS, LOG_EPOCH, Ms, World},
};
use crate::domain::{
    answer::Answer,
    decision::Refusal,
    definition::{Amendment, Definition, Terms},
    ids::{Offset, Partition, Position, Timestamp},
    record::{Change, Control, Record},
};

/// How long an administrator waits for a decision, as the real calls do.
const BUDGET_MS: Ms = 5_000;

/// Most times that one change is tried.
const TRIES: u8 = 4;

/// How often a campaign that is to be defined is looked at.
const DEFINE_AGAIN_MS: Ms = 700;

/// What an administrator wants.
#[derive(Debug, Clone)]
pub(super) enum Wish {
    Define(model::Change),
    /// A change of this kind, worked out from what is in effect.
    Change(Fault),
    Resume,
    Release,
}

/// One administrator on the way.
#[derive(Debug)]
pub(super) struct Errand {
    pub(super) campaign: usize,
    pub(super) wish: Wish,
    tries: u8,
    /// What was appended last.
    sent: Option<Rc<Control>>,
    position: Option<Offset>,
}

impl World {
    pub(super) fn begin_errand(&mut self, at: Ms, campaign: usize, wish: Wish) {
        let errand = Errand { campaign, wish, tries: 0, sent: None, position: None };
        self.errands.push(errand);
        let number = self.errands.len() - 1;
        self.at(at, Act::Errand(number));
    }

    /// An administrator reads what is in effect and appends a change.
    pub(super) fn errand(&mut self, number: usize) {
        let (campaign, wish) = (self.errands[number].campaign, self.errands[number].wish.clone());
        let defines = matches!(wish, Wish::Define(_));
        if defines {
            let is_hopeless = self.must_halt(self.partition_of(campaign));
            if self.evidence.is_defined(campaign) || is_hopeless {
                return;
            }
            // The answer may be lost in any way: whoever defines looks again until it is there.
            self.after(DEFINE_AGAIN_MS, Act::Errand(number));
        }
        let Some(node) = self.some_node() else { return };
        let partition = self.partition_of(campaign);
        let Some(rows) = self.shared_read(node, partition) else { return };
        let edge = self.keep_campaign(node, campaign, self.now, &rows).ok();
        let latest = edge.as_ref().and_then(|edge| edge.latest());
        let quarantined = edge.as_ref().is_some_and(|edge| edge.is_quarantined);
        if quarantined && !matches!(wish, Wish::Release) {
            return;
        }
        let based_on = latest.map(|latest| latest.position.offset);
        let issued = edge.as_ref().map_or(0, |edge| edge.issued());
        let change = match (wish, latest) {
            (Wish::Define(_), Some(latest)) => {
                let at = latest.position.offset;
                return self.evidence.in_effect.push((campaign, at, self.now));
            }
            (Wish::Define(change), None) => change,
            (Wish::Release, _) => model::Change::Released,
            (Wish::Resume, Some(_)) => model::Change::Resumed,
            (Wish::Change(fault), Some(latest)) => {
                self.change_of(fault, &latest.definition.clone(), issued)
            }
            (_, None) => return,
        };
        let (control, fresh) = self.control(campaign, based_on, change);
        self.errands[number].sent = Some(Rc::new(control));
        self.send_append(node, For::Errand(number), fresh);
    }

    /// A control record in both languages: the product's and the model's.
    pub(super) fn control(
        &self,
        campaign: usize,
        based_on: Option<Offset>,
        change: model::Change,
    ) -> (Control, (Partition, Fresh)) {
        let id = self.id(campaign);
        let control = Control { campaign: id, based_on, change: spoken(&change) };
        let record = Record::from(control.clone());
        let meant = Meant::Control { campaign, based_on, change };
        (control, self.fresh(&record, meant))
    }

    fn change_of(&mut self, fault: Fault, now: &Definition, issued: u32) -> model::Change {
        let wall = EPOCH_MS + self.now as i64;
        let mut amendment = model::Amendment::default();
        match fault {
            Fault::QuotaRaised => {
                amendment.quota = Some(now.terms.quota + 1 + self.random.below(12) as u32);
            }
            Fault::QuotaReduced | Fault::AdminsRace => {
                let least = issued.saturating_sub(3).max(1);
                amendment.quota = Some(least + self.random.below(8) as u32);
            }
            Fault::LimitChanged => amendment.limit = Some(1 + self.random.below(3) as u16),
            Fault::WindowChanged => {
                let time = wall + self.random.between(0, 3_000) as i64 - 500;
                match self.random.below(4) {
                    0 => amendment.opens = Some(Some(time)),
                    1 => amendment.opens = Some(None),
                    2 => amendment.closes = Some(Some(time)),
                    _ => amendment.closes = Some(None),
                }
            }
            Fault::ClosedForEver => return model::Change::Closed,
            _ => return model::Change::Paused,
        }
        model::Change::Amended(amendment)
    }

    pub(super) fn change_appended(&mut self, number: usize, confirmed: &Confirmed) {
        let errand = &mut self.errands[number];
        let Some(control) = errand.sent.clone() else { return };
        errand.position = Some(confirmed.offset);
        let Confirmed { node, partition, offset, .. } = *confirmed;
        let position = Position { log_epoch: LOG_EPOCH, partition, offset };
        let wanted = Wanted::Control(position, control);
        self.question(node, wanted, Asker::Errand(number), BUDGET_MS);
    }

    pub(super) fn change_decided(&mut self, number: usize, concluded: Concluded) {
        let Errand { campaign, position: Some(offset), tries, .. } = self.errands[number] else {
            return;
        };
        match concluded {
            Concluded::Answer(Answer::Accepted) => {
                if !matches!(self.errands[number].wish, Wish::Release) {
                    self.evidence.in_effect.push((campaign, offset, self.now));
                }
            }
            Concluded::Answer(Answer::Refused { refusal: Refusal::StaleVersion })
                if tries < TRIES =>
            {
                self.errands[number].tries += 1;
                self.after(1, Act::Errand(number));
            }
            Concluded::Answer(_) | Concluded::NotYet | Concluded::Halted => {}
        }
    }

    /// Whether no administrator will append anything more, nor anybody's append is under way.
    pub(super) fn administrators_are_done(&self) -> bool {
        let mut questions = self.questions.iter().flatten();
        let asks = questions.any(|question| matches!(question.asker, Asker::Errand(_)));
        let comes = |act: &Act| matches!(act, Act::Errand(_) | Act::Append(_) | Act::Appended(_));
        !asks && !self.coming().any(comes)
    }
}

/// A first definition with so many seats.
pub(super) fn definition(quota: u32, limit: u16, window: (Option<i64>, Option<i64>)) -> Wish {
    let (opens, closes) = window;
    Wish::Define(model::Change::Defined { quota, limit, opens, closes })
}

/// What the product calls this change.
fn spoken(change: &model::Change) -> Change {
    match change {
        model::Change::Defined { quota, limit, opens, closes } => Change::Defined {
            terms: Terms {
                per_user_limit: *limit,
                opens_at: opens.map(Timestamp),
                closes_at: closes.map(Timestamp),
                ..Terms::of(*quota)
            },
        },
        model::Change::Amended(it) => {
            let window = Amendment {
                opens_at: it.opens.map(|end| end.map(Timestamp)),
                closes_at: it.closes.map(|end| end.map(Timestamp)),
                ..Amendment::default()
            };
            let amendment = Amendment { quota: it.quota, per_user_limit: it.limit, ..window };
            Change::Amended { amendment }
        }
        model::Change::Paused => Change::Paused,
        model::Change::Resumed => Change::Resumed,
        model::Change::Closed => Change::Closed,
        model::Change::Released => Change::Released,
    }
}
