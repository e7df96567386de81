//! Checks the members of a JSON object, or the parameters of a query, and reports every fault at
//! once.

use std::{borrow::Cow, fmt, ops::RangeInclusive};

use serde::{
    Deserialize,
    de::{Deserializer, IgnoredAny, MapAccess, Visitor},
};
use serde_json::value::RawValue;

use super::{
    problem::{FAULTS_MAX, FieldFault, Kind, Problem},
    times,
};
use crate::domain::ids::{CampaignId, Timestamp, UserId};

/// The name under which faults of the whole body are reported.
pub(super) const BODY: &str = "body";

/// Members of a JSON object in their order. A repeated member is repeated here: `serde_json::Value`
/// would keep the last one only, and "given twice" could not be reported.
pub(super) type Members<'a> = Vec<(Cow<'a, str>, Member<'a>)>;

/// A JSON value, as far as fields need it.
#[derive(Debug, Clone)]
pub(super) enum Member<'a> {
    /// A string.
    Text(Cow<'a, str>),
    /// A number without sign, fraction or exponent, of any length, as it is written.
    Digits(&'a str),
    /// `true` or `false`.
    Flag(bool),
    /// `null`.
    Null,
    /// An object as JSON. Its members are read when a field takes them, so depth costs nothing.
    Object(&'a str),
    /// Any other value, or a string with half a surrogate pair. No field takes it.
    Other,
}

impl<'a> Member<'a> {
    fn of(value: &'a RawValue) -> Self {
        #[derive(Deserialize)]
        struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

        let json = value.get();
        match json.as_bytes().first() {
            Some(b'"') => match serde_json::from_str(json) {
                Ok(Text(text)) => Self::Text(text),
                Err(_) => Self::Other,
            },
            Some(b'{') => Self::Object(json),
            Some(b't' | b'f') => Self::Flag(json == "true"),
            Some(b'n') => Self::Null,
            Some(_) if json.bytes().all(|byte| byte.is_ascii_digit()) => Self::Digits(json),
            _ => Self::Other,
        }
    }
}

#[derive(Deserialize)]
struct Body<'a>(#[serde(borrow, deserialize_with = "members")] Members<'a>);

fn members<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Members<'de>, D::Error> {
    struct MembersVisitor;

    impl<'de> Visitor<'de> for MembersVisitor {
        type Value = Members<'de>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
            let mut members = Vec::with_capacity(4);
            while let Some((name, value)) = entries.next_entry::<_, &RawValue>()? {
                members.push((name, Member::of(value)));
            }
            Ok(members)
        }
    }

    deserializer.deserialize_map(MembersVisitor)
}

/// Reads a body that must be one JSON object.
///
/// # Errors
/// 400 if the body is not JSON. 422 if it is no object, or a name in it has half a surrogate pair.
pub(super) fn object(body: &[u8]) -> Result<Members<'_>, Problem> {
    let error = match serde_json::from_slice(body) {
        Ok(Body(members)) => return Ok(members),
        Err(error) => error,
    };
    let is_json =
        std::str::from_utf8(body).is_ok() && serde_json::from_slice::<IgnoredAny>(body).is_ok();
    if !is_json {
        let problem = Problem::new(Kind::NotJson, format!("the body must be JSON: {error}"));
        return Err(problem.blaming(BODY, "JSON in UTF-8", "correct the JSON at that place"));
    }
    if !body.trim_ascii_start().starts_with(b"{") {
        let problem = Problem::new(Kind::Invalid, "the body must be a JSON object");
        return Err(problem.blaming(BODY, "a JSON object", "put the fields between { and }"));
    }
    let detail = format!("the body has a name that cannot be represented: {error}");
    let rule = "without half surrogate pairs";
    Err(Problem::new(Kind::Invalid, detail).blaming(BODY, rule, "correct the name at that place"))
}

/// A rule that a value breaks, and the remedy.
#[derive(Debug)]
pub(super) struct Broken {
    rule: Cow<'static, str>,
    remedy: Cow<'static, str>,
}

