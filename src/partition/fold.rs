//! Folds batches of records into rows to be stored and answers to be published.

use std::ops::ControlFlow;

use super::recovery::{Contradiction, Expectations, Recovered};
use crate::{
    domain::{
        answer::{Answer, CouponFace},
        campaign::{At, Campaign},
        coupon::Coupon,
        decision::{Decision, DerivedRow, Held, Outcome},
        definition::{Definition, DefinitionVersion},
        ids::{Offset, Sequence, UserId},
        keys::Keys,
        record::Record,
        rows::Counts,
    },
    wire::feed_message::FeedDecision,
};

/// Records of one campaign, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// The records.
    pub records: Vec<(At, Record)>,
    /// Every record of the campaign below this offset is in this batch or an earlier one, so no
    /// row may be expected there any more.
    pub passed: Offset,
    /// The batch is part of a replay from a hold. No restart begins below its end, so its rows must be
    /// durable in both views.
    pub is_replay: bool,
}

/// One record of a batch after the fold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoldedRecord {
    /// The record's offset.
    pub offset: Offset,
    /// The campaign's rows up to this record, if a coupon or a version was derived from it. A
    /// repeated request is answered "issued" as well, but issues nothing.
    pub counts: Option<Counts>,
    /// The decision and its form for the feed; none if the campaign is not defined at this offset.
    pub outcome: Option<(Decision, FeedDecision)>,
}

impl FoldedRecord {
    /// Returns the campaign's rows up to this record if a version was derived from it.
    #[must_use]
    pub fn defines(&self) -> Option<Counts> {
        self.counts.filter(|counts| counts.latest == self.offset)
    }
}

/// A batch after the fold: the rows to be stored, and each record's outcome.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Folded {
    /// Version rows, to be stored first and in this order.
    pub versions: Vec<DefinitionVersion>,
    /// Coupon rows, to be stored after the version rows.
    pub coupons: Vec<Coupon>,
    /// The records that were folded, in order. Published only after the rows are stored.
    pub records: Vec<FoldedRecord>,
    /// The difference of log and store, if one was found. Records from there on were not folded.
    pub contradiction: Option<Contradiction>,
}

/// A campaign, and the rows of it that the log must still derive.
#[derive(Debug)]
pub struct Folder {
    campaign: Campaign,
    expectations: Expectations,
    is_repair: bool,
    /// A contradiction was found. Records after it were not folded, so the state is no longer that
    /// of the log, and nothing may be derived from it.
    stopped: bool,
    keys: std::sync::Arc<Keys>,
    log_epoch: u32,
}

impl Folder {
    /// Continues from a recovered campaign.
    #[must_use]
    pub fn new(recovered: Recovered, keys: std::sync::Arc<Keys>, log_epoch: u32) -> Self {
        let Recovered { campaign, expectations, is_repair } = recovered;
        Self { campaign, expectations, is_repair, stopped: false, keys, log_epoch }
    }

    /// Returns the campaign's state.
    #[must_use]
    pub fn campaign(&self) -> &Campaign {
        &self.campaign
    }

    /// Returns whether a contradiction of the campaign's rows is being repaired.
    #[must_use]
    pub fn is_repair(&self) -> bool {
        self.is_repair
    }

    /// Returns the highest offset at which a stored row waits to be derived again.
    #[must_use]
    pub fn expects_until(&self) -> Option<Offset> {
        self.expectations.until()
    }

    /// Folds a batch. A contradiction ends the folding: records before it keep their outcomes, and
    /// records after it are not folded, neither in this batch nor in later ones.
    pub fn fold(&mut self, batch: Batch) -> Folded {
        let Batch { records, passed, .. } = batch;
        let mut folded = Folded::default();
        if self.stopped {
            return folded;
        }
        folded.records.reserve(records.len());
        folded.coupons.reserve((self.campaign.remaining() as usize).min(records.len()));
        let Self { campaign, expectations, keys, log_epoch, stopped, .. } = self;
        let answers = Answers { keys, log_epoch: *log_epoch };
        campaign.fold_all(records, |campaign, at, record, outcome| {
            let digest = match &outcome {
                Outcome::Decided { row: Some(DerivedRow::Coupon(coupon)), .. } => {
                    Some(coupon.digest)
                }
                Outcome::Decided { row: Some(DerivedRow::Version(version)), .. } => {
                    Some(version.digest)
                }
                Outcome::Decided { row: None, .. } | Outcome::Undefined => None,
            };
            // Before anything is stored: a row that differs must not be overwritten.
            if let Err(contradiction) = expectations.derived(at.offset, digest) {
                *stopped = true;
                folded.contradiction = Some(contradiction);
                return ControlFlow::Break(());
            }
            answers.add(campaign, (at, record), outcome, &mut folded);
            ControlFlow::Continue(())
        });
        if folded.contradiction.is_none() {
            folded.contradiction = expectations.passed(passed).err();
        }
        *stopped |= folded.contradiction.is_some();
        folded
    }
}

/// Turns outcomes into rows and answers.
struct Answers<'a> {
    keys: &'a Keys,
    log_epoch: u32,
}

