//! Taking a request into the log.

use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::{
    NodeService, RATE_TABLES, chain,
    decided::{Decided, Wanted},
    model::{Refused, Taken},
    tasks::lock,
};
use crate::{
    answer::{admission::Admission, request_id::RequestContent},
    domain::{
        ids::{Partition, Position},
        record::{Record, Request},
    },
    log::{AppendError, Appended},
    telemetry::metrics,
    wire::NewRecord,
};

/// Longest that an append may take, whatever its adapter promises: a disk or broker that hangs
/// must not keep callers and their places for ever.
const APPEND_TIMEOUT: Duration = Duration::from_secs(10);

/// When to try again what was too much.
pub(super) const RETRY_AFTER: Duration = Duration::from_secs(1);

/// When to try again where there is no space: somebody has to make some.
const RETRY_WITHOUT_SPACE: Duration = Duration::from_secs(10);

impl NodeService {
    /// Admits `request`, appends it, and waits that long for its decision.
    pub(super) async fn take(&self, request: Request, wait: Duration) -> Result<Taken, Refused> {
        let received = self.clock.now();
        let until = Instant::now() + wait;
        self.admit_user(&request)?;
        let partition = self.codec.partition_of(&request.campaign);
        let (halted, lag) = self.waiters.admission(partition);
        refuse_halted(halted)?;
        let known = self.campaigns.for_issue(&request.campaign).await?;
        let Some(known) = known else { return Err(Refused::UnknownCampaign) };
        let has_key = request.idempotency_key.is_some();
        let (now, wall) = (self.clock.now(), self.clock.wall());
        match known.edge.admission(now, wall, self.api.clock_margin, has_key) {
            Admission::Append => {}
            Admission::Quarantined => known.refuse_quarantined()?,
            Admission::Undefined => return Err(Refused::UnknownCampaign),
            Admission::Refused(reason) => return Err(Refused::Certain(reason)),
        }
        if lag > self.admission.max_lag {
            return Err(overloaded(format!("{lag} records wait for a decision")));
        }
        let content = self.append_request(request).await?;
        self.waiters.measure(partition, content.position.offset, received);
        let request_id = self.ids.seal(&content);
        if wait.is_zero() {
            return Ok(Taken { request_id, answer: None, waited: true });
        }
        let (answer, waited) = match self.decided(Wanted::Request(&content), until).await {
            Ok(Decided::Answer(answer)) => (Some(answer), true),
            Ok(Decided::NotYet) => (None, true),
            Ok(Decided::NoPlace) => (None, false),
            // Whatever keeps the answer, the request is in the log: who asked asks again by its id.
            Err(refused) => {
                tracing::debug!(%refused, "request is taken, its answer can't be told now");
                (None, true)
            }
        };
        Ok(Taken { request_id, answer, waited })
    }

    fn admit_user(&self, request: &Request) -> Result<(), Refused> {
        // Keyed and even: nobody can choose ids that share a bucket.
        let user = self.keys.user_digest(&request.user) as u64;
        let campaign =
            request.campaign.as_str().bytes().fold(user, |hash, byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3)
            });
        let table = &self.rates[(campaign >> 32) as usize % RATE_TABLES];
        let taken = lock(table).take(self.clock.now(), campaign);
        taken.map_err(|retry_after| Refused::UserRate { retry_after })
    }

    async fn append_request(&self, request: Request) -> Result<RequestContent, Refused> {
        let key_digest = request
            .idempotency_key
            .as_ref()
            .map(|key| self.keys.key_digest(&request.user, key).to_le_bytes());
        let record = Record::Request(request);
        let (partition, new) = self.codec.encode(&record);
        let Ok(_place) = self.appends.try_acquire() else {
            return Err(overloaded("too many appends are under way".to_owned()));
        };
        let appended = self.append(partition, new).await?;
        let Record::Request(Request { campaign, user, .. }) = record else {
            unreachable!("the record was made from a request")
        };
        let position = self.position(partition, appended);
        Ok(RequestContent { position, time: appended.time, campaign, user, key_digest })
    }

    /// Appends a record and answers when it is durable and stands where it can be decided.
    pub(super) async fn append(
        &self,
        partition: Partition,
        record: NewRecord,
    ) -> Result<Appended, Refused> {
        let sent = self.clock.now();
        let known = self.waiters.watermark(partition);
        let appended = match timeout(APPEND_TIMEOUT, self.log.append(partition, record)).await {
            Ok(Ok(appended)) => appended,
            Ok(Err(AppendError::Overloaded(detail))) => return Err(overloaded(detail)),
            Ok(Err(AppendError::NoSpace(detail))) => {
                return Err(Refused::Overloaded { detail, retry_after: RETRY_WITHOUT_SPACE });
            }
            Ok(Err(error @ AppendError::Unknown(_))) => {
                return Err(Refused::Unknown { detail: chain(&error) });
            }
            Err(_) => {
                let seconds = APPEND_TIMEOUT.as_secs();
                let detail = format!("the append was not answered within {seconds} s");
                return Err(Refused::Unknown { detail });
            }
        };
        metrics::append_latency(self.clock.now().saturating_sub(sent));
        let acknowledged = self.waiters.acknowledged(partition, appended.offset, known);
        acknowledged.map_err(|detail| Refused::Unknown { detail })?;
        Ok(appended)
    }

    /// The position of what was appended.
    pub(super) fn position(&self, partition: Partition, appended: Appended) -> Position {
        Position { log_epoch: self.log_epoch, partition, offset: appended.offset }
    }
}

/// Refuses what a halted partition does not do.
pub(super) fn refuse_halted(reason: Option<String>) -> Result<(), Refused> {
    reason.map_or(Ok(()), |reason| Err(Refused::Halted { reason }))
}

fn overloaded(detail: String) -> Refused {
    Refused::Overloaded { detail, retry_after: RETRY_AFTER }
}
