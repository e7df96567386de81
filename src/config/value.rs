//! Values as the layers give them, and the types that a setting may have: how each is parsed,
//! checked and shown.

use std::{fmt::Display, ops::RangeInclusive, path::PathBuf, time::Duration};

use super::types::{Hosts, Origins};

/// Most servers or names of a list: a client needs a few servers to find the others.
const LIST_MAX: usize = 100;

/// A value of a layer.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Text(String),
    Integer(i64),
    Flag(bool),
    List(Vec<Self>),
    /// Members by name, in the order of the text.
    Table(Vec<(String, Self)>),
    /// A TOML type that no setting has, by its name.
    Other(&'static str),
}

impl Value {
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Text(text) => format!("{text:?}"),
            Self::Integer(number) => grouped(*number),
            Self::Flag(flag) => flag.to_string(),
            Self::List(items) => {
                let items: Vec<_> = items.iter().map(Self::describe).collect();
                format!("[{}]", items.join(", "))
            }
            Self::Table(_) => "a table".to_owned(),
            Self::Other(kind) => format!("a {kind}"),
        }
    }
}

/// A value and, if it does not come from a TOML file, the word that it was parsed from.
#[derive(Debug)]
pub(super) struct Input {
    pub(super) value: Value,
    pub(super) word: Option<String>,
}

impl Input {
    /// Returns the value of a setting that takes text. A word is used unchanged, so that a token of
    /// digits needs no quotes.
    fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text),
            _ => self.word.as_deref(),
        }
    }
}

/// A value that a setting does not take.
#[derive(Debug)]
pub(super) struct Refused {
    /// The value that was found and the rule that it breaks.
    pub(super) fault: String,
    pub(super) remedy: String,
}

/// A value as it is printed.
#[derive(Debug)]
pub(super) enum Shown {
    /// TOML.
    Value(String),
    /// A secret, of which only this is shown.
    Secret { is_set: bool },
}

impl Shown {
    /// Shows a text as a TOML string.
    pub(super) fn text(text: &str) -> Self {
        Self::Value(quoted(text))
    }
}

/// A type that a setting may have.
pub(super) trait Setting: Sized {
    /// What a value must fulfil beyond its type.
    type Rule;

    /// Returns the value if it has the type and fulfils the rule.
    fn parse(input: &Input, rule: &Self::Rule) -> Option<Self>;

    /// Shows the setting.
    fn show(&self) -> Shown;

    /// Returns the rule, as a phrase that follows "must be".
    fn must_be(rule: &Self::Rule) -> String;

    /// Describes a refused value, as a phrase that follows "is".
    fn found(input: &Input) -> String {
        input.value.describe()
    }

    /// Returns what to do about a refused value.
    fn remedy(input: &Input, rule: &Self::Rule) -> String;
}

/// Stores the value of `input` in `place`, or tells why it is refused.
pub(super) fn assign<T: Setting>(
    place: &mut T,
    input: &Input,
    rule: &T::Rule,
) -> Result<(), Refused> {
    match T::parse(input, rule) {
        Some(value) => {
            *place = value;
            Ok(())
        }
        None => Err(Refused {
            fault: format!("is {}, must be {}", T::found(input), T::must_be(rule)),
            remedy: T::remedy(input, rule),
        }),
    }
}

impl Setting for bool {
    type Rule = ();

    fn parse(input: &Input, (): &()) -> Option<Self> {
        match input.value {
            Value::Flag(flag) => Some(flag),
            _ => None,
        }
    }

    fn show(&self) -> Shown {
        Shown::Value(self.to_string())
    }

    fn must_be((): &()) -> String {
        "true or false".to_owned()
    }

    fn remedy(_: &Input, (): &()) -> String {
        "write true or false without quotes".to_owned()
    }
}

macro_rules! whole_numbers {
    ($($number:ty),*) => {$(
        impl Setting for $number {
            type Rule = RangeInclusive<Self>;

            fn parse(input: &Input, range: &Self::Rule) -> Option<Self> {
                match input.value {
                    Value::Integer(number) => {
                        Self::try_from(number).ok().filter(|number| range.contains(number))
                    }
                    _ => None,
                }
            }

            fn show(&self) -> Shown {
                Shown::Value(self.to_string())
            }

            fn must_be(range: &Self::Rule) -> String {
                let (start, end) = (grouped(range.start()), grouped(range.end()));
                format!("a whole number from {start} to {end}")
            }

            fn remedy(input: &Input, _: &Self::Rule) -> String {
                match input.value {
                    Value::Text(_) => "write a number without quotes".to_owned(),
                    _ => "use a number in this range".to_owned(),
                }
            }
        }
    )*};
}