impl Answers<'_> {
    fn add(
        &self,
        campaign: &Campaign,
        (at, record): (At, Record),
        outcome: Outcome,
        folded: &mut Folded,
    ) {
        let Outcome::Decided { decision, row } = outcome else {
            folded.records.push(FoldedRecord { offset: at.offset, counts: None, outcome: None });
            return;
        };
        let counts = row.as_ref().and_then(|_| campaign.counts());
        let code = match row {
            Some(DerivedRow::Coupon(coupon)) => {
                let code = coupon.code.clone();
                folded.coupons.push(coupon);
                Some(code)
            }
            Some(DerivedRow::Version(version)) => {
                folded.versions.push(*version);
                None
            }
            None => None,
        };
        let (campaign_id, user_id, answer) = match record {
            Record::Request(request) => {
                let answer = self.answer(campaign, decision, &request.user, code);
                (request.campaign, Some(request.user), answer)
            }
            Record::Control(control) => (control.campaign, None, control_answer(decision)),
        };
        let offset = at.offset;
        let outcome = Some((decision, FeedDecision { offset, campaign_id, user_id, answer }));
        folded.records.push(FoldedRecord { offset, counts, outcome });
    }

    fn answer(
        &self,
        campaign: &Campaign,
        decision: Decision,
        user: &UserId,
        code: Option<Box<str>>,
    ) -> Answer {
        let face = |held: Held, code: Option<Box<str>>| CouponFace {
            sequence: held.sequence,
            code: code.unwrap_or_else(|| self.code(campaign, held.sequence, user)),
            issued_at: held.issued_at,
        };
        match decision {
            Decision::Issued(held) => Answer::Issued { coupon: face(held, code) },
            Decision::AlreadyIssued(held) => Answer::AlreadyIssued { coupon: face(held, code) },
            other => control_answer(other),
        }
    }

    /// Spells the code of an earlier coupon again. The code format is never amended.
    fn code(&self, campaign: &Campaign, sequence: Sequence, user: &UserId) -> Box<str> {
        let spell = |definition: &Definition| {
            let id = campaign.id();
            definition.terms.code.spell(self.keys, id, self.log_epoch, sequence, user)
        };
        campaign.definition().map(spell).unwrap_or_default()
    }
}

fn control_answer(decision: Decision) -> Answer {
    match decision {
        Decision::Rejected(reason) => Answer::Rejected { reason },
        Decision::Refused(refusal) => Answer::Refused { refusal },
        Decision::Accepted | Decision::Issued(_) | Decision::AlreadyIssued(_) => Answer::Accepted,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        domain::{
            definition::Terms,
            ids::{CampaignId, LogPartition, Timestamp},
            record::{Change, Control, Request},
            rows::CampaignRows,
        },
        partition::recovery::Recovery,
        wire::{LogRecord, decode_step::ReadRecord},
    };

    pub(in super::super) const PLACE: LogPartition = LogPartition { log_epoch: 1, partition: 0 };

    pub(in super::super) fn keys() -> Arc<Keys> {
        Arc::new(Keys::derive(b"a secret of thirty-two bytes or more"))
    }

    fn at(offset: Offset) -> At {
        At { offset, time: Timestamp(0) }
    }

    pub(in super::super) fn request(offset: Offset, user: &str) -> (At, Record) {
        let campaign = CampaignId::parse("spring").unwrap();
        let user = UserId::parse(user).unwrap();
        (at(offset), Record::Request(Request { campaign, user, idempotency_key: None }))
    }

    /// Returns the rows of a campaign with this many coupons, defined at offset 0.
    pub(in super::super) fn counts(issued: Sequence) -> Counts {
        Counts { issued, versions: 1, latest: 0 }
    }

    /// Returns the record as a reader returns it, with `bytes` bytes.
    pub(in super::super) fn read_of((at, record): (At, Record), bytes: usize) -> ReadRecord {
        let At { offset, time } = at;
        let key = record.campaign().as_str().as_bytes().to_vec();
        let mut value = format!("record at {offset}").into_bytes();
        value.resize(bytes, b' ');
        ReadRecord { raw: LogRecord { offset, time, key, value, mac: None }, record }
    }

    pub(in super::super) fn defined() -> (At, Record) {
        let terms = Terms::of(10);
        let campaign = CampaignId::parse("spring").unwrap();
        let change = Change::Defined { terms };
        (at(0), Record::from(Control { campaign, based_on: None, change }))
    }

    fn recovered(rows: CampaignRows, coupons: Vec<Coupon>) -> Folder {
        let campaign = CampaignId::parse("spring").unwrap();
        let mut recovery = Recovery::new(campaign, PLACE, 0, rows, keys()).unwrap();
        recovery.coupons(coupons).unwrap();
        Folder::new(recovery.finish().unwrap(), keys(), 1)
    }

    #[test]
    fn a_contradiction_ends_the_folding() {
        let log = vec![defined(), request(1, "ada"), request(2, "bob"), request(3, "cid")];
        let mut folder = recovered(CampaignRows::default(), Vec::new());
        let mut coupons =
            folder.fold(Batch { records: log.clone(), passed: 4, is_replay: false }).coupons;
        coupons.truncate(1);
        coupons[0].user = UserId::parse("eve").unwrap();
        coupons[0].digest = keys().coupon_digest(&coupons[0]);

        let mut folder = recovered(CampaignRows::default(), coupons);
        let first = folder.fold(Batch { records: log[..3].to_vec(), passed: 3, is_replay: false });
        assert_eq!(first.contradiction.map(|found| found.from), Some(1));
        // The next batch was in flight already. Its state lacks bob, so it must not be folded.
        let second = folder.fold(Batch { records: log[3..].to_vec(), passed: 4, is_replay: false });
        assert_eq!(second, Folded::default());
    }
}
