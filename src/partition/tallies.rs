//! How many requests of each campaign an owner has decided since its generation began.

use std::num::NonZeroUsize;

use lru::LruCache;

use crate::wire::feed_message::{CampaignNews, Tally};

/// Campaigns of a partition whose sums are kept: more than a node is sized for. The sum of one that is
/// forgotten begins again, which readers notice, because sums only rise.
const TALLIES_MAX: NonZeroUsize = NonZeroUsize::new(16_384).expect("not zero");

/// The sums of a partition's campaigns, by their hashes.
#[derive(Debug)]
pub struct Tallies {
    generation: u64,
    sums: LruCache<u64, Tally>,
}

impl Default for Tallies {
    fn default() -> Self {
        // Not `new`, which makes room for all of them at once.
        Self { generation: 0, sums: LruCache::unbounded() }
    }
}

impl Tallies {
    /// Turns the tallies of a message of `generation` into sums.
    pub fn sum(&mut self, generation: u64, campaigns: &mut [CampaignNews]) {
        if self.generation != generation {
            *self = Self { generation, ..Self::default() };
        }
        for news in campaigns {
            let sum = self.sums.get_or_insert_mut(news.campaign, Tally::default);
            sum.add(&news.tally);
            news.tally = *sum;
            if self.sums.len() > TALLIES_MAX.get() {
                self.sums.pop_lru();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sums(tallies: &mut Tallies, generation: u64, campaign: u64) -> u64 {
        let mut tally = Tally::default();
        tally.0[0] = 2;
        let mut news = [CampaignNews { campaign, tally, highest: None, version: None }];
        tallies.sum(generation, &mut news);
        news[0].tally.0[0]
    }

    #[test]
    fn sums_begin_with_their_generation() {
        let mut tallies = Tallies::default();
        let told = [(1, 7), (1, 7), (1, 8), (2, 7), (2, 7)];
        assert_eq!(told.map(|(of, campaign)| sums(&mut tallies, of, campaign)), [2, 4, 2, 2, 4]);
    }

    #[test]
    fn the_campaign_told_longest_ago_is_forgotten() {
        let mut tallies = Tallies::default();
        let many = TALLIES_MAX.get() as u64;
        for campaign in 0..=many {
            assert_eq!(sums(&mut tallies, 1, campaign), 2);
        }
        assert_eq!(tallies.sums.len(), TALLIES_MAX.get());
        assert_eq!([sums(&mut tallies, 1, many), sums(&mut tallies, 1, 0)], [4, 2]);
    }
}
