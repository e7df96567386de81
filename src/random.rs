//! A random generator whose numbers follow from a seed, for simulation, tests and benches.

/// `SplitMix64`: the same seed gives the same numbers on every machine. Not for secrets.
#[derive(Debug, Clone)]
pub struct Random(pub u64);

impl Random {
    /// Returns a generator for a simulated world. Its numbers have nothing in common with those of
    /// neighbouring seeds.
    pub(crate) fn of_world(seed: u64) -> Self {
        Self(seed.wrapping_mul(0xA076_1D64_78BD_642F) ^ 0xE703_7ED1_A0B4_28DB)
    }

    /// Returns the next number.
    #[expect(clippy::should_implement_trait, reason = "an iterator over it would never end")]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Returns a number from 0 to `bound` − 1; 0 for a bound of 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    /// Returns a number from `low` to `high`, both included.
    pub(crate) fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high.saturating_sub(low) + 1)
    }

    /// Returns true once in `chance` calls on average; never for 0.
    pub fn one_in(&mut self, chance: u64) -> bool {
        chance > 0 && self.below(chance) == 0
    }

    /// Returns a number from 0 to `length` − 1; 0 for a length of 0.
    pub fn index(&mut self, length: usize) -> usize {
        self.below(length as u64) as usize
    }
}
