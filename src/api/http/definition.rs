//! Terms of a campaign as JSON: read from bodies and shown in views. Also reads bodies without fields.

use serde::{Serialize, Serializer, ser::SerializeMap};
use serde_json::{Map, Value};

use super::{
    fields::{self, Broken, Fields, Member, Members},
    problem::{FieldFault, Problem},
    times::Rfc3339,
};
use crate::{
    api::service::SKIP_REASON_MAX,
    domain::{
        code::CodeFormat,
        definition::{Amendment, Audience, Term, TermKind, TermValue, Terms},
        fault::Fault,
        ids::Offset,
    },
};

/// Why setting a term cannot fail here.
const READ_BY_KIND: &str = "a term is read by its own kind";

/// Reads a definition.
///
/// # Errors
/// 400 or 422, with every fault at once.
pub(super) fn terms(body: &[u8]) -> Result<Terms, Problem> {
    let mut fields = Fields::new(fields::object(body)?, "", Term::NAMES);
    // A term at fault keeps this sound value, so that the rules between terms can be checked too.
    let mut terms = Terms::of(1);
    for term in Term::ALL {
        if term.is_required() {
            fields.require(term.name());
        }
        if let Some(value) = given(&mut fields, *term) {
            terms.set(*term, value).expect(READ_BY_KIND);
        }
    }
    let broken = fresh(&fields, terms.faults());
    fields.extend(broken);
    fields.finish()?;
    Ok(terms)
}

/// Reads a definition as the admin listener does. Returns each fault as a line: field, rule, remedy.
pub(crate) fn read_terms(body: &Value) -> Result<Terms, Vec<String>> {
    terms(body.to_string().as_bytes()).map_err(|problem| problem.faults())
}

/// Returns all terms as they are shown.
pub(crate) fn shown_terms(terms: &Terms) -> Map<String, Value> {
    let of = |audience| serde_json::to_value(TermsBody { terms, audience }).unwrap_or_default();
    let members = [Audience::Public, Audience::Admin].map(of);
    members.into_iter().filter_map(|shown| shown.as_object().cloned()).flatten().collect()
}

/// Reads a change of terms.
///
/// # Errors
/// 400 or 422, with every fault at once.
pub(super) fn amendment(body: &[u8]) -> Result<Amendment, Problem> {
    let mut fields = Fields::new(fields::object(body)?, "", Term::AMENDABLE_NAMES);
    if fields.is_empty() {
        for field in Term::AMENDABLE_NAMES {
            fields.fault(*field, Broken::new("given, at least one of these", "add what changes"));
        }
    }
    let mut amendment = Amendment::default();
    for term in Term::AMENDABLE {
        if let Some(value) = given(&mut fields, *term) {
            amendment.set(*term, value).expect(READ_BY_KIND);
        }
    }
    // Sound terms without a window: a rule between a term given here and one in effect is checked
    // where the definition is known.
    let broken = fresh(&fields, Terms::of(1).amended(&amendment).faults());
    fields.extend(broken);
    fields.finish()?;
    Ok(amendment)
}

/// Reads the value of one term. `None`: it was left out, or is at fault.
fn given(fields: &mut Fields<'_>, term: Term) -> Option<Option<TermValue>> {
    let name = term.name();
    match term.kind() {
        TermKind::Whole(range) => {
            let number = fields.optional(name, fields::whole(range))?;
            Some(Some(TermValue::Whole(number)))
        }
        TermKind::Time { .. } => {
            Some(fields.optional(name, fields::time_or_null)?.map(TermValue::Time))
        }
        TermKind::Text { .. } => Some(fields.optional(name, text_or_null)?.map(TermValue::Text)),
        TermKind::Flag => Some(Some(TermValue::Flag(fields.optional(name, fields::flag)?))),
        TermKind::Code => {
            let (format, faults) = code(fields.optional(name, fields::nested)?);
            fields.extend(faults);
            Some(Some(TermValue::Code(format)))
        }
    }
}

/// The terms of a campaign that one audience sees.
pub(super) struct TermsBody<'a> {
    pub(super) terms: &'a Terms,
    pub(super) audience: Audience,
}

