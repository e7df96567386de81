//! A report as one HTML page: no script, nothing from elsewhere, readable on paper.

use std::fmt::Write as _;

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::{
    chart, format,
    model::{Chart, Colour, Report, Row, Section, Table, Verdict},
};

/// The style of the page; colours of charts follow in [`style`].
const STYLE: &str = include_str!("page.css");

/// Returns the whole page.
pub(super) fn page(report: &Report) -> String {
    let body = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (report.title) " · coupond" }
                style { (PreEscaped(style())) }
            }
            body { main {
                header {
                    p.product { "coupond" }
                    h1 { (report.title) }
                    p.time { "Made at " time { (format::time(report.made_at)) } }
                }
                (summary(report))
                (tested(report))
                @for section in &report.sections { (one_section(section)) }
                @if !report.not_measured.is_empty() {
                    section {
                        h2 { "Not measured" }
                        ul { @for reason in &report.not_measured { li { (reason) } } }
                    }
                }
            } }
        }
    };
    body.into_string()
}

fn summary(report: &Report) -> Markup {
    let (class, mark) = match report.passed {
        Some(true) => ("summary met", "✓ "),
        Some(false) => ("summary missed", "✗ "),
        None => ("summary", ""),
    };
    html! {
        section class=(class) {
            p.verdict { (mark) (report.summary) }
            @if !report.conclusions.is_empty() {
                ul { @for text in &report.conclusions { li { (text) } } }
            }
        }
    }
}

fn tested(report: &Report) -> Markup {
    html! {
        section {
            h2 { "What was tested" }
            div.wide { table.facts { tbody {
                @for fact in &report.tested {
                    tr {
                        th scope="row" { (fact.name) }
                        @for value in &fact.values { td { (value) } }
                    }
                }
            } } }
        }
    }
}

fn one_section(section: &Section) -> Markup {
    html! {
        section {
            h2 { (section.title) }
            @for sentence in &section.text { p { (sentence) } }
            @if let Some(table) = &section.table { (figures(table)) }
            @for chart in &section.charts { (drawn(chart)) }
        }
    }
}

fn figures(table: &Table) -> Markup {
    let judged = table.rows.iter().any(|row| row.target.is_some());
    let noted = table.rows.iter().any(|row| !row.note.is_empty());
    let compared = table.columns.len() == 2;
    html! {
        div.wide { table.figures {
            thead { tr {
                th scope="col" { span.hidden { "Figure" } }
                @for column in &table.columns { th.number scope="col" { (column) } }
                @if compared { th.number scope="col" { "change" } }
                @if judged {
                    th.number scope="col" { "target" }
                    th scope="col" { "verdict" }
                }
                @if noted { th scope="col" { span.hidden { "Note" } } }
            } }
            tbody { @for row in &table.rows { (one_row(row, compared, judged, noted)) } }
        } }
    }
}

fn one_row(row: &Row, compared: bool, judged: bool, noted: bool) -> Markup {
    html! {
        tr {
            th scope="row" { (row.name) }
            @for cell in &row.cells {
                td.number { (cell.as_ref().map_or("–".to_owned(), format::measure)) }
            }
            @if compared { td.number.quiet { (change(row)) } }
            @if judged {
                td.number { (row.target.as_ref().map(format::target).unwrap_or_default()) }
                @match row.verdict() {
                    Some(Verdict::Met) => td.met { "✓ met" },
                    Some(Verdict::Missed) => td.missed { "✗ missed" },
                    None => td {},
                }
            }
            @if noted { td.note { (row.note) } }
        }
    }
}

/// Returns how the second cell differs from the first, if both are numbers.
fn change(row: &Row) -> String {
    let number = |index: usize| row.cells.get(index)?.as_ref()?.number();
    match (number(0), number(1)) {
        (Some(before), Some(after)) => format::change(before, after),
        _ => String::new(),
    }
}

fn drawn(chart: &Chart) -> Markup {
    let highest = chart.highest();
    html! {
        figure {
            figcaption { (chart.title) }
            div class=(if chart.panels.len() > 1 { "panels two" } else { "panels" }) {
                @for panel in &chart.panels {
                    div {
                        @if !panel.label.is_empty() { p.panel { (panel.label) } }
                        (PreEscaped(chart::svg(chart, panel, highest)))
                        @if !panel.events.is_empty() {
                            ol.events { @for event in &panel.events {
                                li {
                                    time { (format::clock(panel.started_at, event.at_s)) }
                                    " " (event.text)
                                }
                            } }
                        }
                    }
                }
            }
        }
    }
}

/// Returns the style of the page. Charts name the light colours; on a dark background each is replaced
/// by the dark one of the same meaning.
fn style() -> String {
    let mut dark = String::new();
    for colour in Colour::ALL {
        let (light, its) = colour.rgb();
        let _ = writeln!(
            dark,
            "    svg [fill=\"#{light:06X}\"] {{ fill: #{its:06x} }} \
             svg [stroke=\"#{light:06X}\"] {{ stroke: #{its:06x} }}"
        );
    }
    format!("{STYLE}\n@media screen and (prefers-color-scheme: dark) {{\n{dark}}}\n")
}
