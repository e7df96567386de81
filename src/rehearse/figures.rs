//! The report of a rehearsal.

use super::{
    judge,
    predecessor::figure,
    run::{Audited, Quantiles, Run},
    sample::{ProcessSample, Sample, latency_ms},
    scenario::{Goal, Kind},
};
use crate::{
    clock::{Clock, SystemClock},
    report::{
        Chart, Colour, Event, Fact, Measure, Panel, Report, Row, Section, Series, Table, Target,
        Unit, Verdict,
    },
};

/// Returns the report of a rehearsal. `tested` is what its caller knows of the system under test.
#[must_use]
pub fn report(run: &Run, tested: Vec<Fact>) -> Report {
    let mut sections = vec![requests(run), log(run), issuance(run), processes(run)];
    sections.extend(stages(run));
    sections.extend(audit(run));
    let mut report = Report {
        title: format!("Rehearsal: {}", run.scenario.title),
        made_at: SystemClock.now(),
        summary: String::new(),
        passed: None,
        conclusions: judge::conclusions(run),
        tested: facts(run, tested),
        sections,
        not_measured: not_measured(run),
    };
    let missed: Vec<String> = report
        .judged()
        .filter(|(_, verdict)| *verdict == Verdict::Missed)
        .map(|(row, _)| row.name.clone())
        .collect();
    let (count, all) = (missed.len(), report.judged().count());
    let broken = judge::is_broken(run);
    report.passed = Some(!broken && missed.is_empty() && !run.cut_short);
    let cut = if run.cut_short { " The load was cut short." } else { "" };
    report.summary = match count {
        _ if broken => {
            format!("Something is broken: see below. {count} of {all} targets missed.{cut}")
        }
        0 => format!("All {all} targets met.{cut}"),
        _ => format!("{count} of {all} targets missed: {}.{cut}", missed.join(", ")),
    };
    report
}

/// Makes the rows of a table.
struct Rows<'a> {
    run: &'a Run,
    rows: Vec<Row>,
}

impl<'a> Rows<'a> {
    fn of(run: &'a Run) -> Self {
        Self { run, rows: Vec::new() }
    }

    fn is_compared(&self) -> bool {
        self.run.scenario.kind == Kind::Peak
    }

    /// Adds what was measured. What was not has no row, unless it has a target.
    fn add(&mut self, id: &str, name: &str, value: Option<f64>, unit: Unit) {
        let goal = Goal::ALL.into_iter().find(|goal| goal.name() == id);
        let target = goal.and_then(|goal| self.run.scenario.target(goal));
        if value.is_some() || target.is_some() {
            self.push(id, name, value.map(|value| Measure::Number { value, unit }), target);
        }
    }

    fn push(&mut self, id: &str, name: &str, measured: Option<Measure>, target: Option<Target>) {
        let mut cells = vec![measured];
        if self.is_compared() {
            cells.insert(0, figure(id));
        }
        let (id, name) = (id.to_owned(), name.to_owned());
        self.rows.push(Row { id, name, cells, target, note: String::new() });
    }

    fn note(&mut self, note: impl Into<String>) {
        if let Some(row) = self.rows.last_mut() {
            row.note = note.into();
        }
    }

    fn table(self) -> Option<Table> {
        let columns: &[&str] =
            if self.is_compared() { &["predecessor", "measured"] } else { &["measured"] };
        let columns = columns.iter().map(|column| (*column).to_owned()).collect();
        Some(Table { columns, rows: self.rows })
    }
}

