//! Prints the effective settings, and the documented file of all settings.

use std::fmt::Write;

use super::{
    load::Loaded,
    problem::Origin,
    settings::{Config, KEYS, Key},
    value::Shown,
};

/// Columns of the documented file.
const COLUMNS: usize = 100;

const HEADER: &str = "\
# Settings of coupond. Lines that are commented out show the default.
#
# Environment variables override this file: api.listen is COUPOND_API__LISTEN. The option
# --set key=value on the command line overrides both.
# Durations are a whole number and a unit: \"250ms\", \"1s\", \"5m\", \"12h\", \"7d\".
# `coupond check-config` reports every problem; `coupond print-config` prints the effective settings.
# The log level is not a setting but the environment variable COUPOND_LOG (or RUST_LOG): \"info\" by
# default, or for example \"warn\" or \"info,coupond=debug\".
";

impl Loaded {
    /// Prints the effective settings as TOML, each with its origin; secrets are hidden.
    #[must_use]
    pub fn print(&self) -> String {
        let mut text = String::new();
        let mut table = "";
        for key in KEYS {
            open_table(&mut text, &mut table, key);
            let (_, name) = key.split();
            let origin = self.origins.of(key.name);
            let shown = match (key.show)(&self.config) {
                Shown::Value(value) => format!("{name} = {value} # {origin}"),
                Shown::Secret { is_set: true } => format!("# {name} is set and hidden # {origin}"),
                Shown::Secret { is_set: false } => format!("# {name} is not set # {origin}"),
            };
            text.push_str(&shown);
            text.push('\n');
        }
        text
    }

    /// Sums up the sources in one sentence.
    #[must_use]
    pub fn summary(&self) -> String {
        let (mut in_environment, mut in_set) = (0, 0);
        for key in KEYS {
            match self.origins.of(key.name) {
                Origin::Environment(_) => in_environment += 1,
                Origin::Set => in_set += 1,
                Origin::Default | Origin::File { .. } | Origin::Named => {}
            }
        }
        let file = match &self.file {
            Some(file) => file.display().to_string(),
            None => "built-in defaults".to_owned(),
        };
        format!("{file}, {in_environment} from the environment, {in_set} by --set: no problem")
    }
}

/// Prints every setting with its meaning, rule and default, as a TOML file that changes nothing.
#[must_use]
pub fn documented() -> String {
    let defaults = Config::default();
    let mut text = HEADER.to_owned();
    text.push('\n');
    let mut table = "";
    for (at, key) in KEYS.iter().enumerate() {
        if !open_table(&mut text, &mut table, key) && at > 0 {
            text.push('\n');
        }
        wrap(&mut text, key.doc);
        wrap(&mut text, &format!("Must be {}; {}", (key.must_be)(), key.variable()));
        let (_, name) = key.split();
        let value = match (key.show)(&defaults) {
            Shown::Value(value) => value,
            Shown::Secret { .. } => "\"…\"".to_owned(),
        };
        // Writing to a `String` does not fail.
        let _ = writeln!(text, "#{name} = {value}");
    }
    text
}

/// Starts the table of `key` if it differs from that of the key before. Tells whether it did.
fn open_table(text: &mut String, table: &mut &'static str, key: &Key) -> bool {
    let (of_key, _) = key.split();
    let opens = *table != of_key;
    if opens {
        *table = of_key;
        text.push_str(&format!("\n[{of_key}]\n"));
    }
    opens
}

fn wrap(text: &mut String, about: &str) {
    let mut column = COLUMNS;
    for word in about.split_whitespace() {
        let letters = word.chars().count();
        if column + 1 + letters > COLUMNS {
            if !text.ends_with('\n') {
                text.push('\n');
            }
            text.push('#');
            column = 1;
        }
        text.push(' ');
        text.push_str(word);
        column += 1 + letters;
    }
    text.push('\n');
}
