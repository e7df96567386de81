//! The audit: an independent reader of request log and coupon store, and the judge of both.
//!
//! It shares with the product what bytes mean (the codec, the rows, the keys, the readers of the
//! ports) and nothing of what is decided by them: `model` and `rules` say once more, plainly, what
//! the design says, and `tidy` checks that no module here names the code that is judged.
//!
//! Each partition is judged by itself, several at once. Progress is read first, then the holds,
//! then the ends of the log, then the log, then the rows; so it may run beside a live instance:
//! everything below progress, and not under a hold, must be stored as the log gives it; what is
//! stored above must not contradict it. Memory goes by what was issued (some 150 bytes a coupon
//! with its holder), not by the length of the log: records and rows are streamed.

mod answers;
mod base;
mod codes;
mod finding;
mod model;
mod partition;
mod report;
mod rows;
mod rules;
mod seen;
mod self_test;

use std::{
    collections::BTreeSet,
    io::BufRead,
    sync::{Arc, atomic::AtomicU64},
};

use futures_util::{StreamExt, stream};

pub use self::{
    answers::{AnswerCounts, AnswersError},
    finding::{Finding, FindingKind},
    report::{CampaignReport, PartitionReport, Report},
    self_test::{Corruption, SelfTest, self_test},
};
use self::{
    answers::{Answers, Reader},
    codes::Code,
    finding::{Findings, Where},
    model::Place,
    partition::Judged,
    report::KindCount,
};
use crate::{
    answer::request_id::RequestIds,
    domain::{
        ids::{CampaignId, Partition},
        keys::Keys,
    },
    log::{LogError, ReadError, RequestLog},
    store::{CouponStore, LISTING_MAX, Layout, StoreError, StoreInspection},
    wire::codec::Codec,
};

/// What is audited.
pub struct Audited {
    /// The request log.
    pub log: Arc<dyn RequestLog>,
    /// The coupon store.
    pub store: Arc<dyn CouponStore>,
    /// The same store, as only audits read it.
    pub inspection: Arc<dyn StoreInspection>,
    /// The layout in force.
    pub layout: Layout,
    /// The instance's keys.
    pub keys: Arc<Keys>,
}

/// How far an audit has come, for whoever watches it.
#[derive(Debug, Default)]
pub struct Meter {
    /// Records read.
    pub records: AtomicU64,
    /// Rows read, in both views.
    pub rows: AtomicU64,
}

/// Why an audit could not be done.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The store could not be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The log could not be asked.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The log could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The file of answers can't be used.
    #[error(transparent)]
    Answers(#[from] AnswersError),
    /// A part of the audit failed.
    #[error("a part of the audit ended early: {0}")]
    Task(String),
}

impl AuditError {
    fn task(error: tokio::task::JoinError) -> Self {
        Self::Task(error.to_string())
    }

    /// The process's exit code: 2 where the file of answers must be changed first, else 1.
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

/// What every part of an audit shares.
struct Context {
    ports: Ports,
    inspection: Arc<dyn StoreInspection>,
    layout: Layout,
    keys: Arc<Keys>,
    codec: Codec,
    answers: Answers,
    meter: Arc<Meter>,
}

impl Context {
    fn place(&self, partition: Partition) -> Place {
        Place { log_epoch: self.layout.log_epoch, partition, keys: Arc::clone(&self.keys) }
    }

    /// The campaigns of a partition in the listing.
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

/// Audits an instance, and what `answers` says that its clients were told.
///
/// # Errors
/// [`AuditError`] when it could not be done. What is wrong is in the report.
pub async fn audit(
    audited: Audited,
    answers: Option<Box<dyn BufRead + Send>>,
    meter: Arc<Meter>,
) -> Result<Report, AuditError> {
    let Audited { log, store, inspection, layout, keys } = audited;
    let partitions = layout.partitions;
    let reader = Reader {
        ids: RequestIds::new(Arc::clone(&keys), &layout.instance),
        keys: Arc::clone(&keys),
        partitions,
    };
    let told = answers.is_some();
    let read = move || answers.map_or_else(|| Ok(Answers::default()), |file| reader.read(file));
    let answers = tokio::task::spawn_blocking(read).await.map_err(AuditError::task)??;
    let codec = Codec::new(Arc::clone(&keys), layout.log_epoch, partitions);
    let ports = Ports { log, store };
    let mut context = Context { ports, inspection, layout, keys, codec, answers, meter };
    let mut findings = std::mem::take(&mut context.answers.findings);
    let mut counts = context.answers.counts;
    let context = Arc::new(context);
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    let mut judged = stream::iter(0..partitions)
        .map(|partition| tokio::spawn(partition::judge(Arc::clone(&context), partition)))
        .buffer_unordered(jobs);
    let mut whole = Whole::default();
    while let Some(outcome) = judged.next().await {
        let outcome = outcome.map_err(AuditError::task)??;
        counts.before_the_log += outcome.answers_before_the_log;
        whole.take(outcome, &mut findings);
    }
    Ok(whole.report(findings, told.then_some(counts)))
}

/// All partitions together.
#[derive(Default)]
struct Whole {
    partitions: Vec<PartitionReport>,
    campaigns: Vec<CampaignReport>,
    codes: Vec<Code>,
    unread: Vec<String>,
}

impl Whole {
    fn take(&mut self, judged: Judged, findings: &mut Findings) {
        let base = u32::try_from(self.campaigns.len()).unwrap_or(u32::MAX);
        let codes = judged.codes.into_iter();
        self.codes.extend(codes.map(|code| Code { campaign: base + code.campaign, ..code }));
        self.campaigns.extend(judged.campaigns);
        self.partitions.push(judged.partition);
        self.unread.extend(judged.unread);
        findings.merge(judged.findings);
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
            let place =
                Where { campaign: name(other), sequence: Some(other.sequence), ..Where::default() };
            let of = name(one).map_or_else(String::new, |campaign| campaign.to_string());
            let detail = format!("has the code of coupon {} of campaign {of}", one.sequence);
            findings.add(FindingKind::CodeTwice, place, detail);
        }
    }

    fn report(mut self, mut findings: Findings, answers: Option<AnswerCounts>) -> Report {
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
        Report {
            partitions: self.partitions,
            campaigns: self.campaigns,
            answers,
            broken,
            findings: findings.kept,
            unread: self.unread,
        }
    }
}
