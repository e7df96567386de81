//! Waiting for a decision: from the feed, and from the store where the feed may have lost it.

use std::time::Duration;

use futures_util::TryStreamExt;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::{
    Failure, NodeService, STORE_TIMEOUT, chain,
    model::Refused,
    waiters::{HeardDecision, Signal, Waiting},
};
use crate::{
    answer::{
        request_id::RequestContent,
        rows::{FromRows, control_answer, is_of, request_answer, unsound},
    },
    domain::{
        answer::Answer,
        campaign::user_bucket,
        coupon::Coupon,
        definition::PER_USER_LIMIT_MAX,
        ids::{CampaignId, Position, UserId},
        invariant::Invariant,
        record::Control,
    },
    store::{Selection, StoreError},
    telemetry::metrics,
};

/// Pause between two looks at the store: durable progress trails the watermark by that much.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// How often a waiter looks whether the owner is still heard of.
const SILENCE_CHECK_EVERY: Duration = Duration::from_secs(1);

/// A position whose decision is wanted.
#[derive(Debug, Clone, Copy)]
pub(super) enum Wanted<'a> {
    /// That of a request.
    Request(&'a RequestContent),
    /// That of a control record.
    Control {
        /// Where it stands.
        position: Position,
        /// What it asks.
        control: &'a Control,
    },
}

impl Wanted<'_> {
    fn position(&self) -> Position {
        match self {
            Self::Request(content) => content.position,
            Self::Control { position, .. } => *position,
        }
    }

    fn campaign(&self) -> &CampaignId {
        match self {
            Self::Request(content) => &content.campaign,
            Self::Control { control, .. } => &control.campaign,
        }
    }

    fn user(&self) -> Option<&UserId> {
        match self {
            Self::Request(content) => Some(&content.user),
            Self::Control { .. } => None,
        }
    }
}

/// What came of waiting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Decided {
    /// The decision.
    Answer(Answer),
    /// The time is over.
    NotYet,
    /// No waiter was free.
    NoPlace,
}

impl NodeService {
    /// Waits until `until` for the decision of `wanted`.
    ///
    /// # Errors
    /// [`Refused::Halted`] for a contradiction, [`Refused::Unavailable`] when the store had to be
    /// asked and still gave no answer at the end.
    pub(super) async fn decided(
        &self,
        wanted: Wanted<'_>,
        until: Instant,
    ) -> Result<Decided, Refused> {
        let Position { partition, offset, .. } = wanted.position();
        let reserved = matches!(wanted, Wanted::Control { .. });
        let (waiter, mut asking) = match self.waiters.wait_for(partition, offset, reserved) {
            Waiting::Known(told) => return self.answer_told(wanted, &told).map(Decided::Answer),
            Waiting::Full => return Ok(Decided::NoPlace),
            Waiting::At(waiter, ask) => (waiter, ask || self.waiters.is_silent(partition)),
        };
        let (mut first, mut failure) = (true, None);
        loop {
            if asking {
                tokio::select! {
                    biased;
                    told = waiter.told() => {
                        return self.answer_told(wanted, &told).map(Decided::Answer);
                    }
                    asked = timeout_at(until, self.ask_store(wanted, first)) => match asked {
                        Ok(Ok(Some(answer))) => return Ok(Decided::Answer(answer)),
                        Ok(Ok(None)) => (first, failure) = (false, None),
                        Ok(Err(refused @ Refused::Halted { .. })) => return Err(refused),
                        Ok(Err(refused)) => failure = Some(refused),
                        Err(_) => {}
                    }
                }
            }
            let now = Instant::now();
            if now >= until {
                return failure.map_or(Ok(Decided::NotYet), Err);
            }
            let pause = if asking { ASK_AGAIN_AFTER } else { SILENCE_CHECK_EVERY };
            tokio::select! {
                biased;
                signal = waiter.signal() => match signal {
                    Signal::HeardDecision(told) => {
                        return self.answer_told(wanted, &told).map(Decided::Answer);
                    }
                    Signal::AskStore => asking = true,
                },
                () = sleep_until(until.min(now + pause)) => {
                    asking |= self.waiters.is_silent(partition);
                }
                // Nothing more comes over the feed; what is in the log is decided by others.
                () = self.tasks.ended() => return Ok(Decided::NotYet),
            }
        }
    }

    /// The answer that the feed told, if it is one to what is wanted.
    pub(super) fn answer_told(
        &self,
        wanted: Wanted<'_>,
        told: &HeardDecision,
    ) -> Result<Answer, Refused> {
        let settled = told.settled();
        if is_of(settled, wanted.campaign(), wanted.user()) {
            return Ok(settled.answer.clone());
        }
        let Position { partition, offset, .. } = wanted.position();
        Err(contradiction(format!(
            "the feed decided another record than was appended at offset {offset} of partition \
             {partition}"
        )))
    }

