//! Reads scenario files. Every problem is found at once, by line, with rule and remedy.

use std::{fmt, fs, io, ops::RangeInclusive, path::Path, time::Duration};

use toml::de::{DeTable, DeValue};

use super::{Goal, Kind, Scenario, Stage};

/// Longest scenario. Each second keeps a histogram of about 20 KiB.
const SECONDS_MAX: f64 = 3_600.0;

/// Most stages.
const STAGES_MAX: usize = 1_000;

/// Highest rate of a stage, in requests a second: beyond what one machine sends.
const RATE_MAX: f64 = 1_000_000.0;

/// Most virtual users of `peak`.
const VIRTUAL_USERS_MAX: f64 = 100_000.0;

/// Connections, unless the file says otherwise.
const CONNECTIONS: u32 = 512;

/// Coupons, unless the file says otherwise.
const QUOTA: u32 = 10_000;

/// Members of a scenario.
const MEMBERS: [&str; 13] = [
    "title",
    "about",
    "kind",
    "quota",
    "per_user_limit",
    "campaigns",
    "users",
    "keys_per_user",
    "opens_after_s",
    "slow_clients",
    "connections",
    "stages",
    "targets",
];

/// A problem of a scenario file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScenarioProblem {
    /// The line, from 1.
    pub line: usize,
    /// The member at fault, with its table.
    pub key: String,
    /// What was found, and the rule that it breaks.
    pub fault: String,
    /// How to correct it.
    pub remedy: String,
}

impl fmt::Display for ScenarioProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { line, key, fault, remedy } = self;
        write!(f, "line {line}: {key}: {fault}; {remedy}")
    }
}

/// Why a file is no scenario.
#[derive(Debug, thiserror::Error)]
pub enum ScenarioError {
    /// It cannot be read.
    #[error("scenario {path} cannot be read")]
    Read {
        /// The file.
        path: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Its content is at fault.
    #[error("scenario {path} cannot be rehearsed:{}", list(problems))]
    Content {
        /// The file.
        path: String,
        /// Every problem, by line; never empty.
        problems: Vec<ScenarioProblem>,
    },
}

fn list(problems: &[ScenarioProblem]) -> String {
    problems.iter().map(|problem| format!("\n  {problem}")).collect()
}

/// Reads a file.
pub(super) fn file(path: &Path) -> Result<Scenario, ScenarioError> {
    let shown = path.display().to_string();
    let text = fs::read_to_string(path)
        .map_err(|source| ScenarioError::Read { path: shown.clone(), source })?;
    let name = path.file_stem().unwrap_or_default().to_string_lossy();
    text_of(&name, &text).map_err(|problems| ScenarioError::Content { path: shown, problems })
}

/// Reads the text of a file.
pub(super) fn text_of(name: &str, text: &str) -> Result<Scenario, Vec<ScenarioProblem>> {
    let mut reader = Reader { text, problems: Vec::new() };
    let (table, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        let at = error.span().map_or(0, |span| span.start);
        let fault = format!("invalid TOML: {}", error.message().trim());
        reader.problem(at, name, fault, "correct this line");
    }
    let scenario = reader.scenario(name, table.get_ref());
    reader.problems.sort_by_key(|problem| problem.line);
    match scenario {
        Some(scenario) if reader.problems.is_empty() => Ok(scenario),
        _ => Err(reader.problems),
    }
}

struct Reader<'a> {
    text: &'a str,
    problems: Vec<ScenarioProblem>,
}

