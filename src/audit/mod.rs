//! Audits an instance: reads request log and coupon store, and checks each against the other.
//!
//! The audit shares the codec, the row types, the keys and the ports with the product, but none of
//! the code that decides: `model` and `rules` implement the design's rules a second time, and
//! `tidy` checks that no module here names the audited code.
//!
//! Partitions are audited independently, several at once. The order of reads (progress, holds, skips,
//! bounds of the log, log, rows) makes it safe to audit a live instance: every record below
//! progress and not under a hold must be stored as the log derives it, and rows above progress must
//! not contradict the log. Memory grows with the coupons issued (about 150 bytes each), not with
//! the length of the log, because records and rows are streamed.

mod answers;
mod base;
mod changes;
mod codes;
mod finding;
mod holds;
mod model;
mod partition;
mod reading;
mod refusals;
mod rejections;
mod report;
mod rows;
mod rules;
mod seen;
mod self_test;
mod skipped;

use std::{
    collections::BTreeSet,
    io::BufRead,
    sync::{Arc, atomic::AtomicU64},
};

use futures_util::{StreamExt, stream};

pub use self::{
    answers::{AnswerCounts, AnswersError},
    finding::{Finding, FindingKind},
    report::{AcknowledgedLoss, AuditReport, CampaignReport, PartitionReport},
    self_test::{Corruption, SelfTest, self_test},
};
use self::{
    answers::{AnswerReader, ClientAnswers},
    codes::Code,
    finding::{Findings, Location},
    model::PartitionContext,
    partition::PartitionAudit,
    report::KindCount,
};
use crate::{
    answer::request_id::RequestIds,
    domain::{
        ids::{CampaignId, Partition},
        keys::Keys,
    },
    log::{LogError, ReadError, RequestLog},
    store::{CouponStore, LISTING_MAX, Layout, StoreError},
    wire::codec::Codec,
};

/// The instance to audit.
pub struct Audited {
    /// The request log.
    pub log: Arc<dyn RequestLog>,
    /// The coupon store.
    pub store: Arc<dyn CouponStore>,
    /// The layout in force.
    pub layout: Layout,
    /// The instance's keys.
    pub keys: Arc<Keys>,
}

/// Counts the progress of a running audit, so that a caller can show it.
#[derive(Debug, Default)]
pub struct Meter {
    /// Records read.
    pub records: AtomicU64,
    /// Rows read, in both views.
    pub rows: AtomicU64,
}

/// Why an audit did not finish.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The store could not be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The log's bounds could not be read, or a reader could not be opened.
    #[error(transparent)]
    Log(#[from] LogError),
    /// A record could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The file of answers is invalid or unreadable.
    #[error(transparent)]
    Answers(#[from] AnswersError),
    /// A task of the audit panicked or was cancelled.
    #[error("a task of the audit panicked or was cancelled: {0}")]
    Task(String),
}

impl AuditError {
    fn task(error: tokio::task::JoinError) -> Self {
        Self::Task(error.to_string())
    }

    /// Returns the process's exit code: 2 if the file of answers must be corrected first, else 1.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Answers(AnswersError::Line { .. } | AnswersError::TooMany) => 2,
            _ => 1,
        }
    }
}

struct Ports {
    log: Arc<dyn RequestLog>,
    store: Arc<dyn CouponStore>,
}

/// The state that all tasks of an audit share.
struct Context {
    ports: Ports,
    layout: Layout,
    keys: Arc<Keys>,
    codec: Codec,
    answers: ClientAnswers,
    meter: Arc<Meter>,
}

impl Context {
    fn place(&self, partition: Partition) -> PartitionContext {
        PartitionContext {
            log_epoch: self.layout.log_epoch,
            partition,
            keys: Arc::clone(&self.keys),
            skipped: Arc::default(),
        }
    }

    /// Returns the listed campaigns of a partition.
    async fn listed(&self, partition: Partition) -> Result<BTreeSet<CampaignId>, AuditError> {
        let mut listed = BTreeSet::new();
        let mut after: Option<CampaignId> = None;
        loop {
            let page = self.ports.store.campaigns(after.as_ref(), LISTING_MAX).await?;
            let full = page.len() == LISTING_MAX;
            after = page.last().cloned();
            let its = page.into_iter().filter(|id| self.codec.partition_of(id) == partition);
            listed.extend(its);
            if !full {
                return Ok(listed);
            }
        }
    }
}

