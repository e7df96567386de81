//! Pages of the list of campaigns. Each campaign of a list is written as JSON once. A long page is cut piece
//! by piece from the list that is current then: a client that reads slowly keeps no list.

use std::{
    pin::Pin,
    sync::{Arc, Weak},
    task::{Context, Poll},
};

use axum::{
    body::{Body, Bytes, HttpBody},
    http::{StatusCode, Uri},
    response::Response,
};
use hyper::body::{Frame, SizeHint};
use parking_lot::Mutex;

use super::{
    fields, json, problem::Problem, public, server::ANSWER_BYTES_FREE, views::CampaignBody,
};
use crate::{
    api::service::{CampaignList, Freshen, Service},
    domain::{definition::Audience, ids::CampaignId},
};

/// Campaigns of a page: the default, and the most.
const PAGE_DEFAULT: usize = 100;
const PAGE_MAX: usize = 1_000;

/// Most bytes of a campaign as JSON: id, times and figures, and a title of 120 characters of which each
/// takes up to 6 bytes.
const CAMPAIGN_BYTES_MAX: usize = 1_536;

const BEGINS: &[u8] = b"{\"campaigns\":[";

/// Answers with pages. Keeps the latest list as JSON.
pub(super) struct Pages {
    audience: Audience,
    /// Held while a list is written. Others wait meanwhile: they need the same.
    writes: tokio::sync::Mutex<()>,
    latest: Arc<Latest>,
}

/// The list that was written last.
type Latest = Mutex<Option<Arc<Written>>>;

impl Pages {
    /// Returns pages of the campaigns that `audience` sees.
    pub(super) fn new(audience: Audience) -> Self {
        Self { audience, writes: tokio::sync::Mutex::default(), latest: Arc::default() }
    }

    /// Answers with the page that the query asks for.
    pub(super) async fn page(&self, service: &dyn Service, uri: &Uri) -> Result<Response, Problem> {
        let mut query = public::query(uri, &["limit", "after"], self.audience)?;
        let limit = query.optional("limit", fields::digits(1..=PAGE_MAX as u64));
        let after = query.optional("after", fields::campaign_id);
        query.finish()?;
        let left = limit.map_or(PAGE_DEFAULT, |limit| usize::try_from(limit).unwrap_or(PAGE_MAX));
        let list = service.campaigns().await?;
        self.write(list).await;
        let (latest, freshen) = (self.latest.clone(), service.freshen());
        let mut page = Page { latest, freshen, after, left, state: State::Begins };
        let first = page.next_piece().unwrap_or_default();
        let body = match page.state {
            State::Ended => Body::from(first),
            State::Begins | State::Goes => Body::new(Pieces { first: Some(first), page }),
        };
        Ok(json::written(StatusCode::OK, body))
    }

    /// Writes a list, unless the last caller did.
    async fn write(&self, list: Arc<CampaignList>) {
        let _writes = self.writes.lock().await;
        let is_written = |written: &Arc<Written>| written.list.as_ptr() == Arc::as_ptr(&list);
        if !self.latest.lock().as_ref().is_some_and(is_written) {
            let written = Arc::new(Written::new(&list, self.audience));
            *self.latest.lock() = Some(written);
        }
    }
}

/// A list, and the JSON of the campaigns that an audience sees.
struct Written {
    /// What was written. Its campaigns need not stay in memory.
    list: Weak<CampaignList>,
    ids: Vec<CampaignId>,
    /// Where each campaign ends in `text`.
    ends: Vec<usize>,
    /// The campaigns, joined by commas.
    text: Vec<u8>,
}

impl Written {
    fn new(list: &Arc<CampaignList>, audience: Audience) -> Self {
        let (mut ids, mut ends, mut text) = (Vec::new(), Vec::new(), Vec::new());
        for view in list.shown_to(audience) {
            if !text.is_empty() {
                text.push(b',');
            }
            text.extend(json::to_bytes(&CampaignBody::from(view)));
            ids.push(view.campaign.clone());
            ends.push(text.len());
        }
        Self { list: Arc::downgrade(list), ids, ends, text }
    }

