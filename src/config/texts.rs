//! Settings that are text: how each is parsed, and its rule in words.

use std::{ops::RangeInclusive, path::PathBuf};

use reqwest::Url;

use super::{
    identity::{Identity, jwks_url},
    listen::Listen,
    types::{Compression, Mode, SaslMechanism, Secret, Security},
    value::Text,
};
use crate::domain::identity_fold::IdentityFold;

pub(super) const MODE: Text<Mode> = Text {
    parse: Mode::parse,
    must_be: "\"embedded\" or \"distributed\"",
    remedy: "write one of these",
};

pub(super) const FOLDER: Text<PathBuf> = Text {
    parse: |text| (!text.is_empty() && !text.contains('\0')).then(|| PathBuf::from(text)),
    must_be: "the path of a folder",
    remedy: "write for example \"data\" or \"/var/lib/coupond\"",
};

pub(super) const TOPIC_PREFIX: Text<String> = Text {
    // A topic name has at most 249 bytes; the longest suffix is ".dead-letter".
    parse: |text| checked(text, 1..=237, text.bytes().all(is_topic_byte)),
    must_be: "1 to 237 of A-Z, a-z, 0-9 and '.', '_', '-'",
    remedy: "write for example \"outside.coupon.v1.issue\"",
};

pub(super) const GROUP: Text<String> = Text {
    parse: |text| checked(text, 1..=249, is_visible(text)),
    must_be: "1 to 249 visible ASCII characters without spaces",
    remedy: "write for example \"coupond\"",
};

pub(super) const KEYSPACE: Text<String> = Text {
    parse: |text| checked(text, 1..=48, is_keyspace(text)),
    must_be: "1 to 48 of a-z, 0-9 and '_', starting with a letter",
    remedy: "write for example \"coupond\"",
};

pub(super) const SECRET_KEY: Text<Option<Secret>> = Text {
    parse: |text| (text.len() >= 32).then(|| Some(text.into())),
    must_be: "at least 32 bytes long",
    remedy: "generate one, for example with `openssl rand -hex 32`",
};

pub(super) const TOKEN: Text<Option<Secret>> = Text {
    parse: |text| checked(text, 1..=1_024, is_visible(text)).map(|text| Some((&*text).into())),
    must_be: "1 to 1,024 visible ASCII characters without spaces",
    remedy: "generate one, for example with `openssl rand -hex 32`",
};

pub(super) const SECURITY: Text<Security> = Text {
    parse: Security::parse,
    must_be: "\"plaintext\", \"tls\", \"sasl_plaintext\" or \"sasl_tls\"",
    remedy: "write the protocol of the listener that kafka.brokers names",
};

pub(super) const SASL_MECHANISM: Text<SaslMechanism> = Text {
    parse: SaslMechanism::parse,
    must_be: "\"PLAIN\", \"SCRAM-SHA-256\" or \"SCRAM-SHA-512\"",
    remedy: "write the one for which the brokers have the user",
};

pub(super) const USER: Text<Option<String>> = Text {
    parse: |text| {
        let sound = text.len() <= 1_024 && !text.contains(char::is_control);
        sound.then(|| Some(text.to_owned()).filter(|text| !text.is_empty()))
    },
    must_be: "a text of at most 1,024 bytes without control characters",
    remedy: "write for example \"coupond\"",
};

pub(super) const PASSWORD: Text<Option<Secret>> = Text {
    parse: |text| checked(text, 1..=1_024, !text.contains('\0')).map(|text| Some((&*text).into())),
    must_be: "1 to 1,024 bytes long",
    remedy: "set the password of the user, or leave it out",
};

pub(super) const FILE: Text<Option<PathBuf>> = Text {
    parse: |text| {
        let path = || Some(PathBuf::from(text)).filter(|path| !path.as_os_str().is_empty());
        (!text.contains('\0')).then(path)
    },
    must_be: "the path of a file",
    remedy: "write for example \"/etc/coupond/ca.pem\"",
};

pub(super) const DATACENTER: Text<Option<String>> = Text {
    parse: USER.parse,
    must_be: "the name of a datacenter: at most 1,024 bytes without control characters",
    remedy: "write the name that `nodetool status` shows",
};

pub(super) const COMPRESSION: Text<Compression> = Text {
    parse: Compression::parse,
    must_be: "\"none\", \"lz4\" or \"snappy\"",
    remedy: "write one of these",
};

pub(super) const LISTEN: Text<Listen> = Text {
    parse: |text| text.parse().ok(),
    must_be: "an IP address and a port, or unix: and the absolute path of a socket (at most 107 bytes)",
    remedy: "write for example \"127.0.0.1:8080\", \"[::1]:8080\" or \"unix:/run/coupond/api.sock\"",
};

pub(super) const PATH_PREFIX: Text<String> = Text {
    parse: |text| {
        let is_plain =
            text.bytes().all(is_path_byte) && !text.ends_with('/') && !text.contains("//");
        checked(text, 0..=200, text.is_empty() || (text.starts_with('/') && is_plain))
    },
    must_be: "empty, or a path of at most 200 of A-Z, a-z, 0-9 and '/', '-', '.', '_', '~' that begins \
              with '/' and does not end with one",
    remedy: "write for example \"/shop/coupons\"",
};

pub(super) const IDENTITY: Text<Identity> = Text {
    parse: Identity::parse,
    must_be: "\"trusted\", \"jwt\" or \"header:NAME\", where NAME is an HTTP header that clients, \
              proxies and coupond use for nothing else",
    remedy: "write for example \"header:x-user-id\"",
};

pub(super) const IDENTITY_FOLD: Text<IdentityFold> = Text {
    parse: IdentityFold::parse,
    must_be: "\"none\" or \"lower\"",
    remedy: "write one of these",
};

pub(super) const JWKS_URL: Text<Option<Url>> = Text {
    // An empty text is the default: no URL.
    parse: |text| if text.is_empty() { Some(None) } else { jwks_url(text).map(Some) },
    must_be: "an https:// URL, or an http:// URL on loopback, of at most 1,024 bytes, without user, \
              password and fragment",
    remedy: "write what the issuer names as jwks_uri, for example \
             \"https://login.example.com/.well-known/jwks.json\"",
};

pub(super) const CLAIM_VALUE: Text<Option<String>> = Text {
    parse: USER.parse,
    must_be: USER.must_be,
    remedy: "write what the issuer puts into its tokens",
};

pub(super) const CLAIM: Text<String> = Text {
    parse: |text| checked(text, 1..=256, !text.contains(char::is_control)),
    must_be: "the name of a claim: 1 to 256 bytes without control characters",
    remedy: "write for example \"sub\" or \"email\"",
};

fn checked(text: &str, bytes: RangeInclusive<usize>, is_valid: bool) -> Option<String> {
    (is_valid && bytes.contains(&text.len())).then(|| text.to_owned())
}

fn is_visible(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_graphic())
}

fn is_topic_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-')
}

fn is_path_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'-' | b'.' | b'_' | b'~')
}

fn is_keyspace(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_lowercase())
        && text.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_'))
}
