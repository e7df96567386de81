//! Waits for decisions: on the feed, and in the store when the feed may have lost them.

use std::time::Duration;

use futures_util::TryStreamExt;

use super::{
    NodeService,
    interface::ServiceError,
    waiters::{Registration, Signal, Waiter},
};
use crate::{
    answer::{
        Moment,
        position::Standing,
        request_id::RequestContent,
        rows::{FromRows, control_answer, is_sound, request_answer, unsound},
        told::{Asked, Told, answer, has_code, told},
    },
    domain::{
        answer::Answer,
        campaign::user_bucket,
        coupon::Coupon,
        definition::PER_USER_LIMIT_MAX,
        ids::{CampaignId, Partition, Position, Sequence, UserId},
        invariant::Invariant,
        reason::Reason,
        record::Control,
    },
    store::{Selection, StoreError},
    telemetry::metrics,
    wire::feed_message::FeedDecision,
};

/// Pause between two reads of the store: durable progress trails the watermark by as much.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// How often a waiter checks whether the partition's owner still tells decisions.
const OWNER_CHECK_EVERY: Duration = Duration::from_secs(1);

/// A record whose decision is awaited.
#[derive(Debug, Clone, Copy)]
pub(super) enum Awaited<'a> {
    Request {
        content: &'a RequestContent,
        /// Whether the log is known to have this request at its position.
        is_in_log: bool,
    },
    Control {
        position: Position,
        control: &'a Control,
    },
}

impl Awaited<'_> {
    pub(super) fn position(&self) -> Position {
        match self {
            Self::Request { content, .. } => content.position,
            Self::Control { position, .. } => *position,
        }
    }

    fn campaign(&self) -> &CampaignId {
        match self {
            Self::Request { content, .. } => &content.campaign,
            Self::Control { control, .. } => &control.campaign,
        }
    }

    fn user(&self) -> Option<&UserId> {
        match self {
            Self::Request { content, .. } => Some(&content.user),
            Self::Control { .. } => None,
        }
    }

    fn asked(&self) -> Asked<'_> {
        let log_epoch = self.position().log_epoch;
        Asked { campaign: self.campaign(), user: self.user(), log_epoch }
    }

    /// Whether the log is known to have this record at its position. A control record was appended just
    /// now.
    fn is_in_log(&self) -> bool {
        matches!(self, Self::Request { is_in_log: true, .. } | Self::Control { .. })
    }
}

/// How a wait ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum WaitEnd {
    /// The record is decided.
    Decided(Answer),
    /// Time is up, or the service shuts down.
    TimedOut,
    /// No waiter was free.
    NoWaiterFree,
}

impl NodeService {
    /// Waits until `until` for the decision of `awaited`.
    ///
    /// # Errors
    /// [`ServiceError::Halted`] for a contradiction, [`ServiceError::Skipped`] once a skip that covers
    /// the position is in force, [`ServiceError::Unavailable`] when the store had to be read and did
    /// not answer before `until`.
    pub(super) async fn wait_for_decision(
        &self,
        awaited: Awaited<'_>,
        until: Moment,
    ) -> Result<WaitEnd, ServiceError> {
        let Position { partition, offset, .. } = awaited.position();
        // Admin calls have places of their own: clients that long-poll must not lock operators out.
        let user = awaited.user().map(|user| self.user_of(awaited.campaign(), user));
        let (waiter, ask) = match self.waiters.register(partition, offset, user) {
            Registration::Known(decision) => return self.ended(awaited, &decision, until).await,
            Registration::Full => return Ok(WaitEnd::NoWaiterFree),
            Registration::Waiting(waiter, ask) => (waiter, ask),
        };
        let signal = match ask || self.waiters.tells_nothing(partition) {
            true => Some(Signal::AskStore),
            false => self.signal(&waiter, partition, until).await,
        };
        match signal {
            Some(Signal::Decided(decision)) => self.ended(awaited, &decision, until).await,
            Some(Signal::Displaced) => Ok(WaitEnd::NoWaiterFree),
            Some(Signal::AskStore) => tokio::select! {
                // The feed first: its decision costs no read, and ends one under way.
                biased;
                decision = waiter.decision() => match decision {
                    Some(decision) => self.ended(awaited, &decision, until).await,
                    None => Ok(WaitEnd::NoWaiterFree),
                },
                end = self.ask_until(awaited, true, until) => end,
            },
            None => Ok(WaitEnd::TimedOut),
        }
    }

    /// Waits for the next signal while the partition's owner tells decisions. `None` at `until`, and when
    /// the service shuts down.
    async fn signal(&self, waiter: &Waiter, partition: Partition, until: Moment) -> Option<Signal> {
        loop {
            let now = self.clock.now();
            if now >= until {
                return None;
            }
            tokio::select! {
                biased;
                signal = waiter.signal() => return Some(signal),
                () = self.clock.sleep_until(until.min(now + OWNER_CHECK_EVERY)) => {
                    // A dead owner sends nothing, not even a gap: only silence shows that its
                    // last decisions may never arrive. One that halted the partition sends no
                    // watermark.
                    if self.waiters.tells_nothing(partition) {
                        return Some(Signal::AskStore);
                    }
                }
                // The feed is no longer followed; the client asks another node by its request id.
                () = self.tasks.no_waiting() => return None,
            }
        }
    }

