//! What clients and operators of a world were told, and when.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::node::Engines;
use crate::{
    api::service::{CampaignView, UserCoupons},
    domain::{
        answer::{Answer, CouponFace},
        definition::{Definition, Terms},
        ids::{CampaignId, Offset, Partition, Position, Timestamp, UserId},
        record::Request,
    },
};

/// An invariant that does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Violation {
    /// Its id, or `liveness` or `leak`.
    pub(crate) invariant: &'static str,
    /// What was seen.
    pub(crate) detail: String,
}

impl Violation {
    pub(super) fn new(invariant: &'static str, detail: impl Into<String>) -> Self {
        Self { invariant, detail: detail.into() }
    }
}

/// An answer that a client got.
#[derive(Debug, Clone)]
pub(super) struct Told {
    pub(super) at: Timestamp,
    /// Number of rows that had landed.
    pub(super) landed: usize,
    pub(super) request: Request,
    pub(super) request_id: String,
    /// None: pending.
    pub(super) answer: Option<Answer>,
    /// It was given when everything had settled.
    pub(super) is_final: bool,
}

impl Told {
    /// Returns the answer as a line of the file that the audit reads.
    pub(super) fn line(&self) -> Value {
        let coupon = |coupon: &CouponFace| {
            json!({
                "sequence": coupon.sequence,
                "code": coupon.code,
                "issued_at": rfc3339(coupon.issued_at),
            })
        };
        let (status, coupon, reason) = match &self.answer {
            None => ("pending", None, None),
            Some(Answer::Issued { coupon: face }) => ("issued", Some(coupon(face)), None),
            Some(Answer::AlreadyIssued { coupon: face }) => {
                ("already_issued", Some(coupon(face)), None)
            }
            Some(Answer::Rejected { reason }) => ("rejected", None, Some(reason.name())),
            Some(Answer::Accepted | Answer::Refused { .. }) => ("of a control record", None, None),
        };
        let mut body = json!({ "request_id": self.request_id, "status": status });
        body["coupon"] = coupon.unwrap_or_default();
        body["reason"] = reason.into();
        let Request { campaign, user, idempotency_key } = &self.request;
        json!({
            "time": rfc3339(self.at),
            "user": user.as_str(),
            "campaign": campaign.as_str(),
            "key": idempotency_key.as_ref().map(|key| key.as_str()),
            "status": 200,
            "body": body,
        })
    }
}

fn rfc3339(time: Timestamp) -> String {
    jiff::Timestamp::from_millisecond(time.0)
        .map_or_else(|_| String::new(), |at| format!("{at:.3}"))
}

/// Clocks may be apart by this much, either way, where states are judged, in milliseconds.
const MARGIN_MS: i64 = 1_000;

/// When a question was asked and answered: in microseconds of the world, by the wall clock of the node,
/// and by the clock of the log.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked {
    pub(super) begun_us: u64,
    pub(super) answered_us: u64,
    pub(super) wall: (Timestamp, Timestamp),
    pub(super) log: (Timestamp, Timestamp),
}

impl Asked {
    /// Moments at which a state may have been so: around question and answer.
    pub(super) fn around(&self, terms: &Terms) -> Vec<Timestamp> {
        let (first, last) = self.wall;
        moments((first.0 - MARGIN_MS, last.0 + MARGIN_MS), terms)
    }

    /// Times that the record of a request may have had.
    pub(super) fn record_times(&self, terms: &Terms) -> Vec<Timestamp> {
        let (first, last) = self.log;
        moments((first.0, last.0), terms)
    }
}

/// First and last of these milliseconds, and those between them where another reason begins to hold.
fn moments((first, last): (i64, i64), terms: &Terms) -> Vec<Timestamp> {
    let ends = [terms.opens_at, terms.closes_at].into_iter().flatten();
    let ends = ends.flat_map(|end| [end.0 - 1, end.0]).filter(|it| (first..=last).contains(it));
    ends.chain([first, last]).map(Timestamp).collect()
}

