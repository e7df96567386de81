//! Audits one partition: reads progress and holds, replays the log into a model for each campaign,
//! and has each model compared with its rows.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, atomic::Ordering},
};

use futures_util::{StreamExt, stream};

use super::{
    AuditError, Context,
    answers::{Claim, ClientAnswer},
    base,
    changes::Expected,
    codes::Code,
    finding::{FindingKind, Findings, Location},
    holds,
    model::{Model, PartitionContext, RecordOutcome},
    reading::{Stopped, chunks},
    report::{AcknowledgedLoss, CampaignReport, PartitionReport},
    rows, skipped,
};
use crate::{
    domain::{
        ids::{CampaignId, Offset, Partition, Timestamp},
        record::{Change, Record},
        rows::{Hold, LastRecord, Progress},
    },
    log::Bounds,
    telemetry::Chain,
    wire::{
        LogRecord,
        codec::{Codec, Decoded},
    },
};

/// Most chunks of the log decoded at once: a small machine has this many cores.
const DECODERS: usize = 4;

/// Most campaigns of one partition whose rows are read at once.
const CAMPAIGNS_AT_ONCE: usize = 4;

/// The result of one partition's audit.
pub(super) struct PartitionAudit {
    pub(super) partition: PartitionReport,
    pub(super) campaigns: Vec<CampaignReport>,
    pub(super) findings: Findings,
    /// Codes of its coupons, each with the index of its campaign in `campaigns`.
    pub(super) codes: Vec<Code>,
    pub(super) unread: Vec<String>,
    pub(super) answers_before_the_log: u64,
}

/// Decoded records of the log.
struct Chunk {
    records: Vec<(Offset, Timestamp, Decoded)>,
    /// Offset and digest of the last of them below progress.
    last: Option<LastRecord>,
}

/// Replays a partition's log into models.
struct LogReplay<'a> {
    context: &'a Context,
    place: PartitionContext,
    /// The lowest offset of the log.
    from: Offset,
    /// The offset up to which the log was replayed.
    end: Offset,
    models: HashMap<CampaignId, Model>,
    findings: Findings,
    records: u64,
    dead_letters: u64,
    last: Option<LastRecord>,
    answers: &'a [ClientAnswer],
    answers_before_the_log: u64,
    note: Option<String>,
    unread: Vec<String>,
}

/// Audits one partition.
pub(super) async fn audit(
    context: Arc<Context>,
    partition: Partition,
) -> Result<PartitionAudit, AuditError> {
    let rows = context.ports.store.partition(partition).await?;
    let skips = rows.skips.clone();
    // The listing is read after progress: every campaign defined below progress is listed by now.
    let listed = context.listed(partition).await?;
    let bounds = context.ports.log.bounds(partition).await?;
    let settled = rows.next();
    let mut replay = LogReplay {
        context: &context,
        place: PartitionContext { skipped: skipped::ranges(&skips), ..context.place(partition) },
        from: bounds.low,
        end: bounds.high,
        models: HashMap::new(),
        findings: Findings::default(),
        records: 0,
        dead_letters: 0,
        last: None,
        answers: context.answers.of_partition(partition),
        answers_before_the_log: 0,
        note: None,
        unread: Vec::new(),
    };
    replay.check_ends(settled, bounds);
    holds::check(&context, partition, &rows, bounds, &mut replay.findings).await?;
    let (progress, holds) = (rows.progress, rows.holds);
    if bounds.low > 0 {
        for campaign in &listed {
            let place = replay.place.clone();
            let model =
                base::load(&context, campaign, place, bounds.low, &mut replay.findings).await?;
            replay.models.insert(campaign.clone(), model);
        }
    }
    replay.run(settled).await?;
    replay.answers_beyond().await?;
    let settled = settled.min(replay.end);
    if let Some(progress) = &progress {
        replay.check_progress(progress);
    }
    for campaign in &listed {
        if !replay.models.contains_key(campaign) {
            let model = Model::new(campaign.clone(), replay.place.clone());
            replay.models.insert(campaign.clone(), model);
        }
    }
    let mut audited = compare(replay, settled, &listed, holds).await?;
    audited.partition.acknowledged = skips.iter().filter_map(AcknowledgedLoss::of).collect();
    Ok(audited)
}

