//! The generations that a node has heard of over the feed.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::domain::ids::Partition;

/// The highest generation of each partition that was heard. The follower of the API service raises
/// it, and the partition's owner on this node begins above it.
#[derive(Debug)]
pub struct HeardGenerations(Vec<AtomicU64>);

impl HeardGenerations {
    /// Begins with nothing heard of `partitions` partitions.
    #[must_use]
    pub fn new(partitions: u32) -> Self {
        Self((0..partitions).map(|_| AtomicU64::new(0)).collect())
    }

    /// Notes a generation that was heard.
    pub fn hear(&self, partition: Partition, generation: u64) {
        if let Some(highest) = self.0.get(partition as usize) {
            highest.fetch_max(generation, Ordering::Relaxed);
        }
    }

    /// Returns the highest generation that was heard, or 0.
    #[must_use]
    pub fn highest(&self, partition: Partition) -> u64 {
        self.0.get(partition as usize).map_or(0, |highest| highest.load(Ordering::Relaxed))
    }
}
