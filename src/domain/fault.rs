//! Broken rules of a campaign's terms, as callers see them.

/// A rule that a campaign's terms break.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The field, as API and command line name it.
    pub field: &'static str,
    /// The rule.
    pub rule: String,
    /// What the caller should do.
    pub remedy: String,
}

impl Fault {
    pub(crate) fn new(
        field: &'static str,
        rule: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { field, rule: rule.into(), remedy: remedy.into() }
    }
}