    /// Adds campaigns from `first` on to `piece`, at most `limit` and as many as fit, each as it is by
    /// now. Returns the index behind the last one.
    fn cut(&self, first: usize, limit: usize, freshen: &Freshen, piece: &mut Vec<u8>) -> usize {
        let list = self.list.upgrade();
        let fresh = |id| {
            let fresh = freshen(list.as_ref()?.view(id)?)?;
            Some(json::to_bytes(&CampaignBody::from(&fresh)))
        };
        let end = self.ids.len().min(first.saturating_add(limit));
        for at in first..end {
            let start = if at == 0 { 0 } else { self.ends[at - 1] + 1 };
            let fresh = fresh(&self.ids[at]);
            let text = fresh.as_deref().unwrap_or(&self.text[start..self.ends[at]]);
            if at > first && piece.len() + 1 + text.len() > PIECE_BYTES {
                return at;
            }
            if at > first {
                piece.push(b',');
            }
            piece.extend(text);
        }
        end
    }
}

/// Bytes of campaigns in a piece. What encloses them comes on top.
const PIECE_BYTES: usize = ANSWER_BYTES_FREE - 256;

const _: () = assert!(CAMPAIGN_BYTES_MAX < PIECE_BYTES);

/// The rest of a page.
struct Page {
    latest: Arc<Latest>,
    freshen: Freshen,
    /// The last campaign that was cut, or the one that the client has named.
    after: Option<CampaignId>,
    /// Campaigns that may still come.
    left: usize,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Begins,
    Goes,
    Ended,
}

impl Page {
    /// Cuts the next piece from the list that is current now. None at the end.
    fn next_piece(&mut self) -> Option<Bytes> {
        if self.state == State::Ended {
            return None;
        }
        // There is one from the first page on.
        let written = self.latest.lock().clone()?;
        let after = self.after.as_ref();
        let first = after.map_or(0, |after| written.ids.partition_point(|id| id <= after));
        let mut piece = Vec::with_capacity(ANSWER_BYTES_FREE);
        match self.state {
            State::Begins => piece.extend(BEGINS),
            State::Goes if first < written.ids.len() => piece.push(b','),
            State::Goes | State::Ended => {}
        }
        let end = written.cut(first, self.left, &self.freshen, &mut piece);
        if first < end {
            self.after = Some(written.ids[end - 1].clone());
            self.left -= end - first;
        }
        self.state = State::Goes;
        if self.left == 0 || end == written.ids.len() {
            self.state = State::Ended;
            piece.push(b']');
            if end < written.ids.len()
                && let Some(last) = &self.after
            {
                piece.extend(b",\"next\":");
                piece.extend(json::to_bytes(last));
            }
            piece.push(b'}');
        }
        Some(piece.into())
    }
}

/// A page that takes several pieces.
struct Pieces {
    /// The first piece, until it was sent.
    first: Option<Bytes>,
    page: Page,
}

impl HttpBody for Pieces {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.get_mut();
        let next = this.first.take().or_else(|| this.page.next_piece());
        Poll::Ready(next.map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_none() && self.page.state == State::Ended
    }

