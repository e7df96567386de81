//! The kinds of settings: how each is read from a value, checked, stored and shown.

use std::{fmt::Display, ops::RangeInclusive, time::Duration};

use super::Config;

/// Most servers that a list may name: a client needs a few to find the others.
const SERVERS_MAX: usize = 100;

/// A value as a layer gave it.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Text(String),
    Integer(i64),
    Flag(bool),
    List(Vec<Self>),
    /// What no key takes, by the name of its TOML type.
    Other(&'static str),
}

impl Value {
    /// What it is, for a problem's text.
    fn describe(&self) -> String {
        match self {
            Self::Text(text) => format!("{text:?}"),
            Self::Integer(number) => grouped(*number),
            Self::Flag(flag) => flag.to_string(),
            Self::List(items) => {
                let items: Vec<_> = items.iter().map(Self::describe).collect();
                format!("[{}]", items.join(", "))
            }
            Self::Other(kind) => format!("a {kind}"),
        }
    }
}

/// A setting's place in [`Config`], with the rule for its values.
pub(super) enum Slot {
    Flag(fn(&mut Config) -> &mut bool),
    U32(fn(&mut Config) -> &mut u32, RangeInclusive<u32>),
    U64(fn(&mut Config) -> &mut u64, RangeInclusive<u64>),
    Usize(fn(&mut Config) -> &mut usize, RangeInclusive<usize>),
    Duration(fn(&mut Config) -> &mut Duration, RangeInclusive<Duration>),
    /// Anything that is written as one text.
    Text {
        /// Stores a valid text; `false` and no change for any other.
        set: fn(&mut Config, &str) -> bool,
        show: fn(&Config) -> String,
        /// Follows "must be".
        rule: &'static str,
    },
    /// Servers as `host:port`, with the port that such servers usually have.
    Servers(fn(&mut Config) -> &mut Vec<String>, u16),
    /// A text that is never shown.
    Secret {
        slot: fn(&mut Config) -> &mut Option<String>,
        valid: fn(&str) -> bool,
        rule: &'static str,
    },
}

/// A value that a key does not take.
#[derive(Debug)]
pub(super) struct Refused {
    /// What was found and which rule it breaks.
    pub(super) fault: String,
    /// What to do.
    pub(super) remedy: String,
}

impl Slot {
    /// Checks `value` and stores it. `word` is the text of a value that was not written as TOML
    /// in a file: a key that takes text takes it as it stands, so that a token of digits is one.
    pub(super) fn assign(
        &self,
        config: &mut Config,
        value: &Value,
        word: Option<&str>,
    ) -> Result<(), Refused> {
        let stored = match (self, value) {
            (Self::Flag(slot), Value::Flag(flag)) => {
                *slot(config) = *flag;
                true
            }
            (Self::U32(slot, range), Value::Integer(number)) => {
                store(slot(config), u32::try_from(*number).ok(), range)
            }
            (Self::U64(slot, range), Value::Integer(number)) => {
                store(slot(config), u64::try_from(*number).ok(), range)
            }
            (Self::Usize(slot, range), Value::Integer(number)) => {
                store(slot(config), usize::try_from(*number).ok(), range)
            }
            (Self::Duration(slot, range), Value::Text(text)) => {
                store(slot(config), parse_duration(text), range)
            }
            (Self::Servers(slot, _), value) => {
                servers(value).map(|servers| *slot(config) = servers).is_some()
            }
            (Self::Text { set, .. }, value) => {
                text(value, word).is_some_and(|text| set(config, text))
            }
            (Self::Secret { slot, valid, .. }, value) => {
                let secret = text(value, word).filter(|text| valid(text));
                secret.map(|text| *slot(config) = Some(text.to_owned())).is_some()
            }
            _ => false,
        };
        if stored { Ok(()) } else { Err(self.refuse(value, word)) }
    }

    fn refuse(&self, value: &Value, word: Option<&str>) -> Refused {
        let found = match (self, text(value, word)) {
            (Self::Secret { .. }, Some(text)) => format!("{} bytes long", text.len()),
            (Self::Secret { .. }, None) => "of another kind".to_owned(),
            (Self::Text { .. }, Some(text)) => format!("{text:?}"),
            _ => value.describe(),
        };
        let remedy = match (self, value) {
            (Self::Duration(..), Value::Integer(number)) => {
                format!("add the unit, for example \"{number}s\" or \"{number}ms\"")
            }
            (Self::Duration(..), _) => "write for example \"1s\", \"250ms\" or \"7d\"".to_owned(),
            (Self::Flag(_), _) => "write true or false without quotes".to_owned(),
            (Self::U32(..) | Self::U64(..) | Self::Usize(..), Value::Text(_)) => {
                "write a number without quotes".to_owned()
            }
            (Self::U32(..) | Self::U64(..) | Self::Usize(..), _) => {
                "give a number in this range".to_owned()
            }
            (Self::Servers(_, port), _) => format!("write for example [\"10.0.0.1:{port}\"]"),
            (Self::Text { .. } | Self::Secret { .. }, _) => "give such a text".to_owned(),
        };
        Refused { fault: format!("is {found}, must be {}", self.rule()), remedy }
    }