/// Compares every campaign of the partition with its rows.
async fn compare(
    replay: LogReplay<'_>,
    settled: Offset,
    listed: &BTreeSet<CampaignId>,
    holds: Vec<Hold>,
) -> Result<PartitionAudit, AuditError> {
    let LogReplay { context, place, from, end, models, mut findings, .. } = replay;
    let mut claims = context.answers.claims(place.partition);
    // In the order of ids, in which the report names them: codes refer to a campaign by its place.
    let mut models: Vec<_> = models.into_values().collect();
    models.sort_unstable_by(|one, other| one.id.cmp(&other.id));
    let limit_of = |campaign: &CampaignId| {
        let its = holds.iter().filter(|hold| hold.campaign == *campaign);
        its.map(Hold::unsettled_from).min().unwrap_or(settled).min(settled)
    };
    let mut changes = Expected::default();
    models.iter().for_each(|model| changes.add(&model.id, &model.changes, limit_of(&model.id)));
    let (mut campaigns, mut codes, mut unread) = (Vec::new(), Vec::new(), replay.unread);
    if let Err(error) = changes.compare(context, &place, (from, end), &mut findings).await {
        unread.push(format!("changes of partition {}: {}", place.partition, Chain(&error)));
    }
    let comparisons = models.into_iter().map(|model| {
        let claims: Vec<Claim> = claims.remove(&model.id).unwrap_or_default();
        let its: Vec<_> = holds.iter().filter(|hold| hold.campaign == model.id).cloned().collect();
        let scope = rows::Scope {
            limit: limit_of(&model.id),
            end,
            from,
            listed: listed.contains(&model.id),
            held: its.iter().any(Hold::is_in_force),
        };
        async move {
            let id = model.id.clone();
            (id, rows::compare(context, model, scope, claims).await)
        }
    });
    let comparisons: Vec<_> = comparisons.collect();
    let mut compared = stream::iter(comparisons).buffered(CAMPAIGNS_AT_ONCE);
    while let Some((id, outcome)) = compared.next().await {
        match outcome {
            Ok(outcome) => {
                let index = u32::try_from(campaigns.len()).unwrap_or(u32::MAX);
                codes
                    .extend(outcome.codes.into_iter().map(|code| Code { campaign: index, ..code }));
                findings.merge(outcome.findings);
                campaigns.push(outcome.report);
            }
            Err(error) => {
                unread.push(format!("campaign {id}: {}", Chain(&error)));
            }
        }
    }
    // The remaining answers name campaigns that don't exist.
    for (campaign, claims) in claims {
        for claim in claims {
            rows::holds_nothing(&campaign, place.partition, claim, &mut findings);
        }
    }
    Ok(PartitionAudit {
        partition: PartitionReport {
            partition: place.partition,
            from,
            settled,
            end,
            records: replay.records,
            dead_letters: replay.dead_letters,
            holds_in_force: holds.iter().filter(|hold| hold.is_in_force()).count(),
            acknowledged: Vec::new(),
            note: replay.note,
        },
        campaigns,
        findings,
        codes,
        unread,
        answers_before_the_log: replay.answers_before_the_log,
    })
}

