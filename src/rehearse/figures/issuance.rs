//! The log, and what was issued.

use std::collections::BTreeSet;

use super::{Rows, chart, peak, per_second};
use crate::{
    rehearse::{
        run::{Audited, Run},
        sample::Sample,
    },
    report::{Colour, Section, Series, Unit},
};

pub(super) fn log(run: &Run) -> Section {
    let lag: Vec<(f64, f64)> =
        run.samples.iter().map(|sample| (sample.at_s, sample.lag())).collect();
    let partitions: BTreeSet<&String> = run
        .samples
        .iter()
        .flat_map(|sample| sample.nodes.iter().flatten().flat_map(|node| node.lag.keys()))
        .collect();
    let mut rows = Rows::of(run);
    rows.add("messages", "requests in the topic", messages(run), Unit::Count);
    rows.note("of the campaigns of this rehearsal, as the audit read them");
    rows.add("partitions", "partitions", Some(partitions.len() as f64), Unit::Count);
    rows.add("lag_max", "lag, highest", peak(&lag), Unit::Count);
    rows.note("records that wait for a decision, all partitions together, sampled each second");
    rows.add("lag_at_end", "lag when the load ended", Some(run.lag_at_end), Unit::Count);
    rows.add("lag_gone_s", "no lag after", run.lag_gone_s, Unit::Seconds);
    rows.note("from the end of the load, within the 0.1 s between two looks");
    let series = vec![Series { name: "lag".to_owned(), colour: Colour::Warn, points: lag }];
    Section {
        title: "Log".to_owned(),
        text: Vec::new(),
        table: rows.table(),
        charts: vec![chart(run, "lag", "Records that wait for a decision", Unit::Count, series)],
    }
}

/// Returns the requests that the audit read of this rehearsal's campaigns.
fn messages(run: &Run) -> Option<f64> {
    let Audited::Done(report) = &run.audited else { return None };
    let own = report
        .campaigns
        .iter()
        .filter(|its| run.campaigns.iter().any(|campaign| campaign == its.campaign.as_str()));
    Some(own.map(|campaign| campaign.requests).sum::<u64>() as f64)
}

pub(super) fn issuance(run: &Run) -> Section {
    let outcomes = &run.outcomes;
    let count = |count: u64| Some(count as f64);
    let mut rows = Rows::of(run);
    rows.add("issued", "coupons issued", count(run.issued), Unit::Count);
    rows.note("as the campaign shows it at the end");
    rows.add("told_issued", "answered issued", count(outcomes.issued), Unit::Count);
    rows.add(
        "already_issued",
        "answered already issued",
        count(outcomes.already_issued),
        Unit::Count,
    );
    for (reason, number) in &outcomes.rejected {
        let name = format!("rejected: {}", reason.replace('_', " "));
        rows.add(&format!("rejected_{reason}"), &name, count(*number), Unit::Count);
    }
    for (reason, number) in &outcomes.refused {
        let name = format!("refused at the edge: {}", reason.replace('_', " "));
        rows.add(&format!("refused_{reason}"), &name, count(*number), Unit::Count);
    }
    if outcomes.undecided > 0 {
        rows.add("undecided", "not decided in time", count(outcomes.undecided), Unit::Count);
    }
    let success = 100.0 * outcomes.issued as f64 / (outcomes.requests as f64).max(1.0);
    rows.add("success", "share of requests that issued a coupon", Some(success), Unit::Percent);
    if run.scenario.per_user_limit == 1 && run.campaigns.len() == 1 {
        rows.add("users", "users with a coupon", count(run.issued), Unit::Count);
        rows.note("each user may hold one");
    }
    let issued = per_second(run, |sample| sample.decisions("issued"));
    let decided = decided(run);
    rows.add("decisions_per_second", "decisions a second, average", average(run), Unit::PerSecond);
    rows.add("decisions_peak", "decisions a second, peak", peak(&decided), Unit::PerSecond);
    rows.add("issued_peak", "coupons issued a second, peak", peak(&issued), Unit::PerSecond);
    rows.note("by the nodes' counters");
    Section {
        title: "Issuance".to_owned(),
        text: vec![format!("{}.", outcomes.equation())],
        table: rows.table(),
        charts: vec![chart(
            run,
            "decisions",
            "Decisions each second, by outcome",
            Unit::PerSecond,
            by_outcome(run),
        )],
    }
}

fn statuses(run: &Run) -> Vec<String> {
    let (Some(first), Some(last)) = (run.samples.first(), run.samples.last()) else {
        return Vec::new();
    };
    let mut names = BTreeSet::new();
    names.extend(last.nodes.iter().flatten().flat_map(|node| node.decisions.keys().cloned()));
    // Decisions on definitions are none of requests.
    let grew = |name: &String| last.decisions(name) > first.decisions(name);
    let requests = |name: &String| name != "accepted" && name != "refused" && grew(name);
    names.into_iter().filter(requests).collect()
}

fn decided(run: &Run) -> Vec<(f64, f64)> {
    let names = statuses(run);
    per_second(run, |sample| names.iter().map(|name| sample.decisions(name)).sum())
}

fn average(run: &Run) -> Option<f64> {
    let (first, last) = (run.samples.first()?, run.samples.last()?);
    let names = statuses(run);
    let sum = |sample: &Sample| names.iter().map(|name| sample.decisions(name)).sum::<f64>();
    Some((sum(last) - sum(first)) / run.seconds.max(0.001))
}

fn by_outcome(run: &Run) -> Vec<Series> {
    let mut names = statuses(run);
    names.sort_by_key(|name| (name != "issued", name != "already_issued", name.clone()));
    let series = names.into_iter().map(|name| Series {
        points: per_second(run, |sample| sample.decisions(&name)),
        colour: colour(&name),
        name: name.replace('_', " "),
    });
    series.collect()
}

fn colour(status: &str) -> Colour {
    match status {
        "issued" => Colour::Issued,
        "already_issued" => Colour::Already,
        "sold_out" => Colour::SoldOut,
        "closed" => Colour::Closed,
        "paused" => Colour::Paused,
        "not_open_yet" => Colour::NotYet,
        _ => Colour::Muted,
    }
}
