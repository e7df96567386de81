//! Watches the topics of a running node: a log that no node would start with is not trusted.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use parking_lot::RwLock;
use tokio::sync::Notify;

use crate::{
    config::KafkaConfig,
    domain::halt::{Halt, HaltReason},
    kafka::topics::{TopicsNow, check_topics},
    telemetry::Chain,
};

/// Interval of checks.
const CHECK_EVERY: Duration = Duration::from_secs(60);

/// Interval of checks while the log is unfit, and least time between two checks: many calls may
/// doubt the topics at once.
const CHECK_AGAIN: Duration = Duration::from_secs(5);

/// Whether the log is one that a node would start with.
#[derive(Debug, Default)]
pub(super) struct Fitness {
    unfit: RwLock<Option<Halt>>,
    /// How long the topic keeps requests, if not for ever and if that is known.
    retention: RwLock<Option<Duration>>,
    doubted: Notify,
}

impl Fitness {
    /// Returns why the log is unfit, if it is.
    pub(super) fn unfit(&self) -> Option<Halt> {
        self.unfit.read().clone()
    }

    /// Has the topics checked soon: a call found that one does not exist.
    pub(super) fn doubt(&self) {
        self.doubted.notify_one();
    }

    /// Returns how long the topic keeps requests. None: for ever, or not known yet.
    pub(super) fn retention(&self) -> Option<Duration> {
        *self.retention.read()
    }

    fn set(&self, found: Option<Halt>) {
        let mut unfit = self.unfit.write();
        match (&*unfit, &found) {
            (_, Some(halt)) if unfit.as_ref() != Some(halt) => {
                tracing::error!(reason = halt.reason.slug(), detail = halt.detail, "log unfit");
            }
            (Some(_), None) => tracing::info!("log fit again"),
            _ => {}
        }
        *unfit = found;
    }
}

/// Checks the topics of a node every minute.
pub struct TopicWatch {
    pub(super) config: KafkaConfig,
    /// Partitions of the layout.
    pub(super) partitions: u32,
    pub(super) fitness: Arc<Fitness>,
    /// Warnings that were logged already.
    pub(super) warned: BTreeSet<String>,
}

impl TopicWatch {
    /// Checks the topics again and again. Never returns.
    pub async fn run(mut self) {
        loop {
            let every = if self.fitness.unfit().is_some() { CHECK_AGAIN } else { CHECK_EVERY };
            let doubted = self.fitness.doubted.notified();
            // Doubted or not, they are checked.
            let _ = tokio::time::timeout(every, doubted).await;
            self.check().await;
            tokio::time::sleep(CHECK_AGAIN).await;
        }
    }

    /// Checks the topics once.
    pub async fn check(&mut self) {
        let now = match check_topics(&self.config, self.partitions).await {
            Ok(now) => now,
            Err(error) => {
                tracing::debug!(error = %Chain(&error), "topics not checked, retrying");
                return;
            }
        };
        if let TopicsNow::Found { warnings, retention, .. } = &now {
            *self.fitness.retention.write() = *retention;
            // A warning that goes and comes back is news.
            let found: BTreeSet<_> = warnings.iter().cloned().collect();
            found.difference(&self.warned).for_each(|warning| tracing::warn!("{warning}"));
            self.warned = found;
        }
        self.fitness.set(unfit(now));
    }
}

/// Returns why a log with these topics is unfit, if it is.
fn unfit(now: TopicsNow) -> Option<Halt> {
    match now {
        TopicsNow::RequestsMissing => {
            let detail = "the topic of requests does not exist any more".to_owned();
            Some(Halt::new(HaltReason::TopicMissing, detail))
        }
        TopicsNow::Found { problems, .. } if problems.is_empty() => None,
        TopicsNow::Found { problems, .. } => {
            let problems: Vec<_> = problems.iter().map(ToString::to_string).collect();
            Some(Halt::new(HaltReason::TopicChanged, problems.join("; ")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::topics::TopicProblem;

    fn problem(setting: &str) -> TopicProblem {
        TopicProblem {
            setting: setting.to_owned(),
            found: "1".to_owned(),
            needed: "2".to_owned(),
            remedy: "set it".to_owned(),
        }
    }

    #[test]
    fn what_would_refuse_a_start_makes_the_log_unfit() {
        let warnings = vec!["one replica".to_owned()];
        let found = |problems| {
            let (warnings, retention) = (warnings.clone(), None);
            TopicsNow::Found { problems, warnings, retention }
        };
        let fit = found(Vec::new());
        assert_eq!(unfit(fit), None);
        let problems = vec![problem("t: a"), problem("t: b")];
        let halt = unfit(found(problems)).unwrap();
        let expected = "topic_changed: t: a is 1; it must be 2: set it; t: b is 1; it must be 2: \
                        set it";
        assert_eq!(halt.to_string(), expected);
        let missing = unfit(TopicsNow::RequestsMissing).unwrap();
        assert_eq!(missing.reason, HaltReason::TopicMissing);
    }
}