impl Reader<'_> {
    fn problem(&mut self, at: usize, key: &str, fault: impl Into<String>, remedy: &str) {
        let line = self.text.bytes().take(at).filter(|byte| *byte == b'\n').count() + 1;
        let (key, fault, remedy) = (key.to_owned(), fault.into(), remedy.to_owned());
        self.problems.push(ScenarioProblem { line, key, fault, remedy });
    }

    fn scenario(&mut self, name: &str, table: &DeTable<'_>) -> Option<Scenario> {
        self.unknown(table, "", &MEMBERS);
        let kind = self.kind(table);
        let is_peak = kind == Some(Kind::Peak);
        let whole = |reader: &mut Self, key: &str, rule: RangeInclusive<f64>| {
            reader.number(table, "", key, &rule, true)
        };
        let quota = whole(self, "quota", 0.0..=100_000_000.0).map_or(QUOTA, |it| it as u32);
        let per_user_limit = whole(self, "per_user_limit", 1.0..=1_000.0).map_or(1, |it| it as u32);
        let campaigns = whole(self, "campaigns", 1.0..=10_000.0).map_or(1, |it| it as u32);
        let users = whole(self, "users", 1.0..=1e9).map(|it| it as u64);
        let keys_per_user = whole(self, "keys_per_user", 0.0..=1e6).map_or(0, |it| it as u64);
        let opens_after = self
            .number(table, "", "opens_after_s", &(0.0..=SECONDS_MAX), false)
            .map(Duration::from_secs_f64);
        let slow_clients = whole(self, "slow_clients", 0.0..=10_000.0).map_or(0, |it| it as u32);
        let connections =
            whole(self, "connections", 1.0..=16_384.0).map_or(CONNECTIONS, |it| it as u32);
        if let Some(kind) = kind {
            self.fits(table, kind);
        }
        let stages = self.stages(table, is_peak);
        let targets = self.targets(table);
        Some(Scenario {
            name: name.to_owned(),
            title: self.words(table, "title").unwrap_or_else(|| name.to_owned()),
            about: self.words(table, "about").unwrap_or_default(),
            kind: kind?,
            quota,
            per_user_limit,
            campaigns,
            users,
            keys_per_user,
            opens_after,
            slow_clients,
            connections,
            stages,
            targets,
        })
    }

    fn unknown(&mut self, table: &DeTable<'_>, above: &str, known: &[&str]) {
        for (name, _) in table {
            let at = name.span().start;
            let name: &str = name.get_ref();
            if known.contains(&name) {
                continue;
            }
            let near = known.iter().map(|it| (strsim::jaro_winkler(name, it), it));
            let near = near.filter(|(likeness, _)| *likeness > 0.8);
            let near = near.max_by(|one, two| one.0.total_cmp(&two.0));
            let remedy = match near {
                Some((_, near)) => format!("did you mean {near}?"),
                None => format!("remove it, or use one of {}", known.join(", ")),
            };
            self.problem(at, &format!("{above}{name}"), "unknown member", &remedy);
        }
    }

    fn kind(&mut self, table: &DeTable<'_>) -> Option<Kind> {
        let known = Kind::ALL.map(Kind::name).join(", ");
        let Some((at, value)) = found(table, "kind") else {
            self.problem(0, "kind", "missing", &format!("add kind = one of {known}"));
            return None;
        };
        let kind =
            value.as_str().and_then(|text| Kind::ALL.into_iter().find(|it| it.name() == text));
        if kind.is_none() {
            let fault = format!("is {}, an unknown kind", shown(value));
            self.problem(at, "kind", fault, &format!("use one of {known}"));
        }
        kind
    }

    /// Refuses members that a kind would not heed, and asks for those that make the kind.
    fn fits(&mut self, table: &DeTable<'_>, kind: Kind) {
        let only = [
            ("keys_per_user", Kind::Bots),
            ("opens_after_s", Kind::Spike),
            ("slow_clients", Kind::SlowClients),
            ("campaigns", Kind::ManyCampaigns),
        ];
        for (key, its) in only {
            match found(table, key) {
                Some((at, _)) if kind != its => {
                    let fault = format!("a scenario of kind {} does not use it", kind.name());
                    self.problem(at, key, fault, &format!("remove it, or use kind {}", its.name()));
                }
                None if kind == its => {
                    let remedy = format!("add {key}, or use kind open");
                    self.problem(0, key, format!("missing; kind {} needs it", its.name()), &remedy);
                }
                _ => {}
            }
        }
        if let (Kind::Peak, Some((at, _))) = (kind, found(table, "connections")) {
            let fault = "a scenario of kind peak has a connection for each virtual user";
            self.problem(at, "connections", fault, "remove it");
        }
        if let (Kind::Peak | Kind::Bots, None) = (kind, found(table, "users")) {
            let fault = format!("missing; kind {} needs it", kind.name());
            self.problem(0, "users", fault, "add users = the number of users that are drawn from");
        }
    }

    fn stages(&mut self, table: &DeTable<'_>, is_peak: bool) -> Vec<Stage> {
        let Some((at, value)) = found(table, "stages") else {
            self.problem(0, "stages", "missing", "add [[stages]] with seconds and a rate");
            return Vec::new();
        };
        let stages: Vec<_> = value.as_array().into_iter().flatten().collect();
        if stages.is_empty() || stages.len() > STAGES_MAX {
            let fault = format!("must be 1 to {STAGES_MAX} tables");
            self.problem(at, "stages", fault, "write [[stages]] before each stage");
        }
        let mut read: Vec<Stage> = Vec::new();
        for (index, stage) in stages.into_iter().enumerate() {
            let above = format!("stages[{}].", index + 1);
            let Some(its) = stage.get_ref().as_table() else {
                let fault = "must be a table";
                self.problem(stage.span().start, &above, fault, "write [[stages]] before it");
                continue;
            };
            let last = read.last().map_or(0.0, |stage| stage.to);
            let at = stage.span().start;
            read.extend(self.stage(its, &above, is_peak, last, at));
        }
        let seconds: f64 = read.iter().map(|stage| stage.seconds).sum();
        if seconds > SECONDS_MAX {
            let fault = format!("take {seconds} s together; the limit is {SECONDS_MAX} s");
            self.problem(at, "stages", fault, "shorten them");
        }
        read
    }

    /// Reads a stage. Virtual users always rise or fall evenly from those of the last stage, as k6 has it.
    fn stage(
        &mut self,
        its: &DeTable<'_>,
        above: &str,
        is_peak: bool,
        last: f64,
        at: usize,
    ) -> Option<Stage> {
        let (size, most) = if is_peak { ("users", VIRTUAL_USERS_MAX) } else { ("rate", RATE_MAX) };
        let known: &[&str] =
            if is_peak { &["seconds", "users"] } else { &["seconds", "rate", "from"] };
        self.unknown(its, above, known);
        for key in ["seconds", size] {
            if found(its, key).is_none() {
                self.problem(
                    at,
                    &format!("{above}{key}"),
                    "missing",
                    &format!("add {key} = a number"),
                );
            }
        }
        let seconds = self.number(its, above, "seconds", &(0.001..=SECONDS_MAX), false);
        let to = self.number(its, above, size, &(0.0..=most), false);
        let from = self.number(its, above, "from", &(0.0..=most), false);
        let (seconds, to) = (seconds?, to?);
        let from = if is_peak { last } else { from.unwrap_or(to) };
        Some(Stage { seconds, from, to })
    }

    fn targets(&mut self, table: &DeTable<'_>) -> Vec<(Goal, f64)> {
        let Some((at, value)) = found(table, "targets") else { return Vec::new() };
        let Some(targets) = value.as_table() else {
            self.problem(at, "targets", "must be a table", "write [targets] above them");
            return Vec::new();
        };
        self.unknown(targets, "targets.", &Goal::ALL.map(Goal::name));
        let goals = Goal::ALL.into_iter();
        goals
            .filter_map(|goal| {
                let value = self.number(targets, "targets.", goal.name(), &(0.0..=1e12), false);
                Some((goal, value?))
            })
            .collect()
    }

    fn words(&mut self, table: &DeTable<'_>, key: &str) -> Option<String> {
        let (at, value) = found(table, key)?;
        if value.as_str().is_none() {
            let fault = format!("is {}, must be text", shown(value));
            self.problem(at, key, fault, "write it in quotes");
        }
        value.as_str().map(str::to_owned)
    }

    fn number(
        &mut self,
        table: &DeTable<'_>,
        above: &str,
        key: &str,
        range: &RangeInclusive<f64>,
        whole: bool,
    ) -> Option<f64> {
        let (at, value) = found(table, key)?;
        let number = match value {
            DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
                .ok()
                .map(|number| number as f64),
            DeValue::Float(number) if !whole => number.as_str().parse::<f64>().ok(),
            _ => None,
        };
        if let Some(number) = number.filter(|number| range.contains(number)) {
            return Some(number);
        }
        let what = if whole { "a whole number" } else { "a number" };
        let (low, high) = (range.start(), range.end());
        let fault = format!("is {}, must be {what} from {low} to {high}", shown(value));
        self.problem(at, &format!("{above}{key}"), fault, "write a figure in this range");
        None
    }
}

/// Returns a member, and where it is.
fn found<'a, 'b>(table: &'a DeTable<'b>, key: &str) -> Option<(usize, &'a DeValue<'b>)> {
    let (name, value) = table.iter().find(|(name, _)| name.get_ref() == key)?;
    Some((name.span().start, value.get_ref()))
}

/// Returns a value as the file may have spelled it.
fn shown(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!("{text:?}"),
        DeValue::Integer(number) => number.as_str().to_owned(),
        DeValue::Float(number) => number.as_str().to_owned(),
        DeValue::Boolean(flag) => flag.to_string(),
        DeValue::Datetime(time) => time.to_string(),
        DeValue::Array(_) => "a list".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    }
}
