//! A bit set of a campaign's sequences.

use super::model::Model;
use crate::domain::ids::Sequence;

/// The sequences found in a view, one bit each.
pub(super) struct Seen(Vec<u64>);

impl Seen {
    pub(super) fn of(model: &Model) -> Self {
        Self(vec![0; model.coupons.len().div_ceil(64)])
    }

    /// Adds a sequence of the model; returns true the first time.
    pub(super) fn note(&mut self, sequence: Sequence) -> bool {
        let index = sequence as usize - 1;
        let (word, bit) = (&mut self.0[index / 64], 1 << (index % 64));
        let first = *word & bit == 0;
        *word |= bit;
        first
    }

    /// Returns whether the sequence `index + 1` was added.
    pub(super) fn has(&self, index: usize) -> bool {
        self.0[index / 64] & (1 << (index % 64)) != 0
    }
}
