//! The layers as they are given: file, environment, `--set`, each flattened into keys and values.

use std::{
    ffi::OsString,
    io::Read,
    path::{Path, PathBuf},
};

use toml::de::{DeTable, DeValue};

use super::{
    keys::KEYS,
    problem::{Origin, Problem},
    slot::Value,
};

/// What is read when no file is named and it is there.
pub const DEFAULT_FILE: &str = "config/coupond.toml";

/// What names of environment variables start with.
pub(super) const PREFIX: &str = "COUPOND_";

/// Variables that are no settings of a node: of the log, and of the project's own tests.
const OTHER_VARIABLES: [&str; 2] = ["COUPOND_LOG", "COUPOND_ENGINES"];
const TEST_PREFIX: &str = "COUPOND_TEST_";

/// Largest file that is read: hundreds of times what every key with its comment takes.
const FILE_BYTES_MAX: u64 = 4 * 1_024 * 1_024;

/// Most syntax errors that are told of one file: the first ones explain the rest.
const SYNTAX_ERRORS_MAX: usize = 5;

/// Where a configuration comes from.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// The file, which must exist. None: built-in defaults.
    pub file: Option<PathBuf>,
    /// Environment variables; those without the prefix are passed over.
    pub environment: Vec<(OsString, OsString)>,
    /// `key=value` texts in the order given; a later one wins.
    pub set: Vec<String>,
}

impl Sources {
    /// What this process was given: `file`, or [`DEFAULT_FILE`] if it is there; its environment;
    /// and `set`.
    #[must_use]
    pub fn of_process(file: Option<PathBuf>, set: Vec<String>) -> Self {
        let default = || Some(PathBuf::from(DEFAULT_FILE)).filter(|file| file.exists());
        Self { file: file.or_else(default), environment: std::env::vars_os().collect(), set }
    }
}

/// One setting as it was given.
#[derive(Debug)]
pub(super) struct Given {
    pub(super) key: String,
    pub(super) value: Value,
    /// The text of a value that was not written in a TOML file.
    pub(super) word: Option<String>,
    pub(super) origin: Origin,
}

/// Everything that was given, lowest layer first.
pub(super) fn read(sources: &Sources, problems: &mut Vec<Problem>) -> Vec<Given> {
    let mut given = Vec::new();
    if let Some(path) = &sources.file {
        match read_file(path) {
            Ok(text) => given.extend(parse_file(path, &text, problems)),
            Err(error) => problems.push(Problem {
                key: path.display().to_string(),
                fault: format!("cannot be read: {error}"),
                remedy: "name a file that can be read".to_owned(),
                origin: Origin::Named,
            }),
        }
    }
    given.extend(parse_environment(&sources.environment, problems));
    given.extend(sources.set.iter().filter_map(|text| parse_set(text, problems)));
    given
}

fn read_file(path: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    let read = std::fs::File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
    if read as u64 > FILE_BYTES_MAX {
        return Err(std::io::Error::other(format!("larger than {FILE_BYTES_MAX} bytes")));
    }
    Ok(text)
}

fn parse_file(path: &Path, text: &str, problems: &mut Vec<Problem>) -> Vec<Given> {
    let line = |at: usize| text.bytes().take(at).filter(|byte| *byte == b'\n').count() + 1;
    let origin = |at: usize| Origin::File { path: path.to_owned(), line: line(at) };
    let (table, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        problems.extend(errors.iter().take(SYNTAX_ERRORS_MAX).map(|error| Problem {
            key: path.display().to_string(),
            fault: format!("is not TOML: {}", error.message().trim()),
            remedy: "correct this line".to_owned(),
            origin: origin(error.span().map_or(0, |span| span.start)),
        }));
        return Vec::new();
    }
    let mut leaves = Vec::new();
    flatten("", table.get_ref(), &mut |key, value, at| leaves.push((at, key, value)));
    leaves.sort_by_key(|(at, _, _)| *at);
    let given = leaves.into_iter().map(|(at, key, value)| Given {
        key,
        value,
        word: None,
        origin: origin(at),
    });
    given.collect()
}

