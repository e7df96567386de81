//! Looks up requests by id: on any node, after any restart.

use std::time::Duration;

use async_trait::async_trait;

use super::{
    NodeService, ReadError, STORE_TIMEOUT, chain,
    interface::{FindRequests, RequestStatus, RequestView, ServiceError},
    wait::{Awaited, WaitEnd},
};
use crate::{
    answer::{Moment, position::Standing, request_id::RequestContent},
    domain::{
        answer::Answer,
        ids::{Position, UserId},
        record::Record,
    },
    log::Found,
    wire::codec::Decoded,
};

#[async_trait]
impl FindRequests for NodeService {
    async fn find(
        &self,
        request_id: &str,
        caller: Option<&UserId>,
        wait: Duration,
    ) -> Result<RequestView, ServiceError> {
        let until = self.clock.now() + wait;
        let content = self.ids.open(request_id).ok_or(ServiceError::UnknownRequest)?;
        // Before anything is read: the answer must not depend on what the other user got (INV-11).
        if caller.is_some_and(|caller| *caller != content.user) {
            return Err(ServiceError::AnotherUser);
        }
        let Position { log_epoch, partition, .. } = content.position;
        // Sealed under another log epoch or another layout: the position names another record.
        if log_epoch != self.log_epoch || self.codec.partition_of(&content.campaign) != partition {
            return Err(ServiceError::UnknownRequest);
        }
        let is_in_log = self.check_record(&content).await?;
        let awaited = Awaited::Request { content: &content, is_in_log };
        let status = match self.final_answer(awaited, wait, until).await? {
            Some(answer) => {
                self.told.note(self.user_of(&content.campaign, &content.user), &answer);
                RequestStatus::Decided(answer)
            }
            None => RequestStatus::Pending { queue_ahead: self.queue_ahead(&content).await },
        };
        let RequestContent { campaign, user, .. } = content;
        Ok(RequestView { campaign, user, status })
    }
}

impl NodeService {
    /// Refuses an id whose position holds another record or none: log and rows lie on one disk, and
    /// both went back to an older copy. The id was given out after its record was durable, so the
    /// log as it is now has the record, unless it was trimmed after it was settled. Returns whether it
    /// was found.
    async fn check_record(&self, content: &RequestContent) -> Result<bool, ServiceError> {
        let Some(log) = &self.local_log else { return Ok(false) };
        let Position { partition, offset, .. } = content.position;
        let record = match self.clock.timeout(STORE_TIMEOUT, log.find(partition, offset)).await {
            Ok(Ok(Found::Record(record))) => record,
            Ok(Ok(Found::Trimmed)) => return Ok(false),
            Ok(Ok(Found::Nothing)) => return Err(ServiceError::NotDecided),
            // What is skipped cannot be read, and has its answer all the same.
            Ok(Err(_)) if self.is_skipped(content).await? => return Ok(false),
            Ok(Err(error)) => return Err(ServiceError::Unavailable { detail: chain(&error) }),
            Err(_) => {
                return Err(ReadError::timed_out(format!("reading the record at {offset}")).into());
            }
        };
        match self.codec.decode(partition, &record) {
            Decoded::Record(Record::Request(request))
                if content.is_of(record.time, &request, &self.keys) =>
            {
                Ok(true)
            }
            _ => Err(ServiceError::NotDecided),
        }
    }

    async fn is_skipped(&self, content: &RequestContent) -> Result<bool, ServiceError> {
        let rows = self.partitions.read(content.position.partition).await?;
        let offset = content.position.offset;
        let standing = self.partitions.standing(&rows, &content.campaign, offset);
        Ok(standing == Standing::Skipped)
    }

    async fn final_answer(
        &self,
        awaited: Awaited<'_>,
        wait: Duration,
        until: Moment,
    ) -> Result<Option<Answer>, ServiceError> {
        if !wait.is_zero() {
            match self.wait_for_decision(awaited, until).await? {
                WaitEnd::Decided(answer) => return Ok(Some(answer)),
                WaitEnd::TimedOut => return Ok(None),
                WaitEnd::NoWaiterFree => {}
            }
        }
        let Position { partition, offset, .. } = awaited.position();
        if let Some(decision) = self.waiters.decision(partition, offset)
            && let Some(answer) = self.heard(awaited, &decision).await?
        {
            return Ok(Some(answer));
        }
        // Above the watermark of an owner that decides there are no rows to read. Without this check, a
        // long queue of polling clients would compete with the owner for the store.
        let watermark = self.waiters.watermark(partition);
        let undecided = watermark.is_some_and(|watermark| offset >= watermark);
        if undecided && self.waiters.is_followed() && !self.waiters.tells_nothing(partition) {
            return Ok(None);
        }
        self.ask_store(awaited, true).await
    }

    /// Counts the records before a pending one that are not decided yet, as far as this node
    /// knows.
    async fn queue_ahead(&self, content: &RequestContent) -> u64 {
        let Position { partition, offset, .. } = content.position;
        let decided_below = match self.waiters.watermark(partition) {
            Some(watermark) => watermark,
            None => match self.partitions.read(partition).await {
                Ok(rows) => self.partitions.progress(&rows),
                Err(_) => 0,
            },
        };
        offset.saturating_sub(decided_below)
    }
}
