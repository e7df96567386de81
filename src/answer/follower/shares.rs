//! Who has the places of waiters. Alone, one user or one partition may have all of them. A newcomer that
//! finds none free takes one of a user or a partition that has more than its share.

use std::collections::{BTreeMap, BTreeSet};

use super::{Follower, Place};
use crate::domain::ids::{Offset, Partition};

/// Places that one user of a campaign keeps while others find none: a few devices, each with a request
/// that was sent again.
pub(crate) const USER_PLACES: usize = 8;

/// What a waiter costs beside its connection: its entries in the maps of places, users and positions, and
/// its signal.
pub(crate) const WAITER_BYTES: usize = 512;

/// A user of a campaign, as a keyed hash of both.
pub(crate) type User = u64;

/// The taken places of clients.
#[derive(Debug, Default)]
pub(super) struct Shares {
    /// By partition and number, which rises with time: the user, and the position.
    places: BTreeMap<Partition, BTreeMap<u64, (User, Offset)>>,
    /// By user: number and partition of each place.
    users: BTreeMap<User, BTreeSet<(u64, Partition)>>,
    /// Users with more than [`USER_PLACES`].
    hogs: BTreeSet<User>,
    taken: usize,
}

impl Shares {
    /// Returns how many places are taken.
    pub(super) fn taken(&self) -> usize {
        self.taken
    }

    pub(super) fn take(&mut self, partition: Partition, offset: Offset, number: u64, user: User) {
        self.taken += 1;
        self.places.entry(partition).or_default().insert(number, (user, offset));
        let its = self.users.entry(user).or_default();
        its.insert((number, partition));
        if its.len() > USER_PLACES {
            self.hogs.insert(user);
        }
    }

    /// Frees a place. Does nothing for one that no client has.
    pub(super) fn free(&mut self, partition: Partition, number: u64) {
        let Some(of_partition) = self.places.get_mut(&partition) else { return };
        let Some((user, _)) = of_partition.remove(&number) else { return };
        self.taken -= 1;
        if of_partition.is_empty() {
            self.places.remove(&partition);
        }
        let Some(its) = self.users.get_mut(&user) else { return };
        its.remove(&(number, partition));
        if its.len() <= USER_PLACES {
            self.hogs.remove(&user);
        }
        if its.is_empty() {
            self.users.remove(&user);
        }
    }

    /// Returns the place that a newcomer takes when none is free: partition, offset and number. None if
    /// nobody has more than the newcomer would have.
    pub(super) fn displaced(
        &self,
        partition: Partition,
        user: User,
    ) -> Option<(Partition, Offset, u64)> {
        if self.users.get(&user).is_some_and(|its| its.len() >= USER_PLACES) {
            return None;
        }
        let place = |partition, number| {
            let (_, offset) = self.places.get(&partition)?.get(&number)?;
            Some((partition, *offset, number))
        };
        if let Some(&(number, partition)) = self.hogs.first().and_then(|it| self.users[it].first())
        {
            return place(partition, number);
        }
        let of = |partition| self.places.get(&partition).map_or(0, BTreeMap::len);
        let (&largest, its) = self.places.iter().max_by_key(|(_, its)| its.len())?;
        // Otherwise two partitions would take the same place from each other, again and again.
        if its.len() <= of(partition) + 1 {
            return None;
        }
        place(largest, *its.first_key_value()?.0)
    }
}

impl<D: Clone + PartialEq, W: Clone> Follower<D, W> {
    /// Frees a place for a newcomer that would find none, if somebody has more than a share. Returns the
    /// waiter that has lost its place.
    pub(crate) fn make_room(
        &mut self,
        partition: Partition,
        offset: Offset,
        user: User,
    ) -> Option<W> {
        if self.shares.taken() < self.limits.waiters || self.decision(partition, offset).is_some() {
            return None;
        }
        let (partition, offset, number) = self.shares.displaced(partition, user)?;
        self.remove(Place { partition, offset, number })
    }

    pub(super) fn remove(&mut self, place: Place) -> Option<W> {
        let Place { partition, offset, number } = place;
        let state = self.partitions.get_mut(partition as usize)?;
        let key = (offset, number);
        let waiter = state.waiting.remove(&key).or_else(|| state.asking.remove(&key))?;
        self.waiters -= 1;
        self.shares.free(partition, number);
        Some(waiter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes places at rising offsets for these users. Returns the next number.
    fn take(shares: &mut Shares, partition: Partition, numbers: std::ops::Range<u64>, user: User) {
        numbers.for_each(|number| shares.take(partition, 100 + number, number, user));
    }

    #[test]
    fn the_oldest_place_of_a_hog_is_taken() {
        let mut shares = Shares::default();
        take(&mut shares, 0, 1..9, 7);
        assert_eq!(shares.displaced(0, 8), None, "8 places are no hog's");
        take(&mut shares, 1, 9..10, 7);
        assert_eq!(shares.displaced(1, 8), Some((0, 101, 1)));
        assert_eq!(shares.displaced(1, 7), None, "it takes none by itself");
        shares.free(0, 1);
        assert_eq!(shares.displaced(0, 8), None);
    }

    #[test]
    fn partitions_end_with_equal_shares() {
        let mut shares = Shares::default();
        (0..6).for_each(|number| take(&mut shares, 0, number..number + 1, number));
        let mut taken = Vec::new();
        for number in 6..12 {
            let Some((partition, _, old)) = shares.displaced(1, number) else { continue };
            shares.free(partition, old);
            take(&mut shares, 1, number..number + 1, number);
            taken.push((partition, old));
        }
        assert_eq!(taken, [(0, 0), (0, 1), (0, 2)], "the oldest ones, and no more than half");
        assert_eq!(shares.displaced(0, 99), None);
        assert_eq!(shares.displaced(2, 99).map(|(_, _, number)| number), Some(6));
    }

    #[test]
    fn nothing_is_kept_of_places_that_are_free() {
        let mut shares = Shares::default();
        take(&mut shares, 3, 1..20, 7);
        (1..20).for_each(|number| shares.free(3, number));
        shares.free(3, 1);
        assert!(shares.places.is_empty() && shares.users.is_empty() && shares.hogs.is_empty());
        assert_eq!(shares.taken(), 0);
    }
}
