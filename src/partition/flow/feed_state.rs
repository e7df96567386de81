//! What the owner has published, and what it publishes next.

use super::{HEARTBEAT_INTERVAL_MS, News};
use crate::{domain::ids::Offset, wire::feed_message::FeedDecision};

/// Decisions that are stored and not published, and the watermark of the last message.
#[derive(Debug, Default)]
pub(super) struct FeedState {
    outbox: Vec<FeedDecision>,
    published: Offset,
    heartbeat_ms: Option<u64>,
    /// When the last message was made.
    told_ms: u64,
}

/// Least time between messages that tell no decision, in milliseconds. A hundred thousand dead letters
/// must not be as many messages.
const QUIET_MS: u64 = 100;

impl FeedState {
    /// Adds a stored decision to the next message.
    pub(super) fn push(&mut self, decision: FeedDecision) {
        self.outbox.push(decision);
    }

    /// Returns whether the heartbeat is due. Followers count an owner as silent without it.
    pub(super) fn heartbeat(&mut self, now_ms: u64) -> bool {
        let silent_ms = self.heartbeat_ms.map(|sent| now_ms.saturating_sub(sent));
        let due = silent_ms.is_none_or(|silent| silent >= HEARTBEAT_INTERVAL_MS);
        if due {
            self.heartbeat_ms = Some(now_ms);
        }
        due
    }

    /// Returns the next message, if there is news or a heartbeat is due. Unless the owner `tells`, its
    /// news waits. A watermark without decisions waits for a moment.
    pub(super) fn message(
        &mut self,
        (watermark, end, waiting): (Offset, Offset, u64),
        (is_heartbeat, tells): (bool, bool),
        now_ms: u64,
    ) -> Option<News> {
        let is_early = now_ms.saturating_sub(self.told_ms) < QUIET_MS;
        let is_quiet = self.outbox.is_empty() && (watermark == self.published || is_early);
        if (is_quiet || !tells) && !is_heartbeat {
            return None;
        }
        let (from, mut decisions) = (self.published, Vec::new());
        if tells {
            (self.published, self.told_ms) = (watermark, now_ms);
            decisions.append(&mut self.outbox);
        }
        Some(News { from, to: self.published, end, waiting, is_heartbeat, decisions })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_goes_on_from_the_one_before() {
        let mut feed = FeedState::default();
        let first = feed.message((10, 12, 2), (true, true), 1_000).unwrap();
        assert_eq!((first.from, first.to), (0, 10));
        assert_eq!(feed.message((10, 12, 2), (false, true), 1_000), None, "there is no news");
        assert_eq!(feed.message((11, 12, 1), (false, true), 1_000 + QUIET_MS - 1), None);
        let second = feed.message((11, 12, 1), (false, true), 1_000 + QUIET_MS).unwrap();
        assert_eq!((second.from, second.to), (10, 11));
    }

    #[test]
    fn news_waits_while_the_owner_tells_nothing() {
        let mut feed = FeedState::default();
        feed.message((10, 12, 2), (true, true), 1_000).unwrap();
        assert_eq!(feed.message((11, 12, 1), (false, false), 1_000), None);
        let sign_of_life = feed.message((11, 12, 1), (true, false), 1_000).unwrap();
        assert_eq!((sign_of_life.from, sign_of_life.to), (10, 10));
        let told = feed.message((12, 12, 0), (false, true), 1_000 + QUIET_MS).unwrap();
        assert_eq!((told.from, told.to), (10, 12));
    }

    #[test]
    fn a_heartbeat_is_due_each_second() {
        let mut feed = FeedState::default();
        assert!(feed.heartbeat(5));
        assert!(!feed.heartbeat(5 + HEARTBEAT_INTERVAL_MS - 1));
        assert!(feed.heartbeat(5 + HEARTBEAT_INTERVAL_MS));
    }
}
