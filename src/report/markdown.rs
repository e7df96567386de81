//! A report as Markdown, with its charts as pictures beside it.

use std::fmt::Write as _;

use super::{
    format,
    model::{Chart, Report, Row, Section, Table, Verdict},
};

/// Returns the file name of a panel's picture.
pub(super) fn picture(chart: &Chart, panel: usize) -> String {
    match panel {
        0 => format!("{}.svg", chart.id),
        _ => format!("{}-{}.svg", chart.id, panel + 1),
    }
}

/// Returns the whole report.
pub(super) fn page(report: &Report) -> String {
    let mut text = format!("# {}\n\n**{}**\n\n", escaped(&report.title), escaped(&report.summary));
    for conclusion in &report.conclusions {
        line(&mut text, &format!("- {}", escaped(conclusion)));
    }
    line(&mut text, "\n## What was tested\n");
    let width = report.tested.iter().map(|fact| fact.values.len()).max().unwrap_or(1);
    line(&mut text, &format!("| |{}", " |".repeat(width)));
    line(&mut text, &format!("|---|{}", "---|".repeat(width)));
    for fact in &report.tested {
        let values: Vec<String> = fact.values.iter().map(|value| escaped(value)).collect();
        line(&mut text, &format!("| {} | {} |", escaped(&fact.name), values.join(" | ")));
    }
    for section in &report.sections {
        add_section(&mut text, section);
    }
    if !report.not_measured.is_empty() {
        line(&mut text, "\n## Not measured\n");
    }
    for reason in &report.not_measured {
        line(&mut text, &format!("- {}", escaped(reason)));
    }
    line(&mut text, &format!("\nMade at {}.", format::time(report.made_at)));
    text
}

fn line(text: &mut String, line: &str) {
    text.push_str(line);
    text.push('\n');
}

fn add_section(text: &mut String, section: &Section) {
    line(text, &format!("\n## {}\n", escaped(&section.title)));
    for sentence in &section.text {
        line(text, &format!("{}\n", escaped(sentence)));
    }
    if let Some(table) = &section.table {
        add_table(text, table);
    }
    for chart in &section.charts {
        line(text, &format!("\n### {}\n", escaped(&chart.title)));
        for (index, panel) in chart.panels.iter().enumerate() {
            if !panel.label.is_empty() {
                line(text, &format!("{}:\n", escaped(&panel.label)));
            }
            line(text, &format!("![{}]({})\n", escaped(&chart.title), picture(chart, index)));
            for (number, event) in panel.events.iter().enumerate() {
                let at = format::clock(panel.started_at, event.at_s);
                line(text, &format!("{}. {at} {}", number + 1, escaped(&event.text)));
            }
        }
    }
}

fn add_table(text: &mut String, table: &Table) {
    let judged = table.rows.iter().any(|row| row.target.is_some());
    let columns: Vec<String> = table.columns.iter().map(|column| escaped(column)).collect();
    let _ = write!(text, "| | {} |", columns.join(" | "));
    line(text, if judged { " target | verdict | |" } else { " |" });
    let _ = write!(text, "|---|{}", "--:|".repeat(columns.len()));
    line(text, if judged { "--:|---|---|" } else { "---|" });
    for row in &table.rows {
        add_row(text, row, judged);
    }
}

fn add_row(text: &mut String, row: &Row, judged: bool) {
    let cells = row.cells.iter().map(|cell| cell.as_ref().map_or("–".to_owned(), format::measure));
    let cells: Vec<String> = cells.map(|cell| escaped(&cell)).collect();
    let _ = write!(text, "| {} | {} |", escaped(&row.name), cells.join(" | "));
    if judged {
        let target = row.target.as_ref().map(format::target).unwrap_or_default();
        let verdict = match row.verdict() {
            Some(Verdict::Met) => "✓ met",
            Some(Verdict::Missed) => "✗ missed",
            None => "",
        };
        let _ = write!(text, " {target} | {verdict} |");
    }
    line(text, &format!(" {} |", escaped(&row.note)));
}

/// Returns text that Markdown shows as it is, also in a table.
fn escaped(text: &str) -> String {
    let mut result = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '\n' => result.push(' '),
            '|' | '*' | '_' | '`' | '<' | '[' | ']' | '\\' => {
                result.push('\\');
                result.push(letter);
            }
            _ => result.push(letter),
        }
    }
    result
}
