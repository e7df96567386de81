//! Types of settings that other modules use: mode, secrets, security.

use std::{collections::BTreeMap, fmt, path::PathBuf};

use super::value::{Input, Setting, Shown, Textual, show_table};

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

/// Origins of pages, as browsers write them in the header `Origin`; or `*` alone, for any.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Origins(pub Vec<String>);

impl Origins {
    /// Checks for an origin as a browser writes it: a scheme, a host in lower case, and the port unless it
    /// is the one of the scheme.
    pub(super) fn is_origin(text: &str) -> bool {
        let Some((scheme, place)) = text.split_once("://") else { return false };
        let in_scheme = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'+' | b'.' | b'-');
        let in_host = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_' | b':' | b'[' | b']');
        let usual = match scheme {
            "http" => ":80",
            "https" => ":443",
            _ => "",
        };
        let port = match place.rsplit_once(':') {
            Some((_, port)) if !port.ends_with(']') => Some(port),
            _ => None,
        };
        scheme.starts_with(|first: char| first.is_ascii_lowercase())
            && scheme.bytes().all(in_scheme)
            && (1..=253).contains(&place.len())
            && place.bytes().all(in_host)
            && port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0))
            && (usual.is_empty() || !place.ends_with(usual))
    }
}

/// Declares an enum whose values a setting spells as a word.
macro_rules! words {
    ($(#[doc = $about:literal])+ $Type:ident { $($(#[doc = $doc:literal])+ $Value:ident = $word:literal,)+ }) => {
        $(#[doc = $about])+
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $Type {
            $($(#[doc = $doc])+ $Value,)+
        }

        impl $Type {
            /// Returns the word by which the setting spells it.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$Value => $word,)+
                }
            }

            pub(super) fn parse(name: &str) -> Option<Self> {
                [$(Self::$Value),+].into_iter().find(|value| value.name() == name)
            }
        }

        impl Textual for $Type {
            fn show(&self) -> Shown {
                Shown::text(self.name())
            }
        }
    };
}

words! {
    /// How a node speaks to Kafka.
    Security {
        /// In clear, without a login.
        Plaintext = "plaintext",
        /// Over TLS. The certificate of the node, if it has one, is its login.
        Tls = "tls",
        /// In clear, with a login.
        SaslPlaintext = "sasl_plaintext",
        /// Over TLS, with a login.
        SaslTls = "sasl_tls",
    }
}

impl Security {
    /// Returns whether connections are encrypted.
    #[must_use]
    pub fn has_tls(self) -> bool {
        matches!(self, Self::Tls | Self::SaslTls)
    }

    /// Returns whether the node logs in with a user and a password.
    #[must_use]
    pub fn has_sasl(self) -> bool {
        matches!(self, Self::SaslPlaintext | Self::SaslTls)
    }
}

words! {
    /// How a node proves to Kafka that it knows its password.
    SaslMechanism {
        /// Sends the password.
        Plain = "PLAIN",
        /// A challenge, hashed with SHA-256.
        ScramSha256 = "SCRAM-SHA-256",
        /// A challenge, hashed with SHA-512.
        ScramSha512 = "SCRAM-SHA-512",
    }
}

words! {
    /// What the holder of a key may do on the admin listener.
    Role {
        /// Look: every `GET`, without whole codes.
        Viewer = "viewer",
        /// Also see codes, and change campaigns.
        Operator = "operator",
        /// Also what has no way back: close, skip, crash.
        Owner = "owner",
    }
}

impl Role {
    /// Returns whether whoever has this role may do what `needed` may.
    #[must_use]
    pub fn may(self, needed: Self) -> bool {
        self as u8 >= needed as u8
    }
}

words! {
    /// Compression between a node and the database.
    Compression {
        /// None.
        None = "none",
        /// LZ4: fast.
        Lz4 = "lz4",
        /// Snappy.
        Snappy = "snappy",
    }
}

/// Properties of the Kafka library by their own names. `Debug` hides the values: some are secrets.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Properties(pub(super) BTreeMap<String, String>);

impl Properties {
    /// Returns all properties with their values. Do not log them.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (&**name, &**value))
    }
}

impl fmt::Debug for Properties {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.keys()).finish()
    }
}

impl Setting for Properties {
    type Rule = ();

    /// Takes nothing: each property is a value of its own ([`super::properties`]).
    fn parse(_: &Input, (): &()) -> Option<Self> {
        None
    }

    fn show(&self) -> Shown {
        let shown = self.0.iter().map(|(name, value)| {
            let is_secret = super::properties::is_secret(name);
            (&**name, if is_secret { "(hidden)" } else { &**value })
        });
        show_table(shown)
    }

    fn must_be((): &()) -> String {
        "a table of names and values that librdkafka takes".to_owned()
    }

    fn remedy(_: &Input, (): &()) -> String {
        "set one property, as in kafka.properties.socket.nagle.disable = true".to_owned()
    }
}

impl Textual for Option<String> {
    fn show(&self) -> Shown {
        Shown::text(self.as_deref().unwrap_or_default())
    }
}

impl Textual for Option<PathBuf> {
    fn show(&self) -> Shown {
        Shown::text(&self.as_deref().unwrap_or("".as_ref()).display().to_string())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_those_that_browsers_send() {
        for good in [
            "https://shop.example.com",
            "http://localhost:3000",
            "https://a_b.example:8443",
            "http://[::1]:3000",
            "http://[::1]",
            "capacitor://localhost",
            "chrome-extension://abcdefghijklmnop",
        ] {
            assert!(Origins::is_origin(good), "{good}");
        }
        for bad in [
            "*",
            "null",
            "shop.example.com",
            "https://Shop.example.com",
            "https://shop.example.com/",
            "https://shop.example.com:443",
            "http://shop.example.com:80",
            "https://*.example.com",
            "https://a.example:0",
            "https://a.example:",
            "https://",
            "://a",
        ] {
            assert!(!Origins::is_origin(bad), "{bad}");
        }
    }
}
