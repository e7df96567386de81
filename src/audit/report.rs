//! What an audit came to, for programs and for people.

use std::fmt::Write as _;

use serde::Serialize;

use super::{answers::AnswerCounts, finding::Finding};
use crate::{
    columns,
    domain::ids::{CampaignId, Offset, Partition, Sequence},
};

/// Campaigns that the table for people shows; the others are summed up.
const CAMPAIGNS_SHOWN_MAX: usize = 40;

/// Findings that it shows.
const FINDINGS_SHOWN_MAX: usize = 40;

/// One partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PartitionReport {
    /// Which.
    pub partition: Partition,
    /// Where its log begins: below, only rows could be judged.
    pub from: Offset,
    /// Everything below was settled and must be stored, holds aside.
    pub settled: Offset,
    /// Up to where the log was read; what is stored below must follow from it.
    pub end: Offset,
    /// Records read.
    pub records: u64,
    /// Records among them that nobody decides.
    pub dead_letters: u64,
    /// Holds that are not closed.
    pub holds_in_force: usize,
    /// What keeps it from being judged in full.
    pub note: Option<String>,
}

/// One campaign, as the log gives it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CampaignReport {
    /// Which.
    pub campaign: CampaignId,
    /// Its partition.
    pub partition: Partition,
    /// Quota now.
    pub quota: u32,
    /// Coupons issued in all.
    pub issued: Sequence,
    /// Coupons among them that are settled.
    pub settled: Sequence,
    /// Quota less what is issued.
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
    /// Requests given the coupon of an earlier one with their key.
    pub repeated: u64,
    /// Requests rejected, by reason.
    pub closed: u64,
    /// Requests rejected: paused.
    pub paused: u64,
    /// Requests rejected: not open yet.
    pub not_open_yet: u64,
    /// Requests rejected: sold out.
    pub sold_out: u64,
    /// Where a hold that is in force begins to leave it undecided.
    pub held_from: Option<Offset>,
    /// How much is wrong with it.
    pub findings: u64,
}

/// How often one kind of thing was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KindCount {
    /// The invariant that it breaks.
    pub invariant: &'static str,
    /// What it is.
    pub kind: &'static str,
    /// How often.
    pub count: u64,
}

/// What an audit came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Each partition.
    pub partitions: Vec<PartitionReport>,
    /// Each campaign.
    pub campaigns: Vec<CampaignReport>,
    /// What clients were told, if a file of answers was given.
    pub answers: Option<AnswerCounts>,
    /// How much of what was found; empty where everything holds.
    pub broken: Vec<KindCount>,
    /// What was found, at most some of each kind and campaign.
    pub findings: Vec<Finding>,
    /// What could not be read, and so not be judged.
    pub unread: Vec<String>,
}

impl Report {
    /// Whether no invariant was found broken.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.broken.is_empty()
    }

    /// The process's exit code: 3 where an invariant is broken, 1 where not all could be judged.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match (self.holds(), self.unread.is_empty()) {
            (false, _) => 3,
            (true, false) => 1,
            (true, true) => 0,
        }
    }

    /// The report as tables.
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
                    "  of {before_the_log} the log no longer has the record: judged by rows alone"
                );
            }
        }
        for unread in &self.unread {
            let _ = writeln!(text, "\nNOT JUDGED  {unread}");
        }
        self.verdict_text(&mut text);
        text
    }

    fn campaigns_text(&self, text: &mut String) {
        let mut shown: Vec<_> = self.campaigns.iter().collect();
        shown.sort_by_key(|it| (std::cmp::Reverse(it.findings), it.campaign.clone()));
        let headings = [
            "CAMPAIGN", "QUOTA", "ISSUED", "ROWS", "REQUESTS", "ALREADY", "REPEATED", "CLOSED",
            "PAUSED", "EARLY", "SOLD OUT", "BROKEN",
        ];
        let mut rows = vec![headings.map(str::to_owned).to_vec()];
        for it in shown.iter().take(CAMPAIGNS_SHOWN_MAX) {
            let mut row = vec![it.campaign.to_string()];
            let numbers = [
                u64::from(it.quota),
                u64::from(it.issued),
                it.rows,
                it.requests,
                it.already_issued,
                it.repeated,
                it.closed,
                it.paused,
                it.not_open_yet,
                it.sold_out,
                it.findings,
            ];
            row.extend(numbers.map(|number| number.to_string()));
            rows.push(row);
        }
        text.push_str(&columns::aligned(&rows, |column| column > 0));
        let more = shown.len().saturating_sub(CAMPAIGNS_SHOWN_MAX);
        if more > 0 {
            let _ = writeln!(text, "… and {more} campaigns more");
        }
    }

    fn partitions_text(&self, text: &mut String) {
        let _ = writeln!(text);
        for it in self.partitions.iter().filter(|it| it.end > 0 || it.settled > 0) {
            let PartitionReport { partition, from, settled, end, records, dead_letters, .. } = it;
            let _ = write!(
                text,
                "partition {partition}: records {from} to {end}, settled below {settled}, \
                 {records} read, {dead_letters} dead letters"
            );
            if *from > 0 {
                let _ = write!(text, "; below {from} only rows could be judged");
            }
            if it.holds_in_force > 0 {
                let _ = write!(text, "; {} holds in force", it.holds_in_force);
            }
            if let Some(note) = &it.note {
                let _ = write!(text, "; {note}");
            }
            let _ = writeln!(text);
        }
    }

    fn verdict_text(&self, text: &mut String) {
        let records: u64 = self.partitions.iter().map(|it| it.records).sum();
        let rows: u64 = self.campaigns.iter().map(|it| it.rows).sum();
        if self.holds() {
            let _ = writeln!(
                text,
                "\n{records} records and {rows} coupons judged: INV-1 to INV-8 hold"
            );
            return;
        }
        let _ = writeln!(text, "\n{records} records and {rows} coupons judged: BROKEN\n");
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
