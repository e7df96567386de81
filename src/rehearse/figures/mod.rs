//! The report of a rehearsal.

mod issuance;
mod processes;
mod requests;
mod stages;

use self::{
    issuance::{issuance, log},
    processes::processes,
    requests::requests,
    stages::{audit, stages},
};
use super::{
    judge,
    predecessor::figure,
    run::{Audited, Run},
    sample::Sample,
    scenario::{Goal, Kind},
};
use crate::{
    clock::{Clock, SystemClock},
    report::{
        Chart, Event, Fact, Measure, Panel, Report, Row, Series, Table, Target, Unit, Verdict,
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
            // The predecessor was one process, which stands beside the first node.
            cells.insert(0, figure(&id.replace("node_1_", "node_")));
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

fn facts(run: &Run, tested: Vec<Fact>) -> Vec<Fact> {
    let scenario = &run.scenario;
    let mut facts = vec![
        Fact::new(
            "scenario",
            format!("{} ({}). {}", scenario.name, scenario.kind.name(), scenario.about),
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
            "Memory, processor, threads and pauses of the engines: they are known with --local only."
                .to_owned(),
        );
    }
    reasons.push("Pauses of nodes: they have no garbage collector and report none.".to_owned());
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
