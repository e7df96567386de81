//! Answering a request id, on any node, after any restart, for ever.

use std::time::Duration;

use tokio::time::Instant;

use super::{
    NodeService,
    decided::{Decided, Wanted},
    model::{Found, FoundStatus, Refused},
};
use crate::{
    answer::request_id::RequestContent,
    domain::{answer::Answer, ids::Position},
};

impl NodeService {
    /// Answers `request_id`, waiting up to `wait` for its decision.
    pub(super) async fn answer_id(
        &self,
        request_id: &str,
        wait: Duration,
    ) -> Result<Found, Refused> {
        let until = Instant::now() + wait;
        let content = self.ids.open(request_id).ok_or(Refused::UnknownRequest)?;
        let Position { log_epoch, partition, .. } = content.position;
        // Of another life of the log, or sealed under a layout that this is not.
        if log_epoch != self.log_epoch || self.codec.partition_of(&content.campaign) != partition {
            return Err(Refused::UnknownRequest);
        }
        let status = match self.final_answer(&content, wait, until).await? {
            Some(answer) => FoundStatus::Final(answer),
            None => FoundStatus::Pending { queue_ahead: self.queue_ahead(&content).await },
        };
        let RequestContent { campaign, user, .. } = content;
        Ok(Found { campaign, user, status })
    }

    async fn final_answer(
        &self,
        content: &RequestContent,
        wait: Duration,
        until: Instant,
    ) -> Result<Option<Answer>, Refused> {
        let wanted = Wanted::Request(content);
        if !wait.is_zero() {
            match self.decided(wanted, until).await? {
                Decided::Answer(answer) => return Ok(Some(answer)),
                Decided::NotYet => return Ok(None),
                Decided::NoPlace => {}
            }
        }
        let Position { partition, offset, .. } = content.position;
        if let Some(told) = self.waiters.decision(partition, offset) {
            return self.answer_told(wanted, &told).map(Some);
        }
        // Above the watermark of an owner who is heard of there is nothing to read: a queue of
        // pollers must not take the store from the owner who works it off.
        let watermark = self.waiters.watermark(partition);
        let to_come = watermark.is_some_and(|watermark| offset >= watermark);
        if to_come && self.waiters.is_followed() && !self.waiters.is_silent(partition) {
            return Ok(None);
        }
        self.ask_store(wanted, true).await
    }

    /// Records before a pending one that are not settled yet, as far as this node knows.
    async fn queue_ahead(&self, content: &RequestContent) -> u64 {
        let Position { partition, offset, .. } = content.position;
        let from = match self.waiters.watermark(partition) {
            Some(watermark) => watermark,
            None => match self.partitions.read(partition).await {
                Ok(rows) => self.partitions.progress(&rows),
                Err(_) => 0,
            },
        };
        offset.saturating_sub(from)
    }
}
