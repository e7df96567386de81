//! The members of a JSON object, or the parameters of a query, checked field by field: every
//! fault is found at once.

use std::{borrow::Cow, fmt, ops::RangeInclusive};

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::{
    problem::{FieldFault, Kind, Problem},
    times,
};
use crate::domain::ids::{CampaignId, Timestamp, UserId};

/// The body as a whole, as faults name it.
pub(super) const BODY: &str = "body";

/// Members of a JSON object as they came, repeated ones too.
pub(super) type Members<'a> = Vec<(Cow<'a, str>, Member<'a>)>;

/// A JSON value, as far as fields need it.
#[derive(Debug, PartialEq)]
pub(super) enum Member<'a> {
    /// A string.
    Text(Cow<'a, str>),
    /// A number without sign, fraction or exponent that 64 bits hold.
    Whole(u64),
    /// `null`.
    Null,
    /// An object.
    Object(Members<'a>),
    /// Anything else: no field takes it.
    Other,
}

impl<'de> Deserialize<'de> for Member<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(MemberVisitor)
    }
}

struct MemberVisitor;

impl<'de> Visitor<'de> for MemberVisitor {
    type Value = Member<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Member::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Member::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Self::Value, E> {
        Ok(Member::Whole(number))
    }

    fn visit_i64<E>(self, _number: i64) -> Result<Self::Value, E> {
        Ok(Member::Other)
    }

    fn visit_f64<E>(self, _number: f64) -> Result<Self::Value, E> {
        Ok(Member::Other)
    }

    fn visit_bool<E>(self, _value: bool) -> Result<Self::Value, E> {
        Ok(Member::Other)
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Member::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Member::Other)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
        let mut members = Vec::with_capacity(4);
        while let Some((Name(name), member)) = entries.next_entry()? {
            members.push((name, member));
        }
        Ok(Member::Object(members))
    }
}

/// A member's name, borrowed from the body unless it has escapes.
struct Name<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Name<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match deserializer.deserialize_str(MemberVisitor)? {
            Member::Text(name) => Ok(Self(name)),
            _ => Err(serde::de::Error::custom("a member's name must be a string")),
        }
    }
}

/// Reads a body that must be one JSON object.
///
/// # Errors
/// 400 where it is not JSON, 422 where it is JSON but no object, or of values that nothing here
/// takes (nested too deeply, a number beyond a double, half a surrogate pair).
pub(super) fn object(body: &[u8]) -> Result<Members<'_>, Problem> {
    match serde_json::from_slice(body) {
        Ok(Member::Object(members)) => Ok(members),
        Ok(_) => Err(Problem::new(Kind::Invalid, "the body must be a JSON object").blaming(
            BODY,
            "a JSON object",
            "put the fields between { and }",
        )),
        Err(error) => {
            let sound_json = std::str::from_utf8(body).is_ok()
                && serde_json::from_slice::<IgnoredAny>(body).is_ok();
            let (kind, detail, rule) = if sound_json {
                let rule = "without numbers beyond a double, half surrogate pairs and deep nesting";
                (Kind::Invalid, "the body holds what no field takes", rule)
            } else {
                (Kind::NotJson, "the body must be JSON in UTF-8", "JSON in UTF-8")
            };
            let problem = Problem::new(kind, format!("{detail}: {error}"));
            Err(problem.blaming(BODY, rule, "correct it where the detail says"))
        }
    }
}

/// A rule that a value breaks, and what to do about it.
#[derive(Debug)]
pub(super) struct Broken {
    rule: Cow<'static, str>,
    remedy: &'static str,
}

impl Broken {
    pub(super) fn new(rule: impl Into<Cow<'static, str>>, remedy: &'static str) -> Self {
        Self { rule: rule.into(), remedy }
    }
}

/// Fields on their way to be checked.
pub(super) struct Fields<'a> {
    members: Members<'a>,
    prefix: &'static str,
    faults: Vec<FieldFault>,
}

