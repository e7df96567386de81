//! Lists of changes: who changed what, and what came of it.

use std::collections::BTreeMap;

use axum::{
    http::{StatusCode, Uri},
    response::Response,
};
use serde::Serialize;

use super::{
    definition::TermsBody,
    fields::{self, Broken, Member},
    json,
    problem::Problem,
    public,
    times::Rfc3339,
};
use crate::{
    api::service::{ChangePage, Service},
    domain::{
        change::ChangeRow,
        decision::Refusal,
        definition::{Audience, Definition},
        ids::{CampaignId, Offset, Partition, Position},
        record::Change,
    },
};

/// Changes of a page: the default, and the most.
const PAGE_DEFAULT: u64 = 100;
const PAGE_MAX: u64 = 1_000;

/// Answers with the page that the query asks for.
pub(super) async fn page(service: &dyn Service, uri: &Uri) -> Result<Response, Problem> {
    let mut query = public::query(uri, &["campaign", "limit", "after"], Audience::Admin)?;
    let campaign = query.optional("campaign", fields::campaign_id);
    let limit = query.optional("limit", fields::digits(1..=PAGE_MAX)).unwrap_or(PAGE_DEFAULT);
    let after = query.optional("after", place).unwrap_or_default();
    query.finish()?;
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let page = service.changes(campaign.as_ref(), after, limit).await?;
    Ok(json::answer(StatusCode::OK, &PageBody::from(&page)))
}

/// Reads the place of a page, as `next` of the page before has it: `PARTITION.OFFSET`, joined by hyphens.
fn place(member: Member<'_>) -> Result<BTreeMap<Partition, Offset>, Broken> {
    let broken = || Broken::new("what next of the page before says", "leave it out to begin again");
    let text = fields::text(member).map_err(|_| broken())?;
    let pair = |pair: &str| {
        let (partition, offset) = pair.split_once('.')?;
        Some((partition.parse().ok()?, offset.parse().ok()?))
    };
    text.split('-').map(pair).collect::<Option<_>>().ok_or_else(broken)
}

fn shown_place(next: &BTreeMap<Partition, Offset>) -> String {
    let pairs = next.iter().map(|(partition, offset)| format!("{partition}.{offset}"));
    pairs.collect::<Vec<_>>().join("-")
}

#[derive(Serialize)]
struct PageBody<'a> {
    changes: Vec<ChangeBody<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

impl<'a> From<&'a ChangePage> for PageBody<'a> {
    fn from(page: &'a ChangePage) -> Self {
        let changes = page.changes.iter().map(ChangeBody::from).collect();
        Self { changes, next: page.next.as_ref().map(shown_place) }
    }
}

#[derive(Serialize)]
struct ChangeBody<'a> {
    at: Rfc3339,
    campaign_id: &'a CampaignId,
    change: &'static str,
    by: &'a str,
    before: Option<DefinitionBody<'a>>,
    after: Option<DefinitionBody<'a>>,
    position: Position,
    outcome: &'static str,
}

impl<'a> From<&'a ChangeRow> for ChangeBody<'a> {
    fn from(row: &'a ChangeRow) -> Self {
        Self {
            at: Rfc3339(row.time),
            campaign_id: &row.campaign,
            change: match row.change {
                Change::Defined { .. } => "defined",
                Change::Amended { .. } => "amended",
                Change::Paused => "paused",
                Change::Resumed => "resumed",
                Change::Closed => "closed",
                Change::Released { .. } => "released",
            },
            by: &row.by,
            before: row.before.as_ref().map(DefinitionBody::from),
            after: row.after.as_ref().map(DefinitionBody::from),
            position: row.position,
            outcome: match row.refusal {
                None => "accepted",
                Some(Refusal::StaleVersion) => "stale_version",
                Some(Refusal::QuotaBelowIssued { .. }) => "quota_below_issued",
                Some(Refusal::Closed) => "closed",
                Some(Refusal::Invalid) => "invalid",
            },
        }
    }
}

/// A definition, with all of its terms.
#[derive(Serialize)]
struct DefinitionBody<'a> {
    #[serde(flatten)]
    public: TermsBody<'a>,
    #[serde(flatten)]
    others: TermsBody<'a>,
    paused: bool,
    closed: bool,
}

impl<'a> From<&'a Definition> for DefinitionBody<'a> {
    fn from(Definition { terms, paused, closed, .. }: &'a Definition) -> Self {
        let of = |audience| TermsBody { terms, audience };
        let (public, others) = (of(Audience::Public), of(Audience::Admin));
        Self { public, others, paused: *paused, closed: *closed }
    }
}
