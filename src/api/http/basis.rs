//! Versions of definitions as entity tags, and the version that a change is based on (RFC 9110).

use axum::http::{HeaderMap, HeaderValue, header};

use super::problem::{Kind, Problem};
use crate::{
    api::service::{Basis, CampaignView},
    domain::ids::Offset,
};

/// Returns the tag of the definition version in effect: its log epoch and offset.
pub(super) fn tag(view: &CampaignView) -> HeaderValue {
    let tag = format!("\"{}-{}\"", view.as_of.log_epoch, view.version);
    HeaderValue::try_from(tag).unwrap_or(HeaderValue::from_static("\"\""))
}

/// Reads `If-Match`. A tag that no version can have matches none.
pub(super) fn basis(headers: &HeaderMap) -> Basis {
    let mut values = headers.get_all(header::IF_MATCH).iter().peekable();
    if values.peek().is_none() {
        return Basis::InEffect;
    }
    let texts = values.filter_map(|value| value.to_str().ok());
    let tags: Vec<&str> = texts.flat_map(|text| text.split(',')).map(str::trim).collect();
    match tags.as_slice() {
        ["*"] => Basis::Existing,
        tags => Basis::Versions(tags.iter().filter_map(|tag| version(tag)).collect()),
    }
}

/// Reads `If-Match`, or `If-None-Match: *`, which asks to make a campaign only if there is none.
///
/// # Errors
/// 422 for another `If-None-Match`, or both.
pub(super) fn basis_of_definition(headers: &HeaderMap) -> Result<Basis, Problem> {
    let mut values = headers.get_all(header::IF_NONE_MATCH).iter();
    let Some(value) = values.next() else { return Ok(basis(headers)) };
    let is_any = value.as_bytes().trim_ascii() == b"*" && values.next().is_none();
    if is_any && !headers.contains_key(header::IF_MATCH) {
        return Ok(Basis::Absent);
    }
    let problem = Problem::new(Kind::Invalid, "If-None-Match must be *, without If-Match");
    let remedy = "send If-None-Match: * to make the campaign only if there is none, or If-Match";
    Err(problem.blaming("If-None-Match", "*, without If-Match", remedy))
}

fn version(tag: &str) -> Option<(u32, Offset)> {
    let (epoch, offset) = tag.strip_prefix('"')?.strip_suffix('"')?.split_once('-')?;
    let version = (epoch.parse().ok()?, offset.parse().ok()?);
    // Not `+1`, and no zeros in front: tags are compared letter by letter.
    (tag == format!("\"{}-{}\"", version.0, version.1)).then_some(version)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(values: &[&'static str]) -> Basis {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(header::IF_MATCH, HeaderValue::from_static(value));
        }
        basis(&headers)
    }

    #[test]
    fn if_match_names_versions() {
        assert_eq!(read(&[]), Basis::InEffect);
        assert_eq!(read(&["*"]), Basis::Existing);
        assert_eq!(read(&[r#""1-40""#]), Basis::Versions(vec![(1, 40)]));
        assert_eq!(
            read(&[r#""1-40" , "2-0""#, r#""1-7""#]),
            Basis::Versions(vec![(1, 40), (2, 0), (1, 7)])
        );
        for none in
            ["", "1-40", "W/\"1-40\"", "\"01-40\"", "\"1-+4\"", "\"1\"", "\"x-1\"", "\"1-40", "\""]
        {
            assert_eq!(read(&[none]), Basis::Versions(Vec::new()), "{none}");
        }
    }
}