impl Broken {
    pub(super) fn new(
        rule: impl Into<Cow<'static, str>>,
        remedy: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self { rule: rule.into(), remedy: remedy.into() }
    }
}

/// Members that are being checked, and the faults found so far.
pub(super) struct Fields<'a> {
    members: Members<'a>,
    prefix: &'static str,
    faults: Vec<FieldFault>,
    /// Names that were ignored. One of them may be a misspelt required field.
    ignored: Vec<Cow<'a, str>>,
}

impl<'a> Fields<'a> {
    /// Reports members that are not `known` or are given twice. `prefix` precedes each name in
    /// faults: it is empty, or the name of the outer object and a dot.
    pub(super) fn new(
        members: Members<'a>,
        prefix: &'static str,
        known: &'static [&'static str],
    ) -> Self {
        let mut fields = Self { members, prefix, faults: Vec::new(), ignored: Vec::new() };
        for at in 0..fields.members.len() {
            // Each further member would be compared with all before it, for a fault that nobody sees.
            if fields.faults.len() > FAULTS_MAX {
                break;
            }
            let name = &fields.members[at].0;
            let earlier = fields.members[..at].iter().filter(|(other, _)| other == name).count();
            let broken = match (known.contains(&&**name), earlier) {
                (false, 0) => {
                    let rule = format!("one of {}", known.join(", "));
                    Broken::new(rule, "remove the field or correct its name")
                }
                (true, 1) => Broken::new("given once", "remove all but one"),
                _ => continue,
            };
            let name = name.to_string();
            fields.fault(name, broken);
        }
        fields
    }

    /// Ignores members that are not `known`, and reports those that are given twice. Pages and gateways
    /// pass on parameters of their own, and newer clients send more fields than an older node knows.
    pub(super) fn lenient(members: Members<'a>, known: &'static [&'static str]) -> Self {
        let is_known = |(name, _): &(Cow<'a, str>, _)| known.contains(&&**name);
        let (members, others): (Vec<_>, Vec<_>) = members.into_iter().partition(is_known);
        let mut fields = Self::new(members, "", known);
        fields.ignored = others.into_iter().map(|(name, _)| name).collect();
        fields
    }

    /// Reports every member, for a call that takes none.
    pub(super) fn none(
        members: Members<'a>,
        rule: &'static str,
        remedy: impl Fn(&str) -> &'static str,
    ) -> Self {
        let mut fields = Self::new(Vec::new(), "", &[]);
        for (name, _) in members {
            if fields.faults.len() <= FAULTS_MAX && !fields.is_at_fault(&name) {
                let broken = Broken::new(rule, remedy(&name));
                fields.fault(name.into_owned(), broken);
            }
        }
        fields
    }

    /// Returns whether there are no members.
    pub(super) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Reports a fault of a field.
    pub(super) fn fault(&mut self, field: impl Into<Cow<'static, str>>, broken: Broken) {
        let field = field.into();
        let field =
            if self.prefix.is_empty() { field } else { format!("{}{field}", self.prefix).into() };
        let Broken { rule, remedy } = broken;
        self.faults.push(FieldFault { field, rule, remedy });
    }

    /// Returns the value of an optional field. `None`: the field is missing or at fault.
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

    /// Returns the value of a required field. `None`: the field is missing or at fault.
    pub(super) fn required<T>(
        &mut self,
        name: &'static str,
        read: impl FnOnce(Member<'a>) -> Result<T, Broken>,
    ) -> Option<T> {
        self.require(name);
        self.optional(name, read)
    }

    /// Notes a fault if the field was left out.
    pub(super) fn require(&mut self, name: &'static str) {
        if !self.members.iter().any(|(other, _)| other == name) {
            let near = self.ignored.iter().find(|ignored| is_near(ignored, name));
            let remedy = near.map(|near| format!("add the field; {near:?} is not its name"));
            self.fault(
                name,
                Broken::new("given", remedy.map_or("add the field".into(), Cow::from)),
            );
        }
    }

    /// Returns whether `field`, by its name in faults, is at fault.
    pub(super) fn is_at_fault(&self, field: &str) -> bool {
        self.faults.iter().any(|fault| fault.field == field)
    }

    /// Adds faults.
    pub(super) fn extend(&mut self, faults: impl IntoIterator<Item = FieldFault>) {
        self.faults.extend(faults);
    }

    /// Returns the faults found so far.
    pub(super) fn into_faults(self) -> Vec<FieldFault> {
        self.faults
    }

    /// Fails if any field is at fault.
    pub(super) fn finish(self) -> Result<(), Problem> {
        if self.faults.is_empty() { Ok(()) } else { Err(Problem::invalid(self.faults)) }
    }
}

/// Reads a campaign id.
pub(super) fn campaign_id(member: Member<'_>) -> Result<CampaignId, Broken> {
    let broken = || Broken::new(CampaignId::RULE, "use the id of a campaign");
    let Member::Text(text) = member else { return Err(broken()) };
    CampaignId::parse(&text).map_err(|_| broken())
}

/// Reads a user id: a string, or a number that is written as digits only and counts as these digits.
pub(super) fn user_id(member: Member<'_>) -> Result<UserId, Broken> {
    let broken = || Broken::new(UserId::RULE, "use the id of a user");
    match &member {
        Member::Text(text) => UserId::parse(text).map_err(|_| broken()),
        Member::Digits(digits) => UserId::parse(digits).map_err(|_| broken()),
        _ => Err(broken()),
    }
}

/// Returns whether `name` is probably meant to be `known`: the same letters and digits whatever their case
/// and the signs between them, or a slip of the hand.
fn is_near(name: &str, known: &str) -> bool {
    /// Longer names are no slip of any name here.
    const NAME_BYTES_MAX: usize = 32;
    let bare = |name: &str| -> String {
        let letters = name.chars().filter(char::is_ascii_alphanumeric);
        letters.map(|letter| letter.to_ascii_lowercase()).collect()
    };
    name.len() <= NAME_BYTES_MAX && strsim::levenshtein(&bare(name), &bare(known)) <= 1
}

/// Reads a string.
pub(super) fn text(member: Member<'_>) -> Result<String, Broken> {
    match member {
        Member::Text(text) => Ok(text.into_owned()),
        _ => Err(Broken::new("a string", "use a string")),
    }
}

/// Reads `true` or `false`.
pub(super) fn flag(member: Member<'_>) -> Result<bool, Broken> {
    match member {
        Member::Flag(flag) => Ok(flag),
        _ => Err(Broken::new("true or false", "use one of them, without quotes")),
    }
}

/// Reads a number without sign, fraction or exponent.
pub(super) fn whole<T>(range: RangeInclusive<T>) -> impl FnOnce(Member<'_>) -> Result<T, Broken>
where
    T: TryFrom<u64> + PartialOrd + fmt::Display,
{
    move |member| {
        let number = match member {
            Member::Digits(digits) => {
                digits.parse::<u64>().ok().and_then(|number| T::try_from(number).ok())
            }
            _ => None,
        };
        number.filter(|number| range.contains(number)).ok_or_else(|| out_of(&range))
    }
}

/// Reads a number of a query parameter: digits only.
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
    Broken::new(rule, "use a number in this range")
}

/// Reads a time or `null`.
pub(super) fn time_or_null(member: Member<'_>) -> Result<Option<Timestamp>, Broken> {
    let broken = || Broken::new(times::RULE, "use a time like 2026-11-27T12:00:00Z");
    match member {
        Member::Null => Ok(None),
        Member::Text(text) => times::parse(&text).map(Some).ok_or_else(broken),
        _ => Err(broken()),
    }
}

/// Reads a nested object.
pub(super) fn nested(member: Member<'_>) -> Result<Members<'_>, Broken> {
    let broken = || Broken::new("an object", "use an object");
    let Member::Object(json) = member else { return Err(broken()) };
    let Body(members) = serde_json::from_str(json).map_err(|_| broken())?;
    Ok(members)
}
