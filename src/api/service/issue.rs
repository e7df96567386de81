//! Appends requests to the log.

use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;

use super::{
    NodeService, RATE_TABLES,
    campaigns::CampaignSnapshot,
    chain,
    interface::{IssueCoupons, IssueReply, ServiceError},
    wait::{Awaited, WaitEnd},
};
use crate::{
    answer::{Moment, admission::Admission, rate::RateTable, request_id::RequestContent},
    clock::STEP_MS,
    domain::{
        ids::{CampaignId, Partition, Position, Timestamp, UserId},
        reason::Reason,
        record::Request,
    },
    log::{AppendError, Appended},
    telemetry::metrics,
    wire::NewRecord,
};

/// Longest append, whatever its adapter promises: a disk or broker that hangs must not keep
/// callers and their permits forever.
const APPEND_TIMEOUT: Duration = Duration::from_secs(10);

/// What a request with a key costs of its user's rate where the campaign is over. It is a record in the log
/// for as long as that keeps records, and nothing comes of it but the first time.
const OVER_COSTS: u32 = 10;

/// `Retry-After` of a bound that frees itself.
pub(super) const RETRY_AFTER: Duration = Duration::from_secs(1);

#[async_trait]
impl IssueCoupons for NodeService {
    async fn issue(
        &self,
        request: Request,
        wait: Option<Duration>,
    ) -> Result<IssueReply, ServiceError> {
        let received = self.clock.now();
        let wait = wait.unwrap_or_default();
        let until = received + wait;
        // The cheapest checks come first: a flood must not reach store or log.
        self.check_user_rate(&request)?;
        let partition = self.codec.partition_of(&request.campaign);
        let lag = self.lag_unless_halted(partition)?;
        let snapshot = self.campaigns.for_issue(&request.campaign).await?;
        let snapshot = snapshot.ok_or(ServiceError::UnknownCampaign)?;
        let has_key = request.idempotency_key.is_some();
        let (now, wall) = (self.clock.now(), self.clock.wall());
        match snapshot.edge.admission(now, wall, self.api.clock_margin, has_key) {
            Admission::Append => {
                if has_key && self.is_over(&snapshot, (now, wall)) {
                    self.charge(&request);
                }
            }
            Admission::Quarantined => snapshot.refuse_quarantined()?,
            Admission::Undefined => return Err(ServiceError::UnknownCampaign),
            Admission::Refused(reason) => {
                self.believe_clock(reason, wall)?;
                return Err(ServiceError::CertainRejection(reason));
            }
        }
        // After admission: a certain rejection is more useful to a client than "overloaded".
        if lag > self.admission.max_lag {
            return Err(overloaded(format!("{lag} records wait for a decision")));
        }
        let content = self.append_request(request).await?;
        self.waiters.measure(partition, content.position.offset, received);
        let request_id = self.ids.seal(&content);
        if wait.is_zero() {
            return Ok(IssueReply { request_id, answer: None, waited: true });
        }
        let awaited = Awaited::Request { content: &content, is_in_log: true };
        let (answer, waited) = match self.wait_for_decision(awaited, until).await {
            Ok(WaitEnd::Decided(answer)) => {
                self.told.note(self.user_of(&content.campaign, &content.user), &answer);
                (Some(answer), true)
            }
            Ok(WaitEnd::TimedOut) => (None, true),
            Ok(WaitEnd::NoWaiterFree) => (None, false),
            // The request is in the log, so an error here would be a lie: the client would
            // send it again. It gets the request id and asks later.
            Err(error) => {
                tracing::debug!(%error, "request appended, its decision cannot be read now");
                (None, true)
            }
        };
        Ok(IssueReply { request_id, answer, waited })
    }
}

impl NodeService {
    /// Fails if a refusal may be due to a clock that was set: the log takes no record by it either.
    fn believe_clock(&self, reason: Reason, wall: Timestamp) -> Result<(), ServiceError> {
        let by_time = matches!(reason, Reason::Closed | Reason::NotOpenYet);
        let Some(log) = self.local_log.as_ref().filter(|_| by_time) else { return Ok(()) };
        let unavailable = |detail| ServiceError::Unavailable { detail };
        let time = log.time().map_err(|step| unavailable(step.to_string()))?;
        // It was wrong when the refusal was decided, and is right again.
        if (time.0 - wall.0).abs() > STEP_MS {
            return Err(unavailable("the clock was set; ask again".to_owned()));
        }
        Ok(())
    }