impl LogReplay<'_> {
    fn here(&self, offset: Offset) -> Location {
        let partition = Some(self.place.partition);
        Location { partition, offset: Some(offset), ..Location::default() }
    }

    /// Compares the ends of the log with progress.
    fn check_ends(&mut self, settled: Offset, bounds: Bounds) {
        let Bounds { low, high } = bounds;
        if settled > high {
            let detail = format!("progress is {settled}, but the log ends at {high}");
            self.findings.add(FindingKind::LogEndsEarly, self.here(high), detail);
        }
        // What was trimmed and is skipped is an acknowledged loss.
        if skipped::passed(&self.place.skipped, settled) < low {
            let detail =
                format!("records from {settled} on are undecided, but the log starts at {low}");
            self.findings.add(FindingKind::LogStartsLate, self.here(settled), detail);
        }
    }

    /// Reads the log and applies each record to its campaign's model.
    async fn run(&mut self, settled: Offset) -> Result<(), AuditError> {
        let gone = self.answers.partition_point(|answer| answer.offset < self.from);
        self.answers_before_the_log = gone as u64;
        self.answers = &self.answers[gone..];
        if self.from >= self.end {
            return Ok(());
        }
        let (partition, from, end) = (self.place.partition, self.from, self.end);
        let log = self.context.ports.log.clone();
        let parts = skipped::between(&self.place.skipped, (from, end));
        let codec = self.context.codec.clone();
        let keys = Arc::clone(&self.place.keys);
        let decoded = chunks(log, partition, parts).map(move |chunk| {
            let (codec, keys) = (codec.clone(), Arc::clone(&keys));
            async move {
                let records = chunk?;
                let decode = move || decode(&codec, &keys, partition, records, settled);
                let decoded = tokio::task::spawn_blocking(decode).await;
                decoded.map_err(|error| Stopped::Failed(AuditError::task(error)))
            }
        });
        let mut decoded = Box::pin(decoded.buffered(DECODERS));
        while let Some(chunk) = decoded.next().await {
            match chunk {
                Ok(chunk) => {
                    if !self.take(chunk) {
                        return Ok(());
                    }
                }
                Err(Stopped::Gap { wanted, detail }) => {
                    let detail = format!("the log has no record at {wanted}: {detail}");
                    self.findings.add(FindingKind::LogGap, self.here(wanted), detail);
                    self.end = wanted;
                    self.note = Some(format!("audited up to the gap at {wanted}"));
                    return Ok(());
                }
                Err(Stopped::Unreadable { wanted, detail }) => {
                    self.unread.push(format!("partition {partition} from {wanted} on: {detail}"));
                    self.end = wanted;
                    self.note = Some(format!("audited up to {wanted}, which cannot be read"));
                    return Ok(());
                }
                Err(Stopped::Failed(error)) => return Err(error),
            }
        }
        self.answers_up_to(self.end);
        Ok(())
    }

    /// Applies a chunk; returns false if the rest can't be audited.
    fn take(&mut self, chunk: Chunk) -> bool {
        self.last = chunk.last.or(self.last);
        let count = chunk.records.len() as u64;
        self.records += count;
        self.context.meter.records.fetch_add(count, Ordering::Relaxed);
        for (offset, time, decoded) in chunk.records {
            self.answers_up_to(offset);
            let decided = match decoded {
                Decoded::Record(record) => {
                    if let Record::Request(request) = &record {
                        let place = self.here(offset);
                        self.context.answers.refusals.check(request, place, &mut self.findings);
                    }
                    self.record(offset, time, record)
                }
                Decoded::DeadLetter(_) => None,
                Decoded::Newer { version } => {
                    self.end = offset;
                    self.note =
                        Some(format!("audited up to {offset}: record has newer version {version}"));
                    return false;
                }
            };
            if decided.is_none() {
                self.dead_letters += 1;
            }
            self.answers_at(offset, time, decided.as_ref());
        }
        true
    }

    /// Applies a record and returns its outcome, or `None` for a dead letter.
    fn record(
        &mut self,
        offset: Offset,
        time: Timestamp,
        record: Record,
    ) -> Option<(Record, RecordOutcome)> {
        if !self.models.contains_key(record.campaign()) {
            // Only a definition adds a model. Otherwise requests with random campaign ids, which
            // anyone can send, would take memory without bound.
            match &record {
                Record::Control(control) if matches!(control.change, Change::Defined { .. }) => {
                    let id = control.campaign.clone();
                    self.models.insert(id.clone(), Model::new(id, self.place.clone()));
                }
                Record::Control(control) if matches!(control.change, Change::Released { .. }) => {
                    return Some((record, RecordOutcome::Control));
                }
                _ => return None,
            }
        }
        let model = self.models.get_mut(record.campaign())?;
        match model.record(offset, time, &record) {
            RecordOutcome::Undefined => None,
            verdict => Some((record, verdict)),
        }
    }

    /// Reports the remaining answers below `offset`: the log has no record at their positions.
    fn answers_up_to(&mut self, offset: Offset) {
        while let Some((answer, rest)) = self.answers.split_first()
            && answer.offset < offset
        {
            let campaign = self.context.answers.campaign(answer);
            match self.place.is_skipped(answer.offset) {
                true => answer.skipped(campaign, &mut self.findings),
                false => answer.lost(campaign, &mut self.findings),
            }
            self.answers = rest;
        }
    }

    /// Reports answers beyond the current end of the log. Answers between the replayed part and
    /// that end are newer than the audit, and are not checked.
    async fn answers_beyond(&mut self) -> Result<(), AuditError> {
        if self.answers.is_empty() {
            return Ok(());
        }
        let bounds = self.context.ports.log.bounds(self.place.partition).await?;
        let reached = self.answers.partition_point(|answer| answer.offset < bounds.high);
        for answer in &self.answers[reached..] {
            answer.lost(self.context.answers.campaign(answer), &mut self.findings);
        }
        Ok(())
    }

    fn answers_at(
        &mut self,
        offset: Offset,
        time: Timestamp,
        decided: Option<&(Record, RecordOutcome)>,
    ) {
        while let Some((answer, rest)) = self.answers.split_first()
            && answer.offset == offset
        {
            let decided = decided.and_then(|(record, verdict)| match record {
                Record::Request(request) => {
                    let model = self.models.get(&request.campaign)?;
                    Some((request, time, *verdict, model))
                }
                Record::Control(_) => None,
            });
            let campaign = self.context.answers.campaign(answer);
            answer.check(decided, campaign, &mut self.findings);
            self.answers = rest;
        }
    }

    /// Compares progress with the last record below it.
    fn check_progress(&mut self, progress: &Progress) {
        let place = self.here(progress.next);
        if progress.log_epoch != self.place.log_epoch {
            let detail = format!("progress has the other log epoch {}", progress.log_epoch);
            self.findings.add(FindingKind::ProgressWrong, place.clone(), detail);
        }
        if progress.next < self.from || progress.next > self.end {
            return;
        }
        let said = progress.last.filter(|last| last.offset >= self.from);
        let (said_at, found_at) = (said.map(|last| last.offset), self.last.map(|last| last.offset));
        if said_at != found_at {
            let name = |offset: Option<Offset>| offset.map_or("none".into(), |it| it.to_string());
            let detail = format!(
                "the last record below progress {} is {} in the store, but {} in the log",
                progress.next,
                name(said_at),
                name(found_at)
            );
            self.findings.add(FindingKind::ProgressWrong, place, detail);
        } else if said != self.last {
            let detail = "the last settled record was replaced by another one";
            self.findings.add(FindingKind::RecordRewritten, place, detail);
        }
    }
}

fn decode(
    codec: &Codec,
    keys: &crate::domain::keys::Keys,
    partition: Partition,
    records: Vec<LogRecord>,
    settled: Offset,
) -> Chunk {
    let below = records.partition_point(|record| record.offset < settled);
    let last = below.checked_sub(1).map(|at| &records[at]).map(|record| LastRecord {
        offset: record.offset,
        digest: keys.record_digest(&record.key, &record.value),
    });
    let decoded = records
        .into_iter()
        .map(|record| (record.offset, record.time, codec.decode(partition, &record)));
    Chunk { records: decoded.collect(), last }
}
