//! `coupond campaign apply` and `export`: definitions as files.

use std::{collections::BTreeMap, fmt::Write as _, fs::File, path::Path};

use reqwest::Method;
use serde_json::{Map, Value, json};
use toml::de::{DeTable, DeValue};

use super::{
    Done,
    arguments::ApplyArguments,
    client::{Call, Client, ClientError},
};
use crate::{
    api::http,
    config::text_of,
    domain::{
        definition::{Term, Terms},
        ids::CampaignId,
    },
};

/// Largest file that is read: some ten thousand definitions.
const FILE_BYTES_MAX: u64 = 8 * 1_024 * 1_024;

/// The member that names the campaign of a definition.
const ID: &str = "campaign_id";

/// A definition of a file.
#[derive(Debug)]
struct Wanted {
    campaign: CampaignId,
    /// The members of `PUT`.
    body: Value,
    terms: Terms,
}

/// Makes the campaigns of files be so, or shows what would change. Checks every file first.
pub(super) async fn apply(
    client: &Client,
    apply: &ApplyArguments,
    json: bool,
) -> Result<Done, ClientError> {
    let mut wanted = Vec::new();
    let mut problems = Vec::new();
    for file in &apply.files {
        let text = File::open(file).and_then(|file| text_of(file, FILE_BYTES_MAX));
        let text = text.map_err(|error| vec![format!("cannot be read: {error}")]);
        match text.and_then(|text| definitions(file, &text)) {
            Ok(definitions) => wanted.extend(definitions),
            Err(faults) => {
                problems.extend(faults.iter().map(|fault| format!("{}: {fault}", file.display())));
            }
        }
    }
    let mut seen = std::collections::BTreeSet::new();
    for Wanted { campaign, .. } in &wanted {
        if !seen.insert(campaign) {
            problems.push(format!("{campaign} is defined twice; keep one of the definitions"));
        }
    }
    if !problems.is_empty() {
        return Err(ClientError::Files(problems.join("\n  ")));
    }
    let mut text = String::new();
    let mut results = Vec::new();
    for one in &wanted {
        let before = definition_of(client, &one.campaign).await?;
        let result = made_so(client, one, before.as_ref(), apply.dry_run).await?;
        text += &shown(&result);
        results.push(result);
    }
    Ok(Done::with(if json { format!("{}\n", json!({ "campaigns": results })) } else { text }))
}

/// Creates a campaign. Repeating the same command is no error, and another definition stays.
pub(super) async fn create(
    client: &Client,
    campaign: &CampaignId,
    members: Map<String, Value>,
) -> Result<Value, ClientError> {
    let path = ["admin", "campaigns", campaign.as_str()];
    let body = Value::Object(members);
    let headers = [("if-none-match", "*".to_owned())];
    let call = Call { headers: &headers, body: Some(&body), ..Call::new(Method::PUT, &path) };
    let refused = match client.call(call).await {
        Ok((_, view)) => return Ok(view),
        Err(error) => error,
    };
    if !matches!(&refused, ClientError::Refused { status: 412, .. }) {
        return Err(refused);
    }
    let there = definition_of(client, campaign).await?;
    match there.is_some() && there == http::read_terms(&body).ok() {
        true => Ok(client.call(Call::new(Method::GET, &path)).await?.1),
        false => Err(refused),
    }
}

/// Exports a definition, as [`apply`] takes it.
pub(super) async fn export(client: &Client, campaign: &CampaignId) -> Result<Done, ClientError> {
    let path = ["admin", "campaigns", campaign.as_str()];
    let (_, mut view) = client.call(Call::new(Method::GET, &path)).await?;
    let members = [ID].iter().chain(Term::NAMES);
    let members = members.filter_map(|name| {
        let value = view.get_mut(*name)?.take();
        (!value.is_null()).then(|| ((*name).to_owned(), value))
    });
    let definition = Value::Object(members.collect());
    Ok(Done::with(format!("{definition:#}\n")))
}

/// Makes a campaign be so, and returns what that changed.
async fn made_so(
    client: &Client,
    one: &Wanted,
    before: Option<&Terms>,
    dry_run: bool,
) -> Result<Value, ClientError> {
    let changes = differences(before, &one.terms);
    let action = match (before, changes.is_empty()) {
        (None, _) => "create",
        (Some(_), true) => "keep",
        (Some(_), false) => "amend",
    };
    let mut result = json!({ ID: one.campaign, "action": action, "changes": changes });
    if !dry_run {
        let path = ["admin", "campaigns", one.campaign.as_str()];
        let call = Call { body: Some(&one.body), ..Call::new(Method::PUT, &path) };
        let (_, mut view) = client.call(call).await?;
        if let Some(warnings) = view.get_mut("warnings") {
            result["warnings"] = warnings.take();
        }
    }
    Ok(result)
}

