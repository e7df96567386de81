//! Campaign definitions: the terms, declared once, and the versions that control records make.

mod implausible;

use std::ops::RangeInclusive;

use serde::{Deserialize, Deserializer, Serialize};

use super::{
    code::CodeFormat,
    fault::Fault,
    ids::{CampaignId, Position, Timestamp},
};

/// Largest quota of a campaign. Schema buckets and holder tables are sized for it.
pub const QUOTA_MAX: u32 = 100_000_000;

/// Largest number of coupons that one user may hold in a campaign.
pub const PER_USER_LIMIT_MAX: u16 = 1_000;

/// Most characters of a title: it fits one line of a page or a terminal.
pub const TITLE_CHARS_MAX: u16 = 120;

/// Version of the decision rules of this binary. Definitions with another version are not decided.
pub const RULES_VERSION: u16 = 1;

/// Users in one bucket of the by-user view, and most buckets of a campaign. Buckets are few and
/// large so that the rows of one batch share a bucket and are written together.
const USERS_PER_BUCKET: u32 = 100_000;
const USER_BUCKETS_MAX: u32 = 16;

/// The kind of a term's values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TermKind {
    /// A whole number in a range.
    Whole(RangeInclusive<u32>),
    /// A time, or none.
    Time {
        /// The meaning of no time for people, for example "never".
        none: &'static str,
    },
    /// Text of at least one character and without control characters, or none.
    Text {
        /// Most Unicode scalar values.
        chars_max: u16,
    },
    /// Yes or no.
    Flag,
    /// A [`CodeFormat`].
    Code,
}

/// Who sees a term in views.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Audience {
    /// Everyone.
    Public,
    /// Operators.
    Admin,
}

/// The value of a term, for code that treats all terms alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TermValue {
    /// Of [`TermKind::Whole`].
    Whole(u32),
    /// Of [`TermKind::Time`].
    Time(Timestamp),
    /// Of [`TermKind::Text`].
    Text(String),
    /// Of [`TermKind::Flag`].
    Flag(bool),
    /// Of [`TermKind::Code`].
    Code(CodeFormat),
}

/// A value of another kind than the term's, or a missing value of a term that needs one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{} does not take this value", .0.name())]
pub struct WrongValue(pub Term);

/// A Rust type that holds the values of a [`TermKind`].
trait TermType: Sized {
    fn to_value(&self) -> Option<TermValue>;

    fn from_value(value: Option<TermValue>) -> Option<Self>;

    /// Returns whether there is no value, so that JSON leaves the member out.
    fn is_none(&self) -> bool {
        self.to_value().is_none()
    }
}

impl TermType for u32 {
    fn to_value(&self) -> Option<TermValue> {
        Some(TermValue::Whole(*self))
    }

    fn from_value(value: Option<TermValue>) -> Option<Self> {
        if let Some(TermValue::Whole(number)) = value { Some(number) } else { None }
    }
}

impl TermType for u16 {
    fn to_value(&self) -> Option<TermValue> {
        Some(TermValue::Whole(u32::from(*self)))
    }

    fn from_value(value: Option<TermValue>) -> Option<Self> {
        u32::from_value(value).and_then(|number| Self::try_from(number).ok())
    }
}

impl TermType for Option<Timestamp> {
    fn to_value(&self) -> Option<TermValue> {
        self.map(TermValue::Time)
    }

    fn from_value(value: Option<TermValue>) -> Option<Self> {
        match value {
            None => Some(None),
            Some(TermValue::Time(time)) => Some(Some(time)),
            Some(_) => None,
        }
    }
}

impl TermType for Option<String> {
    fn to_value(&self) -> Option<TermValue> {
        self.clone().map(TermValue::Text)
    }

    fn from_value(value: Option<TermValue>) -> Option<Self> {
        match value {
            None => Some(None),
            Some(TermValue::Text(text)) => Some(Some(text)),
            Some(_) => None,
        }
    }
}

impl TermType for bool {
    fn to_value(&self) -> Option<TermValue> {
        Some(TermValue::Flag(*self))
    }

    fn from_value(value: Option<TermValue>) -> Option<Self> {
        if let Some(TermValue::Flag(flag)) = value { Some(flag) } else { None }
    }
}

impl TermType for CodeFormat {
    fn to_value(&self) -> Option<TermValue> {
        Some(TermValue::Code(self.clone()))
    }

    fn from_value(value: Option<TermValue>) -> Option<Self> {
        if let Some(TermValue::Code(format)) = value { Some(format) } else { None }
    }
}

