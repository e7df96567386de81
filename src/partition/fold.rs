//! Folds batches of records into rows to be stored and decisions to be published.

use std::ops::ControlFlow;

use super::recovery::{Contradiction, Expectations, Recovered};
use crate::{
    domain::{
        campaign::{At, Campaign},
        change::ChangeRow,
        coupon::Coupon,
        decision::{Decision, DerivedRow, Outcome},
        definition::DefinitionVersion,
        ids::Offset,
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
    /// What the feed is told; none if the campaign is not defined at this offset.
    pub outcome: Option<Told>,
}

/// A decision for the feed, with what the message says of its campaign.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Told {
    /// The decision.
    pub decision: FeedDecision,
    /// The campaign's hash in the feed.
    pub campaign: u64,
    /// Offset of the definition version in effect behind the record, if there is one.
    pub version: Option<Offset>,
    /// Whether the record was issued a coupon of its own.
    pub issues: bool,
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
    /// Change rows, one for each control record.
    pub changes: Vec<ChangeRow>,
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
    /// The campaign's hash in the feed.
    hash: u64,
}

impl Folder {
    /// Continues from a recovered campaign.
    #[must_use]
    pub fn new(recovered: Recovered, keys: std::sync::Arc<Keys>) -> Self {
        let Recovered { campaign, expectations, is_repair } = recovered;
        let hash = keys.campaign_hash(campaign.id());
        Self { campaign, expectations, is_repair, stopped: false, keys, hash }
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
        // For the row of the next change. Not kept between batches: an idle campaign stays small.
        let has_changes = records.iter().any(|(_, record)| matches!(record, Record::Control(_)));
        let before = has_changes.then(|| self.campaign.definition().cloned());
        let mut before = before.flatten();
        let Self { campaign, expectations, keys, hash, stopped, .. } = self;
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
            if let (Record::Control(control), Outcome::Decided { decision, .. }) =
                (&record, &outcome)
                && let Some(after) = campaign.definition()
            {
                let around = (before.replace(after.clone()), Some(after.clone()));
                let place = (campaign.position(at), at.time);
                folded.changes.push(ChangeRow::of(keys, place, control, around, decision));
            }
            folded.add(
                campaign,
                at.offset,
                told(campaign, at, &record, &outcome, (keys, *hash)),
                outcome,
            );
            ControlFlow::Continue(())
        });
        if folded.contradiction.is_none() {
            folded.contradiction = expectations.passed(passed).err();
        }
        *stopped |= folded.contradiction.is_some();
        folded
    }
}

impl Folded {
    /// Adds a record's outcome. `campaign` is as it is behind the record.
    fn add(&mut self, campaign: &Campaign, offset: Offset, told: Option<Told>, outcome: Outcome) {
        let mut counts = None;
        if let Outcome::Decided { row: Some(row), .. } = outcome {
            counts = campaign.counts();
            match row {
                DerivedRow::Coupon(coupon) => self.coupons.push(coupon),
                DerivedRow::Version(version) => self.versions.push(*version),
            }
        }
        self.records.push(FoldedRecord { offset, counts, outcome: told });
    }
}

