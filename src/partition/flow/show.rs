//! What operators are told of an owned partition.

use super::Flow;
use crate::{
    domain::ids::{CampaignId, Offset},
    partition::owned_campaign::{OwnedCampaign, Phase},
};

impl Flow {
    /// Returns the number of records that wait for a decision. What is stored above the watermark
    /// does not wait, nor what has passed under a hold.
    #[must_use]
    pub fn lag(&self) -> u64 {
        self.end.saturating_sub(self.acks.position()) + self.acks.waiting() as u64
    }

    /// Returns the state and reason of a campaign's actor for operators; `None` if it has none.
    #[must_use]
    pub fn view(&self, campaign: &CampaignId) -> Option<(&'static str, Option<String>)> {
        let owned = self.campaigns.get(campaign)?;
        Some((owned.phase().name(), owned.reason().map(str::to_owned)))
    }

    /// Returns the end of the log as last seen.
    #[must_use]
    pub fn end(&self) -> Offset {
        self.end
    }

    /// Returns the campaigns on hold: how many, and the first `max` of them by id.
    #[must_use]
    pub fn quarantined(&self, max: usize) -> (usize, Vec<CampaignId>) {
        let held = || self.holds.iter().filter(|(_, holds)| holds.is_held());
        (held().count(), held().take(max).map(|(campaign, _)| campaign.clone()).collect())
    }

    /// Returns what the watermark waits for.
    #[must_use]
    pub fn waits_for(&self) -> String {
        let offset = self.acks.watermark();
        if self.acks.is_empty() {
            return format!("the record at offset {offset} was not read");
        }
        if let Some(unmarked) = self.unmarked.get(&offset) {
            let campaign = unmarked.campaign();
            return format!("the mark of {campaign} behind its version at {offset} is not stored");
        }
        match self.first_at(offset) {
            Some((campaign, Phase::Starting)) => format!("{campaign} is being loaded"),
            Some((campaign, Phase::Opening)) => format!("the hold of {campaign} is not stored"),
            Some((campaign, _)) => {
                format!("the rows of {campaign} from offset {offset} on are not stored")
            }
            None => format!("the dead letter or the release at offset {offset} is not stored"),
        }
    }

    /// Returns the campaign whose first record that is not stored lies at `offset`.
    fn first_at(&self, offset: Offset) -> Option<(&CampaignId, &Phase)> {
        let is_first = |owned: &OwnedCampaign| owned.first_unstored() == Some(offset);
        let mut waiting = self.occupied.iter().chain(self.aside.campaigns());
        waiting.find_map(|campaign| {
            let owned = self.campaigns.get(campaign).filter(|owned| is_first(owned))?;
            Some((campaign, owned.phase()))
        })
    }
}
