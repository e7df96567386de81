//! Rate limit per user and campaign: one bucket per key, in a table of fixed size.
//!
//! The generic cell rate algorithm (GCRA, ITU-T I.371): the state of a key is the moment at which
//! its bucket is full again. A key with a full bucket needs no slot. When a set of slots is
//! crowded, the key with the fullest bucket is evicted, so a flood of users makes the limit less
//! strict for some of them and never costs more memory.

use std::time::Duration;

use super::Moment;

/// Slots of a set. A lookup reads all of them, which is two cache lines.
const WAYS: usize = 8;

/// Sets of one table: with [`WAYS`] slots each, 8,192 keys in 128 KiB. Sixteen tables hold 131,072
/// users with buckets that are not full; at 100 requests a second each, more than a node serves.
const SETS: usize = 1_024;

/// Bytes of a table.
pub(crate) const TABLE_BYTES: usize = SETS * WAYS * size_of::<Slot>();

#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    key: u64,
    full_at: Moment,
}

/// A rate limit over many keys.
#[derive(Debug)]
pub(crate) struct RateTable {
    interval: Duration,
    burst: Duration,
    slots: Vec<Slot>,
}

impl RateTable {
    /// Returns a limit of `rate` requests a second with bursts of `burst`, both at least 1.
    #[must_use]
    pub(crate) fn new(rate: u32, burst: u32) -> Self {
        let interval = Duration::from_secs(1) / rate.max(1);
        Self { interval, burst: interval * burst.max(1), slots: Vec::new() }
    }

    /// Counts one request of `key` at `now`. Keys must be hashes.
    ///
    /// # Errors
    /// The time to wait, if the key is over its limit. The request is then not counted.
    pub(crate) fn take(&mut self, now: Moment, key: u64) -> Result<(), Duration> {
        let (interval, burst) = (self.interval, self.burst);
        let slot = self.slot(now, key);
        let full_at = slot.full_at + interval;
        let wait = full_at.saturating_sub(now).saturating_sub(burst);
        if !wait.is_zero() {
            return Err(wait);
        }
        *slot = Slot { key, full_at };
        Ok(())
    }

    /// Counts `more` requests of `key` that were not asked for: the one that was counted cost more than
    /// others. The bucket may be in debt then, and later requests wait.
    pub(crate) fn charge(&mut self, now: Moment, key: u64, more: u32) {
        let cost = self.interval * more;
        let slot = self.slot(now, key);
        let full_at = slot.full_at + cost;
        *slot = Slot { key, full_at };
    }

    /// Returns the slot for a key, with the moment at which its bucket is full: now at the earliest.
    fn slot(&mut self, now: Moment, key: u64) -> &mut Slot {
        if self.slots.is_empty() {
            self.slots = vec![Slot::default(); SETS * WAYS];
        }
        let from = (key % SETS as u64) as usize * WAYS;
        let set = &mut self.slots[from..from + WAYS];
        let at = set.iter().position(|slot| slot.key == key).unwrap_or_else(|| fullest(set));
        let slot = &mut set[at];
        let full_at = if slot.key == key { slot.full_at.max(now) } else { now };
        *slot = Slot { key, full_at };
        slot
    }
}

/// Returns the slot with the fullest bucket: forgetting it gives its key the least.
fn fullest(set: &[Slot]) -> usize {
    let by_moment = |(_, slot): &(usize, &Slot)| slot.full_at;
    set.iter().enumerate().min_by_key(by_moment).map_or(0, |(index, _)| index)
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Moment = Duration::from_secs(100);

    #[test]
    fn a_burst_passes_then_one_per_interval() {
        let mut table = RateTable::new(10, 3);
        for _ in 0..3 {
            assert_eq!(table.take(START, 7), Ok(()));
        }
        let interval = Duration::from_millis(100);
        assert_eq!(table.take(START, 7), Err(interval));
        assert_eq!(table.take(START + interval / 2, 7), Err(interval / 2));
        assert_eq!(table.take(START + interval, 7), Ok(()));
        assert_eq!(table.take(START + interval, 7), Err(interval));
    }

    #[test]
    fn a_charge_is_waited_for() {
        let mut table = RateTable::new(10, 2);
        assert_eq!(table.take(START, 7), Ok(()));
        table.charge(START, 7, 9);
        assert_eq!(table.take(START, 7), Err(Duration::from_millis(900)), "nine too many");
        assert_eq!(table.take(START + Duration::from_millis(900), 7), Ok(()));
        assert_eq!(table.take(START, 8), Ok(()), "others pay nothing");
    }

    #[test]
    fn an_idle_key_has_its_burst_again_and_no_more() {
        let mut table = RateTable::new(10, 3);
        for _ in 0..3 {
            assert_eq!(table.take(START, 7), Ok(()));
        }
        let later = START + Duration::from_secs(3_600);
        for _ in 0..3 {
            assert_eq!(table.take(later, 7), Ok(()));
        }
        assert!(table.take(later, 7).is_err());
    }

    #[test]
    fn keys_of_one_set_do_not_share_a_bucket() {
        let mut table = RateTable::new(1, 1);
        for way in 0..WAYS as u64 {
            assert_eq!(table.take(START, way * SETS as u64 + 5), Ok(()));
        }
        for way in 0..WAYS as u64 {
            assert!(table.take(START, way * SETS as u64 + 5).is_err(), "way {way}");
        }
    }

    #[test]
    fn a_crowded_set_forgets_the_fullest_bucket() {
        let mut table = RateTable::new(1, 2);
        let key = |way: u64| way * SETS as u64 + 5;
        for way in 0..WAYS as u64 {
            assert_eq!(table.take(START, key(way)), Ok(()));
            if way != 3 {
                assert_eq!(table.take(START, key(way)), Ok(()));
            }
        }
        assert_eq!(table.take(START, key(100)), Ok(()), "takes the place of key 3");
        assert!(table.take(START, key(4)).is_err(), "the others are still remembered");
        for other in 0..100_000 {
            assert!(table.take(START, other * 31 + 1_000_000).is_ok());
        }
        assert_eq!(table.slots.len(), SETS * WAYS);
    }
}