/// Returns what the feed is told of a record. `campaign` is as it is behind the record.
fn told(
    campaign: &Campaign,
    At { offset, .. }: At,
    record: &Record,
    outcome: &Outcome,
    (keys, hash): (&Keys, u64),
) -> Option<Told> {
    let Outcome::Decided { decision, row } = outcome else { return None };
    let user = match record {
        Record::Request(request) => Some(&request.user),
        Record::Control(_) => None,
    };
    let is_rejected = matches!(decision, Decision::Rejected(_));
    let holds = is_rejected && user.is_some_and(|user| campaign.holds(user));
    let check = keys.record_check(hash, user);
    let decision = FeedDecision { offset, decision: *decision, holds, check };
    let issues = matches!(row, Some(DerivedRow::Coupon(_)));
    Some(Told { decision, campaign: hash, version: campaign.version(), issues })
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        domain::{
            definition::{Definition, Terms},
            ids::{CampaignId, LogPartition, Sequence, Timestamp, UserId},
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

    /// Returns what the feed is told of a record that issues no coupon.
    pub(in super::super) fn told_of(offset: Offset, decision: Decision) -> Told {
        let decision = FeedDecision { offset, decision, holds: false, check: 7 };
        Told { decision, campaign: 9, version: Some(0), issues: false }
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
        (at(0), Record::from(Control::once("token", campaign, None, change)))
    }

    fn recovered(rows: CampaignRows, coupons: Vec<Coupon>) -> Folder {
        let campaign = CampaignId::parse("spring").unwrap();
        let mut recovery = Recovery::new(campaign, PLACE, 0, rows, keys()).unwrap();
        recovery.coupons(coupons).unwrap();
        Folder::new(recovery.finish().unwrap(), keys())
    }

    fn told(folded: Folded) -> Vec<Told> {
        folded.records.into_iter().filter_map(|record| record.outcome).collect()
    }

    #[test]
    fn the_feed_is_told_who_holds_a_coupon() {
        let terms = Terms { per_user_limit: 2, ..Terms::of(1) };
        let campaign = CampaignId::parse("spring").unwrap();
        let define = Control::once("token", campaign, None, Change::Defined { terms });
        let mut folder = recovered(CampaignRows::default(), Vec::new());
        let records = vec![(at(3), Record::from(define)), request(4, "ada"), request(6, "ada")];
        let log = records.into_iter().chain([request(7, "bob")]).collect();
        let told = told(folder.fold(Batch { records: log, passed: 8, is_replay: false }));
        let facts = told.iter().map(|it| (it.decision.holds, it.issues, it.version));
        let no = (false, false, Some(3));
        assert_eq!(
            facts.collect::<Vec<_>>(),
            [no, (false, true, Some(3)), (true, false, Some(3)), no]
        );
        let checks: Vec<_> = told.iter().map(|it| it.decision.check).collect();
        assert!(checks[1] == checks[2] && checks[2] != checks[3] && checks[0] != checks[1]);
    }

    #[test]
    fn each_control_record_of_a_campaign_is_a_change() {
        let campaign = CampaignId::parse("spring").unwrap();
        let control = |by, based_on, change| Control::once(by, campaign.clone(), based_on, change);
        let retried = Control { retried: true, ..control("otto", Some(9), Change::Closed) };
        let early = control("eve", None, Change::Paused);
        let (_, defined) = defined();
        let log = [
            Record::from(early),
            defined,
            Record::from(control("vera", Some(1), Change::Paused)),
            Record::from(control("otto", Some(1), Change::Closed)),
            Record::from(retried),
            Record::from(control("olga", Some(2), Change::Released { holds: Vec::new() })),
        ];
        let records = log.into_iter().enumerate().map(|(place, it)| (at(place as u64), it));
        let mut folder = recovered(CampaignRows::default(), Vec::new());
        let batch = Batch { records: records.collect(), passed: 6, is_replay: false };
        let changes = folder.fold(batch).changes;
        let paused = |it: &Option<Definition>| it.as_ref().map(|it| it.paused);
        let facts = changes.iter().map(|it| {
            let around = (paused(&it.before), paused(&it.after));
            (it.position.offset, &*it.by, around, it.refusal.is_some(), it.is_listed())
        });
        let expected = [
            (1, "token", (None, Some(false)), false, true),
            (2, "vera", (Some(false), Some(true)), false, true),
            (3, "otto", (Some(true), Some(true)), true, true),
            (4, "otto", (Some(true), Some(true)), true, false),
            (5, "olga", (Some(true), Some(true)), false, true),
        ];
        assert_eq!(facts.collect::<Vec<_>>(), expected, "eve's change is a dead letter");
        for change in changes {
            assert_eq!(change.digest, keys().change_digest(&change));
            let other = ChangeRow { by: "eve".to_owned(), ..change.clone() };
            assert_ne!(keys().change_digest(&other), change.digest);
        }
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
