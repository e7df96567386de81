//! Pages of the list of campaigns. Each campaign of a list is written as JSON once, and all pages are
//! slices of that text: an answer that its client does not read keeps no copy.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use axum::{
    body::{Body, Bytes, HttpBody},
    http::{StatusCode, Uri},
    response::Response,
};
use hyper::body::{Frame, SizeHint};
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
pub(super) struct Pages {
    audience: Audience,
    latest: Mutex<Option<Arc<Written>>>,
}

impl Pages {
    /// Returns pages of the campaigns that `audience` sees.
    pub(super) fn new(audience: Audience) -> Self {
        Self { audience, latest: Mutex::default() }
    }

    /// Answers with the page that the query asks for.
    pub(super) async fn page(&self, service: &dyn Service, uri: &Uri) -> Result<Response, Problem> {
        let mut query = public::query(uri, &["limit", "after"])?;
        let limit = query.optional("limit", fields::digits(1..=PAGE_MAX as u64));
        let after = query.optional("after", fields::campaign_id);
        query.finish()?;
        let limit = limit.map_or(PAGE_DEFAULT, |limit| usize::try_from(limit).unwrap_or(PAGE_MAX));
        let written = self.written(service.campaigns().await?).await;
        Ok(json::written(StatusCode::OK, written.page(after.as_ref(), limit)))
    }

    /// Writes a list, unless the last caller did. Others wait meanwhile: they need the same.
    async fn written(&self, list: Arc<CampaignList>) -> Arc<Written> {
        let mut latest = self.latest.lock().await;
        match &*latest {
            Some(written) if Arc::ptr_eq(&written.list, &list) => written.clone(),
            _ => latest.insert(Arc::new(Written::new(list, self.audience))).clone(),
        }
    }
}

/// A list, and the JSON of the campaigns that an audience sees.
struct Written {
    list: Arc<CampaignList>,
    ids: Vec<CampaignId>,
    /// Where each campaign ends in `text`.
    ends: Vec<usize>,
    /// The campaigns, joined by commas.
    text: Bytes,
}

impl Written {
    fn new(list: Arc<CampaignList>, audience: Audience) -> Self {
        let (mut ids, mut ends, mut text) = (Vec::new(), Vec::new(), Vec::new());
        for view in list.shown_to(audience) {
            if !text.is_empty() {
                text.push(b',');
            }
            text.extend(json::to_bytes(&CampaignBody::from(view)));
            ids.push(view.campaign.clone());
            ends.push(text.len());
        }
        Self { list, ids, ends, text: text.into() }
    }

    fn page(&self, after: Option<&CampaignId>, limit: usize) -> Body {
        let first = after.map_or(0, |after| self.ids.partition_point(|id| id <= after));
        let end = self.ids.len().min(first + limit);
        let campaigns = if first < end {
            let start = if first == 0 { 0 } else { self.ends[first - 1] + 1 };
            self.text.slice(start..self.ends[end - 1])
        } else {
            Bytes::new()
        };
        let rest = match self.ids[first..end].last() {
            Some(last) if end < self.ids.len() => {
                let next = json::to_bytes(last);
                Bytes::from([b"],\"next\":", next.as_ref(), b"}"].concat())
            }
            _ => Bytes::from_static(b"]}"),
        };
        Body::new(Slices([rest, campaigns, Bytes::from_static(b"{\"campaigns\":[")]))
    }
}

/// A body of slices, the last one first. Those that were sent are empty.
struct Slices([Bytes; 3]);

impl HttpBody for Slices {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let mut left = self.get_mut().0.iter_mut().rev();
        let next = left.find(|slice| !slice.is_empty()).map(std::mem::take);
        Poll::Ready(next.map(|slice| Ok(Frame::data(slice))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.iter().all(Bytes::is_empty)
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.iter().map(|slice| slice.len() as u64).sum())
    }
}
