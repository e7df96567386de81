//! Rejected requests, counted by reason.

use serde::{Serialize, Serializer};

use crate::domain::reason::Reason;

/// Counts rejected requests by their reason.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rejections([u64; Reason::ALL.len()]);

impl Rejections {
    /// Counts one more request that was rejected for `reason`.
    pub(super) fn add(&mut self, reason: Reason) {
        self.0[reason as usize] += 1;
    }

    /// Lists every reason with its number of requests.
    pub fn iter(&self) -> impl Iterator<Item = (Reason, u64)> {
        Reason::ALL.into_iter().zip(self.0)
    }
}

impl Serialize for Rejections {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter().map(|(reason, count)| (reason.name(), count)))
    }
}