/// Returns the terms of a campaign; `None` if there is no such campaign.
async fn definition_of(
    client: &Client,
    campaign: &CampaignId,
) -> Result<Option<Terms>, ClientError> {
    let path = ["admin", "campaigns", campaign.as_str()];
    let mut view = match client.call(Call::new(Method::GET, &path)).await {
        Ok((_, view)) => view,
        Err(ClientError::Refused { status: 404, .. }) => return Ok(None),
        Err(error) => return Err(error),
    };
    let members = Term::NAMES
        .iter()
        .filter_map(|name| Some(((*name).to_owned(), view.get_mut(*name)?.take())));
    let body = Value::Object(members.collect());
    http::read_terms(&body).map(Some).map_err(|faults| ClientError::Foreign {
        url: format!("the answer for {campaign}"),
        found: faults.join(", "),
    })
}

/// Returns the terms that differ: for each its values before and after.
fn differences(before: Option<&Terms>, after: &Terms) -> BTreeMap<&'static str, Value> {
    let (old, new) = (before.map(http::shown_terms).unwrap_or_default(), http::shown_terms(after));
    let value = |members: &Map<String, Value>, name| members.get(name).cloned().unwrap_or_default();
    let differing = Term::NAMES.iter().map(|name| (*name, value(&old, *name), value(&new, *name)));
    let differing = differing.filter(|(_, before, after)| before != after);
    differing.map(|(name, before, after)| (name, json!([before, after]))).collect()
}

fn shown(result: &Value) -> String {
    let text = |name: &str| result[name].as_str().unwrap_or_default().to_owned();
    let mut lines = format!("{}: {}\n", text(ID), text("action"));
    for (name, change) in result["changes"].as_object().into_iter().flatten() {
        // A String takes what is written.
        let _ = writeln!(lines, "  {name}: {} -> {}", change[0], change[1]);
    }
    for warning in result["warnings"].as_array().into_iter().flatten() {
        let _ = writeln!(lines, "  warning: {}", warning.as_str().unwrap_or_default());
    }
    lines
}

/// Reads the definitions of a file: TOML if its name ends so, else JSON.
fn definitions(path: &Path, text: &str) -> Result<Vec<Wanted>, Vec<String>> {
    let is_toml = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("toml"));
    let document = if is_toml {
        let table = DeTable::parse(text).map_err(|error| vec![format!("is no TOML: {error}")])?;
        object(table.get_ref()).map_err(|fault| vec![fault])?
    } else {
        serde_json::from_str(text).map_err(|error| vec![format!("is no JSON: {error}")])?
    };
    let items = match document {
        Value::Array(items) => items,
        Value::Object(mut members) if members.len() == 1 && members.contains_key("campaigns") => {
            match members.remove("campaigns") {
                Some(Value::Array(items)) => items,
                _ => return Err(vec!["campaigns must be a list of definitions".to_owned()]),
            }
        }
        one => vec![one],
    };
    let mut wanted = Vec::new();
    let mut faults = Vec::new();
    for (at, item) in items.into_iter().enumerate() {
        match definition(item) {
            Ok(one) => wanted.push(one),
            Err(found) => {
                faults.extend(found.iter().map(|fault| format!("definition {}: {fault}", at + 1)));
            }
        }
    }
    if faults.is_empty() { Ok(wanted) } else { Err(faults) }
}

fn definition(item: Value) -> Result<Wanted, Vec<String>> {
    let Value::Object(mut members) = item else {
        return Err(vec!["must be an object with campaign_id and quota".to_owned()]);
    };
    let id = members.remove(ID);
    let campaign = id.as_ref().and_then(Value::as_str).and_then(|id| CampaignId::parse(id).ok());
    let body = Value::Object(members);
    match (campaign, http::read_terms(&body)) {
        (Some(campaign), Ok(terms)) => Ok(Wanted { campaign, body, terms }),
        (Some(_), Err(faults)) => Err(faults),
        (None, terms) => {
            let fault = format!("{ID} must be {}", CampaignId::RULE);
            Err([vec![fault], terms.err().unwrap_or_default()].concat())
        }
    }
}

