//! The parts of a report. What was not measured has no row and no chart.

use serde::{Deserialize, Serialize};

use crate::domain::ids::Timestamp;

/// Most series of one chart; further ones are summed up as "other".
pub(super) const SERIES_MAX: usize = 6;

/// A report of one run, or of two runs side by side.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The heading.
    pub title: String,
    /// When it was made, in milliseconds since 1970, UTC.
    pub made_at: Timestamp,
    /// The most important thing, in one sentence.
    pub summary: String,
    /// Whether nothing missed its target and nothing is broken. None where nothing is judged.
    pub passed: Option<bool>,
    /// What follows from the figures, most important first.
    pub conclusions: Vec<String>,
    /// What was tested: versions, machine, settings.
    pub tested: Vec<Fact>,
    /// The figures.
    pub sections: Vec<Section>,
    /// What has no figure here, with the reason.
    pub not_measured: Vec<String>,
}

impl Report {
    /// Returns every chart, in order.
    pub fn charts(&self) -> impl Iterator<Item = &Chart> {
        self.sections.iter().flat_map(|section| &section.charts)
    }

    /// Returns every row that has a target, in order.
    pub fn judged(&self) -> impl Iterator<Item = (&Row, Verdict)> {
        let rows = self.sections.iter().filter_map(|section| section.table.as_ref());
        rows.flat_map(|table| &table.rows).filter_map(|row| Some((row, row.verdict()?)))
    }
}

/// One thing that was tested, or one setting; a value for each column of a comparison.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Fact {
    /// Its name.
    pub name: String,
    /// Its values; one in the report of one run.
    pub values: Vec<String>,
}

impl Fact {
    /// Returns a fact of one run.
    #[must_use]
    pub fn new(name: &str, value: impl Into<String>) -> Self {
        Self { name: name.to_owned(), values: vec![value.into()] }
    }
}

/// Figures that belong together.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Section {
    /// Its heading.
    pub title: String,
    /// Sentences above its table.
    pub text: Vec<String>,
    /// Its table.
    pub table: Option<Table>,
    /// Its charts, below the table.
    pub charts: Vec<Chart>,
}

/// Rows of figures.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Table {
    /// Headings of the cells. The last column is the one that is judged.
    pub columns: Vec<String>,
    /// The rows.
    pub rows: Vec<Row>,
}

/// A figure in each column, and its target.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Names the figure for programs and comparisons; unique in its report.
    pub id: String,
    /// Names the figure for people.
    pub name: String,
    /// One for each column of the table; None where it was not measured.
    pub cells: Vec<Option<Measure>>,
    /// What the last cell is judged by.
    pub target: Option<Target>,
    /// What a reader has to know about it.
    pub note: String,
}

impl Row {
    /// Judges the last cell. None without a target; what has a target and was not measured missed it.
    #[must_use]
    pub fn verdict(&self) -> Option<Verdict> {
        let target = self.target.as_ref()?;
        Some(match self.cells.last() {
            Some(Some(Measure::Number { value, .. })) if target.is_met_by(*value) => Verdict::Met,
            _ => Verdict::Missed,
        })
    }
}

/// What was measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Measure {
    /// A number.
    Number {
        /// Its value in `unit`.
        value: f64,
        /// Its unit.
        unit: Unit,
    },
    /// Words.
    Text(String),
}

impl Measure {
    /// Returns the number.
    #[must_use]
    pub fn number(&self) -> Option<f64> {
        match self {
            Self::Number { value, .. } => Some(*value),
            Self::Text(_) => None,
        }
    }
}

/// Units of numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// A number of things.
    Count,
    /// A number of things each second.
    PerSecond,
    /// Milliseconds.
    Milliseconds,
    /// Seconds.
    Seconds,
    /// Bytes, shown as MiB.
    Bytes,
    /// A share of 100.
    Percent,
    /// Seconds of processor time each second.
    Cores,
}

/// The rule of a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    /// The figure is at least the target.
    AtLeast,
    /// The figure is at most the target.
    AtMost,
}

/// What a figure has to be.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Target {
    /// On which side of `value` the figure has to be.
    pub bound: Bound,
    /// The target, in the unit of the figure.
    pub value: f64,
    /// The unit.
    pub unit: Unit,
}

impl Target {
    /// Returns whether a figure meets the target.
    #[must_use]
    pub fn is_met_by(&self, figure: f64) -> bool {
        match self.bound {
            Bound::AtLeast => figure >= self.value,
            Bound::AtMost => figure <= self.value,
        }
    }
}

