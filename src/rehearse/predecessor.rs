//! The load test of the predecessor, as a reference run: what its report says, and nothing else.

use crate::{
    domain::ids::Timestamp,
    report::{Fact, Measure, Report, Row, Section, Table, Unit},
};

/// When its report was written: 2025-06-06.
const WRITTEN: Timestamp = Timestamp(1_749_168_000_000);

/// A figure: the id of its row, its name, value and unit.
type Figure = (&'static str, &'static str, f64, Unit);

/// Figures of its tables and pictures, by the ids of rows in the reports of rehearsals.
const FIGURES: [(&str, &[Figure]); 3] = [
    (
        "Requests",
        &[
            ("requests", "requests", 49_330.0, Unit::Count),
            ("rate", "average rate", 164.0, Unit::PerSecond),
            ("peak_rate", "peak rate", 476.0, Unit::PerSecond),
            ("p50_ms", "response, P50", 5.2, Unit::Milliseconds),
            ("p90_ms", "response, P90", 23.74, Unit::Milliseconds),
            ("p95_ms", "response, P95", 51.0, Unit::Milliseconds),
            ("max_ms", "response, slowest", 944.0, Unit::Milliseconds),
            ("failed", "failed", 0.0, Unit::Count),
        ],
    ),
    (
        "Log",
        &[
            ("messages", "requests in the topic", 49_330.0, Unit::Count),
            ("partitions", "partitions", 1.0, Unit::Count),
            ("lag_at_end", "lag when the load ended", 0.0, Unit::Count),
        ],
    ),
    (
        "Issuance",
        &[
            ("issued", "coupons issued", 9_928.0, Unit::Count),
            ("success", "share of requests that issued a coupon", 20.13, Unit::Percent),
            ("users", "users with a coupon", 9_928.0, Unit::Count),
        ],
    ),
];

/// What its report says of its process, in its own terms.
const PROCESS: [(&str, &str, &str); 4] = [
    ("node_memory", "memory of a node, most", "46 % of its heap"),
    ("node_cpu", "processor of a node, most", "34 %"),
    ("node_threads", "threads of a node, most", "256"),
    ("node_pauses", "pauses of a node", "20 to 80 ms, at most 120 ms"),
];

/// Returns the reference run.
#[must_use]
pub fn predecessor() -> Report {
    let row = |id: &str, name: &str, measure: Measure| Row {
        id: id.to_owned(),
        name: name.to_owned(),
        cells: vec![Some(measure)],
        target: None,
        note: String::new(),
    };
    let section = |title: &str, rows: Vec<Row>| Section {
        title: title.to_owned(),
        table: Some(Table { columns: vec!["measured".to_owned()], rows }),
        ..Section::default()
    };
    let mut sections: Vec<Section> = FIGURES
        .iter()
        .map(|(title, figures)| {
            let rows = figures.iter().map(|(id, name, value, unit)| {
                row(id, name, Measure::Number { value: *value, unit: *unit })
            });
            section(title, rows.collect())
        })
        .collect();
    let process =
        PROCESS.iter().map(|(id, name, text)| row(id, name, Measure::Text((*text).into())));
    sections.push(section("Nodes and engines", process.collect()));
    Report {
        title: "Peak, the predecessor".to_owned(),
        made_at: WRITTEN,
        summary: "49,330 requests in five minutes, none failed.".to_owned(),
        passed: None,
        conclusions: vec![
            "Its 164 requests a second are what the scenario allows: its virtual users send at most \
             49,950 requests in 300 s."
                .to_owned(),
            "Its 20.13 % are users who came back: 49,330 draws from 10,000 users are 9,928 different \
             ones, and as many coupons were issued."
                .to_owned(),
        ],
        tested: vec![
            Fact::new("scenario", "up to 500 virtual users, one request a second each, by k6"),
            Fact::new("system", "one process on the JVM, MySQL, Redis, Kafka with one partition"),
            Fact::new("machine", "4 processors, 4 GB for the process"),
        ],
        sections,
        not_measured: Vec::new(),
    }
}

/// Returns the reference figure of a row, if there is one.
pub(super) fn figure(id: &str) -> Option<Measure> {
    let figures = FIGURES.iter().flat_map(|(_, figures)| *figures);
    let number = figures.filter(|(its, ..)| *its == id);
    let mut number = number.map(|(.., value, unit)| Measure::Number { value: *value, unit: *unit });
    let text = || {
        let text = PROCESS.iter().find(|(its, ..)| *its == id);
        text.map(|(.., text)| Measure::Text((*text).to_owned()))
    };
    number.next().or_else(text)
}
