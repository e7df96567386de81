//! Reports: what their pages say, in each of the three forms.

use super::*;
use crate::domain::ids::Timestamp;

fn number(value: f64) -> Option<Measure> {
    Some(Measure::Number { value, unit: Unit::Milliseconds })
}

fn row(id: &str, value: Option<Measure>, at_most: Option<f64>) -> Row {
    let target =
        at_most.map(|value| Target { bound: Bound::AtMost, value, unit: Unit::Milliseconds });
    Row { id: id.into(), name: id.into(), cells: vec![value], target, note: String::new() }
}

fn series(name: &str, points: &[(f64, f64)]) -> Series {
    Series { name: name.into(), colour: Colour::Issued, points: points.to_vec() }
}

fn report(p95: f64, series: Vec<Series>) -> Report {
    let panel = Panel {
        label: String::new(),
        started_at: Timestamp(0),
        series,
        events: vec![Event { at_s: 1.0, text: "node <2> killed".into() }],
    };
    let chart = Chart {
        id: "latency".into(),
        title: "Latency, ms".into(),
        unit: Unit::Milliseconds,
        panels: vec![panel],
    };
    let rows = vec![row("p95", number(p95), Some(20.0)), row("max", number(944.0), None)];
    Report {
        title: "A & B".into(),
        made_at: Timestamp(1_000),
        summary: "1 of 1 targets met.".into(),
        passed: Some(true),
        conclusions: vec!["P95 was below its target.".into()],
        tested: vec![Fact::new("version", "0.1.0 | x")],
        sections: vec![Section {
            title: "Requests".into(),
            text: vec![],
            table: Some(Table { columns: vec!["measured".into()], rows }),
            charts: vec![chart],
        }],
        not_measured: vec!["Pauses: nothing reports them.".into()],
    }
}

#[test]
fn a_row_is_judged_by_its_target_alone() {
    assert_eq!(row("a", number(20.0), Some(20.0)).verdict(), Some(Verdict::Met));
    assert_eq!(row("a", number(20.1), Some(20.0)).verdict(), Some(Verdict::Missed));
    assert_eq!(row("a", number(20.1), None).verdict(), None);
    assert_eq!(row("a", None, Some(20.0)).verdict(), Some(Verdict::Missed), "not measured");
}

#[test]
fn a_report_is_read_back_from_its_json() {
    let folder = tempfile::tempdir().unwrap();
    let written = report(11.0, vec![series("P95", &[(0.0, 3.5), (2.0, 11.0)])]);
    write(&written, folder.path()).unwrap();
    assert_eq!(read(&folder.path().join("report.json")).unwrap(), written);
    let picture = fs::read_to_string(folder.path().join("latency.svg")).unwrap();
    assert!(picture.contains("<svg") && picture.contains("00:00:02Z"), "{picture}");
}

#[test]
fn pages_show_words_as_they_are() {
    let report = report(11.0, vec![series("P95", &[(0.0, 3.5)])]);
    let page = html::page(&report);
    assert!(page.contains("A &amp; B") && page.contains("node &lt;2&gt; killed"), "{page}");
    let page = markdown::page(&report);
    assert!(page.contains("| version | 0.1.0 \\| x |"), "{page}");
    assert!(page.contains("1. 00:00:01Z node \\<2> killed"), "{page}");
}

#[test]
fn a_page_needs_nothing_but_itself() {
    let page = html::page(&report(11.0, vec![series("P95", &[(0.0, 3.5)])]));
    for word in ["<script", "http://", "src=", "@import", "url("] {
        // A name space is no address that is fetched.
        let page = page.replace("http://www.w3.org/2000/svg", "");
        assert!(!page.contains(word), "{word}");
    }
}

#[test]
fn a_seventh_line_is_summed_up() {
    let lines: Vec<Series> =
        (0..8).map(|number| series(&format!("p{number}"), &[(0.0, 1.0), (1.0, 2.0)])).collect();
    let report = report(11.0, lines);
    let drawn = report.sections[0].charts[0].panels[0].drawn();
    let names: Vec<&str> = drawn.iter().map(|series| series.name.as_str()).collect();
    assert_eq!(names, ["p0", "p1", "p2", "p3", "p4", "other"]);
    assert_eq!(drawn[5].points, [(0.0, 3.0), (1.0, 6.0)]);
}

#[test]
fn two_reports_stand_side_by_side() {
    let before = report(25.0, vec![series("P95", &[(0.0, 25.0)])]);
    let after = report(11.0, vec![series("P95", &[(0.0, 11.0)])]);
    let both = compare(&before, &after, ["before", "after"]);
    let table = both.sections[0].table.as_ref().unwrap();
    assert_eq!(table.columns, ["before", "after"]);
    assert_eq!(table.rows[0].cells, [number(25.0), number(11.0)]);
    assert_eq!(table.rows[0].verdict(), Some(Verdict::Met), "the second is judged");
    let chart = both.charts().next().unwrap();
    let labels: Vec<&str> = chart.panels.iter().map(|panel| panel.label.as_str()).collect();
    assert_eq!(labels, ["before", "after"]);
    assert_eq!(chart.highest(), 25.0);
    assert!(html::page(&both).contains("-56.0 %"));
}