    /// Asks the store until it has the answer, or until `until`.
    ///
    /// `first` is as in [`Self::ask_store`].
    async fn ask_until(
        &self,
        awaited: Awaited<'_>,
        mut first: bool,
        until: Moment,
    ) -> Result<WaitEnd, ServiceError> {
        let mut failure = None;
        loop {
            match self.clock.timeout_at(until, self.ask_store(awaited, first)).await {
                Ok(Ok(Some(answer))) => return Ok(WaitEnd::Decided(answer)),
                Ok(Ok(None)) => (first, failure) = (false, None),
                // A contradiction and a skip are final; a store that is away may come back in time.
                Ok(Err(error @ (ServiceError::Halted { .. } | ServiceError::Skipped))) => {
                    return Err(error);
                }
                Ok(Err(error)) => failure = Some(error),
                Err(_) => {}
            }
            let now = self.clock.now();
            if now >= until {
                return failure.map_or(Ok(WaitEnd::TimedOut), Err);
            }
            tokio::select! {
                biased;
                () = self.clock.sleep_until(until.min(now + ASK_AGAIN_AFTER)) => {}
                () = self.tasks.no_waiting() => return Ok(WaitEnd::TimedOut),
            }
        }
    }

    /// Ends a wait with a decision of the feed, or goes on with the store where that does not suffice.
    async fn ended(
        &self,
        awaited: Awaited<'_>,
        decision: &FeedDecision,
        until: Moment,
    ) -> Result<WaitEnd, ServiceError> {
        match self.clock.timeout_at(until, self.heard(awaited, decision)).await {
            Ok(Ok(Some(answer))) => Ok(WaitEnd::Decided(answer)),
            Ok(Ok(None)) => {
                // A rejected user who holds a coupon got none here: rows of an unsettled position would
                // be read in vain.
                let first = !matches!(told(decision, awaited.asked(), &self.keys), Told::InRows);
                self.ask_until(awaited, first, until).await
            }
            Ok(Err(error)) => Err(error),
            Err(_) => Ok(WaitEnd::TimedOut),
        }
    }

    /// Returns the answer by a decision of the feed. `None` if the store must be asked: for what only rows
    /// hold, or because the definition cannot be read, or because nobody knows whose decision it is.
    ///
    /// # Errors
    /// [`ServiceError::Halted`] if the feed decided a different record than the log has at the position:
    /// log and feed contradict each other.
    pub(super) async fn heard(
        &self,
        awaited: Awaited<'_>,
        decision: &FeedDecision,
    ) -> Result<Option<Answer>, ServiceError> {
        let asked = awaited.asked();
        let decision = match told(decision, asked, &self.keys) {
            Told::Decided(decision) => decision,
            Told::InRows => return Ok(None),
            Told::Foreign if !awaited.is_in_log() => return Ok(None),
            Told::Foreign => {
                let Position { partition, offset, .. } = awaited.position();
                return Err(contradiction(format!(
                    "the feed decided another record than was appended at offset {offset} of \
                     partition {partition}"
                )));
            }
        };
        if !has_code(&decision) {
            return Ok(answer(decision, asked, None, &self.keys));
        }
        let snapshot = match self.campaigns.cached(asked.campaign) {
            Some(snapshot) => Some(snapshot),
            None => self.campaigns.for_view(asked.campaign).await.unwrap_or_default(),
        };
        let definition = snapshot.as_ref().and_then(|snapshot| snapshot.edge.definition());
        let format = definition.map(|definition| &definition.terms.code);
        Ok(answer(decision, asked, format, &self.keys))
    }

    /// Returns the answer from the store: a coupon at the position at once, a missing row only if
    /// the position is settled.
    ///
    /// Rows of an unsettled position are read on the `first` call only. Later changes there arrive
    /// over the feed or with progress, and a hold of a minute must not cost 600 reads a waiter.
    pub(super) async fn ask_store(
        &self,
        awaited: Awaited<'_>,
        first: bool,
    ) -> Result<Option<Answer>, ServiceError> {
        let Position { partition, offset, .. } = awaited.position();
        // Progress, then holds and skips, then rows: rows of a position that was settled before they
        // were read are complete. In any other order a missing row could still be on its way.
        let rows = self.partitions.read(partition).await?;
        let standing = self.partitions.standing(&rows, awaited.campaign(), offset);
        if standing == Standing::Unsettled && !first {
            return Ok(None);
        }
        match awaited {
            Awaited::Request { content, .. } => self.request_from_rows(content, standing).await,
            Awaited::Control { position, control } => {
                self.control_from_rows(position, control, standing).await
            }
        }
    }

