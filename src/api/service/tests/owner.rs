//! An owner of partitions, reduced to the fold. The tests decide when its rows and decisions become
//! visible.

use std::{collections::BTreeMap, sync::Arc};

use super::world::EPOCH;
use crate::{
    domain::{
        campaign::{At, Campaign},
        ids::{CampaignId, Offset, Partition},
        keys::Keys,
        rows::{Mark, Row},
    },
    partition::{
        fold::{Batch, Folder},
        recovery::{Expectations, Recovered},
    },
    wire::{
        LogRecord,
        codec::{Codec, Decoded},
        feed_message::FeedDecision,
    },
};

pub(super) struct Owner {
    codec: Codec,
    keys: Arc<Keys>,
    folders: BTreeMap<CampaignId, Folder>,
}

impl Owner {
    pub(super) fn new(codec: Codec, keys: Arc<Keys>) -> Self {
        Self { codec, keys, folders: BTreeMap::new() }
    }

    /// Decides a record. Returns its rows and its decision.
    pub(super) fn decide(
        &mut self,
        partition: Partition,
        record: &LogRecord,
    ) -> (Vec<Row>, Vec<FeedDecision>) {
        let Decoded::Record(decoded) = self.codec.decode(partition, record) else {
            panic!("the service appended a record that cannot be decoded: {record:?}")
        };
        let id = decoded.campaign().clone();
        let folder = self.folders.entry(id.clone()).or_insert_with(|| {
            let campaign = Campaign::new(id, EPOCH, partition, self.keys.clone());
            let expectations = Expectations::default();
            let recovered = Recovered { campaign, expectations, is_repair: false };
            Folder::new(recovered, self.keys.clone(), EPOCH)
        });
        let at = At { offset: record.offset, time: record.time };
        let folded = folder.fold(Batch { records: vec![(at, decoded)], passed: at.offset + 1 });
        let versions = folded.versions.into_iter().map(Row::Version);
        let rows = versions.chain(folded.coupons.into_iter().map(Row::Coupon)).collect();
        let outcomes = folded.records.into_iter().filter_map(|record| record.outcome);
        (rows, outcomes.map(|(_, decision)| decision).collect())
    }

    /// Returns the definition version of a campaign.
    pub(super) fn version(&self, campaign: &CampaignId) -> Option<Offset> {
        self.folders[campaign].campaign().version()
    }

    /// Returns the mark of every campaign, given the end of its partition.
    pub(super) fn marks(&self, end: impl Fn(Partition) -> Offset) -> Vec<Row> {
        let mark = |(id, folder): (&CampaignId, &Folder)| {
            let offset = end(self.codec.partition_of(id));
            Row::Mark(Mark { campaign: id.clone(), offset, issued: folder.campaign().issued() })
        };
        self.folders.iter().map(mark).collect()
    }
}
