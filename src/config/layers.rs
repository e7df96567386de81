//! Reads the layers: file, environment and `--set`, each flattened into keys and values.

use std::{
    ffi::OsString,
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use toml::de::{DeTable, DeValue};

use super::{
    keys::{self, PREFIX},
    problem::{ConfigProblem, Origin},
    properties,
    value::{Input, Value},
};

/// The file that is read if it exists and no other is named.
pub const DEFAULT_FILE: &str = "config/coupond.toml";

/// Variables with our prefix that are not settings: of logging, and of the project's own tests.
const OTHER_VARIABLES: [&str; 2] = ["COUPOND_LOG", "COUPOND_ENGINES"];
const TEST_PREFIX: &str = "COUPOND_TEST_";

/// Largest file that is read: hundreds of times the size of the documented file.
const FILE_BYTES_MAX: u64 = 4 * 1_024 * 1_024;

/// Most syntax errors that are reported: the first ones usually cause the rest.
const SYNTAX_ERRORS_MAX: usize = 5;

/// The layers of a configuration, except the built-in defaults.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// The TOML file, which must exist. None: no file.
    pub file: Option<PathBuf>,
    /// Environment variables; those without our prefix are ignored.
    pub environment: Vec<(OsString, OsString)>,
    /// Texts `key=value`; a later one wins.
    pub set: Vec<String>,
}

impl Sources {
    /// Collects the sources of this process: `file`, else [`DEFAULT_FILE`] if it exists; the
    /// environment; `set`.
    #[must_use]
    pub fn of_process(file: Option<PathBuf>, set: Vec<String>) -> Self {
        let default = || Some(PathBuf::from(DEFAULT_FILE)).filter(|file| file.exists());
        Self { file: file.or_else(default), environment: std::env::vars_os().collect(), set }
    }
}

/// A key and value of one layer.
#[derive(Debug)]
pub(super) struct Given {
    pub(super) key: String,
    pub(super) input: Input,
    pub(super) origin: Origin,
}

/// Reads all layers, the weakest first.
pub(super) fn read(sources: &Sources, problems: &mut Vec<ConfigProblem>) -> Vec<Given> {
    let mut given = Vec::new();
    if let Some(path) = &sources.file {
        match File::open(path).and_then(|file| text_of(file, FILE_BYTES_MAX)) {
            Ok(text) => given.extend(parse_file(path, &text, problems)),
            Err(error) => problems.push(ConfigProblem {
                key: path.display().to_string(),
                fault: format!("cannot be read: {error}"),
                remedy: "check the path and its permissions".to_owned(),
                origin: Origin::Named,
            }),
        }
    }
    given.extend(parse_environment(&sources.environment, problems));
    given.extend(sources.set.iter().filter_map(|text| parse_set(text, problems)));
    given
}

/// Reads a file of at most `bytes_max` bytes.
///
/// # Errors
/// That it is larger, no text, or cannot be read.
pub(crate) fn text_of(file: File, bytes_max: u64) -> io::Result<String> {
    let mut text = String::new();
    if file.take(bytes_max + 1).read_to_string(&mut text)? as u64 > bytes_max {
        return Err(io::Error::other(format!("larger than {bytes_max} bytes")));
    }
    Ok(text)
}

