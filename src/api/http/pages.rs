//! Pages of the list of campaigns. Each campaign of a list is written as JSON once, for all pages.

use std::{ops::Range, sync::Arc};

use axum::{
    http::{StatusCode, Uri},
    response::Response,
};
use tokio::sync::Mutex;

use super::{fields, json, problem::Problem, public, views::CampaignBody};
use crate::{
    api::service::{CampaignList, Service},
    domain::{definition::Audience, ids::CampaignId},
};

/// Campaigns of a page: the default, and the most.
const PAGE_DEFAULT: usize = 100;
const PAGE_MAX: usize = 1_000;

/// Answers with pages. Keeps the latest list as JSON.
#[derive(Default)]
pub(super) struct Pages(Mutex<Option<Arc<Written>>>);

/// A list, and the JSON of its campaigns, one after another.
struct Written {
    list: Arc<CampaignList>,
    text: Vec<u8>,
    /// Where each campaign lies in `text`.
    places: Vec<Range<usize>>,
}

impl Pages {
    /// Answers with a page of the campaigns that `audience` sees.
    pub(super) async fn page(
        &self,
        service: &dyn Service,
        audience: Audience,
        uri: &Uri,
    ) -> Result<Response, Problem> {
        let mut query = public::query(uri, &["limit", "after"])?;
        let limit = query.optional("limit", fields::digits(1..=PAGE_MAX as u64));
        let after = query.optional("after", fields::campaign_id);
        query.finish()?;
        let limit = limit.map_or(PAGE_DEFAULT, |limit| usize::try_from(limit).unwrap_or(PAGE_MAX));
        let written = self.written(service.campaigns().await?).await;
        Ok(json::written(StatusCode::OK, written.page(audience, after.as_ref(), limit)))
    }

    /// Writes a list, unless the last caller did. Others wait meanwhile: they need the same.
    async fn written(&self, list: Arc<CampaignList>) -> Arc<Written> {
        let mut latest = self.0.lock().await;
        match &*latest {
            Some(written) if Arc::ptr_eq(&written.list, &list) => written.clone(),
            _ => latest.insert(Arc::new(Written::new(list))).clone(),
        }
    }
}

impl Written {
    fn new(list: Arc<CampaignList>) -> Self {
        let (mut text, mut places) = (Vec::new(), Vec::with_capacity(list.0.len()));
        for view in &list.0 {
            let start = text.len();
            text.extend(json::to_bytes(&CampaignBody::from(view)));
            places.push(start..text.len());
        }
        Self { list, text, places }
    }

    fn page(&self, audience: Audience, after: Option<&CampaignId>, limit: usize) -> Vec<u8> {
        let (page, has_more) = self.list.page(audience, after, limit);
        let length: usize = page.iter().map(|at| self.places[*at].len() + 1).sum();
        let mut text = Vec::with_capacity(length + 128);
        text.extend(b"{\"campaigns\":[");
        for (number, at) in page.iter().enumerate() {
            if number > 0 {
                text.push(b',');
            }
            text.extend(&self.text[self.places[*at].clone()]);
        }
        text.push(b']');
        if let (true, Some(last)) = (has_more, page.last()) {
            text.extend(b",\"next\":");
            text.extend(json::to_bytes(&self.list.0[*last].campaign));
        }
        text.push(b'}');
        text
    }
}
