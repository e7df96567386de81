//! The result of an audit, as JSON and as tables.

use std::fmt::Write as _;

use serde::Serialize;

use super::{answers::AnswerCounts, finding::Finding, rejections::Rejections};
use crate::{
    columns,
    domain::{
        ids::{CampaignId, Offset, Partition, Sequence},
        reason::Reason,
        rows::{Skip, SkipState},
    },
};

/// Most campaigns shown in the table; the others are only counted.
const CAMPAIGNS_SHOWN_MAX: usize = 40;

/// Most findings shown below the tables.
const FINDINGS_SHOWN_MAX: usize = 40;

/// A range of a partition that an operator has skipped: nobody decides the requests in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AcknowledgedLoss {
    /// The first position of the range.
    pub from: Offset,
    /// One past its last position.
    pub to: Offset,
    /// Why it was skipped.
    pub reason: String,
    /// Who skipped it.
    pub by: String,
}

impl AcknowledgedLoss {
    /// Returns the loss of a skip, if it is in force.
    pub(super) fn of(skip: &Skip) -> Option<Self> {
        let Skip { from, to, reason, by, state, .. } = skip.clone();
        (state == SkipState::InForce).then_some(Self { from, to, reason, by })
    }
}

/// One partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PartitionReport {
    /// Number of the partition.
    pub partition: Partition,
    /// Lowest offset of its log. Below, only rows were audited.
    pub from: Offset,
    /// Durable progress: all records below are decided and stored, except those under a hold.
    pub settled: Offset,
    /// The offset up to which the log was read. Rows below must follow from it.
    pub end: Offset,
    /// Records read.
    pub records: u64,
    /// Records among them that are dead letters.
    pub dead_letters: u64,
    /// Holds that are not closed.
    pub holds_in_force: usize,
    /// Ranges that were skipped. The log in them is not read, and breaks no invariant.
    pub acknowledged: Vec<AcknowledgedLoss>,
    /// Why the partition was audited only in part, if so.
    pub note: Option<String>,
}

/// One campaign, as the log derives it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CampaignReport {
    /// Id of the campaign.
    pub campaign: CampaignId,
    /// Its partition.
    pub partition: Partition,
    /// Current quota.
    pub quota: u32,
    /// Coupons issued in all.
    pub issued: Sequence,
    /// Coupons among them that are settled.
    pub settled: Sequence,
    /// Quota minus issued coupons.
    pub remaining: u32,
    /// Coupon rows found.
    pub rows: u64,
    /// Coupons whose record the log no longer has.
    pub from_rows: u64,
    /// Definition versions.
    pub versions: u64,
    /// Requests read.
    pub requests: u64,
    /// Requests answered "already issued".
    pub already_issued: u64,
    /// Requests that repeat an idempotency key and got the coupon of the earlier request.
    pub repeated: u64,
    /// Requests rejected, with one member for each reason.
    #[serde(flatten)]
    pub rejected: Rejections,
    /// First undecided offset, if a hold is in force.
    pub held_from: Option<Offset>,
    /// Number of its findings.
    pub findings: u64,
}

/// The number of findings of one kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KindCount {
    /// The invariant that it breaks.
    pub invariant: &'static str,
    /// Name of the [`FindingKind`](super::FindingKind).
    pub kind: &'static str,
    /// Number of findings.
    pub count: u64,
}

/// The result of an audit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AuditReport {
    /// All partitions, in order.
    pub partitions: Vec<PartitionReport>,
    /// All campaigns, ordered by id.
    pub campaigns: Vec<CampaignReport>,
    /// Counts of the answers, if a file of answers was given.
    pub answers: Option<AnswerCounts>,
    /// Number of findings by kind. Empty if no invariant is broken.
    pub broken: Vec<KindCount>,
    /// Findings with details; at most five of each kind and campaign, and 1,000 in all.
    pub findings: Vec<Finding>,
    /// Campaigns that could not be read and were not audited, each with the reason.
    pub unread: Vec<String>,
}

