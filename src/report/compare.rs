//! Two reports side by side.

use super::model::{Chart, Fact, Report, Row, Section, Table};

/// Puts two reports side by side: their figures by the id of the row, their charts on one scale.
/// Verdicts are those of the second.
#[must_use]
pub fn compare(before: &Report, after: &Report, labels: [&str; 2]) -> Report {
    let missed = |report: &Report| {
        let missed = report.judged().filter(|(_, verdict)| *verdict == super::Verdict::Missed);
        missed.count()
    };
    let [one, two] = labels;
    Report {
        title: format!("{} · {one} against {two}", after.title),
        made_at: after.made_at,
        summary: format!(
            "{one}: {} of {} targets missed. {two}: {} of {}.",
            missed(before),
            before.judged().count(),
            missed(after),
            after.judged().count(),
        ),
        passed: after.passed,
        conclusions: [(one, before), (two, after)]
            .into_iter()
            .flat_map(|(label, report)| {
                report.conclusions.iter().map(move |text| format!("{label}: {text}"))
            })
            .collect(),
        tested: facts(before, after, labels),
        sections: sections(before, after, labels),
        not_measured: after.not_measured.clone(),
    }
}

fn facts(before: &Report, after: &Report, labels: [&str; 2]) -> Vec<Fact> {
    let value = |report: &Report, name: &str| {
        let fact = report.tested.iter().find(|fact| fact.name == name);
        fact.and_then(|fact| fact.values.last().cloned()).unwrap_or_else(|| "–".to_owned())
    };
    let mut names: Vec<&String> = Vec::new();
    for fact in after.tested.iter().chain(&before.tested) {
        if !names.contains(&&fact.name) {
            names.push(&fact.name);
        }
    }
    let heading = Fact { name: "run".to_owned(), values: labels.map(str::to_owned).to_vec() };
    let values = names.into_iter().map(|name| Fact {
        name: name.clone(),
        values: vec![value(before, name), value(after, name)],
    });
    [heading].into_iter().chain(values).collect()
}

fn sections(before: &Report, after: &Report, labels: [&str; 2]) -> Vec<Section> {
    let missing = |section: &&Section| !after.sections.iter().any(|its| its.title == section.title);
    let only_before = before.sections.iter().filter(missing);
    let of = |report: &Report, title: &str| {
        report.sections.iter().find(|section| section.title == title).cloned()
    };
    let all = after.sections.iter().chain(only_before);
    all.map(|section| {
        let its_before = of(before, &section.title).unwrap_or_default();
        let its_after = of(after, &section.title).unwrap_or_default();
        Section {
            title: section.title.clone(),
            text: its_after.text,
            table: table(its_before.table, its_after.table, labels),
            charts: charts(its_before.charts, its_after.charts, labels),
        }
    })
    .collect()
}

fn table(before: Option<Table>, after: Option<Table>, labels: [&str; 2]) -> Option<Table> {
    if before.is_none() && after.is_none() {
        return None;
    }
    let before = before.unwrap_or_default().rows;
    let after = after.unwrap_or_default().rows;
    let last = |row: Option<&Row>| row.and_then(|row| row.cells.last().cloned().flatten());
    let only_before = before.iter().filter(|row| !after.iter().any(|its| its.id == row.id));
    let rows = after.iter().chain(only_before).map(|row| Row {
        cells: vec![
            last(before.iter().find(|its| its.id == row.id)),
            last(after.iter().find(|its| its.id == row.id)),
        ],
        ..row.clone()
    });
    Some(Table { columns: labels.map(str::to_owned).to_vec(), rows: rows.collect() })
}

fn charts(before: Vec<Chart>, after: Vec<Chart>, labels: [&str; 2]) -> Vec<Chart> {
    let mut result: Vec<Chart> = Vec::new();
    for (label, charts) in labels.into_iter().zip([before, after]) {
        for mut chart in charts {
            for panel in &mut chart.panels {
                label.clone_into(&mut panel.label);
            }
            match result.iter_mut().find(|its| its.id == chart.id) {
                Some(its) => its.panels.append(&mut chart.panels),
                None => result.push(chart),
            }
        }
    }
    result
}