    /// The answer from the store: a row at the position at once, a missing row only when the
    /// position is settled. Progress is read first, then holds, then rows. Unless it is the
    /// `first` time, rows of a position that is not settled are not read again: what could still
    /// come there comes over the feed, or with progress.
    pub(super) async fn ask_store(
        &self,
        wanted: Wanted<'_>,
        first: bool,
    ) -> Result<Option<Answer>, Refused> {
        let Position { partition, offset, .. } = wanted.position();
        let rows = self.partitions.read(partition).await?;
        let settled = self.partitions.is_settled(&rows, wanted.campaign(), offset);
        if !settled && !first {
            return Ok(None);
        }
        match wanted {
            Wanted::Request(content) => self.request_from_rows(content, settled).await,
            Wanted::Control { position, control } => {
                self.control_from_rows(position, control, settled).await
            }
        }
    }

    async fn request_from_rows(
        &self,
        content: &RequestContent,
        settled: bool,
    ) -> Result<Option<Answer>, Refused> {
        let RequestContent { position, campaign, user, .. } = content;
        // Above what is settled only the coupon at the position counts, and any version tells
        // where it stands.
        let known = match self.campaigns.kept(campaign).filter(|_| !settled) {
            Some(known) => Some(known),
            None => self.campaigns.known_at(campaign, position.offset).await?,
        };
        let Some(known) = known else { return undefined(content, settled) };
        let Some(definition) = known.edge.definition() else { return undefined(content, settled) };
        let coupons = self.coupons_of_user(campaign, user, definition.user_buckets).await?;
        match request_answer(content, settled, &known.edge.versions, &coupons) {
            FromRows::Answer(answer) => Ok(Some(answer)),
            FromRows::NotYet => Ok(None),
            FromRows::Undefined => undefined(content, settled),
            FromRows::UnknownRules(version) => Err(Refused::Unavailable {
                detail: format!("rules {version} of {campaign} are newer than this node"),
            }),
        }
    }

    async fn control_from_rows(
        &self,
        position: Position,
        control: &Control,
        settled: bool,
    ) -> Result<Option<Answer>, Refused> {
        let known = self.campaigns.now(&control.campaign).await?;
        let (versions, issued) = match &known {
            Some(known) => (known.edge.versions.as_slice(), known.edge.issued()),
            None => (&[][..], 0),
        };
        Ok(control_answer(position, control, settled, versions, issued))
    }

    /// The coupons of a user, each compared with its digest, in sequence order.
    pub(super) async fn coupons_of_user(
        &self,
        campaign: &CampaignId,
        user: &UserId,
        user_buckets: u8,
    ) -> Result<Vec<Coupon>, Refused> {
        let bucket = user_bucket(self.keys.user_digest(user), user_buckets);
        let selection = Selection::OfUser { user: user.clone(), bucket };
        let read = async {
            let _permit = self.coupon_reads.acquire().await;
            let mut pages = self.store.coupons(campaign, selection);
            let mut coupons = Vec::new();
            while let Some(page) = pages.try_next().await? {
                coupons.extend(page);
                if coupons.len() > usize::from(PER_USER_LIMIT_MAX) {
                    break;
                }
            }
            Ok::<_, StoreError>(coupons)
        };
        let mut coupons = match timeout(STORE_TIMEOUT, read).await {
            Ok(Ok(coupons)) => coupons,
            Ok(Err(error)) => return Err(Failure::Store(chain(&error)).into()),
            Err(_) => {
                let detail = format!("reading coupons of a user of {campaign} took too long");
                return Err(Failure::Store(detail).into());
            }
        };
        if let Some(coupon) = unsound(&coupons, campaign, user, &self.keys) {
            let sequence = coupon.sequence;
            return Err(contradiction(format!(
                "coupon {sequence} of {campaign} is not what was written"
            )));
        }
        if coupons.len() > usize::from(PER_USER_LIMIT_MAX) {
            return Err(contradiction(format!(
                "a user of {campaign} holds more than {PER_USER_LIMIT_MAX} coupons"
            )));
        }
        coupons.sort_by_key(|coupon| coupon.sequence);
        Ok(coupons)
    }
}

/// A request was appended only after its campaign had been found in the store, so a settled
/// position without a definition below it means that rows or log are not what they were.
fn undefined(content: &RequestContent, settled: bool) -> Result<Option<Answer>, Refused> {
    if !settled {
        return Ok(None);
    }
    let RequestContent { campaign, position, .. } = content;
    Err(contradiction(format!("{campaign} is not defined at offset {}", position.offset)))
}

/// Refuses, loudly, what can't be.
pub(super) fn contradiction(reason: String) -> Refused {
    metrics::violation(Invariant::StopRatherThanLie);
    tracing::error!(reason, "log and store contradict each other");
    Refused::Halted { reason }
}
