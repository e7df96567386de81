//! One rehearsal, from its campaigns to its audit.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::{
    admin::{Admin, AdminError},
    k6::{self, K6Error, Milliseconds},
    loaded::{Found, LoadError, Loaded},
    local::{EngineProcess, LocalError},
    outcomes::Outcomes,
    pauses::{self, Pauses},
    sample::{Sample, Sampler, latency_ms},
    scenario::{Kind, Scenario},
    tally::{Tally, Times},
};
use crate::{
    audit::{AuditReport, Meter},
    clock::{Clock, SystemClock},
    config::Config,
    domain::ids::Timestamp,
    node,
};

/// Time between two samples.
const SAMPLE_EVERY: Duration = Duration::from_secs(1);

/// Time between two looks at the lag once the load has ended.
const LAG_EVERY: Duration = Duration::from_millis(100);

/// Longest wait until no record waits.
const LAG_WAIT: Duration = Duration::from_secs(60);

/// Name of the file of answers in the folder of a rehearsal.
pub(super) const ANSWERS: &str = "answers.jsonl";

/// What to rehearse, and where.
#[derive(Debug)]
pub struct Order {
    /// The scenario.
    pub scenario: Scenario,
    /// Its file; k6's script lies beside it.
    pub file: PathBuf,
    /// Public listeners of the nodes.
    pub api: Vec<String>,
    /// Their admin listeners.
    pub admin: Vec<String>,
    /// The token of the admin listeners.
    pub token: Option<String>,
    /// Local engines.
    pub engines: Vec<EngineProcess>,
    /// Where files are written.
    pub out: PathBuf,
    /// What is drawn follows from it.
    pub seed: u64,
    /// The settings of the instance for the audit, or why there can be none.
    pub audit: Result<Config, String>,
}