    /// The length is not known, but the most that it can be: nothing but its client keeps a page from
    /// being sent.
    fn size_hint(&self) -> SizeHint {
        let mut hint = SizeHint::default();
        hint.set_upper(((self.page.left + 1) * CAMPAIGN_BYTES_MAX + ANSWER_BYTES_FREE) as u64);
        hint
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    /// A list of so many campaigns, in which each has the figure.
    fn written(campaigns: usize, figure: usize) -> Arc<Written> {
        let mut written = Written { list: Weak::new(), ids: vec![], ends: vec![], text: vec![] };
        for number in 0..campaigns {
            let id = format!("c{number:05}");
            written.text.extend(if number == 0 { "" } else { "," }.bytes());
            written.text.extend(format!("{{\"campaign_id\":\"{id}\",\"n\":{figure}}}").bytes());
            written.ids.push(CampaignId::parse(&id).unwrap());
            written.ends.push(written.text.len());
        }
        Arc::new(written)
    }

    fn page(latest: &Arc<Latest>, after: Option<&str>, left: usize) -> Page {
        let after = after.map(|id| CampaignId::parse(id).unwrap());
        Page {
            latest: latest.clone(),
            freshen: Arc::new(|_| None),
            after,
            left,
            state: State::Begins,
        }
    }

    fn all(mut page: Page) -> (serde_json::Value, usize) {
        let pieces: Vec<_> = std::iter::from_fn(|| page.next_piece()).collect();
        assert!(pieces.iter().all(|piece| piece.len() <= ANSWER_BYTES_FREE));
        (serde_json::from_slice(&pieces.concat()).expect("JSON"), pieces.len())
    }

    #[test]
    fn pieces_are_one_page() {
        let latest: Arc<Latest> = Arc::new(Mutex::new(Some(written(1_200, 7))));
        for (after, left, first, last, next) in [
            (None, 1_000, Some("c00000"), Some("c00999"), Some("c00999")),
            (Some("c00199"), 1_000, Some("c00200"), Some("c01199"), None),
            (Some("c00198"), 1_000, Some("c00199"), Some("c01198"), Some("c01198")),
            (Some("c01190"), 5, Some("c01191"), Some("c01195"), Some("c01195")),
            (Some("c01199"), 5, None, None, None),
            (Some("z"), 1, None, None, None),
        ] {
            let (json, pieces) = all(page(&latest, after, left));
            let shown = json["campaigns"].as_array().unwrap();
            let id = |at: Option<&serde_json::Value>| at.map(|it| it["campaign_id"].clone());
            assert_eq!(id(shown.first()), first.map(Into::into), "{after:?} {left}");
            assert_eq!(id(shown.last()), last.map(Into::into), "{after:?} {left}");
            assert_eq!(json.get("next").cloned(), next.map(Into::into), "{after:?} {left}");
            assert_eq!(pieces > 1, shown.len() > 500, "{after:?} {left}");
        }
        *latest.lock() = Some(written(0, 0));
        assert_eq!(all(page(&latest, None, 100)), (serde_json::json!({ "campaigns": [] }), 1));
    }

    #[test]
    fn a_page_that_is_read_slowly_keeps_no_list() {
        let latest: Arc<Latest> = Arc::new(Mutex::new(Some(written(1_000, 1))));
        let old = Arc::downgrade(latest.lock().as_ref().unwrap());
        let mut page = page(&latest, None, 1_000);
        let first = page.next_piece();
        let mut body = Pieces { first, page };
        let mut text = Vec::new();
        let mut next = || {
            let mut cx = Context::from_waker(Waker::noop());
            let Poll::Ready(frame) = Pin::new(&mut body).poll_frame(&mut cx) else { panic!() };
            frame.map(|frame| frame.unwrap().into_data().unwrap())
        };
        text.extend(next().unwrap());
        *latest.lock() = Some(written(1_010, 2));
        assert!(old.upgrade().is_none(), "only the latest list is in memory");
        while let Some(piece) = next() {
            text.extend(piece);
        }
        let json: serde_json::Value = serde_json::from_slice(&text).unwrap();
        let shown = json["campaigns"].as_array().unwrap();
        let ids: Vec<_> = shown.iter().map(|it| it["campaign_id"].as_str().unwrap()).collect();
        assert!(ids.is_sorted() && ids.len() == 1_000, "none twice and none left out");
        let figures = [shown[0]["n"].clone(), shown[999]["n"].clone()];
        assert_eq!(figures, [1, 2], "later campaigns come from the later list");
        assert_eq!(json["next"], "c00999");
    }
}