/// Audits an instance, and the answers that its clients received if `answers` is given.
///
/// # Errors
/// [`AuditError`] if log, store or answers cannot be read. Broken invariants are not errors; the
/// report lists them.
pub async fn audit(
    audited: Audited,
    answers: Option<Box<dyn BufRead + Send>>,
    meter: Arc<Meter>,
) -> Result<AuditReport, AuditError> {
    let Audited { log, store, layout, keys } = audited;
    let partitions = layout.partitions;
    let reader = AnswerReader {
        ids: RequestIds::new(&keys, &layout.instance),
        keys: Arc::clone(&keys),
        partitions,
    };
    let has_answers = answers.is_some();
    let read =
        move || answers.map_or_else(|| Ok(ClientAnswers::default()), |file| reader.read(file));
    let answers = tokio::task::spawn_blocking(read).await.map_err(AuditError::task)??;
    let codec = Codec::new(&keys, &layout.instance, layout.log_epoch, partitions);
    let ports = Ports { log, store };
    let mut context = Context { ports, layout, keys, codec, answers, meter };
    let mut findings = std::mem::take(&mut context.answers.findings);
    let mut counts = context.answers.counts;
    let context = Arc::new(context);
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    let mut audits = stream::iter(0..partitions)
        .map(|partition| tokio::spawn(partition::audit(Arc::clone(&context), partition)))
        .buffer_unordered(jobs);
    let mut whole = Whole::default();
    while let Some(outcome) = audits.next().await {
        let outcome = outcome.map_err(AuditError::task)??;
        counts.before_the_log += outcome.answers_before_the_log;
        whole.take(outcome, &mut findings);
    }
    Ok(whole.report(findings, has_answers.then_some(counts)))
}

/// Collects the results of all partitions.
#[derive(Default)]
struct Whole {
    partitions: Vec<PartitionReport>,
    campaigns: Vec<CampaignReport>,
    codes: Vec<Code>,
    unread: Vec<String>,
}

impl Whole {
    fn take(&mut self, audit: PartitionAudit, findings: &mut Findings) {
        let base = u32::try_from(self.campaigns.len()).unwrap_or(u32::MAX);
        let codes = audit.codes.into_iter();
        self.codes.extend(codes.map(|code| Code { campaign: base + code.campaign, ..code }));
        self.campaigns.extend(audit.campaigns);
        self.partitions.push(audit.partition);
        self.unread.extend(audit.unread);
        findings.merge(audit.findings);
    }

    fn find_codes_twice(&mut self, findings: &mut Findings) {
        self.codes.sort_unstable();
        for pair in self.codes.windows(2) {
            let [one, other] = pair else { continue };
            if one.digest != other.digest {
                continue;
            }
            let name = |code: &Code| {
                let campaign = self.campaigns.get(code.campaign as usize);
                campaign.map(|campaign| campaign.campaign.clone())
            };
            let place = Location {
                campaign: name(other),
                sequence: Some(other.sequence),
                ..Location::default()
            };
            let of = name(one).map_or_else(String::new, |campaign| campaign.to_string());
            let detail = format!("same code as coupon {} of campaign {of}", one.sequence);
            findings.add(FindingKind::CodeTwice, place, detail);
        }
    }

    fn report(mut self, mut findings: Findings, answers: Option<AnswerCounts>) -> AuditReport {
        self.find_codes_twice(&mut findings);
        self.partitions.sort_unstable_by_key(|it| it.partition);
        self.campaigns.sort_unstable_by(|one, other| one.campaign.cmp(&other.campaign));
        for campaign in &mut self.campaigns {
            campaign.findings = findings.of_campaign(&campaign.campaign);
        }
        let broken = findings.counts.iter().map(|(kind, count)| KindCount {
            invariant: kind.invariant().id(),
            kind: kind.name(),
            count: *count,
        });
        let broken = broken.collect();
        AuditReport {
            partitions: self.partitions,
            campaigns: self.campaigns,
            answers,
            broken,
            findings: findings.kept,
            unread: self.unread,
        }
    }
}
