//! Flags for the terms of a campaign, made from the list of terms.

use clap::{Arg, ArgGroup, ArgMatches, Args, Command, Error, FromArgMatches};
use serde_json::{Map, Value};

use crate::{
    api::http,
    domain::definition::{Term, TermKind, TermValue, Terms},
};

/// Members of a definition that were given as flags.
#[derive(Debug, Clone)]
pub(super) struct DefinitionFlags(pub(super) Map<String, Value>);

/// Members of an amendment that were given as flags, at least one.
#[derive(Debug, Clone)]
pub(super) struct AmendmentFlags(pub(super) Map<String, Value>);

impl Args for DefinitionFlags {
    fn augment_args(command: Command) -> Command {
        let flags = Term::ALL.iter().flat_map(|term| match term.kind() {
            TermKind::Code => code_flags(),
            _ => vec![definition_flag(*term)],
        });
        command.args(flags)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl Args for AmendmentFlags {
    fn augment_args(command: Command) -> Command {
        let group = ArgGroup::new("change").args(Term::AMENDABLE_NAMES);
        let flags = Term::AMENDABLE.iter().map(|term| amendment_flag(*term));
        command.args(flags).group(group.required(true).multiple(true))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for DefinitionFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        Ok(Self(members(matches, Term::ALL)))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl FromArgMatches for AmendmentFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        Ok(Self(members(matches, Term::AMENDABLE)))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// Members for the flags that were given. The others are left out, so that they stay or get their
/// default.
fn members(matches: &ArgMatches, terms: &[Term]) -> Map<String, Value> {
    let given = |name: &str| matches.get_one::<Value>(name).cloned();
    let mut members = Map::new();
    for term in terms {
        let value = match term.kind() {
            TermKind::Code => {
                let parts = ["prefix", "length", "charset", "group"].into_iter();
                let given = parts
                    .filter_map(|part| Some((part.to_owned(), given(&format!("code_{part}"))?)));
                Some(given.collect::<Map<_, _>>())
                    .filter(|parts| !parts.is_empty())
                    .map(Value::from)
            }
            _ => given(term.name()),
        };
        value.map(|value| members.insert(term.name().to_owned(), value));
    }
    members
}

fn flag(term: Term) -> Arg {
    Arg::new(term.name()).long(term.name().replace('_', "-"))
}

fn definition_flag(term: Term) -> Arg {
    let about = term.about();
    let flag = flag(term).required(term.is_required());
    match term.kind() {
        TermKind::Whole(_) => {
            let default = match Terms::of(0).get(term) {
                Some(TermValue::Whole(number)) if !term.is_required() => {
                    format!(" [default: {number}]")
                }
                _ => String::new(),
            };
            flag.value_name("N").value_parser(whole).help(format!("{about}{default}"))
        }
        TermKind::Time { none } => {
            let help = format!("{about}, as in 2027-01-01T12:00:00Z [default: {none}]");
            flag.value_name("TIME").value_parser(time).help(help)
        }
        TermKind::Flag => {
            let default = matches!(Terms::of(0).get(term), Some(TermValue::Flag(true)));
            let help = format!("{about} [default: {default}]");
            flag.value_name("true|false").value_parser(yes_or_no).help(help)
        }
        TermKind::Text { .. } => {
            flag.value_name("TEXT").value_parser(text).allow_hyphen_values(true).help(about)
        }
        TermKind::Code => flag,
    }
}

fn amendment_flag(term: Term) -> Arg {
    let (about, flag) = (term.about(), flag(term));
    match term.kind() {
        TermKind::Whole(_) => flag.value_name("N").value_parser(whole).help(about),
        TermKind::Time { none } => {
            let help = format!("{about}; none: {none}");
            flag.value_name("TIME|none").value_parser(time_or_none).help(help)
        }
        TermKind::Flag => flag.value_name("true|false").value_parser(yes_or_no).help(about),
        TermKind::Text { .. } => {
            let help = format!("{about}; none removes it");
            let flag = flag.value_name("TEXT|none").value_parser(text_or_none);
            flag.allow_hyphen_values(true).help(help)
        }
        TermKind::Code => flag,
    }
}

fn code_flags() -> Vec<Arg> {
    let prefix = Arg::new("code_prefix").long("code-prefix").value_name("PREFIX");
    let length = Arg::new("code_length").long("code-length").value_name("N");
    let charset = Arg::new("code_charset").long("code-charset").value_name("CHARACTERS");
    let group = Arg::new("code_group").long("code-group").value_name("N");
    vec![
        group.value_parser(whole).help("Puts a hyphen after every N characters [default: none]"),
        prefix
            .value_parser(text)
            .allow_hyphen_values(true)
            .help("What every code starts with: at most 16 of A-Z, 0-9 and '-'"),
        length
            .value_parser(whole)
            .help("Characters of a code without its prefix [default: enough for 128 bits]"),
        charset
            .value_parser(text)
            .allow_hyphen_values(true)
            .help("Characters that codes are made of, as one text"),
    ]
}

fn text(text: &str) -> Result<Value, String> {
    Ok(Value::from(text))
}

fn text_or_none(text: &str) -> Result<Value, String> {
    Ok(if text == "none" { Value::Null } else { Value::from(text) })
}

fn yes_or_no(text: &str) -> Result<Value, String> {
    text.parse::<bool>().map(Value::from).map_err(|_| "must be true or false".to_owned())
}

/// Reads a whole number. Its range is checked by the node, which names the rule.
fn whole(text: &str) -> Result<Value, String> {
    text.parse::<u64>().map(Value::from).map_err(|_| "must be a whole number".to_owned())
}

/// Checks a time as the listeners do. Passes it on unchanged, so that they see what the user wrote.
fn time(text: &str) -> Result<Value, String> {
    match http::parse_time(text) {
        Some(_) => Ok(Value::from(text)),
        None => Err(format!("must be {}, as in 2027-01-01T12:00:00Z", http::TIME_RULE)),
    }
}

fn time_or_none(text: &str) -> Result<Value, String> {
    if text == "none" { Ok(Value::Null) } else { time(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed<T: Args>(line: &str) -> Result<Map<String, Value>, Error>
    where
        Map<String, Value>: From<T>,
    {
        let command = T::augment_args(Command::new("campaign").no_binary_name(true));
        let matches = command.try_get_matches_from(line.split_whitespace())?;
        Ok(T::from_arg_matches(&matches)?.into())
    }

    impl From<DefinitionFlags> for Map<String, Value> {
        fn from(flags: DefinitionFlags) -> Self {
            flags.0
        }
    }

    impl From<AmendmentFlags> for Map<String, Value> {
        fn from(flags: AmendmentFlags) -> Self {
            flags.0
        }
    }

    #[test]
    fn only_given_flags_become_members() {
        let flags = "--quota 5 --closes-at 2027-01-01T12:00:00Z --code-prefix -A --code-length 20";
        let expected = serde_json::json!({
            "quota": 5,
            "closes_at": "2027-01-01T12:00:00Z",
            "code": { "prefix": "-A", "length": 20 },
        });
        assert_eq!(Value::Object(parsed::<DefinitionFlags>(flags).unwrap()), expected);
        let expected = serde_json::json!({ "opens_at": null, "title": null });
        let flags = parsed::<AmendmentFlags>("--opens-at none --title none").unwrap();
        assert_eq!(Value::Object(flags), expected);
        let expected = serde_json::json!({ "title": "-Spring-", "listed": false });
        let flags = parsed::<AmendmentFlags>("--title -Spring- --listed false").unwrap();
        assert_eq!(Value::Object(flags), expected);
    }

    #[test]
    fn flags_that_no_node_would_take_are_refused() {
        for line in ["", "--quota -1", "--quota x", "--quota 1 --opens-at none"] {
            assert!(parsed::<DefinitionFlags>(line).is_err(), "{line}");
        }
        for line in ["", "--code-length 20", "--quota", "--listed", "--listed no"] {
            assert!(parsed::<AmendmentFlags>(line).is_err(), "{line}");
        }
    }

    #[test]
    fn every_term_has_a_flag_and_a_description() {
        let command = DefinitionFlags::augment_args(Command::new("create"));
        for term in Term::ALL.iter().filter(|term| term.kind() != TermKind::Code) {
            let flag = command.get_arguments().find(|flag| flag.get_id() == term.name()).unwrap();
            assert!(flag.get_help().unwrap().to_string().starts_with(term.about()));
        }
    }

    #[test]
    fn times_are_checked_and_passed_unchanged() {
        for text in
            ["2027-01-01T12:00:00Z", "2027-01-01T12:00:00.123000+09:00", "9999-12-31T23:59:59.999Z"]
        {
            assert_eq!(time(text), Ok(Value::from(text)));
        }
        for text in [
            "2030-01-01T00:00:60Z",
            "20300101T000000Z",
            "2030-01-01T00:00Z",
            "2030-01-01T00:00:00Z[UTC]",
            "1969-12-31T23:59:59Z",
        ] {
            let error = time(text).unwrap_err();
            assert!(error.contains("with an offset, from 1970 to 9999, as in"), "{error}");
        }
        assert_eq!(time_or_none("none"), Ok(Value::Null));
    }
}
