//! The records, rows and answers of a self-test, which damage can change.

use std::sync::Arc;

use crate::{
    domain::{
        coupon::Coupon,
        definition::DefinitionVersion,
        ids::{CampaignId, Sequence},
        keys::Keys,
        rows::Row,
    },
    log::memory::{MemoryLog, MemoryPartition},
    store::{
        Layout,
        memory::{MemoryRows, MemoryStore},
    },
    wire::codec::Codec,
};

/// Partitions of a world.
pub(super) const PARTITIONS: u32 = 3;

/// Everything that an audit reads.
#[derive(Debug, Clone)]
pub(super) struct AuditWorld {
    pub(super) keys: Arc<Keys>,
    pub(super) layout: Layout,
    pub(super) codec: Codec,
    pub(super) logs: Vec<MemoryPartition>,
    pub(super) rows: MemoryRows,
    /// Lines of the file of answers.
    pub(super) answers: Vec<serde_json::Value>,
}

impl AuditWorld {
    /// Removes the first half of each partition.
    pub(super) fn trim(&mut self) {
        for log in &mut self.logs {
            let low = log.records.keys().nth(log.records.len() / 2).copied().unwrap_or(0);
            log.records.retain(|offset, _| *offset >= low);
            log.low = low;
        }
    }

    pub(super) fn new() -> Self {
        let keys = Arc::new(Keys::derive(b"a secret of the self-test, and of nothing else"));
        let layout = Layout::new("self-test".to_owned(), PARTITIONS, keys.fingerprint().to_owned());
        Self {
            codec: Codec::new(&keys, &layout.instance, 1, PARTITIONS),
            keys,
            layout,
            logs: vec![MemoryPartition::default(); PARTITIONS as usize],
            rows: MemoryRows::default(),
            answers: Vec::new(),
        }
    }

    /// Stores a coupon in both views.
    pub(super) fn put(&mut self, coupon: Coupon) {
        Row::of_both_views(&coupon).into_iter().for_each(|row| self.rows.apply(row));
    }

    /// Removes a coupon from both views.
    pub(super) fn remove(&mut self, campaign: &CampaignId, sequence: Sequence) {
        self.rows.coupons.remove(&(campaign.clone(), sequence));
        self.rows.by_user.retain(|(of, _, _, number), _| (of, *number) != (campaign, sequence));
    }

    /// Stores a definition version, and lists its campaign.
    pub(super) fn put_version(&mut self, version: DefinitionVersion) {
        self.rows.apply(Row::Version(version));
    }

    /// Returns the log and the store that an audit of this world reads.
    pub(super) fn ports(&self) -> (Arc<MemoryLog>, Arc<MemoryStore>) {
        let rows = MemoryRows { layout: Some(self.layout.clone()), ..self.rows.clone() };
        let log = MemoryLog::finished(self.logs.clone());
        (Arc::new(log), Arc::new(rows.into()))
    }
}
