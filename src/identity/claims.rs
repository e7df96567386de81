//! A JSON object of a token, in which every name that is asked for is given at most once.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::value::RawValue;

use crate::domain::ids::Timestamp;

/// The members of an object in their order. Parsers differ in which of two equal names they keep, so a
/// caller must see both.
#[derive(Debug)]
pub(super) struct Claims<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

/// A name that is given more than once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Twice;

/// A name, as text without a copy where it has no escapes.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'a> Claims<'a> {
    /// Parses an object; `None` if `json` is none.
    pub(super) fn parse(json: &'a [u8]) -> Option<Self> {
        serde_json::from_slice(json).ok()
    }

    /// Returns the value of a name.
    ///
    /// # Errors
    /// [`Twice`].
    pub(super) fn one(&self, name: &str) -> Result<Option<&'a RawValue>, Twice> {
        let mut values = self.0.iter().filter(|(other, _)| other == name).map(|(_, value)| *value);
        let value = values.next();
        if values.next().is_some() { Err(Twice) } else { Ok(value) }
    }
}

impl<'de> Deserialize<'de> for Claims<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;

        impl<'de> Visitor<'de> for Members {
            type Value = Claims<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::with_capacity(12);
                while let Some((Text(name), value)) = map.next_entry()? {
                    members.push((name, value));
                }
                Ok(Claims(members))
            }
        }

        deserializer.deserialize_map(Members)
    }
}

/// Returns the text of a JSON string.
pub(super) fn text(value: &RawValue) -> Option<Cow<'_, str>> {
    serde_json::from_str(value.get()).ok().map(|Text(text)| text)
}

/// Returns whether a value is this text, or a list of texts with it (RFC 7519, `aud`).
pub(super) fn is_or_has(value: &RawValue, wanted: &str) -> bool {
    if let Some(text) = text(value) {
        return text == wanted;
    }
    let list: Option<Vec<Text<'_>>> = serde_json::from_str(value.get()).ok();
    list.is_some_and(|list| list.iter().any(|Text(text)| text == wanted))
}

/// Returns the text of a user id: a string, or a whole number, which counts as its digits.
pub(super) fn text_or_digits(value: &RawValue) -> Option<Cow<'_, str>> {
    let json = value.get();
    if json.bytes().all(|byte| byte.is_ascii_digit()) { Some(json.into()) } else { text(value) }
}

/// Returns a number of seconds since the epoch as a time (RFC 7519, `NumericDate`), if it can be
/// represented. This refuses a number of milliseconds: it would never come.
pub(super) fn time(value: &RawValue) -> Option<Timestamp> {
    let json = value.get();
    // A number and nothing else: `f64` would also parse words such as `inf`.
    let is_number = json.starts_with(|first: char| first.is_ascii_digit() || first == '-');
    let seconds = json.parse::<f64>().ok().filter(|seconds| is_number && seconds.is_finite())?;
    // The cast saturates, and such a number cannot be represented.
    let time = Timestamp((seconds * 1_000.0) as i64);
    time.is_representable().then_some(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(json: &str) -> Box<RawValue> {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn times_are_numbers_of_seconds() {
        for (json, millis) in [
            ("0", Some(0)),
            ("1800000000", Some(1_800_000_000_000)),
            ("1800000000.5", Some(1_800_000_000_500)),
            ("1.8e9", Some(1_800_000_000_000)),
            ("253402300799", Some(253_402_300_799_000)),
            ("253402300800", None),
            ("1800000000000", None),
            ("99999999999999999999999999", None),
            ("1e400", None),
            ("-1", None),
            ("\"1800000000\"", None),
            ("null", None),
            ("true", None),
            ("[1800000000]", None),
        ] {
            assert_eq!(time(&raw(json)).map(|time| time.0), millis, "{json}");
        }
    }

    #[test]
    fn users_are_texts_or_digits() {
        for (json, user) in [
            ("\"ada\"", Some("ada")),
            ("\"\\u0061da\"", Some("ada")),
            ("4711", Some("4711")),
            ("123456789012345678901234567890", Some("123456789012345678901234567890")),
            ("1.0", None),
            ("1e3", None),
            ("-1", None),
            ("true", None),
            ("null", None),
            ("[\"ada\"]", None),
        ] {
            assert_eq!(text_or_digits(&raw(json)).as_deref(), user, "{json}");
        }
    }

    #[test]
    fn an_audience_is_a_text_or_a_list() {
        for (json, has) in [
            ("\"shop\"", true),
            ("[\"a\",\"shop\"]", true),
            ("[\"shop\",1]", false),
            ("[[\"shop\"]]", false),
            ("{\"shop\":1}", false),
            ("\"shop \"", false),
            ("[]", false),
            ("null", false),
        ] {
            assert_eq!(is_or_has(&raw(json), "shop"), has, "{json}");
        }
    }

    #[test]
    fn a_name_is_given_once() {
        let claims = Claims::parse(br#"{"a":1,"b":2,"\u0061":3}"#).unwrap();
        assert_eq!(claims.one("a").err(), Some(Twice));
        assert_eq!(claims.one("b").unwrap().map(RawValue::get), Some("2"));
        assert!(claims.one("c").unwrap().is_none());
        for bad in ["", "[]", "1", "{", "{} {}", "{\"a\"}"] {
            assert!(Claims::parse(bad.as_bytes()).is_none(), "{bad}");
        }
    }
}
