//! What follows from the figures of a rehearsal, by rule.

use super::{
    run::{Audited, Run},
    scenario::Goal,
};

/// The load generator is part of the figures if it was this late, in milliseconds.
const LATE_MS: f64 = 10.0;

/// Share of what a closed loop allows from which on the scenario, and not the system, set the rate.
const ALLOWED_SHARE: f64 = 0.95;

/// Returns every conclusion, most important first.
pub(super) fn conclusions(run: &Run) -> Vec<String> {
    let rules: [fn(&Run) -> Option<String>; 11] = [
        audit,
        violations,
        balance,
        failures,
        success,
        issued,
        capacity,
        bound_by_scenario,
        lag,
        lateness,
        restarts,
    ];
    rules.iter().filter_map(|rule| rule(run)).collect()
}

/// Returns whether something is broken, apart from targets.
pub(super) fn is_broken(run: &Run) -> bool {
    let audit = matches!(&run.audited, Audited::Done(report) if !report.holds());
    audit || grown(run, |node| node.violations) > 0.0 || run.outcomes.sum() != run.outcomes.requests
}

fn grown(run: &Run, of: impl Fn(&super::sample::NodeSample) -> f64) -> f64 {
    let sum = |sample: Option<&super::sample::Sample>| -> f64 {
        sample.into_iter().flat_map(|sample| sample.nodes.iter().flatten()).map(&of).sum()
    };
    (sum(run.samples.last()) - sum(run.samples.first())).max(0.0)
}

fn audit(run: &Run) -> Option<String> {
    match &run.audited {
        Audited::Done(report) if !report.holds() => {
            let kinds = report.broken.iter();
            let kinds: Vec<String> = kinds
                .map(|kind| format!("{} {} ({})", kind.count, kind.kind, kind.invariant))
                .collect();
            Some(format!("The audit found broken invariants: {}.", kinds.join(", ")))
        }
        Audited::Done(report) => {
            let answers = report.answers.as_ref().map_or_else(String::new, |answers| {
                format!(", also against the {} answers that clients got", answers.lines)
            });
            Some(format!("The audit found INV-1 to INV-8 kept{answers}."))
        }
        Audited::Not(_) => None,
    }
}

fn violations(run: &Run) -> Option<String> {
    let violations = grown(run, |node| node.violations);
    (violations > 0.0)
        .then(|| format!("Nodes counted {violations} violations of invariants: see their logs."))
}

fn balance(run: &Run) -> Option<String> {
    let (sum, requests) = (run.outcomes.sum(), run.outcomes.requests);
    Some(if sum == requests {
        format!("Every request has exactly one outcome: {}.", run.outcomes.equation())
    } else {
        format!("Outcomes and requests differ: {}.", run.outcomes.equation())
    })
}

fn failures(run: &Run) -> Option<String> {
    let failed: Vec<String> =
        run.outcomes.failed.iter().map(|(how, count)| format!("{count} {how}")).collect();
    if failed.is_empty() {
        return None;
    }
    let share = share(run.outcomes.failures(), run.outcomes.requests);
    Some(format!("{share:.2} % of requests failed: {}.", failed.join(", ").replace('_', " ")))
}

fn success(run: &Run) -> Option<String> {
    let outcomes = &run.outcomes;
    if outcomes.requests == 0 {
        return None;
    }
    let of = |count: u64| share(count, outcomes.requests);
    let mut parts = Vec::new();
    if outcomes.already_issued > 0 {
        let share = of(outcomes.already_issued);
        parts.push(format!("{share:.1} % came from users who held one already"));
    }
    let reasons =
        outcomes.rejected.iter().chain(&outcomes.refused).filter(|(_, count)| **count > 0);
    let mut by_reason = std::collections::BTreeMap::<&str, u64>::new();
    for (reason, count) in reasons {
        *by_reason.entry(reason).or_default() += count;
    }
    parts.extend(by_reason.into_iter().map(|(reason, count)| {
        format!("{:.1} % were told {}", of(count), reason.replace('_', " "))
    }));
    let issued = of(outcomes.issued);
    let rest = if parts.is_empty() { String::new() } else { format!("; {}", parts.join("; ")) };
    Some(format!("{issued:.1} % of requests issued a coupon{rest}."))
}