/// Hands every leaf of `table` to `leaf`, with its dotted key and where it starts.
fn flatten(above: &str, table: &DeTable<'_>, leaf: &mut dyn FnMut(String, Value, usize)) {
    for (name, value) in table {
        let dot = if above.is_empty() { "" } else { "." };
        let key = format!("{above}{dot}{}", name.get_ref());
        match value.get_ref() {
            // A table where a setting is expected, or one of an unknown name that holds nothing,
            // is told as such.
            DeValue::Table(table) if !is_key(&key) && (is_table(&key) || !table.is_empty()) => {
                flatten(&key, table, leaf);
            }
            other => leaf(key, value_of(other), name.span().start),
        }
    }
}

fn is_key(name: &str) -> bool {
    KEYS.iter().any(|key| key.name == name)
}

fn is_table(name: &str) -> bool {
    KEYS.iter().any(|key| key.split().0 == name)
}

fn value_of(value: &DeValue<'_>) -> Value {
    match value {
        DeValue::String(text) => Value::Text(text.clone().into_owned()),
        DeValue::Boolean(flag) => Value::Flag(*flag),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .map_or(Value::Other("number beyond 64 bits"), Value::Integer),
        DeValue::Array(items) => {
            Value::List(items.iter().map(|item| value_of(item.get_ref())).collect())
        }
        DeValue::Float(_) => Value::Other("number with a fraction"),
        DeValue::Datetime(_) => Value::Other("date or time"),
        DeValue::Table(_) => Value::Other("table"),
    }
}

/// A value outside a file: TOML if it is that, otherwise the text as it stands.
fn parse_word(word: &str) -> Value {
    match DeValue::parse(word) {
        Ok(value) => value_of(value.get_ref()),
        Err(_) => Value::Text(word.to_owned()),
    }
}

fn parse_environment(
    environment: &[(OsString, OsString)],
    problems: &mut Vec<Problem>,
) -> Vec<Given> {
    let mut given = Vec::new();
    for (name, value) in environment {
        let name = name.to_string_lossy();
        if !name.starts_with(PREFIX) || is_other_variable(&name) {
            continue;
        }
        let origin = Origin::Environment(name.to_string());
        let Some(word) = value.to_str().map(str::trim) else {
            problems.push(Problem {
                key: name.to_string(),
                fault: "is not UTF-8".to_owned(),
                remedy: "write it in UTF-8".to_owned(),
                origin,
            });
            continue;
        };
        match KEYS.iter().find(|key| key.variable() == name) {
            Some(key) => given.push(Given {
                key: key.name.to_owned(),
                value: parse_word(word),
                word: Some(word.to_owned()),
                origin,
            }),
            None => problems.push(super::load::unknown_variable(&name, origin)),
        }
    }
    // The order of the environment is the system's; problems are told in one that can be read.
    given.sort_by(|one, other| one.key.cmp(&other.key));
    given
}

/// Whether a variable with our prefix is none of our settings: a known one, or what Kubernetes
/// puts into every pod beside a service named "coupond" or "coupond-…".
fn is_other_variable(name: &str) -> bool {
    let ends = ["_SERVICE_HOST", "_PORT", "_TCP", "_TCP_ADDR", "_TCP_PORT", "_TCP_PROTO"];
    let of_service = !name.contains("__")
        && (ends.iter().any(|end| name.ends_with(end)) || name.contains("_SERVICE_PORT"));
    OTHER_VARIABLES.contains(&name) || name.starts_with(TEST_PREFIX) || of_service
}

fn parse_set(text: &str, problems: &mut Vec<Problem>) -> Option<Given> {
    let letter = |letter: &char| letter.is_ascii_alphanumeric() || matches!(letter, '.' | '_');
    let mut problem = |key: String, fault: &str| {
        problems.push(Problem {
            key,
            fault: fault.to_owned(),
            remedy: "write --set key=value".to_owned(),
            origin: Origin::Set,
        });
        None
    };
    // What follows the key may be a secret; where there is no key, quotes show at least that.
    let Some((key, word)) = text.split_once('=') else {
        let key: String = text.trim_start().chars().take_while(letter).collect();
        return match (text.trim().is_empty(), key.is_empty()) {
            (true, _) => problem("\"\"".to_owned(), "is empty"),
            (false, true) => problem("\"…\"".to_owned(), "has no '='"),
            (false, false) => problem(key, "has no '='"),
        };
    };
    if key.trim().is_empty() {
        return problem("\"=…\"".to_owned(), "has no key before '='");
    }
    let word = word.trim();
    Some(Given {
        key: key.trim().to_owned(),
        value: parse_word(word),
        word: Some(word.to_owned()),
        origin: Origin::Set,
    })
}
