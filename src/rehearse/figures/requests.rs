//! Requests and their times.

use super::{Rows, chart, peak, per_second};
use crate::{
    rehearse::{
        run::{Quantiles, Run},
        sample::{Sample, latency_ms},
        scenario::Kind,
    },
    report::{Colour, Section, Series, Unit},
};

pub(super) fn requests(run: &Run) -> Section {
    let requests = run.outcomes.requests as f64;
    let of = |pick: fn(&Quantiles) -> f64| run.response.as_ref().map(pick);
    let decided = |pick: fn(&Quantiles) -> f64| run.decision.as_ref().map(pick);
    let mut rows = Rows::of(run);
    rows.add("requests", "requests", Some(requests), Unit::Count);
    rows.add("rate", "average rate", Some(requests / run.seconds.max(0.001)), Unit::PerSecond);
    rows.add("peak_rate", "peak rate", peak(&rates(run)), Unit::PerSecond);
    rows.note("highest of one second");
    rows.add("p50_ms", "response, P50", of(|it| it.p50), Unit::Milliseconds);
    rows.note(response_note(run.scenario.kind));
    rows.add("p90_ms", "response, P90", of(|it| it.p90), Unit::Milliseconds);
    rows.add("p95_ms", "response, P95", of(|it| it.p95), Unit::Milliseconds);
    rows.add("p99_ms", "response, P99", of(|it| it.p99), Unit::Milliseconds);
    rows.add("max_ms", "response, slowest", of(|it| it.max), Unit::Milliseconds);
    rows.add("decision_p50_ms", "decision known, P50", decided(|it| it.p50), Unit::Milliseconds);
    rows.note("until the client knows what became of its request");
    rows.add("decision_p99_ms", "decision known, P99", decided(|it| it.p99), Unit::Milliseconds);
    rows.add(
        "decision_max_ms",
        "decision known, slowest",
        decided(|it| it.max),
        Unit::Milliseconds,
    );
    rows.add("failed", "failed", Some(run.outcomes.failures() as f64), Unit::Count);
    rows.note("no answer that says what became of the request");
    rows.add("late_p99_ms", "sent late, P99", run.late.map(|it| it.p99), Unit::Milliseconds);
    if run.late.is_some() {
        rows.note("by the load generator; included in the times above");
    }
    Section {
        title: "Requests".to_owned(),
        text: Vec::new(),
        table: rows.table(),
        charts: vec![
            chart(
                run,
                "rate",
                "Requests each second",
                Unit::PerSecond,
                vec![Series {
                    name: "requests".to_owned(),
                    colour: Colour::Accent,
                    points: rates(run),
                }],
            ),
            chart(run, "latency", latency_title(run), Unit::Milliseconds, latencies(run)),
        ],
    }
}

fn response_note(kind: Kind) -> &'static str {
    if kind == Kind::Peak {
        "POST until 202: the request is durable in the log"
    } else {
        "from the moment the request was due until the response to its POST, which waits for the decision"
    }
}

fn latency_title(run: &Run) -> &'static str {
    if run.by_second.is_empty() {
        "From request to decision, ms (upper bounds of the nodes' histogram)"
    } else {
        "Response, ms, by the second in which requests were due"
    }
}

/// Returns the requests of each second: those that were due, else those that the nodes counted.
fn rates(run: &Run) -> Vec<(f64, f64)> {
    if run.by_second.is_empty() {
        return per_second(run, Sample::requests);
    }
    let seconds = run.by_second.iter().enumerate();
    seconds.map(|(second, (due, _))| (second as f64, *due as f64)).collect()
}

fn latencies(run: &Run) -> Vec<Series> {
    let line = |name: &str, colour, points| Series { name: name.to_owned(), colour, points };
    let (mut p50, mut p99) = (Vec::new(), Vec::new());
    if run.by_second.is_empty() {
        for pair in run.samples.windows(2) {
            if let Some(value) = latency_ms(&pair[0], &pair[1], 0.5) {
                p50.push((pair[1].at_s, value));
            }
            if let Some(value) = latency_ms(&pair[0], &pair[1], 0.99) {
                p99.push((pair[1].at_s, value));
            }
        }
    }
    for (second, (_, times)) in run.by_second.iter().enumerate() {
        if let Some((its_p50, its_p99)) = times {
            p50.push((second as f64, *its_p50));
            p99.push((second as f64, *its_p99));
        }
    }
    vec![line("P50", Colour::Accent, p50), line("P99", Colour::Warn, p99)]
}
