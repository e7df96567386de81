//! What a node has heard of campaigns. It makes views of them fresh: marks trail behind the feed.

use std::{num::NonZeroUsize, time::Duration};

use lru::LruCache;

use super::Moment;
use crate::domain::ids::{Offset, Sequence};

/// Campaigns that are remembered. What was heard matters until a mark counts it, and in that time fewer
/// campaigns have decisions.
const HEARD_MAX: NonZeroUsize = NonZeroUsize::new(16_384).expect("not zero");

/// All of them, each with its place in the map and in the order.
pub(crate) const HEARD_BYTES: usize = HEARD_MAX.get() * 128;

/// After lost messages, least time until lists are out of date again for the same reason.
const LOSS_EVERY: Duration = Duration::from_secs(1);

/// What was heard of a campaign.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Heard {
    /// The highest sequence that was issued; 0 if none was heard.
    pub(crate) issued: Sequence,
    /// Below this offset, exactly so many coupons were issued.
    pub(crate) below: Offset,
    /// Offset of the latest definition version. The figures fit this one and later ones.
    pub(crate) version: Offset,
}

/// The campaigns of which this node has heard lately, by their hashes.
#[derive(Debug)]
pub(super) struct HeardCampaigns {
    campaigns: LruCache<u64, Heard>,
    changed_at: Option<Moment>,
}

impl Default for HeardCampaigns {
    fn default() -> Self {
        // Not `new`, which makes room for all of them at once.
        Self { campaigns: LruCache::unbounded(), changed_at: None }
    }
}

impl HeardCampaigns {
    /// Takes what a message says. `known` is the watermark that was known before: a version below it was
    /// stored before this node was told so.
    pub(super) fn hear(&mut self, now: Moment, known: Offset, news: &[(u64, Heard)]) {
        for (campaign, heard) in news {
            match self.campaigns.get_mut(campaign) {
                Some(before) => {
                    if heard.version > before.version {
                        before.version = heard.version;
                        self.changed_at = Some(now);
                    }
                    if heard.issued > before.issued {
                        (before.issued, before.below) = (heard.issued, heard.below);
                    }
                }
                None => {
                    if heard.version >= known {
                        self.changed_at = Some(now);
                    }
                    self.campaigns.put(*campaign, *heard);
                    if self.campaigns.len() > HEARD_MAX.get() {
                        self.campaigns.pop_lru();
                    }
                }
            }
        }
    }

    /// Notes that messages were lost: there may have been a new definition among them.
    pub(super) fn lose(&mut self, now: Moment) {
        if self.changed_at.is_none_or(|at| now.saturating_sub(at) >= LOSS_EVERY) {
            self.changed_at = Some(now);
        }
    }

    /// Returns what was heard of a campaign.
    pub(super) fn of(&self, campaign: u64) -> Option<Heard> {
        self.campaigns.peek(&campaign).copied()
    }

    /// Returns when a definition may have changed last.
    pub(super) fn changed_at(&self) -> Option<Moment> {
        self.changed_at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(issued: Sequence, below: Offset, version: Offset) -> Heard {
        Heard { issued, below, version }
    }

    fn at(seconds: u64) -> Moment {
        Duration::from_secs(seconds)
    }

    #[test]
    fn the_highest_figures_and_the_latest_version_stay() {
        let mut campaigns = HeardCampaigns::default();
        campaigns.hear(at(1), 0, &[(7, heard(3, 30, 5)), (8, heard(0, 0, 6))]);
        campaigns.hear(at(1), 0, &[(7, heard(2, 20, 5)), (7, heard(0, 0, 40))]);
        assert_eq!(campaigns.of(7), Some(heard(3, 30, 40)));
        assert_eq!((campaigns.of(8), campaigns.of(9)), (Some(heard(0, 0, 6)), None));
    }

    #[test]
    fn a_version_that_is_new_to_the_node_is_a_change() {
        let mut campaigns = HeardCampaigns::default();
        campaigns.hear(at(1), 10, &[(7, heard(1, 30, 9))]);
        assert_eq!(campaigns.changed_at(), None, "it was stored before");
        campaigns.hear(at(2), 10, &[(8, heard(1, 30, 10))]);
        assert_eq!(campaigns.changed_at(), Some(at(2)));
        campaigns.hear(at(3), 50, &[(7, heard(2, 31, 9)), (8, heard(1, 30, 10))]);
        assert_eq!(campaigns.changed_at(), Some(at(2)));
        campaigns.hear(at(4), 50, &[(7, heard(2, 31, 20))]);
        assert_eq!(campaigns.changed_at(), Some(at(4)));
        campaigns.lose(at(4) + LOSS_EVERY / 2);
        assert_eq!(campaigns.changed_at(), Some(at(4)), "not for every lost message");
        campaigns.lose(at(5));
        assert_eq!(campaigns.changed_at(), Some(at(5)));
    }

    #[test]
    fn only_so_many_campaigns_are_remembered() {
        let mut campaigns = HeardCampaigns::default();
        for campaign in 0..=HEARD_MAX.get() as u64 {
            campaigns.hear(at(1), 0, &[(campaign, heard(1, 2, 0))]);
        }
        assert_eq!(campaigns.campaigns.len(), HEARD_MAX.get());
        assert_eq!((campaigns.of(0), campaigns.of(1)), (None, Some(heard(1, 2, 0))));
    }
}