/// Returns a TOML table as JSON.
fn object(table: &DeTable<'_>) -> Result<Value, String> {
    let members = table
        .iter()
        .map(|(name, value)| Ok((name.get_ref().clone().into_owned(), value_of(value.get_ref())?)));
    members.collect::<Result<Map<_, _>, String>>().map(Value::Object)
}

fn value_of(value: &DeValue<'_>) -> Result<Value, String> {
    Ok(match value {
        DeValue::String(text) => Value::from(text.clone().into_owned()),
        DeValue::Boolean(flag) => Value::from(*flag),
        DeValue::Integer(number) => {
            let whole = i64::from_str_radix(number.as_str(), number.radix());
            Value::from(whole.map_err(|_| format!("{} is beyond 64 bits", number.as_str()))?)
        }
        // A time with an offset is written as in JSON; another one is refused as JSON's is.
        DeValue::Datetime(time) => Value::from(time.to_string()),
        DeValue::Float(number) => return Err(format!("{} is no whole number", number.as_str())),
        DeValue::Array(items) => {
            let items = items.iter().map(|item| value_of(item.get_ref()));
            Value::Array(items.collect::<Result<_, _>>()?)
        }
        DeValue::Table(table) => object(table)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(file: &str, text: &str) -> Result<Vec<String>, Vec<String>> {
        let wanted = definitions(Path::new(file), text)?;
        Ok(wanted.iter().map(|one| one.campaign.to_string()).collect())
    }

    #[test]
    fn a_file_has_one_or_many_definitions() {
        let toml = "[[campaigns]]\ncampaign_id = 'a'\nquota = 0x10\nopens_at = 2027-01-01T12:00:00Z\n\
                    [campaigns.code]\ngroup = 4\n[[campaigns]]\ncampaign_id = 'b'\nquota = 1\n";
        assert_eq!(ids("sale.toml", toml).unwrap(), ["a", "b"]);
        let wanted = definitions(Path::new("sale.toml"), toml).unwrap();
        assert_eq!((wanted[0].terms.quota, wanted[0].terms.code.group), (16, Some(4)));
        assert!(wanted[0].terms.opens_at.is_some());
        assert_eq!(ids("one.TOML", "campaign_id = 'a'\nquota = 1").unwrap(), ["a"]);
        assert_eq!(ids("one.json", r#"{"campaign_id":"a","quota":1}"#).unwrap(), ["a"]);
        let many = r#"[{"campaign_id":"a","quota":1},{"campaign_id":"b","quota":2}]"#;
        assert_eq!(ids("many", many).unwrap(), ["a", "b"]);
        assert_eq!(ids("many", "[]").unwrap(), Vec::<String>::new());
    }

    #[test]
    fn every_fault_of_a_file_is_told() {
        let text = r#"[{"campaign_id":"A","qouta":1},{"campaign_id":"b","quota":-1},7]"#;
        let faults = ids("many.json", text).unwrap_err();
        let begins = |at: usize, start: &str| assert!(faults[at].starts_with(start), "{faults:?}");
        begins(0, "definition 1: campaign_id must be 1 to 64");
        begins(1, "definition 1: qouta must be one of quota");
        begins(2, "definition 1: quota must be given");
        begins(3, "definition 2: quota must be a whole number");
        begins(4, "definition 3: must be an object");
        assert_eq!(faults.len(), 5);
        assert!(ids("a.json", "{").is_err());
        assert!(ids("a.toml", "quota = ").is_err());
        assert!(ids("a.toml", "campaign_id = 'a'\nquota = 1.5").is_err());
    }

    #[test]
    fn differences_name_both_values() {
        let before = Terms::of(10);
        let after = Terms { title: Some("Spring".to_owned()), ..Terms::of(20) };
        let found = differences(Some(&before), &after);
        let expected = json!({ "quota": [10, 20], "title": [null, "Spring"] });
        assert_eq!(json!(found), expected);
        assert_eq!(differences(Some(&after), &after).len(), 0);
        let result = json!({ ID: "a", "action": "amend", "changes": found, "warnings": ["w"] });
        let text = "a: amend\n  quota: 10 -> 20\n  title: null -> \"Spring\"\n  warning: w\n";
        assert_eq!(shown(&result), text);
    }
}