/// Why a rehearsal has no result.
#[derive(Debug, thiserror::Error)]
pub enum RehearseError {
    /// A call of the admin listener failed.
    #[error(transparent)]
    Admin(#[from] AdminError),
    /// k6 has no results.
    #[error(transparent)]
    K6(#[from] K6Error),
    /// A local instance does not run.
    #[error(transparent)]
    Local(#[from] LocalError),
    /// A node's metrics cannot be read.
    #[error("{0}/metrics does not answer; pass the URLs of all admin listeners with --admin")]
    NoMetrics(String),
    /// The load or a file failed.
    #[error("{what}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

impl RehearseError {
    /// Returns whether something has to be installed or set first.
    #[must_use]
    pub fn is_usage(&self) -> bool {
        matches!(
            self,
            Self::K6(K6Error::Missing | K6Error::NoScript(_))
                | Self::Local(
                    LocalError::Missing(_) | LocalError::Left(_) | LocalError::Settings(_)
                )
        )
    }
}

/// What is known while a rehearsal runs, for whoever shows its progress.
#[derive(Debug, Clone, Default)]
pub struct Live {
    /// What is done now.
    pub phase: String,
    /// Seconds since the start of the load; None before it and after it.
    pub at_s: Option<f64>,
    /// Requests in the last second.
    pub rate: f64,
    /// Median and 99th percentile of the last whole second, in milliseconds.
    pub latency_ms: Option<(f64, f64)>,
    /// Records that wait for a decision.
    pub lag: f64,
    /// Coupons issued so far.
    pub issued: f64,
    /// Requests that failed so far; k6 says so only at its end.
    pub failed: u64,
}

/// Quantiles of times, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Quantiles {
    pub(super) count: f64,
    pub(super) p50: f64,
    pub(super) p90: f64,
    pub(super) p95: f64,
    pub(super) p99: f64,
    pub(super) max: f64,
}

impl Quantiles {
    pub(super) fn of(times: &Times) -> Option<Self> {
        Some(Self {
            count: times.count() as f64,
            p50: times.quantile_ms(0.5)?,
            p90: times.quantile_ms(0.9)?,
            p95: times.quantile_ms(0.95)?,
            p99: times.quantile_ms(0.99)?,
            max: times.max_ms()?,
        })
    }
}

impl From<Milliseconds> for Quantiles {
    fn from(its: Milliseconds) -> Self {
        let Milliseconds { count, p50, p90, p95, p99, max } = its;
        Self { count, p50, p90, p95, p99, max }
    }
}

/// One stage of an open loop.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct StageFigures {
    pub(super) due: u64,
    pub(super) failed: u64,
    pub(super) decision: Option<Quantiles>,
}

/// The audit of a rehearsal.
#[derive(Debug)]
pub enum Audited {
    /// Its report.
    Done(Box<AuditReport>),
    /// Why there is none.
    Not(String),
}

/// What a rehearsal found.
#[derive(Debug)]
pub struct Run {
    pub(super) scenario: Scenario,
    pub(super) started_at: Timestamp,
    /// Seconds from the first stage to the end of the last.
    pub(super) seconds: f64,
    pub(super) cut_short: bool,
    pub(super) outcomes: Outcomes,
    pub(super) response: Option<Quantiles>,
    pub(super) decision: Option<Quantiles>,
    /// How late the load generator itself was; None for k6, which waits for answers.
    pub(super) late: Option<Quantiles>,
    /// Requests that the virtual users could send at most, for k6.
    pub(super) allowed: Option<f64>,
    /// Empty for k6.
    pub(super) stages: Vec<StageFigures>,
    /// For each second: requests that were due, and median and P99 of their responses. Empty for k6.
    pub(super) by_second: Vec<(u64, Option<(f64, f64)>)>,
    /// The first one was taken before the load, the last one when no record waited.
    pub(super) samples: Vec<Sample>,
    pub(super) lag_at_end: f64,
    /// Seconds from the end of the load until no record waited; None: longer than a minute.
    pub(super) lag_gone_s: Option<f64>,
    /// Coupons issued, as the view of the campaigns says at the end.
    pub(super) issued: u64,
    pub(super) campaigns: Vec<String>,
    pub(super) audited: Audited,
    pub(super) nodes: usize,
    /// Name of each local engine, and its pauses during the load.
    pub(super) engines: Vec<(String, Option<Pauses>)>,
    pub(super) seed: u64,
}

impl Run {
    /// Returns whether an invariant is broken, or requests and outcomes differ.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        super::judge::is_broken(self)
    }
}

/// Says what is missing before anything starts.
///
/// # Errors
/// What is missing.
pub fn check(scenario: &Scenario, file: &Path) -> Result<(), RehearseError> {
    if scenario.kind == Kind::Peak {
        k6::script(file)?;
    }
    Ok(())
}

/// Runs a rehearsal. `stop` ends its load early; what was measured until then is reported.
///
/// # Errors
/// [`RehearseError`] if there is nothing to report.
pub async fn rehearse(
    order: Order,
    live: Arc<Mutex<Live>>,
    stop: CancellationToken,
) -> Result<Run, RehearseError> {
    check(&order.scenario, &order.file)?;
    let io = |what| move |source| RehearseError::Io { what, source };
    fs::create_dir_all(&order.out).map_err(io("making the folder of the report"))?;
    let phase = |text: &str| text.clone_into(&mut live.lock().phase);
    phase("creating the campaign");
    let first = order.admin.first().map_or("", String::as_str);
    let admin = Admin::new(first, order.token.clone())?;
    let engines = order.engines.iter().map(|engine| engine.pid).collect();
    let sampler = Sampler::new(admin.http.clone(), order.admin.clone(), engines);
    let before = sampler.take(0.0).await;
    if let Some(silent) = before.nodes.iter().position(Option::is_none) {
        return Err(RehearseError::NoMetrics(order.admin[silent].clone()));
    }
    let run = format!("rehearsal-{:x}", SystemClock.now().0);
    let count = order.scenario.campaigns;
    let campaigns: Vec<String> = match count {
        1 => vec![run.clone()],
        _ => (1..=count).map(|number| format!("{run}-{number}")).collect(),
    };
    admin.define(&campaigns, &order.scenario, None).await?;
    phase("load");
    let paused = order.engines.iter().map(|engine| pauses::length(&engine.pauses));
    let paused: Vec<u64> = paused.collect();
    let started_at = SystemClock.now();
    if let Some(after) = order.scenario.opens_after {
        let opens_at = Timestamp(started_at.0 + i64::try_from(after.as_millis()).unwrap_or(0));
        admin.define(&campaigns, &order.scenario, Some(opens_at)).await?;
    }
    let mut loaded = Loaded::start(&order, &campaigns, &run, stop.clone())?;
    let watched = watch(&mut loaded, &sampler, before, &live).await;
    let mut samples = watched.map_err(|error| match error {
        LoadError::K6(error) => RehearseError::K6(error),
        LoadError::Io(source) => RehearseError::Io { what: "running the load", source },
    })?;
    phase("waiting until nothing waits for a decision");
    live.lock().at_s = None;
    let (lag_at_end, lag_gone_s) = drained(&loaded, &sampler, &mut samples).await;
    let logs = order.engines.iter().zip(paused);
    let pauses = logs.map(|(engine, from)| pauses::read(&engine.pauses, from)).collect();
    let issued = admin.issued(&campaigns).await?;
    admin.close(&campaigns).await;
    phase("audit");
    // k6 writes none, and those of an earlier run say nothing of this one.
    let is_own = order.scenario.kind != Kind::Peak;
    let answers = Some(order.out.join(ANSWERS)).filter(|file| is_own && file.is_file());
    let audited = audit(&order.audit, answers).await;
    Ok(loaded.result(
        order,
        samples,
        audited,
        Found {
            started_at,
            cut_short: stop.is_cancelled(),
            lag_at_end,
            lag_gone_s,
            issued,
            campaigns,
            pauses,
        },
    ))
}

/// Takes a sample each second until the load has ended.
async fn watch(
    loaded: &mut Loaded,
    sampler: &Sampler,
    before: Sample,
    live: &Mutex<Live>,
) -> Result<Vec<Sample>, LoadError> {
    let started = loaded.started;
    let tally = loaded.tally.clone();
    let mut samples = vec![before];
    let mut ticks = tokio::time::interval_at((started + SAMPLE_EVERY).into(), SAMPLE_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    let mut end = std::pin::pin!(loaded.end());
    loop {
        tokio::select! {
            ended = &mut end => return ended.map(|()| samples),
            _ = ticks.tick() => {
                let sample = sampler.take(started.elapsed().as_secs_f64()).await;
                show(live, &tally, &samples, &sample);
                samples.push(sample);
            }
        }
    }
}

/// Says what a sample shows.
fn show(live: &Mutex<Live>, tally: &Mutex<Tally>, samples: &[Sample], sample: &Sample) {
    let (Some(first), Some(last)) = (samples.first(), samples.last()) else { return };
    let tally = tally.lock();
    // The second before the last whole one: its answers are there.
    let second = tally.seconds.len().checked_sub(2).map(|index| &tally.seconds[index]);
    let own =
        second.and_then(|its| its.response.quantile_ms(0.5).zip(its.response.quantile_ms(0.99)));
    let nodes = || latency_ms(last, sample, 0.5).zip(latency_ms(last, sample, 0.99));
    let passed = sample.at_s - last.at_s;
    let mut live = live.lock();
    live.at_s = Some(sample.at_s);
    live.rate = (sample.requests() - last.requests()) / passed.max(0.1);
    live.latency_ms = own.or_else(nodes);
    live.lag = sample.lag();
    live.issued = sample.decisions("issued") - first.decisions("issued");
    live.failed = tally.outcomes.failures();
}

/// Samples until no record waits. Returns the lag at the end of the load, and the seconds from there.
async fn drained(
    loaded: &Loaded,
    sampler: &Sampler,
    samples: &mut Vec<Sample>,
) -> (f64, Option<f64>) {
    let ended = loaded.ended.unwrap_or_else(Instant::now);
    // The open loop waits for its last answers, so its end may lie before the last samples.
    let end_s = ended.duration_since(loaded.started).as_secs_f64();
    let after = samples.iter().filter(|sample| sample.at_s >= end_s);
    let after: Vec<(f64, f64)> = after.map(|sample| (sample.at_s, sample.lag())).collect();
    let mut at_end = after.first().map(|(_, lag)| *lag);
    if let Some((at, _)) = after.iter().find(|(_, lag)| *lag == 0.0) {
        return (at_end.unwrap_or_default(), Some(at - end_s));
    }
    loop {
        let sample = sampler.take(loaded.started.elapsed().as_secs_f64()).await;
        let (lag, at_s) = (sample.lag(), sample.at_s);
        let heard = sample.nodes.iter().all(Option::is_some);
        samples.push(sample);
        let lag_at_end = *at_end.get_or_insert(lag);
        if lag == 0.0 && heard {
            return (lag_at_end, Some((at_s - end_s).max(0.0)));
        }
        if ended.elapsed() > LAG_WAIT {
            return (lag_at_end, None);
        }
        tokio::time::sleep(LAG_EVERY).await;
    }
}

/// Audits the instance, and every answer that clients got.
async fn audit(config: &Result<Config, String>, answers: Option<PathBuf>) -> Audited {
    let config = match config {
        Ok(config) => config,
        Err(reason) => return Audited::Not(reason.clone()),
    };
    match node::audit(config, answers, Arc::new(Meter::default())).await {
        Ok(report) => Audited::Done(Box::new(report)),
        Err(error) => {
            let error: &dyn std::error::Error = &error;
            let causes = std::iter::successors(Some(error), |error| error.source());
            let texts: Vec<String> = causes.map(ToString::to_string).collect();
            Audited::Not(texts.join(": "))
        }
    }
}
