//! Names of settings: as TOML keys, as environment variables, and what a misspelt one may mean.

use super::{
    problem::{ConfigProblem, Origin},
    settings::{KEYS, Key},
};

/// First part of the environment variables that set something.
pub(super) const PREFIX: &str = "COUPOND_";

/// Longest name for which a similar one is looked up; no setting has a name half as long.
const NAME_BYTES_MAX: usize = 100;

impl Key {
    /// Returns the environment variable of this key.
    pub(super) fn variable(&self) -> String {
        format!("{PREFIX}{}", self.name.to_uppercase().replace('.', "__"))
    }

    /// Splits the name into table and key; the table of a key at the top is empty.
    pub(super) fn split(&self) -> (&'static str, &'static str) {
        self.name.split_once('.').unwrap_or(("", self.name))
    }
}

/// Finds a key by its whole name.
pub(super) fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

/// Finds a key by its environment variable.
pub(super) fn find_variable(variable: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.variable() == variable)
}

/// Returns the whole names of a table's keys; none if there is no such table.
pub(super) fn of_table(table: &str) -> Vec<&'static str> {
    let is_inside = |name: &str| name.strip_prefix(table).is_some_and(|rest| rest.starts_with('.'));
    let inside = KEYS.iter().map(|key| key.name);
    inside.filter(|name| !table.is_empty() && is_inside(name)).collect()
}

/// Describes a key that no setting has.
pub(super) fn unknown_key(name: &str, origin: Origin) -> ConfigProblem {
    let inside = of_table(name);
    let fault = if inside.is_empty() { "unknown setting" } else { "is a table, not a setting" };
    let table = name.split_once('.').map_or("", |(table, _)| table);
    let siblings = of_table(table);
    let remedy = if !inside.is_empty() {
        format!("set one of {}", inside.join(", "))
    } else if let Some(near) = nearest(name, KEYS.iter().map(|key| key.name.to_owned())) {
        format!("did you mean {near}?")
    } else if !siblings.is_empty() {
        format!("the settings of this table are {}", siblings.join(", "))
    } else {
        "run `coupond print-config --defaults` for a list of all settings".to_owned()
    };
    ConfigProblem { key: name.to_owned(), fault: fault.to_owned(), remedy, origin }
}

/// Describes an environment variable that has our prefix but sets nothing.
pub(super) fn unknown_variable(name: &str, origin: Origin) -> ConfigProblem {
    let remedy = match nearest(name, KEYS.iter().map(Key::variable)) {
        Some(near) => format!("did you mean {near}?"),
        None => "unset it, or name a setting: COUPOND_API__LISTEN sets api.listen".to_owned(),
    };
    let fault = "unknown environment variable".to_owned();
    ConfigProblem { key: name.to_owned(), fault, remedy, origin }
}

/// Returns the candidate that `name` was probably meant to be: one with a similar spelling, else
/// one with the same last level.
fn nearest(name: &str, candidates: impl Iterator<Item = String>) -> Option<String> {
    fn last(name: &str) -> &str {
        let name = name.rsplit('.').next().unwrap_or(name);
        name.rsplit("__").next().unwrap_or(name)
    }
    if name.len() > NAME_BYTES_MAX {
        return None;
    }
    let allowed = (name.len() / 5).clamp(1, 3);
    // A candidate that only shares the last level comes after any similar spelling.
    let distance = |candidate: &str| {
        let edits = strsim::levenshtein(name, candidate);
        let is_near = edits <= allowed || last(candidate) == last(name);
        is_near.then_some((edits > allowed, edits))
    };
    let near = candidates.filter_map(|candidate| Some((distance(&candidate)?, candidate)));
    near.min().map(|(_, candidate)| candidate)
}