impl<'a> Fields<'a> {
    /// Notes what is unknown (not among `known`) or given twice. `prefix` stands before each name
    /// in faults: empty, or the outer object's name and a dot.
    pub(super) fn new(
        members: Members<'a>,
        prefix: &'static str,
        known: &'static [&'static str],
    ) -> Self {
        let mut fields = Self { members, prefix, faults: Vec::new() };
        for at in 0..fields.members.len() {
            let name = &fields.members[at].0;
            let earlier = fields.members[..at].iter().filter(|(other, _)| other == name).count();
            let broken = match (known.contains(&&**name), earlier) {
                (false, 0) => {
                    let rule = format!("one of {}", known.join(", "));
                    Broken::new(rule, "leave it out or correct its name")
                }
                (true, 1) => Broken::new("given once", "leave one of them"),
                _ => continue,
            };
            let name = name.to_string();
            fields.fault(name, broken);
        }
        fields
    }

    /// The fields of a call that takes none: whatever was given is at fault, by `rule`.
    pub(super) fn none(
        members: Members<'a>,
        rule: &'static str,
        remedy: impl Fn(&str) -> &'static str,
    ) -> Self {
        let mut fields = Self { members: Vec::new(), prefix: "", faults: Vec::new() };
        for (name, _) in members {
            if !fields.is_at_fault(&name) {
                let broken = Broken::new(rule, remedy(&name));
                fields.fault(name.into_owned(), broken);
            }
        }
        fields
    }

    /// Whether nothing was given at all.
    pub(super) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Notes a fault of a field.
    pub(super) fn fault(&mut self, field: impl Into<Cow<'static, str>>, broken: Broken) {
        let field = field.into();
        let field =
            if self.prefix.is_empty() { field } else { format!("{}{field}", self.prefix).into() };
        let Broken { rule, remedy } = broken;
        self.faults.push(FieldFault { field, rule, remedy: remedy.into() });
    }

    /// The value of a field that may be left out. `None`: it was, or it is at fault.
    pub(super) fn optional<T>(
        &mut self,
        name: &'static str,
        read: impl FnOnce(Member<'a>) -> Result<T, Broken>,
    ) -> Option<T> {
        let at = self.members.iter().position(|(other, _)| other == name)?;
        let (_, member) = self.members.swap_remove(at);
        match read(member) {
            Ok(value) => Some(value),
            Err(broken) => {
                self.fault(name, broken);
                None
            }
        }
    }

    /// The value of a field that must be given. `None`: it is missing or at fault.
    pub(super) fn required<T>(
        &mut self,
        name: &'static str,
        read: impl FnOnce(Member<'a>) -> Result<T, Broken>,
    ) -> Option<T> {
        if !self.members.iter().any(|(other, _)| other == name) {
            self.fault(name, Broken::new("given", "add it"));
        }
        self.optional(name, read)
    }

    /// Whether `field`, as faults name it, is at fault already.
    pub(super) fn is_at_fault(&self, field: &str) -> bool {
        self.faults.iter().any(|fault| fault.field == field)
    }

    /// Adds faults that were found elsewhere.
    pub(super) fn extend(&mut self, faults: impl IntoIterator<Item = FieldFault>) {
        self.faults.extend(faults);
    }

    /// Every fault so far.
    pub(super) fn into_faults(self) -> Vec<FieldFault> {
        self.faults
    }

    /// Succeeds where no field is at fault.
    pub(super) fn finish(self) -> Result<(), Problem> {
        if self.faults.is_empty() { Ok(()) } else { Err(Problem::invalid(self.faults)) }
    }
}

/// Reads a campaign id.
pub(super) fn campaign_id(member: Member<'_>) -> Result<CampaignId, Broken> {
    let broken = || Broken::new(CampaignId::RULE, "give the id of a campaign");
    let Member::Text(text) = member else { return Err(broken()) };
    CampaignId::parse(&text).map_err(|_| broken())
}

/// Reads a user id.
pub(super) fn user_id(member: Member<'_>) -> Result<UserId, Broken> {
    let broken = || Broken::new(UserId::RULE, "give the id of a user");
    let Member::Text(text) = member else { return Err(broken()) };
    UserId::parse(&text).map_err(|_| broken())
}

/// Reads a text.
pub(super) fn text(member: Member<'_>) -> Result<String, Broken> {
    match member {
        Member::Text(text) => Ok(text.into_owned()),
        _ => Err(Broken::new("a string", "give a string")),
    }
}

/// Reads a number without sign, fraction or exponent.
pub(super) fn whole<T>(range: RangeInclusive<T>) -> impl FnOnce(Member<'_>) -> Result<T, Broken>
where
    T: TryFrom<u64> + PartialOrd + fmt::Display,
{
    move |member| {
        let number = match member {
            Member::Whole(number) => T::try_from(number).ok(),
            _ => None,
        };
        number.filter(|number| range.contains(number)).ok_or_else(|| out_of(&range))
    }
}

/// Reads the same from a query, where numbers are digits.
pub(super) fn digits<T>(range: RangeInclusive<T>) -> impl FnOnce(Member<'_>) -> Result<T, Broken>
where
    T: TryFrom<u64> + PartialOrd + fmt::Display,
{
    move |member| {
        let number = match &member {
            Member::Text(text) if text.bytes().all(|byte| byte.is_ascii_digit()) => {
                text.parse::<u64>().ok().and_then(|number| T::try_from(number).ok())
            }
            _ => None,
        };
        number.filter(|number| range.contains(number)).ok_or_else(|| out_of(&range))
    }
}

fn out_of<T: fmt::Display>(range: &RangeInclusive<T>) -> Broken {
    let rule = format!("a whole number from {} to {}", range.start(), range.end());
    Broken::new(rule, "give a number in this range")
}

/// Reads a time, or `null` for none.
pub(super) fn time_or_null(member: Member<'_>) -> Result<Option<Timestamp>, Broken> {
    let broken = || Broken::new(times::RULE, "write it like 2026-11-27T12:00:00Z");
    match member {
        Member::Null => Ok(None),
        Member::Text(text) => times::parse(&text).map(Some).ok_or_else(broken),
        _ => Err(broken()),
    }
}

/// Reads a nested object.
pub(super) fn nested(member: Member<'_>) -> Result<Members<'_>, Broken> {
    match member {
        Member::Object(members) => Ok(members),
        _ => Err(Broken::new("an object", "give an object")),
    }
}
