//! Which of a campaign's sequences a view has, in a bit each.

use super::model::Model;
use crate::domain::ids::Sequence;

/// Which sequences a view has, a bit each.
pub(super) struct Seen(Vec<u64>);

impl Seen {
    pub(super) fn of(model: &Model) -> Self {
        Self(vec![0; model.coupons.len().div_ceil(64)])
    }

    /// Notes a sequence of the model; true the first time.
    pub(super) fn note(&mut self, sequence: Sequence) -> bool {
        let index = sequence as usize - 1;
        let (word, bit) = (&mut self.0[index / 64], 1 << (index % 64));
        let first = *word & bit == 0;
        *word |= bit;
        first
    }

    /// Whether the sequence after `index` was noted.
    pub(super) fn has(&self, index: usize) -> bool {
        self.0[index / 64] & (1 << (index % 64)) != 0
    }
}
