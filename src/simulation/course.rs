//! The course of a world: its setup and its acts, as drawn from a seed or read from a file.
//!
//! A file has the setup in its first line and an act with its time in each other line, as JSON. So a
//! course that broke something stays the same when the generator changes.

use std::{collections::BTreeSet, fmt::Write as _};

use serde::{Deserialize, Serialize};

use super::{act::Act, node::Bounds};

/// What a world is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Setup {
    /// Gives the time that each message takes, and which of equals comes first.
    pub(super) seed: u64,
    pub(super) is_embedded: bool,
    pub(super) nodes: usize,
    pub(super) partitions: u32,
    pub(super) campaigns: u8,
    pub(super) users: u8,
    pub(super) limits: Bounds,
    /// Difference of each node's wall clock, in milliseconds.
    pub(super) skew_ms: Vec<i64>,
    /// How much faster each node's clocks run, in millionths.
    pub(super) drift_ppm: Vec<i64>,
    /// Every node starts again once all faults are over.
    pub(super) restarts: bool,
    /// Nodes probe whether they can decide. Courses of earlier worlds do not say it.
    #[serde(default)]
    pub(super) probes: bool,
}

/// An act and its time, in milliseconds since the world's beginning.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Timed {
    pub(super) at: u64,
    #[serde(flatten)]
    pub(super) act: Act,
}

/// Setup and acts, in the order of their times.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Course {
    pub(super) setup: Setup,
    pub(super) acts: Vec<Timed>,
}

/// Why a file is no course.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CourseError {
    /// It has no line.
    #[error("the file is empty: its first line must be a setup")]
    Empty,
    /// A line cannot be read.
    #[error("line {line}: {source}")]
    Line {
        /// Counted from 1.
        line: usize,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// An act names something that the setup does not have.
    #[error("line {line}: {what} is not below {below}, which the setup has")]
    Unknown {
        /// Counted from 1.
        line: usize,
        /// For example "node 7".
        what: String,
        /// The number that exist.
        below: u64,
    },
}

/// Kinds of acts.
pub(crate) type Kinds = BTreeSet<String>;

impl Course {
    /// Reads a course.
    ///
    /// # Errors
    /// If a line is no setup or act, or names a node, a partition or a campaign that is not there.
    pub(crate) fn parse(text: &str) -> Result<Self, CourseError> {
        let mut lines = text.lines().enumerate().filter(|(_, text)| !text.trim().is_empty());
        let failed = |line| move |source| CourseError::Line { line: line + 1, source };
        let (line, setup) = lines.next().ok_or(CourseError::Empty)?;
        let setup: Setup = serde_json::from_str(setup).map_err(failed(line))?;
        let mut acts: Vec<Timed> = Vec::new();
        for (line, text) in lines {
            let timed: Timed = serde_json::from_str(text).map_err(failed(line))?;
            for (what, number, below) in timed.act.names(&setup) {
                if number >= below {
                    let what = format!("{what} {number}");
                    return Err(CourseError::Unknown { line: line + 1, what, below });
                }
            }
            acts.push(timed);
        }
        acts.sort_by_key(|timed| timed.at);
        Ok(Self { setup, acts })
    }

    /// Writes the course as [`Self::parse`] reads it.
    pub(crate) fn text(&self) -> String {
        let mut text = serde_json::to_string(&self.setup).unwrap_or_default();
        for timed in &self.acts {
            let line = serde_json::to_string(timed).unwrap_or_default();
            let _infallible = write!(text, "\n{line}");
        }
        text + "\n"
    }

    /// Number of acts.
    pub(crate) fn acts(&self) -> usize {
        self.acts.len()
    }

    /// Number of faults among the acts.
    pub(crate) fn faults(&self) -> usize {
        self.acts.iter().filter(|timed| !timed.act.is_daily()).count()
    }
}