whole_numbers!(u32, u64, usize);

impl Setting for Duration {
    type Rule = RangeInclusive<Self>;

    fn parse(input: &Input, range: &Self::Rule) -> Option<Self> {
        match &input.value {
            Value::Text(text) => parse_duration(text).filter(|duration| range.contains(duration)),
            _ => None,
        }
    }

    fn show(&self) -> Shown {
        Shown::text(&show_duration(*self))
    }

    fn must_be(range: &Self::Rule) -> String {
        let (start, end) = (show_duration(*range.start()), show_duration(*range.end()));
        format!("a duration from \"{start}\" to \"{end}\"")
    }

    fn remedy(input: &Input, _: &Self::Rule) -> String {
        match input.value {
            Value::Integer(number) => {
                format!("add the unit, for example \"{number}s\" or \"{number}ms\"")
            }
            _ => "write for example \"1s\", \"250ms\" or \"7d\"".to_owned(),
        }
    }
}

/// Servers as `host:port`. The rule is the port that these servers usually have.
impl Setting for Vec<String> {
    type Rule = u16;

    fn parse(input: &Input, _: &u16) -> Option<Self> {
        texts(input).filter(|servers| servers.iter().all(|server| is_server(server)))
    }

    fn show(&self) -> Shown {
        show_texts(self)
    }

    fn must_be(_: &u16) -> String {
        format!("a list of \"host:port\", at most {LIST_MAX}")
    }

    fn remedy(_: &Input, port: &u16) -> String {
        format!("write for example [\"10.0.0.1:{port}\"]")
    }
}

impl Setting for Hosts {
    type Rule = ();

    fn parse(input: &Input, (): &()) -> Option<Self> {
        texts(input).filter(|hosts| hosts.iter().all(|host| is_host(host))).map(Self)
    }

    fn show(&self) -> Shown {
        show_texts(&self.0)
    }

    fn must_be((): &()) -> String {
        format!("a list of host names without ports, at most {LIST_MAX}")
    }

    fn remedy(_: &Input, (): &()) -> String {
        "write for example [\"coupons.example.com\"]".to_owned()
    }
}

impl Setting for Origins {
    type Rule = ();

    fn parse(input: &Input, (): &()) -> Option<Self> {
        let origins = texts(input)?;
        let is_any = origins.iter().map(String::as_str).eq(["*"]);
        (is_any || origins.iter().all(|origin| Self::is_origin(origin))).then_some(Self(origins))
    }

    fn show(&self) -> Shown {
        show_texts(&self.0)
    }

    fn must_be((): &()) -> String {
        format!(
            "[\"*\"], or a list of origins as browsers write them (in lower case, without the scheme's \
             own port and without a path), at most {LIST_MAX}"
        )
    }

    fn remedy(_: &Input, (): &()) -> String {
        "write for example [\"https://shop.example.com\", \"http://localhost:3000\"]".to_owned()
    }
}

/// Returns the texts of a list: in TOML, or joined by commas.
fn texts(input: &Input) -> Option<Vec<String>> {
    let texts: Vec<String> = match &input.value {
        Value::Text(text) if text.trim().is_empty() => Vec::new(),
        Value::Text(text) => text.split(',').map(|item| item.trim().to_owned()).collect(),
        Value::List(items) => {
            let texts = items.iter().map(|item| match item {
                Value::Text(text) => Some(text.clone()),
                _ => None,
            });
            texts.collect::<Option<_>>()?
        }
        _ => return None,
    };
    (texts.len() <= LIST_MAX).then_some(texts)
}

fn show_texts(texts: &[String]) -> Shown {
    let texts: Vec<_> = texts.iter().map(|text| quoted(text)).collect();
    Shown::Value(format!("[{}]", texts.join(", ")))
}

/// Shows names and values as an inline table.
pub(super) fn show_table<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)>) -> Shown {
    let pairs: Vec<_> =
        pairs.map(|(name, value)| format!("{} = {}", quoted(name), quoted(value))).collect();
    Shown::Value(if pairs.is_empty() {
        "{}".to_owned()
    } else {
        format!("{{ {} }}", pairs.join(", "))
    })
}

/// A type whose values are written as text.
pub(super) trait Textual: Sized {
    /// Whether values are hidden, also those that are refused: problems are logged.
    const IS_SECRET: bool = false;

    /// Shows the setting.
    fn show(&self) -> Shown;
}

/// The rule of a textual setting.
pub(super) struct Text<T> {
    pub(super) parse: fn(&str) -> Option<T>,
    /// The rule, as a phrase that follows "must be".
    pub(super) must_be: &'static str,
    pub(super) remedy: &'static str,
}

