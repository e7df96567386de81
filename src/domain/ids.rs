//! Ids: campaigns, users, idempotency keys, positions, times.

use std::{borrow::Borrow, fmt, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A record's offset in its partition. Offsets have gaps: the next one may be more than 1 higher.
pub type Offset = u64;

/// Number of a partition of the request log, counted from 0.
pub type Partition = u32;

/// A coupon's place in its campaign: 1, 2, 3 … without a gap. 0 is never issued.
pub type Sequence = u32;

/// A text that breaks the rule of an id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be {rule}")]
pub struct InvalidId {
    /// The rule, as a phrase that follows "must be".
    pub rule: &'static str,
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $rule:literal, $valid:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The rule of a valid text, as a phrase that follows "must be".
            pub const RULE: &'static str = $rule;

            /// Parses `text`.
            ///
            /// # Errors
            /// [`InvalidId`] with the rule that `text` breaks.
            pub fn parse(text: &str) -> Result<Self, InvalidId> {
                let valid: fn(&[u8]) -> bool = $valid;
                if valid(text.as_bytes()) {
                    Ok(Self(Arc::from(text)))
                } else {
                    Err(InvalidId { rule: Self::RULE })
                }
            }

            /// Returns the id as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Text;

                impl serde::de::Visitor<'_> for Text {
                    type Value = $name;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($name::RULE)
                    }

                    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<$name, E> {
                        $name::parse(text).map_err(E::custom)
                    }
                }

                deserializer.deserialize_str(Text)
            }
        }
    };
}

text_id!(
    /// Names a campaign; also the key of its records in the log.
    CampaignId,
    "1 to 64 of a-z, 0-9 and '-', not starting with '-'",
    |text| {
        let rest_valid = |byte: &u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-');
        matches!(text.first(), Some(b'a'..=b'z' | b'0'..=b'9'))
            && text.len() <= 64
            && text.iter().all(rest_valid)
    }
);

text_id!(
    /// Names the user who asks for a coupon.
    UserId,
    "1 to 255 visible ASCII characters without spaces, and neither '.' nor '..'",
    // The ids of identity providers have up to 255 ASCII characters. Clients resolve `.` and `..` in a
    // path.
    |text| is_visible(text, UserId::BYTES_MAX) && !matches!(text, b"." | b"..")
);

text_id!(
    /// Names a process. Each draws its name anew at start, so that no other has it.
    ProcessName,
    "16 of 0-9 and a-f",
    |text| text.len() == 16 && text.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
);

impl ProcessName {
    /// Returns the name for a random number.
    #[must_use]
    pub fn of(number: u64) -> Self {
        Self(Arc::from(format!("{number:016x}")))
    }

    /// Returns the number for which it is the name.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.0.chars().fold(0, |number, digit| {
            number << 4 | u64::from(digit.to_digit(16).unwrap_or_default())
        })
    }
}

text_id!(
    /// A client repeats this key to get the same coupon again.
    IdempotencyKey,
    "1 to 255 visible ASCII characters without spaces, not beginning with a double quote",
    // Quotes around the header's value are not part of the key, so a key that began with one could not
    // be told from a quoted one.
    |text| is_visible(text, IdempotencyKey::BYTES_MAX) && !text.starts_with(b"\"")
);

impl UserId {
    /// Most bytes of a user id.
    pub const BYTES_MAX: usize = 255;
}

impl IdempotencyKey {
    /// Most bytes of a key.
    pub const BYTES_MAX: usize = 255;
}

/// Returns whether `text` has 1 to `bytes_max` bytes, all of them visible ASCII.
fn is_visible(text: &[u8], bytes_max: usize) -> bool {
    (1..=bytes_max).contains(&text.len()) && text.iter().all(u8::is_ascii_graphic)
}

/// A partition in one epoch of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogPartition {
    /// Epoch of the log. See [`Position`].
    pub log_epoch: u32,
    /// The partition.
    pub partition: Partition,
}

/// A record's place in the log. It identifies a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Position {
    /// Epoch of the log: a log that replaces a lost one has a new epoch. Always 1 today.
    pub log_epoch: u32,
    /// Partition within the log.
    pub partition: Partition,
    /// Offset within the partition.
    pub offset: Offset,
}

/// Milliseconds since the Unix epoch.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// The latest time that is accepted: 9999-12-31T23:59:59.999Z, the last one of RFC 3339.
    pub const MAX: Self = Self(253_402_300_799_999);

    /// Returns whether the time is between the Unix epoch and [`Self::MAX`].
    #[must_use]
    pub fn is_representable(self) -> bool {
        (0..=Self::MAX.0).contains(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check<T>(parse: fn(&str) -> Result<T, InvalidId>, good: &[&str], bad: &[&str]) {
        for text in good {
            assert!(parse(text).is_ok(), "{text:?} should be accepted");
        }
        for text in bad {
            assert!(parse(text).is_err(), "{text:?} should be refused");
        }
    }

    #[test]
    fn ids_keep_their_rules() {
        let long = "a".repeat(65);
        check(CampaignId::parse, &["a", "0-", &long[..64]], &["", "-a", "A", "a_b", &long, "é"]);
        let long = "u".repeat(256);
        let visible: String = ('!'..='~').collect();
        let users = ["ada+promo@example.com", "a/b", "...", &visible, &long[..255]];
        check(UserId::parse, &users, &["", ".", "..", "a b", "a\u{7f}", "a\n", &long, "ü"]);
        let keys = ["K.1_:-", "dead-letter:3/17", "a\"", &visible[2..], &long[..255]];
        check(IdempotencyKey::parse, &keys, &["", "\"", "\"a\"", "a b", "é", &long]);
    }
}
