//! The stages of an open loop, and the audit.

use crate::{
    audit::CampaignReport,
    rehearse::run::{Audited, Run},
    report::{Measure, Row, Section, Table, Unit},
};

pub(super) fn stages(run: &Run) -> Option<Section> {
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

pub(super) fn audit(run: &Run) -> Option<Section> {
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
    let sum = |of: fn(&CampaignReport) -> u64| -> u64 {
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
        add("audit_answers", "answers of clients checked", answers.lines);
    }
    let table = Table { columns: vec!["measured".to_owned()], rows };
    Some(Section { title: "Audit".to_owned(), text, table: Some(table), charts: Vec::new() })
}