/// Declares [`Terms`], [`Amendment`] and [`Term`] from one list. An entry has a variant and a
/// field with its type and default, then kind, audience and a description, which is also the help
/// of the command line.
macro_rules! terms {
    (amendable { $($amendable:tt)+ } fixed { $($fixed:tt)+ }) => {
        terms!(@terms $($amendable)+ $($fixed)+);
        terms!(@amendment $($amendable)+);
    };
    (@terms $($term:ident $field:ident: $type:ty = $default:expr,
        $kind:expr, $audience:ident, $about:literal;)+) => {
        /// The settings of a campaign that an operator chooses.
        #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct Terms {
            $(
                #[doc = concat!($about, ".")]
                #[serde(skip_serializing_if = "TermType::is_none")]
                pub $field: $type,
            )+
        }

        /// A term by name.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Term {
            $(#[doc = concat!($about, ".")] $term,)+
        }

        impl Term {
            /// Every term, in the order in which they are shown.
            pub const ALL: &[Self] = &[$(Self::$term),+];
            /// The names of all terms in JSON and in columns.
            pub const NAMES: &[&str] = &[$(stringify!($field)),+];

            /// Returns the term's name in JSON, columns and messages.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$term => stringify!($field),)+ }
            }

            /// Returns the kind of the term's values.
            #[must_use]
            pub fn kind(self) -> TermKind {
                match self { $(Self::$term => $kind,)+ }
            }

            /// Returns who sees the term.
            #[must_use]
            pub fn audience(self) -> Audience {
                match self { $(Self::$term => Audience::$audience,)+ }
            }

            /// Describes the term in a few words.
            #[must_use]
            pub fn about(self) -> &'static str {
                match self { $(Self::$term => $about,)+ }
            }
        }

        impl Terms {
            /// Returns terms with this quota and the default of every other term.
            #[must_use]
            pub fn of(quota: u32) -> Self {
                Self { quota, ..Self { $($field: $default),+ } }
            }

            /// Returns the value of one term; `None` where there is none.
            #[must_use]
            pub fn get(&self, term: Term) -> Option<TermValue> {
                match term { $(Term::$term => self.$field.to_value(),)+ }
            }

            /// Sets one term.
            ///
            /// # Errors
            /// [`WrongValue`] if the value is of another kind, or missing.
            pub fn set(&mut self, term: Term, value: Option<TermValue>) -> Result<(), WrongValue> {
                let wrong = WrongValue(term);
                match term {
                    $(Term::$term => self.$field = TermType::from_value(value).ok_or(wrong)?,)+
                }
                Ok(())
            }
        }
    };
    (@amendment $($term:ident $field:ident: $type:ty = $default:expr,
        $kind:expr, $audience:ident, $about:literal;)+) => {
        /// A change of terms. A field that is `None` stays as it is.
        #[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct Amendment {
            $(
                #[doc = concat!("New value. ", $about, ".")]
                #[serde(skip_serializing_if = "Option::is_none")]
                #[serde(default, deserialize_with = "present")]
                pub $field: Option<$type>,
            )+
        }

        impl Term {
            /// The terms that can be amended, by name.
            pub const AMENDABLE_NAMES: &[&str] = &[$(stringify!($field)),+];
            /// The terms that can be amended.
            pub const AMENDABLE: &[Self] = &[$(Self::$term),+];
        }

        impl Amendment {
            /// Sets the new value of one term.
            ///
            /// # Errors
            /// [`WrongValue`], also for a term that cannot be amended.
            pub fn set(&mut self, term: Term, value: Option<TermValue>) -> Result<(), WrongValue> {
                let wrong = WrongValue(term);
                match term {
                    $(Term::$term => {
                        self.$field = Some(TermType::from_value(value).ok_or(wrong)?);
                    })+
                    _ => return Err(wrong),
                }
                Ok(())
            }

            /// Returns the new value of one term, `None` in it where it removes the value; `None` if the
            /// term stays as it is.
            #[must_use]
            pub fn get(&self, term: Term) -> Option<Option<TermValue>> {
                match term {
                    $(Term::$term => self.$field.as_ref().map(TermType::to_value),)+
                    _ => None,
                }
            }
        }

        impl Terms {
            /// Returns these terms after `amendment`.
            #[must_use]
            pub fn amended(&self, amendment: &Amendment) -> Self {
                let mut terms = self.clone();
                $(if let Some(value) = &amendment.$field { terms.$field = value.clone(); })+
                terms
            }
        }
    };
}

