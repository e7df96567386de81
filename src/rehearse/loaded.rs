//! The load while it runs, by the loop or by k6, and what it found.

use std::{io, sync::Arc, time::Instant};

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::{
    k6::{self, K6, K6Error},
    load,
    pauses::Pauses,
    run::{ANSWERS, Audited, Order, Quantiles, RehearseError, Run, StageFigures},
    sample::Sample,
    scenario::Kind,
    tally::{SecondTally, StageTally, Tally},
};
use crate::domain::ids::Timestamp;

/// What is known beside the load, once everything has ended.
pub(super) struct Found {
    pub(super) started_at: Timestamp,
    pub(super) cut_short: bool,
    pub(super) lag_at_end: f64,
    pub(super) lag_gone_s: Option<f64>,
    pub(super) issued: u64,
    pub(super) campaigns: Vec<String>,
    pub(super) pauses: Vec<Option<Pauses>>,
}

/// Why a load ended without results.
#[derive(Debug)]
pub(super) enum LoadError {
    K6(K6Error),
    Io(io::Error),
}

/// The load that runs.
pub(super) struct Loaded {
    pub(super) started: Instant,
    pub(super) ended: Option<Instant>,
    pub(super) tally: Arc<Mutex<Tally>>,
    by: By,
    stop: CancellationToken,
}

enum By {
    Loop(load::Running),
    K6(Box<K6>, Option<k6::Results>),
}

impl Loaded {
    pub(super) fn start(
        order: &Order,
        campaigns: &[String],
        run: &str,
        stop: CancellationToken,
    ) -> Result<Self, RehearseError> {
        let scenario = &order.scenario;
        let tally = Arc::new(Mutex::new(Tally::new(scenario.stages.len())));
        let by = if scenario.kind == Kind::Peak {
            let script = k6::script(&order.file)?;
            let campaign = campaigns.first().map_or("", String::as_str);
            let k6 = K6::start(&script, scenario, &order.api, campaign, &order.out)?;
            By::K6(Box::new(k6), None)
        } else {
            let plan = load::Plan {
                scenario: scenario.clone(),
                api: order.api.clone(),
                campaigns: campaigns.to_vec(),
                run: run.to_owned(),
                seed: order.seed,
                answers: Some(order.out.join(ANSWERS)),
            };
            let running = load::start(plan, tally.clone(), stop.clone());
            let what = "starting the load";
            By::Loop(running.map_err(|source| RehearseError::Io { what, source })?)
        };
        Ok(Self { started: Instant::now(), ended: None, tally, by, stop })
    }

    pub(super) async fn end(&mut self) -> Result<(), LoadError> {
        match &mut self.by {
            By::Loop(running) => running.end().await.map_err(LoadError::Io)?,
            By::K6(k6, results) => {
                *results = Some(k6.end(&self.stop).await.map_err(LoadError::K6)?);
            }
        }
        // An open loop ends with its last request; the last answers come later.
        self.ended = Some(self.tally.lock().ended.unwrap_or_else(Instant::now));
        Ok(())
    }

    pub(super) fn result(
        self,
        order: Order,
        samples: Vec<Sample>,
        audited: Audited,
        found: Found,
    ) -> Run {
        let tally = self.tally.lock();
        let started = tally.started.unwrap_or(self.started);
        let ended = self.ended.unwrap_or_else(Instant::now);
        let (outcomes, response, decision, late, allowed) = match &self.by {
            By::Loop(_) => (
                tally.outcomes.clone(),
                Quantiles::of(&tally.response),
                Quantiles::of(&tally.decision),
                Quantiles::of(&tally.late),
                None,
            ),
            By::K6(_, results) => {
                let times = |name: &str| {
                    let results = results.as_ref()?;
                    results.milliseconds.get(name).copied().map(Quantiles::from)
                };
                let outcomes = results.as_ref().map(|it| it.outcomes.clone()).unwrap_or_default();
                let allowed = results.as_ref().and_then(|it| it.iterations_allowed);
                (outcomes, times("accepted"), times("answered"), None, allowed)
            }
        };
        let stage = |stage: &StageTally| StageFigures {
            due: stage.due,
            failed: stage.failed,
            decision: Quantiles::of(&stage.decision),
        };
        let second = |second: &SecondTally| {
            let quantile = |share| second.response.quantile_ms(share);
            (second.due, quantile(0.5).zip(quantile(0.99)))
        };
        let is_loop = matches!(self.by, By::Loop(_));
        let Order { scenario, engines, seed, admin, .. } = order;
        let Found { started_at, cut_short, lag_at_end, lag_gone_s, issued, campaigns, pauses } =
            found;
        Run {
            scenario,
            started_at,
            seconds: ended.duration_since(started).as_secs_f64(),
            cut_short,
            outcomes,
            response,
            decision,
            late,
            allowed,
            stages: if is_loop { tally.stages.iter().map(stage).collect() } else { Vec::new() },
            by_second: tally.seconds.iter().map(second).collect(),
            samples,
            lag_at_end,
            lag_gone_s,
            issued,
            campaigns,
            audited,
            nodes: admin.len(),
            engines: engines.into_iter().map(|engine| engine.name).zip(pauses).collect(),
            seed,
        }
    }
}