impl AuditReport {
    /// Returns whether no invariant was found broken.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.broken.is_empty()
    }

    /// Returns the process's exit code: 3 if an invariant is broken, 1 if a part was not audited.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match (self.holds(), self.unread.is_empty()) {
            (false, _) => 3,
            (true, false) => 1,
            (true, true) => 0,
        }
    }

    /// Formats the report as tables.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        self.campaigns_text(&mut text);
        self.partitions_text(&mut text);
        if let Some(answers) = &self.answers {
            let AnswerCounts { lines, decided, pending, others, before_the_log } = answers;
            let _ = writeln!(
                text,
                "\nanswers: {lines} lines, {decided} decided, {pending} pending, {others} not 2xx"
            );
            if *before_the_log > 0 {
                let _ = writeln!(
                    text,
                    "  {before_the_log} of them are older than the log: checked against rows only"
                );
            }
        }
        for unread in &self.unread {
            let _ = writeln!(text, "\nNOT AUDITED  {unread}");
        }
        self.verdict_text(&mut text);
        text
    }

    fn campaigns_text(&self, text: &mut String) {
        let mut shown: Vec<_> = self.campaigns.iter().collect();
        shown.sort_by_key(|it| (std::cmp::Reverse(it.findings), it.campaign.clone()));
        let mut headings: Vec<String> =
            ["CAMPAIGN", "QUOTA", "ISSUED", "ROWS", "REQUESTS", "ALREADY", "REPEATED"]
                .map(str::to_owned)
                .to_vec();
        headings.extend(Reason::ALL.map(|reason| reason.name().replace('_', " ").to_uppercase()));
        headings.push("BROKEN".to_owned());
        let mut rows = vec![headings];
        for it in shown.iter().take(CAMPAIGNS_SHOWN_MAX) {
            let mut row = vec![it.campaign.to_string()];
            let (quota, issued) = (u64::from(it.quota), u64::from(it.issued));
            let numbers = [quota, issued, it.rows, it.requests, it.already_issued, it.repeated]
                .into_iter()
                .chain(it.rejected.iter().map(|(_, count)| count))
                .chain([it.findings]);
            row.extend(numbers.map(|number| number.to_string()));
            rows.push(row);
        }
        text.push_str(&columns::aligned(&rows, |column| column > 0));
        let more = shown.len().saturating_sub(CAMPAIGNS_SHOWN_MAX);
        if more > 0 {
            let _ = writeln!(text, "… and {more} more campaigns");
        }
    }

    fn partitions_text(&self, text: &mut String) {
        let _ = writeln!(text);
        for it in self.partitions.iter().filter(|it| it.end > 0 || it.settled > 0) {
            let PartitionReport { partition, from, settled, end, records, dead_letters, .. } = it;
            let _ = write!(
                text,
                "partition {partition}: log from {from} to {end}, progress {settled}, \
                 {records} records read, {dead_letters} dead letters"
            );
            if *from > 0 {
                let _ = write!(text, "; below {from} only rows were audited");
            }
            if it.holds_in_force > 0 {
                let _ = write!(text, "; {} holds in force", it.holds_in_force);
            }
            if let Some(note) = &it.note {
                let _ = write!(text, "; {note}");
            }
            let _ = writeln!(text);
            for AcknowledgedLoss { from, to, reason, by } in &it.acknowledged {
                let _ = writeln!(
                    text,
                    "  ACKNOWLEDGED LOSS  {from} to {to} (exclusive) skipped by {by}: {reason}"
                );
            }
        }
    }

    fn verdict_text(&self, text: &mut String) {
        let records: u64 = self.partitions.iter().map(|it| it.records).sum();
        let rows: u64 = self.campaigns.iter().map(|it| it.rows).sum();
        if self.holds() {
            let _ = writeln!(
                text,
                "\n{records} records and {rows} coupons audited: INV-1 to INV-8 hold"
            );
            return;
        }
        let _ = writeln!(text, "\n{records} records and {rows} coupons audited: BROKEN\n");
        let mut rows = vec![vec!["INVARIANT".into(), "KIND".into(), "TIMES".into()]];
        for it in &self.broken {
            rows.push(vec![it.invariant.into(), it.kind.into(), it.count.to_string()]);
        }
        text.push_str(&columns::aligned(&rows, |column| column == 2));
        let _ = writeln!(text);
        for it in self.findings.iter().take(FINDINGS_SHOWN_MAX) {
            let _ = write!(text, "{} {}", it.invariant, it.kind);
            if let Some(campaign) = &it.campaign {
                let _ = write!(text, ", campaign {campaign}");
            }
            if let (Some(partition), Some(offset)) = (it.partition, it.offset) {
                let _ = write!(text, " at {partition}/{offset}");
            }
            let _ = writeln!(text, ": {}", it.detail);
        }
        let more = self.findings.len().saturating_sub(FINDINGS_SHOWN_MAX);
        if more > 0 {
            let _ = writeln!(text, "… and {more} more (--json has them)");
        }
    }
}
