//! The partitions that a member of the consumer group owns, and the changes that it reports.

use std::collections::{BTreeMap, BTreeSet};

use super::Ownership;
use crate::domain::ids::{Offset, Partition};

/// The partitions of one member, with the progress that it has not committed yet.
///
/// A change is reported once: the group may repeat an assignment, and revoke partitions that the
/// member has lost before.
#[derive(Debug, Default)]
pub(crate) struct OwnedPartitions {
    owned: BTreeSet<Partition>,
    progress: BTreeMap<Partition, Offset>,
}

impl OwnedPartitions {
    /// Adds partitions that the group has assigned. Returns the changes to report, after the member
    /// has taken the partitions.
    pub(crate) fn assign(
        &mut self,
        partitions: impl IntoIterator<Item = Partition>,
    ) -> Vec<Ownership> {
        let new = partitions.into_iter().filter(|partition| self.owned.insert(*partition));
        new.map(Ownership::Assigned).collect()
    }

    /// Removes partitions that the group has revoked. Returns the changes to report, before the
    /// member gives the partitions back, so that two owners overlap little.
    pub(crate) fn revoke(
        &mut self,
        partitions: impl IntoIterator<Item = Partition>,
    ) -> Vec<Ownership> {
        let lost = partitions.into_iter().filter(|partition| {
            // A commit after the revocation could set back the offset of the new owner.
            self.progress.remove(partition);
            self.owned.remove(partition)
        });
        lost.map(Ownership::Revoked).collect()
    }

    /// Removes all partitions. A member that leaves, or that the group has given up, is told of no
    /// revocation.
    pub(crate) fn revoke_all(&mut self) -> Vec<Ownership> {
        let owned: Vec<_> = self.owned.iter().copied().collect();
        self.revoke(owned)
    }

    /// Notes the progress of a partition for the next commit, if the member owns the partition.
    pub(crate) fn note_progress(&mut self, partition: Partition, next: Offset) {
        if self.owned.contains(&partition) {
            self.progress.insert(partition, next);
        }
    }

    /// Takes the progress to commit now.
    pub(crate) fn take_progress(&mut self) -> BTreeMap<Partition, Offset> {
        std::mem::take(&mut self.progress)
    }
}

#[cfg(test)]
mod tests {
    use super::{Ownership::*, *};

    #[test]
    fn a_change_is_reported_once() {
        let mut owned = OwnedPartitions::default();
        assert_eq!(owned.assign([0, 1]), [Assigned(0), Assigned(1)]);
        assert_eq!(owned.assign([1, 2]), [Assigned(2)]);
        assert_eq!(owned.revoke([1, 7]), [Revoked(1)]);
        assert_eq!(owned.revoke([1]), []);
        assert_eq!(owned.assign([1]), [Assigned(1)]);
    }

    /// The consumer of a member in a fatal state is dropped. No callback names its partitions.
    #[test]
    fn a_member_that_is_given_up_owns_nothing() {
        let mut owned = OwnedPartitions::default();
        owned.assign([3, 1]);
        owned.note_progress(1, 10);
        assert_eq!(owned.revoke_all(), [Revoked(1), Revoked(3)]);
        assert_eq!(owned.revoke_all(), []);
        assert_eq!(owned.take_progress(), BTreeMap::new());
    }

    #[test]
    fn only_an_owner_commits() {
        let mut owned = OwnedPartitions::default();
        owned.note_progress(0, 5);
        owned.assign([0, 1]);
        owned.note_progress(0, 6);
        owned.note_progress(0, 7);
        owned.note_progress(1, 8);
        owned.revoke([1]);
        owned.note_progress(1, 9);
        assert_eq!(owned.take_progress(), BTreeMap::from([(0, 7)]));
        assert_eq!(owned.take_progress(), BTreeMap::new(), "committed once");
    }
}
