//! What the owner has published, and what it publishes next.

use std::collections::BTreeMap;

use super::{super::fold::Told, HEARTBEAT_INTERVAL_MS, News};
use crate::{
    domain::{decision::Decision, ids::Offset},
    wire::feed_message::{CampaignNews, FeedDecision, Tally},
};

/// Decisions that are stored and not published, and the watermark of the last message.
#[derive(Debug, Default)]
pub(super) struct FeedState {
    outbox: Vec<FeedDecision>,
    /// What the message says of the campaigns of these, by their hashes.
    campaigns: BTreeMap<u64, CampaignNews>,
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
    pub(super) fn push(&mut self, told: Told) {
        let Told { decision, campaign, version, issues } = told;
        let news = self.campaigns.entry(campaign).or_insert(CampaignNews {
            campaign,
            tally: Tally::default(),
            highest: None,
            version,
        });
        news.tally.count(&decision.decision);
        let highest = news.highest.map(|index| self.outbox[index].decision);
        if issues && sequence(&highest) < sequence(&Some(decision.decision)) {
            (news.highest, news.version) = (Some(self.outbox.len()), version);
        } else if news.highest.is_none() {
            // A campaign's decisions come in order, but for those of versions, which wait for their marks.
            news.version = news.version.max(version);
        }
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
        let (from, mut decisions, mut campaigns) = (self.published, Vec::new(), Vec::new());
        if tells {
            (self.published, self.told_ms) = (watermark, now_ms);
            decisions.append(&mut self.outbox);
            campaigns.extend(std::mem::take(&mut self.campaigns).into_values());
        }
        Some(News { from, to: self.published, end, waiting, is_heartbeat, decisions, campaigns })
    }
}

fn sequence(decision: &Option<Decision>) -> Option<u32> {
    match decision {
        Some(Decision::Issued(held)) => Some(held.sequence),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        domain::{decision::Held, ids::Timestamp},
        partition::fold::tests::told_of,
    };

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

    fn told(offset: Offset, sequence: Option<u32>, version: Offset) -> Told {
        let held = |sequence| Held { sequence, issued_at: Timestamp(5) };
        let decision = match sequence {
            Some(sequence) => Decision::Issued(held(sequence)),
            None => Decision::Accepted,
        };
        let issues = sequence.is_some();
        Told { version: Some(version), issues, ..told_of(offset, decision) }
    }

    /// Tells these, and returns the highest offset that was issued something, and the version.
    fn news(all: impl IntoIterator<Item = Told>) -> (Option<Offset>, Option<Offset>) {
        let mut feed = FeedState::default();
        all.into_iter().for_each(|told| feed.push(told));
        let news = feed.message((10, 12, 2), (false, true), 1_000).unwrap();
        let [campaign] = &news.campaigns[..] else { panic!("{news:?}") };
        (campaign.highest.map(|index| news.decisions[index].offset), campaign.version)
    }

    #[test]
    fn the_version_is_that_of_the_highest_sequence() {
        let issued = [told(3, Some(1), 0), told(4, Some(2), 0), told(6, Some(3), 5)];
        assert_eq!(news(issued), (Some(6), Some(5)));
        // The change at 5 waited for its mark, the one at 7 is behind.
        assert_eq!(news([issued[2], told(5, None, 5), told(7, None, 7)]), (Some(6), Some(5)));
        assert_eq!(news([told(5, None, 5), issued[1]]), (Some(4), Some(0)));
        assert_eq!(news([told(7, None, 7), told(5, None, 5)]), (None, Some(7)));
        let repeat = Told { issues: false, ..told(9, Some(1), 5) };
        assert_eq!(news([repeat]), (None, Some(5)), "it has the coupon of another record");
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