    /// Returns a hash of a campaign and a user: each user has a budget and a share per campaign.
    pub(super) fn user_of(&self, campaign: &CampaignId, user: &UserId) -> u64 {
        // The digest is keyed: clients cannot choose ids that share a bucket.
        let user = self.keys.user_digest(user) as u64;
        // FNV-1a goes on over the campaign.
        campaign
            .as_str()
            .bytes()
            .fold(user, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3))
    }

    /// Whether a request without a key would be refused for good. With a key the log decides, because an
    /// earlier request may have been issued.
    fn is_over(&self, snapshot: &CampaignSnapshot, (now, wall): (Moment, Timestamp)) -> bool {
        let admission = snapshot.edge.admission(now, wall, self.api.clock_margin, false);
        matches!(admission, Admission::Refused(Reason::SoldOut | Reason::Closed))
    }

    /// Lets a request cost as much as [`OVER_COSTS`] others.
    fn charge(&self, request: &Request) {
        let key = self.user_of(&request.campaign, &request.user);
        self.rates_of(key).lock().charge(self.clock.now(), key, OVER_COSTS - 1);
    }

    fn rates_of(&self, key: u64) -> &Mutex<RateTable> {
        // A table picks the slot by the low bits, so the high bits pick the table.
        &self.rates[(key >> 32) as usize % RATE_TABLES]
    }

    fn check_user_rate(&self, request: &Request) -> Result<(), ServiceError> {
        let key = self.user_of(&request.campaign, &request.user);
        let admitted = self.rates_of(key).lock().take(self.clock.now(), key);
        admitted.map_err(|retry_after| ServiceError::UserRateLimited { retry_after })
    }

    async fn append_request(&self, request: Request) -> Result<RequestContent, ServiceError> {
        let (partition, record) = self.codec.encode_request(&request);
        let Ok(_permit) = self.appends.try_acquire() else {
            return Err(overloaded("too many appends are in flight".to_owned()));
        };
        let appended = self.append(partition, record).await?;
        let Request { campaign, user, idempotency_key } = request;
        let key_digest = idempotency_key.map(|key| self.keys.key_digest(&user, &key).to_le_bytes());
        let position = self.position(partition, appended);
        Ok(RequestContent { position, time: appended.time, campaign, user, key_digest })
    }

    /// Appends a record. Returns once the record is durable at a position that can be decided.
    pub(super) async fn append(
        &self,
        partition: Partition,
        record: NewRecord,
    ) -> Result<Appended, ServiceError> {
        let sent = self.clock.now();
        let known = self.waiters.watermark(partition);
        let unknown = |detail| ServiceError::OutcomeUnknown { detail };
        let appended = self.clock.timeout(APPEND_TIMEOUT, self.log.append(partition, record)).await;
        let appended = match appended {
            Ok(Ok(appended)) => appended,
            Ok(Err(AppendError::Overloaded(detail))) => return Err(overloaded(detail)),
            Ok(Err(AppendError::Unavailable(detail))) => {
                return Err(ServiceError::Unavailable { detail });
            }
            Ok(Err(AppendError::Unfit(halt))) => {
                return Err(ServiceError::Halted { reason: halt.to_string() });
            }
            Ok(Err(error @ AppendError::Unknown(_))) => return Err(unknown(chain(&error))),
            Err(_) => {
                let seconds = APPEND_TIMEOUT.as_secs();
                return Err(unknown(format!("the append was not confirmed within {seconds} s")));
            }
        };
        metrics::append_latency(self.clock.now().saturating_sub(sent));
        // Below a watermark that was known before the append was sent, the position has been
        // decided already: the log lost its tail and hands out offsets again (INV-3, INV-12).
        self.waiters.acknowledged(partition, appended.offset, known).map_err(unknown)?;
        Ok(appended)
    }

    /// Returns the position of an appended record.
    pub(super) fn position(&self, partition: Partition, appended: Appended) -> Position {
        Position { log_epoch: self.log_epoch, partition, offset: appended.offset }
    }

    /// Returns the number of records of a partition that wait for a decision. Fails if the
    /// partition is halted.
    pub(super) fn lag_unless_halted(&self, partition: Partition) -> Result<u64, ServiceError> {
        self.waiters.lag(partition).map_err(|reason| ServiceError::Halted { reason })
    }
}

fn overloaded(detail: String) -> ServiceError {
    ServiceError::Overloaded { detail, retry_after: RETRY_AFTER }
}