impl<T: Textual> Setting for T {
    type Rule = Text<T>;

    fn parse(input: &Input, rule: &Text<T>) -> Option<Self> {
        input.text().and_then(rule.parse)
    }

    fn show(&self) -> Shown {
        Textual::show(self)
    }

    fn must_be(rule: &Text<T>) -> String {
        rule.must_be.to_owned()
    }

    fn found(input: &Input) -> String {
        match input.text() {
            Some(text) if T::IS_SECRET => format!("{} bytes long", text.len()),
            Some(text) => format!("{text:?}"),
            None if T::IS_SECRET => "not a text".to_owned(),
            None => input.value.describe(),
        }
    }

    fn remedy(_: &Input, rule: &Text<T>) -> String {
        rule.remedy.to_owned()
    }
}

impl Textual for String {
    fn show(&self) -> Shown {
        Shown::text(self)
    }
}

impl Textual for PathBuf {
    fn show(&self) -> Shown {
        Shown::text(&self.display().to_string())
    }
}

/// Checks for the name or the IPv4 address of a host.
fn is_host(text: &str) -> bool {
    let named = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    (1..=253).contains(&text.len()) && text.bytes().all(named)
}

/// Checks for `host:port`, with an IPv6 host in brackets.
fn is_server(server: &str) -> bool {
    let Some((host, port)) = server.rsplit_once(':') else { return false };
    let host_valid = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => is_host(host),
    };
    let digits = port.bytes().all(|byte| byte.is_ascii_digit());
    host_valid && digits && port.parse::<u16>().is_ok_and(|port| port > 0)
}

/// Units of durations, longest first, in milliseconds.
const UNITS: [(&str, u64); 5] =
    [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// Parses a whole number and a unit: `250ms`, `1s`, `5m`, `12h`, `7d`.
fn parse_duration(text: &str) -> Option<Duration> {
    let digits = text.find(|letter: char| !letter.is_ascii_digit())?;
    let (number, unit) = text.split_at(digits);
    let (_, millis) = UNITS.iter().find(|(name, _)| *name == unit)?;
    number.parse::<u64>().ok()?.checked_mul(*millis).map(Duration::from_millis)
}

/// Shows a duration in the largest unit that divides it.
fn show_duration(duration: Duration) -> String {
    let whole = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let fits = |millis: u64| whole > 0 && whole.is_multiple_of(millis);
    match UNITS.iter().find(|(_, millis)| fits(*millis)) {
        Some((name, millis)) => format!("{}{name}", whole / millis),
        None => "0s".to_owned(),
    }
}

/// Shows a whole number with commas between its thousands.
fn grouped(number: impl Display) -> String {
    let digits = number.to_string();
    let (sign, digits) = digits.strip_prefix('-').map_or(("", &*digits), |rest| ("-", rest));
    let mut text = sign.to_owned();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Shows a text as a basic TOML string.
pub(super) fn quoted(text: &str) -> String {
    let mut quoted = String::from('"');
    for letter in text.chars() {
        match letter {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            letter if letter.is_control() => {
                quoted.push_str(&format!("\\u{:04X}", u32::from(letter)));
            }
            letter => quoted.push(letter),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_need_a_unit() {
        for (text, millis) in
            [("0s", 0), ("250ms", 250), ("1s", 1_000), ("90m", 5_400_000), ("7d", 604_800_000)]
        {
            assert_eq!(parse_duration(text), Some(Duration::from_millis(millis)), "{text}");
            let shown = show_duration(Duration::from_millis(millis));
            assert_eq!(parse_duration(&shown), Some(Duration::from_millis(millis)), "{shown}");
        }
        for text in ["", "1", "s", "1.5s", "-1s", "1 s", "1w", "1sm", "99999999999999999d"] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
        assert_eq!(show_duration(Duration::from_millis(90_000)), "90s");
    }

    #[test]
    fn servers_need_a_host_and_a_port() {
        for good in ["a:1", "kafka-1.example_x:9092", "10.0.0.1:65535", "[::1]:9042"] {
            assert!(is_server(good), "{good}");
        }
        for bad in ["", "a", ":1", "a:0", "a:65536", "a:+1", "::1:9042", "[x]:1", "a b:1", "a:"] {
            assert!(!is_server(bad), "{bad}");
        }
    }

    #[test]
    fn thousands_are_separated() {
        let shown: Vec<_> = [0, 999, 1_000, -12_345, 1_234_567].map(grouped).into();
        assert_eq!(shown, ["0", "999", "1,000", "-12,345", "1,234,567"]);
    }
}