fn issued(run: &Run) -> Option<String> {
    let (told, shown) = (run.outcomes.issued, run.issued);
    Some(if told == shown {
        format!("The campaign shows {shown} issued coupons, as many as clients were told.")
    } else if told < shown {
        let undecided = run.outcomes.undecided + run.outcomes.failures();
        format!(
            "The campaign shows {shown} issued coupons, {} more than clients were told; {undecided} \
             requests ended without a decision that their client knows.",
            shown - told
        )
    } else if run.campaigns.len() == 1 && run.scenario.keys_per_user > 0 {
        format!(
            "Clients were told \"issued\" {told} times for {shown} coupons: a repeated idempotency \
             key is answered with the coupon of its first request."
        )
    } else {
        format!("The campaign shows {shown} issued coupons, and clients were told of {told}.")
    })
}

/// Names the highest rate of the stages before the first that missed the P99 of decisions.
fn capacity(run: &Run) -> Option<String> {
    let limit = run.scenario.target(Goal::DecisionP99)?.value;
    let is_constant = |index: usize| {
        let stage = &run.scenario.stages[index];
        stage.from == stage.to
    };
    let steps: Vec<usize> = (0..run.stages.len().min(run.scenario.stages.len()))
        .filter(|it| is_constant(*it))
        .collect();
    if steps.len() < 2 {
        return None;
    }
    let kept = |index: &usize| {
        let stage = &run.stages[*index];
        stage.failed == 0 && stage.decision.is_some_and(|its| its.p99 <= limit)
    };
    let best = steps.iter().copied().take_while(kept).last();
    let rate = |index: usize| run.scenario.stages[index].to;
    Some(match best {
        None => format!("Not even {}/s kept its P99 within {limit} ms.", rate(steps[0])),
        Some(best) if best == steps[steps.len() - 1] => format!(
            "Every step kept its P99 within {limit} ms; the highest was {}/s, so the limit is above it.",
            rate(best)
        ),
        Some(best) => format!(
            "{}/s is the highest step that kept the P99 of decisions within {limit} ms, load generator \
             included.",
            rate(best)
        ),
    })
}

fn bound_by_scenario(run: &Run) -> Option<String> {
    let allowed = run.allowed.filter(|allowed| *allowed > 0.0)?;
    let reached = run.outcomes.requests as f64 / allowed;
    Some(if reached >= ALLOWED_SHARE {
        format!(
            "The scenario set the rate, not the system: its virtual users can send about {allowed} \
             requests, and {:.1} % of them were sent.",
            100.0 * reached
        )
    } else {
        format!(
            "The system slowed the virtual users down: {:.1} % of the {allowed} requests that they \
             could have sent.",
            100.0 * reached
        )
    })
}

fn lag(run: &Run) -> Option<String> {
    Some(match run.lag_gone_s {
        Some(seconds) => format!(
            "{} records waited when the load ended, and none {seconds:.1} s later.",
            run.lag_at_end
        ),
        None => {
            "Records still waited for a decision a minute after the end of the load.".to_owned()
        }
    })
}

fn lateness(run: &Run) -> Option<String> {
    let late = run.late.filter(|late| late.p99 > LATE_MS)?;
    Some(format!(
        "The load generator itself was late: 1 % of requests were sent more than {:.0} ms after they \
         were due. The times above include that.",
        late.p99
    ))
}

fn restarts(run: &Run) -> Option<String> {
    let restarts = grown(run, |node| node.restarts);
    (restarts > 0.0).then(|| format!("{restarts} coupon actors were restarted after a failure."))
}

fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { 100.0 * part as f64 / whole as f64 }
}
