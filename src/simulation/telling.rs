//! What messages of the feed said of records, and whether it is so.

use std::collections::BTreeMap;

use super::{evidence::Violation, feed::Published, node::Engines};
use crate::{
    domain::{
        decision::Decision,
        ids::{CampaignId, Offset, Sequence},
        record::Record,
    },
    wire::codec::Decoded,
};

/// A coupon that a message spoke of.
pub(super) struct Spoken {
    pub(super) campaign: CampaignId,
    pub(super) sequence: Sequence,
    /// How many rows had landed then.
    pub(super) landed: usize,
}

/// Returns the coupons that messages spoke of, and what was wrong: a decision is of its record, and a
/// campaign's highest sequence is that of its record. `offset_of` returns where a coupon was issued.
pub(super) fn spoken(
    engines: &Engines,
    published: &[Published],
    offset_of: impl Fn(&CampaignId, Sequence) -> Option<Offset>,
) -> (Vec<Spoken>, Vec<(CampaignId, Violation)>) {
    let logs = engines.brokers.lock().whole();
    let (mut records, mut coupons, mut wrong) = (BTreeMap::new(), Vec::new(), Vec::new());
    for Published { landed, message } in published {
        let partition = message.partition;
        let mut campaigns = BTreeMap::new();
        for told in &message.decisions {
            let record = records.entry((partition, told.offset)).or_insert_with(|| {
                let record = logs[partition as usize].records.get(&told.offset)?;
                match engines.codec.decode(partition, record) {
                    Decoded::Record(record) => Some(record),
                    _ => None,
                }
            });
            let Some(record) = record else { continue };
            let (campaign, user) = match record {
                Record::Request(request) => (&request.campaign, Some(&request.user)),
                Record::Control(control) => (&control.campaign, None),
            };
            let hash = engines.keys.campaign_hash(campaign);
            campaigns.insert(hash, campaign.clone());
            if told.check != engines.keys.record_check(hash, user) {
                let detail = format!("another record was told of at {}", told.offset);
                wrong.push((campaign.clone(), Violation::new("INV-3", detail)));
            }
            if let Decision::Issued(held) | Decision::AlreadyIssued(held) = told.decision {
                let (campaign, sequence) = (campaign.clone(), held.sequence);
                coupons.push(Spoken { campaign, sequence, landed: *landed });
            }
        }
        for news in &message.campaigns {
            let Some(campaign) = campaigns.get(&news.campaign) else { continue };
            if let Some((sequence, offset)) = message.highest(news)
                && offset_of(campaign, sequence) != Some(offset)
            {
                let detail = format!("{sequence} of {campaign} was told to be issued at {offset}");
                wrong.push((campaign.clone(), Violation::new("INV-6", detail)));
            }
        }
    }
    (coupons, wrong)
}
