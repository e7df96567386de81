//! Types of settings that other modules use: mode, identity, secrets.

use std::fmt;

use super::value::{Shown, Textual};

/// Where a node keeps its log and store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// A single node, with log and store in one folder.
    Embedded,
    /// Kafka and a CQL database, shared by any number of nodes.
    Distributed,
}

impl Mode {
    const ALL: [Self; 2] = [Self::Embedded, Self::Distributed];

    /// Returns the name as the setting `mode` spells it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Embedded => "embedded",
            Self::Distributed => "distributed",
        }
    }

    pub(super) fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mode| mode.name() == name)
    }
}

impl Textual for Mode {
    fn show(&self) -> Shown {
        Shown::text(self.name())
    }
}

/// Names that the header `Host` may have.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Hosts(pub Vec<String>);

/// Where the user id of a request comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    /// The body. The caller is a gateway that has authenticated the user.
    Trusted,
    /// The header of this name, in lower case.
    Header(String),
}

/// Headers that have another meaning, in HTTP or in coupond's API.
const HEADERS_IN_USE: [&str; 9] = [
    "authorization",
    "connection",
    "content-length",
    "content-type",
    "expect",
    "host",
    "idempotency-key",
    "prefer",
    "transfer-encoding",
];

impl Identity {
    pub(super) fn parse(text: &str) -> Option<Self> {
        if text == "trusted" {
            return Some(Self::Trusted);
        }
        let name = text.strip_prefix("header:")?;
        let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        // Header names are case-insensitive; one spelling makes them comparable.
        let name = name.to_ascii_lowercase();
        let valid = (1..=128).contains(&name.len())
            && name.bytes().all(token)
            && !HEADERS_IN_USE.contains(&&*name);
        valid.then_some(Self::Header(name))
    }
}

impl Textual for Identity {
    fn show(&self) -> Shown {
        match self {
            Self::Trusted => Shown::text("trusted"),
            Self::Header(name) => Shown::text(&format!("header:{name}")),
        }
    }
}

/// A text that is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Returns the text itself. Do not log it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("hidden")
    }
}

impl Textual for Option<Secret> {
    const IS_SECRET: bool = true;

    fn show(&self) -> Shown {
        Shown::Secret { is_set: self.is_some() }
    }
}