fn parse_file(path: &Path, text: &str, problems: &mut Vec<ConfigProblem>) -> Vec<Given> {
    let line = |at: usize| text.bytes().take(at).filter(|byte| *byte == b'\n').count() + 1;
    let origin = |at: usize| Origin::File { path: path.to_owned(), line: line(at) };
    let (table, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        problems.extend(errors.iter().take(SYNTAX_ERRORS_MAX).map(|error| ConfigProblem {
            key: path.display().to_string(),
            fault: format!("invalid TOML: {}", error.message().trim()),
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
        input: Input { value, word: None },
        origin: origin(at),
    });
    given.collect()
}

/// Calls `leaf` for every leaf of `table`, with its dotted key and its position in the text.
fn flatten(above: &str, table: &DeTable<'_>, leaf: &mut dyn FnMut(String, Value, usize)) {
    for (name, value) in table {
        let dot = if above.is_empty() { "" } else { "." };
        let key = format!("{above}{dot}{}", name.get_ref());
        match value.get_ref() {
            // A table in the place of a setting, or an empty one of an unknown name, becomes a leaf
            // so that it is reported as a problem.
            DeValue::Table(table) if is_parent(&key, table) => flatten(&key, table, leaf),
            other => leaf(key, value_of(other), name.span().start),
        }
    }
}

fn is_parent(name: &str, table: &DeTable<'_>) -> bool {
    name == properties::TABLE
        || keys::find(name).is_none() && (!keys::of_table(name).is_empty() || !table.is_empty())
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
        DeValue::Table(table) => {
            let mut members: Vec<_> = table.iter().collect();
            members.sort_by_key(|(name, _)| name.span().start);
            let member = |(name, value): (&toml::Spanned<_>, &toml::Spanned<DeValue<'_>>)| {
                let name: &std::borrow::Cow<'_, str> = name.get_ref();
                (name.clone().into_owned(), value_of(value.get_ref()))
            };
            Value::Table(members.into_iter().map(member).collect())
        }
    }
}

/// Parses a value outside a file: as TOML if possible, else as text.
fn parse_word(word: &str) -> Input {
    let value = match DeValue::parse(word) {
        Ok(value) => value_of(value.get_ref()),
        Err(_) => Value::Text(word.to_owned()),
    };
    Input { value, word: Some(word.to_owned()) }
}

fn parse_environment(
    environment: &[(OsString, OsString)],
    problems: &mut Vec<ConfigProblem>,
) -> Vec<Given> {
    let mut given = Vec::new();
    for (name, value) in environment {
        let name = name.to_string_lossy();
        if !name.starts_with(PREFIX) || is_other_variable(&name) {
            continue;
        }
        let origin = Origin::Environment(name.to_string());
        let Some(word) = value.to_str().map(str::trim) else {
            problems.push(ConfigProblem {
                key: name.to_string(),
                fault: "invalid UTF-8".to_owned(),
                remedy: "set it to a text in UTF-8".to_owned(),
                origin,
            });
            continue;
        };
        let key = keys::find_variable(&name).map(|key| key.name.to_owned());
        match key.or_else(|| properties::of_variable(&name)) {
            Some(key) => given.push(Given { key, input: parse_word(word), origin }),
            None => problems.push(keys::unknown_variable(&name, origin)),
        }
    }
    // The environment has no order; problems are reported in one.
    given.sort_by(|one, other| one.key.cmp(&other.key));
    given
}

/// Tells whether a variable with our prefix is not meant as a setting: a known one, or one that
/// Kubernetes sets in every pod if a service is named "coupond" or "coupond-…".
fn is_other_variable(name: &str) -> bool {
    let ends = ["_SERVICE_HOST", "_PORT", "_TCP", "_TCP_ADDR", "_TCP_PORT", "_TCP_PROTO"];
    let of_service = !name.contains("__")
        && (ends.iter().any(|end| name.ends_with(end)) || name.contains("_SERVICE_PORT"));
    OTHER_VARIABLES.contains(&name) || name.starts_with(TEST_PREFIX) || of_service
}

fn parse_set(text: &str, problems: &mut Vec<ConfigProblem>) -> Option<Given> {
    let letter = |letter: &char| letter.is_ascii_alphanumeric() || matches!(letter, '.' | '_');
    let mut problem = |key: String, fault: &str| {
        problems.push(ConfigProblem {
            key,
            fault: fault.to_owned(),
            remedy: "use --set key=value".to_owned(),
            origin: Origin::Set,
        });
        None
    };
    // The value may be a secret, so only the key is shown. A missing key is shown as empty quotes.
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
    let input = parse_word(word.trim());
    Some(Given { key: key.trim().to_owned(), input, origin: Origin::Set })
}
