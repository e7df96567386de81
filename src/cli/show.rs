//! Shows JSON answers as aligned text.

use serde_json::Value;

use crate::{
    columns::aligned,
    domain::definition::{Audience, Term},
};

/// Members of a campaign that come first: those that are no terms, and the quota beside the figures
/// that depend on it. The other terms follow in the order of their list.
const FIGURES: [&str; 5] = ["campaign_id", "state", "quota", "issued", "remaining"];

/// Members that come before those of a campaign.
const FIRST: [&str; 5] = ["status", "reason", "coupon", "campaign_id", "user_id"];

fn campaign_members() -> impl Iterator<Item = &'static str> {
    let public = Term::ALL.iter().filter(|term| term.audience() == Audience::Public);
    let others = public.map(|term| term.name()).filter(|name| !FIGURES.contains(name));
    FIGURES.into_iter().chain(others)
}

/// Shows one field per line. The fields of a nested object share its line.
pub(super) fn fields(body: &Value) -> String {
    let Value::Object(members) = body else { return format!("{}\n", plain(body)) };
    let known: Vec<_> = FIRST.into_iter().chain(campaign_members()).collect();
    let rank = |name: &str| known.iter().position(|first| *first == name).unwrap_or(known.len());
    let mut members: Vec<_> = members.iter().collect();
    members.sort_by_key(|(name, _)| rank(name));
    let rows: Vec<Vec<String>> = members
        .into_iter()
        .map(|(name, value)| vec![name.replace('_', " "), plain(value)])
        .collect();
    aligned(&rows, |_| false)
}

/// Shows one campaign per line, under headings. Leaves out members that no campaign has.
pub(super) fn campaigns(campaigns: &[Value]) -> String {
    if campaigns.is_empty() {
        return "no campaigns\n".to_owned();
    }
    let is_given = |name: &&str| campaigns.iter().any(|campaign| campaign.get(*name).is_some());
    let columns: Vec<_> = campaign_members().filter(is_given).collect();
    let heading = |name: &&str| name.trim_end_matches("_id").replace('_', " ").to_uppercase();
    let headings = columns.iter().map(heading).collect();
    let cell = |campaign: &Value, field: &str| campaign.get(field).map_or("-".into(), plain);
    let rows = campaigns
        .iter()
        .map(|campaign| columns.iter().map(|field| cell(campaign, field)).collect());
    let rows: Vec<Vec<String>> = std::iter::once(headings).chain(rows).collect();
    let is_number = |column: usize| {
        let name = columns.get(column);
        campaigns.iter().any(|campaign| name.is_some_and(|name| campaign[*name].is_number()))
    };
    aligned(&rows, is_number)
}

/// Shows a problem document: title, detail, and each error with rule and remedy.
pub(super) fn problem(status: u16, body: &Value) -> String {
    let text = |value: &Value, field: &str| {
        value.get(field).filter(|value| !value.is_null()).map(plain).unwrap_or_default()
    };
    let title = text(body, "title");
    let mut shown = if title.is_empty() {
        format!("the node answered {status}")
    } else {
        format!("{title} ({status})")
    };
    let detail = text(body, "detail");
    let errors = body.get("errors").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    // The detail of an invalid body only sums up the errors, which follow in full.
    let told_below = !errors.is_empty() && text(body, "type").ends_with("/invalid");
    if !detail.is_empty() && detail != title && !told_below {
        shown.push_str(&format!("\n  {detail}"));
    }
    if status == 401 && text(body, "type").ends_with("/no-token") {
        shown.push_str(
            "\n  pass --token, set COUPOND_ADMIN__TOKEN, or name the node's data folder with \
             --set embedded.dir=DIR, where admin.token is kept",
        );
    }
    if status == 401 && text(body, "type").ends_with("/no-identity") {
        let header = body.pointer("/errors/0/field").map_or("NAME".to_owned(), plain);
        shown.push_str(&format!(
            "\n  this node takes the user from a header: load its settings with --config FILE, or \
             pass --set api.identity=header:{header}",
        ));
    }
    for error in errors {
        let (field, rule) = (text(error, "field"), text(error, "rule"));
        shown.push_str(&format!("\n  {field}: must be {rule}; {}", text(error, "remedy")));
    }
    let known = ["type", "title", "status", "detail", "errors"];
    let others = body.as_object().into_iter().flatten();
    for (name, value) in others.filter(|(name, _)| !known.contains(&name.as_str())) {
        shown.push_str(&format!("\n  {}: {}", name.replace('_', " "), plain(value)));
    }
    shown
}

