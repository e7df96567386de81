//! Reports: tables of what was measured against its targets, charts, and what follows from them, as one
//! HTML page, as Markdown with pictures, and as JSON. The module knows nothing of what was measured.

mod chart;
mod compare;
mod format;
mod html;
mod markdown;
mod model;
#[cfg(test)]
mod tests;

use std::{fs, io, path::Path};

pub use self::{
    compare::compare,
    model::{
        Bound, Chart, Colour, Event, Fact, Measure, Panel, Report, Row, Section, Series, Table,
        Target, Unit, Verdict,
    },
};

/// File names of a report in its folder.
pub const FILES: [&str; 3] = ["report.html", "report.md", "report.json"];

/// Returns a row as one line of text: name, last figure, target.
#[must_use]
pub fn judged(row: &Row) -> String {
    let figure = row.cells.last().and_then(Option::as_ref);
    let figure = figure.map_or_else(|| "not measured".to_owned(), format::measure);
    let target = row.target.as_ref().map(|target| format!(" ({})", format::target(target)));
    format!("{}: {figure}{}", row.name, target.unwrap_or_default())
}

/// Writes a report to a folder, which is made if it is absent: [`FILES`], and one SVG picture for each
/// panel of each chart.
///
/// # Errors
/// That of the first file that could not be written.
pub fn write(report: &Report, folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let [html_file, markdown_file, json_file] = FILES;
    fs::write(folder.join(html_file), html::page(report))?;
    fs::write(folder.join(markdown_file), markdown::page(report))?;
    let mut json = serde_json::to_string_pretty(report).map_err(io::Error::other)?;
    json.push('\n');
    fs::write(folder.join(json_file), json)?;
    for chart in report.charts() {
        let highest = chart.highest();
        for (index, panel) in chart.panels.iter().enumerate() {
            let file = folder.join(markdown::picture(chart, index));
            fs::write(file, chart::svg(chart, panel, highest))?;
        }
    }
    Ok(())
}

/// Reads the JSON of a report.
///
/// # Errors
/// If the file cannot be read, or holds no report.
pub fn read(file: &Path) -> io::Result<Report> {
    serde_json::from_slice(&fs::read(file)?)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}