    async fn request_from_rows(
        &self,
        content: &RequestContent,
        standing: Standing,
    ) -> Result<Option<Answer>, ServiceError> {
        let RequestContent { position, campaign, user, .. } = content;
        let settled = standing == Standing::Settled;
        // Only a coupon can answer an unsettled position. Its bucket is the same in every version
        // after the first coupon, so any cached snapshot that knows of a coupon will do.
        let cached = self.campaigns.cached(campaign).filter(|_| !settled);
        let snapshot = match cached.filter(|snapshot| snapshot.edge.has_fixed_user_buckets()) {
            Some(snapshot) => Some(snapshot),
            None => self.campaigns.at(campaign, position.offset).await?,
        };
        let definition = snapshot.as_ref().and_then(|snapshot| snapshot.edge.definition());
        let (Some(snapshot), Some(definition)) = (&snapshot, definition) else {
            return undefined(content, standing);
        };
        let coupons = self.coupons_of_user(campaign, user, definition.user_buckets).await?;
        match request_answer(content, standing, &snapshot.edge.versions, &coupons) {
            FromRows::Answer(answer) => Ok(Some(answer)),
            FromRows::SoldOut { quota } => self.proven_sold_out(content, quota).await.map(Some),
            FromRows::NotYet => Ok(None),
            FromRows::Skipped => Err(ServiceError::Skipped),
            FromRows::Undefined => undefined(content, standing),
            FromRows::UnknownRules(version) => Err(ServiceError::Unavailable {
                detail: format!("rules version {version} of {campaign} is newer than this node"),
            }),
        }
    }

    async fn control_from_rows(
        &self,
        position: Position,
        control: &Control,
        standing: Standing,
    ) -> Result<Option<Answer>, ServiceError> {
        let snapshot = self.campaigns.current(&control.campaign).await?;
        let (versions, issued) = match &snapshot {
            Some(snapshot) => (snapshot.edge.versions.as_slice(), snapshot.edge.issued()),
            None => (&[][..], 0),
        };
        match control_answer(position, control, standing, versions, issued) {
            None if standing == Standing::Skipped => Err(ServiceError::Skipped),
            answer => Ok(answer),
        }
    }

    /// Reads the coupons of a user in sequence order, and compares each with its digest.
    pub(super) async fn coupons_of_user(
        &self,
        campaign: &CampaignId,
        user: &UserId,
        user_buckets: u8,
    ) -> Result<Vec<Coupon>, ServiceError> {
        let bucket = user_bucket(self.keys.user_digest(user), user_buckets);
        let selection = Selection::OfUsers { users: vec![user.clone()], bucket };
        let mut coupons = self.coupons(campaign, selection).await?;
        if let Some(coupon) = unsound(&coupons, campaign, user, &self.keys) {
            let sequence = coupon.sequence;
            return Err(contradiction(format!(
                "coupon {sequence} of {campaign} does not match its digest"
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

    /// Reads coupons: a few more than one user may hold, at most.
    async fn coupons(
        &self,
        campaign: &CampaignId,
        selection: Selection,
    ) -> Result<Vec<Coupon>, ServiceError> {
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
        Ok(self.clock.read(read, || format!("reading coupons of {campaign}")).await?)
    }

    /// Rejects a request as sold out once the coupon that used up `quota` is known to lie below it.
    /// Without that coupon a seat was left, so rows that would give another answer have vanished.
    async fn proven_sold_out(
        &self,
        content: &RequestContent,
        quota: Sequence,
    ) -> Result<Answer, ServiceError> {
        let RequestContent { campaign, position, .. } = content;
        let proof = (campaign.clone(), quota);
        let known = self.sold_out_at.lock().get(&proof).copied();
        let used_up = match known {
            Some(offset) => Some(offset),
            None => {
                let selection = Selection::Between { first: quota, last: quota };
                let coupons = self.coupons(campaign, selection).await?;
                let sound = coupons.iter().find(|coupon| is_sound(coupon, campaign, &self.keys));
                sound.map(|coupon| coupon.position.offset)
            }
        };
        match used_up {
            Some(offset) if offset < position.offset => {
                self.sold_out_at.lock().put(proof, offset);
                Ok(Answer::Rejected { reason: Reason::SoldOut })
            }
            _ => Err(contradiction(format!(
                "no row answers the request at offset {}, and coupon {quota} of {campaign}, which \
                 used up the quota, is not below it",
                position.offset
            ))),
        }
    }
}

/// Judges a request whose campaign has no definition. Requests are appended only after the campaign
/// was found in the store, so a settled one contradicts the store.
fn undefined(content: &RequestContent, standing: Standing) -> Result<Option<Answer>, ServiceError> {
    match standing {
        Standing::Unsettled => return Ok(None),
        Standing::Skipped => return Err(ServiceError::Skipped),
        Standing::Settled => {}
    }
    let RequestContent { campaign, position, .. } = content;
    Err(contradiction(format!("{campaign} is not defined at offset {}", position.offset)))
}

/// Counts and logs a contradiction between log and store.
pub(super) fn contradiction(reason: String) -> ServiceError {
    metrics::violation(Invariant::StopRatherThanLie);
    tracing::error!(summed = true, reason, "log and store contradict each other");
    ServiceError::Halted { reason }
}
