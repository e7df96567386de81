//! A map of bounded size that keeps what is used: when it is full, the oldest entry that was not
//! used since it was last looked at goes (second chance).

use std::collections::{BTreeMap, VecDeque};

#[derive(Debug)]
struct Entry<V> {
    value: V,
    used: bool,
}

/// At most `capacity` values by key.
#[derive(Debug)]
pub struct Recent<K, V> {
    capacity: usize,
    entries: BTreeMap<K, Entry<V>>,
    order: VecDeque<K>,
}

impl<K: Ord + Clone, V> Recent<K, V> {
    /// An empty map of at most `capacity` entries, at least one.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        let capacity = capacity.max(1);
        Self { capacity, entries: BTreeMap::new(), order: VecDeque::new() }
    }

    /// The value of `key`, which counts as a use.
    pub fn get(&mut self, key: &K) -> Option<&mut V> {
        let entry = self.entries.get_mut(key)?;
        entry.used = true;
        Some(&mut entry.value)
    }

    /// Keeps `value` under `key`; a full map forgets another one.
    pub fn insert(&mut self, key: K, value: V) {
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.value = value;
            return;
        }
        while self.entries.len() >= self.capacity {
            self.forget_one();
        }
        self.order.push_back(key.clone());
        self.entries.insert(key, Entry { value, used: false });
    }

    /// Entries kept.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nothing is kept.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn forget_one(&mut self) {
        while let Some(key) = self.order.pop_front() {
            match self.entries.get_mut(&key) {
                Some(entry) if entry.used => {
                    entry.used = false;
                    self.order.push_back(key);
                }
                _ => {
                    self.entries.remove(&key);
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_map_forgets_the_oldest_that_was_not_used() {
        let mut recent = Recent::new(3);
        for key in 1..=3 {
            recent.insert(key, key * 10);
        }
        assert_eq!(recent.get(&1), Some(&mut 10));
        recent.insert(4, 40);
        assert_eq!((recent.get(&1).copied(), recent.len()), (Some(10), 3));
        assert_eq!(recent.get(&2), None);
    }

    #[test]
    fn a_map_in_which_everything_is_used_still_keeps_its_bound() {
        let mut recent = Recent::new(4);
        for key in 0..1_000 {
            recent.insert(key, ());
            for used in 0..=key {
                recent.get(&used);
            }
            assert!(recent.len() <= 4 && recent.order.len() == recent.entries.len());
        }
    }

    #[test]
    fn a_key_inserted_again_takes_the_new_value_and_no_second_place() {
        let mut recent = Recent::new(2);
        recent.insert("a", 1);
        recent.insert("a", 2);
        recent.insert("b", 3);
        assert_eq!((recent.get(&"a").copied(), recent.len()), (Some(2), 2));
    }
}