/// Shows a value without quotes. Replaces control characters, which could change the terminal.
fn plain(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => {
            text.chars().map(|letter| if letter.is_control() { '?' } else { letter }).collect()
        }
        Value::Object(members) => {
            let shown = members
                .iter()
                .map(|(name, value)| format!("{} {}", name.replace('_', " "), plain(value)));
            shown.collect::<Vec<_>>().join(", ")
        }
        Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(", "),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn campaigns_are_aligned_under_headings() {
        let spring = json!({
            "campaign_id": "spring", "state": "open", "quota": 10000, "issued": 17,
            "remaining": 9983, "per_user_limit": 1, "opens_at": null,
            "closes_at": "2027-01-01T00:00:00.000Z",
        });
        let autumn = json!({
            "campaign_id": "a", "state": "quarantined", "quota": 1, "issued": 0, "remaining": 1,
            "per_user_limit": 1000, "opens_at": null, "closes_at": null,
        });
        let expected = "\
CAMPAIGN  STATE        QUOTA  ISSUED  REMAINING  PER USER LIMIT  OPENS AT  CLOSES AT
spring    open         10000      17       9983               1  -         2027-01-01T00:00:00.000Z
a         quarantined      1       0          1            1000  -         -
";
        assert_eq!(campaigns(&[spring, autumn]), expected);
        assert_eq!(campaigns(&[]), "no campaigns\n");
    }

    #[test]
    fn a_campaign_has_one_line_per_field() {
        let campaign = json!({
            "campaign_id": "spring", "quota": 1, "state": "quarantined", "opens_at": null,
            "as_of": {"log_epoch": 1, "partition": 3, "offset": 17},
            "hold": {"kind": "failure", "from": 5, "reason": "store\u{1b}[31m"},
        });
        let expected = "\
campaign id  spring
state        quarantined
quota        1
opens at     -
as of        log epoch 1, offset 17, partition 3
hold         from 5, kind failure, reason store?[31m
";
        assert_eq!(fields(&campaign), expected);
    }

    #[test]
    fn a_problem_lists_every_rule_and_remedy() {
        let body = json!({
            "type": "/problems/invalid", "title": "Invalid definition", "status": 422,
            "detail": "2 rules are broken, see errors", "issued": 17,
            "errors": [
                {"field": "quota", "rule": "0 to 100000000", "remedy": "give a number"},
                {"field": "code.charset", "rule": "distinct", "remedy": "name each once"},
            ],
        });
        let expected = "\
Invalid definition (422)
  quota: must be 0 to 100000000; give a number
  code.charset: must be distinct; name each once
  issued: 17";
        assert_eq!(problem(422, &body), expected);
        let elsewhere = json!({
            "type": "/problems/body-too-large", "title": "Too large", "status": 413,
            "detail": "the body must be at most 9 bytes",
            "errors": [{"field": "body", "rule": "at most 9 bytes", "remedy": "send less"}],
        });
        let expected = "\
Too large (413)
  the body must be at most 9 bytes
  body: must be at most 9 bytes; send less";
        assert_eq!(problem(413, &elsewhere), expected);
        assert_eq!(problem(500, &json!({})), "the node answered 500");
    }

    #[test]
    fn a_missing_identity_names_the_setting() {
        let body = json!({
            "type": "/problems/no-identity", "title": "Missing user identity", "status": 401,
            "detail": "the header x-user, which names the user, is missing",
            "errors": [{"field": "x-user", "rule": "given", "remedy": "add it"}],
        });
        let expected = "\
Missing user identity (401)
  the header x-user, which names the user, is missing
  this node takes the user from a header: load its settings with --config FILE, or pass --set \
         api.identity=header:x-user
  x-user: must be given; add it";
        assert_eq!(problem(401, &body), expected);
    }
}
