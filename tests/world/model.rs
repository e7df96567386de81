//! A naive model of the rules. It gives the expected outcome of every record from a list of
//! holders.

use std::collections::BTreeMap;

use coupond::domain::{
    definition::Terms,
    ids::{CampaignId, IdempotencyKey, Offset, Timestamp, UserId},
    reason::Reason,
    record::{Change, Record},
};

/// The expected outcome of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    Issued(u32),
    /// An earlier request with the same key got this coupon.
    Again(u32),
    AlreadyIssued(u32),
    Rejected(Reason),
    Accepted,
    Refused,
    DeadLetter,
}

struct Seat {
    user: UserId,
    key: Option<IdempotencyKey>,
}

#[derive(Default)]
struct Naive {
    version: Option<Offset>,
    terms: Option<Terms>,
    paused: bool,
    closed: bool,
    seats: Vec<Seat>,
}

/// The state of every campaign.
#[derive(Default)]
pub(crate) struct Model {
    campaigns: BTreeMap<CampaignId, Naive>,
}

impl Model {
    pub(crate) fn judge(&mut self, offset: Offset, time: Timestamp, record: &Record) -> Verdict {
        let naive = self.campaigns.entry(record.campaign().clone()).or_default();
        match record {
            Record::Request(request) => {
                naive.request(time, &request.user, request.idempotency_key.as_ref())
            }
            Record::Control(control) => naive.control(offset, control.based_on, &control.change),
        }
    }

    /// Returns the definition version in effect.
    pub(crate) fn version(&self, campaign: &CampaignId) -> Option<Offset> {
        self.campaigns.get(campaign).and_then(|naive| naive.version)
    }

    pub(crate) fn issued(&self, campaign: &CampaignId) -> u32 {
        self.campaigns.get(campaign).map_or(0, |naive| naive.seats.len() as u32)
    }
}

impl Naive {
    fn request(&mut self, time: Timestamp, user: &UserId, key: Option<&IdempotencyKey>) -> Verdict {
        let Some(terms) = &self.terms else { return Verdict::DeadLetter };
        let place = |at: usize| at as u32 + 1;
        let repeats = |seat: &Seat| seat.user == *user && key.is_some() && seat.key.as_ref() == key;
        if let Some(at) = self.seats.iter().rposition(repeats) {
            return Verdict::Again(place(at));
        }
        let held = self.seats.iter().filter(|seat| seat.user == *user).count();
        if held >= usize::from(terms.per_user_limit)
            && let Some(at) = self.seats.iter().rposition(|seat| seat.user == *user)
        {
            return Verdict::AlreadyIssued(place(at));
        }
        if self.closed || terms.closes_at.is_some_and(|end| end <= time) {
            Verdict::Rejected(Reason::Closed)
        } else if self.paused {
            Verdict::Rejected(Reason::Paused)
        } else if terms.opens_at.is_some_and(|start| time < start) {
            Verdict::Rejected(Reason::NotOpenYet)
        } else if self.seats.len() >= terms.quota as usize {
            Verdict::Rejected(Reason::SoldOut)
        } else {
            self.seats.push(Seat { user: user.clone(), key: key.cloned() });
            Verdict::Issued(self.seats.len() as u32)
        }
    }

    fn control(&mut self, offset: Offset, based_on: Option<Offset>, change: &Change) -> Verdict {
        match (&mut self.terms, change) {
            (_, Change::Released) => return Verdict::Accepted,
            (None, Change::Defined { terms }) => self.terms = Some(terms.clone()),
            (None, _) => return Verdict::DeadLetter,
            (Some(_), _) if based_on != self.version => return Verdict::Refused,
            (Some(_), Change::Defined { .. }) => return Verdict::Refused,
            (Some(_), Change::Closed) => self.closed = true,
            (Some(_), _) if self.closed => return Verdict::Refused,
            (Some(_), Change::Paused) => self.paused = true,
            (Some(_), Change::Resumed) => self.paused = false,
            (Some(terms), Change::Amended { amendment }) => {
                let quota = amendment.quota.unwrap_or(terms.quota);
                if (quota as usize) < self.seats.len() {
                    return Verdict::Refused;
                }
                terms.quota = quota;
                terms.per_user_limit = amendment.per_user_limit.unwrap_or(terms.per_user_limit);
            }
        }
        self.version = Some(offset);
        Verdict::Accepted
    }
}