fn requests(run: &Run) -> Section {
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

/// Returns how fast a count grew between each two samples.
fn per_second(run: &Run, of: impl Fn(&Sample) -> f64) -> Vec<(f64, f64)> {
    let pairs = run.samples.windows(2).filter(|pair| {
        let heard = pair.iter().all(|sample| sample.nodes.iter().all(Option::is_some));
        // The samples in quick succession at the end count too little for a rate.
        heard && pair[1].at_s - pair[0].at_s > 0.5
    });
    pairs
        .map(|pair| {
            let seconds = pair[1].at_s - pair[0].at_s;
            (pair[1].at_s, (of(&pair[1]) - of(&pair[0])).max(0.0) / seconds)
        })
        .collect()
}

fn peak(points: &[(f64, f64)]) -> Option<f64> {
    points.iter().map(|point| point.1).reduce(f64::max)
}

fn log(run: &Run) -> Section {
    let lag: Vec<(f64, f64)> =
        run.samples.iter().map(|sample| (sample.at_s, sample.lag())).collect();
    let partitions: std::collections::BTreeSet<&String> = run
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

fn issuance(run: &Run) -> Section {
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
    let mut names = std::collections::BTreeSet::new();
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

/// A process over time.
struct Process {
    id: String,
    name: String,
    colour: Colour,
    samples: Vec<(f64, ProcessSample)>,
}

fn all_processes(run: &Run) -> Vec<Process> {
    let nodes = (0..run.nodes).map(|index| Process {
        id: if run.nodes == 1 { "node".to_owned() } else { format!("node_{}", index + 1) },
        name: if run.nodes == 1 { "node".to_owned() } else { format!("node {}", index + 1) },
        colour: if index == 0 { Colour::Accent } else { Colour::Issued },
        samples: samples(run, |sample| sample.nodes.get(index)?.as_ref().map(|node| node.process)),
    });
    let engines = run.engines.iter().enumerate().map(|(index, name)| Process {
        id: name.to_lowercase(),
        name: name.clone(),
        colour: if index == 0 { Colour::Warn } else { Colour::Closed },
        samples: samples(run, |sample| *sample.engines.get(index)?),
    });
    nodes.chain(engines).collect()
}

fn samples(run: &Run, of: impl Fn(&Sample) -> Option<ProcessSample>) -> Vec<(f64, ProcessSample)> {
    run.samples.iter().filter_map(|sample| Some((sample.at_s, of(sample)?))).collect()
}

fn processes(run: &Run) -> Section {
    let all = all_processes(run);
    let mut rows = Rows::of(run);
    if rows.is_compared() {
        for (id, name) in [
            ("node_memory", "memory, most"),
            ("node_cpu", "processor, most"),
            ("node_threads", "threads, most"),
            ("node_pauses", "pauses"),
        ] {
            rows.push(id, &format!("the predecessor's process: {name}"), None, None);
        }
    }
    let (mut cpu, mut memory) = (Vec::new(), Vec::new());
    for process in &all {
        let Process { id, name, colour, samples } = process;
        let most = |of: fn(&ProcessSample) -> f64| {
            samples.iter().map(|(_, sample)| of(sample)).reduce(f64::max)
        };
        let used = cores(samples);
        rows.add(
            &format!("{id}_memory"),
            &format!("{name}: memory, most"),
            most(|it| it.memory),
            Unit::Bytes,
        );
        rows.add(
            &format!("{id}_cpu_mean"),
            &format!("{name}: processor, average"),
            mean(&used),
            Unit::Cores,
        );
        rows.add(
            &format!("{id}_cpu"),
            &format!("{name}: processor, most"),
            peak(&used),
            Unit::Cores,
        );
        rows.add(
            &format!("{id}_threads"),
            &format!("{name}: threads, most"),
            most(|it| it.threads),
            Unit::Count,
        );
        let resident = samples.iter().map(|(at, sample)| (*at, sample.memory)).collect();
        cpu.push(Series { name: name.clone(), colour: *colour, points: used });
        memory.push(Series { name: name.clone(), colour: *colour, points: resident });
    }
    Section {
        title: "Nodes and engines".to_owned(),
        text: Vec::new(),
        table: rows.table(),
        charts: vec![
            chart(run, "cpu", "Processors used", Unit::Cores, cpu),
            chart(run, "memory", "Resident memory, MiB", Unit::Bytes, memory),
        ],
    }
}

/// Returns the processors used between each two samples that are about a second apart.
fn cores(samples: &[(f64, ProcessSample)]) -> Vec<(f64, f64)> {
    let pairs = samples.windows(2).filter(|pair| pair[1].0 - pair[0].0 > 0.5);
    pairs
        .map(|pair| {
            let used = (pair[1].1.cpu_s - pair[0].1.cpu_s).max(0.0);
            (pair[1].0, used / (pair[1].0 - pair[0].0))
        })
        .collect()
}

fn mean(points: &[(f64, f64)]) -> Option<f64> {
    let sum: f64 = points.iter().map(|point| point.1).sum();
    (!points.is_empty()).then(|| sum / points.len() as f64)
}

fn stages(run: &Run) -> Option<Section> {
    if run.stages.len() < 2 {
        return None;
    }
    let mut rows = Vec::new();
    for (index, (figures, stage)) in run.stages.iter().zip(&run.scenario.stages).enumerate() {
        let number = index + 1;
        let rate = if stage.from == stage.to {
            format!("{}/s", stage.to)
        } else {
            format!("{} to {}/s", stage.from, stage.to)
        };
        let ms = |value| Some(Measure::Number { value, unit: Unit::Milliseconds });
        let count = |value: u64| Some(Measure::Number { value: value as f64, unit: Unit::Count });
        rows.push(Row {
            id: format!("stage_{number}"),
            name: format!("{number}: {rate} for {} s", stage.seconds),
            cells: vec![
                count(figures.due),
                figures.decision.and_then(|its| ms(its.p50)),
                figures.decision.and_then(|its| ms(its.p99)),
                figures.decision.and_then(|its| ms(its.max)),
                count(figures.failed),
            ],
            target: None,
            note: String::new(),
        });
    }
    let columns = ["requests", "P50", "P99", "slowest", "failed"].map(str::to_owned).to_vec();
    Some(Section {
        title: "Stages".to_owned(),
        text: vec![
            "From the moment a request was due until its client knew the decision.".to_owned(),
        ],
        table: Some(Table { columns, rows }),
        charts: Vec::new(),
    })
}

fn audit(run: &Run) -> Option<Section> {
    let Audited::Done(report) = &run.audited else { return None };
    let verdict = if report.holds() { "no invariant broken" } else { "invariants broken" };
    let mut text = vec![format!(
        "`coupond audit` read log and store by itself and replayed them with its own model: {verdict}."
    )];
    text.extend(
        report
            .findings
            .iter()
            .take(20)
            .map(|finding| serde_json::to_string(finding).unwrap_or_default()),
    );
    text.extend(report.unread.iter().map(|unread| format!("Not audited: {unread}")));
    let mut rows = Vec::new();
    let mut add = |id: &str, name: &str, value: u64| {
        let value = Measure::Number { value: value as f64, unit: Unit::Count };
        let (id, name) = (id.to_owned(), name.to_owned());
        rows.push(Row { id, name, cells: vec![Some(value)], target: None, note: String::new() });
    };
    let sum = |of: fn(&crate::audit::CampaignReport) -> u64| -> u64 {
        let own = report
            .campaigns
            .iter()
            .filter(|its| run.campaigns.iter().any(|campaign| campaign == its.campaign.as_str()));
        own.map(of).sum()
    };
    add("audit_findings", "findings", report.broken.iter().map(|kind| kind.count).sum());
    add("audit_records", "records read", report.partitions.iter().map(|its| its.records).sum());
    add("audit_requests", "requests of this rehearsal", sum(|its| its.requests));
    add("audit_issued", "coupons of this rehearsal, by the log", sum(|its| u64::from(its.issued)));
    add("audit_rows", "coupon rows of this rehearsal", sum(|its| its.rows));
    add("audit_already", "already issued, by the log", sum(|its| its.already_issued));
    if let Some(answers) = &report.answers {
        add("audit_answers", "answers of clients checked", u64::from(answers.lines));
    }
    let table = Table { columns: vec!["measured".to_owned()], rows };
    Some(Section { title: "Audit".to_owned(), text, table: Some(table), charts: Vec::new() })
}

fn facts(run: &Run, tested: Vec<Fact>) -> Vec<Fact> {
    let scenario = &run.scenario;
    let mut facts = vec![
        Fact::new(
            "scenario",
            format!("{} ({}): {}", scenario.name, scenario.kind.name(), scenario.about),
        ),
        Fact::new("load", load(run)),
        Fact::new("took", format!("{:.1} s", run.seconds)),
        Fact::new(
            "campaigns",
            format!(
                "{} ({} in all), not listed, quota {}, {} for each user",
                run.campaigns.first().map_or("–", String::as_str),
                run.campaigns.len(),
                scenario.quota,
                scenario.per_user_limit,
            ),
        ),
    ];
    facts.extend(tested);
    facts
}

fn load(run: &Run) -> String {
    let stages: Vec<String> = run
        .scenario
        .stages
        .iter()
        .map(|stage| format!("{} s: {} → {}", stage.seconds, stage.from, stage.to))
        .collect();
    let (how, unit) = match run.scenario.kind {
        Kind::Peak => ("closed loop by k6".to_owned(), "virtual users"),
        _ => (format!("open loop, seed {}", run.seed), "requests a second"),
    };
    let users = match run.scenario.users {
        Some(users) => format!("{users} users, drawn at random"),
        None => "another user for each request".to_owned(),
    };
    format!("{how}; {users}; {unit}: {}", stages.join(", "))
}

fn not_measured(run: &Run) -> Vec<String> {
    let mut reasons = Vec::new();
    if let Audited::Not(reason) = &run.audited {
        reasons.push(format!("Audit, and the number of requests in the topic: {reason}."));
    }
    if run.engines.is_empty() {
        reasons.push(
            "Memory, processor and threads of the engines: they are known with --local only."
                .to_owned(),
        );
    }
    reasons.push(
        "Pauses: nodes have no garbage collector, and engines report theirs in logs of their own."
            .to_owned(),
    );
    if run.scenario.kind == Kind::Peak {
        reasons.push("Latency by second as clients see it: k6 keeps it for the whole run; the chart is of the nodes' histogram.".to_owned());
    }
    reasons
}

/// Returns a chart of one run, with a line where each stage begins and where campaigns open.
fn chart(run: &Run, id: &str, title: &str, unit: Unit, series: Vec<Series>) -> Chart {
    let mut events = Vec::new();
    let mut at_s = 0.0;
    for (index, stage) in run.scenario.stages.iter().enumerate() {
        if index > 0 {
            let unit = if run.scenario.kind == Kind::Peak { "virtual users" } else { "a second" };
            events
                .push(Event { at_s, text: format!("stage {}: to {} {unit}", index + 1, stage.to) });
        }
        at_s += stage.seconds;
    }
    if let Some(after) = run.scenario.opens_after {
        events.push(Event { at_s: after.as_secs_f64(), text: "the campaign opens".to_owned() });
    }
    events.push(Event { at_s, text: "end of the load".to_owned() });
    let panel = Panel { label: String::new(), started_at: run.started_at, series, events };
    Chart { id: id.to_owned(), title: title.to_owned(), unit, panels: vec![panel] }
}