    /// What a value must be, as a phrase that follows "must be".
    pub(super) fn rule(&self) -> String {
        fn whole<T: Display>(range: &RangeInclusive<T>) -> String {
            format!("a whole number from {} to {}", grouped(range.start()), grouped(range.end()))
        }
        match self {
            Self::Flag(_) => "true or false".to_owned(),
            Self::U32(_, range) => whole(range),
            Self::U64(_, range) => whole(range),
            Self::Usize(_, range) => whole(range),
            Self::Duration(_, range) => {
                let (start, end) = (show_duration(*range.start()), show_duration(*range.end()));
                format!("a duration from \"{start}\" to \"{end}\"")
            }
            Self::Servers(..) => format!("a list of \"host:port\", at most {SERVERS_MAX}"),
            Self::Text { rule, .. } | Self::Secret { rule, .. } => (*rule).to_owned(),
        }
    }

    /// The setting as TOML; none: a secret, which is never shown.
    pub(super) fn show(&self, config: &Config) -> Option<String> {
        // Slots lead to places that can be written, hence a copy.
        let mut config = config.clone();
        Some(match self {
            Self::Flag(slot) => slot(&mut config).to_string(),
            Self::U32(slot, _) => slot(&mut config).to_string(),
            Self::U64(slot, _) => slot(&mut config).to_string(),
            Self::Usize(slot, _) => slot(&mut config).to_string(),
            Self::Duration(slot, _) => quoted(&show_duration(*slot(&mut config))),
            Self::Servers(slot, _) => {
                let servers: Vec<_> =
                    slot(&mut config).iter().map(|server| quoted(server)).collect();
                format!("[{}]", servers.join(", "))
            }
            Self::Text { show, .. } => quoted(&show(&config)),
            Self::Secret { .. } => return None,
        })
    }

    /// Whether a secret is set; none: not a secret.
    pub(super) fn secret_set(&self, config: &Config) -> Option<bool> {
        match self {
            Self::Secret { slot, .. } => Some(slot(&mut config.clone()).is_some()),
            _ => None,
        }
    }
}

fn store<T: PartialOrd>(slot: &mut T, value: Option<T>, range: &RangeInclusive<T>) -> bool {
    match value.filter(|value| range.contains(value)) {
        Some(value) => {
            *slot = value;
            true
        }
        None => false,
    }
}

fn text<'a>(value: &'a Value, word: Option<&'a str>) -> Option<&'a str> {
    match value {
        Value::Text(text) => Some(text),
        _ => word,
    }
}

/// A list, or one text with commas.
fn servers(value: &Value) -> Option<Vec<String>> {
    let servers: Vec<String> = match value {
        Value::Text(text) if text.trim().is_empty() => Vec::new(),
        Value::Text(text) => text.split(',').map(|server| server.trim().to_owned()).collect(),
        Value::List(items) => {
            let texts = items.iter().map(|item| match item {
                Value::Text(text) => Some(text.clone()),
                _ => None,
            });
            texts.collect::<Option<_>>()?
        }
        _ => return None,
    };
    let valid = servers.len() <= SERVERS_MAX && servers.iter().all(|server| is_server(server));
    valid.then_some(servers)
}

/// Whether `server` is `host:port`, with an IPv6 host in brackets.
fn is_server(server: &str) -> bool {
    let Some((host, port)) = server.rsplit_once(':') else { return false };
    let named = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    let host_valid = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.len() <= 253 && host.bytes().all(named),
    };
    let digits = port.bytes().all(|byte| byte.is_ascii_digit());
    host_valid && digits && port.parse::<u16>().is_ok_and(|port| port > 0)
}

/// Units of durations, longest first, in milliseconds.
const UNITS: [(&str, u64); 5] =
    [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// A whole number and a unit: `250ms`, `1s`, `5m`, `12h`, `7d`.
fn parse_duration(text: &str) -> Option<Duration> {
    let digits = text.find(|letter: char| !letter.is_ascii_digit())?;
    let (number, unit) = text.split_at(digits);
    let (_, millis) = UNITS.iter().find(|(name, _)| *name == unit)?;
    number.parse::<u64>().ok()?.checked_mul(*millis).map(Duration::from_millis)
}

/// The duration in the largest unit that divides it.
fn show_duration(duration: Duration) -> String {
    let whole = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let fits = |millis: u64| whole > 0 && whole.is_multiple_of(millis);
    match UNITS.iter().find(|(_, millis)| fits(*millis)) {
        Some((name, millis)) => format!("{}{name}", whole / millis),
        None => "0s".to_owned(),
    }
}

/// A whole number with commas between its thousands.
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

/// A text as a basic TOML string.
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
    fn durations_are_a_whole_number_and_a_unit() {
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
    fn servers_are_a_host_and_a_port() {
        for good in ["a:1", "kafka-1.example_x:9092", "10.0.0.1:65535", "[::1]:9042"] {
            assert!(is_server(good), "{good}");
        }
        for bad in ["", "a", ":1", "a:0", "a:65536", "a:+1", "::1:9042", "[x]:1", "a b:1", "a:"] {
            assert!(!is_server(bad), "{bad}");
        }
    }

    #[test]
    fn thousands_are_set_apart() {
        let shown: Vec<_> = [0, 999, 1_000, -12_345, 1_234_567].map(grouped).into();
        assert_eq!(shown, ["0", "999", "1,000", "-12,345", "1,234,567"]);
    }
}