impl Serialize for TermsBody<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut members = serializer.serialize_map(None)?;
        for term in Term::ALL.iter().filter(|term| term.audience() == self.audience) {
            let name = term.name();
            match (term.kind(), self.terms.get(*term)) {
                (_, Some(TermValue::Whole(number))) => members.serialize_entry(name, &number)?,
                (_, Some(TermValue::Time(time))) => {
                    members.serialize_entry(name, &Rfc3339(time))?;
                }
                (_, Some(TermValue::Text(text))) => members.serialize_entry(name, &text)?,
                (_, Some(TermValue::Flag(flag))) => members.serialize_entry(name, &flag)?,
                (_, Some(TermValue::Code(format))) => members.serialize_entry(name, &format)?,
                (TermKind::Time { .. }, None) => members.serialize_entry(name, &())?,
                (_, None) => {}
            }
        }
        members.end()
    }
}

/// Reads the body of a call that takes no field: nothing, or an empty object.
///
/// # Errors
/// 400 or 422, with every fault at once.
pub(super) fn nothing(body: &[u8]) -> Result<(), Problem> {
    if body.trim_ascii().is_empty() {
        return Ok(());
    }
    let rule = "left out, this call takes no field";
    Fields::none(fields::object(body)?, rule, |_| "leave it out").finish()
}

/// Reads the body of a skip: its offset and reason.
///
/// # Errors
/// 400 or 422, with every fault at once.
pub(super) fn skip(body: &[u8]) -> Result<(Offset, String), Problem> {
    let mut fields = Fields::new(fields::object(body)?, "", &["offset", "reason"]);
    let offset = fields.required("offset", |member| {
        fields::whole(0..=Offset::MAX)(member).map_err(|_| {
            Broken::new("a whole number", "give the offset at which the partition is halted")
        })
    });
    let reason = fields.required("reason", |member| {
        let is_sound = |text: &String| {
            (1..=SKIP_REASON_MAX).contains(&text.chars().count())
                && !text.trim().is_empty()
                && !text.chars().any(char::is_control)
        };
        fields::text(member).ok().filter(is_sound).ok_or_else(|| {
            let rule = format!("a text of 1 to {SKIP_REASON_MAX} characters on one line");
            Broken::new(rule, "say in a few words why the range is given up")
        })
    });
    fields.finish()?;
    Ok((offset.unwrap_or_default(), reason.unwrap_or_default()))
}

/// Reads a code format, with the faults of its members.
fn code(members: Members<'_>) -> (CodeFormat, Vec<FieldFault>) {
    let mut fields = Fields::new(members, "code.", &["prefix", "length", "charset", "group"]);
    let prefix = fields.optional("prefix", fields::text);
    let length = fields.optional("length", code_length);
    let charset = fields.optional("charset", fields::text);
    let group = fields.optional("group", fields::whole(1..=u16::MAX));
    // How long a code must be depends on its charset: beside one at fault, no length is judged.
    let length = if fields.is_at_fault("code.charset") { None } else { length };
    (CodeFormat::with(prefix, length, charset).grouped(group), fields.into_faults())
}

/// Reads a string or `null`. Its length is a rule of the term.
fn text_or_null(member: Member<'_>) -> Result<Option<String>, Broken> {
    if matches!(member, Member::Null) { Ok(None) } else { fields::text(member).map(Some) }
}

/// Reads any whole number. Which lengths a charset allows is a rule of the format.
fn code_length(member: Member<'_>) -> Result<u16, Broken> {
    match member {
        Member::Digits(length) => Ok(length.parse().unwrap_or(u16::MAX)),
        _ => Err(Broken::new(
            "a whole number up to 128, of at least 64 bits with the charset",
            "give such a number, or leave it out for 128 bits",
        )),
    }
}

/// Returns the faults of fields that are not at fault already.
fn fresh(fields: &Fields<'_>, faults: Vec<Fault>) -> Vec<FieldFault> {
    faults
        .into_iter()
        .filter(|fault| !fields.is_at_fault(fault.field))
        .map(FieldFault::from)
        .collect()
}