/// How a figure compares with its target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It meets it.
    Met,
    /// It misses it, or was not measured.
    Missed,
}

/// Lines over time: one panel for each run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Chart {
    /// Names its pictures; letters, digits and hyphens; unique in its report.
    pub id: String,
    /// What it shows, with the unit.
    pub title: String,
    /// The unit of its values.
    pub unit: Unit,
    /// One for each run. All have the same scale.
    pub panels: Vec<Panel>,
}

impl Chart {
    /// Returns the highest value of all panels; never below 1, so that an axis has a length.
    #[must_use]
    pub fn highest(&self) -> f64 {
        let series = self.panels.iter().flat_map(|panel| &panel.series);
        let values = series.flat_map(|series| &series.points).map(|point| point.1);
        values.fold(1.0, f64::max)
    }
}

/// One run of a chart.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Panel {
    /// The run; empty where there is only one.
    pub label: String,
    /// The time of second 0.
    pub started_at: Timestamp,
    /// Its lines, at most six are drawn.
    pub series: Vec<Series>,
    /// What happened meanwhile: changes, takeovers, restarts, faults.
    pub events: Vec<Event>,
}

impl Panel {
    /// Returns the series to draw: all, or the first five and the sum of the others at each time.
    pub(super) fn drawn(&self) -> Vec<Series> {
        if self.series.len() <= SERIES_MAX {
            return self.series.clone();
        }
        let (shown, others) = self.series.split_at(SERIES_MAX - 1);
        let mut sums: Vec<(f64, f64)> = Vec::new();
        for (at, value) in others.iter().flat_map(|series| &series.points) {
            match sums.iter_mut().find(|sum| sum.0 == *at) {
                Some(sum) => sum.1 += value,
                None => sums.push((*at, *value)),
            }
        }
        sums.sort_by(|one, two| one.0.total_cmp(&two.0));
        let other = Series { name: "other".to_owned(), colour: Colour::Muted, points: sums };
        shown.iter().cloned().chain([other]).collect()
    }
}

/// One line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Series {
    /// What it counts.
    pub name: String,
    /// Its colour, by meaning.
    pub colour: Colour,
    /// Seconds since the panel's start, and the value.
    pub points: Vec<(f64, f64)>,
}

/// Something that happened at one moment, drawn as a vertical line and listed below the chart.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Seconds since the panel's start.
    pub at_s: f64,
    /// What happened.
    pub text: String,
}

/// Colours, each with one meaning wherever coupond shows something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Colour {
    /// Links, and lines without another meaning.
    Accent,
    /// Issued.
    Issued,
    /// Already issued.
    Already,
    /// Rejected as sold out.
    SoldOut,
    /// Rejected as closed.
    Closed,
    /// Rejected as paused.
    Paused,
    /// Rejected as not open yet.
    NotYet,
    /// Broken, failed.
    Bad,
    /// Degraded, refused.
    Warn,
    /// Everything else.
    Muted,
    /// Writing.
    Text,
    /// Grid lines.
    Line,
}

impl Colour {
    /// Every colour.
    pub(super) const ALL: [Self; 12] = [
        Self::Accent,
        Self::Issued,
        Self::Already,
        Self::SoldOut,
        Self::Closed,
        Self::Paused,
        Self::NotYet,
        Self::Bad,
        Self::Warn,
        Self::Muted,
        Self::Text,
        Self::Line,
    ];

    /// Returns red, green and blue for a light and for a dark background. No two light ones are equal:
    /// the page's style replaces one by the other.
    pub(super) const fn rgb(self) -> (u32, u32) {
        match self {
            Self::Accent => (0x0B_5F_CC, 0x6E_A8_FF),
            Self::Issued => (0x0B_7A_4B, 0x4C_C3_8A),
            Self::Already => (0x3B_6E_A8, 0x7F_B2_E5),
            Self::SoldOut => (0x6B_6F_76, 0x9A_A0_A8),
            Self::Closed => (0x6D_5A_8C, 0xA8_93_CF),
            Self::Paused => (0x8A_5A_00, 0xD9_A4_41),
            Self::NotYet => (0x66_66_2A, 0xB9_B9_6A),
            Self::Bad => (0xB3_26_1E, 0xFF_8A_80),
            Self::Warn => (0x80_53_00, 0xF2_B8_4B),
            Self::Muted => (0x5C_60_68, 0x9A_A0_A7),
            Self::Text => (0x1A_1B_1E, 0xE8_E8_E6),
            Self::Line => (0xDC_DC_D6, 0x32_35_3A),
        }
    }
}
