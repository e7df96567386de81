//! What a follower of the feed is sent: messages in order, and a gap in place of those that it loses.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::mpsc;

use super::{FOLLOWER_DECISIONS_MAX, FOLLOWER_MESSAGES_MAX, FeedEvent};
use crate::wire::feed_message::FeedMessage;

/// Least time between two gaps of a follower that cannot read. After each gap all waiters read the
/// store.
const GAP_EVERY: Duration = Duration::from_secs(1);

/// The sender of one follower. Never waits: a slow follower loses messages.
#[derive(Debug)]
pub(crate) struct FollowerSender {
    events: mpsc::Sender<FeedEvent>,
    /// Whether the last event is a gap.
    in_gap: bool,
    /// When [`Self::may_miss`] last sent a gap.
    missed_at: Option<Instant>,
    /// The number of decisions of each event that may not be taken yet, and their sum.
    sizes: VecDeque<usize>,
    decisions: usize,
}

impl FollowerSender {
    /// Returns the sender and what the follower receives.
    pub(crate) fn new() -> (Self, mpsc::Receiver<FeedEvent>) {
        // One place more than messages: the last one is reserved for a gap. So a gap always fits
        // where messages are lost, also if no message ever follows.
        let (events, receiver) = mpsc::channel(FOLLOWER_MESSAGES_MAX + 1);
        let (sizes, decisions) = (VecDeque::new(), 0);
        (Self { events, in_gap: false, missed_at: None, sizes, decisions }, receiver)
    }

    /// Returns whether the follower has left.
    pub(crate) fn is_closed(&self) -> bool {
        self.events.is_closed()
    }

    /// Sends a message, or a gap if the follower has no room for it.
    pub(crate) fn send(&mut self, message: &Arc<FeedMessage>) {
        self.forget_taken();
        let size = message.decisions.len();
        if self.events.capacity() <= 1 || self.decisions + size > FOLLOWER_DECISIONS_MAX {
            self.lose();
            return;
        }
        // An error means that the follower has left.
        let _ = self.events.try_send(FeedEvent::Message(message.clone()));
        self.count(size);
        self.in_gap = false;
    }

    fn count(&mut self, size: usize) {
        self.sizes.push_back(size);
        self.decisions += size;
    }

    /// Forgets the sizes of events that were taken. They are taken in the order in which they were sent.
    fn forget_taken(&mut self) {
        let waiting = self.events.max_capacity() - self.events.capacity();
        while self.sizes.len() > waiting {
            self.decisions -= self.sizes.pop_front().unwrap_or_default();
        }
    }

    /// Sends a gap for messages that are lost now.
    pub(crate) fn lose(&mut self) {
        self.forget_taken();
        // The follower reads the store when it takes a gap from the channel, after this loss. One
        // that is not taken yet therefore covers it.
        let is_taken = self.events.capacity() == self.events.max_capacity();
        if !self.in_gap || is_taken {
            if self.events.try_send(FeedEvent::Gap).is_ok() {
                self.count(0);
            }
            self.in_gap = true;
        }
    }

    /// Sends a gap because the brokers may have messages that do not arrive. Sends at most one per
    /// [`GAP_EVERY`], however often it is called.
    pub(crate) fn may_miss(&mut self, now: Instant) {
        let since = self.missed_at.map(|at| now.saturating_duration_since(at));
        if since.is_none_or(|since| since >= GAP_EVERY) {
            self.missed_at = Some(now);
            self.lose();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        domain::{decision::Decision, ids::ProcessName},
        feed::MESSAGE_DECISIONS_MAX,
        wire::feed_message::{FeedDecision, Sender},
    };

    fn message(to: u64) -> Arc<FeedMessage> {
        Arc::new(FeedMessage {
            log_epoch: 1,
            partition: 0,
            sender: Sender { generation: 1, owner: ProcessName::of(7), number: 1 },
            from: 0,
            to,
            end: to,
            waiting: 0,
            condition: None,
            halted: None,
            unread: None,
            decisions: Vec::new(),
            campaigns: Vec::new(),
        })
    }

    /// Takes what the follower has been sent: the end of each message, and none for a gap.
    fn taken(receiver: &mut mpsc::Receiver<FeedEvent>) -> Vec<Option<u64>> {
        let taken = std::iter::from_fn(|| receiver.try_recv().ok());
        taken
            .map(|event| match event {
                FeedEvent::Message(message) => Some(message.to),
                FeedEvent::Gap => None,
            })
            .collect()
    }

    #[test]
    fn a_slow_follower_gets_one_gap_for_each_loss() {
        let (mut sender, mut receiver) = FollowerSender::new();
        let max = FOLLOWER_MESSAGES_MAX as u64;
        for round in 0..3 {
            (0..max + 10).for_each(|to| sender.send(&message(to)));
            let expected: Vec<_> = (0..max).map(Some).chain([None]).collect();
            assert_eq!(taken(&mut receiver), expected, "round {round}");
        }
    }

    #[test]
    fn decisions_that_wait_are_bounded() {
        let (mut sender, mut receiver) = FollowerSender::new();
        let decision =
            FeedDecision { offset: 0, decision: Decision::Accepted, holds: false, check: 7 };
        let large = |to| FeedMessage {
            decisions: vec![decision; MESSAGE_DECISIONS_MAX],
            ..FeedMessage::clone(&message(to))
        };
        let fit = (FOLLOWER_DECISIONS_MAX / MESSAGE_DECISIONS_MAX) as u64;
        for _ in 0..3 {
            (0..fit + 2).for_each(|to| sender.send(&Arc::new(large(to))));
            let expected: Vec<_> = (0..fit).map(Some).chain([None]).collect();
            assert_eq!(taken(&mut receiver), expected);
            sender.send(&message(7));
            assert_eq!(taken(&mut receiver), [Some(7)]);
        }
    }

    #[test]
    fn a_gap_lies_where_messages_were_lost() {
        let (mut sender, mut receiver) = FollowerSender::new();
        sender.send(&message(1));
        sender.lose();
        sender.send(&message(2));
        assert_eq!(taken(&mut receiver), [Some(1), None, Some(2)]);
    }

    #[test]
    fn a_gap_that_waits_covers_later_losses() {
        let (mut sender, mut receiver) = FollowerSender::new();
        sender.send(&message(1));
        sender.lose();
        sender.lose();
        assert_eq!(taken(&mut receiver), [Some(1), None]);
        sender.lose();
        assert_eq!(taken(&mut receiver), [None], "the gap before was taken already");
    }

    #[test]
    fn silent_brokers_cause_a_gap_a_second() {
        let (mut sender, mut receiver) = FollowerSender::new();
        let begin = Instant::now();
        let mut gaps = 0;
        for tenth in 0..35 {
            sender.may_miss(begin + Duration::from_millis(100) * tenth);
            gaps += taken(&mut receiver).len();
        }
        assert_eq!(gaps, 4);
        sender.lose();
        assert_eq!(taken(&mut receiver), [None], "a known loss does not wait");
    }
}
