//! The bodies of `PUT`, `PATCH` and `POST`: a campaign's terms, their changes, and nothing at all.

use super::{
    fields::{self, Broken, Fields, Member, Members},
    problem::{FieldFault, Problem},
};
use crate::domain::{
    code::CodeFormat,
    definition::{Amendment, PER_USER_LIMIT_DEFAULT, PER_USER_LIMIT_MAX, QUOTA_MAX, Terms},
    fault::Fault,
    ids::Timestamp,
};

/// Reads a definition.
///
/// # Errors
/// 400 or 422, with every fault at once.
pub(super) fn terms(body: &[u8]) -> Result<Terms, Problem> {
    const KNOWN: &[&str] = &["quota", "per_user_limit", "opens_at", "closes_at", "code"];
    let mut fields = Fields::new(fields::object(body)?, "", KNOWN);
    // What is at fault stands in as something sound, so that the other rules can still be looked
    // at.
    let quota = fields.required("quota", fields::whole(1..=QUOTA_MAX)).unwrap_or(1);
    let per_user_limit = fields
        .optional("per_user_limit", fields::whole(1..=PER_USER_LIMIT_MAX))
        .unwrap_or(PER_USER_LIMIT_DEFAULT);
    let opens_at = fields.optional("opens_at", fields::time_or_null).flatten();
    let closes_at = fields.optional("closes_at", fields::time_or_null).flatten();
    let (code, code_faults) = match fields.optional("code", fields::nested) {
        Some(members) => code(members),
        None => (CodeFormat::default(), Vec::new()),
    };
    fields.extend(code_faults);
    let terms = Terms { quota, per_user_limit, opens_at, closes_at, code };
    let broken = fresh(&fields, terms.faults());
    fields.extend(broken);
    fields.finish()?;
    Ok(terms)
}

/// Reads a change of terms.
///
/// # Errors
/// 400 or 422, with every fault at once.
pub(super) fn amendment(body: &[u8]) -> Result<Amendment, Problem> {
    const KNOWN: &[&str] = &["quota", "per_user_limit", "opens_at", "closes_at"];
    let mut fields = Fields::new(fields::object(body)?, "", KNOWN);
    if fields.is_empty() {
        for field in KNOWN {
            fields.fault(*field, Broken::new("given, at least one of these", "add what changes"));
        }
    }
    let amendment = Amendment {
        quota: fields.optional("quota", fields::whole(1..=QUOTA_MAX)),
        per_user_limit: fields.optional("per_user_limit", fields::whole(1..=PER_USER_LIMIT_MAX)),
        opens_at: fields.optional("opens_at", fields::time_or_null),
        closes_at: fields.optional("closes_at", fields::time_or_null),
    };
    let broken = fresh(&fields, window_faults(&amendment));
    fields.extend(broken);
    fields.finish()?;
    Ok(amendment)
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

/// A code format and what is wrong with the shape of its fields.
fn code(members: Members<'_>) -> (CodeFormat, Vec<FieldFault>) {
    let mut fields = Fields::new(members, "code.", &["prefix", "length", "charset"]);
    let prefix = fields.optional("prefix", fields::text);
    let length = fields.optional("length", code_length);
    let charset = fields.optional("charset", fields::text);
    // How long a code must be depends on its charset: beside one at fault, no length is judged.
    let length = if fields.is_at_fault("code.charset") { None } else { length };
    (CodeFormat::with(prefix, length, charset), fields.into_faults())
}

/// Any whole number: the format itself says which lengths its charset allows.
fn code_length(member: Member<'_>) -> Result<u16, Broken> {
    match member {
        Member::Whole(length) => Ok(u16::try_from(length).unwrap_or(u16::MAX)),
        _ => Err(Broken::new(
            "a whole number up to 128, of at least 64 bits with the charset",
            "give such a number, or leave it out for 128 bits",
        )),
    }
}

/// Where both ends are given, what is wrong with them; one alone is judged beside the other end
/// that is in effect, which only the log knows.
fn window_faults(amendment: &Amendment) -> Vec<Fault> {
    let both: (Option<Timestamp>, Option<Timestamp>) =
        (amendment.opens_at.flatten(), amendment.closes_at.flatten());
    let (Some(_), Some(_)) = both else { return Vec::new() };
    let (opens_at, closes_at) = both;
    Terms { opens_at, closes_at, ..Terms::of(1) }.faults()
}

/// The faults of fields that are not at fault already.
fn fresh(fields: &Fields<'_>, faults: Vec<Fault>) -> Vec<FieldFault> {
    faults
        .into_iter()
        .filter(|fault| !fields.is_at_fault(fault.field))
        .map(FieldFault::from)
        .collect()
}
