//! Settings as text: the effective ones, and the documented file of all of them.

use std::fmt::Write;

use super::{
    Config,
    keys::{KEYS, Key},
    load::Loaded,
    problem::Origin,
};

/// Columns of the documented file.
const COLUMNS: usize = 100;

const HEADER: &str = "\
# Settings of coupond. What is commented out shows the default.
#
# Stronger than this file: the environment (COUPOND_ and the key in capitals, levels joined by two
# underscores: COUPOND_API__LISTEN), and stronger than that: --set key=value on the command line.
# Durations are a whole number and a unit: \"250ms\", \"1s\", \"5m\", \"12h\", \"7d\".
# `coupond check-config` tells every problem, `coupond print-config` the effective settings.
# How much is logged is no setting but an environment variable, COUPOND_LOG (or RUST_LOG): \"info\"
# by default, or for example \"warn\" or \"info,coupond=debug\".
";

impl Loaded {
    /// The effective settings as TOML, each with where it comes from; secrets hidden.
    #[must_use]
    pub fn print(&self) -> String {
        let mut text = String::new();
        let mut table = "";
        for key in &KEYS {
            open_table(&mut text, &mut table, key);
            let (_, name) = key.split();
            let origin = self.origins.of(key.name);
            let shown = match (key.slot.show(&self.config), key.slot.secret_set(&self.config)) {
                (Some(value), _) => format!("{name} = {value} # {origin}"),
                (None, Some(true)) => format!("# {name} is set and hidden # {origin}"),
                (None, _) => format!("# {name} is not set # {origin}"),
            };
            text.push_str(&shown);
            text.push('\n');
        }
        text
    }

    /// What was read, in one sentence.
    #[must_use]
    pub fn summary(&self) -> String {
        let (mut in_environment, mut in_set) = (0, 0);
        for key in &KEYS {
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

/// Every setting with its meaning, rule and default, as the TOML file that changes none of them.
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
        let rule = key.slot.rule();
        wrap(&mut text, key.doc);
        wrap(&mut text, &format!("Must be {rule}; {}", key.variable()));
        let (_, name) = key.split();
        let value = key.slot.show(&defaults).unwrap_or_else(|| "\"…\"".to_owned());
        // A write to a `String` does not fail.
        let _ = writeln!(text, "#{name} = {value}");
    }
    text
}

/// Starts the key's table if it is another than the one before.
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