terms! {
    amendable {
        Quota quota: u32 = 0, TermKind::Whole(0..=QUOTA_MAX), Public, "Coupons in all";
        PerUserLimit per_user_limit: u16 = 1, TermKind::Whole(1..=PER_USER_LIMIT_MAX.into()), Public,
            "Coupons that one user may hold";
        OpensAt opens_at: Option<Timestamp> = None, TermKind::Time { none: "at once" }, Public,
            "First time at which coupons are issued";
        ClosesAt closes_at: Option<Timestamp> = None, TermKind::Time { none: "never" }, Public,
            "First time at which no coupon is issued any more";
        Title title: Option<String> = None, TermKind::Text { chars_max: TITLE_CHARS_MAX }, Public,
            "Name of the campaign for people, 1 to 120 characters";
        Listed listed: bool = true, TermKind::Flag, Admin, "Whether the public list has the campaign";
    }
    fixed {
        Code code: CodeFormat = CodeFormat::default(), TermKind::Code, Admin, "Format of codes";
    }
}

/// Distinguishes `null` (remove) from an absent member (keep).
fn present<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    T::deserialize(deserializer).map(Some)
}

impl Term {
    /// Returns whether a definition must contain the term.
    #[must_use]
    pub fn is_required(self) -> bool {
        self == Self::Quota
    }

    /// Returns the rules of this term that `value` breaks.
    fn faults(self, value: Option<TermValue>) -> Vec<Fault> {
        let fault = |rule: String, remedy| vec![Fault::new(self.name(), rule, remedy)];
        match (self.kind(), value) {
            (TermKind::Whole(range), Some(TermValue::Whole(number)))
                if !range.contains(&number) =>
            {
                let rule = format!("{} to {}", range.start(), range.end());
                fault(rule, "give a number in this range")
            }
            (TermKind::Time { .. }, Some(TermValue::Time(time))) if !time.is_representable() => {
                fault("a time from 1970 to 9999".to_owned(), "give a time in this range")
            }
            (TermKind::Text { chars_max }, Some(TermValue::Text(text))) => {
                if !(1..=usize::from(chars_max)).contains(&text.chars().count()) {
                    fault(format!("1 to {chars_max} characters"), "shorten it, or leave it out")
                } else if text.chars().any(char::is_control) {
                    fault("without control characters".to_owned(), "remove them")
                } else {
                    Vec::new()
                }
            }
            (TermKind::Code, Some(TermValue::Code(format))) => format.faults(),
            (TermKind::Whole(_) | TermKind::Time { .. }, _) => Vec::new(),
            (TermKind::Text { .. } | TermKind::Flag | TermKind::Code, _) => Vec::new(),
        }
    }
}

impl Terms {
    /// Returns every rule that these terms break. Empty if they are valid.
    #[must_use]
    pub fn faults(&self) -> Vec<Fault> {
        let of_term = |term: &Term| term.faults(self.get(*term));
        let mut faults: Vec<Fault> = Term::ALL.iter().flat_map(of_term).collect();
        if let (Some(opens_at), Some(closes_at)) = (self.opens_at, self.closes_at)
            && closes_at <= opens_at
        {
            faults.push(Fault::new("closes_at", "later than opens_at", "give a later closes_at"));
        }
        faults
    }
}

/// Everything that determines a campaign's decisions, besides its records.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Definition {
    /// The terms in effect.
    pub terms: Terms,
    /// Whether the campaign is paused. It then issues nothing until it is resumed.
    pub paused: bool,
    /// Whether the campaign is closed for good.
    pub closed: bool,
    /// Version of the rules that decide the campaign.
    pub rules_version: u16,
    /// Buckets of the by-user view, 1 to 16. Fixed by the last version before the first coupon.
    pub user_buckets: u8,
}

impl Definition {
    /// Returns the definition of a new campaign: neither paused nor closed.
    #[must_use]
    pub fn first(terms: Terms) -> Self {
        let user_buckets = user_buckets(terms.quota);
        Self { terms, paused: false, closed: false, rules_version: RULES_VERSION, user_buckets }
    }

    /// Sets the number of buckets by the quota. Must not be called after the first coupon, because
    /// by-user rows are found by this number.
    pub(super) fn choose_user_buckets(&mut self) {
        self.user_buckets = user_buckets(self.terms.quota);
    }
}

fn user_buckets(quota: u32) -> u8 {
    let buckets = quota.div_ceil(USERS_PER_BUCKET).clamp(1, USER_BUCKETS_MAX);
    u8::try_from(buckets).unwrap_or(u8::MAX)
}

/// The whole definition after an accepted control record: an immutable row keyed by its position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DefinitionVersion {
    /// The campaign.
    pub campaign: CampaignId,
    /// Position of the control record.
    pub position: Position,
    /// Time of the control record.
    pub time: Timestamp,
    /// The definition in effect from the next position on.
    pub definition: Definition,
    /// Coupons issued below this position.
    pub issued: u32,
    /// Keyed digest over all fields above.
    pub digest: [u8; 16],
}

#[cfg(test)]
mod tests;