/// A refusal without a record.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) asked: Asked,
    pub(super) campaign: CampaignId,
    pub(super) reason: &'static str,
    pub(super) has_key: bool,
    /// The end of the log then.
    pub(super) end: Offset,
}

/// A list of a user's coupons.
#[derive(Debug)]
pub(super) struct Listed {
    pub(super) campaign: CampaignId,
    pub(super) user: UserId,
    pub(super) list: UserCoupons,
}

/// A client that waited as long as it asked to, in vain.
#[derive(Debug)]
pub(super) struct Wait {
    pub(super) campaign: CampaignId,
    pub(super) position: Position,
    pub(super) node: usize,
    pub(super) until_us: u64,
}

/// A request that was taken.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) campaign: CampaignId,
    pub(super) node: usize,
    pub(super) begun_us: u64,
}

/// An error by which nothing of a call is in the log.
#[derive(Debug)]
pub(super) struct Denial {
    pub(super) call: u64,
    pub(super) campaign: CampaignId,
    /// Otherwise a change.
    pub(super) is_request: bool,
    pub(super) error: String,
}

/// A campaign as somebody saw it.
#[derive(Debug)]
pub(super) struct View {
    pub(super) asked: Asked,
    /// The change after which it was shown, if it was.
    pub(super) change: Option<u64>,
    pub(super) seen: CampaignView,
    /// The end of the log then.
    pub(super) end: Offset,
}

/// What is damaged: nothing that is said of it counts from then on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Damaged {
    Campaign(CampaignId),
    Partition(Partition),
}

/// Time after which a clock that was set is believed for sure, in microseconds.
const STEADY_US: u64 = 30_000_000;

/// Everything that clients and operators were told.
#[derive(Default)]
pub(super) struct Evidence {
    pub(super) told: Vec<Told>,
    /// Ids of requests of which somebody was told that they are skipped.
    pub(super) skipped: BTreeSet<String>,
    pub(super) refusals: Vec<Refusal>,
    pub(super) denials: Vec<Denial>,
    pub(super) waits: Vec<Wait>,
    pub(super) taken: Vec<Taken>,
    pub(super) views: Vec<View>,
    pub(super) lists: Vec<Listed>,
    /// Definitions that operators were told are in effect, and when.
    pub(super) in_effect: Vec<(CampaignId, u64, Definition)>,
    pub(super) damaged: Option<Damaged>,
    /// Record times were further from the true time than clocks may be.
    pub(super) clocks_lie: bool,
    /// Since when and until when no clock of a local log may be believed, in microseconds.
    pub(super) disbelieved: Vec<(u64, u64)>,
    pub(super) violations: Vec<Violation>,
}

impl Evidence {
    /// Whether nothing counts that is said of the campaign.
    pub(super) fn is_lost(&self, engines: &Engines, campaign: &CampaignId) -> bool {
        match &self.damaged {
            None => false,
            Some(Damaged::Campaign(damaged)) => damaged == campaign,
            Some(Damaged::Partition(damaged)) => engines.codec.partition_of(campaign) == *damaged,
        }
    }

    /// Whether the log of a partition is damaged.
    pub(super) fn is_damaged(&self, partition: Partition) -> bool {
        self.damaged == Some(Damaged::Partition(partition))
    }

    /// A clock that ran steadily was set, and may not be believed until then.
    pub(super) fn clock_is_set(&mut self, from_us: u64, until_us: u64) {
        self.clock_changes(from_us);
        // It may be set to what is still believed otherwise.
        let is_steady = self.disbelieved.last().is_none_or(|last| last.0 + STEADY_US < from_us);
        if is_steady {
            self.disbelieved.push((from_us, until_us));
        }
    }

    /// A clock is set, or its node starts anew: what it says from now on may be believed.
    pub(super) fn clock_changes(&mut self, now_us: u64) {
        self.disbelieved.iter_mut().for_each(|(_, until_us)| *until_us = now_us.min(*until_us));
    }

    pub(super) fn broken(&mut self, invariant: &'static str, detail: impl Into<String>) {
        self.violations.push(Violation::new(invariant, detail));
    }
}
